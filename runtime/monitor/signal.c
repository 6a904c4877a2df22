/* Signals: the host's dispositions and masks as a mirror of the guest's, the one host handler, and delivery.
 * signal.h says how this fits the rest; signal_frame.c knows the frame.
 *
 * Races, in one place. The handler runs on the vCPU thread at any instruction where the host mask lets it:
 *  - before signal_deliver() looks: seen there. After: immediate_exit makes the coming KVM_RUN return at once. A
 *    signal during KVM_RUN ends it with -EINTR by the kernel.
 *  - around a host call that may sleep: signal_call() and the handler settle it by RIP (signal_entry.S).
 *  - while a signal is held: cannot be, the handler returns to a full host mask. SIGSEGV and SIGBUS stay open because copies
 *    fault with them; sent by somebody at such a moment (or while the guest blocks them) they go to a side table.
 *  - a change of the host mask by us while a signal is being caught would open the mask in spite of a held signal: every such
 *    change goes through signal_call(), which does nothing once a signal is held. */
#include "signal.h"
#include "confine.h"
#include "peer.h"
#include "plan_sites.h"
#include "proc.h"

#define SET_BYTES 8
#define SYS_RESTART 219 /* the kernel's restart_syscall, in RAX when it continues a call with a timeout by itself */
#define TRAP_UD 6
#define TRAP_PAGE_FAULT 14

#define HOST_FULL_MASK (~SIG_COPY_FAULTS)

#define TRAMPOLINE_TAIL 15 /* bytes of `lea back(%rip),%rcx; jmp *%gs:PSB_SLOT_ENTRY` in front of `back` (shim/abi.h) */
#define SYSCALL_LEN 2


struct host_ucontext { /* as the kernel passes it to the handler */
	struct ucontext_k uc;
};

/* --- SIGSEGV and SIGBUS that somebody sent and that cannot be held yet --------------------------------------------- */

/* At most two a thread. The table is shared by vfork children (same memory), therefore claimed by compare-and-swap and
 * keyed by thread. A full table drops the signal: as when a standard signal is already pending. */
#define KEPT_MAX 64
static struct kept {
	struct thread *_Atomic owner;
	struct siginfo_k info;
} kept[KEPT_MAX];
static _Atomic u32 kept_count;

static void keep(struct thread *t, const struct siginfo_k *info)
{
	for (int i = 0; i < KEPT_MAX; i++)
		if (kept[i].owner == t && kept[i].info.signo == info->signo)
			return; /* standard signals do not queue */
	for (int i = 0; i < KEPT_MAX; i++) {
		struct thread *none = NULL;
		if (atomic_compare_exchange_strong(&kept[i].owner, &none, t)) {
			kept[i].info = *info;
			kept_count++;
			return;
		}
	}
}

/* Next kept signal of the thread within `set`, or NULL. */
static struct kept *kept_find(struct thread *t, u64 set)
{
	if (!kept_count)
		return NULL;
	for (int i = 0; i < KEPT_MAX; i++)
		if (kept[i].owner == t && kept[i].info.signo && (SIG_BIT(kept[i].info.signo) & set))
			return &kept[i];
	return NULL;
}

static void kept_drop(struct kept *k)
{
	k->info.signo = 0; /* nothing, until the next owner has filled it */
	k->owner = NULL;
	kept_count--;
}

/* --- host side -------------------------------------------------------------------------------------------------- */

static long set_host_mask(u64 mask)
{
	return host_call(__NR_rt_sigprocmask, SIG_SETMASK, &mask, 0, SET_BYTES);
}

/* Opens the host mask as asked unless a signal is held (then it stays full): 0 or -ERESTARTNOINTR. */
static long open_host_mask(struct thread *t, u64 mask)
{
	const u64 arg[6] = {SIG_SETMASK, (u64)&mask, 0, SET_BYTES};
	return signal_call(&t->sig_pending, __NR_rt_sigprocmask, arg);
}

void signal_apply_mask(struct thread *t)
{
	open_host_mask(t, t->sigmask & ~SIG_COPY_FAULTS);
}

/* The signal goes back to the host kernel, addressed to this thread: the host mask must block it. (That a signal was sent to the whole
 * process cannot be told from its siginfo; it stays with the thread that caught it.) */
static void requeue(const struct siginfo_k *info)
{
	host_call(__NR_rt_tgsigqueueinfo, host_call(__NR_getpid), host_call(__NR_gettid), info->signo, info);
}

