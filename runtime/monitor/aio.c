/* Linux' native AIO (io_setup and its kin; libaio). Requests are made by the thread that submits them, before io_submit() returns: as the
 * kernel does with everything but direct I/O. So no pointer of the guest is in flight when it unmaps something, nothing outlives a
 * descriptor, and io_cancel() finds nothing. What completes waits in the monitor's memory until io_getevents().
 *
 * A context's number is the address of a page in guest memory, because libaio looks for a ring there: it finds zeros, no ring, and makes
 * the system call. What the guest writes there means nothing. Contexts belong to the address space, as in the kernel. */
#include "linux_abi.h"
#include "mm.h"
#include "proc.h"
#include "signal.h"
#include "syscalls/handlers.h"
#include "syscalls/row.h"

#define CONTEXTS 128u
#define EVENTS_MAX 65536u /* of all contexts: fs.aio-max-nr */
#define FUTEX_WAKE_PRIVATE 129

enum { IOCB_PREAD, IOCB_PWRITE, IOCB_FSYNC, IOCB_FDSYNC, IOCB_NOOP = 6, IOCB_PREADV, IOCB_PWRITEV };
#define IOCB_FLAG_RESFD 1u

struct iocb_k {
	u64 data;
	u32 key, rw_flags;
	u16 opcode;
	u16 reqprio;
	i32 fd;
	u64 buf, nbytes;
	i64 offset;
	u64 reserved;
	u32 flags, resfd;
};
_Static_assert(sizeof(struct iocb_k) == 64, "struct iocb");

struct io_event_k {
	u64 data, obj;
	i64 res, res2;
};

struct context {
	u64 id;               /* 0: free */
	u32 room, count, first; /* events: capacity, waiting, the oldest one */
	u32 begun;            /* requests being made */
	u32 life;             /* counts users of this entry */
	_Atomic u32 turn;     /* futex: counts completions, and the end */
	struct io_event_k *event;
};

static struct context contexts[CONTEXTS];
static struct lock lock;
static u32 total;

/* Lock held; NULL: no such context. */
static struct context *find(u64 id)
{
	for (u32 i = 0; id && i < CONTEXTS; i++)
		if (contexts[i].id == id)
			return &contexts[i];
	return NULL;
}

static void forget(struct context *x)
{
	host_free(x->event, x->room * sizeof *x->event);
	total -= x->room;
	x->id = 0;
	x->event = NULL;
	x->life++;
	atomic_fetch_add(&x->turn, 1);
}

void aio_forked(void)
{
	lock = (struct lock){0};
	for (u32 i = 0; i < CONTEXTS; i++)
		if (contexts[i].id)
			forget(&contexts[i]);
}

/* --- contexts ----------------------------------------------------------------------------------------------------------- */

