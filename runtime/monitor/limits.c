/* Resource limits. Two of them are numbers of the guest's that the monitor keeps, because the host's govern the monitor as well:
 * RLIMIT_STACK (its own stack) and RLIMIT_NOFILE (descriptors of its own, which a low limit would leave no room for). */
#include "linux_abi.h"
#include "monitor.h"
#include "syscalls/handlers.h"

#define NOFILE_FLOOR 1024ul /* the host's limit is never lower, unless its hard limit is */
#define CAP_SYS_RESOURCE 24

struct rlimit_k {
	u64 cur, max;
};

bool capable(u32 capability)
{
	struct {
		u32 version;
		i32 pid;
	} head = {0x20080522, 0};
	struct {
		u32 effective, permitted, inheritable;
	} set[2] = {{0, 0, 0}, {0, 0, 0}};
	return !host_call(__NR_capget, &head, set) && set[capability / 32].effective >> capability % 32 & 1;
}

static u64 least(u64 a, u64 b)
{
	return a < b ? a : b;
}

static u64 most(u64 a, u64 b)
{
	return a > b ? a : b;
}

/* What the host's limit becomes when the guest's does. It only rises where the guest asks for more than there is. */
static struct rlimit_k host_nofile(const struct rlimit_k *guest, const struct rlimit_k *host)
{
	u64 max = most(guest->max, least(NOFILE_FLOOR, host->max));
	return (struct rlimit_k){.cur = most(guest->cur, least(NOFILE_FLOOR, max)), .max = max};
}

static long set_nofile(struct proc *p, const struct rlimit_k *new)
{
	struct rlimit_k host, want;
	if (new->cur > new->max)
		return -EINVAL;
	if (new->max > p->nofile[1] && !capable(CAP_SYS_RESOURCE))
		return -EPERM;
	long r = host_call(__NR_prlimit64, 0, RLIMIT_NOFILE, 0, &host);
	if (r)
		return r;
	want = host_nofile(new, &host);
	r = host_call(__NR_prlimit64, 0, RLIMIT_NOFILE, &want, 0);
	if (r)
		return r;
	p->nofile[0] = new->cur;
	p->nofile[1] = new->max;
	return 0;
}

static long set_stack(struct proc *p, const struct rlimit_k *new, u64 old_max)
{
	if (new->cur > new->max)
		return -EINVAL;
	if (new->max != old_max) { /* only the ceiling is the kernel's affair; a soft limit above it cannot stay */
		struct rlimit_k host = {new->max, new->max};
		long r = host_call(__NR_prlimit64, 0, RLIMIT_STACK, &host, 0);
		if (r)
			return r;
	}
	p->stack_limit = new->cur;
	return 0;
}

/* A process of the container that is not the caller: its monitor needs its descriptors too. */
static long other_limit(i32 pid, u32 which, struct rlimit_k *new, struct rlimit_k *old)
{
	if (new && which == RLIMIT_NOFILE && new->cur <= new->max) {
		long r = host_call(__NR_prlimit64, pid, which, 0, old);
		if (r)
			return r;
		*new = host_nofile(new, old);
	}
	return host_call(__NR_prlimit64, pid, which, new, old);
}

static long limit_call(struct thread *t, i32 pid, u32 which, u64 set_va, u64 get_va)
{
	struct proc *p = t->proc;
	struct rlimit_k new, old;
	if (set_va && copy_from_guest(&new, gptr_of(set_va), sizeof new))
		return -EFAULT;
	struct rlimit_k *set = set_va ? &new : NULL;
	bool own = !pid || pid == p->pid || (pid > 0 && proc_has_thread(p, pid)), kept = own && (which == RLIMIT_STACK || which == RLIMIT_NOFILE);
	long r = other_limit(pid, which, kept ? NULL : set, &old);
	if (!r && kept && which == RLIMIT_STACK) {
		old.cur = p->stack_limit;
		r = set ? set_stack(p, set, old.max) : 0;
	} else if (!r && kept) {
		old = (struct rlimit_k){p->nofile[0], p->nofile[1]};
		r = set ? set_nofile(p, set) : 0;
	}
	if (r)
		return r;
	return get_va ? copy_to_guest(gptr_of(get_va), &old, sizeof old) : 0;
}

long h_getrlimit(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	return a[1] ? limit_call(t, 0, (u32)a[0], 0, a[1]) : -EFAULT;
}

long h_setrlimit(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	return a[1] ? limit_call(t, 0, (u32)a[0], a[1], 0) : -EFAULT;
}

long h_prlimit64(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	return limit_call(t, (i32)a[0], (u32)a[1], a[2], a[3]);
}