/* The interrupted code of ours was reading or writing guest memory, or the monitor is wrong. */
static bool is_own_fault(const struct siginfo_k *info, const struct sigcontext_k *mc)
{
	/* a program may queue a SIGSEGV with a kernel-like si_code to itself: the CPU's word counts */
	return info->code > 0 && mc->trapno == TRAP_PAGE_FAULT && mc->cr2 == info->addr;
}

/* The ring server does not block SIGSEGV and SIGBUS either, and the host may pick it for one that was sent to the process: to
 * a thread of the guest then. */
static void forward(const struct thread *server, const struct siginfo_k *info)
{
	for (u32 i = 0; i < VCPU_MAX && threads.entry[i]; i++) {
		const struct thread *t = threads.entry[i];
		if (t->state == THREAD_USED && t->proc == server->proc &&
		    !host_call(__NR_rt_tgsigqueueinfo, t->proc->pid, t->tid, info->signo, info))
			return;
	}
}

/* To the ring server, from ring_kick(). */
static bool is_kick(const struct siginfo_k *info)
{
	u64 value;
	memcpy(&value, info->room + 8, sizeof value);
	return info->code == PEER_CODE && value == RING_VALUE;
}

/* If the server is about to make such a call, or was interrupted in it, it is over. */
static void leave_ring_call(struct sigcontext_k *mc)
{
	if (mc->rip < (u64)signal_call_begin || mc->rip > (u64)signal_call_insn)
		return;
	mc->rax = (u64)-ERESTARTNOINTR;
	mc->rip = (u64)signal_call_end;
}

/* The one host handler; all signals are blocked while it runs. Short: note, and make sure that the thread will look. */
static void on_host_signal(int signo, struct siginfo_k *info, struct host_ucontext *host)
{
	struct thread *t = current_thread();
	struct sigcontext_k *mc = &host->uc.mc;
	if (SIG_BIT(signo) & SIG_COPY_FAULTS) {
		if (is_own_fault(info, mc)) {
			u64 fixup = guest_copy_fixup(mc->rip);
			if (!fixup)
				fatal("fault of the monitor at %lx, address %lx", mc->rip, mc->cr2);
			mc->rip = fixup;
			return;
		}
		if (!t->run && is_kick(info)) {
			leave_ring_call(mc);
			return;
		}
		if (peer_signal(t, info) || t->proc->sig->action[signo].handler == SIG_IGN)
			return;
		if (!t->run) {
			forward(t, info);
			return;
		}
		if ((t->sigmask & SIG_BIT(signo)) || t->sig_pending) {
			keep(t, info);
			return;
		}
	}
	if (signo == SIGILL && info->code > 0 && mc->trapno == TRAP_UD)
		fatal("invalid instruction in the monitor at %lx", mc->rip);

	memcpy(t->sig_info, info, sizeof t->sig_info);
	t->sig_pending = 1;
	host->uc.sigmask = HOST_FULL_MASK;
	t->run->immediate_exit = 1;
	if (mc->rip >= (u64)signal_call_begin && mc->rip <= (u64)signal_call_insn) {
		/* Not begun: the program meets its handler in front of the call. A timed call that the kernel was about to continue
		 * by itself did run: natively that ends in EINTR. */
		bool begun = mc->rip == (u64)signal_call_insn && mc->rcx == (u64)signal_call_end;
		mc->rax = (u64)(!begun ? -ERESTARTNOINTR : mc->rax == SYS_RESTART ? -EINTR : -ERESTARTSYS);
		mc->rip = (u64)signal_call_end;
	}
}

static void set_host_action(int signo, const struct sigaction_k *act)
{
	struct sigaction_k k = {.flags = act->flags & (SA_NOCLDSTOP | SA_NOCLDWAIT), .mask = ~0ull};
	if (act->handler > SIG_IGN || (SIG_BIT(signo) & SIG_COPY_FAULTS)) {
		k.handler = (u64)on_host_signal;
		/* SA_RESTART: a call that is not prepared for interruption goes on; signal_call() sees it restart */
		k.flags |= SA_SIGINFO | SA_RESTART;
	} else {
		k.handler = act->handler;
	}
	k.flags |= SA_RESTORER;
	k.restorer = (u64)signal_restorer;
	host_call(__NR_rt_sigaction, signo, &k, 0, SET_BYTES);
}

/* --- life of programs and threads --------------------------------------------------------------------------------- */

