/* Resource limits. Two of them are numbers of the guest's that the monitor keeps, because the host's govern the monitor as well:
 * RLIMIT_STACK (its own stack) and RLIMIT_NOFILE (descriptors of its own, which a low limit would leave no room for). */
#include "linux_abi.h"
#include "monitor.h"
#include "peer.h"
#include "syscalls/handlers.h"

#define CAP_SYS_RESOURCE 24
/* The kernel maps a new program below as much room as the stack's soft limit says, and a monitor has to find its place above the guest's
 * memory. */
#define STACK_MOST (1ul << 40)
#define RLIM_INFINITY (~0ul)

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

static u64 with_room(u64 n)
{
	u64 base = most(n, MONITOR_NOFILE_ROOM); /* a low limit comes after the monitor's descriptors have their places */
	return base < RLIM_INFINITY - MONITOR_NOFILE_ROOM ? base + MONITOR_NOFILE_ROOM : n;
}

/* The host's limit becomes the guest's and room for the monitor's own: a program that has used all its numbers can still fork, make threads
 * and run programs. The host's ceiling can only rise with the right to it, and never above what the kernel takes at all. */
static long set_host_nofile(i32 pid, const struct rlimit_k *guest, const struct rlimit_k *host)
{
	u64 ceiling[2] = {with_room(guest->max), most(guest->max, least(with_room(guest->max), host->max))};
	long r = -EPERM;
	for (u32 i = 0; r == -EPERM && i < 2; i++) {
		struct rlimit_k want = {.cur = least(with_room(guest->cur), ceiling[i]), .max = ceiling[i]};
		r = host_call(__NR_prlimit64, pid, RLIMIT_NOFILE, &want, 0);
	}
	return r;
}

static long set_nofile(struct proc *p, const struct rlimit_k *new)
{
	struct rlimit_k host;
	if (new->cur > new->max)
		return -EINVAL;
	if (new->max > p->nofile[1] && !capable(CAP_SYS_RESOURCE))
		return -EPERM;
	long r = host_call(__NR_prlimit64, 0, RLIMIT_NOFILE, 0, &host);
	if (!r)
		r = set_host_nofile(0, new, &host);
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
		struct rlimit_k host = {least(new->max, STACK_MOST), new->max};
		long r = host_call(__NR_prlimit64, 0, RLIMIT_STACK, &host, 0);
		if (r)
			return r;
	}
	p->stack_limit = new->cur;
	return 0;
}

/* A process of the container that is not the caller: its monitor needs its descriptors too, and tells what its program's limits are. */
static long other_limit(struct proc *p, i32 pid, u32 which, struct rlimit_k *new, struct rlimit_k *old)
{
	bool files = which == RLIMIT_NOFILE;
	if (new && which == RLIMIT_STACK && new->cur <= new->max)
		new->cur = least(new->cur, STACK_MOST);
	long r = host_call(__NR_prlimit64, pid, which, new && !files ? new : NULL, old);
	if (r || (!files && which != RLIMIT_STACK))
		return r;
	if (new && files)
		r = new->cur > new->max ? -EINVAL : set_host_nofile(pid, new, old);
	struct peer_status s = peer_status(p, (u32)pid);
	if (s.threads)
		*old = files ? (struct rlimit_k){s.nofile[0], s.nofile[1]} : (struct rlimit_k){s.stack, old->max};
	return r;
}

static long limit_call(struct thread *t, i32 pid, u32 which, u64 set_va, u64 get_va)
{
	struct proc *p = t->proc;
	struct rlimit_k new, old;
	if (set_va && copy_from_guest(&new, gptr_of(set_va), sizeof new))
		return -EFAULT;
	struct rlimit_k *set = set_va ? &new : NULL;
	bool own = !pid || pid == p->pid || (pid > 0 && proc_has_thread(p, pid)), kept = own && (which == RLIMIT_STACK || which == RLIMIT_NOFILE);
	long r = own ? host_call(__NR_prlimit64, 0, which, kept ? NULL : set, &old) : other_limit(p, pid, which, set, &old);
	if (!r && kept && which == RLIMIT_STACK) {
		old.cur = p->stack_limit;
		r = set ? set_stack(p, set, old.max) : 0;
	} else if (!r && kept) {
		old = (struct rlimit_k){p->nofile[0], p->nofile[1]};
		r = set ? set_nofile(p, set) : 0;
	}
	if (r)
		return r;
	if (set && kept)
		peer_tell_status(p);
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
