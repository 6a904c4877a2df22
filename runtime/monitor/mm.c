/* Guest address space. Invariants:
 *  - a guest PTE never grants more than the region does, and a region lies wholly below PSB_GUEST_LIMIT;
 *  - rights are taken away first in the PTE, then on the host (whose MMU notifier makes KVM forget its own copy of the
 *    translation), and given first on the host, then in the PTE;
 *  - a page-table page, once linked, keeps its place: KVM's shadow of it then never describes another range;
 *  - GPA = f(VA) through the chunk table, so a stale table could only name the same memory; text shown from the pool is the
 *    exception: its translations are dropped through the pool's own host mapping. */
#include "linux_abi.h"
#include "mm.h"
#include "mm_tables.h"
#include "kvm.h"

#define EAGER_LIMIT (20ul << 20) /* larger regions get their PTEs on the first touch, 2 MiB at a time */
/* Private writable mappings up to this are filled when made: a heap's step, an arena; data segments, most of whose pages hold
 * addresses that the loader relocates. */
#define FILL_ANON (1ul << 20)
#define FILL_FILE (4ul << 20)
#define OWN_DATA (64ul << 10)

/* The page of the text pool that va, which lies in g, is shown from; 0: none. */
static u32 pool_page(const struct region *g, u64 va)
{
	return g->pool ? g->pool + (u32)((va - g->start) / PAGE) : 0;
}

/* --- regions ---------------------------------------------------------------------------------------- */