u64 signals_ignored(const struct proc *p)
{
	u64 set = 0;
	for (int signo = 1; signo <= NSIG; signo++)
		set |= p->sig->action[signo].handler == SIG_IGN ? SIG_BIT(signo) : 0;
	return set;
}

/* As the launcher's caller left them. */
static u64 ignored_by_host(void)
{
	u64 set = 0;
	for (int signo = 1; signo <= NSIG; signo++) {
		struct sigaction_k inherited = {0};
		host_call(__NR_rt_sigaction, signo, 0, &inherited, SET_BYTES);
		set |= inherited.handler == SIG_IGN ? SIG_BIT(signo) : 0;
	}
	return set;
}

void signal_start(struct proc *p, struct thread *t, const struct psb_start *start)
{
	u64 ignored = start->is_exec ? start->ignored : ignored_by_host();
	for (int signo = 1; signo <= NSIG; signo++)
		p->sig->action[signo] = (struct sigaction_k){.handler = ignored & SIG_BIT(signo) ? SIG_IGN : SIG_DFL};
	set_host_action(SIGSEGV, &p->sig->action[SIGSEGV]);
	set_host_action(SIGBUS, &p->sig->action[SIGBUS]);
	u64 mask = 0;
	host_call(__NR_rt_sigprocmask, SIG_SETMASK, 0, &mask, SET_BYTES);
	t->sigmask = mask;
	t->have_saved_sigmask = false;
	t->sig_pending = 0;
	t->altstack_sp = t->altstack_size = 0;
	t->altstack_flags = 0;
	signal_apply_mask(t); /* opens SIGSEGV and SIGBUS; the program's wish about them is in t->sigmask */
}

/* t->sigmask was set by the creator before the host clone (it may change its own mask since); a forked child has it in its copy. */
void signal_thread_start(struct thread *t, struct thread *parent)
{
	struct kept *k;
	while ((k = kept_find(t, ~0ull))) /* of the parent (fork) or of an earlier user of this entry */
		kept_drop(k);
	t->sig_pending = 0; /* pending signals are not inherited */
	t->have_saved_sigmask = false;
	const struct thread *from = parent ? parent : t->creator;
	if (from && from != t) {
		if (from->proc == t->proc) { /* a thread: no alternate stack */
			altstack_reset(t);
		} else { /* a process that shares memory: the caller's */
			t->altstack_sp = from->altstack_sp;
			t->altstack_size = from->altstack_size;
			t->altstack_flags = from->altstack_flags;
		}
	}
	t->creator = NULL; /* a later fork of this thread has no creator but itself */
	if (t == current_thread())
		signal_apply_mask(t);
}

long signal_block(struct thread *t)
{
	set_host_mask(HOST_FULL_MASK);
	return t->sig_pending ? -ERESTARTNOINTR : 0;
}

void signal_thread_end(struct thread *t)
{
	struct siginfo_k info;
	if (!signal_block(t))
		return;
	memcpy(&info, t->sig_info, sizeof info);
	host_call(__NR_rt_sigqueueinfo, host_call(__NR_getpid), info.signo, &info);
}

void signal_unblock(struct thread *t)
{
	signal_apply_mask(t);
}

void signal_clear_handlers(struct proc *p)
{
	for (int signo = 1; signo <= NSIG; signo++) {
		struct sigaction_k *act = &p->sig->action[signo];
		*act = (struct sigaction_k){.handler = act->handler == SIG_IGN ? SIG_IGN : SIG_DFL};
		set_host_action(signo, act);
	}
}

/* "Ignored" is inherited, our handler is not: for the moment of an execve the host has to know that the guest ignores SIGSEGV or
 * SIGBUS. A bad pointer in a call of another thread at this very moment would end the process; the execve is about to do
 * that to the thread anyhow. */
static void show_copy_faults(struct proc *p, bool as_guest)
{
	static const int both[] = {SIGSEGV, SIGBUS};
	for (u32 i = 0; i < ARRAY_LEN(both); i++) {
		struct sigaction_k k = {.handler = SIG_IGN};
		if (p->sig->action[both[i]].handler != SIG_IGN)
			continue;
		if (as_guest)
			host_call(__NR_rt_sigaction, both[i], &k, 0, SET_BYTES);
		else
			set_host_action(both[i], &p->sig->action[both[i]]);
	}
}

