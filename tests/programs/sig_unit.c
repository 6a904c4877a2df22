/* The monitor's signal code without KVM: signal.c, signal_frame.c and the assembly run for real, on the real host kernel; only the vCPU is
 * an array of registers here. Freestanding like the monitor. Prints "ok", or what failed. */
#include "../../runtime/monitor/signal.h"
#include "../../runtime/monitor/confine.h"
#include "../../runtime/monitor/plan_sites.h"
#include "../../runtime/monitor/proc.h"

#define SIGUSR1 10
#define SIGUSR2 12
#define SIGALRM 14
#define SIGTERM 15
#define GUEST 0x20000000ul
#define GUEST_LEN 0x40000ul
#define STACK (GUEST + 0x30000)
#define HANDLER (GUEST + 0x100)
#define RESTORER (GUEST + 0x200)
#define SITE (GUEST + 0x300)
#define BACK (GUEST + 0x400)

/* --- what the rest of the monitor would provide ---------------------------------------------------------- */

static struct thread self;
static struct proc proc;
static struct kvm_run run;
static u8 xsave[4096] __attribute__((aligned(64)));
static u64 xsave_refused;
struct threads threads;

struct kvm_regs *vcpu_settle(struct thread *t)
{
	return &t->run->s.regs.regs;
}
void vcpu_regs_changed(struct thread *t)
{
	(void)t;
}
u64 site_shown(struct proc *p, u64 rip) /* nothing is rewritten */
{
	(void)p;
	return rip;
}
u64 site_executed(struct proc *p, u64 rip)
{
	(void)p;
	return rip;
}
void confine_kill_process(void) /* a filter that kills at every number */
{
	struct {
		u16 code;
		u8 jt, jf;
		u32 k;
	} kill = {0x06 /* BPF_RET | BPF_K */, 0, 0, 0x80000000u /* SECCOMP_RET_KILL_PROCESS */};
	struct {
		u16 len;
		void *filter;
	} program = {1, &kill};
	host_call(__NR_prctl, 38 /* PR_SET_NO_NEW_PRIVS */, 1, 0, 0, 0);
	host_call(__NR_seccomp, 1 /* SECCOMP_SET_MODE_FILTER */, 0, &program);
	host_call(__NR_getpid);
}
void vcpu_to_user(struct thread *t)
{
	t->run->s.regs.sregs.cs.selector = 0x33;
}
u64 vcpu_xcr0(void)
{
	return 7;
}
u32 vcpu_xsave_size(void)
{
	return 832;
}
long vcpu_get_xsave(struct thread *t, void *buf)
{
	(void)t;
	memcpy(buf, xsave, sizeof xsave);
	return 0;
}
/* As strict as KVM_SET_XSAVE. */
long vcpu_set_xsave(struct thread *t, const void *buf)
{
	(void)t;
	const u64 *header = (const u64 *)((const u8 *)buf + 512);
	bool bad = header[0] & ~7ull || *(const u32 *)((const u8 *)buf + 24) & ~0xffffu;
	for (int i = 1; i < 8; i++)
		bad |= header[i] != 0;
	xsave_refused += bad;
	memcpy(xsave, buf, sizeof xsave);
	return 0;
}
long trace_write(struct tracer *tr, const struct trace_event *ev, struct trace_ref *ref)
{
	(void)tr, (void)ev, (void)ref;
	return 0;
}
/* peer.c: nobody asks here. */
bool peer_signal(struct thread *who, const struct siginfo_k *info)
{
	(void)who;
	(void)info;
	return false;
}

bool peer_again(struct thread *who, u32 asked, u64 started, long nr, const u64 first[6], u64 arg[6], u64 room[2], long *r)
{
	(void)who, (void)asked, (void)started, (void)nr, (void)first, (void)arg, (void)room, (void)r;
	return false;
}

void peer_time_left(u64 started, const u64 spec[2], u64 left[2])
{
	(void)started;
	memcpy(left, spec, 16);
}

void peer_tell_status(struct proc *p)
{
	(void)p;
}

