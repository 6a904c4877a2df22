/* Call sites of rewritten text, both ways: where an address in a trampoline stands for in the program's own text, and where an address
 * of the program's own text is to be executed when a jump has been written over it.
 *
 * A program sees its registers in signal frames and in siginfo only. There RIP has to be what a kernel shows: the `syscall`
 * instruction of a call that will be made again, or the address behind it; C libraries compare it with labels around that
 * instruction (cancellation), unwinders look it up in their tables. The frame's RIP comes back with rt_sigreturn. */
#include "plan_sites.h"
#include "syscalls/handlers.h"

#define SYSCALL_LEN 2
#define LEA_LEN 7   /* `lea x(%rip),%rcx`, first instruction of `back` */
#define ENTER_LEN 15 /* in front of `back`: `lea back(%rip),%rcx; jmp *%gs:PSB_SLOT_ENTRY`, or the like for cpuid */

/* Whether a jump was written over the site. */
static bool is_moved(const struct psb_plan_site *x)
{
	return x->door == PSB_DOOR_JUMP || x->door == PSB_DOOR_CPUID;
}

static u64 lea_len(const struct psb_plan_site *x)
{
	return x->door == PSB_DOOR_JUMP ? LEA_LEN : 0;
}

/* The image of a file and its sites, mapped on first use; NULL: it cannot be read. Lock of the mm held. */
static const struct image_sites *sites_of(struct proc *p, struct image_file *f)
{
	if (f->sites_tried)
		return f->sites;
	f->sites_tried = true;
	struct image_sites *s = host_alloc(sizeof *s);
	if (!s)
		return NULL;
	u64 off = f->store_off;
	if (off && host_call(__NR_pread64, p->store_fd, &s->image, sizeof s->image, off) == sizeof s->image &&
	    s->image.magic == PSB_PLAN_IMAGE_MAGIC && s->image.nsegs <= PSB_PLAN_MAX_SEGS && s->image.nsites <= 1ul << 24 &&
	    s->image.sites_off <= PAGE) {
		long m = host_call(__NR_mmap, 0, ROUND_UP(s->image.sites_off + s->image.nsites * sizeof *s->site, PAGE), PROT_READ, MAP_SHARED, p->store_fd, off);
		if (!IS_ERR(m)) {
			s->site = (const struct psb_plan_site *)((u64)m + s->image.sites_off);
			f->sites = s;
			return s;
		}
	}
	host_free(s, sizeof *s);
	return NULL;
}

const struct image_sites *sites_of_region(struct proc *p, const struct region *g)
{
	return g->file ? sites_of(p, &p->mm->file[g->file - 1]) : NULL;
}

/* The jump site whose trampoline holds this offset of the trampoline area. */
static const struct psb_plan_site *by_trampoline(const struct image_sites *s, u64 offset)
{
	const struct psb_plan_site *best = NULL;
	for (u64 i = 0; i < s->image.nsites; i++)
		if (is_moved(&s->site[i]) && s->site[i].tramp <= offset && (!best || s->site[i].tramp > best->tramp))
			best = &s->site[i];
	return best;
}

/* The jump site whose window holds this address. They are in order. */
static const struct psb_plan_site *by_address(const struct image_sites *s, u64 vaddr)
{
	u64 lo = 0, hi = s->image.nsites;
	while (lo < hi) { /* first whose window ends behind vaddr */
		u64 mid = (lo + hi) / 2;
		if (s->site[mid].vaddr + SYSCALL_LEN + s->site[mid].window_after <= vaddr)
			lo = mid + 1;
		else
			hi = mid;
	}
	const struct psb_plan_site *x = &s->site[lo];
	return lo < s->image.nsites && is_moved(x) && x->vaddr - x->window_before <= vaddr ? x : NULL;
}

static const struct region *region_with(struct proc *p, u64 rip, u8 flag, const struct image_sites **s)
{
	const struct region *g = rip < PSB_GUEST_LIMIT ? mm_find(p->mm, rip) : NULL;
	*s = g && g->flags & flag ? sites_of_region(p, g) : NULL;
	return *s ? g : NULL;
}

u64 site_shown(struct proc *p, u64 rip)
{
	const struct image_sites *s;
	u64 shown = rip;
	lock_acquire(&p->mm->lock);
	const struct region *g = region_with(p, rip, REGION_TRAMP, &s);
	const struct psb_plan_site *x = g ? by_trampoline(s, rip - g->start) : NULL;
	if (x) {
		u64 at = rip - g->start - x->tramp, site = g->start - s->image.tramp_vaddr + x->vaddr;
		u64 back = x->tramp_back, lea = lea_len(x), over = at > back + lea ? at - back - lea : 0;
		if (at < x->window_before) /* the same instructions stand in front of the site */
			shown = site - x->window_before + at;
		else if (at < back)
			shown = site;
		else /* behind the last moved instruction only the jump to the window's end is left */
			shown = site + SYSCALL_LEN + (over < x->window_after ? over : x->window_after);
	}
	lock_release(&p->mm->lock);
	return shown;
}

u64 site_executed(struct proc *p, u64 rip)
{
	const struct image_sites *s;
	u64 executed = rip;
	lock_acquire(&p->mm->lock);
	const struct region *g = region_with(p, rip, REGION_IMAGE, &s);
	for (u32 i = 0; g && i < s->image.nsegs; i++) {
		const struct psb_plan_seg *seg = &s->image.seg[i];
		u64 offset = g->offset + (rip - g->start);
		if (offset < seg->file_off || offset - seg->file_off >= seg->len)
			continue;
		u64 vaddr = seg->vaddr + (offset - seg->file_off);
		const struct psb_plan_site *x = by_address(s, vaddr);
		if (!x || vaddr == x->vaddr - x->window_before) /* the jump itself stands there */
			continue;
		u64 tramp = rip - vaddr + s->image.tramp_vaddr + x->tramp;
		const struct region *t = mm_find(p->mm, tramp);
		if (!t || !(t->flags & REGION_TRAMP) || t->file != g->file)
			continue;
		if (vaddr < x->vaddr)
			executed = tramp + (vaddr - (x->vaddr - x->window_before));
		else if (vaddr < x->vaddr + SYSCALL_LEN)
			executed = tramp + x->tramp_back - ENTER_LEN;
		else /* RCX is the frame's business: behind the instruction that sets it */
			executed = tramp + x->tramp_back + lea_len(x) + (vaddr - x->vaddr - SYSCALL_LEN);
		break;
	}
	lock_release(&p->mm->lock);
	return executed;
}