long signal_exec(struct thread *t, u64 fd, u64 path, u64 argv, u64 envp, u64 flags)
{
	if (signal_block(t))
		return -ERESTARTNOINTR;
	/* From here the kernel alone reads guest memory, and SIGSEGV may be blocked like any other. */
	set_host_mask(~0ull);
	struct kept *k;
	while (!t->sig_pending && (k = kept_find(t, ~0ull))) {
		requeue(&k->info);
		kept_drop(k);
	}
	long r = open_host_mask(t, t->sigmask);
	if (!r) {
		const u64 arg[6] = {fd, path, argv, envp, flags};
		/* shared, it would be the other process' host handler too */
		if (!t->proc->sig->shared)
			show_copy_faults(t->proc, true);
		r = signal_call(&t->sig_pending, __NR_execveat, arg);
		if (!t->proc->sig->shared)
			show_copy_faults(t->proc, false);
	}
	if (t->sig_pending)
		set_host_mask(HOST_FULL_MASK);
	signal_apply_mask(t);
	return r;
}

/* --- death ---------------------------------------------------------------------------------------------------- */

/* Pid 1 of a namespace survives every signal it left to the default, but not a fault of its own: the kernel takes the protection away
 * for that. So make the fault. */
static void die_by_fault(int signo)
{
	u64 v = 1, zero = 0;
	switch (signo) {
	case SIGSEGV: /* not canonical: no mapping of the guest can be there */
		__asm__ volatile("mov (%1), %0" : "=r"(v) : "r"(0x8000000000000000ull));
		break;
	case SIGILL:
		__asm__ volatile("ud2");
		break;
	case SIGFPE:
		__asm__ volatile("xor %%edx, %%edx; div %1" : "+a"(v) : "r"(zero) : "rdx", "cc");
		break;
	case SIGTRAP:
		__asm__ volatile("int3");
		break;
	case SIGBUS: /* alignment check */
		__asm__ volatile("pushf; orl $0x40000, (%%rsp); popf; mov 1(%1), %0" : "=r"(v) : "r"(&zero) : "cc", "memory");
		break;
	case SIGSYS:
		confine_kill_process();
		break;
	}
}

_Noreturn void signal_die(struct thread *t, int signo)
{
	bool shared = t->proc->sig->shared;
	if (!shared) /* For ever: no other thread may install a handler now. */
		lock_acquire(&t->proc->sig->lock);
	proc_trace_exit(t->proc, t, (u64)signo);
	peer_gone(t->proc);
	host_call(__NR_prctl, 4 /* PR_SET_DUMPABLE */, 0, 0, 0, 0); /* a core would be the monitor's */
	if (shared && SIG_BIT(signo) & SIG_COPY_FAULTS) { /* the other process needs the host's handler */
		exec_to_die(t, signo);
		host_call(__NR_kill, host_call(__NR_getpid), SIGKILL);
	}
	struct sigaction_k k = {.handler = SIG_DFL};
	host_call(__NR_rt_sigaction, signo, &k, 0, SET_BYTES);
	set_host_mask(~SIG_BIT(signo));
	host_call(__NR_tgkill, host_call(__NR_getpid), host_call(__NR_gettid), signo);
	die_by_fault(signo);
	for (;;)
		host_call(__NR_exit_group, 128 + signo);
}

/* --- delivery ------------------------------------------------------------------------------------------------- */

/* The action for one delivery; SA_RESETHAND takes effect here, as in the kernel before the frame is built. */
static struct sigaction_k take_action(struct thread *t, int signo)
{
	struct signals *s = t->proc->sig;
	lock_acquire(&s->lock);
	struct sigaction_k act = s->action[signo];
	if (act.handler > SIG_IGN && (act.flags & SA_RESETHAND)) {
		s->action[signo].handler = SIG_DFL;
		set_host_action(signo, &s->action[signo]);
	}
	lock_release(&s->lock);
	return act;
}

/* Moves a kept SIGSEGV or SIGBUS that the guest no longer blocks into the empty hand. True when a signal is held. */
static bool take_kept(struct thread *t)
{
	if (!kept_find(t, ~t->sigmask))
		return false;
	if (signal_block(t))
		return true; /* another one came first */
	struct kept *k = kept_find(t, ~t->sigmask);
	if (k) {
		memcpy(t->sig_info, &k->info, sizeof t->sig_info);
		t->sig_pending = 1;
		kept_drop(k);
		return true;
	}
	signal_apply_mask(t);
	return false;
}

/* After t->sigmask changed outside signal_deliver(): the host mask follows, a kept signal that may come now is held, and a held
 * one makes the next KVM_RUN return (an earlier kick may be used up). */
