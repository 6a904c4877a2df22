/* mlockall and munlockall, over the program's regions: the kernel's would lock the monitor's memory as well, and count it. */
#include "linux_abi.h"
#include "maps.h"
#include "mm.h"
#include "syscalls/handlers.h"

#define MCL_CURRENT 1u
#define MCL_FUTURE 2u
#define MCL_ONFAULT 4u
#define MLOCK_ONFAULT 1u
#define RLIMIT_MEMLOCK 8
#define CAP_IPC_LOCK 14

/* 0, or why the kernel would not do it. `size`: bytes to be locked. */
static long may_lock(u64 size)
{
	u64 limit[2];
	long r = host_call(__NR_prlimit64, 0, RLIMIT_MEMLOCK, 0, limit);
	if (r || capable(CAP_IPC_LOCK))
		return r;
	return !limit[0] ? -EPERM : size > limit[0] ? -ENOMEM : 0;
}

/* The stack, which the kernel would let grow, has all its room from the beginning: only what is used of it counts. The lock is held. */
static void each_region(const struct mm *mm, u64 stack_used, long nr, u32 flags)
{
	for (u32 i = 0; i < mm->nregions; i++) {
		const struct region *g = &mm->region[i];
		u64 start = g->start, len = g->end - g->start;
		if (g->flags & REGION_HIDDEN)
			continue;
		if (start < mm->stack_top && g->end > mm->stack_low && len > stack_used) {
			start = g->end - stack_used;
			len = stack_used;
		}
		host_call(nr, start, len, flags); /* what fails fails alone, as in the kernel */
	}
}

long h_mlockall(struct thread *t, struct call *c)
{
	struct mm *mm = t->proc->mm;
	u32 flags = (u32)c->arg[0], how = flags & MCL_ONFAULT ? MLOCK_ONFAULT : 0;
	if (!flags || flags == MCL_ONFAULT || flags & ~(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT))
		return -EINVAL;
	struct mm_sizes size;
	mm_sizes(mm, &size);
	long r = may_lock(flags & MCL_CURRENT ? size.all : 0);
	if (r)
		return r;
	lock_acquire(&mm->lock);
	mm->lock_new = flags & MCL_FUTURE ? flags & MCL_ONFAULT ? MM_LOCK_TOUCHED : MM_LOCK_ALL : MM_LOCK_NONE;
	if (flags & MCL_CURRENT)
		each_region(mm, size.stack, __NR_mlock2, how);
	lock_release(&mm->lock);
	return 0;
}

long h_munlockall(struct thread *t, struct call *c)
{
	(void)c;
	struct mm *mm = t->proc->mm;
	lock_acquire(&mm->lock);
	mm->lock_new = MM_LOCK_NONE;
	each_region(mm, ~0ul, __NR_munlock, 0);
	lock_release(&mm->lock);
	return 0;
}

u32 mm_map_flags(const struct mm *mm)
{
	return mm->lock_new == MM_LOCK_ALL ? MAP_LOCKED : 0;
}

long mm_lock_mapped(const struct mm *mm, u64 addr, u64 len)
{
	if (mm->lock_new != MM_LOCK_TOUCHED)
		return 0;
	long r = host_call(__NR_mlock2, addr, len, MLOCK_ONFAULT);
	return r == -ENOMEM || r == -EPERM ? r : 0; /* the limit */
}