/* Index of the first region that ends behind va. */
static u32 lower(struct mm *mm, u64 va)
{
	u32 lo = 0, hi = mm->nregions;
	while (lo < hi) {
		u32 mid = (lo + hi) / 2;
		if (mm->region[mid].end <= va)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

const struct region *mm_find(struct mm *mm, u64 va)
{
	u32 i = lower(mm, va);
	return i < mm->nregions && mm->region[i].start <= va ? &mm->region[i] : NULL;
}

bool mm_is_free(struct mm *mm, u64 addr, u64 len)
{
	u32 i = lower(mm, addr);
	return i == mm->nregions || mm->region[i].start >= addr + len;
}

long mm_grow_regions(struct mm *mm)
{
	u32 room = mm->room ? mm->room * 2 : 256;
	struct region *r = host_alloc(room * sizeof *r);
	if (!r)
		return -ENOMEM;
	memcpy(r, mm->region, mm->nregions * sizeof *r);
	host_free(mm->region, mm->room * sizeof *r);
	mm->region = r;
	mm->room = room;
	return 0;
}

static void insert_at(struct mm *mm, u32 i, struct region r)
{
	memmove(&mm->region[i + 1], &mm->region[i], (mm->nregions - i) * sizeof r);
	mm->region[i] = r;
	mm->nregions++;
}

static void delete_at(struct mm *mm, u32 i, u32 n)
{
	memmove(&mm->region[i], &mm->region[i + n], (mm->nregions - i - n) * sizeof *mm->region);
	mm->nregions -= n;
}

/* Makes va a region boundary. Needs room for one more region. */
static void split(struct mm *mm, u64 va)
{
	u32 i = lower(mm, va);
	if (i == mm->nregions || mm->region[i].start >= va)
		return;
	struct region head = mm->region[i];
	head.end = va;
	mm->region[i].offset += va - mm->region[i].start;
	mm->region[i].pool = pool_page(&mm->region[i], va);
	mm->region[i].start = va;
	insert_at(mm, i, head);
}

/* Room for the splits and insertions of one operation. */
static long ensure_room(struct mm *mm)
{
	return mm->nregions + 4 > mm->room ? mm_grow_regions(mm) : 0;
}

static bool mergeable(const struct region *a, const struct region *b)
{
	return a->end == b->start && a->prot == b->prot && a->flags == b->flags && a->file == b->file && !(a->flags & REGION_SHM) && (a->pool ? pool_page(a, a->end) == b->pool : !b->pool) &&
	       (!a->file || a->offset + (a->end - a->start) == b->offset);
}

static void merge_around(struct mm *mm, u32 i)
{
	if (i + 1 < mm->nregions && mergeable(&mm->region[i], &mm->region[i + 1])) {
		mm->region[i].end = mm->region[i + 1].end;
		delete_at(mm, i + 1, 1);
	}
	if (i > 0 && mergeable(&mm->region[i - 1], &mm->region[i])) {
		mm->region[i - 1].end = mm->region[i].end;
		delete_at(mm, i, 1);
	}
}

/* Forgets the regions in [start, end). */
static void forget(struct mm *mm, u64 start, u64 end)
{
	split(mm, start);
	split(mm, end);
	u32 i = lower(mm, start), n = 0;
	while (i + n < mm->nregions && mm->region[i + n].start < end)
		n++;
	if (n)
		delete_at(mm, i, n);
}

/* Takes the guest's access to [start, end) away. What the host mapping shows is forgotten by KVM when that changes, which the
 * caller sees to; what the pool shows, here. */
static void take_away(struct mm *mm, u64 start, u64 end)
{
	tables_set(mm, start, end, 0, 0);
	for (u32 i = lower(mm, start); i < mm->nregions && mm->region[i].start < end; i++) {
		const struct region *g = &mm->region[i];
		if (!g->pool)
			continue;
		u64 from = g->start > start ? g->start : start, to = g->end < end ? g->end : end;
		host_call(__NR_madvise, mm->vm->sys + POOL_GPA + pool_page(g, from) * PAGE, to - from, MADV_DONTNEED);
	}
}

void mm_leave_pool(struct mm *mm, u64 start, u64 end)
{
	for (u32 i = lower(mm, start); i < mm->nregions && mm->region[i].start < end; i++) {
		struct region *g = &mm->region[i];
		if (!g->pool)
			continue;
		take_away(mm, g->start, g->end);
		g->pool = 0;
		tables_set(mm, g->start, g->end, g->prot, 0);
	}
}

static bool touches_hidden(struct mm *mm, u64 start, u64 end)
{
	for (u32 i = lower(mm, start); i < mm->nregions && mm->region[i].start < end; i++)
		if (mm->region[i].flags & REGION_HIDDEN)
			return true;
	return false;
}

long mm_insert(struct mm *mm, struct region r)
{
	long e = ensure_room(mm);
	if (e)
		return e;
	forget(mm, r.start, r.end);
	u32 i = lower(mm, r.start);
	insert_at(mm, i, r);
	bool eager = r.end - r.start <= EAGER_LIMIT;
	merge_around(mm, i);
	if (eager && !tables_set(mm, r.start, r.end, r.prot, r.pool))
		return -ENOMEM;
	return 0;
}

/* Highest gap of len bytes in [low, high), or 0. */
u64 mm_find_gap(struct mm *mm, u64 len, u64 low, u64 high)
{
	u32 i = lower(mm, high - 1); /* first region ending at or behind high */
	u64 top = high;
	if (i < mm->nregions && mm->region[i].start < top)
		top = mm->region[i].start;
	for (;;) {
		u64 bottom = i > 0 ? mm->region[i - 1].end : 0;
		if (bottom < low)
			bottom = low;
		if (top > bottom && top - bottom >= len)
			return top - len;
		if (i == 0 || mm->region[i - 1].start <= low)
			return 0;
		i--;
		top = mm->region[i].start;
	}
}

/* --- operations --------------------------------------------------------------------------------------- */

static u32 host_prot(u32 prot)
{
	u32 p = prot & (PROT_READ | PROT_WRITE);
	return prot & (PROT_WRITE | PROT_EXEC) ? p | PROT_READ : p;
}

static u64 choose_address(struct mm *mm, u64 hint, u64 len, u32 flags)
{
	u64 limit = flags & MAP_32BIT ? 0x80000000 : PSB_GUEST_LIMIT;
	hint = ROUND_DOWN(hint, PAGE);
	if (hint >= 0x10000 && hint <= limit && len <= limit - hint && mm_is_free(mm, hint, len))
		return hint;
	if (flags & MAP_32BIT)
		return mm_find_gap(mm, len, 0x40000000, limit);
	u64 a = mm_find_gap(mm, len, 0x10000000, mm->mmap_top);
	/* below the mmap area is full: anywhere */
	return a ? a : mm_find_gap(mm, len, 0x10000, PSB_GUEST_LIMIT);
}

long mm_map(struct mm *mm, u64 addr, u64 len, u32 prot, u32 flags, int fd, u64 offset)
{
	return mm_map_pooled(mm, addr, len, prot, flags, fd, offset, 0, 0);
}

long mm_map_pooled(struct mm *mm, u64 addr, u64 len, u32 prot, u32 flags, int fd, u64 offset, u32 pool, u64 pooled)
{
	if (!len || len > PSB_GUEST_LIMIT || offset % PAGE)
		return len > PSB_GUEST_LIMIT ? -ENOMEM : -EINVAL;
	len = ROUND_UP(len, PAGE);
	bool fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE);
	if (fixed && (addr % PAGE))
		return -EINVAL;
	if (fixed && (addr > PSB_GUEST_LIMIT || len > PSB_GUEST_LIMIT - addr))
		return -ENOMEM;
	lock_acquire(&mm->lock);
	long r = ensure_room(mm);
	if (r)
		goto out;
	if (!fixed) {
		addr = choose_address(mm, addr, len, flags);
		if (!addr) {
			r = -ENOMEM;
			goto out;
		}
	} else if (touches_hidden(mm, addr, addr + len)) {
		r = flags & MAP_FIXED_NOREPLACE ? -EEXIST : -ENOMEM;
		goto out;
	}
	if (flags & MAP_FIXED_NOREPLACE && !mm_is_free(mm, addr, len)) {
		r = -EEXIST;
		goto out;
	}
	if (fixed) /* what was there is taken away first; on failure it is put back by the fault handler */
		take_away(mm, addr, addr + len);
	/* A first touch costs the guest a VM exit a page; pages that are there already come eight at a time (KVM prefetches
	 * writable ones). So what is small and private is filled at once, by the same host call. */
	if ((flags & MAP_TYPE) == MAP_PRIVATE && prot & PROT_WRITE && !(flags & MAP_NORESERVE) &&
	    len <= (flags & MAP_ANONYMOUS ? FILL_ANON : FILL_FILE))
		flags |= MAP_POPULATE;
	u8 kind = (u8)(((flags & MAP_TYPE) == MAP_PRIVATE ? 0 : REGION_SHARED) | (flags & MAP_AS_IS ? REGION_AS_IS : 0));
	u32 hflags = (flags & ~(u32)(MAP_AS_IS | MAP_32BIT | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE)) | MAP_FIXED | mm_map_flags(mm);
	r = host_call(__NR_mmap, addr, len, host_prot(prot), hflags, fd, offset);
	if (IS_ERR(r))
		goto out;
	if (mm_lock_mapped(mm, addr, len)) {
		host_call(__NR_munmap, addr, len);
		forget(mm, addr, addr + len);
		r = -EAGAIN;
		goto out;
	}
	if (pooled > len)
		pooled = len;
	long e = 0;
	if (pooled)
		e = mm_insert(mm, (struct region){.start = addr, .end = addr + pooled, .prot = (u8)(prot & 7), .pool = pool});
	if (!e && pooled < len)
		e = mm_insert(mm, (struct region){.start = addr + pooled, .end = addr + len, .prot = (u8)(prot & 7), .flags = kind});
	if (e) {
		take_away(mm, addr, addr + len);
		host_call(__NR_munmap, addr, len);
		forget(mm, addr, addr + len);
		r = e;
	}
out:
	lock_release(&mm->lock);
	return r;
}

long mm_unmap(struct mm *mm, u64 addr, u64 len)
{
	if (addr % PAGE || !len || addr > PSB_GUEST_LIMIT || len > PSB_GUEST_LIMIT - addr)
		return -EINVAL;
	len = ROUND_UP(len, PAGE);
	lock_acquire(&mm->lock);
	long r = ensure_room(mm);
	if (!r && touches_hidden(mm, addr, addr + len))
		r = -EINVAL;
	if (!r) {
		take_away(mm, addr, addr + len);
		r = host_call(__NR_munmap, addr, len);
		if (!r)
			forget(mm, addr, addr + len);
	}
	lock_release(&mm->lock);
	return r;
}

long mm_protect(struct mm *mm, u64 addr, u64 len, u32 prot)
{
	if (addr % PAGE)
		return -EINVAL;
	len = ROUND_UP(len, PAGE);
	if (!len)
		return 0;
	if (addr > PSB_GUEST_LIMIT || len > PSB_GUEST_LIMIT - addr)
		return -ENOMEM;
	prot &= ~8u; /* PROT_SEM means nothing on this machine */
	bool down = prot & PROT_GROWSDOWN;
	prot &= ~PROT_GROWSDOWN;
	if (prot & ~7u || (down && (addr < mm->stack_low || addr >= mm->stack_top))) /* only for memory that grows so */
		return -EINVAL;
	u64 end = addr + len;
	lock_acquire(&mm->lock);
	long r = ensure_room(mm);
	const struct region *grown = down ? mm_find(mm, addr) : NULL;
	if (grown)
		addr = grown->start < mm->stack_low ? mm->stack_low : grown->start, len = end - addr;
	if (!r && touches_hidden(mm, addr, end))
		r = -EACCES;
	if (r)
		goto out;
	mm_leave_pool(mm, addr, end);
	bool lost_exec = tables_restrict(mm, addr, end, prot);
	if (lost_exec) /* the host mapping does not change with PROT_EXEC: make KVM forget the page all the same */
		host_call(__NR_mprotect, addr, len, 0);
	r = host_call(__NR_mprotect, addr, len, host_prot(prot));
	if (r) /* part of it may have changed: the fault handler settles page by page from the regions, which stay */
		goto out;
	split(mm, addr);
	split(mm, end);
	for (u32 i = lower(mm, addr); i < mm->nregions && mm->region[i].start < end; i++) {
		struct region *g = &mm->region[i];
		g->prot = (u8)prot;
		if (g->end - g->start <= EAGER_LIMIT && !tables_set(mm, g->start, g->end, prot, 0))
			r = -ENOMEM;
	}
	u32 first = lower(mm, addr);
	if (first < mm->nregions)
		merge_around(mm, first);
	u32 last = lower(mm, end - 1);
	if (last < mm->nregions && last != first)
		merge_around(mm, last);
out:
	lock_release(&mm->lock);
	return r;
}

/* Moves or resizes one mapping. The host decides what is allowed (one VMA, permissions); regions and PTEs follow. */
long mm_remap(struct mm *mm, u64 old, u64 old_len, u64 new_len, u32 flags, u64 new_addr)
{
	enum { MAYMOVE = 1, FIXED = 2, DONTUNMAP = 4 };
	if (old % PAGE || !new_len || flags & ~7u || (flags & (FIXED | DONTUNMAP) && !(flags & MAYMOVE)))
		return -EINVAL;
	if (new_len > PSB_GUEST_LIMIT)
		return ROUND_UP(new_len, PAGE) ? -ENOMEM : -EINVAL;
	if (old > PSB_GUEST_LIMIT || old_len > PSB_GUEST_LIMIT - old)
		return -EFAULT;
	old_len = ROUND_UP(old_len, PAGE);
	new_len = ROUND_UP(new_len, PAGE);
	if (flags & FIXED && (new_addr % PAGE || new_addr > PSB_GUEST_LIMIT - new_len || (new_addr < old + old_len && old < new_addr + new_len)))
		return -EINVAL;
	lock_acquire(&mm->lock);
	long r = ensure_room(mm);
	const struct region *found = mm_find(mm, old);
	if (!r && (!found || touches_hidden(mm, old, old + old_len) || (flags & FIXED && touches_hidden(mm, new_addr, new_addr + new_len))))
		r = -EFAULT;
	if (r)
		goto out;
	mm_leave_pool(mm, old, old_len ? old + old_len : old + PAGE);
	struct region was = *found;
	if (!old_len && !(was.flags & (REGION_SHARED | REGION_SHM))) {
		r = -EINVAL;
		goto out;
	}
	bool in_place = !(flags & (FIXED | DONTUNMAP)) && old_len && (new_len <= old_len || mm_is_free(mm, old + old_len, new_len - old_len));
	if (in_place) {
		if (new_len < old_len)
			take_away(mm, old + new_len, old + old_len);
		r = host_call(__NR_mremap, old, old_len, new_len, 0, 0);
		if (IS_ERR(r) && !(new_len > old_len && flags & MAYMOVE))
			goto out;
		if (!IS_ERR(r)) {
			if (new_len < old_len) {
				forget(mm, old + new_len, old + old_len);
			} else if (new_len > old_len) {
				was.offset += old + old_len - was.start;
				was.start = old + old_len;
				was.end = old + new_len;
				long e = mm_insert(mm, was);
				r = e ? e : r;
			}
			goto out;
		}
	} else if (!(flags & MAYMOVE)) {
		r = -ENOMEM;
		goto out;
	}
	u64 to = flags & FIXED ? new_addr : choose_address(mm, flags & DONTUNMAP ? new_addr : 0, new_len, 0);
	if (!to) {
		r = -ENOMEM;
		goto out;
	}
	if (flags & FIXED)
		take_away(mm, to, to + new_len);
	if (old_len)
		take_away(mm, old, old + old_len);
	r = host_call(__NR_mremap, old, old_len, new_len, flags | FIXED, to);
	if (IS_ERR(r))
		goto out; /* PTEs come back by faults */
	was.offset += old - was.start;
	if (old_len && !(flags & DONTUNMAP))
		forget(mm, old, old + old_len);
	was.start = to;
	was.end = to + new_len;
	long e = ensure_room(mm);
	if (!e)
		e = mm_insert(mm, was);
	if (e)
		r = e;
out:
	lock_release(&mm->lock);
	return r;
}

long mm_advise(struct mm *mm, u64 addr, u64 len, int advice)
{
	lock_acquire(&mm->lock);
	long r = touches_hidden(mm, addr, addr + len) ? -EINVAL : host_call(__NR_madvise, addr, len, advice);
	lock_release(&mm->lock);
	return r;
}

long mm_attach_shm(struct mm *mm, int id, u64 addr, u64 len, u32 flags)
{
	enum { RDONLY = 010000, RND = 020000, REMAP = 040000, EXEC = 0100000 };
	lock_acquire(&mm->lock);
	long r = ensure_room(mm);
	if (!r && addr && (touches_hidden(mm, addr, addr + len) || (!(flags & REMAP) && !mm_is_free(mm, addr, len))))
		r = -EINVAL;
	if (!r && !addr && !(addr = choose_address(mm, 0, len, 0)))
		r = -ENOMEM;
	if (!r) {
		take_away(mm, addr, addr + len);
		/* SHM_REMAP by hand, for the length that was looked at: the segment of that number may be a longer one by now */
		if (flags & REMAP && !mm_is_free(mm, addr, len)) {
			host_call(__NR_munmap, addr, len);
			forget(mm, addr, addr + len);
		}
		r = host_call(__NR_shmat, id, addr, flags & ~(u32)(EXEC | REMAP));
	}
	if (!IS_ERR(r)) {
		u32 prot = PROT_READ | (flags & RDONLY ? 0 : PROT_WRITE) | (flags & EXEC ? PROT_EXEC : 0);
		long e = mm_insert(mm, (struct region){.start = addr, .end = addr + len, .prot = (u8)prot, .flags = REGION_SHM});
		r = e ? e : r;
	}
	lock_release(&mm->lock);
	return r;
}

long mm_detach_shm(struct mm *mm, u64 addr)
{
	lock_acquire(&mm->lock);
	long r = ensure_room(mm);
	const struct region *g = mm_find(mm, addr);
	if (!r && (!g || g->start != addr || !(g->flags & REGION_SHM)))
		r = -EINVAL;
	if (!r) {
		u64 end = g->end;
		take_away(mm, addr, end);
		r = host_call(__NR_shmdt, addr);
		if (!r)
			forget(mm, addr, end);
	}
	lock_release(&mm->lock);
	return r;
}

long mm_brk(struct mm *mm, u64 addr)
{
	lock_acquire(&mm->lock);
	u64 old = ROUND_UP(mm->brk, PAGE), new = ROUND_UP(addr, PAGE);
	if (addr < mm->brk_start || addr >= PSB_GUEST_LIMIT - CHUNK_SIZE)
		goto out;
	if (new > old) {
		if (ensure_room(mm) || !mm_is_free(mm, old, new - old + PAGE))
			goto out;
		u32 flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | (new - old <= FILL_ANON ? MAP_POPULATE : 0) | mm_map_flags(mm);
		long r = host_call(__NR_mmap, old, new - old, PROT_READ | PROT_WRITE, flags, -1, 0);
		if (IS_ERR(r))
			goto out;
		if (mm_lock_mapped(mm, old, new - old) || mm_insert(mm, (struct region){.start = old, .end = new, .prot = PROT_READ | PROT_WRITE})) {
			host_call(__NR_munmap, old, new - old);
			forget(mm, old, new);
			goto out;
		}
	} else if (new < old) {
		take_away(mm, new, old);
		host_call(__NR_munmap, new, old - new);
		forget(mm, new, old);
	}
	mm->brk = addr;
out:;
	u64 now = mm->brk;
	lock_release(&mm->lock);
	return (long)now;
}

int mm_fault(struct mm *mm, u64 va, u64 err)
{
	lock_acquire(&mm->lock);
	const struct region *g = va < PSB_GUEST_LIMIT ? mm_find(mm, va) : NULL;
	int code = 0;
	if (!g) {
		code = 1;
	} else {
		u32 need = err & 0x10 ? PROT_EXEC : err & 2 ? PROT_WRITE : PROT_READ;
		u32 have = g->prot & (PROT_WRITE | PROT_EXEC) ? g->prot | PROT_READ : g->prot;
		if (!(have & need))
			code = 2;
	}
	if (!code) {
		/* Either not populated yet, or a stale translation of rights just given: filling is right for both. */
		u64 start = ROUND_DOWN(va, TABLE_SPAN), end = start + TABLE_SPAN;
		if (start < g->start)
			start = g->start;
		if (end > g->end)
			end = g->end;
		if (!tables_set(mm, start, end, g->prot, pool_page(g, start)))
			code = 1;
	}
	lock_release(&mm->lock);
	return code;
}

int mm_prot_at(struct mm *mm, u64 va)
{
	lock_acquire(&mm->lock);
	const struct region *g = mm_find(mm, va);
	int prot = g && !(g->flags & (REGION_HIDDEN | REGION_TRAMP)) ? g->prot : -1;
	lock_release(&mm->lock);
	return prot;
}

void mm_fill(struct mm *mm, u64 start, u64 end)
{
	lock_acquire(&mm->lock);
	const struct region *g = mm_find(mm, start);
	if (g && g->end >= end) {
		host_call(__NR_madvise, start, end - start, MADV_POPULATE_WRITE); /* older kernels fill on touch */
		tables_set(mm, start, end, g->prot, pool_page(g, start));
	}
	lock_release(&mm->lock);
}

static bool own_memory(const struct region *g)
{
	return g->prot & PROT_WRITE && !(g->flags & (REGION_SHARED | REGION_SHM | REGION_HIDDEN));
}

/* A shared page that is written costs the guest two faults: KVM has it copied, which makes it forget what it was about to map. */
static void own_pages(u64 start, u64 end)
{
	host_call(__NR_madvise, start, end - start, MADV_POPULATE_WRITE);
}

void mm_own_likely(struct mm *mm, u64 sp, u64 code)
{
	lock_acquire(&mm->lock);
	u64 page = ROUND_DOWN(sp, PAGE);
	const struct region *g = mm_find(mm, page);
	if (g && own_memory(g))
		own_pages(page > g->start ? page - PAGE : page, page + PAGE);
	/* A library's data lies behind its text, its trampolines behind that. */
	u32 i = lower(mm, code);
	bool back = i < mm->nregions && mm->region[i].flags & REGION_TRAMP;
	for (int step = 0; step < 4; step++) {
		if (back ? i == 0 || mm->region[i - 1].end != mm->region[i].start : i + 1 >= mm->nregions || mm->region[i + 1].start != mm->region[i].end)
			break;
		g = &mm->region[back ? --i : ++i];
		if (own_memory(g) && g->end - g->start <= OWN_DATA)
			own_pages(g->start, g->end);
	}
	lock_release(&mm->lock);
}
