/* Filters that a program gives itself: seccomp(2) and prctl(PR_SET_SECCOMP).
 *
 * The monitor runs them: installed in the kernel they would judge its calls, not the program's. As in the kernel they form a tree: a thread
 * points to the newest of its own, each to the one below; forks and execs keep them, nothing ever takes one away. All are asked,
 * the container's policy is the oldest, the strictest action decides, of equals the newest one's. A filter can only forbid, so nothing
 * of what the monitor relies on depends on them. Listeners (USER_NOTIF) are not offered: as before Linux 5.0. */
#include "peer.h"
#include "plan_sites.h"
#include "proc.h"
#include "seccomp.h"
#include "signal.h"
#include "syscalls/handlers.h"

#define ACTION_FULL 0xffff0000u
#define ACTION_DATA 0x0000ffffu
#define KILL_PROCESS 0x80000000u
#define KILL_THREAD 0x00000000u
#define TRAP 0x00030000u
#define ERRNO 0x00050000u
#define USER_NOTIF 0x7fc00000u
#define TRACE 0x7ff00000u
#define LOG 0x7ffc0000u
#define ALLOW 0x7fff0000u

#define INSNS_MAX 4096u          /* of one filter */
#define PATH_MAX_INSNS 32768u    /* of all that a call runs, and FILTER_PRICE for each */
#define FILTER_PRICE 4u
#define SLOTS 16u                /* words of memory a filter has */

struct insn { /* struct sock_filter */
	u16 code;
	u8 jt, jf;
	u32 k;
};

struct seccomp_filter {
	_Atomic u32 users;              /* threads and filters that point to it */
	u32 n, total;                   /* instructions: its own; with those below, as the kernel counts them */
	bool strict;                    /* SECCOMP_MODE_STRICT: no instructions */
	struct seccomp_filter *below;
	struct insn insn[];
};

struct seccomp_data {
	u32 nr, arch;
	u64 ip, arg[6];
};
_Static_assert(sizeof(struct seccomp_data) == 64, "struct seccomp_data");

static struct lock filters_lock; /* over `filters` of every thread: TSYNC writes those of others */

/* --- classic BPF, as far as seccomp allows it --------------------------------------------------------------------------------- */

enum { LD_IMM = 0x00, LDX_IMM = 0x01, ST = 0x02, STX = 0x03, LD_ABS = 0x20, LD_MEM = 0x60, LDX_MEM = 0x61, LD_LEN = 0x80, LDX_LEN = 0x81,
       ADD_K = 0x04, ADD_X = 0x0c, SUB_K = 0x14, SUB_X = 0x1c, MUL_K = 0x24, MUL_X = 0x2c, DIV_K = 0x34, DIV_X = 0x3c, OR_K = 0x44, OR_X = 0x4c,
       AND_K = 0x54, AND_X = 0x5c, LSH_K = 0x64, LSH_X = 0x6c, RSH_K = 0x74, RSH_X = 0x7c, NEG = 0x84, XOR_K = 0xa4, XOR_X = 0xac,
       JA = 0x05, JEQ_K = 0x15, JEQ_X = 0x1d, JGT_K = 0x25, JGT_X = 0x2d, JGE_K = 0x35, JGE_X = 0x3d, JSET_K = 0x45, JSET_X = 0x4d,
       RET_K = 0x06, RET_A = 0x16, TAX = 0x07, TXA = 0x87 };

