/* The frame itself: fields, registers and extended state across a handler that ruins them all. */
#include "sig.h"
#include <immintrin.h>
#include <fenv.h>

static ucontext_t saved;
static unsigned fp_magic1, fp_magic2, fp_size, fp_extended;
static unsigned long fp_features, stack_alignment, handler_flags, info_at, context_at, return_at;
static unsigned handler_mxcsr, handler_fcw;
static volatile int changed;

static void ruin(int signo, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	unsigned mxcsr;
	unsigned short fcw;
	(void)signo;
	__asm__ volatile("pushf; pop %0" : "=r"(handler_flags));
	__asm__ volatile("stmxcsr %0; fnstcw %1" : "=m"(mxcsr), "=m"(fcw));
	handler_mxcsr = mxcsr;
	handler_fcw = fcw;
	saved = *uc;
	const unsigned char *fp = (const void *)uc->uc_mcontext.fpregs;
	memcpy(&fp_magic1, fp + 464, 4);
	memcpy(&fp_extended, fp + 468, 4);
	memcpy(&fp_features, fp + 472, 8);
	memcpy(&fp_size, fp + 480, 4);
	memcpy(&fp_magic2, fp + fp_size, 4);
	check(fp_extended == fp_size + 4);
	check(((uintptr_t)fp & 63) == 0);
	context_at = (unsigned long)uc;
	info_at = (unsigned long)info;
	return_at = (unsigned long)__builtin_frame_address(0) + 8;
	stack_alignment = (context_at - 8) & 15;
	__asm__ volatile("vpcmpeqd %%ymm0, %%ymm0, %%ymm0; vmovdqa %%ymm0, %%ymm1; vmovdqa %%ymm0, %%ymm7; vmovdqa %%ymm0, %%ymm15" : : : "xmm0", "xmm1", "xmm7", "xmm15");
	__asm__ volatile("fninit; fldpi; fldpi; fldpi" : : : "st");
	mxcsr = 0x9fc0;
	__asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
	if (changed) {
		uc->uc_mcontext.gregs[REG_R12] = 0x1212;
		uc->uc_mcontext.gregs[REG_EFL] |= 0x3000 | 1; /* IOPL is not for us, CF is */
		((float *)uc->uc_mcontext.fpregs->_xmm)[4] = 2.5f;
		uc->uc_mcontext.fpregs->mxcsr = 0xffffffff & ~0x1f80u;
		uc->uc_mcontext.fpregs->mxcsr = 0x1f80 | 0x6000;
	}
}

struct regs {
	uint64_t r[15];
	uint64_t flags;
	double st;
	unsigned char ymm[16][32];
	unsigned mxcsr;
	unsigned short fcw;
} __attribute__((aligned(64)));

static struct regs before, after;
static long self_pid, self_tid;

/* Loads everything from `before`, sends a signal to itself (tgkill: RAX, RCX, R11 are the kernel's, RDI, RSI and RDX arguments),
 * stores everything in `after`. */
void load_signal_store(void);
__asm__(".text\n"
	"load_signal_store:\n"
	"	push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15; sub $8, %rsp\n"
	"	ldmxcsr before+648(%rip)\n"
	"	fldcw before+652(%rip)\n"
	"	fldl before+128(%rip)\n"
	"	lea before+136(%rip), %rax\n"
	"	vmovdqu (%rax), %ymm0; vmovdqu 32(%rax), %ymm1; vmovdqu 64(%rax), %ymm2; vmovdqu 96(%rax), %ymm3\n"
	"	vmovdqu 128(%rax), %ymm4; vmovdqu 160(%rax), %ymm5; vmovdqu 192(%rax), %ymm6; vmovdqu 224(%rax), %ymm7\n"
	"	vmovdqu 256(%rax), %ymm8; vmovdqu 288(%rax), %ymm9; vmovdqu 320(%rax), %ymm10; vmovdqu 352(%rax), %ymm11\n"
	"	vmovdqu 384(%rax), %ymm12; vmovdqu 416(%rax), %ymm13; vmovdqu 448(%rax), %ymm14; vmovdqu 480(%rax), %ymm15\n"
	"	mov self_pid(%rip), %rdi; mov self_tid(%rip), %rsi; mov $10, %edx\n"
	"	mov before+24(%rip), %rbx; mov before+32(%rip), %rbp; mov before+40(%rip), %r8; mov before+48(%rip), %r9\n"
	"	mov before+56(%rip), %r10; mov before+72(%rip), %r12; mov before+80(%rip), %r13; mov before+88(%rip), %r14\n"
	"	mov before+96(%rip), %r15\n"
	"	movq $0x11223344, -8(%rsp); movq $0x55667788, -128(%rsp)\n" /* the red zone is ours */
	"	mov $234, %eax\n"
	"	cmp %eax, %eax; std; stc\n" /* the same flags every time */
	"	syscall\n"
	"	pushf; pop after+120(%rip)\n"
	"	cld\n"
	"	mov %rbx, after+24(%rip); mov %rbp, after+32(%rip); mov %r8, after+40(%rip); mov %r9, after+48(%rip)\n"
	"	mov %r10, after+56(%rip); mov %r12, after+72(%rip); mov %r13, after+80(%rip); mov %r14, after+88(%rip)\n"
	"	mov %r15, after+96(%rip)\n"
	"	mov %rax, after(%rip); mov %rdi, after+8(%rip); mov %rsi, after+16(%rip); mov %rdx, after+64(%rip)\n"
	"	mov -128(%rsp), %rax; mov %rax, after+104(%rip)\n"
	"	lea after+136(%rip), %rax\n"
	"	vmovdqu %ymm0, (%rax); vmovdqu %ymm1, 32(%rax); vmovdqu %ymm2, 64(%rax); vmovdqu %ymm3, 96(%rax)\n"
	"	vmovdqu %ymm4, 128(%rax); vmovdqu %ymm5, 160(%rax); vmovdqu %ymm6, 192(%rax); vmovdqu %ymm7, 224(%rax)\n"
	"	vmovdqu %ymm8, 256(%rax); vmovdqu %ymm9, 288(%rax); vmovdqu %ymm10, 320(%rax); vmovdqu %ymm11, 352(%rax)\n"
	"	vmovdqu %ymm12, 384(%rax); vmovdqu %ymm13, 416(%rax); vmovdqu %ymm14, 448(%rax); vmovdqu %ymm15, 480(%rax)\n"
	"	fstpl after+128(%rip)\n"
	"	stmxcsr after+648(%rip)\n"
	"	fnstcw after+652(%rip)\n"
	"	vzeroupper\n"
	"	fninit\n"
	"	push $0x1f80; ldmxcsr (%rsp); pop %rax\n"
	"	add $8, %rsp; pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
	"	ret\n");

