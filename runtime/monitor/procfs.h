/* procfs.c judges what was opened; procfs_made.c makes what the program gets instead. */
#ifndef PSB_PROCFS_H
#define PSB_PROCFS_H

#include "monitor.h"

/* Writes the text of the opened file `fd` into buf; its length (above `cap`: needed, nothing is valid) or -errno. */
typedef long (*procfs_maker)(struct thread *t, int fd, char *buf, u64 cap);
long make_maps(struct thread *t, int fd, char *buf, u64 cap);
long make_auxv(struct thread *t, int fd, char *buf, u64 cap);
long make_stat(struct thread *t, int fd, char *buf, u64 cap);
long make_smaps(struct thread *t, int fd, char *buf, u64 cap);
long make_smaps_rollup(struct thread *t, int fd, char *buf, u64 cap);
long make_status(struct thread *t, int fd, char *buf, u64 cap);
long make_limits(struct thread *t, int fd, char *buf, u64 cap);

/* A read-only file with that text under the number `fd`, or -errno. */
long procfs_made_file(struct thread *t, int fd, const char *name, procfs_maker make);

#endif