/* What has to be looked at before an instruction is taken; 0: none of seccomp's. */
enum check { PLAIN = 1, OFFSET, SLOT, DIVISOR, SHIFT, JUMP, BRANCH };
static const u8 check_of[256] = {
	[LD_IMM] = PLAIN, [LDX_IMM] = PLAIN, [LD_LEN] = PLAIN, [LDX_LEN] = PLAIN, [LD_ABS] = OFFSET, [ST] = SLOT, [STX] = SLOT, [LD_MEM] = SLOT, [LDX_MEM] = SLOT,
	[ADD_K] = PLAIN, [ADD_X] = PLAIN, [SUB_K] = PLAIN, [SUB_X] = PLAIN, [MUL_K] = PLAIN, [MUL_X] = PLAIN, [DIV_K] = DIVISOR, [DIV_X] = PLAIN,
	[OR_K] = PLAIN, [OR_X] = PLAIN, [AND_K] = PLAIN, [AND_X] = PLAIN, [LSH_K] = SHIFT, [LSH_X] = PLAIN, [RSH_K] = SHIFT, [RSH_X] = PLAIN,
	[NEG] = PLAIN, [XOR_K] = PLAIN, [XOR_X] = PLAIN, [JA] = JUMP, [JEQ_K] = BRANCH, [JEQ_X] = BRANCH, [JGT_K] = BRANCH, [JGT_X] = BRANCH,
	[JGE_K] = BRANCH, [JGE_X] = BRANCH, [JSET_K] = BRANCH, [JSET_X] = BRANCH, [RET_K] = PLAIN, [RET_A] = PLAIN, [TAX] = PLAIN, [TXA] = PLAIN,
};

/* After this every jump goes forward and ends inside, every offset and slot exists, and the last instruction returns. */
static bool valid(const struct insn *v, u32 n)
{
	for (u32 pc = 0; pc < n; pc++) {
		const struct insn *i = &v[pc];
		u32 behind = n - pc - 1; /* instructions that follow */
		bool good = false;
		switch (i->code < ARRAY_LEN(check_of) ? check_of[i->code] : 0) {
		case PLAIN:
			good = true;
			break;
		case OFFSET:
			good = i->k < sizeof(struct seccomp_data) && !(i->k % 4);
			break;
		case SLOT:
			good = i->k < SLOTS;
			break;
		case DIVISOR:
			good = i->k;
			break;
		case SHIFT:
			good = i->k < 32;
			break;
		case JUMP:
			good = i->k < behind;
			break;
		case BRANCH:
			good = i->jt < behind && i->jf < behind;
			break;
		}
		if (!good)
			return false;
	}
	return v[n - 1].code == RET_K || v[n - 1].code == RET_A;
}

static u32 arithmetic(u16 op, u32 a, u32 b)
{
	switch (op) {
	case ADD_K:
		return a + b;
	case SUB_K:
		return a - b;
	case MUL_K:
		return a * b;
	case DIV_K:
		return a / b;
	case OR_K:
		return a | b;
	case AND_K:
		return a & b;
	case LSH_K:
		return a << (b & 31);
	case RSH_K:
		return a >> (b & 31);
	case XOR_K:
		return a ^ b;
	default: /* NEG */
		return -a;
	}
}

static bool branch(u16 op, u32 a, u32 b)
{
	return op == JEQ_K ? a == b : op == JGT_K ? a > b : op == JGE_K ? a >= b : (a & b) != 0;
}

static u32 run(const struct insn *i, const struct seccomp_data *d)
{
	u32 a = 0, x = 0, slot[SLOTS] = {0};
	for (;; i++) {
		u32 operand = i->code & 8 ? x : i->k;
		u16 op = i->code & ~8;
		switch (i->code) {
		case LD_ABS:
			a = ((const u32 *)d)[i->k / 4];
			break;
		case LD_IMM:
			a = i->k;
			break;
		case LDX_IMM:
			x = i->k;
			break;
		case LD_LEN:
			a = sizeof *d;
			break;
		case LDX_LEN:
			x = sizeof *d;
			break;
		case LD_MEM:
			a = slot[i->k];
			break;
		case LDX_MEM:
			x = slot[i->k];
			break;
		case ST:
			slot[i->k] = a;
			break;
		case STX:
			slot[i->k] = x;
			break;
		case TAX:
			x = a;
			break;
		case TXA:
			a = x;
			break;
		case RET_K:
			return i->k;
		case RET_A:
			return a;
		case JA:
			i += i->k;
			break;
		default:
			if ((op & 7) == 5) {
				i += branch(op, a, operand) ? i->jt : i->jf;
			} else if (op == DIV_K && !operand) {
				return 0;
			} else {
				a = arithmetic(op, a, operand);
			}
		}
	}
}

