/* Waiting: poll, select, epoll, futexes, clocks. On the ring each is asked once without waiting; when nothing is ready and
 * the caller wants to wait, the thread does it. What the kernel writes back goes to copies first, so that a try that found
 * nothing has left the guest's structures alone. */
#include "../linux_abi.h"
#include "../signal.h"
#include "handlers.h"

/* --- poll --------------------------------------------------------------------------------------------------------------- */

struct pollfd_k {
	i32 fd;
	u16 events, revents;
};
#define NEVER_OPEN 0x7ffffffe /* above every limit: POLLNVAL */

/* Copy with unpublished numbers replaced; NULL and *err. */
static struct pollfd_k *take_pollfds(struct thread *t, u64 va, u64 n, long *err)
{
	*err = -EINVAL;
	if (n > t->proc->nofile[0] || n > FD_MAX)
		return NULL;
	struct pollfd_k *v = marshal_alloc(t, n ? n * sizeof *v : 8);
	*err = -ENOMEM;
	if (!v)
		return NULL;
	*err = n && copy_from_guest(v, gptr_of(va), n * sizeof *v) ? -EFAULT : 0;
	for (u64 i = 0; !*err && i < n; i++)
		if (v[i].fd >= 0 && !fd_published(t->proc, v[i].fd))
			v[i].fd = NEVER_OPEN;
	return *err ? NULL : v;
}

static long give_revents(u64 va, const struct pollfd_k *v, u64 n)
{
	for (u64 i = 0; i < n; i++)
		if (copy_to_guest(gptr_of(va + i * sizeof *v + 6), &v[i].revents, 2))
			return -EFAULT;
	return 0;
}

static long poll_result(const u64 *a, const struct pollfd_k *v, long r)
{
	if (r < 0)
		return r;
	return give_revents(a[0], v, a[1]) ? -EFAULT : r;
}

long h_poll(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	u32 used = marshal_of(t)->used;
	long err;
	struct pollfd_k *v = take_pollfds(t, a[0], a[1], &err);
	if (!v)
		return err;
	long r;
	if (c->may_block) {
		r = blocking_call(t, __NR_poll, (u64)v, a[1], a[2], 0, 0, 0);
	} else {
		r = host_call(__NR_poll, v, a[1], 0);
		if (!r && (i32)a[2]) {
			marshal_of(t)->used = used;
			return CALL_TO_TRAP;
		}
	}
	return poll_result(a, v, r);
}

/* Looked at first, as in the kernel, whatever is ready. */
static long check_time(u64 va)
{
	struct timespec_k ts;
	if (va && copy_from_guest(&ts, gptr_of(va), sizeof ts))
		return -EFAULT;
	return va && (ts.sec < 0 || ts.nsec < 0 || ts.nsec >= 1000000000) ? -EINVAL : 0;
}

static bool zero_time(u64 va)
{
	struct timespec_k ts;
	return va && !copy_from_guest(&ts, gptr_of(va), sizeof ts) && !ts.sec && !ts.nsec;
}

/* A temporary mask lets signals in: that is the thread's affair. Without one, and something ready, the ring can answer. */
long h_ppoll(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	if (!c->may_block && a[3])
		return CALL_TO_TRAP;
	u32 used = marshal_of(t)->used;
	long err = check_time(a[2]), r;
	if (err)
		return err;
	struct pollfd_k *v = take_pollfds(t, a[0], a[1], &err);
	if (!v)
		return err;
	if (c->may_block) {
		r = blocking_call_masked(t, gptr_of(a[3]), a[4], __NR_ppoll, (u64)v, a[1], a[2], a[3], a[4], 0);
	} else {
		r = host_call(__NR_poll, v, a[1], 0);
		if (!r && !zero_time(a[2])) {
			marshal_of(t)->used = used;
			return CALL_TO_TRAP;
		}
	}
	return poll_result(a, v, r);
}

/* --- select --------------------------------------------------------------------------------------------------------------- */

struct sets {
	u64 *in[3];  /* copies of the guest's, NULL where absent */
	u64 n, bytes; /* numbers that are looked at, and room for them in each copy: found out once, the table may grow meanwhile */
};

/* EBADF for a number that is not published, as for one that is not open. */
static long check_set(struct thread *t, const u64 *set, u64 n)
{
	for (u64 w = 0; w < (n + 63) / 64; w++) {
		u64 bits = set[w];
		if (w == n / 64)
			bits &= (1ul << (n % 64)) - 1;
		for (; bits; bits &= bits - 1)
			if (!fd_published(t->proc, (int)(w * 64 + (u64)__builtin_ctzl(bits))))
				return -EBADF;
	}
	return 0;
}

/* Numbers that are looked at: no more than the program's table has room for, which grows as the kernel's would. */
static u64 set_count(struct thread *t, const u64 *a)
{
	u64 room = 64, high = fd_map_size(t->proc);
	if (high > room)
		for (room = 256; room < high;)
			room *= 2;
	return (u32)a[0] < room ? (u32)a[0] : room;
}

