/* Signal frames in guest memory, exactly as x86-64 Linux lays them out: what frame_push() writes below the stack pointer,
 * frame_pop() (rt_sigreturn) believes as far as it can be believed. From high to low addresses:
 *
 *     red zone (128 bytes) | FP_XSTATE_MAGIC2 | XSAVE area, 64-byte aligned | siginfo | ucontext | return address <- RSP
 *
 * Nothing here touches the host's signal state; signal.c does. Buffers are on the host stack, not in t->scratch: the ring server may
 * be using that for a request which the program posted behind our back. */
#include "signal.h"
#include "plan_sites.h"

#define RED_ZONE 128
#define MIN_ALTSTACK 2048 /* MINSIGSTKSZ */

#define UC_FP_XSTATE 1u
#define UC_SIGCONTEXT_SS 2u
#define UC_STRICT_RESTORE_SS 4u

#define USER_CS 0x33
#define USER_SS 0x2b

/* RFLAGS: what sigreturn may set, what a handler starts without, what the program must not see of our IOPL. */
#define FLAGS_RESTORED 0x00050dd5ul /* AC RF OF DF TF SF ZF AF PF CF */
#define FLAGS_CLEARED 0x00010500ul  /* RF DF TF */
#define FLAGS_IOPL 0x3000ul
#define FLAGS_ALWAYS 0x202ul        /* IF and the reserved 1 */

/* The XSAVE area: x87 and SSE in the legacy part, then the header. */
#define XSAVE_MAX 4096
#define XSAVE_LEGACY 512
#define XSAVE_MIN 576
#define XSAVE_X87_REGS 32 /* after FCW..., MXCSR and its mask */
#define XSAVE_XMM 160
#define XSAVE_XMM_END 416
#define FP_XSTATE_MAGIC1 0x46505853u
#define FP_XSTATE_MAGIC2 0x46505845u
#define XFEATURE_X87 1ul
#define XFEATURE_SSE 2ul
#define XFEATURE_X87_SSE (XFEATURE_X87 | XFEATURE_SSE)
#define FCW_INIT 0x37f
#define MXCSR_INIT 0x1f80u
#define MXCSR_VALID 0xffffu

struct xsave_sw { /* software bytes of the legacy area */
	u32 magic1, extended_size;
	u64 xfeatures;
	u32 xstate_size, padding[7];
};

struct xsave {
	u16 fcw, fsw, ftw, fop;
	u64 fip, fdp;
	u32 mxcsr, mxcsr_mask;
	u8 regs[432]; /* x87 at 32, XMM at 160..415, unused */
	struct xsave_sw sw;
	u64 xstate_bv, xcomp_bv, header[6];
	u8 extended[XSAVE_MAX - XSAVE_MIN + 8]; /* room for FP_XSTATE_MAGIC2 behind the largest area */
} __attribute__((aligned(64)));
_Static_assert(offsetof(struct xsave, sw) == 464, "software bytes");
_Static_assert(offsetof(struct xsave, xstate_bv) == XSAVE_LEGACY, "header");
_Static_assert(offsetof(struct xsave, extended) == XSAVE_MIN, "extended area");

static void x87_init(struct xsave *x)
{
	x->fcw = FCW_INIT;
	x->fsw = x->ftw = x->fop = 0;
	x->fip = x->fdp = 0;
	memset(x->regs, 0, XSAVE_XMM - XSAVE_X87_REGS);
}

static void load_xsave(struct thread *t, const struct xsave *x)
{
	long r = vcpu_set_xsave(t, x);
	if (r) /* the area was cleaned: a refusal is our mistake */
		fatal("extended state refused: %d", (int)r);
}

/* The state a handler starts with, and a sigreturn without a saved one. */
static void load_init_state(struct thread *t, struct xsave *x)
{
	memset(x, 0, sizeof *x);
	x87_init(x);
	x->mxcsr = MXCSR_INIT;
	x->xstate_bv = XFEATURE_X87_SSE;
	load_xsave(t, x);
}

/* --- alternate stack -------------------------------------------------------------------------------------- */

static bool within_altstack(const struct thread *t, u64 sp)
{
	return sp > t->altstack_sp && sp - t->altstack_sp <= t->altstack_size;
}

/* With SS_AUTODISARM the question is never asked: the stack was disarmed when the handler started. */
static bool on_altstack(const struct thread *t, u64 sp)
{
	return !(t->altstack_flags & SS_AUTODISARM) && within_altstack(t, sp);
}

static u32 altstack_state(const struct thread *t, u64 sp)
{
	if (!t->altstack_size)
		return SS_DISABLE;
	return on_altstack(t, sp) ? SS_ONSTACK : 0;
}

void altstack_reset(struct thread *t)
{
	t->altstack_sp = t->altstack_size = 0;
	t->altstack_flags = SS_DISABLE;
}

