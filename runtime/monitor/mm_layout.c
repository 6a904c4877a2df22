/* A new address space: what lies where. */
#include "kvm.h"
#include "mm.h"

#define MAX_FILES 4096

static u64 random_u64(void)
{
	u64 r = 0;
	if (host_call(__NR_getrandom, &r, sizeof r, 0) != sizeof r)
		fatal("getrandom failed");
	return r;
}

#define RLIMIT_AS 9
/* How much of the address space the stack gets. The kernel's grows as it is used; ours is mapped as a whole, and must leave most of
 * what RLIMIT_AS allows to the program. */
static u64 stack_size(u64 limit)
{
	u64 space[2] = {~0ul, ~0ul};
	host_call(__NR_prlimit64, 0, RLIMIT_AS, 0, space);
	u64 most = space[0] / 16 < 1ul << 30 ? space[0] / 16 : 1ul << 30;
	u64 size = limit < most ? limit : most;
	return size < (64ul << 10) ? 64ul << 10 : size;
}

/* Address-space layout. Two neighbourhoods, each starting in one chunk so that a small program needs two memory slots:
 * the program with its heap, and (top down) shim and slots, vDSO, stack, mmap area. Randomised like the kernel does: the
 * chunk by 2^17 or more, the place within by pages. */
static void choose_layout(struct mm *mm, u64 stack_limit)
{
	u64 r = random_u64();
	u64 zone = 0x400000000000ul + (r & 0x1ffff) % 0x30000 * CHUNK_SIZE;
	u64 top = zone + CHUNK_SIZE - ((r >> 20) & 0xfff) * PAGE;
	u64 size = stack_size(stack_limit);
	mm->slots = top - VCPU_MAX * PSB_SLOT_SIZE;
	mm->shim = mm->slots - PAGE;
	mm->stack_top = mm->shim - 32 * PAGE; /* the vDSO goes in between */
	mm->stack_low = ROUND_DOWN(mm->stack_top - size, PAGE);
	mm->mmap_top = mm->stack_low - 256 * PAGE;
	mm->exe_base = 0x2a0000000000ul + ((r >> 32) & 0x1ffff) * CHUNK_SIZE + ((r >> 50) & 0x7ff) * PAGE;
}

long mm_init(struct mm *mm, struct vm *vm, u64 stack_limit)
{
	mm->vm = vm;
	mm->max_chunks = 16000;
	mm->chunk_of = host_alloc(PSB_GUEST_LIMIT / CHUNK_SIZE * sizeof *mm->chunk_of);
	mm->chunk_va = host_alloc(mm->max_chunks * sizeof *mm->chunk_va);
	mm->file = host_alloc(MAX_FILES * sizeof *mm->file);
	if (!mm->chunk_of || !mm->chunk_va || !mm->file || mm_grow_regions(mm))
		return -ENOMEM;
	choose_layout(mm, stack_limit);
	return 0;
}

long mm_reattach(struct mm *mm)
{
	mm->lock_new = MM_LOCK_NONE; /* as the kernel's locks end with a fork */
	for (u32 i = 0; i < mm->nchunks; i++) {
		long r = vm_add_chunk(mm->vm, i, mm->chunk_va[i]);
		if (r)
			return r;
	}
	return 0;
}
