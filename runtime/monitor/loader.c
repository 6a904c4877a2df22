/* ELF loading as Linux does it: segments, bss, interpreter, and the initial stack with its auxiliary vector. */
#include <elf.h>
#include "proc.h"
#include "signal.h"

#define MAX_PHDRS 128
#define STACK_FILL (64ul << 10) /* of the stack's top, made present at once */

#ifndef AT_MINSIGSTKSZ
#define AT_MINSIGSTKSZ 51
#endif

static u32 prot_of(u32 flags)
{
	return (flags & PF_R ? PROT_READ : 0) | (flags & PF_W ? PROT_WRITE : 0) | (flags & PF_X ? PROT_EXEC : 0);
}

static long read_headers(int fd, Elf64_Ehdr *eh, Elf64_Phdr *ph)
{
	if (host_call(__NR_pread64, fd, eh, sizeof *eh, 0) != sizeof *eh || eh->e_phnum == 0 || eh->e_phnum > MAX_PHDRS)
		return -ENOEXEC;
	long want = eh->e_phnum * (long)sizeof *ph;
	return host_call(__NR_pread64, fd, ph, want, eh->e_phoff) == want ? 0 : -ENOEXEC;
}

/* Zeroes the part of the last file page that lies behind p_filesz, and maps the rest of the bss. */
static long map_bss(struct mm *mm, u64 file_end, u64 mem_end, u32 prot)
{
	u64 page = ROUND_UP(file_end, PAGE);
	if (page > file_end && prot & PROT_WRITE)
		clear_guest(gptr_of(file_end), page - file_end);
	if (mem_end > page) {
		long r = mm_map(mm, page, mem_end - page, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		if (IS_ERR(r))
			return r;
	}
	return 0;
}

/* Maps one ELF. bias_hint: for ET_DYN the address of its first page, 0 = anywhere in the mmap area. */
static long map_elf(struct proc *p, int fd, u64 bias_hint, struct image *im)
{
	Elf64_Ehdr eh;
	Elf64_Phdr ph[MAX_PHDRS];
	long r = read_headers(fd, &eh, ph);
	if (r)
		return r;
	u64 low = ~0ul, high = 0, align = PAGE;
	for (u32 i = 0; i < eh.e_phnum; i++) {
		const Elf64_Phdr *s = &ph[i];
		if (s->p_type != PT_LOAD)
			continue;
		if (s->p_filesz > s->p_memsz || s->p_memsz > PSB_GUEST_LIMIT || s->p_vaddr > PSB_GUEST_LIMIT || s->p_offset > (1ul << 62) ||
		    (s->p_vaddr - s->p_offset) % PAGE)
			return -ENOEXEC;
		if (ROUND_DOWN(s->p_vaddr, PAGE) < low)
			low = ROUND_DOWN(s->p_vaddr, PAGE);
		if (s->p_vaddr + s->p_memsz > high)
			high = s->p_vaddr + s->p_memsz;
		if (s->p_align > align && s->p_align <= (1ul << 30) && !(s->p_align & (s->p_align - 1)))
			align = s->p_align;
	}
	if (low == ~0ul)
		return -ENOEXEC;
	u64 bias = 0;
	bool placed = eh.e_type == ET_EXEC;
	if (eh.e_type == ET_DYN && bias_hint) {
		bias = ROUND_UP(bias_hint, align) - low;
		placed = true;
	}
	*im = (struct image){.phnum = eh.e_phnum};
	for (u32 i = 0; i < eh.e_phnum; i++) {
		const Elf64_Phdr *s = &ph[i];
		if (s->p_type != PT_LOAD)
			continue;
		u32 prot = prot_of(s->p_flags);
		u64 off = ROUND_DOWN(s->p_offset, PAGE), va = ROUND_DOWN(s->p_vaddr, PAGE), skew = s->p_vaddr - va;
		if (s->p_filesz) {
			if (!placed) { /* room for all segments at once, then the first keeps its own part */
				r = plan_map(p, p->mm, 0, ROUND_UP(high, PAGE) - low, prot, MAP_PRIVATE, fd, off);
				if (IS_ERR(r))
					return r;
				bias = (u64)r - va;
				u64 end = ROUND_UP((u64)r + skew + s->p_filesz, PAGE), all = (u64)r + ROUND_UP(high, PAGE) - low;
				if (all > end)
					mm_unmap(p->mm, end, all - end);
				placed = true;
			} else {
				r = plan_map(p, p->mm, bias + va, s->p_filesz + skew, prot, MAP_PRIVATE | (i && im->end ? MAP_FIXED : MAP_FIXED_NOREPLACE), fd, off);
				if (IS_ERR(r))
					return r;
			}
			if (prot & PROT_EXEC)
				proc_trace_map(p, p->pid, bias + va, s->p_filesz + skew, fd, off);
			r = map_bss(p->mm, bias + s->p_vaddr + s->p_filesz, bias + s->p_vaddr + s->p_memsz, prot);
		} else if (s->p_memsz) {
			r = mm_map(p->mm, bias + va, s->p_memsz + skew, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		}
		if (IS_ERR(r))
			return r;
		if (eh.e_phoff >= s->p_offset && eh.e_phoff < s->p_offset + s->p_filesz)
			im->phdr = bias + s->p_vaddr + (eh.e_phoff - s->p_offset);
		im->end = bias + high;
	}
	for (u32 i = 0; i < eh.e_phnum; i++)
		if (ph[i].p_type == PT_PHDR)
			im->phdr = bias + ph[i].p_vaddr;
	im->base = bias + low;
	im->entry = bias + eh.e_entry;
	return 0;
}

/* Executable stack only where PT_GNU_STACK asks for it, as on x86-64 since Linux 5.8. */
static u32 stack_prot(int fd)
{
	Elf64_Ehdr eh;
	Elf64_Phdr ph[MAX_PHDRS];
	if (!read_headers(fd, &eh, ph))
		for (u32 i = 0; i < eh.e_phnum; i++)
			if (ph[i].p_type == PT_GNU_STACK && ph[i].p_flags & PF_X)
				return PROT_READ | PROT_WRITE | PROT_EXEC;
	return PROT_READ | PROT_WRITE;
}

long load_program(struct proc *p, int exe_fd, int interp_fd, struct image *out)
{
	struct mm *mm = p->mm;
	long r = mm_map(mm, mm->stack_low, mm->stack_top - mm->stack_low, stack_prot(exe_fd), MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
	if (IS_ERR(r))
		return r;
	mm_fill(mm, mm->stack_top - (mm->stack_top - mm->stack_low < STACK_FILL ? mm->stack_top - mm->stack_low : STACK_FILL), mm->stack_top);
	r = map_elf(p, exe_fd, mm->exe_base, out);
	if (r)
		return r;
	/* The heap starts behind the program and its trampolines, a random distance away. */
	u64 end = ROUND_UP(out->end, PAGE);
	const struct region *g;
	while ((g = mm_find(mm, end)))
		end = g->end;
	u64 random = 0;
	host_call(__NR_getrandom, &random, sizeof random, 0);
	mm->brk_start = mm->brk = end + PAGE + (random & 0x7ff) * PAGE;
	if (interp_fd >= 0) {
		struct image in;
		r = map_elf(p, interp_fd, 0, &in);
		if (r)
			return r;
		out->interp_base = in.base;
		u64 program_entry = out->entry;
		out->entry = in.entry;
		p->auxv[0] = program_entry; /* picked up by build_stack */
	} else {
		p->auxv[0] = out->entry;
	}
	return 0;
}

static u64 host_aux(const u64 *auxv, u64 type)
{
	for (; auxv[0]; auxv += 2)
		if (auxv[0] == type)
			return auxv[1];
	return 0;
}

/* Strings of a vector, packed upwards from *at in guest memory; their addresses go to out. */
static void push_strings(u64 *at, char **v, u64 n, u64 *out)
{
	for (u64 i = 0; i < n; i++) {
		u64 len = strlen(v[i]) + 1;
		memcpy((void *)*at, v[i], len);
		out[i] = *at;
		*at += len;
	}
}

u64 build_stack(struct proc *p, const struct image *img, u64 argc, char **argv, char **envp, const char *execfn, const u64 *host_auxv)
{
	u64 envc = 0, bytes = strlen(execfn) + 1;
	for (u64 i = 0; i < argc; i++)
		bytes += strlen(argv[i]) + 1;
	for (; envp[envc]; envc++)
		bytes += strlen(envp[envc]) + 1;
	u64 strings = ROUND_DOWN(p->mm->stack_top - 8 - bytes, 16);
	u64 platform = strings - 16, random = platform - 16;
	u64 entry = p->auxv[0];
	u64 aux[] = {AT_HWCAP, host_aux(host_auxv, AT_HWCAP), AT_PAGESZ, PAGE, AT_CLKTCK, 100, AT_PHDR, img->phdr, AT_PHENT, sizeof(Elf64_Phdr),
		     AT_PHNUM, img->phnum, AT_BASE, img->interp_base, AT_FLAGS, 0, AT_ENTRY, entry,
		     AT_UID, host_aux(host_auxv, AT_UID), AT_EUID, host_aux(host_auxv, AT_EUID), AT_GID, host_aux(host_auxv, AT_GID), AT_EGID, host_aux(host_auxv, AT_EGID),
		     AT_SECURE, 0, AT_RANDOM, random, AT_HWCAP2, host_aux(host_auxv, AT_HWCAP2), AT_EXECFN, 0, AT_PLATFORM, platform,
		     AT_MINSIGSTKSZ, frame_room(), p->mm->vdso ? AT_SYSINFO_EHDR : AT_IGNORE, p->mm->vdso, AT_NULL, 0};
	u64 words = 1 + argc + 1 + envc + 1 + ARRAY_LEN(aux);
	u64 sp = ROUND_DOWN(random - words * 8, 16);
	if (sp < p->mm->stack_low + PAGE)
		fatal("arguments do not fit the stack");
	u64 *w = (u64 *)sp, at = strings;
	*w++ = argc;
	push_strings(&at, argv, argc, w);
	w += argc;
	*w++ = 0;
	push_strings(&at, envp, envc, w);
	w += envc;
	*w++ = 0;
	char *fn = (char *)at;
	memcpy(fn, execfn, strlen(execfn) + 1);
	for (u64 i = 0; i < ARRAY_LEN(aux); i += 2)
		if (aux[i] == AT_EXECFN)
			aux[i + 1] = (u64)fn;
	memcpy(w, aux, sizeof aux);
	memcpy(p->auxv, aux, sizeof aux);
	p->auxv_len = sizeof aux;
	memcpy((void *)platform, "x86_64", 7);
	host_call(__NR_getrandom, random, 16, 0);
	return sp;
}