static long altstack_set(struct thread *t, const struct stack_k *s, u64 sp)
{
	if (on_altstack(t, sp))
		return -EPERM;
	u32 mode = s->flags & ~SS_AUTODISARM;
	if (mode != SS_DISABLE && mode != SS_ONSTACK && mode != 0)
		return -EINVAL;
	if (t->altstack_sp == s->sp && t->altstack_size == s->size && t->altstack_flags == s->flags)
		return 0;
	if (mode != SS_DISABLE && s->size < MIN_ALTSTACK)
		return -ENOMEM;
	t->altstack_sp = mode == SS_DISABLE ? 0 : s->sp;
	t->altstack_size = mode == SS_DISABLE ? 0 : s->size;
	t->altstack_flags = s->flags;
	return 0;
}

long h_sigaltstack(struct thread *t, struct call *c)
{
	u64 sp = t->run->s.regs.regs.rsp;
	struct stack_k old = {
		.sp = t->altstack_sp,
		.size = t->altstack_size,
		.flags = altstack_state(t, sp) | (t->altstack_flags & SS_AUTODISARM),
	};
	if (c->arg[0]) {
		struct stack_k new;
		if (copy_from_guest(&new, gptr_of(c->arg[0]), sizeof new))
			return -EFAULT;
		long r = altstack_set(t, &new, sp);
		if (r)
			return r;
	}
	if (c->arg[1])
		return copy_to_guest(gptr_of(c->arg[1]), &old, sizeof old);
	return 0;
}

/* --- building a frame ---------------------------------------------------------------------------------------- */

struct layout {
	u64 frame, fpstate;
};

/* Where the frame goes. -EFAULT: it would leave the alternate stack through its bottom. */
static long place_frame(const struct thread *t, const struct sigaction_k *act, u64 rsp, struct layout *l)
{
	bool on_alt = on_altstack(t, rsp);
	u64 sp = rsp - RED_ZONE;
	if ((act->flags & SA_ONSTACK) && altstack_state(t, sp) == 0) {
		sp = t->altstack_sp + t->altstack_size;
		on_alt = true;
	}
	l->fpstate = ROUND_DOWN(sp - (vcpu_xsave_size() + sizeof(u32)), 64);
	l->frame = ROUND_DOWN(l->fpstate - sizeof(struct sigframe_k), 16) - 8; /* as after a call instruction */
	return on_alt && !within_altstack(t, l->frame) ? -EFAULT : 0;
}

u64 frame_room(void)
{
	return ROUND_UP(sizeof(struct sigframe_k) + 15 + vcpu_xsave_size() + sizeof(u32) + 63, 16);
}

static long write_fpstate(struct thread *t, u64 where, struct xsave *x)
{
	u32 size = vcpu_xsave_size();
	long r = vcpu_get_xsave(t, x);
	if (r)
		fatal("reading extended state: %d", (int)r);
	x->sw = (struct xsave_sw){
		.magic1 = FP_XSTATE_MAGIC1,
		.extended_size = size + (u32)sizeof(u32),
		.xfeatures = vcpu_xcr0(),
		.xstate_size = size,
	};
	x->xstate_bv = (x->xstate_bv & vcpu_xcr0()) | XFEATURE_X87_SSE; /* as the kernel: old programs edit these in place */
	x->xcomp_bv = 0;
	memset(x->header, 0, sizeof x->header);
	u32 magic2 = FP_XSTATE_MAGIC2;
	memcpy((u8 *)x + size, &magic2, sizeof magic2);
	return copy_to_guest(gptr_of(where), x, size + sizeof magic2);
}

static void fill_context(struct proc *p, struct sigcontext_k *mc, const struct kvm_regs *r)
{
	/* A call through a trampoline leaves RCX where it returns to, as `syscall` does. */
	u64 rip = site_shown(p, r->rip), rcx = r->rcx == r->rip ? rip : site_shown(p, r->rcx);
	*mc = (struct sigcontext_k){
		.r8 = r->r8, .r9 = r->r9, .r10 = r->r10, .r11 = r->r11,
		.r12 = r->r12, .r13 = r->r13, .r14 = r->r14, .r15 = r->r15,
		.rdi = r->rdi, .rsi = r->rsi, .rbp = r->rbp, .rbx = r->rbx,
		.rdx = r->rdx, .rax = r->rax, .rcx = rcx, .rsp = r->rsp,
		.rip = rip,
		.rflags = (r->rflags & ~FLAGS_IOPL) | FLAGS_ALWAYS,
		.cs = USER_CS, .ss = USER_SS,
	};
}