/* --- deciding ---------------------------------------------------------------------------------------------------------------- */

/* The kernel compares actions as signed numbers; the least is the strictest. */
static i32 strictness(u32 action)
{
	return (i32)(action & ACTION_FULL);
}

static u32 action_of(u32 verdict)
{
	static const u32 action[] = {[PSB_VERDICT_ALLOW] = ALLOW,   [PSB_VERDICT_ERRNO] = ERRNO, [PSB_VERDICT_KILL_THREAD] = KILL_THREAD, [PSB_VERDICT_KILL_PROCESS] = KILL_PROCESS,
				     [PSB_VERDICT_TRAP] = TRAP,	    [PSB_VERDICT_TRACE] = TRACE, [PSB_VERDICT_LOG] = LOG,		  [PSB_VERDICT_NOTIFY] = USER_NOTIF};
	return action[verdict];
}

static struct policy_result result_of(u32 action)
{
	struct policy_result r = {PSB_VERDICT_KILL_PROCESS, action & ACTION_DATA, PSB_RULE_OWN};
	switch (action & ACTION_FULL) {
	case KILL_THREAD:
		r = (struct policy_result){PSB_VERDICT_KILL_THREAD, SIGSYS, PSB_RULE_OWN};
		break;
	case TRAP:
		r.verdict = PSB_VERDICT_TRAP;
		break;
	case ERRNO:
		r.verdict = PSB_VERDICT_ERRNO;
		break;
	case USER_NOTIF: /* nobody listens */
		r = (struct policy_result){PSB_VERDICT_ERRNO, ENOSYS, PSB_RULE_OWN};
		break;
	case TRACE:
		r.verdict = PSB_VERDICT_TRACE;
		break;
	case LOG:
		r.verdict = PSB_VERDICT_LOG;
		break;
	case ALLOW:
		r.verdict = PSB_VERDICT_ALLOW;
		break;
	}
	return r;
}

static bool strict_allows(u32 nr)
{
	return nr == __NR_read || nr == __NR_write || nr == __NR_exit || nr == __NR_rt_sigreturn;
}

void seccomp_decide(struct thread *t, const struct call *c, struct policy_result *r)
{
	struct seccomp_data d = {.nr = c->nr, .arch = AUDIT_ARCH_X86_64, .ip = site_shown(t->proc, c->ret_addr)};
	const struct seccomp_filter *f = atomic_load(&t->filters);
	u32 least = ALLOW;
	memcpy(d.arg, c->arg, sizeof d.arg);
	if (f->strict) {
		if (!strict_allows(c->nr))
			*r = (struct policy_result){PSB_VERDICT_KILL_THREAD, SIGKILL, PSB_RULE_OWN};
		return;
	}
	for (; f; f = f->below) {
		u32 action = run(f->insn, &d);
		if (strictness(action) < strictness(least))
			least = action;
	}
	if (strictness(least) < strictness(ALLOW) && strictness(least) <= strictness(action_of(r->verdict)))
		*r = result_of(least);
}

/* --- the tree ------------------------------------------------------------------------------------------------------------------ */

static u64 bytes_of(u32 n)
{
	return sizeof(struct seccomp_filter) + n * sizeof(struct insn);
}

static struct seccomp_filter *make(u32 n)
{
	struct seccomp_filter *f = host_alloc(bytes_of(n));
	if (f)
		f->n = n;
	return f;
}

static void let_go(struct seccomp_filter *f)
{
	while (f && atomic_fetch_sub(&f->users, 1) == 1) {
		struct seccomp_filter *below = f->below;
		host_free(f, bytes_of(f->n));
		f = below;
	}
}

/* The lock is held. */
static void point_to(struct thread *t, struct seccomp_filter *f)
{
	struct seccomp_filter *old = t->filters;
	if (f)
		atomic_fetch_add(&f->users, 1);
	atomic_store(&t->filters, f);
	let_go(old);
}

