/* Runs a rewritten program natively, without KVM: maps ELF files the way the monitor does, with their images in place of
 * their text, and serves the trampolines from a small handler. Proves that rewriting changes nothing but the door.
 *
 *   test_rewriter_native PLANS PROGRAM ARGV0 ARGS...
 *
 * PLANS is a text file, one plan a line: "DEV INO IMAGE-FILE". GS base points to a slot whose `entry` is `stub`. Trap doors
 * arrive as SIGSEGV (`out` without IOPL). Calls that nobody rewrote arrive as SIGSYS (syscall user dispatch). Each process that
 * leaves adds a line "jump=N trap=N raw=N" (totals of its tree since exec) to the file named by $COUNTS. */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>
#include "abi.h"

#define PAGE 4096ul
#define DOORS (1ul << (SIGSEGV - 1) | 1ul << (SIGSYS - 1)) /* signals that serve trap and raw door */
#define UP(n) (((n) + PAGE - 1) & -PAGE)
#define DOWN(n) ((n) & -PAGE)

struct regs { /* as `stub` pushes them, lowest address first */
	uint64_t r15, r14, r13, r12, rbp, rbx, r9, r8, r10, rdx, rsi, rdi, rax, rflags, rip, rsp;
};

static struct slot {
	struct psb_slot abi;
	uint64_t saved_rsp, stack, ret;
} slot;
static _Alignas(16) char stacks[1 << 20];
static char selector = 1; /* syscall user dispatch: block; our own text is exempt */
static uint64_t own_fs;   /* thread pointer of this loader's libc; the program has its own */
static const char *plans_path, *program;
static uint64_t *counts;  /* shared: jump, trap, raw */

static struct plan {
	uint64_t dev, ino;
	int fd;
	struct psb_plan_image head;
} plans[64];
static int nplans;

static void die(const char *what)
{
	dprintf(2, "native: %s: %s\n", what, strerror(errno));
	_exit(125);
}

