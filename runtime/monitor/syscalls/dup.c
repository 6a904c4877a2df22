/* Calls on descriptor numbers: closing, copying, replacing. The table itself is fd.c's. */
#include "../linux_abi.h"
#include "../fd_table.h"
#include "handlers.h"

long h_close(struct thread *t, struct call *c)
{
	(void)c;
	return fd_close(t, (int)marshal_of(t)->arg[0]);
}

/* dup2 and dup3 onto `to`. Natively EBUSY is what a race with an open() in another thread gives; here it is also what
 * stands between the guest and a number that is in use but not published. Monitor numbers are refused as if they lay above
 * the limit. */
long fd_dup_onto(struct thread *t, int from, int to, u32 flags)
{
	struct proc *p = t->proc;
	if (!fd_may_have(p, to))
		return -EBADF;
	lock_acquire(fd_lock(p));
	enum fd_class class = fd_class_of(p, from); /* closing and replacing take the lock as well */
	u8 there = fd_class_raw(p, to);
	long r;
	if (there == MONITOR || class == FD_NONE)
		r = -EBADF;
	else if (there == FD_NONE && host_call(__NR_fcntl, to, F_GETFD) >= 0)
		r = -EBUSY;
	else
		r = host_call(__NR_dup3, from, to, flags);
	if (r >= 0)
		fd_mark(p, to, (u8)class);
	lock_release(fd_lock(p));
	return r;
}

/* A copy of `fd` by this fcntl command. Under the lock, which closing and replacing take as well: its class is the original's. */
static long copy(struct thread *t, int fd, u32 cmd, u64 least)
{
	struct proc *p = t->proc;
	lock_acquire(fd_lock(p));
	enum fd_class class = fd_class_of(p, fd);
	long r = class == FD_NONE ? -EBADF : host_call(__NR_fcntl, fd, cmd, least);
	if (r >= 0 && !fd_may_have(p, (int)r)) {
		host_call(__NR_close, r);
		r = -EMFILE;
	}
	if (r >= 0)
		fd_mark(p, (int)r, (u8)class);
	lock_release(fd_lock(p));
	return r;
}

long h_dup(struct thread *t, struct call *c)
{
	(void)c;
	return copy(t, (int)marshal_of(t)->arg[0], F_DUPFD, 0);
}

long h_dup2(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	if ((int)a[0] == (int)a[1])
		return (int)a[1];
	return fd_dup_onto(t, (int)a[0], (int)a[1], 0);
}

long h_dup3(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	if (a[2] & ~(u64)O_CLOEXEC || (int)a[0] == (int)a[1])
		return -EINVAL;
	return fd_dup_onto(t, (int)a[0], (int)a[1], (u32)a[2]);
}

#define CLOSE_RANGE_UNSHARE 2u
#define CLOSE_RANGE_CLOEXEC 4u

/* Only published numbers. UNSHARE parts from other processes only, not from threads of this one. */
long h_close_range(struct thread *t, struct call *c)
{
	struct proc *p = t->proc;
	const u64 *a = marshal_of(t)->arg;
	u32 first = (u32)a[0], last = (u32)a[1], flags = (u32)a[2];
	if (first > last || flags & ~(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC))
		return -EINVAL;
	if (flags & CLOSE_RANGE_UNSHARE) {
		if (!c->may_block) /* the table is the host thread's */
			return CALL_TO_TRAP;
		long r = fd_unshare(t);
		if (r)
			return r;
	}
	lock_acquire(fd_lock(p));
	for (u32 fd = first; fd <= last && fd < fd_tail(p)->high; fd++) {
		if (!fd_published(p, (int)fd))
			continue;
		if (flags & CLOSE_RANGE_CLOEXEC)
			host_call(__NR_fcntl, fd, F_SETFD, FD_CLOEXEC);
		else
			fd_close_locked(p, (int)fd);
	}
	lock_release(fd_lock(p));
	return 0;
}

/* F_DUPFD and F_DUPFD_CLOEXEC; the rest of fcntl is in fs.c. */
long fd_dup_from(struct thread *t, int fd, u32 cmd, u64 least)
{
	least = (u32)least;
	return least >= t->proc->nofile[0] ? -EINVAL : copy(t, fd, cmd, least);
}
