/* Applying plans: where the plan store has a patched image of an ELF, its pages are mapped in place of the file's.
 *
 * A plan is found by the file's identity, which the guest cannot forge (ctime). What an image can do wrong is bounded: it is
 * guest text like any other, and a call it would hide still ends in the raw door. */
#include <elf.h>
#include "linux_abi.h"
#include "proc.h"

#define LOADER_CACHE "glibc-ld.so.cache1.1"

static const struct psb_plan_index *plan_index;
static u64 index_len;

long plan_open(struct proc *p, int index_fd, int store_fd, int planner_fd)
{
	(void)p, (void)planner_fd;
	u64 st[18];
	if (index_fd < 0 || store_fd < 0 || host_call(__NR_fstat, index_fd, st))
		return -ENOENT;
	long m = host_call(__NR_mmap, 0, st[6], PROT_READ, MAP_SHARED, index_fd, 0);
	if (IS_ERR(m))
		return m;
	const struct psb_plan_index *ix = (const struct psb_plan_index *)m;
	if (st[6] < sizeof *ix || ix->magic != PSB_PLAN_INDEX_MAGIC || ix->version != PSB_ABI_VERSION ||
	    ix->capacity > (st[6] - sizeof *ix) / sizeof(struct psb_plan_index_entry))
		return -EINVAL;
	plan_index = ix;
	index_len = st[6];
	return 0;
}

bool plan_key(int fd, struct psb_plan_key *k)
{
	u64 st[18];
	if (host_call(__NR_fstat, fd, st) || ((u32)st[3] & S_IFMT) != S_IFREG)
		return false;
	*k = (struct psb_plan_key){
	    .dev = st[0], .ino = st[1], .size = st[6], .mtime_ns = st[11] * 1000000000ul + st[12], .ctime_ns = st[13] * 1000000000ul + st[14]};
	return true;
}

enum { PLAN_UNKNOWN, PLAN_EMPTY, PLAN_IMAGE };

static int find_plan(struct proc *p, const struct psb_plan_key *k, u64 *store_off, struct psb_plan_image *image)
{
	if (!plan_index)
		return PLAN_EMPTY;
	const struct psb_plan_index_entry *e = (const struct psb_plan_index_entry *)(plan_index + 1);
	u64 n = __atomic_load_n(&plan_index->count, __ATOMIC_ACQUIRE);
	if (n > plan_index->capacity)
		n = plan_index->capacity;
	for (u64 i = 0; i < n; i++, e++) {
		if (e->key.ino != k->ino || memcmp(&e->key, k, sizeof *k))
			continue;
		if (!e->store_off)
			return PLAN_EMPTY;
		*store_off = e->store_off;
		if (host_call(__NR_pread64, p->store_fd, image, sizeof *image, e->store_off) != sizeof *image ||
		    image->magic != PSB_PLAN_IMAGE_MAGIC || image->version != PSB_ABI_VERSION || image->nsegs > PSB_PLAN_MAX_SEGS ||
		    image->tramp_vaddr < image->base_vaddr || image->tramp_len > (64ul << 20))
			return PLAN_EMPTY;
		return PLAN_IMAGE;
	}
	return PLAN_UNKNOWN;
}

/* Asks for a plan. The descriptor travels with the request; a full queue or an absent planner means no plan this time. */
static void request_plan(struct proc *p, const struct psb_plan_key *k, int fd)
{
	if (p->planner_fd < 0)
		return;
	struct psb_plan_wanted w = {.magic = PSB_PLAN_INDEX_MAGIC, .key = *k};
	struct {
		u64 len;
		i32 level, type, fd, pad;
	} control = {20, 1, 1, fd, 0};
	struct {
		void *base;
		u64 len;
	} iov = {&w, sizeof w};
	struct {
		u64 name;
		u32 namelen, pad0;
		u64 iov, iovlen, control, controllen;
		u32 flags, pad1;
	} m = {.iov = (u64)&iov, .iovlen = 1, .control = (u64)&control, .controllen = 24};
	host_call(__NR_sendmsg, p->planner_fd, &m, 0x40 | 0x4000 /* MSG_DONTWAIT | MSG_NOSIGNAL */);
}