static long raw(long nr, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
	long ret;
	__asm__ volatile("syscall" : "=a"(ret) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
	return ret;
}

/* RCX = return address, R11 free, everything else is the program's, flags and red zone included. */
__asm__(".globl stub\n"
	"stub:\n"
	"mov %rsp, %gs:128\n"
	"mov %rcx, %gs:144\n"
	"mov %gs:136, %rsp\n"
	"lea -128(%rsp), %rsp\n"
	"push %gs:128\n"
	"push %gs:144\n"
	"pushf\n"
	"push %rax\n push %rdi\n push %rsi\n push %rdx\n push %r10\n push %r8\n push %r9\n"
	"push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
	"lea -65536(%rsp), %r11\n" /* a signal frame may come below */
	"mov %r11, %gs:136\n"
	"mov %rsp, %rdi\n"
	"mov %rsp, %rbx\n"
	"and $-64, %rsp\n"
	"sub $1024, %rsp\n"
	"fxsave64 (%rsp)\n"
	"cld\n"
	"call serve\n"
	"fxrstor64 (%rsp)\n"
	"mov %rbx, %rsp\n"
	"pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbp\n pop %rbx\n"
	"pop %r9\n pop %r8\n pop %r10\n pop %rdx\n pop %rsi\n pop %rdi\n pop %rax\n"
	"lea 152(%rsp), %r11\n" /* rflags, rip, rsp, 128 bytes of room: the stack as it was at entry */
	"mov %r11, %gs:136\n"
	"mov 8(%rsp), %r11\n"
	"mov %r11, %gs:144\n"
	"popf\n"
	"mov 8(%rsp), %rsp\n"
	"mov $0x5a5a5a5a5a5a5a5a, %rcx\n" /* trampolines must set RCX themselves */
	"mov $0x5b5b5b5b5b5b5b5b, %r11\n"
	"jmp *%gs:144\n"
	/* The shim's part for `cpuid`, without its table. */
	".globl cpuid_stub\n"
	"cpuid_stub:\n"
	"mov %rbx, %gs:88\n" /* PSB_SLOT_SAVED */
	"cpuid\n"
	"jmp *%gs:88\n");
extern char stub[], cpuid_stub[], __executable_start[], etext[];

/* Calls `f` with this loader's thread pointer: its libc must not find the program's. */
#define WITH_OWN_LIBC(f) \
	do { \
		uint64_t fs_ = __builtin_ia32_rdfsbase64(); \
		__builtin_ia32_wrfsbase64(own_fs); \
		f; \
		__builtin_ia32_wrfsbase64(fs_); \
	} while (0)

static struct plan *plan_of(int fd)
{
	struct stat st;
	if (fstat(fd, &st))
		return 0;
	for (int i = 0; i < nplans; i++)
		if (plans[i].dev == st.st_dev && plans[i].ino == st.st_ino)
			return &plans[i];
	return 0;
}

static void map_trampolines(const struct plan *p, uint64_t base)
{
	const struct psb_plan_image *im = &p->head;
	if (im->tramp_len && mmap((void *)(base + im->tramp_vaddr - im->base_vaddr), im->tramp_len, PROT_READ | PROT_EXEC,
	                          MAP_PRIVATE | MAP_FIXED_NOREPLACE, p->fd, (long)im->tramp_off) == MAP_FAILED)
		die("trampolines");
}

/* mmap of the guest: executable pages of planned files come from the image, the first mapping reserves the trampolines. */
static long guest_mmap(long addr, long len, long prot, long flags, long fd, long off)
{
	struct plan *p = fd >= 0 && !(flags & MAP_ANONYMOUS) ? plan_of((int)fd) : 0;
	if (!p)
		return raw(SYS_mmap, addr, len, prot, flags, fd, off);
	const struct psb_plan_image *im = &p->head;
	if (!(flags & MAP_FIXED) && !off && UP((uint64_t)len) >= im->span) {
		uint64_t whole = im->tramp_vaddr - im->base_vaddr + im->tramp_len;
		char *room = mmap(0, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (room == MAP_FAILED)
			die("room");
		munmap(room, whole);
		map_trampolines(p, (uint64_t)room);
		addr = (long)room, flags |= MAP_FIXED;
	}
	long r = raw(SYS_mmap, addr, len, prot, flags, fd, off);
	if (r < 0 && r > -4096)
		return r;
	if (prot & PROT_EXEC)
		for (unsigned i = 0; i < im->nsegs; i++) {
			const struct psb_plan_seg *s = &im->seg[i];
			if ((uint64_t)off >= s->file_off && (uint64_t)off + UP((uint64_t)len) <= s->file_off + s->len &&
			    mmap((void *)r, UP((uint64_t)len), (int)prot, MAP_PRIVATE | MAP_FIXED, p->fd, (long)(s->image_off + (uint64_t)off - s->file_off)) == MAP_FAILED)
				die("image");
		}
	return r;
}

static void report(void)
{
	const char *path = getenv("COUNTS");
	int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
	if (fd >= 0)
		dprintf(fd, "jump=%lu trap=%lu raw=%lu\n", counts[0], counts[1], counts[2]);
}

static void dispatch_on(void)
{
	if (raw(SYS_prctl, PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, (long)__executable_start, etext - __executable_start, (long)&selector, 0))
		die("syscall user dispatch");
}

static bool is_elf(const char *path)
{
	char magic[4] = "";
	int fd = open(path, O_RDONLY);
	bool yes = fd >= 0 && read(fd, magic, 4) == 4 && !memcmp(magic, ELFMAG, 4);
	close(fd);
	return yes && !access(path, X_OK);
}

/* The new program runs under this loader too. */
static long guest_execve(const char *path, char **argv, char **envp)
{
	static const char *wrapped[1024] = {"native"};
	int n = 1;
	if (!strcmp(path, "/proc/self/exe"))
		path = program;
	wrapped[n++] = plans_path;
	wrapped[n++] = path;
	for (char **a = argv; *a && n < 1023; a++)
		wrapped[n++] = *a;
	wrapped[n] = 0;
	WITH_OWN_LIBC(report());
	if (is_elf(path))
		return raw(SYS_execve, (long)"/proc/self/exe", (long)wrapped, (long)envp, 0, 0, 0);
	return raw(SYS_execve, (long)path, (long)argv, (long)envp, 0, 0, 0);
}

static long perform(struct regs *r)
{
	long nr = (long)r->rax;
	switch (nr) {
	case SYS_mmap:
		WITH_OWN_LIBC(nr = guest_mmap((long)r->rdi, (long)r->rsi, (long)r->rdx, (long)r->r10, (long)r->r8, (long)r->r9));
		return nr;
	case SYS_exit_group:
		WITH_OWN_LIBC(report());
		break;
	case SYS_execve:
		WITH_OWN_LIBC(nr = guest_execve((const char *)r->rdi, (char **)r->rsi, (char **)r->rdx));
		return nr;
	case SYS_vfork: /* a child on this very stack would return through our frames */
	case SYS_fork:
	case SYS_clone: {
		if (nr == SYS_clone && r->rdi & 0x10000 /* CLONE_THREAD */)
			return -ENOSYS;
		uint64_t flags = nr == SYS_clone ? r->rdi & ~0x4100ul /* VM, VFORK */ : SIGCHLD;
		long pid = raw(SYS_clone, (long)flags, 0, (long)r->rdx, (long)r->r10, (long)r->r8, 0);
		if (pid == 0) {
			dispatch_on();
			if (nr == SYS_clone && r->rsi)
				r->rsp = r->rsi;
		}
		return pid;
	}
	case SYS_clone3:
		return -ENOSYS;
	case SYS_rt_sigaction: /* ours stay, and can always run */
		if (r->rdi == SIGSEGV || r->rdi == SIGSYS)
			return 0;
		if (r->rsi) {
			uint64_t action[4];
			memcpy(action, (void *)r->rsi, sizeof action);
			action[3] &= ~DOORS;
			return raw(nr, (long)r->rdi, (long)action, (long)r->rdx, 8, 0, 0);
		}
		break;
	case SYS_rt_sigprocmask:
		if (r->rsi && r->r10 == 8 && r->rdi != SIG_UNBLOCK) {
			uint64_t set = *(uint64_t *)r->rsi & ~DOORS;
			return raw(nr, (long)r->rdi, (long)&set, (long)r->rdx, 8, 0, 0);
		}
		break;
	case SYS_rt_sigreturn:
		__asm__ volatile("mov %0, %%rsp\n mov $15, %%eax\n syscall\n" ::"r"(r->rsp));
		__builtin_unreachable();
	}
	return raw(nr, (long)r->rdi, (long)r->rsi, (long)r->rdx, (long)r->r10, (long)r->r8, (long)r->r9);
}

__attribute__((used)) void serve(struct regs *r)
{
	__atomic_add_fetch(&counts[0], 1, __ATOMIC_RELAXED);
	r->rax = (uint64_t)perform(r);
}

/* Trap door and raw door. */
static void on_signal(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	greg_t *g = uc->uc_mcontext.gregs;
	const uint8_t *rip = (const uint8_t *)g[REG_RIP];
	bool trap = sig == SIGSEGV && info->si_code == SI_KERNEL && rip[0] == 0xe7 && rip[1] == PSB_PORT_TRAP;
	if (sig == SIGSEGV && !trap) {
		dprintf(2, "native: SIGSEGV at %p, address %p\n", (const void *)rip, info->si_addr);
		_exit(124);
	}
	__atomic_add_fetch(&counts[trap ? 1 : 2], 1, __ATOMIC_RELAXED);
	struct regs r = {.rax = (uint64_t)g[REG_RAX], .rdi = (uint64_t)g[REG_RDI], .rsi = (uint64_t)g[REG_RSI], .rdx = (uint64_t)g[REG_RDX],
	                 .r10 = (uint64_t)g[REG_R10], .r8 = (uint64_t)g[REG_R8], .r9 = (uint64_t)g[REG_R9], .rsp = (uint64_t)g[REG_RSP]};
	g[REG_RAX] = (greg_t)perform(&r);
	g[REG_RSP] = (greg_t)r.rsp;
	if (trap)
		g[REG_RIP] += 2;
	g[REG_RCX] = g[REG_RIP];
}

static uint64_t load(const char *path, Elf64_Ehdr *eh, Elf64_Phdr *ph, uint64_t *phdr_at, char *interp)
{
	int fd = open(path, O_RDONLY);
	if (fd < 0 || pread(fd, eh, sizeof *eh, 0) != sizeof *eh || eh->e_phnum > 64 ||
	    pread(fd, ph, sizeof *ph * eh->e_phnum, (long)eh->e_phoff) < 0)
		die(path);
	struct plan *p = plan_of(fd);
	uint64_t lo = ~0ul, hi = 0, bias = 0;
	for (int i = 0; i < eh->e_phnum; i++)
		if (ph[i].p_type == PT_LOAD) {
			lo = DOWN(ph[i].p_vaddr) < lo ? DOWN(ph[i].p_vaddr) : lo;
			hi = UP(ph[i].p_vaddr + ph[i].p_memsz) > hi ? UP(ph[i].p_vaddr + ph[i].p_memsz) : hi;
		} else if (ph[i].p_type == PT_INTERP)
			pread(fd, interp, ph[i].p_filesz, (long)ph[i].p_offset);
	uint64_t whole = hi - lo + (p ? p->head.tramp_len : 0);
	char *room = mmap((void *)(eh->e_type == ET_EXEC ? lo : 0), whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | (eh->e_type == ET_EXEC ? MAP_FIXED_NOREPLACE : 0), -1, 0);
	if (room == MAP_FAILED)
		die("room for program");
	bias = (uint64_t)room - lo;
	if (p) {
		munmap(room + (hi - lo), p->head.tramp_len);
		map_trampolines(p, (uint64_t)room);
	}
	for (int i = 0; i < eh->e_phnum; i++) {
		if (ph[i].p_type != PT_LOAD)
			continue;
		uint64_t va = bias + ph[i].p_vaddr, start = DOWN(va), skew = va - start;
		int prot = (ph[i].p_flags & PF_R ? PROT_READ : 0) | (ph[i].p_flags & PF_W ? PROT_WRITE : 0) | (ph[i].p_flags & PF_X ? PROT_EXEC : 0);
		if (ph[i].p_filesz && guest_mmap((long)start, (long)(ph[i].p_filesz + skew), prot, MAP_PRIVATE | MAP_FIXED, fd, (long)(ph[i].p_offset - skew)) != (long)start)
			die("segment");
		uint64_t file_end = va + ph[i].p_filesz, mem_end = UP(va + ph[i].p_memsz);
		if (ph[i].p_memsz > ph[i].p_filesz) {
			if (ph[i].p_filesz)
				memset((void *)file_end, 0, UP(file_end) - file_end);
			uint64_t from = ph[i].p_filesz ? UP(file_end) : start;
			if (mem_end > from && mmap((void *)from, mem_end - from, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
				die("bss");
		}
		if (ph[i].p_offset <= eh->e_phoff && eh->e_phoff < ph[i].p_offset + ph[i].p_filesz)
			*phdr_at = bias + ph[i].p_vaddr + eh->e_phoff - ph[i].p_offset;
	}
	close(fd);
	return bias;
}

static void read_plans(const char *path)
{
	FILE *f = fopen(path, "r");
	char image[4096];
	if (!f)
		die(path);
	while (nplans < 64 && fscanf(f, "%lu %lu %4095s", &plans[nplans].dev, &plans[nplans].ino, image) == 3) {
		struct plan *p = &plans[nplans++];
		int fd = open(image, O_RDONLY);
		p->fd = fcntl(fd, F_DUPFD_CLOEXEC, 900); /* out of the program's way */
		close(fd);
		if (p->fd < 0 || pread(p->fd, &p->head, sizeof p->head, 0) != sizeof p->head || p->head.magic != PSB_PLAN_IMAGE_MAGIC)
			die(image);
	}
	fclose(f);
}

int main(int argc, char **argv, char **envp)
{
	if (argc < 4)
		return 125;
	counts = mmap(0, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	own_fs = __builtin_ia32_rdfsbase64();
	plans_path = argv[1];
	program = argv[2];
	read_plans(plans_path);
	Elf64_Ehdr eh, ieh;
	Elf64_Phdr ph[64], iph[64];
	char interp[4096] = "", none[4096];
	uint64_t phdr_at = 0, dummy, bias = load(argv[2], &eh, ph, &phdr_at, interp), ibias = 0, start = bias + eh.e_entry;
	if (interp[0]) {
		ibias = load(interp, &ieh, iph, &dummy, none);
		start = ibias + ieh.e_entry;
	}
	uint64_t *stack = mmap(0, 8 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t *sp = stack + (8 << 20) / 8 - 2048, *s = sp;
	*s++ = (uint64_t)argc - 3;
	for (int i = 3; i < argc; i++)
		*s++ = (uint64_t)argv[i];
	*s++ = 0;
	for (char **e = envp; *e; e++)
		*s++ = (uint64_t)*e;
	*s++ = 0;
	uint64_t aux[] = {AT_PHDR, phdr_at, AT_PHENT, 56, AT_PHNUM, eh.e_phnum, AT_PAGESZ, PAGE, AT_BASE, ibias, AT_ENTRY, bias + eh.e_entry,
	                  AT_UID, getuid(), AT_EUID, geteuid(), AT_GID, getgid(), AT_EGID, getegid(), AT_SECURE, 0, AT_RANDOM, getauxval(AT_RANDOM),
	                  AT_HWCAP, getauxval(AT_HWCAP), AT_HWCAP2, getauxval(AT_HWCAP2), AT_CLKTCK, 100, AT_EXECFN, (uint64_t)argv[2],
	                  AT_SYSINFO_EHDR, getauxval(AT_SYSINFO_EHDR), AT_MINSIGSTKSZ, getauxval(51), AT_NULL, 0};
	memcpy(s, aux, sizeof aux);

	slot.abi.entry = (uint64_t)stub;
	slot.abi.cpuid = (uint64_t)cpuid_stub;
	slot.stack = (uint64_t)(stacks + sizeof stacks);
	if (raw(SYS_arch_prctl, 0x1001 /* ARCH_SET_GS */, (long)&slot, 0, 0, 0, 0))
		die("ARCH_SET_GS");
	struct sigaction sa = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_NODEFER};
	if (sigaction(SIGSEGV, &sa, 0) || sigaction(SIGSYS, &sa, 0))
		die("sigaction");
	dispatch_on();
	__asm__ volatile("mov %0, %%rsp\n xor %%edx, %%edx\n xor %%ebp, %%ebp\n jmp *%1\n" ::"r"(sp), "r"(start) : "rdx", "memory");
	__builtin_unreachable();
}
