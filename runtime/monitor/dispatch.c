/* The one way through for every system call: row, policy, marshalling, record, call, record done.
 *
 * Marshalling is where guest pointers end: every argument is brought to its width, checked by its type, and whatever the
 * monitor itself looks at (strings, vectors, socket addresses) is copied once. Plain buffers are passed on as they are: guest
 * and host addresses are equal below PSB_GUEST_LIMIT, and the kernel answers EFAULT for what is not mapped. */
#include "linux_abi.h"
#include "monitor.h"
#include "seccomp.h"
#include "signal.h"
#include "syscalls/handlers.h"
#include "syscalls/row.h"

#define IOV_MAX 1024
#define MAP_ANONYMOUS 0x20
#define PATH_MAX 4096

/* --- marshalling ------------------------------------------------------------------------------------------ */

void *marshal_alloc(struct thread *t, u64 len)
{
	struct marshal *m = marshal_of(t);
	u64 need = ROUND_UP(len, 8);
	if (need <= SCRATCH_ROOM - m->used) {
		void *p = t->scratch + m->used;
		m->used += (u32)need;
		return p;
	}
	if (m->nbig == MARSHAL_BIG)
		return NULL;
	void *p = host_alloc(len);
	if (p) {
		m->big[m->nbig].p = p;
		m->big[m->nbig++].len = len;
	}
	return p;
}

void marshal_free(struct marshal *m, u32 used, u32 nbig)
{
	m->used = used;
	while (m->nbig > nbig) {
		m->nbig--;
		host_free(m->big[m->nbig].p, m->big[m->nbig].len);
	}
}

static void marshal_end(struct thread *t)
{
	struct marshal *m = marshal_of(t);
	for (u32 i = 0; i < m->nheld; i++)
		fd_drop(t->proc, m->held[i]);
	marshal_free(m, m->used, 0);
	m->nheld = 0;
	m->live = false;
}

bool marshal_hold(struct thread *t, int fd)
{
	struct marshal *m = marshal_of(t);
	if (m->nheld == MARSHAL_HELD || !fd_hold(t->proc, fd))
		return false;
	m->held[m->nheld++] = fd;
	return true;
}

struct iovec_k *marshal_iovec(struct thread *t, u64 va, u64 count, long *err)
{
	*err = -EINVAL;
	count = (u32)count; /* as the kernel has it */
	if (count > IOV_MAX)
		return NULL;
	struct iovec_k *v = marshal_alloc(t, count ? count * sizeof *v : 8);
	*err = -ENOMEM;
	if (!v)
		return NULL;
	*err = -EFAULT;
	if (count && copy_from_guest(v, gptr_of(va), count * sizeof *v))
		return NULL;
	for (u64 i = 0; i < count; i++) {
		if ((i64)v[i].len < 0) {
			*err = -EINVAL;
			return NULL;
		}
		if (v[i].len && !guest_ok(v[i].base, v[i].len))
			return NULL;
	}
	*err = 0;
	return v;
}

static long marshal_string(struct thread *t, u32 i, u64 va)
{
	struct marshal *m = marshal_of(t);
	u32 mark = m->used;
	char *s = marshal_alloc(t, PATH_MAX);
	if (!s)
		return -ENOMEM;
	long n = copy_string_from_guest(s, gptr_of(va), PATH_MAX);
	if (n < 0)
		return n;
	if (m->used != mark) /* in the scratch: keep only what is needed */
		m->used = mark + (u32)ROUND_UP((u64)n + 1, 8);
	m->arg[i] = (u64)s;
	m->len[i] = (u16)(n + 1);
	return 0;
}

static long marshal_sockaddr(struct thread *t, u32 i, u64 va, u64 len)
{
	struct marshal *m = marshal_of(t);
	if (len > 128)
		return -EINVAL;
	u8 *s = marshal_alloc(t, 128);
	if (!s)
		return -ENOMEM;
	if (len && copy_from_guest(s, gptr_of(va), len))
		return -EFAULT;
	m->arg[i] = (u64)s;
	m->len[i] = (u16)len;
	return 0;
}

/* Length argument `link` as a byte count; an int below zero counts as nothing, the kernel refuses it by itself. */
static u64 length_of(const struct row *r, const struct marshal *m, const struct arg *a)
{
	u64 n = m->arg[a->link];
	return r->arg[a->link].kind == A_INT && (i32)n < 0 ? 0 : n;
}

