/* Inside of the table of published descriptors, for fd.c and the calls on numbers (syscalls/dup.c). fd.c says how it works. */
#ifndef PSB_FD_TABLE_H
#define PSB_FD_TABLE_H

#include "monitor.h"

#define ZOMBIE 254u  /* class: closed by the guest, kept as placeholder while held */
#define MONITOR 255u /* class: a descriptor of the monitor */

/* Numbers the guest can have; above, opening says EMFILE. One allocation holds the classes and what follows. A number is used at most some
 * hundred times by each of the threads that share a table: no counter overflows. */
#define FD_COUNT (u32)FD_NUMBERS
struct fdtab_tail {
	_Atomic u32 use[FD_COUNT];
	u32 high; /* no number at or above it was ever marked */
	u32 top;  /* the same of the guest's */
	u32 full; /* see fd_full() */
	u32 stray; /* see fd_sweep_stray(): the number + 1, 0: none */
	struct lock lock;
	_Atomic u32 sharers; /* processes that have this table: CLONE_FILES */
};
#define TAB_BYTES (2ul * FD_MAX)
_Static_assert(FD_COUNT + sizeof(struct fdtab_tail) <= TAB_BYTES, "descriptor table");

static inline struct fdtab_tail *fd_tail(struct proc *p)
{
	return (struct fdtab_tail *)(p->fds.class_of + FD_COUNT);
}

static inline _Atomic u8 *fd_class_ref(struct proc *p, int fd)
{
	return (_Atomic u8 *)&p->fds.class_of[fd];
}

static inline bool fd_in_table(int fd)
{
	return (u32)fd < FD_COUNT;
}

/* May a new descriptor have this number? */
static inline bool fd_may_have(const struct proc *p, int fd)
{
	return fd_in_table(fd) && (u64)fd < p->nofile[0];
}

static inline u8 fd_class_raw(struct proc *p, int fd)
{
	return fd_in_table(fd) ? atomic_load(fd_class_ref(p, fd)) : FD_NONE;
}

/* Lock held, or nobody else can be here. */
void fd_mark(struct proc *p, int fd, u8 class);
/* Closes a published number; the lock is held. */
long fd_close_locked(struct proc *p, int fd);
/* Closes the placeholder that a signal handler was the last to hold; the lock is held. */
void fd_sweep_stray(struct proc *p);

#endif