long frame_push(struct thread *t, const struct sigaction_k *act, const struct siginfo_k *info, const struct fault_info *fault)
{
	struct xsave x;
	struct layout at;
	struct kvm_regs *r = vcpu_settle(t);
	if (!(act->flags & SA_RESTORER)) /* x86-64 has no other way back */
		return -EFAULT;
	if (place_frame(t, act, r->rsp, &at) || write_fpstate(t, at.fpstate, &x))
		return -EFAULT;

	u64 mask = t->have_saved_sigmask ? t->saved_sigmask : t->sigmask;
	struct sigframe_k f = {
		.pretcode = act->restorer,
		.uc.flags = UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS,
		.uc.stack = {.sp = t->altstack_sp, .flags = t->altstack_flags, .size = t->altstack_size},
		.uc.sigmask = mask,
		.info = *info,
	};
	fill_context(t->proc, &f.uc.mc, r);
	f.uc.mc.oldmask = mask;
	f.uc.mc.fpstate = at.fpstate;
	if (fault) {
		f.uc.mc.err = fault->err;
		f.uc.mc.trapno = fault->trapno;
		f.uc.mc.cr2 = fault->cr2;
	}
	u64 len = act->flags & SA_SIGINFO ? sizeof f : offsetof(struct sigframe_k, info);
	if (copy_to_guest(gptr_of(at.frame), &f, len))
		return -EFAULT;

	r->rdi = (u64)info->signo;
	r->rsi = at.frame + offsetof(struct sigframe_k, info);
	r->rdx = at.frame + offsetof(struct sigframe_k, uc);
	r->rax = 0;
	r->rsp = at.frame;
	r->rip = act->handler;
	r->rflags = (r->rflags & ~FLAGS_CLEARED) | FLAGS_IOPL | FLAGS_ALWAYS;
	vcpu_regs_changed(t);
	load_init_state(t, &x);

	if (t->altstack_flags & SS_AUTODISARM)
		altstack_reset(t);
	t->sigmask |= act->mask | (act->flags & SA_NODEFER ? 0 : SIG_BIT(info->signo));
	t->have_saved_sigmask = false;
	return 0;
}

/* --- taking a frame back ---------------------------------------------------------------------------------------- */

/* Fetches the saved extended state and makes it loadable, whatever the program wrote there: unknown features and the
 * reserved header bytes go, MXCSR keeps its defined bits. A part whose feature bit is clear is in its initial state. Without
 * the magic numbers only the legacy part counts. */
static long read_fpstate(u64 where, struct xsave *x)
{
	memset(x, 0, sizeof *x);
	if (copy_from_guest(x, gptr_of(where), XSAVE_LEGACY))
		return -EFAULT;
	const struct xsave_sw *sw = &x->sw;
	u64 features = XFEATURE_X87_SSE, wanted = sw->xfeatures;
	u32 size = sw->xstate_size, magic2 = 0;
	if (sw->magic1 == FP_XSTATE_MAGIC1 && size >= XSAVE_MIN && size <= vcpu_xsave_size() && size <= sw->extended_size) {
		if (copy_from_guest(&magic2, gptr_of(where + size), sizeof magic2))
			return -EFAULT;
		if (magic2 == FP_XSTATE_MAGIC2) {
			if (copy_from_guest((u8 *)x + XSAVE_LEGACY, gptr_of(where + XSAVE_LEGACY), size - XSAVE_LEGACY))
				return -EFAULT;
			features = x->xstate_bv & wanted & vcpu_xcr0();
		}
	}
	if (!(features & XFEATURE_X87))
		x87_init(x);
	if (!(features & XFEATURE_SSE))
		memset(&x->regs[XSAVE_XMM - XSAVE_X87_REGS], 0, XSAVE_XMM_END - XSAVE_XMM);
	x->mxcsr &= MXCSR_VALID;
	x->xstate_bv = features | XFEATURE_X87_SSE;
	x->xcomp_bv = 0;
	memset(x->header, 0, sizeof x->header);
	return 0;
}

static void restore_context(struct thread *t, const struct sigcontext_k *mc)
{
	struct kvm_regs *r = vcpu_settle(t);
	user_segments(t);
	u64 flags = (r->rflags & ~FLAGS_RESTORED) | (mc->rflags & FLAGS_RESTORED);
	*r = (struct kvm_regs){
		.r8 = mc->r8, .r9 = mc->r9, .r10 = mc->r10, .r11 = mc->r11,
		.r12 = mc->r12, .r13 = mc->r13, .r14 = mc->r14, .r15 = mc->r15,
		.rdi = mc->rdi, .rsi = mc->rsi, .rbp = mc->rbp, .rbx = mc->rbx,
		.rdx = mc->rdx, .rax = mc->rax, .rcx = mc->rcx, .rsp = mc->rsp,
		.rip = site_executed(t->proc, mc->rip), .rflags = flags | FLAGS_IOPL | FLAGS_ALWAYS,
	};
	vcpu_regs_changed(t);
}

long frame_pop(struct thread *t)
{
	struct xsave x;
	struct ucontext_k uc;
	/* The handler's `ret` has taken the return address: RSP points to the ucontext. Copied once, here. */
	if (copy_from_guest(&uc, gptr_of(t->run->s.regs.regs.rsp), sizeof uc))
		return -EFAULT;
	t->sigmask = uc.sigmask & ~SIG_UNBLOCKABLE;
	if (uc.mc.fpstate && read_fpstate(uc.mc.fpstate, &x))
		return -EFAULT;
	restore_context(t, &uc.mc); /* segment selectors in the frame mean nothing: there is one user code segment */
	if (uc.mc.fpstate)
		load_xsave(t, &x);
	else
		load_init_state(t, &x);
	altstack_set(t, &uc.stack, uc.mc.rsp); /* as the kernel: a refused one is not an error */
	return 0;
}