static long take_sets(struct thread *t, const u64 *a, struct sets *s)
{
	if ((i32)a[0] < 0)
		return -EINVAL;
	s->n = set_count(t, a);
	s->bytes = (s->n + 63) / 64 * 8;
	for (int i = 0; i < 3; i++) {
		s->in[i] = NULL;
		if (!a[1 + i])
			continue;
		s->in[i] = marshal_alloc(t, s->bytes ? s->bytes : 8);
		if (!s->in[i])
			return -ENOMEM;
		if (s->bytes && copy_from_guest(s->in[i], gptr_of(a[1 + i]), s->bytes))
			return -EFAULT;
		long r = check_set(t, s->in[i], s->n);
		if (r)
			return r;
	}
	return 0;
}

static long give_sets(const u64 *a, const struct sets *s, long r)
{
	for (int i = 0; r >= 0 && i < 3; i++)
		if (s->in[i] && s->bytes && copy_to_guest(gptr_of(a[1 + i]), s->in[i], s->bytes))
			return -EFAULT;
	return r;
}


/* The try without waiting; CALL_TO_TRAP when nothing is ready. */
static long select_now(struct thread *t, const u64 *a, bool may_wait)
{
	struct marshal *m = marshal_of(t);
	u32 used = m->used;
	struct sets s;
	u64 zero[2] = {0, 0};
	long r = take_sets(t, a, &s);
	if (r)
		return r;
	r = host_call(__NR_select, s.n, s.in[0], s.in[1], s.in[2], zero);
	if (!r && may_wait) {
		m->used = used;
		return CALL_TO_TRAP;
	}
	return give_sets(a, &s, r);
}

long h_select(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	if (!c->may_block)
		return select_now(t, a, !zero_time(a[4]));
	struct sets s;
	long r = take_sets(t, a, &s);
	if (r)
		return r;
	return give_sets(a, &s, blocking_call(t, __NR_select, s.n, (u64)s.in[0], (u64)s.in[1], (u64)s.in[2], a[4], 0));
}

long h_pselect6(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	u64 mask[2] = {0, 0}; /* address and size of the signal set: the nested pointer */
	if (a[5] && copy_from_guest(mask, gptr_of(a[5]), sizeof mask))
		return -EFAULT;
	if (!guest_ok(mask[0], 8))
		return -EFAULT;
	long bad = check_time(a[4]);
	if (bad)
		return bad;
	if (!c->may_block)
		return mask[0] ? CALL_TO_TRAP : select_now(t, a, !zero_time(a[4]));
	struct sets s;
	long r = take_sets(t, a, &s);
	if (r)
		return r;
	return give_sets(a, &s, blocking_call_masked(t, gptr_of(mask[0]), mask[1], __NR_pselect6, s.n, (u64)s.in[0], (u64)s.in[1], (u64)s.in[2], a[4], (u64)mask));
}

/* --- epoll ---------------------------------------------------------------------------------------------------------------- */

/* Edge-triggered events are used up by a successful look, so the try delivers straight into the guest's array. */
long h_epoll_wait(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	if (c->may_block)
		return blocking_call(t, __NR_epoll_wait, a[0], a[1], a[2], a[3], 0, 0);
	long r = host_call(__NR_epoll_wait, a[0], a[1], a[2], 0);
	return !r && (i32)a[3] ? CALL_TO_TRAP : r;
}

long h_epoll_pwait(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	if (c->may_block)
		return blocking_call_masked(t, gptr_of(a[4]), a[5], __NR_epoll_pwait, a[0], a[1], a[2], a[3], a[4], a[5]);
	if (a[4])
		return CALL_TO_TRAP;
	long r = host_call(__NR_epoll_wait, a[0], a[1], a[2], 0);
	return !r && (i32)a[3] ? CALL_TO_TRAP : r;
}

#define __NR_epoll_pwait2_k 441
long h_epoll_pwait2(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	if (c->may_block)
		return blocking_call_masked(t, gptr_of(a[4]), a[5], __NR_epoll_pwait2_k, a[0], a[1], a[2], a[3], a[4], a[5]);
	if (a[4])
		return CALL_TO_TRAP;
	long r = host_call(__NR_epoll_wait, a[0], a[1], a[2], 0);
	return !r && !zero_time(a[3]) ? CALL_TO_TRAP : r;
}

/* --- futex ---------------------------------------------------------------------------------------------------------------- */

#define FUTEX_CMD_MASK 127u
#define FUTEX_WAIT 0
#define FUTEX_WAKE 1
#define FUTEX_REQUEUE 3
#define FUTEX_CMP_REQUEUE 4
#define FUTEX_WAKE_OP 5
#define FUTEX_LOCK_PI 6
#define FUTEX_UNLOCK_PI 7
#define FUTEX_TRYLOCK_PI 8
#define FUTEX_WAIT_BITSET 9
#define FUTEX_WAKE_BITSET 10
#define FUTEX_WAIT_REQUEUE_PI 11
#define FUTEX_CMP_REQUEUE_PI 12
#define FUTEX_LOCK_PI2 13