void peer_gone(struct proc *p)
{
	(void)p;
}

void exec_to_die(struct thread *t, int signo)
{
	(void)t, (void)signo;
}

void proc_trace_exit(struct proc *p, struct thread *t, u64 status)
{
	(void)p, (void)t, (void)status;
}

/* --- tools --------------------------------------------------------------------------------------------------- */

static int failures;
static u64 random_state = 88172645463325252ull;

#define check(cond)                                                             \
	do {                                                                    \
		if (!(cond)) {                                                  \
			log_line("FAIL line %d: %s", __LINE__, #cond);          \
			failures++;                                             \
		}                                                               \
	} while (0)

static u64 random64(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	return random_state ^= random_state << 17;
}

static struct kvm_regs *regs(void)
{
	return &run.s.regs.regs;
}

static long host_kill(int signo)
{
	return host_call(__NR_kill, host_call(__NR_getpid), signo);
}

static u64 host_mask(void)
{
	u64 m = 0;
	host_call(__NR_rt_sigprocmask, 0, 0, &m, 8);
	return m;
}

static void put(u64 va, const void *p, u64 len)
{
	memcpy((void *)va, p, len);
}

static long action(int signo, u64 handler, u64 flags, u64 mask)
{
	struct sigaction_k a = {handler, flags | SA_RESTORER, RESTORER, mask};
	put(GUEST, &a, sizeof a);
	struct call c = {.arg = {(u64)signo, GUEST, 0, 8}};
	return h_rt_sigaction(&self, &c);
}

static long set_mask(u64 mask)
{
	put(GUEST + 64, &mask, 8);
	struct call c = {.arg = {SIG_SETMASK, GUEST + 64, 0, 8}};
	return h_rt_sigprocmask(&self, &c);
}

static void fill_regs(void)
{
	u64 *r = (u64 *)regs();
	for (u64 i = 0; i < sizeof(struct kvm_regs) / 8; i++)
		r[i] = 0x1000 + i;
	regs()->rsp = STACK;
	regs()->rip = SITE;
	regs()->rflags = 0x3202 | 0x400 | 1;
}

static struct sigframe_k *frame(void)
{
	return (struct sigframe_k *)regs()->rsp;
}

/* The handler's `ret`, then rt_sigreturn. */
static void handler_returns(void)
{
	check(frame()->pretcode == RESTORER);
	regs()->rsp += 8;
	struct call c = {0};
	check(h_rt_sigreturn(&self, &c) == CALL_NO_RETURN);
}

static void a_call(u8 door)
{
	fill_regs();
	self.call = (struct call){.door = door, .site = door == PSB_DOOR_JUMP ? BACK : SITE, .ret_addr = door == PSB_DOOR_JUMP ? BACK : SITE + 2};
}

/* --- tests --------------------------------------------------------------------------------------------------- */

static void test_delivery(void)
{
	fill_regs();
	struct kvm_regs before = *regs();
	check(!action(SIGUSR1, HANDLER, SA_SIGINFO, SIG_BIT(SIGTERM)));
	check(!action(SIGUSR2, HANDLER + 1, 0, 0));
	run.immediate_exit = 0;
	host_kill(SIGUSR1);
	check(self.sig_pending && run.immediate_exit);
	check(host_mask() == (~SIG_COPY_FAULTS & ~SIG_UNBLOCKABLE));
	host_kill(SIGUSR2); /* queued by the host */
	check(signal_deliver(&self, -1, 0));
	check(!self.sig_pending && !run.immediate_exit);
	/* USR1's frame first, then USR2's on top. */
	check(regs()->rip == HANDLER + 1 && regs()->rdi == SIGUSR2 && regs()->rax == 0);
	check(regs()->rsi == regs()->rsp + 8 + 304 && regs()->rdx == regs()->rsp + 8);
	check((regs()->rsp & 15) == 8 && regs()->rflags == 0x3203);
	check(frame()->uc.sigmask == (SIG_BIT(SIGUSR1) | SIG_BIT(SIGTERM)));
	check(self.sigmask == (SIG_BIT(SIGUSR1) | SIG_BIT(SIGTERM) | SIG_BIT(SIGUSR2)));
	check(host_mask() == self.sigmask);
	check(frame()->uc.mc.rip == HANDLER && !(frame()->uc.mc.rflags & 0x3000));
	handler_returns();
	check(regs()->rip == HANDLER && host_mask() == (SIG_BIT(SIGUSR1) | SIG_BIT(SIGTERM)));
	check(frame()->info.signo == SIGUSR1 && frame()->info.code == SI_USER && frame()->info.from.pid == proc.pid);
	check(frame()->uc.mc.rsp == STACK && frame()->uc.mc.rip == SITE && frame()->uc.flags == 7);
	check(frame()->uc.mc.fpstate + 832 + 4 <= STACK - 128 && !(frame()->uc.mc.fpstate & 63));
	frame()->uc.mc.rflags |= 0x3000 | 0x20000; /* IOPL, VM: not for the program */
	frame()->uc.mc.cs = 0x10;
	handler_returns();
	check(!memcmp(regs(), &before, sizeof before));
	check(self.sigmask == 0 && host_mask() == 0 && !self.sig_pending);
}

static void test_restart(void)
{
	static const struct {
		long ret;
		bool restart, with_sa_restart;
	} rows[] = {{-ERESTARTSYS, false, true}, {-ERESTARTNOINTR, true, true}, {-ERESTARTNOHAND, false, false},
		    {-ERESTART_RESTARTBLOCK, false, false}, {-EINTR, false, false}, {17, false, false}};
	for (u8 door = 0; door < 3; door++)
		for (u32 i = 0; i < ARRAY_LEN(rows); i++)
			for (int sa = 0; sa < 2; sa++) {
				action(SIGUSR1, HANDLER, sa ? SA_RESTART : 0, 0);
				a_call(door);
				host_kill(SIGUSR1);
				check(signal_deliver(&self, 5, rows[i].ret));
				bool restart = sa ? rows[i].with_sa_restart : rows[i].restart;
				u64 call_at = door == PSB_DOOR_JUMP ? BACK - 15 : SITE;
				u64 ret = rows[i].ret <= -ERESTARTSYS ? (u64)-EINTR : (u64)rows[i].ret;
				check(frame()->uc.mc.rip == (restart ? call_at : self.call.ret_addr));
				check(frame()->uc.mc.rax == (restart ? 5 : ret));
				handler_returns();
				/* nobody to interrupt: always again */
				if (rows[i].ret <= -ERESTARTSYS) {
					a_call(door);
					check(signal_deliver(&self, 5, rows[i].ret));
					check(regs()->rip == call_at && regs()->rax == 5);
				}
			}
}

static int new_pipe(void)
{
	int fd[2];
	host_call(__NR_pipe, fd);
	return fd[0];
}

static void one_shot(u64 usec)
{
	u64 it[4] = {0, 0, usec / 1000000, usec % 1000000};
	host_call(__NR_setitimer, 0, it, 0);
}

/* A signal at any moment around the start of a call that would sleep for ever: it must always come back. */
static void test_blocking(void)
{
	int fd = new_pipe();
	action(SIGALRM, HANDLER, 0, 0);
	u32 interrupted = 0, in_front = 0;
	u64 buf;
	for (u32 i = 0; i < 3000; i++) {
		fill_regs();
		one_shot(1 + i % 40);
		long r = blocking_call(&self, __NR_read, (u64)fd, (u64)&buf, 1, 0, 0, 0);
		interrupted += r == -ERESTARTSYS;
		in_front += r == -ERESTARTNOINTR;
		check(self.sig_pending);
		a_call(PSB_DOOR_TRAP);
		signal_deliver(&self, __NR_read, r);
		check(frame()->uc.mc.rax == (r == -ERESTARTNOINTR ? __NR_read : (u64)-EINTR));
		handler_returns();
	}
	check(interrupted && interrupted + in_front == 3000);
	u64 second[2] = {1, 0};
	one_shot(20000);
	check(blocking_call(&self, __NR_nanosleep, (u64)second, 0, 0, 0, 0, 0) == -EINTR);
	check(blocking_call(&self, __NR_nanosleep, (u64)second, 0, 0, 0, 0, 0) == -ERESTARTNOINTR); /* one is held */
	check(blocking_call(&self, __NR_poll, 0, 0, (u64)-1, 0, 0, 0) == -ERESTARTNOHAND);
	signal_deliver(&self, -1, 0);
	handler_returns();
	u64 sock[2], tv[2] = {0, 1000}; /* SO_RCVTIMEO: no restart */
	host_call(__NR_socketpair, 1, 1, 0, sock);
	host_call(__NR_setsockopt, (int)sock[0], 1, 20, tv, 16);
	check(blocking_call(&self, __NR_read, (u64)(int)sock[0], (u64)&buf, 1, 0, 0, 0) == -EAGAIN);
}

static void test_mask_change(void)
{
	action(SIGUSR1, HANDLER, 0, 0);
	host_kill(SIGUSR1);
	check(self.sig_pending);
	check(set_mask(SIG_BIT(SIGUSR1)) == -ERESTARTNOINTR); /* sent before: handled before */
	check(self.sigmask == 0);
	a_call(PSB_DOOR_TRAP);
	check(signal_deliver(&self, __NR_rt_sigprocmask, -ERESTARTNOINTR));
	handler_returns();
	check(regs()->rip == SITE && regs()->rax == __NR_rt_sigprocmask);
	check(!set_mask(SIG_BIT(SIGUSR1) | SIG_UNBLOCKABLE));
	check(self.sigmask == SIG_BIT(SIGUSR1) && host_mask() == SIG_BIT(SIGUSR1));
	host_kill(SIGUSR1);
	check(!self.sig_pending);
	struct call c = {.arg = {GUEST + 128, 8}};
	check(!h_rt_sigpending(&self, &c) && *(u64 *)(GUEST + 128) == SIG_BIT(SIGUSR1));
	check(!set_mask(0));
	check(self.sig_pending);
	signal_deliver(&self, -1, 0);
	handler_returns();
	/* Held when the mask closes otherwise: goes back to the host and comes again. */
	host_kill(SIGUSR1);
	self.sigmask = SIG_BIT(SIGUSR1);
	check(!signal_deliver(&self, -1, 0));
	check(!self.sig_pending && host_mask() == SIG_BIT(SIGUSR1));
	set_mask(0);
	check(self.sig_pending && ((struct siginfo_k *)self.sig_info)->code == SI_USER);
	/* The handler went away meanwhile. */
	action(SIGUSR1, SIG_IGN, 0, 0);
	check(!signal_deliver(&self, -1, 0) && !self.sig_pending && host_mask() == 0);
	check(signal_block(&self) == 0 && host_mask() == (~SIG_COPY_FAULTS & ~SIG_UNBLOCKABLE));
	signal_unblock(&self);
	check(host_mask() == 0);
}

static void test_copy_faults(void)
{
	u8 b[16];
	action(SIGSEGV, HANDLER, SA_SIGINFO, 0);
	set_mask(~0ull);
	check(!(host_mask() & SIG_COPY_FAULTS));
	check(copy_from_guest(b, gptr_of(GUEST - PAGE), 16) == -EFAULT);
	check(copy_to_guest(gptr_of(GUEST + GUEST_LEN - 8), b, 16) == -EFAULT);
	host_kill(SIGSEGV); /* blocked by the guest: kept aside */
	host_kill(SIGSEGV);
	check(!self.sig_pending);
	check(copy_from_guest(b, gptr_of(GUEST - PAGE), 16) == -EFAULT && !self.sig_pending);
	struct call c = {.arg = {GUEST + 128, 8}};
	check(!h_rt_sigpending(&self, &c) && *(u64 *)(GUEST + 128) == SIG_BIT(SIGSEGV));
	fill_regs();
	set_mask(0);
	check(self.sig_pending);
	check(copy_from_guest(b, gptr_of(GUEST - PAGE), 16) == -EFAULT); /* with a held signal */
	action(SIGBUS, HANDLER, 0, 0);
	host_kill(SIGBUS); /* while another is held */
	check(signal_deliver(&self, -1, 0));
	check(regs()->rdi == SIGBUS); /* on top */
	handler_returns();
	check(regs()->rdi == SIGSEGV && frame()->info.code == SI_USER);
	handler_returns();
	check(!signal_deliver(&self, -1, 0));
	/* waited for */
	set_mask(SIG_BIT(SIGSEGV));
	host_kill(SIGSEGV);
	u64 set = SIG_BIT(SIGSEGV), zero[2] = {0, 0};
	put(GUEST + 64, &set, 8);
	put(GUEST + 80, zero, 16);
	c = (struct call){.arg = {GUEST + 64, GUEST + 128, GUEST + 80, 8}};
	check(h_rt_sigtimedwait(&self, &c) == SIGSEGV && ((struct siginfo_k *)(GUEST + 128))->signo == SIGSEGV);
	check(h_rt_sigtimedwait(&self, &c) == -EAGAIN);
	set_mask(0);
	action(SIGSEGV, SIG_IGN, 0, 0);
	host_kill(SIGSEGV);
	check(!self.sig_pending);
	/* a forged siginfo that looks like a fault is a signal like any other */
	action(SIGSEGV, HANDLER, SA_SIGINFO, 0);
	struct siginfo_k forged = {.signo = SIGSEGV, .code = 1, .addr = 0x1234};
	host_call(__NR_rt_tgsigqueueinfo, host_call(__NR_getpid), host_call(__NR_gettid), SIGSEGV, &forged);
	check(self.sig_pending);
	fill_regs();
	signal_deliver(&self, -1, 0);
	check(frame()->info.addr == 0x1234);
	handler_returns();
}

static void test_masked_calls(void)
{
	action(SIGUSR1, HANDLER, 0, 0);
	set_mask(SIG_BIT(SIGUSR1));
	u64 none = 0, all = ~0ull, ts[2] = {5, 0}, short_ts[2] = {0, 1000000};
	put(GUEST + 64, &none, 8);
	host_kill(SIGUSR1);
	a_call(PSB_DOOR_TRAP);
	long r = blocking_call_masked(&self, gptr_of(GUEST + 64), 8, __NR_ppoll, 0, 0, (u64)ts, 0, 0, 0);
	check(r == -ERESTARTNOHAND && self.have_saved_sigmask && self.sigmask == 0);
	check(signal_deliver(&self, __NR_ppoll, r));
	check(frame()->uc.mc.rax == (u64)-EINTR && frame()->uc.sigmask == SIG_BIT(SIGUSR1));
	check(self.sigmask == SIG_BIT(SIGUSR1) && !self.have_saved_sigmask);
	handler_returns();
	check(host_mask() == SIG_BIT(SIGUSR1));
	/* not interrupted */
	put(GUEST + 64, &all, 8);
	check(blocking_call_masked(&self, gptr_of(GUEST + 64), 8, __NR_pselect6, 0, 0, 0, 0, (u64)short_ts, 0) == 0);
	check(self.sigmask == SIG_BIT(SIGUSR1) && !self.have_saved_sigmask && host_mask() == SIG_BIT(SIGUSR1));
	check(blocking_call_masked(&self, gptr_of(GUEST + 64), 4, __NR_ppoll, 0, 0, (u64)ts, 0, 0, 0) == -EINVAL);
	check(blocking_call_masked(&self, gptr_of(GUEST - 8), 8, __NR_ppoll, 0, 0, (u64)ts, 0, 0, 0) == -EFAULT);
	/* SIGSEGV that only the temporary mask lets through, sent before */
	action(SIGSEGV, HANDLER, 0, 0);
	set_mask(SIG_BIT(SIGSEGV));
	host_kill(SIGSEGV);
	put(GUEST + 64, &none, 8);
	a_call(PSB_DOOR_TRAP);
	struct call c = {.arg = {GUEST + 64, 8}};
	check(h_rt_sigsuspend(&self, &c) == -ERESTARTNOHAND && self.sig_pending);
	signal_deliver(&self, __NR_rt_sigsuspend, -ERESTARTNOHAND);
	check(regs()->rdi == SIGSEGV && frame()->uc.sigmask == SIG_BIT(SIGSEGV));
	handler_returns();
	check(self.sigmask == SIG_BIT(SIGSEGV));
	set_mask(0);
	/* caught just before, and blocked during the call: its handler runs first, then the call is made */
	host_kill(SIGUSR1);
	put(GUEST + 64, &all, 8);
	check(blocking_call_masked(&self, gptr_of(GUEST + 64), 8, __NR_ppoll, 0, 0, (u64)ts, 0, 0, 0) == -ERESTARTNOINTR);
	check(self.sigmask == 0);
	a_call(PSB_DOOR_TRAP);
	signal_deliver(&self, __NR_ppoll, -ERESTARTNOINTR);
	check(frame()->uc.mc.rip == SITE);
	handler_returns();
}

/* Whatever a program leaves in a frame: no fatal(), nothing KVM would refuse, no forbidden flag. */
static void test_hostile_frames(void)
{
	action(SIGUSR1, HANDLER, SA_SIGINFO, 0);
	action(SIGSEGV, HANDLER, SA_SIGINFO | SA_NODEFER, 0);
	xsave_refused = 0;
	for (u32 i = 0; i < 20000; i++) {
		fill_regs();
		set_mask(0);
		host_kill(SIGUSR1);
		signal_deliver(&self, -1, 0);
		u64 at = regs()->rsp, fp = frame()->uc.mc.fpstate;
		u32 n = (u32)(random64() % 24);
		for (u32 k = 0; k < n; k++) { /* single fields, mostly with the magic numbers left alone */
			u64 where = random64() % 4 ? fp + random64() % 832 : at + random64() % 440;
			if (where >= fp + 464 && where < fp + 468 && random64() % 8)
				continue;
			*(u8 *)where = (u8)random64();
		}
		if (random64() % 4 == 0)
			*(u32 *)(fp + 480) = (u32)random64() % 2000; /* xstate_size */
		if (random64() % 8 == 0)
			((struct sigframe_k *)at)->uc.mc.fpstate = random64() >> random64() % 64;
		/* what would rightly end the process stays whole: test_deaths() and sig_fault.c have that */
		frame()->uc.mc.rip = SITE;
		frame()->uc.mc.rsp = STACK;
		frame()->uc.sigmask &= ~SIG_BIT(SIGSEGV);
		regs()->rsp += 8;
		struct call c = {0};
		check(h_rt_sigreturn(&self, &c) == CALL_NO_RETURN);
		check((regs()->rflags & ~0x50dd7ul) == 0x3200);
		check(!(self.sigmask & SIG_UNBLOCKABLE));
		altstack_reset(&self);
		while (self.sig_pending)
			signal_deliver(&self, -1, 0);
	}
	check(xsave_refused == 0);
	set_mask(0);
}

static int child_status(u64 flags, void (*fn)(int), int arg)
{
	long pid = host_call(__NR_clone, flags | SIGCHLD, 0, 0, 0, 0);
	if (pid == 0) {
		signal_thread_start(&self, NULL);
		fn(arg);
		host_call(__NR_exit_group, 99);
	}
	int status = -1;
	while (host_call(__NR_wait4, pid, &status, 0, 0) == -EINTR)
		;
	return status;
}

static void die(int signo)
{
	signal_die(&self, signo);
}

/* No room for a frame: SIGSEGV, whatever came. */
static void no_room(int signo)
{
	action(signo, HANDLER, 0, 0);
	action(SIGSEGV, SIG_DFL, 0, 0);
	fill_regs();
	regs()->rsp = 0x1000;
	host_kill(signo);
	signal_deliver(&self, -1, 0);
}

static void default_again(int signo)
{
	action(signo, HANDLER, 0, 0);
	host_kill(signo);
	action(signo, SIG_DFL, 0, 0);
	signal_deliver(&self, -1, 0);
}

static void sigsys(int handled)
{
	action(SIGSYS, handled ? HANDLER : SIG_DFL, SA_SIGINFO, 0);
	a_call(PSB_DOOR_RAW);
	run.s.regs.sregs.cs.selector = 0x10; /* the stub's */
	check(signal_sigsys(&self, 321, 77, SITE + 2) == CALL_NO_RETURN);
	struct siginfo_k *i = &frame()->info;
	bool right = i->signo == SIGSYS && i->code == 1 && i->err == 77 && i->sys.call_addr == SITE + 2 && i->sys.nr == 321 &&
		     i->sys.arch == AUDIT_ARCH_X86_64 && frame()->uc.mc.rax == 321 && frame()->uc.mc.rip == SITE + 2 &&
		     run.s.regs.sregs.cs.selector == 0x33;
	host_call(__NR_exit_group, right ? 42 : 43);
}

static void test_deaths(void)
{
	static const int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS};
	for (u32 i = 0; i < ARRAY_LEN(faults); i++) {
		check((child_status(0, die, faults[i]) & 0x7f) == faults[i]);
		/* pid 1 of a namespace is protected from what it sends to itself, but not from its own faults */
		check((child_status(0x20000000 /* CLONE_NEWPID */, die, faults[i]) & 0x7f) == faults[i]);
	}
	check(child_status(0, die, SIGTERM) == SIGTERM);
	check((child_status(0, no_room, SIGUSR1) & 0x7f) == SIGSEGV);
	check(child_status(0, default_again, SIGUSR1) == SIGUSR1);
	check((child_status(0, default_again, SIGSEGV) & 0x7f) == SIGSEGV);
	check((child_status(0, sigsys, 0) & 0x7f) == SIGSYS);
	check(child_status(0, sigsys, 1) == 42 << 8);
}