/* Index + 1 of the file in mm->file. Lock held. 0: no room. */
static u16 remember_file(struct proc *p, struct mm *mm, const struct psb_plan_key *k, int fd, u64 store_off)
{
	for (u32 i = 0; i < mm->nfiles; i++)
		if (!memcmp(&mm->file[i].key, k, sizeof *k))
			return (u16)(i + 1);
	if (mm->nfiles == 4096)
		return 0;
	struct image_file *f = &mm->file[mm->nfiles];
	char link[32];
	format(link, sizeof link, "self/fd/%d", fd);
	long n = host_call(__NR_readlinkat, p->proc_fd, link, f->path, sizeof f->path - 1);
	f->path[n > 0 ? n : 0] = 0;
	f->key = *k;
	f->store_off = store_off;
	f->sites = NULL;
	f->sites_tried = false;
	return (u16)++mm->nfiles;
}

/* The page of the text pool that has this piece of the plan store, 0: none. */
static u32 pooled_image(struct proc *p, u64 offset, u64 len)
{
	return pool_find(&(struct psb_plan_key){.dev = POOL_STORE_DEV}, p->store_fd, offset, len);
}

/* How much of a file from `offset` on stays as it is, page multiple: what an ELF has there in a segment that allows no writing; the
 * loader's cache, which is replaced and never changed. 0: nothing that is known. Other files may be changed under a mapping, which shows it. */
static u64 stable_part(int fd, u64 size, u64 offset)
{
	struct {
		Elf64_Ehdr eh;
		Elf64_Phdr ph[12];
	} h;
	if (host_call(__NR_pread64, fd, &h, sizeof h, 0) != sizeof h)
		return 0;
	if (!memcmp(&h, LOADER_CACHE, sizeof LOADER_CACHE - 1))
		return offset ? 0 : ROUND_UP(size, PAGE);
	if (memcmp(h.eh.e_ident, ELFMAG, SELFMAG) || h.eh.e_phoff != sizeof h.eh)
		return 0;
	for (u32 i = 0; i < ARRAY_LEN(h.ph) && i < h.eh.e_phnum; i++) {
		const Elf64_Phdr *s = &h.ph[i];
		if (s->p_type != PT_LOAD || s->p_flags & PF_W || s->p_offset >= size || s->p_filesz > size - s->p_offset)
			continue;
		u64 end = ROUND_UP(s->p_offset + s->p_filesz, PAGE);
		if (offset >= ROUND_DOWN(s->p_offset, PAGE) && offset < end)
			return end - offset;
	}
	return 0;
}

/* Makes sure the image's trampolines stand at their place for this load address. Lock held. */
static bool place_trampolines(struct proc *p, struct mm *mm, const struct psb_plan_image *im, u64 store_off, u64 base, u16 file)
{
	if (!im->tramp_len)
		return true;
	if (mm->gs_given) /* they would not find the slot */
		return false;
	u64 at = base + (im->tramp_vaddr - im->base_vaddr);
	if (at % PAGE || at > PSB_GUEST_LIMIT - im->tramp_len)
		return false;
	const struct region *g = mm_find(mm, at);
	if (g)
		return g->flags & REGION_TRAMP && g->file == file && g->start == at && g->end == at + im->tramp_len;
	if (!mm_is_free(mm, at, im->tramp_len))
		return false;
	long r = host_call(__NR_mmap, at, im->tramp_len, PROT_READ, MAP_PRIVATE | MAP_FIXED, p->store_fd, store_off + im->tramp_off);
	if (IS_ERR(r))
		return false;
	return !mm_insert(mm, (struct region){.start = at, .end = at + im->tramp_len, .prot = PROT_READ | PROT_EXEC, .flags = REGION_TRAMP, .file = file,
					      .pool = pooled_image(p, store_off + im->tramp_off, im->tramp_len)});
}