static long make_context(struct thread *t, u32 room, u64 *id)
{
	struct io_event_k *event = host_alloc(room * sizeof *event);
	if (!event)
		return -ENOMEM;
	long page = mm_map(t->proc->mm, 0, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (IS_ERR(page)) {
		host_free(event, room * sizeof *event);
		return page;
	}
	lock_acquire(&lock);
	for (u32 i = 0; i < CONTEXTS; i++) {
		struct context *x = &contexts[i];
		if (x->id || total + room > EVENTS_MAX)
			continue;
		total += room;
		x->room = room;
		x->count = x->first = x->begun = 0;
		x->event = event;
		x->id = *id = (u64)page;
		lock_release(&lock);
		return 0;
	}
	lock_release(&lock);
	mm_unmap(t->proc->mm, (u64)page, PAGE);
	host_free(event, room * sizeof *event);
	return -EAGAIN;
}

static long end_context(struct thread *t, u64 id)
{
	lock_acquire(&lock);
	struct context *x = find(id);
	if (x)
		forget(x);
	lock_release(&lock);
	if (!x)
		return -EINVAL;
	host_call(__NR_futex, &x->turn, FUTEX_WAKE_PRIVATE, 0x7fffffff, 0, 0, 0);
	mm_unmap(t->proc->mm, id, PAGE);
	return 0;
}

long h_io_setup(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	u64 id;
	if (copy_from_guest(&id, gptr_of(a[1]), sizeof id))
		return -EFAULT;
	if (id || !a[0])
		return -EINVAL;
	if (a[0] > 0x10000000)
		return -EINVAL;
	if (a[0] > EVENTS_MAX)
		return -EAGAIN;
	long r = make_context(t, a[0] < 32 ? 64 : (u32)a[0] < EVENTS_MAX / 2 ? (u32)a[0] * 2 : (u32)a[0], &id);
	if (!r && copy_to_guest(gptr_of(a[1]), &id, sizeof id)) {
		end_context(t, id);
		r = -EFAULT;
	}
	return r;
}

long h_io_destroy(struct thread *t, struct call *c)
{
	(void)c;
	return end_context(t, marshal_of(t)->arg[0]);
}

/* --- requests --------------------------------------------------------------------------------------------------------------- */

/* Reads or writes; an error of the request itself goes to *refused instead: io_submit()'s own result. */
static long transfer(struct thread *t, const struct iocb_k *q, long *refused)
{
	bool out = q->opcode == IOCB_PWRITE || q->opcode == IOCB_PWRITEV, vector = q->opcode >= IOCB_PREADV;
	enum fd_class k = fd_class_of(t->proc, q->fd);
	bool place = k == FD_FILE || k == FD_DEVICE || k == FD_PROC || k >= FD_MADE_NEW;
	struct iovec_k one = {q->buf, q->nbytes < MAX_RW ? q->nbytes : MAX_RW}, *v = &one;
	long flags = host_call(__NR_fcntl, q->fd, F_GETFL);
	if (flags < 0 || (u32)flags & O_PATH || ((u32)flags & O_ACCMODE) == (out ? 0 : O_WRONLY))
		return *refused = -EBADF;
	if (q->offset < 0 || k == FD_DIR || k == FD_PROC_DIR)
		return *refused = -EINVAL;
	if (vector && !(v = marshal_iovec(t, q->buf, q->nbytes, refused)) && *refused)
		return *refused;
	if (!vector && !guest_ok(q->buf, q->nbytes))
		return *refused = -EFAULT;
	long r = blocking_call(t, out ? __NR_pwritev2 : __NR_preadv2, (u64)q->fd, (u64)v, vector ? q->nbytes : 1, place ? (u64)q->offset : (u64)-1l, 0,
			       q->rw_flags);
	if (r == -EBADF || r == -EOPNOTSUPP)
		*refused = r;
	return r <= -ERESTARTSYS ? -EINTR : r;
}

static long perform(struct thread *t, const struct iocb_k *q, long *refused)
{
	switch (q->opcode) {
	case IOCB_PREAD:
	case IOCB_PWRITE:
	case IOCB_PREADV:
	case IOCB_PWRITEV:
		return transfer(t, q, refused);
	case IOCB_FSYNC:
	case IOCB_FDSYNC:
		if (q->buf || q->offset || q->nbytes || q->rw_flags)
			return *refused = -EINVAL;
		return blocking_call(t, q->opcode == IOCB_FSYNC ? __NR_fsync : __NR_fdatasync, (u64)q->fd, 0, 0, 0, 0, 0);
	default: /* polls last, and nothing here does */
		return *refused = -EINVAL;
	}
}

static bool reserve(u64 id, struct context **x, u32 *life, long *why)
{
	lock_acquire(&lock);
	*x = find(id);
	*why = !*x ? -EINVAL : (*x)->count + (*x)->begun >= (*x)->room ? -EAGAIN : 0;
	if (!*why) {
		(*x)->begun++;
		*life = (*x)->life;
	}
	lock_release(&lock);
	return !*why;
}

static void complete(struct context *x, u32 life, const struct io_event_k *e)
{
	lock_acquire(&lock);
	bool there = x->life == life; /* else it was destroyed meanwhile */
	if (there) {
		x->begun--;
		if (e)
			x->event[(x->first + x->count++) % x->room] = *e;
		atomic_fetch_add(&x->turn, 1);
	}
	lock_release(&lock);
	if (there && e)
		host_call(__NR_futex, &x->turn, FUTEX_WAKE_PRIVATE, 0x7fffffff, 0, 0, 0);
}

/* One request: the copy `q` is what counts from here on. */
static long submit(struct thread *t, u64 id, u64 at)
{
	struct iocb_k q;
	struct context *x;
	u32 life = 0, key = 0;
	long refused = 0;
	if (copy_from_guest(&q, gptr_of(at), sizeof q))
		return -EFAULT;
	if (q.reserved || (i64)q.nbytes < 0)
		return -EINVAL;
	if (!reserve(id, &x, &life, &refused))
		return refused;
	bool event = q.flags & IOCB_FLAG_RESFD, resfd = event && fd_hold(t->proc, (int)q.resfd), fd = fd_hold(t->proc, q.fd);
	struct io_event_k e = {.data = q.data, .obj = at};
	if (!fd)
		refused = -EBADF;
	else if (event && !resfd)
		refused = -EBADF;
	else if (event && fd_class_of(t->proc, (int)q.resfd) != FD_EVENT)
		refused = -EINVAL;
	else if (copy_to_guest(gptr_of(at + 8), &key, sizeof key))
		refused = -EFAULT;
	else
		e.res = perform(t, &q, &refused);
	complete(x, life, refused ? NULL : &e);
	if (resfd && !refused) {
		u64 one = 1;
		blocking_call(t, __NR_write, q.resfd, (u64)&one, sizeof one, 0, 0, 0);
	}
	if (fd)
		fd_drop(t->proc, q.fd);
	if (resfd)
		fd_drop(t->proc, (int)q.resfd);
	return refused;
}

long h_io_submit(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	i64 n = (i64)a[1];
	lock_acquire(&lock);
	struct context *x = find(a[0]);
	u32 room = x ? x->room : 0;
	lock_release(&lock);
	if (n < 0 || !x)
		return -EINVAL;
	long r = 0;
	i64 done = 0;
	u32 used = marshal_of(t)->used, nbig = marshal_of(t)->nbig;
	for (; !r && done < n && done < room; done += !r) {
		u64 at;
		r = copy_from_guest(&at, gptr_of(a[2] + (u64)done * 8), sizeof at);
		if (!r)
			r = submit(t, a[0], at);
		marshal_free(marshal_of(t), used, nbig); /* vectors of one request are not needed for the next */
	}
	return done ? done : r;
}

/* Nothing is ever in flight. */
long h_io_cancel(struct thread *t, struct call *c)
{
	(void)c;
	u32 key;
	return copy_from_guest(&key, gptr_of(marshal_of(t)->arg[1] + 8), sizeof key) ? -EFAULT : -EINVAL;
}

/* --- events ------------------------------------------------------------------------------------------------------------------ */

/* Up to `most` events into guest memory: how many, or -errno. *turn: what to wait on for more. */
static long take(u64 id, u64 where, u32 most, u32 *turn)
{
	lock_acquire(&lock);
	struct context *x = find(id);
	long n = x ? 0 : -EINVAL;
	while (x && x->count && n >= 0 && (u64)n < most) {
		if (copy_to_guest(gptr_of(where + (u64)n * sizeof *x->event), &x->event[x->first], sizeof *x->event)) {
			n = n ? n : -EFAULT;
			break;
		}
		x->first = (x->first + 1) % x->room;
		x->count--;
		n++;
	}
	*turn = x ? atomic_load(&x->turn) : 0;
	lock_release(&lock);
	return n;
}

static _Atomic u32 *turn_of(u64 id)
{
	lock_acquire(&lock);
	struct context *x = find(id);
	lock_release(&lock);
	return x ? &x->turn : NULL;
}

long h_io_getevents(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	i64 least = (i64)a[1], most = (i64)a[2];
	struct timespec_k limit, until = {0, 0};
	if (a[4] && copy_from_guest(&limit, gptr_of(a[4]), sizeof limit))
		return -EFAULT;
	_Atomic u32 *word = turn_of(a[0]);
	if (!word || least < 0 || least > most)
		return -EINVAL;
	if (a[4]) {
		host_call(__NR_clock_gettime, 1 /* CLOCK_MONOTONIC */, &until);
		until.sec += limit.sec < 0 ? 0 : limit.sec < (1l << 40) ? limit.sec : 1l << 40;
		until.nsec += limit.nsec;
		until.sec += until.nsec / 1000000000;
		until.nsec %= 1000000000;
	}
	for (i64 have = 0;;) {
		u32 turn;
		i64 want = most - have < EVENTS_MAX ? most - have : EVENTS_MAX;
		long n = take(a[0], a[3] + (u64)have * sizeof(struct io_event_k), (u32)want, &turn);
		if (n < 0)
			return have ? have : n;
		have += n;
		if (have >= least || (a[4] && !limit.sec && !limit.nsec))
			return have;
		/* FUTEX_WAIT_BITSET: the time is absolute */
		n = blocking_call(t, __NR_futex, (u64)word, 9 | 128, turn, a[4] ? (u64)&until : 0, 0, 0xffffffff);
		if (n == -ETIMEDOUT || (n && n != -EAGAIN))
			return have ? have : n == -ETIMEDOUT ? 0 : n <= -ERESTARTSYS ? -EINTR : n;
	}
}
