/* The run loop: enter the guest, look at why it came back, serve that, deliver signals, again. */
#include "plan_sites.h"
#include "proc.h"
#include "shim_offsets.h"
#include "signal.h"

#define SEGV_MAPERR 1
#define SEGV_ACCERR 2
#define BUS_ADRALN 1
#define BUS_ADRERR 2
#define CPUID_ENTER 15 /* length of a cpuid trampoline's way into the shim, in front of where it continues */

struct ring_counters counters;

struct kvm_regs call_return_regs(struct thread *t, const struct call *c)
{
	struct kvm_regs r = *vcpu_settle(t);
	r.rip = c->ret_addr;
	r.rcx = c->ret_addr;
	if (c->door == PSB_DOOR_RAW)
		r.rflags = r.r11;
	return r;
}

/* --- faults ------------------------------------------------------------------------------------------------ */

static int fpe_code(u64 vector, struct thread *t)
{
	if (vector == 0)
		return 1; /* FPE_INTDIV */
	u8 *x = t->xsave;
	if (vcpu_get_xsave(t, x))
		return 0;
	/* x87: status and control word; SSE: MXCSR flags and masks. The kernel's order of precedence. */
	u32 e = vector == 16 ? *(u16 *)(x + 2) & ~*(u16 *)x : *(u32 *)(x + 24) & ~(*(u32 *)(x + 24) >> 7);
	if (e & 1)
		return 7; /* FLTINV */
	if (e & 4)
		return 3; /* FLTDIV */
	if (e & 8)
		return 4; /* FLTOVF */
	if (e & 0x12)
		return 5; /* FLTUND */
	if (e & 0x20)
		return 6; /* FLTRES */
	return 0;
}

/* The program steps through its own instructions (TF). Where a call's way leads through a trampoline and the shim, or a trampoline only has what
 * is not the program's, it could not go on from what it is shown. */
static bool is_programs_step(struct thread *t, u64 rip)
{
	return rip - t->proc->mm->shim >= PAGE && site_executed(t->proc, site_shown(t->proc, rip)) == rip;
}

/* An exception stub ran: the CPU pushed its frame on the vCPU's exception stack. Back to user state, then what it means. */
static void handle_exception(struct thread *t, u32 vector)
{
	static const u32 has_error = 1u << 8 | 1u << 10 | 1u << 11 | 1u << 12 | 1u << 13 | 1u << 14 | 1u << 17 | 1u << 21;
	const u64 *end = t->exception_frame;
	u64 err = has_error >> vector & 1 ? end[-6] : 0;
	u64 rip = end[-5], cs = end[-4], cr2 = t->run->s.regs.sregs.cr2;
	struct kvm_regs *r = &t->run->s.regs.regs;
	r->rip = rip;
	r->rflags = end[-3];
	r->rsp = end[-2];
	t->io_pending = false; /* RIP changes: KVM drops the completion when RIP is not where the `out` was */
	vcpu_regs_changed(t);
	vcpu_to_user(t);
	if ((cs & 3) != 3)
		fatal("exception %u at CPL 0", vector);
	counters.faults++;
	switch (vector) {
	case 14: {
		int code = mm_fault(t->proc->mm, cr2, err);
		if (code && !emulate_vsyscall(t, cr2) && !gs_fault(t))
			signal_fault(t, SIGSEGV, code, cr2, 14, err | 4, cr2);
		break;
	}
	case 0:
	case 16:
	case 19:
		signal_fault(t, SIGFPE, fpe_code(vector, t), rip, vector, err, 0);
		break;
	case 1:
		if (!is_programs_step(t, rip))
			break; /* the next step */
		signal_fault(t, SIGTRAP, 2 /* TRAP_TRACE */, rip, vector, err, 0);
		break;
	case 3:
		signal_fault(t, SIGTRAP, SI_KERNEL, 0, vector, err, 0);
		break;
	case 6:
		if (!emulate_base_access(t))
			signal_fault(t, SIGILL, 2 /* ILL_ILLOPN */, rip, vector, err, 0);
		break;
	case 10:
	case 11:
	case 12:
		signal_fault(t, SIGBUS, SI_KERNEL, 0, vector, err, 0);
		break;
	case 17:
		signal_fault(t, SIGBUS, BUS_ADRALN, 0, vector, err, 0);
		break;
	default:
		signal_fault(t, SIGSEGV, SI_KERNEL, 0, vector, err, 0);
	}
}

