/* The guest's address space: regions (what the guest may do where), guest page tables (what the CPU lets it do), and the
 * host mappings at the same addresses, kept in step under one lock. */
#ifndef PSB_MM_H
#define PSB_MM_H

#include "monitor.h"

#define PROT_READ 1
#define PROT_WRITE 2
#define PROT_EXEC 4
#define MAP_SHARED 1
#define MAP_PRIVATE 2
#define MAP_SHARED_VALIDATE 3
#define MAP_TYPE 15
#define MAP_FIXED 0x10
#define MAP_ANONYMOUS 0x20
#define MAP_32BIT 0x40
#define MAP_GROWSDOWN 0x100
#define MAP_LOCKED 0x2000
#define MAP_NORESERVE 0x4000
#define MAP_POPULATE 0x8000
#define MAP_HUGETLB 0x40000
#define MAP_FIXED_NOREPLACE 0x100000
#define MAP_AS_IS 0x80000000u /* ours: the region gets REGION_AS_IS */
#define PROT_GROWSDOWN 0x01000000u

/* Region flags. */
#define REGION_HIDDEN 1 /* monitor's own pages below the limit (shim, slots): the guest can neither change nor see them */
#define REGION_TRAMP 2  /* trampolines of a rewritten ELF: hidden in maps, replaced without objection */
#define REGION_SHARED 4 /* MAP_SHARED */
#define REGION_SHM 16   /* attached by shmat: `offset` is 0 at its start */
#define REGION_AS_IS 32 /* of a file, put where nothing was: see h_mmap() */
#define REGION_IMAGE 8  /* text mapped from the plan store; `file` says what it stands for */

struct region {
	u64 start, end;
	u8 prot;
	u8 flags;
	u16 file;   /* REGION_IMAGE: index + 1 into mm->file */
	u32 pool;   /* page of the text pool that start is shown from, 0: from the host mapping at the same address */
	u64 offset; /* REGION_IMAGE: file offset of start */
};

/* A file whose text is mapped from the plan store. */
struct image_file {
	struct psb_plan_key key;
	u64 store_off;              /* of its image, 0: none */
	struct image_sites *sites;  /* NULL: not looked for yet, or in vain; owner: sites.c */
	bool sites_tried;
	char path[256];
};

struct mm {
	struct lock lock;
	struct vm *vm;
	struct region *region;
	u32 nregions, room;
	u64 mmap_top, exe_base;
	u64 brk_start, brk;
	u64 stack_low, stack_top;
	u64 shim, slots;        /* hidden pages: shim text; psb_slot[VCPU_MAX] */
	u64 vdso;               /* AT_SYSINFO_EHDR, 0: none */
	u32 *chunk_of;          /* chunk number + 1 by va / CHUNK_SIZE */
	u64 *chunk_va;          /* by chunk number */
	u32 nchunks;
	u32 max_chunks;
	struct image_file *file;
	u32 nfiles;
	bool gs_given;          /* the program uses GS itself: trampolines leave the VM. Owner: emulate.c */
	u8 lock_new;            /* MM_LOCK_*: mlockall(MCL_FUTURE) */
	_Atomic u32 users;      /* threads of all processes that share this memory */
};

#define MM_LOCK_NONE 0
#define MM_LOCK_ALL 1     /* new mappings are locked */
#define MM_LOCK_TOUCHED 2 /* page by page, as they are touched */

long mm_init(struct mm *mm, struct vm *vm, u64 stack_limit);
/* Forked child: the VM is new, the slots are put back. */
long mm_reattach(struct mm *mm);
/* mmap at `addr` (chosen when 0 without MAP_FIXED) of a descriptor already checked. Lock held by the functions themselves. */
long mm_map(struct mm *mm, u64 addr, u64 len, u32 prot, u32 flags, int fd, u64 offset);
/* The same for a private mapping without PROT_WRITE whose first `pooled` bytes (page multiple, 0: none) are in the text pool, from
 * page `pool` on. */
long mm_map_pooled(struct mm *mm, u64 addr, u64 len, u32 prot, u32 flags, int fd, u64 offset, u32 pool, u64 pooled);
/* mm_lock.c: for a new mapping's mmap, and behind it. Lock held. */
u32 mm_map_flags(const struct mm *mm);
long mm_lock_mapped(const struct mm *mm, u64 addr, u64 len);
long mm_unmap(struct mm *mm, u64 addr, u64 len);
long mm_protect(struct mm *mm, u64 addr, u64 len, u32 prot);
long mm_brk(struct mm *mm, u64 addr);
long mm_remap(struct mm *mm, u64 old, u64 old_len, u64 new_len, u32 flags, u64 new_addr);
long mm_advise(struct mm *mm, u64 addr, u64 len, int advice);
long mm_attach_shm(struct mm *mm, int id, u64 addr, u64 len, u32 flags);
long mm_detach_shm(struct mm *mm, u64 addr);
/* Makes pages of one writable region present before they are touched. */
void mm_fill(struct mm *mm, u64 start, u64 end);
/* After a fork: has what is likely to be written next copied at once, where the stack pointer is and beside the code that forked. */
void mm_own_likely(struct mm *mm, u64 sp, u64 code);
/* A page fault of the guest. 0: try again; else SEGV_MAPERR (1) or SEGV_ACCERR (2). */
int mm_fault(struct mm *mm, u64 va, u64 err);
/* The following expect the lock to be held. */
u64 mm_find_gap(struct mm *mm, u64 len, u64 low, u64 high);
bool mm_is_free(struct mm *mm, u64 addr, u64 len);
long mm_grow_regions(struct mm *mm); /* room for more of them. 0 or -errno */
/* Records a host mapping just made at [addr, addr+len) and fills the guest page tables. */
long mm_insert(struct mm *mm, struct region r);
/* Shows the regions in [start, end) from their host mapping, which is, or is about to be, another's content than the pool's. */
void mm_leave_pool(struct mm *mm, u64 start, u64 end);
const struct region *mm_find(struct mm *mm, u64 va);

#endif