static void mask_changed(struct thread *t)
{
	signal_apply_mask(t);
	if (take_kept(t) || t->sig_pending)
		t->run->immediate_exit = 1;
}

static bool canonical(u64 va)
{
	return (u64)((i64)(va << 16) >> 16) == va;
}

static void record(struct thread *t, const struct siginfo_k *info, u64 handler);

/* Frame for a handler. A frame that cannot be written, or a handler the CPU cannot jump to, is a SIGSEGV by force. */
static void enter_handler(struct thread *t, const struct sigaction_k *act, const struct siginfo_k *info, const struct fault_info *fault)
{
	record(t, info, act->handler);
	long r = frame_push(t, act, info, fault);
	if (!r && canonical(act->handler))
		return;
	if (r && info->signo == SIGSEGV)
		signal_die(t, SIGSEGV);
	signal_force(t, &(struct siginfo_k){.signo = SIGSEGV, .code = SI_KERNEL}, NULL);
}

void signal_force(struct thread *t, const struct siginfo_k *info, const struct fault_info *fault)
{
	if (t->sigmask & SIG_BIT(info->signo))
		signal_die(t, info->signo);
	struct sigaction_k act = take_action(t, info->signo);
	if (act.handler <= SIG_IGN) {
		record(t, info, act.handler);
		signal_die(t, info->signo);
	}
	enter_handler(t, &act, info, fault);
	mask_changed(t);
}

void signal_fault(struct thread *t, int signo, int code, u64 addr, u64 trapno, u64 err, u64 cr2)
{
	if (SIG_BIT(signo) & (SIG_BIT(SIGFPE) | SIG_BIT(SIGILL) | SIG_BIT(SIGTRAP))) /* the instruction's address */
		addr = site_shown(t->proc, addr);
	struct siginfo_k info = {.signo = signo, .code = code, .addr = addr};
	struct fault_info fault = {.trapno = trapno, .err = err, .cr2 = cr2};
	signal_force(t, &info, &fault);
}

/* An unpatched `syscall` left the vCPU at CPL 0 (raw door): the program must never run there. */
void user_segments(struct thread *t)
{
	if ((t->run->s.regs.sregs.cs.selector & 3) != 3)
		vcpu_to_user(t);
}

/* The registers as the program sees them behind a call: `syscall` leaves RIP in RCX and the flags in R11. */
static struct kvm_regs *end_call(struct thread *t, long ret)
{
	struct kvm_regs *r = vcpu_settle(t);
	user_segments(t);
	r->rip = r->rcx = t->call.ret_addr;
	r->r11 = r->rflags & ~0x3000ul;
	r->rax = (u64)ret;
	vcpu_regs_changed(t);
	return r;
}

/* The call will be made again when the program goes on: the registers are those before it. */
static void restart_call(struct thread *t, long nr)
{
	const struct call *c = &t->call;
	struct kvm_regs *r = end_call(t, nr);
	if (c->door == PSB_DOOR_JUMP)
		r->rip = c->ret_addr - TRAMPOLINE_TAIL;
	else
		r->rip = c->site ? c->site : c->ret_addr - SYSCALL_LEN;
}

long signal_sigsys(struct thread *t, u32 nr, u32 data, u64 call_addr)
{
	struct siginfo_k info = {.signo = SIGSYS, .err = (i32)data, .code = SYS_SECCOMP};
	info.sys.call_addr = site_shown(t->proc, call_addr);
	info.sys.nr = (i32)nr;
	info.sys.arch = AUDIT_ARCH_X86_64;
	end_call(t, nr); /* RAX is the number, as after the kernel's rollback; what the handler leaves there is the result */
	signal_force(t, &info, NULL);
	return CALL_NO_RETURN;
}

static bool is_restart(long ret)
{
	return ret == -ERESTARTSYS || ret == -ERESTARTNOINTR || ret == -ERESTARTNOHAND || ret == -ERESTART_RESTARTBLOCK;
}

static bool restarts_after(long ret, const struct sigaction_k *act)
{
	return ret == -ERESTARTNOINTR || (ret == -ERESTARTSYS && (act->flags & SA_RESTART));
}

/* The guest has the signal at its default by now (another thread changed it): let the host do what the default is. */
static void default_action(struct thread *t, const struct siginfo_k *info)
{
	if (SIG_BIT(info->signo) & SIG_COPY_FAULTS) {
		if (host_call(__NR_getpid) != 1) /* pid 1 of a namespace is protected from what others send */
			signal_die(t, info->signo);
	} else {
		requeue(info); /* acted upon when the mask opens */
	}
}

