/* The memory system calls: what the guest asks for, checked, then mm.c. */
#include "linux_abi.h"
#include "proc.h"
#include "signal.h"
#include "syscalls/handlers.h"

#define ST_NOEXEC 8
#define SHM_RND 020000u
#define SHM_REMAP 040000u
#define IPC_STAT 2

/* Guest text is mapped without PROT_EXEC on the host, so the kernel's noexec check is made here. */
static bool on_noexec(int fd)
{
	u64 fs[15];
	return !host_call(__NR_fstatfs, fd, fs) && fs[10] & ST_NOEXEC;
}

/* A loader has the kernel choose a place for a file, or reserves one, and puts the segments in there. Who puts a file where nothing was
 * keeps a map of its own: valgrind, which translates the text that it finds. That must be the file's then, without trampolines. */
static bool wanted_as_is(struct mm *mm, u64 addr, u32 flags)
{
	if (!(flags & MAP_FIXED))
		return false;
	lock_acquire(&mm->lock);
	const struct region *there = mm_find(mm, addr);
	bool as_is = !there || there->flags & REGION_AS_IS;
	lock_release(&mm->lock);
	return as_is;
}

long h_mmap(struct thread *t, struct call *c)
{
	u32 prot = (u32)c->arg[2], flags = (u32)c->arg[3] & ~MAP_AS_IS;
	u64 len = c->arg[1];
	int fd = (int)c->arg[4];
	if (c->arg[5] % PAGE)
		return -EINVAL;
	if (flags & MAP_ANONYMOUS) {
		fd = -1;
	} else if (!fd_published(t->proc, fd)) {
		return -EBADF;
	}
	if (c->arg[2] & ~0x300000full)
		return -EINVAL;
	/* The kernel rounds lengths of huge pages up by rules of its own, over what lies behind. As with an empty pool of them. */
	if (flags & MAP_ANONYMOUS && flags & MAP_HUGETLB)
		return refuse(t, -ENOMEM);
	if (!len)
		return -EINVAL;
	if (fd < 0)
		return mm_map(t->proc->mm, c->arg[0], len, prot, flags, fd, 0);
	int own = fd_own(t->proc, fd); /* looked at, copied from and mapped */
	bool none = own < 0; /* the table is full: then without plan and pool, for which it must be the same file */
	if (none)
		own = fd;
	if (wanted_as_is(t->proc->mm, c->arg[0], flags)) {
		none = true;
		flags |= MAP_AS_IS;
	}
	long r = prot & PROT_EXEC && on_noexec(own) ? -EPERM
	       : none				    ? mm_map(t->proc->mm, c->arg[0], len, prot, flags, own, c->arg[5])
						    : plan_map(t->proc, t->proc->mm, c->arg[0], len, prot, flags, own, c->arg[5]);
	if (!IS_ERR(r) && prot & PROT_EXEC)
		proc_trace_map(t->proc, t->tid, (u64)r, len, own, c->arg[5]);
	fd_own_close(own, fd);
	return r;
}

long h_munmap(struct thread *t, struct call *c)
{
	return mm_unmap(t->proc->mm, c->arg[0], c->arg[1]);
}

long h_mprotect(struct thread *t, struct call *c)
{
	return mm_protect(t->proc->mm, c->arg[0], c->arg[1], (u32)c->arg[2]);
}

long h_brk(struct thread *t, struct call *c)
{
	return mm_brk(t->proc->mm, c->arg[0]);
}

long h_mremap(struct thread *t, struct call *c)
{
	return mm_remap(t->proc->mm, c->arg[0], c->arg[1], c->arg[2], (u32)c->arg[3], c->arg[4]);
}

long h_madvise(struct thread *t, struct call *c)
{
	u64 addr = c->arg[0], len = c->arg[1];
	if (addr % PAGE)
		return -EINVAL;
	if (addr > PSB_GUEST_LIMIT || len > PSB_GUEST_LIMIT - addr)
		return -ENOMEM;
	return mm_advise(t->proc->mm, addr, ROUND_UP(len, PAGE), (int)c->arg[2]);
}

#define SHM_HUGETLB 04000u
long h_shmget(struct thread *t, struct call *c)
{
	if (c->arg[2] & SHM_HUGETLB) /* see h_mmap(); what a kernel says without the right */
		return refuse(t, -EPERM);
	return host_call(__NR_shmget, (i64)(i32)c->arg[0], c->arg[1], (u32)c->arg[2]);
}

long h_shmat(struct thread *t, struct call *c)
{
	int id = (int)c->arg[0];
	u32 flags = (u32)c->arg[2];
	u64 addr = c->arg[1], ds[16];
	long r = host_call(__NR_shmctl, id, IPC_STAT, ds);
	if (r < 0)
		return r;
	u64 len = ROUND_UP(ds[6], PAGE); /* shm_segsz follows the 48-byte ipc_perm */
	if (flags & SHM_RND)
		addr = ROUND_DOWN(addr, PAGE);
	if (addr % PAGE || (addr && (addr > PSB_GUEST_LIMIT || len > PSB_GUEST_LIMIT - addr)) || (flags & SHM_REMAP && !addr))
		return -EINVAL;
	return mm_attach_shm(t->proc->mm, id, addr, len, flags);
}

long h_shmdt(struct thread *t, struct call *c)
{
	return mm_detach_shm(t->proc->mm, c->arg[0]);
}

long h_pkey_mprotect(struct thread *t, struct call *c)
{
	/* Protection keys are not offered (CPUID hides them): only "no key" exists, as on a CPU without them. */
	return (int)c->arg[3] == -1 ? mm_protect(t->proc->mm, c->arg[0], c->arg[1], (u32)c->arg[2]) : -EINVAL;
}