void seccomp_inherit(struct thread *t, const struct thread *from)
{
	if (!t->filters && !(from && from->filters)) /* a TSYNC at this moment finds both threads */
		return;
	lock_acquire(&filters_lock);
	point_to(t, from ? from->filters : NULL);
	lock_release(&filters_lock);
}

struct lock *seccomp_lock(void)
{
	return &filters_lock;
}

static bool is_below(const struct seccomp_filter *f, const struct seccomp_filter *top)
{
	while (f && top && top != f)
		top = top->below;
	return !f || top;
}

/* TSYNC, the lock is held: the first thread that has filters of its own, or NULL. */
static struct thread *diverged(struct thread *t)
{
	for (u32 i = 0; i < VCPU_MAX && threads.entry[i]; i++) {
		struct thread *o = threads.entry[i];
		if (o != t && o->state == THREAD_USED && o->proc == t->proc && !is_below(o->filters, t->filters))
			return o;
	}
	return NULL;
}

/* 0, the tid of a thread that cannot follow, or -errno. */
static long put_on_top(struct thread *t, struct seccomp_filter *f, bool every_thread)
{
	lock_acquire(&filters_lock);
	struct seccomp_filter *below = t->filters;
	struct thread *other = every_thread ? diverged(t) : NULL;
	f->total = f->n + FILTER_PRICE + (below ? below->total : 0);
	long r = below && below->strict ? -EINVAL : f->total > PATH_MAX_INSNS ? -ENOMEM : other ? other->tid : 0;
	if (!r) {
		f->below = below;
		if (below)
			atomic_fetch_add(&below->users, 1);
		for (u32 i = 0; every_thread && i < VCPU_MAX && threads.entry[i]; i++) {
			struct thread *o = threads.entry[i];
			if (o != t && o->state == THREAD_USED && o->proc == t->proc)
				point_to(o, f);
		}
		point_to(t, f);
	}
	lock_release(&filters_lock);
	return r;
}

/* --- the calls -------------------------------------------------------------------------------------------------------------------- */

#define SET_MODE_STRICT 0
#define SET_MODE_FILTER 1
#define GET_ACTION_AVAIL 2
#define FLAG_TSYNC 1u
#define FLAG_LOG 2u        /* what is not allowed is in the trace anyhow */
#define FLAG_SPEC_ALLOW 4u
#define FLAG_TSYNC_ESRCH 16u
#define CAP_SYS_ADMIN 21

static long set_strict(struct thread *t)
{
	if (policy_filters(t->proc->policy) || (t->filters && !t->filters->strict))
		return -EINVAL; /* the kernel knows one mode a thread */
	if (t->filters)
		return 0;
	struct seccomp_filter *f = make(0);
	if (!f)
		return -ENOMEM;
	f->strict = true;
	long r = put_on_top(t, f, false);
	if (r)
		host_free(f, bytes_of(0));
	return r;
}

static long set_filter(struct thread *t, u32 flags, u64 program)
{
	struct {
		u16 n, pad[3];
		u64 insns;
	} fprog;
	if (flags & ~(FLAG_TSYNC | FLAG_LOG | FLAG_SPEC_ALLOW | FLAG_TSYNC_ESRCH))
		return -EINVAL;
	if (copy_from_guest(&fprog, gptr_of(program), sizeof fprog))
		return -EFAULT;
	if (!fprog.n || fprog.n > INSNS_MAX || !fprog.insns)
		return -EINVAL;
	if (!t->proc->no_new_privs && !capable(CAP_SYS_ADMIN))
		return -EACCES;
	struct seccomp_filter *f = make(fprog.n);
	if (!f)
		return -ENOMEM;
	long r = copy_from_guest(f->insn, gptr_of(fprog.insns), fprog.n * sizeof(struct insn)) ? -EFAULT : valid(f->insn, fprog.n) ? 0 : -EINVAL;
	if (!r && flags & FLAG_TSYNC) { /* not to a thread that is just writing down its filters for the next program */
		lock_acquire(&t->proc->exec_lock);
		r = put_on_top(t, f, true);
		lock_release(&t->proc->exec_lock);
	} else if (!r) {
		r = put_on_top(t, f, false);
	}
	if (r)
		host_free(f, bytes_of(fprog.n));
	else
		peer_tell_status(t->proc);
	return r > 0 && flags & FLAG_TSYNC_ESRCH ? -ESRCH : r;
}