/* One held signal; the host mask is full. True when a handler will run. */
static bool deliver_held(struct thread *t, long nr, long ret)
{
	struct siginfo_k info;
	memcpy(&info, t->sig_info, sizeof info);
	bool handled = false;
	if (t->sigmask & SIG_BIT(info.signo)) {
		/* caught before the mask changed (return from a handler, frame of a fault) */
		if (SIG_BIT(info.signo) & SIG_COPY_FAULTS)
			keep(t, &info);
		else
			requeue(&info);
	} else {
		struct sigaction_k act = take_action(t, info.signo);
		if (act.handler == SIG_DFL) {
			default_action(t, &info);
		} else if (act.handler != SIG_IGN) {
			if (nr >= 0 && is_restart(ret) && restarts_after(ret, &act))
				restart_call(t, nr);
			else if (nr >= 0)
				end_call(t, is_restart(ret) ? -EINTR : ret);
			enter_handler(t, &act, &info, NULL);
			handled = true;
		}
	}
	t->sig_pending = 0;
	signal_apply_mask(t); /* the next one may arrive inside */
	return handled;
}

bool signal_deliver(struct thread *t, long nr, long ret)
{
	bool changed = false;
	for (;;) {
		/* Cleared before the look: a signal caught after it sets it again and KVM_RUN will not start. */
		t->run->immediate_exit = 0;
		atomic_signal_fence(memory_order_seq_cst);
		if (t->sig_pending || take_kept(t)) {
			if (deliver_held(t, nr, ret)) {
				changed = true;
				nr = -1; /* the call is dealt with; further frames go on top */
			}
		} else if (nr >= 0 && is_restart(ret)) {
			restart_call(t, nr); /* nobody was interrupted */
			changed = true;
			nr = -1;
		} else if (t->have_saved_sigmask) {
			t->have_saved_sigmask = false;
			t->sigmask = t->saved_sigmask;
			signal_apply_mask(t); /* may let another one in */
		} else {
			return changed;
		}
	}
}

/* --- host calls that may sleep ------------------------------------------------------------------------------------- */

/* Calls that do nothing but wait for a signal or an event, and that no handler's SA_RESTART continues. */
static bool only_waits(long nr)
{
	switch (nr) {
	case __NR_pause:
	case __NR_poll:
	case __NR_select:
	case __NR_epoll_wait:
	case __NR_ppoll:
	case __NR_pselect6:
	case __NR_epoll_pwait:
	case __NR_epoll_pwait2:
	case __NR_io_pgetevents:
	case __NR_rt_sigtimedwait:
		return true;
	default:
		return false;
	}
}

/* Questions of other monitors are answered meanwhile; the call then goes on. */
static long call_answering(struct thread *t, long nr, u64 arg[6])
{
	u64 room[2], started = rdtsc();
	const u64 first[6] = {arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]};
	for (;;) {
		u32 asked = t->asked;
		long r = signal_call(&t->sig_pending, nr, arg);
		if ((r != -EINTR && likely(t->asked == asked)) || !peer_again(t, asked, started, nr, first, arg, room, &r))
			return r;
	}
}

/* A signal in front of the call: handler, then the call, as when it comes in front of the `syscall` instruction; a read() with data at
 * hand succeeds. Only waiting is said to have been interrupted: between a program's look at its flag and its wait there is more time
 * here than natively, and the wake-up must not be lost in it. */
long blocking_call(struct thread *t, long nr, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
	u64 arg[6] = {a, b, c, d, e, f};
	long r = call_answering(t, nr, arg);
	return r == -ERESTARTNOINTR && only_waits(nr) ? -ERESTARTNOHAND : r;
}

/* A host call that sleeps with another mask. The host kernel itself changes the mask for the time of the call (arg holds a pointer to
 * it), so a signal that only `mask` lets through can be caught nowhere else. Interrupted: t->sigmask is the temporary mask, which
 * the handler's mask is made from, and saved_sigmask the one for its frame and for later. */
static long call_with_mask(struct thread *t, u64 mask, long nr, u64 arg[6], long interrupted)
{
	u64 before = t->sigmask;
	t->sigmask = mask;
	long r = take_kept(t) ? -ERESTARTNOINTR : call_answering(t, nr, arg);
	if (r == -ERESTARTSYS || r == -ERESTARTNOINTR) {
		struct siginfo_k info;
		memcpy(&info, t->sig_info, sizeof info);
		if (mask & SIG_BIT(info.signo)) { /* caught before the call under the old mask: its handler comes first */
			t->sigmask = before;
			return -ERESTARTNOINTR;
		}
		r = -EINTR;
	}
	if (r == -EINTR && t->sig_pending) {
		t->saved_sigmask = before;
		t->have_saved_sigmask = true;
		return interrupted;
	}
	t->sigmask = before;
	return r;
}