/* size * count, or ~0 on overflow. */
static u64 times(u64 size, u64 count)
{
	u64 n;
	return __builtin_mul_overflow(size, count, &n) ? ~0ul : n;
}

static long marshal_memory(struct thread *t, const struct row *r, u32 i)
{
	struct marshal *m = marshal_of(t);
	const struct arg *a = &r->arg[i];
	u64 va = m->arg[i], len;
	switch (a->kind) {
	case A_RANGE: /* not dereferenced: memory calls say ENOMEM for what is not the caller's, but a pointer up there is EFAULT */
		if (va >= PSB_GUEST_LIMIT)
			return -EFAULT;
		len = m->arg[a->link];
		return guest_range(gptr_of(va), len) ? 0 : -ENOMEM;
	case A_PTR:
	case A_NEST:
	case A_STRV:
		return guest_ok(va, a->size) ? 0 : -EFAULT;
	case A_BUF:
		len = length_of(r, m, a);
		if (len > PSB_GUEST_LIMIT)
			return a->size ? -EINVAL : -EFAULT; /* a message cannot be that long */
		if (r->flags & F_CLAMP && len > MAX_RW)
			m->arg[a->link] = len = MAX_RW;
		return guest_ok(va, len + a->size) ? 0 : -EFAULT;
	case A_ARR:
		return guest_ok(va, times(a->size, length_of(r, m, a))) ? 0 : -EFAULT;
	case A_BITS:
		len = m->arg[a->link];
		if (len > PAGE * 8)
			return -EINVAL;
		return !va || guest_ok(va, len / 8 + 8) ? 0 : -EFAULT;
	case A_PAGEVEC:
		return guest_ok(va, m->arg[a->link] / PAGE + 1) ? 0 : -EFAULT;
	case A_IOV: {
		long err;
		m->arg[i] = (u64)marshal_iovec(t, va, m->arg[a->link], &err);
		return err;
	}
	case A_SADDR:
		return va ? marshal_sockaddr(t, i, va, length_of(r, m, a)) : 0;
	case A_PATHN:
	case A_STRN:
		return va ? marshal_string(t, i, va) : 0;
	case A_PATH:
	case A_STR:
		return marshal_string(t, i, va);
	default:
		return 0;
	}
}

static long marshal_fd(struct thread *t, const struct row *r, u32 i)
{
	struct marshal *m = marshal_of(t);
	int fd = (int)m->arg[i];
	switch (r->arg[i].kind) {
	case A_FD:
		return marshal_hold(t, fd) ? 0 : -EBADF;
	case A_FDOPT:
		return fd == -1 || marshal_hold(t, fd) ? 0 : -EBADF;
	case A_MAPFD:
		return m->arg[r->arg[i].link] & MAP_ANONYMOUS || marshal_hold(t, fd) ? 0 : -EBADF;
	case A_ATFD: /* an absolute path makes the kernel ignore it, so a bad number is no error yet */
		if (fd != AT_FDCWD && !marshal_hold(t, fd))
			m->arg[i] = (u64)-1l;
		return 0;
	default:
		return 0;
	}
}

static long marshal_number(struct thread *t, u8 kind, i32 v)
{
	if (kind == A_CLOCK)
		return clock_usable(t, v);
	return tid_hidden(t, v) ? -ESRCH : 0;
}

