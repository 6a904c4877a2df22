/* Descriptors kept in flight (see struct psb_vault): looked at when needed, closed after use. */
#ifndef PSB_VAULT_H
#define PSB_VAULT_H

#include "monitor.h"

struct vault {
	int fd[PSB_VAULT_MAX]; /* by PSB_FD_*, -1: not there */
};

/* Receives duplicates of all the vault's descriptors (close-on-exec). 0 or -errno. */
long vault_open(int vault_fd, struct vault *v);
/* Closes those whose role bit is not in keep. */
void vault_close(struct vault *v, u32 keep);

#endif
