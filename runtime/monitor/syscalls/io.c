/* Reading and writing. Regular files go straight through on the ring; pipes, sockets and devices are tried there with
 * RWF_NOWAIT and go to the thread when they would wait (or raise SIGPIPE, which belongs to the thread).
 *
 * Writes that could be cut short by "no waiting" are not tried: a blocking write() promises all bytes, and only up to
 * PIPE_BUF bytes a pipe takes all or nothing. */
#include "../linux_abi.h"
#include "handlers.h"

#define RWF_NOWAIT 8
#define PIPE_BUF 4096

/* A device without an end looks for signals after each page, and then gives what it has. A longer read can take so long that the thread interrupts
 * the server (ring_kick): it would be cut short without a signal of the program's. */
#define ENDLESS_MAX 4096

static bool plain(struct thread *t, int fd, u64 size)
{
	enum fd_class k = fd_class_of(t->proc, fd);
	if (unlikely(k == FD_DEVICE))
		return size <= ENDLESS_MAX;
	return k == FD_FILE || k == FD_DIR || k == FD_PROC || k == FD_PROC_DIR || k == FD_MADE_NEW || k == FD_MADE;
}

/* Who reads a made file of procfs from its beginning again gets what is true now, as of the kernel's. `offset`: -1 for the file's own. */
static long renew(struct thread *t, int fd, i64 offset)
{
	enum fd_class k = fd_class_of(t->proc, fd);
	if (likely(k < FD_MADE_NEW) || (offset < 0 ? host_call(__NR_lseek, fd, 0, 1 /* SEEK_CUR */) : offset) != 0)
		return 0;
	if (k == FD_MADE)
		return procfs_renew(t, fd);
	fd_made_is_old(t->proc, fd);
	return 0;
}

static bool tryable(struct thread *t, int fd)
{
	enum fd_class k = fd_class_of(t->proc, fd);
	return k == FD_PIPE || k == FD_SOCKET || k == FD_EVENT;
}

bool fd_nonblocking(int fd)
{
	long fl = host_call(__NR_fcntl, fd, F_GETFL);
	return fl >= 0 && (u64)fl & O_NONBLOCK;
}

/* What the ring does with an answer of a call that must not wait. */
static long after_try(int fd, long r)
{
	if (r == -EAGAIN)
		return fd_nonblocking(fd) ? -EAGAIN : CALL_TO_TRAP;
	if (r == -EPIPE || r == -EOPNOTSUPP || r == -EINTR || r <= -ERESTARTSYS)
		return CALL_TO_TRAP;
	return r;
}

static long try_vector(struct thread *t, int fd, const void *iov, u64 n, bool out)
{
	if (!tryable(t, fd))
		return CALL_TO_TRAP;
	return after_try(fd, host_call(out ? __NR_pwritev2 : __NR_preadv2, fd, iov, n, -1l, 0, RWF_NOWAIT));
}

u64 iovec_total(const struct iovec_k *v, u32 n)
{
	u64 sum = 0;
	for (u32 i = 0; i < n; i++)
		sum += v[i].len;
	return sum;
}

long h_read(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	int fd = (int)a[0];
	if (plain(t, fd, a[2])) {
		long r = renew(t, fd, -1);
		return r ? r : call_host(t, c, __NR_read, a[0], a[1], a[2], 0, 0, 0);
	}
	if (c->may_block)
		return blocking_call(t, __NR_read, a[0], a[1], a[2], 0, 0, 0);
	struct iovec_k v = {a[1], a[2]};
	return try_vector(t, fd, &v, 1, false);
}

long h_write(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	int fd = (int)a[0];
	if (plain(t, fd, a[2]))
		return call_host(t, c, __NR_write, a[0], a[1], a[2], 0, 0, 0);
	if (c->may_block)
		return blocking_call(t, __NR_write, a[0], a[1], a[2], 0, 0, 0);
	struct iovec_k v = {a[1], a[2]};
	return a[2] <= PIPE_BUF ? try_vector(t, fd, &v, 1, true) : CALL_TO_TRAP;
}

static long positioned(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	if (!c->may_block && !plain(t, (int)a[0], ~0ul)) /* a device has no positions */
		return CALL_TO_TRAP;
	long r = renew(t, (int)a[0], (i64)a[3]);
	return r ? r : call_host(t, c, c->nr, a[0], a[1], a[2], a[3], a[4], a[5]);
}

long h_pread(struct thread *t, struct call *c)
{
	return positioned(t, c);
}

long h_pwrite(struct thread *t, struct call *c)
{
	return positioned(t, c);
}

long h_preadv(struct thread *t, struct call *c)
{
	return positioned(t, c);
}

long h_pwritev(struct thread *t, struct call *c)
{
	return positioned(t, c);
}

long h_preadv2(struct thread *t, struct call *c)
{
	return positioned(t, c);
}

long h_pwritev2(struct thread *t, struct call *c)
{
	return positioned(t, c);
}

static long vectored(struct thread *t, struct call *c, bool out)
{
	const u64 *a = marshal_of(t)->arg;
	int fd = (int)a[0];
	if (plain(t, fd, iovec_total((const struct iovec_k *)a[1], a[2]))) {
		long r = renew(t, fd, -1);
		return r ? r : call_host(t, c, c->nr, a[0], a[1], a[2], 0, 0, 0);
	}
	if (c->may_block)
		return blocking_call(t, c->nr, a[0], a[1], a[2], 0, 0, 0);
	if (out && iovec_total((const struct iovec_k *)a[1], a[2]) > PIPE_BUF)
		return CALL_TO_TRAP;
	return try_vector(t, fd, (const void *)a[1], a[2], out);
}

long h_readv(struct thread *t, struct call *c)
{
	return vectored(t, c, false);
}

long h_writev(struct thread *t, struct call *c)
{
	return vectored(t, c, true);
}

/* The kernel waits only for the pool's first fill after boot and for GRND_RANDOM on old kernels: not on the ring. */
#define GRND_NONBLOCK 1
long h_getrandom(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	if (c->may_block)
		return blocking_call(t, __NR_getrandom, a[0], a[1], a[2], 0, 0, 0);
	if (a[1] > ENDLESS_MAX)
		return CALL_TO_TRAP;
	long r = host_call(__NR_getrandom, a[0], a[1], a[2] | GRND_NONBLOCK);
	return r == -EAGAIN && !(a[2] & GRND_NONBLOCK) ? CALL_TO_TRAP : r;
}