/* 0 or the error the call ends with. Pointers first: a call with a pointer into the monitor ends here in any case. */
static long marshal(struct thread *t, const struct row *r, const struct call *c)
{
	struct marshal *m = marshal_of(t);
	bool memory = false, fds = false, numbers = false;
	m->used = m->nheld = m->nbig = 0;
	m->live = true;
	m->refused = false;
	for (u32 i = r->nargs; i < 6; i++) {
		m->arg[i] = 0;
		m->len[i] = 0;
	}
	for (u32 i = 0; i < r->nargs; i++) {
		u64 v = c->arg[i];
		u8 kind = r->arg[i].kind;
		bool fd = kind >= A_FD && kind <= A_ATFD, number = kind == A_PID || kind == A_CLOCK;
		if (kind == A_INT || fd || number)
			v = (u64)(i64)(i32)v;
		else if (kind == A_UINT)
			v = (u32)v;
		memory |= kind >= A_PATH || kind == A_RANGE;
		fds |= fd;
		numbers |= number;
		m->arg[i] = v;
		m->len[i] = 0;
	}
	long err = 0;
	for (u32 i = 0; memory && i < r->nargs && !err; i++)
		if (r->arg[i].kind >= A_PATH || r->arg[i].kind == A_RANGE)
			err = marshal_memory(t, r, i);
	for (u32 i = 0; fds && i < r->nargs && !err; i++)
		if (r->arg[i].kind >= A_FD && r->arg[i].kind <= A_ATFD)
			err = marshal_fd(t, r, i);
	for (u32 i = 0; numbers && i < r->nargs && !err; i++)
		if (r->arg[i].kind == A_PID || r->arg[i].kind == A_CLOCK)
			err = marshal_number(t, r->arg[i].kind, (i32)m->arg[i]);
	return err;
}

/* --- making the call ---------------------------------------------------------------------------------------- */

long call_host(struct thread *t, struct call *c, long nr, u64 a, u64 b, u64 d, u64 e, u64 f, u64 g)
{
	return c->may_block ? blocking_call(t, nr, a, b, d, e, f, g) : ring_call(nr, a, b, d, e, f, g);
}

#define LOCK_NB 4
#define IPC_NOWAIT 04000

/* Whether a call that may sleep will not, by what it was asked. */
static bool never_sleeps(u32 nr, const u64 *a)
{
	switch (nr) {
	case __NR_wait4:
		return wait_only_looks(a[2]);
	case __NR_flock:
		return a[1] & LOCK_NB;
	case __NR_msgsnd:
		return a[3] & IPC_NOWAIT;
	case __NR_msgrcv:
		return a[4] & IPC_NOWAIT;
	case __NR_accept:
	case __NR_accept4:
	case __NR_connect:
	case __NR_sendfile:
		return fd_nonblocking((int)a[0]);
	}
	return false;
}

static long make_call(struct thread *t, const struct row *r, struct call *c)
{
	if (unlikely(r->flags & F_FD) && fd_full(t->proc))
		return -EMFILE; /* before anything is created, accepted or truncated */
	if (r->handler)
		return r->handler(t, c);
	const u64 *a = marshal_of(t)->arg;
	long ret;
	if (r->flags & F_CREDS)
		ret = proc_change_credentials(t, c->nr, a);
	else if (r->flags & F_BLOCK && !c->may_block && !never_sleeps(c->nr, a))
		ret = CALL_TO_TRAP;
	else if (r->flags & F_BLOCK)
		ret = call_host(t, c, c->nr, a[0], a[1], a[2], a[3], a[4], a[5]);
	else
		ret = host_call(c->nr, a[0], a[1], a[2], a[3], a[4], a[5]);
	return r->flags & F_FD && ret >= 0 ? fd_publish(t, (int)ret) : ret;
}

/* A file that would get too large (RLIMIT_FSIZE), nobody left who reads (sendfile): the signal is for the thread, which makes the call again. */
static long perform(struct thread *t, const struct row *r, struct call *c)
{
	long ret = make_call(t, r, c);
	return unlikely(ret == -EFBIG || ret == -EPIPE) && !c->may_block ? CALL_TO_TRAP : ret;
}

/* --- policy and record ---------------------------------------------------------------------------------------- */

struct decision {
	u32 verdict, data, rule;
};

static struct decision decide(struct thread *t, const struct row *r, const struct call *c)
{
	struct policy_result p = policy_decide(t->proc->policy, c->nr, c->arg);
	if (unlikely(t->filters))
		seccomp_decide(t, c, &p);
	struct decision d = {p.verdict, p.data, p.rule};
	if (d.verdict != PSB_VERDICT_ALLOW && d.verdict != PSB_VERDICT_LOG)
		return d;
	if (!r) {
		d.verdict = PSB_VERDICT_UNSUPPORTED;
		d.data = ENOSYS;
	} else if (r->refuse) {
		d.verdict = r->refuse == ENOSYS ? PSB_VERDICT_UNSUPPORTED : PSB_VERDICT_REFUSED;
		d.data = r->refuse;
	}
	return d;
}