/* KVM could not reach memory behind a valid guest translation: a truncated file, a hole the host made, or only the moment
 * inside mprotect() when the host mapping is closed. Trying the access ourselves, after such an operation, tells. */
static void handle_memory_failure(struct thread *t)
{
	struct mm *mm = t->proc->mm;
	struct kvm_run *run = t->run;
	u64 va = 0;
	if (run->exit_reason == 39 /* KVM_EXIT_MEMORY_FAULT, Linux 6.8 */) {
		u64 gpa = *(u64 *)((u8 *)run + offsetof(struct kvm_run, hw) + 8); /* memory_fault: flags, gpa, size */
		if (gpa >= CHUNK_GPA(0) && gpa < CHUNK_GPA(mm->nchunks))
			va = mm->chunk_va[(gpa - CHUNK_GPA(0)) / CHUNK_SIZE] + gpa % CHUNK_SIZE;
	}
	if (!va) {
		va = operand_address(t);
		if (va >= PSB_GUEST_LIMIT)
			va = 0;
	}
	lock_acquire(&mm->lock);
	const struct region *g = va ? mm_find(mm, va) : NULL;
	u8 byte;
	bool readable = g && !copy_from_guest(&byte, gptr_of(va), 1);
	lock_release(&mm->lock);
	if (readable && t->memory_retries++ < 1000)
		return;
	t->memory_retries = 0;
	vcpu_settle(t);
	u8 present;
	if (host_call(__NR_mincore, ROUND_DOWN(va, PAGE), PAGE, &present) == -ENOMEM) /* a fork has left it out: MADV_DONTFORK */
		signal_fault(t, SIGSEGV, SEGV_MAPERR, va, 14, 4, va);
	else
		signal_fault(t, SIGBUS, BUS_ADRERR, va, 14, 4, va);
}

/* --- system calls --------------------------------------------------------------------------------------------- */

/* Puts the result in place. Registers are then as the program shall see them, or RIP stands at the shim's last jump. */
static void finish_call(struct thread *t, struct call *c, long ret)
{
	struct kvm_regs *r = &t->run->s.regs.regs;
	if (ret != CALL_NO_RETURN) {
		bool to_signal = t->sig_pending || (ret <= -ERESTARTSYS && ret >= -ERESTART_RESTARTBLOCK);
		if (c->door == PSB_DOOR_RAW) {
			r->rip = c->ret_addr;
			r->rflags = r->r11;
			t->io_pending = false;
			vcpu_to_user(t);
		} else if (to_signal || t->proc->mm->gs_given) { /* a signal must not meet RIP behind a trampoline's `out` */
			r = vcpu_settle(t);
			r->rip = c->ret_addr;
		}
		r->rax = (u64)ret;
		r->rcx = c->ret_addr;
		vcpu_regs_changed(t);
	}
	if (t->sig_pending || ret <= -ERESTARTSYS) {
		if (t->slot)
			t->slot->pending = 0;
		signal_deliver(t, ret == CALL_NO_RETURN ? -1 : (long)c->nr, ret == CALL_NO_RETURN ? 0 : ret);
	}
}

#define STUCK 20000000ul /* TSC cycles, some milliseconds: no call that the server makes takes so long, unless it waits */

void call_begin(struct thread *t)
{
	static const u64 pause[2] = {0, 1000000}; /* struct timespec */
	u64 since = 0;
	for (u32 round = 0;; round++) {
		u32 zero = 0;
		if (atomic_compare_exchange_strong(&t->busy, &zero, 1))
			return;
		__builtin_ia32_pause();
		if (round % 1024 != 1023)
			continue;
		host_call(__NR_sched_yield);
		since = since ? since : rdtsc();
		if (unlikely(rdtsc() - since > STUCK)) {
			ring_kick(t->proc);
			host_call(__NR_nanosleep, pause, NULL);
		}
	}
}

void call_end(struct thread *t)
{
	atomic_store(&t->busy, 0);
}