static void round_trip(const char *what)
{
	memset(&after, 0, sizeof after);
	load_signal_store();
	say("%s: rax %ld, callee-saved and arguments kept %d", what, (long)after.r[0],
	    !memcmp(&before.r[3], &after.r[3], 5 * 8) && !memcmp(&before.r[10], &after.r[10], 3 * 8));
	say("  r12 %lx, red zone %lx, flags %lx", (unsigned long)after.r[9], (unsigned long)after.r[13], (unsigned long)after.flags & 0xcd5);
	int same = 0;
	for (int i = 0; i < 16; i++)
		same += !memcmp(before.ymm[i], after.ymm[i], 32);
	say("  ymm kept %d, st0 %.3f, mxcsr %x, fcw %x", same, after.st, after.mxcsr, after.fcw);
	float f;
	memcpy(&f, after.ymm[1], 4);
	say("  xmm1[0] %.3f", (double)f);
	greg_t *g = saved.uc_mcontext.gregs;
	unsigned short seg[4];
	memcpy(seg, &g[REG_CSGSFS], 8);
	say("  frame: flags %lx link %d cs %x gs %x fs %x ss %x rflags %lx rax %ld", saved.uc_flags, saved.uc_link != NULL, seg[0], seg[1], seg[2],
	    seg[3], (unsigned long)g[REG_EFL] & ~0ul, (long)g[REG_RAX]);
	say("  frame: rdi is pid %d, rsi is tid %d, rdx %ld, r12 %lx", g[REG_RDI] == self_pid, g[REG_RSI] == self_tid, (long)g[REG_RDX],
	    (unsigned long)g[REG_R12]);
	say("  layout: alignment %lu, siginfo behind ucontext by %lu, return address in front %lu", stack_alignment, info_at - context_at,
	    context_at - return_at);
	say("  state: magic %x %x, avx %lu, size enough %d", fp_magic1, fp_magic2, fp_features >> 2 & 1, fp_size >= 832);
	say("  handler starts with flags %lx, mxcsr %x, fcw %x", handler_flags & 0x500, handler_mxcsr, handler_fcw);
}

_Static_assert(offsetof(struct regs, ymm) == 136 && offsetof(struct regs, mxcsr) == 648 && offsetof(struct regs, fcw) == 652, "used above");

int main(void)
{
	self_pid = getpid();
	self_tid = syscall(SYS_gettid);
	for (int i = 0; i < 15; i++)
		before.r[i] = 0x0101010101010101ull * (uint64_t)(i + 1);
	for (int i = 0; i < 16; i++)
		memset(before.ymm[i], 0x20 + i, 32);
	before.st = 1.25;
	before.mxcsr = 0x1f80 | 0x4000;
	before.fcw = 0xf7f;
	on_signal(SIGUSR1, ruin, 0);
	round_trip("unchanged frame");
	check(!memcmp(before.ymm, after.ymm, sizeof before.ymm));
	check(after.mxcsr == before.mxcsr && after.fcw == before.fcw && after.st == before.st);
	changed = 1;
	round_trip("changed frame");
	check(after.r[9] == 0x1212);
	return done();
}