long blocking_call_masked(struct thread *t, gptr set, u64 size, long nr, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
	u64 arg[6] = {a, b, c, d, e, f}, mask, host_mask;
	struct {
		u64 set, size;
	} pair = {(u64)&host_mask, SET_BYTES};
	long interrupted = -EINTR; /* epoll and aio: never restarted */
	if (!set.va) { /* a pair that says "no mask" is in guest memory: not for the host to read again */
		if (nr == __NR_pselect6 || nr == __NR_io_pgetevents)
			arg[5] = 0;
		return blocking_call(t, nr, arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]);
	}
	if (size != SET_BYTES)
		return -EINVAL;
	if (copy_from_guest(&mask, set, sizeof mask))
		return -EFAULT;
	mask &= ~SIG_UNBLOCKABLE;
	host_mask = mask & ~SIG_COPY_FAULTS;
	switch (nr) {
	case __NR_ppoll:
		arg[3] = (u64)&host_mask;
		arg[4] = SET_BYTES;
		interrupted = -ERESTARTNOHAND;
		break;
	case __NR_epoll_pwait:
	case __NR_epoll_pwait2:
		arg[4] = (u64)&host_mask;
		arg[5] = SET_BYTES;
		break;
	case __NR_pselect6:
		interrupted = -ERESTARTNOHAND;
		arg[5] = (u64)&pair;
		break;
	case __NR_io_pgetevents:
		arg[5] = (u64)&pair;
		break;
	default:
		return -ENOSYS;
	}
	return call_with_mask(t, mask, nr, arg, interrupted);
}

/* --- system calls ---------------------------------------------------------------------------------------------- */

long h_rt_sigaction(struct thread *t, struct call *c)
{
	int signo = (int)c->arg[0];
	struct sigaction_k new, old;
	if (c->arg[3] != SET_BYTES)
		return -EINVAL;
	if (c->arg[1] && copy_from_guest(&new, gptr_of(c->arg[1]), sizeof new))
		return -EFAULT;
	if (signo < 1 || signo > NSIG || (c->arg[1] && (SIG_BIT(signo) & SIG_UNBLOCKABLE)))
		return -EINVAL;
	struct signals *s = t->proc->sig;
	lock_acquire(&s->lock);
	old = s->action[signo];
	if (c->arg[1]) {
		new.flags &= SA_KNOWN; /* how programs find out which flags exist */
		new.mask &= ~SIG_UNBLOCKABLE;
		/* The table first: the host handler may run for this signal from the next line on. */
		s->action[signo] = new;
		set_host_action(signo, &new);
		if (SIG_BIT(signo) & SIG_COPY_FAULTS)
			peer_tell_status(t->proc);
	}
	lock_release(&s->lock);
	return c->arg[2] ? copy_to_guest(gptr_of(c->arg[2]), &old, sizeof old) : 0;
}

long h_rt_sigprocmask(struct thread *t, struct call *c)
{
	u64 old = t->sigmask, mask;
	if (c->arg[3] != SET_BYTES)
		return -EINVAL;
	if (c->arg[1]) {
		if (copy_from_guest(&mask, gptr_of(c->arg[1]), sizeof mask))
			return -EFAULT;
		mask &= ~SIG_UNBLOCKABLE;
		switch ((int)c->arg[0]) {
		case SIG_BLOCK:
			mask |= old;
			break;
		case SIG_UNBLOCK:
			mask = old & ~mask;
			break;
		case SIG_SETMASK:
			break;
		default:
			return -EINVAL;
		}
		/* A signal caught before the mask closed has been sent before: handler first, then this call. */
		if (mask != old && open_host_mask(t, mask & ~SIG_COPY_FAULTS))
			return -ERESTARTNOINTR;
		t->sigmask = mask;
		take_kept(t);
	}
	return c->arg[2] ? copy_to_guest(gptr_of(c->arg[2]), &old, sizeof old) : 0;
}