/* Executable mapping at a fixed address of a file with an image: true when the image's pages were mapped. */
static bool map_image(struct proc *p, struct mm *mm, const struct psb_plan_image *im, u64 store_off, const struct psb_plan_key *k, u64 addr, u64 len,
		      u32 prot, int fd, u64 offset)
{
	for (u32 i = 0; i < im->nsegs; i++) {
		const struct psb_plan_seg *s = &im->seg[i];
		if (offset < s->file_off || offset - s->file_off >= s->len || len > s->len - (offset - s->file_off))
			continue;
		u64 base = addr - (offset - s->file_off) - (s->vaddr - im->base_vaddr);
		bool done = false;
		lock_acquire(&mm->lock);
		u16 file = remember_file(p, mm, k, fd, store_off);
		if (file && place_trampolines(p, mm, im, store_off, base, file)) {
			u64 from = store_off + s->image_off + (offset - s->file_off);
			long r = host_call(__NR_mmap, addr, len, PROT_READ, MAP_PRIVATE | MAP_FIXED, p->store_fd, from);
			done = !IS_ERR(r) && !mm_insert(mm, (struct region){.start = addr, .end = addr + len, .prot = (u8)prot, .flags = REGION_IMAGE, .file = file, .offset = offset,
									   .pool = pooled_image(p, from, len)});
		}
		lock_release(&mm->lock);
		return done;
	}
	return false;
}

long plan_map(struct proc *p, struct mm *mm, u64 addr, u64 len, u32 prot, u32 flags, int fd, u64 offset)
{
	struct psb_plan_key k;
	bool fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE);
	bool candidate = (flags & MAP_TYPE) == MAP_PRIVATE && (prot & PROT_EXEC || offset == 0 || fixed) && prot && !(prot & PROT_WRITE) && len <= (1ul << 32) && plan_key(fd, &k);
	struct psb_plan_image im;
	u64 store_off = 0;
	int found = candidate ? find_plan(p, &k, &store_off, &im) : PLAN_EMPTY;
	if (found == PLAN_UNKNOWN && prot & PROT_EXEC)
		request_plan(p, &k, fd);
	if (found == PLAN_IMAGE && !fixed && !(flags & MAP_32BIT) && !addr && ROUND_UP(len, PAGE) >= im.span) {
		/* A loader reserves room for all segments: choose a place with room for the trampolines behind it. */
		u64 whole = im.tramp_vaddr - im.base_vaddr + im.tramp_len;
		lock_acquire(&mm->lock);
		u64 at = mm_find_gap(mm, whole > len ? whole : ROUND_UP(len, PAGE), 0x10000000, mm->mmap_top);
		u16 file = at ? remember_file(p, mm, &k, fd, store_off) : 0;
		bool placed = file && im.tramp_vaddr - im.base_vaddr >= ROUND_UP(len, PAGE) && place_trampolines(p, mm, &im, store_off, at, file);
		lock_release(&mm->lock);
		if (placed)
			addr = at, flags |= MAP_FIXED;
	}
	/* The file itself first: the kernel checks permissions, and what follows only replaces pages of equal standing. */
	u64 pooled = 0;
	if (candidate && !(prot & PROT_EXEC && found != PLAN_EMPTY) && offset < k.size) /* text that will be, or would have been, the store's */
		pooled = stable_part(fd, k.size, offset);
	if (pooled > ROUND_UP(len, PAGE))
		pooled = ROUND_UP(len, PAGE);
	u32 page = pooled ? pool_find(&k, fd, offset, pooled) : 0;
	long r = mm_map_pooled(mm, addr, len, prot, flags, fd, offset, page, page ? pooled : 0);
	if (!IS_ERR(r) && found == PLAN_IMAGE && prot & PROT_EXEC)
		map_image(p, mm, &im, store_off, &k, (u64)r, ROUND_UP(len, PAGE), prot, fd, offset);
	return r;
}