static long action_available(u64 va)
{
	static const u32 known[] = {KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, TRACE, LOG, ALLOW};
	u32 action;
	if (copy_from_guest(&action, gptr_of(va), sizeof action))
		return -EFAULT;
	for (u32 i = 0; i < ARRAY_LEN(known); i++)
		if (known[i] == action)
			return 0;
	return -EOPNOTSUPP;
}

long seccomp_prctl(struct thread *t, u64 mode, u64 program)
{
	return mode == SECCOMP_MODE_STRICT ? set_strict(t) : mode == SECCOMP_MODE_FILTER ? set_filter(t, 0, program) : -EINVAL;
}

long h_seccomp(struct thread *t, struct call *c)
{
	u32 flags = (u32)c->arg[1];
	switch ((u32)c->arg[0]) {
	case SET_MODE_STRICT:
		return flags || c->arg[2] ? -EINVAL : set_strict(t);
	case SET_MODE_FILTER:
		return set_filter(t, flags, c->arg[2]);
	case GET_ACTION_AVAIL:
		return flags ? -EINVAL : action_available(c->arg[2]);
	default:
		return -EINVAL;
	}
}

/* --- for /proc and for the next program ---------------------------------------------------------------------------------------------- */

u32 seccomp_count(const struct proc *p, u32 *mode)
{
	u32 n = 0;
	*mode = 0;
	for (u32 i = 0; i < VCPU_MAX && threads.entry[i]; i++) {
		const struct thread *t = threads.entry[i];
		if (t->state == THREAD_FREE || t->proc != p || t->tid != p->pid || !t->filters)
			continue;
		lock_acquire(&filters_lock);
		for (const struct seccomp_filter *f = t->filters; f; f = f->below) {
			*mode = f->strict ? SECCOMP_MODE_STRICT : SECCOMP_MODE_FILTER;
			n += !f->strict;
		}
		lock_release(&filters_lock);
	}
	return n;
}

/* Oldest last: a word with the number of instructions (strict: 0), the instructions. The caller has the process' exec_lock: no other thread
 * adds one meanwhile. */

u64 seccomp_size(const struct thread *t)
{
	u64 size = 0;
	for (const struct seccomp_filter *f = t->filters; f; f = f->below)
		size += 8 + f->n * sizeof(struct insn);
	return size;
}

void seccomp_save(const struct thread *t, u8 *buf)
{
	for (const struct seccomp_filter *f = t->filters; f; f = f->below) {
		u64 n = f->n;
		memcpy(buf, &n, sizeof n);
		memcpy(buf + 8, f->insn, n * sizeof(struct insn));
		buf += 8 + n * sizeof(struct insn);
	}
}

bool seccomp_restore(struct thread *t, const u8 *buf, u64 len)
{
	struct seccomp_filter *above = NULL;
	u64 at = 0, n;
	for (; at + 8 <= len; at += 8 + n * sizeof(struct insn)) {
		memcpy(&n, buf + at, sizeof n);
		if (n > INSNS_MAX || at + 8 + n * sizeof(struct insn) > len || (n && !valid((const struct insn *)(buf + at + 8), (u32)n)))
			return false;
		struct seccomp_filter *f = make((u32)n);
		if (!f)
			return false;
		f->strict = !n;
		f->users = 1;
		memcpy(f->insn, buf + at + 8, n * sizeof(struct insn));
		if (above)
			above->below = f;
		else
			t->filters = f;
		above = f;
	}
	u32 total = 0;
	for (struct seccomp_filter *f = t->filters; f; f = f->below)
		total += f->n + FILTER_PRICE;
	for (struct seccomp_filter *f = t->filters; f; f = f->below) {
		f->total = total;
		total -= f->n + FILTER_PRICE;
	}
	return at == len;
}