long h_rt_sigpending(struct thread *t, struct call *c)
{
	u64 set = 0;
	if (c->arg[1] > SET_BYTES)
		return -EINVAL;
	host_call(__NR_rt_sigpending, &set, SET_BYTES);
	for (int signo = 1; kept_count && signo <= NSIG; signo++)
		if (kept_find(t, SIG_BIT(signo)))
			set |= SIG_BIT(signo);
	/* A held signal is not blocked, so it does not count; while one is held the host blocks more than the guest does. */
	set &= t->sigmask;
	return copy_to_guest(gptr_of(c->arg[0]), &set, c->arg[1]);
}

long h_rt_sigsuspend(struct thread *t, struct call *c)
{
	u64 mask, host_mask;
	if (c->arg[1] != SET_BYTES)
		return -EINVAL;
	if (copy_from_guest(&mask, gptr_of(c->arg[0]), sizeof mask))
		return -EFAULT;
	mask &= ~SIG_UNBLOCKABLE;
	host_mask = mask & ~SIG_COPY_FAULTS;
	u64 arg[6] = {(u64)&host_mask, SET_BYTES};
	return call_with_mask(t, mask, __NR_rt_sigsuspend, arg, -ERESTARTNOHAND);
}

long h_pause(struct thread *t, struct call *c)
{
	(void)c;
	blocking_call(t, __NR_pause, 0, 0, 0, 0, 0, 0);
	return -ERESTARTNOHAND;
}

/* Takes a signal of `set` that we, not the host kernel, have: true, and its siginfo. */
static bool take_waiting(struct thread *t, u64 set, struct siginfo_k *info)
{
	if (t->sig_pending) {
		memcpy(info, t->sig_info, sizeof *info);
		if (SIG_BIT(info->signo) & set) {
			t->sig_pending = 0;
			signal_apply_mask(t);
			return true;
		}
	}
	struct kept *k = kept_find(t, set);
	if (!k)
		return false;
	*info = k->info;
	kept_drop(k);
	return true;
}

/* A question comes as a signal: here it may be caught by the host call itself. */
static long wait_unless_asked(struct thread *t, u64 set, struct siginfo_k *info, const u64 timeout[2])
{
	u64 started = rdtsc(), left[2];
	for (;;) {
		if (timeout)
			peer_time_left(started, timeout, left);
		long r = blocking_call(t, __NR_rt_sigtimedwait, (u64)&set, (u64)info, timeout ? (u64)left : 0, SET_BYTES, 0, 0);
		if (r != PEER_SIGNAL || !peer_signal(t, info))
			return r;
	}
}

long h_rt_sigtimedwait(struct thread *t, struct call *c)
{
	u64 set, timeout[2];
	struct siginfo_k info;
	if (c->arg[3] != SET_BYTES)
		return -EINVAL;
	if (copy_from_guest(&set, gptr_of(c->arg[0]), sizeof set))
		return -EFAULT;
	if (c->arg[2] && copy_from_guest(timeout, gptr_of(c->arg[2]), sizeof timeout))
		return -EFAULT;
	set &= ~SIG_UNBLOCKABLE;
	long r;
	if (take_waiting(t, set, &info)) {
		r = info.signo;
	} else {
		r = wait_unless_asked(t, set, &info, c->arg[2] ? timeout : NULL);
		if (r == -ERESTARTNOHAND && take_waiting(t, set, &info))
			r = info.signo;
	}
	if (r > 0 && c->arg[1] && copy_to_guest(gptr_of(c->arg[1]), &info, sizeof info))
		return -EFAULT;
	return r;
}

long h_rt_sigreturn(struct thread *t, struct call *c)
{
	(void)c;
	if (frame_pop(t) || !canonical(t->run->s.regs.regs.rip))
		signal_force(t, &(struct siginfo_k){.signo = SIGSEGV, .code = SI_KERNEL}, NULL);
	else
		mask_changed(t);
	return CALL_NO_RETURN;
}

/* --- trace --------------------------------------------------------------------------------------------------- */

/* A delivery cannot be refused like a call: when the log is full the next call will be. */
static void record(struct thread *t, const struct siginfo_k *info, u64 handler)
{
	bool fault = info->code > 0 && (SIG_BIT(info->signo) & SIG_FAULTS);
	const u64 args[6] = {(u64)info->signo, (u64)(i64)info->code, fault ? info->addr : (u64)info->from.pid, handler};
	const struct trace_event ev = {.kind = PSB_REC_SIGNAL, .flags = PSB_REC_DONE, .tid = (u32)t->tid, .args = args};
	trace_write(&t->proc->tracer, &ev, NULL);
}