/* futex words are dereferenced by the kernel: both addresses are pointers, the fourth argument is one or a number. */
static long futex_check(u32 cmd, const u64 *a)
{
	switch (cmd) {
	case FUTEX_WAIT:
	case FUTEX_WAIT_BITSET:
	case FUTEX_LOCK_PI:
	case FUTEX_LOCK_PI2:
		return guest_ok(a[3], 16) ? 0 : -EFAULT;
	case FUTEX_WAKE:
	case FUTEX_WAKE_BITSET:
	case FUTEX_UNLOCK_PI:
	case FUTEX_TRYLOCK_PI:
		return 0;
	case FUTEX_REQUEUE:
	case FUTEX_CMP_REQUEUE:
	case FUTEX_WAKE_OP:
	case FUTEX_CMP_REQUEUE_PI:
		return guest_ok(a[4], 4) ? 0 : -EFAULT;
	case FUTEX_WAIT_REQUEUE_PI:
		return guest_ok(a[3], 16) && guest_ok(a[4], 4) ? 0 : -EFAULT;
	default:
		return -ENOSYS;
	}
}

long h_futex(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	u32 cmd = (u32)a[1] & FUTEX_CMD_MASK;
	long r = futex_check(cmd, a);
	if (r)
		return r;
	switch (cmd) {
	case FUTEX_WAKE:
	case FUTEX_WAKE_BITSET:
	case FUTEX_REQUEUE:
	case FUTEX_CMP_REQUEUE:
	case FUTEX_WAKE_OP:
		return host_call(__NR_futex, a[0], a[1], a[2], a[3], a[4], a[5]);
	default: /* waits, and takes or gives the lock to the calling thread: on the thread itself */
		return c->may_block ? call_host(t, c, __NR_futex, a[0], a[1], a[2], a[3], a[4], a[5]) : CALL_TO_TRAP;
	}
}

struct futex_waiter_k {
	u64 val, uaddr;
	u32 flags, pad;
};

static long take_waiters(struct futex_waiter_k *v, u64 va, u64 n)
{
	if (copy_from_guest(v, gptr_of(va), n * sizeof *v))
		return -EFAULT;
	for (u64 i = 0; i < n; i++)
		if (!guest_ok(v[i].uaddr, 8))
			return -EFAULT;
	return 0;
}

long h_futex_waitv(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	struct futex_waiter_k v[128];
	if (!a[1] || a[1] > 128 || !a[0])
		return -EINVAL;
	long r = take_waiters(v, a[0], a[1]);
	return r ? r : call_host(t, c, __NR_futex_waitv, (u64)v, a[1], a[2], a[3], a[4], 0);
}

long h_futex_requeue(struct thread *t, struct call *c)
{
	(void)t;
	const u64 *a = marshal_of(t)->arg;
	struct futex_waiter_k v[2];
	long r = take_waiters(v, a[0], 2);
	return r ? r : host_call(c->nr, v, a[1], a[2], a[3]);
}

/* --- clocks and children ------------------------------------------------------------------------------------------------ */

/* Clocks of a thread are of the calling one. */
long h_clock(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	i32 id = (i32)a[0];
	if (!c->may_block && (id == 3 || id < 0))
		return CALL_TO_TRAP;
	return host_call(c->nr, a[0], a[1]);
}

#define P_PIDFD 3
#define WNOHANG 1
#define WNOTHREAD 0x20000000
bool wait_only_looks(u64 options)
{
	return (options & (WNOHANG | WNOTHREAD)) == WNOHANG; /* the children are not the server's own */
}

long h_waitid(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	if (!c->may_block && !wait_only_looks(a[3]))
		return CALL_TO_TRAP;
	if (a[0] == P_PIDFD && !marshal_hold(t, (int)a[1]))
		return -EBADF;
	return call_host(t, c, __NR_waitid, a[0], a[1], a[2], a[3], a[4], 0);
}

#define SIGEV_THREAD_K 2
struct sigevent_k {
	u64 value;
	i32 signo, notify;
	u8 rest[48];
};
_Static_assert(sizeof(struct sigevent_k) == 64, "struct sigevent");

/* SIGEV_THREAD means here: signo is a netlink socket, and value points to a cookie of 32 bytes. */
long h_mq_notify(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	struct sigevent_k ev;
	if (!a[1])
		return host_call(__NR_mq_notify, a[0], 0);
	if (copy_from_guest(&ev, gptr_of(a[1]), sizeof ev))
		return -EFAULT;
	u8 cookie[32];
	if (ev.notify == SIGEV_THREAD_K) {
		if (!marshal_hold(t, ev.signo))
			return -EBADF;
		if (copy_from_guest(cookie, gptr_of(ev.value), sizeof cookie))
			return -EFAULT;
		ev.value = (u64)cookie;
	}
	return host_call(__NR_mq_notify, a[0], &ev);
}