static void handle_call(struct thread *t, u32 port)
{
	struct call *c = &t->call;
	struct kvm_regs *r = &t->run->s.regs.regs;
	if (port == PSB_PORT_CONT) {
		call_begin(t);
		u64 post = t->slot->post;
		u8 state = (u8)post;
		if (state == PSB_SLOT_DONE && !t->call_on_ring) {
			long ret = (long)t->slot->nr_ret;
			t->slot->post = PSB_SLOT_IDLE;
			atomic_store(&t->busy, 0);
			*c = (struct call){.nr = (u32)-1, .door = PSB_DOOR_JUMP, .ret_addr = r->rcx};
			finish_call(t, c, ret);
			return;
		}
		if (!t->call_on_ring) { /* nobody took it: the registers are as posted */
			ring_absent(t);
			*c = (struct call){.nr = (u32)t->slot->nr_ret, .door = PSB_DOOR_JUMP, .ret_addr = r->rcx, .site = r->rcx};
			u64 a[6] = {r->rdi, r->rsi, r->rdx, r->r10, r->r8, r->r9};
			memcpy(c->arg, a, sizeof a);
		}
		t->call_on_ring = false;
		t->slot->post = PSB_SLOT_IDLE;
	} else {
		u64 a[6] = {r->rdi, r->rsi, r->rdx, r->r10, r->r8, r->r9};
		*c = (struct call){.nr = (u32)r->rax};
		memcpy(c->arg, a, sizeof a);
		if (port == PSB_PORT_RAW) {
			counters.raw++;
			c->door = PSB_DOOR_RAW;
			c->ret_addr = r->rcx;
			c->site = r->rcx - 2;
		} else if (port == PSB_PORT_TRAP) {
			c->door = PSB_DOOR_TRAP;
			c->site = vcpu_out_site(t);
			c->ret_addr = c->site + 2;
		} else {
			c->door = PSB_DOOR_JUMP;
			c->site = c->ret_addr = r->rcx;
		}
		call_begin(t); /* the server may be behind the previous call's answer, or on a slot posted by another thread's hand */
	}
	counters.trap++;
	c->may_block = true;
	long ret = dispatch(t, c);
	dispatch_done(t, c, ret);
	call_end(t);
	if (port == PSB_PORT_SHIM && !t->proc->mm->gs_given)
		ring_note_trap(t);
	finish_call(t, c, ret);
}

static void handle_io(struct thread *t)
{
	struct kvm_run *run = t->run;
	u32 port = run->io.port;
	if (run->io.direction != KVM_EXIT_IO_OUT || run->io.size != 4 || run->io.count != 1)
		port = 0;
	switch (port) {
	case PSB_PORT_TRAP:
	case PSB_PORT_SHIM:
	case PSB_PORT_CONT:
	case PSB_PORT_RAW:
		handle_call(t, port);
		return;
	case PSB_PORT_SIGCHECK: {
		struct kvm_regs *r = vcpu_settle(t);
		r->rip = r->rcx;
		vcpu_regs_changed(t);
		t->slot->pending = 0;
		if (t->sig_pending)
			signal_deliver(t, -1, 0);
		return;
	}
	default:
		if (port >= PSB_PORT_EXC && port < PSB_PORT_EXC + 32 && run->s.regs.regs.rip >= PSB_GUEST_LIMIT) {
			handle_exception(t, port - PSB_PORT_EXC);
			if (t->sig_pending) /* it came while RIP was in the stub, and its kick is used up */
				t->run->immediate_exit = 1;
			return;
		}
		/* Port access by the program: a general protection fault to it. */
		vcpu_settle(t);
		signal_fault(t, SIGSEGV, SI_KERNEL, 0, 13, 0, 0);
	}
}

/* In the shim's cpuid: back in front of the instruction, as if it had not begun. Flags and RIP are the registers', the rest was
 * saved in the slot, which the guest may have written: it harms nobody but itself. */
static void undo_cpuid(struct thread *t, u64 off)
{
	struct kvm_regs *r = vcpu_settle(t);
	u64 saved[5];
	for (u32 i = 0; i < ARRAY_LEN(saved); i++)
		saved[i] = t->slot->saved[i];
	u64 back = off ? saved[0] : r->rbx;
	if (off >= SHIM_CPUID_SAVED - SHIM_CPUID) {
		r->rax = (u32)saved[1];
		r->rcx = saved[1] >> 32;
		r->rsi = saved[2];
		r->rdi = saved[3];
	}
	if (off >= SHIM_CPUID_FLAGS - SHIM_CPUID) {
		const u64 in_ah = 0xd5, overflow = 1u << 11;
		r->rflags = (r->rflags & ~(in_ah | overflow)) | (saved[4] >> 8 & in_ah) | (saved[4] & 1 ? overflow : 0);
	}
	r->rip = back < PSB_GUEST_LIMIT ? back - CPUID_ENTER : 0;
	vcpu_regs_changed(t);
}