/* The record, with copied strings and addresses, written before the call is made (invariant 5). 0 or -errno. */
static long record(struct thread *t, const struct row *r, struct call *c, const struct decision *d)
{
	const struct marshal *m = marshal_of(t);
	struct trace_item item[6];
	u32 n = 0;
	for (u32 i = 0; r && i < r->nargs; i++) {
		if (!m->len[i])
			continue;
		bool address = r->arg[i].kind == A_SADDR;
		item[n++] = (struct trace_item){.data = (const void *)m->arg[i], .len = address ? m->len[i] : m->len[i] - 1u,
						.type = address ? PSB_ITEM_SOCKADDR : PSB_ITEM_STRING, .arg = (u8)i};
	}
	struct trace_event ev = {.kind = PSB_REC_CALL, .verdict = (u8)d->verdict, .door = c->door, .tid = (u32)t->tid, .nr = c->nr, .rule = d->rule,
				 .flags = r && r->flags & F_NORETURN ? PSB_REC_NORETURN : 0, .site = c->site, .args = c->arg, .items = item, .nitems = n};
	return trace_write(&t->proc->tracer, &ev, &c->rec);
}

/* A verdict other than "make the call". */
static long denied(struct thread *t, const struct call *c, const struct decision *d)
{
	switch (d->verdict) {
	case PSB_VERDICT_ERRNO:
	case PSB_VERDICT_UNSUPPORTED:
	case PSB_VERDICT_REFUSED:
		return -(long)(d->data > 4095 ? 4095 : d->data);
	case PSB_VERDICT_TRAP:
		return signal_sigsys(t, c->nr, d->data, c->ret_addr);
	case PSB_VERDICT_TRACE: /* without a tracer the kernel says this */
		return -ENOSYS;
	case PSB_VERDICT_KILL_THREAD:
		thread_killed_by_policy(t, d->rule == PSB_RULE_OWN ? (int)d->data : SIGSYS);
	default:
		signal_die(t, SIGSYS);
	}
}

static bool makes_the_call(const struct decision *d)
{
	return d->verdict == PSB_VERDICT_ALLOW || d->verdict == PSB_VERDICT_LOG;
}

/* Signals are the thread's, and only it can wait for an agent. */
static bool belongs_to_thread(const struct decision *d)
{
	return d->verdict == PSB_VERDICT_TRAP || d->verdict == PSB_VERDICT_KILL_THREAD || d->verdict == PSB_VERDICT_KILL_PROCESS ||
	       d->verdict == PSB_VERDICT_NOTIFY;
}

/* The agent's decision. What it lets pass is made with the arguments that were copied before it was asked; what the table does not
 * offer, no agent can allow. */
static long notified(struct thread *t, const struct row *r, struct call *c, long marshalled)
{
	bool go_on;
	long ret = notify_agent(t, c, &go_on);
	if (!go_on)
		return ret;
	if (!r)
		return -ENOSYS;
	if (r->refuse)
		return refuse(t, -(long)r->refuse);
	return marshalled ? marshalled : perform(t, r, c);
}

long dispatch(struct thread *t, struct call *c)
{
	const struct row *r = row_of(c->nr);
	if (c->recorded)
		return perform(t, r, c);
	if (!c->may_block && r && r->door == DOOR_TRAP)
		return CALL_TO_TRAP;
	struct decision d = decide(t, r, c);
	if (!c->may_block && belongs_to_thread(&d))
		return CALL_TO_TRAP; /* it decides and records again */
	static const struct row nothing;
	long ret = marshal(t, r ? r : &nothing, c);
	long lost = record(t, r, c, &d);
	if (lost)
		return lost; /* a call that cannot be recorded is not made */
	c->recorded = true;
	if (d.verdict == PSB_VERDICT_NOTIFY)
		return notified(t, r, c, ret);
	if (!makes_the_call(&d)) {
		marshal_end(t); /* the thread may end in there */
		return denied(t, c, &d);
	}
	return ret ? ret : perform(t, r, c);
}

void dispatch_done(struct thread *t, struct call *c, long ret)
{
	c->rec.refused = marshal_of(t)->refused && ret < 0;
	marshal_end(t);
	if (ret != CALL_NO_RETURN) /* a forked child, or rt_sigreturn: no result of this call to tell */
		trace_end(&t->proc->tracer, &c->rec, ret);
}