static void test_exec(void)
{
	action(SIGUSR1, HANDLER, 0, 0);
	set_mask(SIG_BIT(SIGSEGV) | SIG_BIT(SIGTERM));
	check(signal_exec(&self, (u64)-1, GUEST + 0x1000, 0, 0, 0x1000) == -EBADF);
	check(host_mask() == SIG_BIT(SIGTERM));
	host_kill(SIGUSR1);
	check(signal_exec(&self, (u64)-1, GUEST + 0x1000, 0, 0, 0x1000) == -ERESTARTNOINTR);
	check(self.sig_pending);
	fill_regs();
	signal_deliver(&self, -1, 0);
	handler_returns();
	set_mask(0);
}

static _Noreturn void test_main(void)
{
	proc.pid = (int)host_call(__NR_getpid);
	self.self = &self;
	self.proc = &proc;
	proc.sig = &proc.own_sig;
	self.tid = proc.pid;
	self.run = &run;
	self.state = THREAD_USED;
	threads.entry[0] = &self;
	run.s.regs.sregs.cs.selector = 0x33;
	xsave[512] = 7;
	*(u32 *)(xsave + 24) = 0x1f80;
	host_call(__NR_arch_prctl, 0x1002, &self);
	/* MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE */
	check(host_call(__NR_mmap, GUEST, GUEST_LEN, 3, 0x100022, -1, 0) == (long)GUEST);
	host_call(__NR_rt_sigprocmask, SIG_SETMASK, &(u64){0}, 0, 8);
	signal_start(&proc, &self, &(struct psb_start){0});
	test_delivery();
	test_restart();
	test_blocking();
	test_mask_change();
	test_copy_faults();
	test_masked_calls();
	test_hostile_frames();
	test_exec();
	test_deaths();
	if (!failures)
		host_call(__NR_write, 1, "ok\n", 3);
	for (;;)
		host_call(__NR_exit_group, failures != 0);
}

__attribute__((used)) static void enter(void)
{
	test_main();
}
__asm__(".globl _start\n_start: xor %ebp, %ebp; and $-16, %rsp; call enter; ud2\n");