/* A signal interrupted the guest. In the shim the program is between states: let it finish the call (it looks at
 * `pending` before it leaves), except behind its last look, where the call is complete and only RIP is missing. */
static void handle_interrupt(struct thread *t)
{
	struct kvm_regs *r = &t->run->s.regs.regs;
	u64 shim = t->proc->mm->shim, off = r->rip - shim;
	if (!t->sig_pending)
		return;
	if (r->rip >= PSB_GUEST_LIMIT || vcpu_in_exception(t))
		return; /* in a stub, or on the way there: its exit comes next, and then the signal's turn */
	if (off - SHIM_CPUID < SHIM_CPUID_END - SHIM_CPUID) {
		undo_cpuid(t, off - SHIM_CPUID);
	} else if (off < PAGE) {
		bool leaving = off >= SHIM_LEAVE && off < SHIM_LEAVE_END;
		const u8 *code = (const u8 *)r->rip;
		if (leaving) {
			r->rip = r->r11;
		} else if (code[0] == 0xff && code[1] == 0xe1) { /* jmp *%rcx: the exit's result is in place */
			r->rip = r->rcx;
		} else {
			t->slot->pending = 1;
			return;
		}
		vcpu_regs_changed(t);
	}
	t->slot->pending = 0;
	signal_deliver(t, -1, 0);
}

/* `from`: where the guest was entered. At a shutdown (triple fault) all else may be that of a CPU just reset, which is at fff0. */
static _Noreturn void die_of(struct thread *t, u64 from, const char *what, u64 detail)
{
	const struct kvm_regs *r = &t->run->s.regs.regs;
	const struct kvm_sregs *s = &t->run->s.regs.sregs;
	log_line("%s (%lx) at %lx (entered at %lx, rsp %lx, cs %x, cr2 %lx, cr3 %lx)", what, detail, (u64)r->rip, from, (u64)r->rsp,
		 s->cs.selector, (u64)s->cr2, (u64)s->cr3);
	signal_die(t, SIGSEGV);
}

/* With its first run a VM gets a thread of KVM's own, which counts as a task of ours: at the limit of the pids controller
 * there is none to be had, and the guest cannot run. Others may be about to end; when nobody does, this process has to. */
static void wait_for_task(u32 attempt)
{
	static const u64 pause[2] = {0, 5 * 1000 * 1000}; /* struct timespec */
	if (attempt > 400)
		fatal("no task left for the virtual machine: the pids limit is reached");
	host_call(__NR_nanosleep, pause, NULL);
}

void thread_run(struct thread *t)
{
	u32 waits = 0;
	for (;;) {
		u32 cpu;
		u64 entered = rdtscp(&cpu), from = t->run->s.regs.regs.rip;
		atomic_store_explicit(&t->proc->ring.caller_cpu, cpu, memory_order_relaxed);
		long r = vcpu_run(t);
		ring_note_exit(rdtsc() - entered);
		counters.exits++;
		if (r == 0) {
			struct kvm_run *run = t->run;
			switch (run->exit_reason) {
			case KVM_EXIT_IO:
				t->memory_retries = 0;
				handle_io(t);
				break;
			case KVM_EXIT_INTR:
				break;
			case KVM_EXIT_MMIO:
				die_of(t, from, "access outside the guest's memory", run->mmio.phys_addr);
			case KVM_EXIT_INTERNAL_ERROR:
				die_of(t, from, "KVM internal error", run->internal.suberror);
			default:
				die_of(t, from, "unexpected exit", run->exit_reason);
			}
		} else if (r == -EINTR) {
			/* reset first, look second: a signal in between sets both again */
			t->run->immediate_exit = 0;
			atomic_thread_fence(memory_order_seq_cst);
			handle_interrupt(t);
		} else if (r == -EFAULT) {
			handle_memory_failure(t);
		} else if (r == -EAGAIN) {
			wait_for_task(++waits);
		} else {
			fatal("KVM_RUN: error %d", (int)-r);
		}
	}
}
