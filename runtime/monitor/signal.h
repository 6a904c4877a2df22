/* Signals of the guest. What other files need to know:
 *
 * - The host kernel keeps the guest's signals: dispositions are mirrored (SIG_DFL, SIG_IGN, or "our handler"), the host
 *   mask of a vCPU thread is the guest's mask. So queueing, coalescing, stop and continue, default deaths, auto-reaping,
 *   protection of pid 1 and the choice of the receiving thread are the host kernel's own.
 * - A thread holds at most one caught signal (t->sig_pending, t->sig_info). While it holds one, its host mask is full, so
 *   that the host kernel keeps the others. signal_deliver() turns it into a frame of the guest.
 * - SIGSEGV and SIGBUS are never blocked on the host (copies from guest memory fault with them).
 *
 * Contract with run.c: after every exit, with the registers as the program shall see them, call signal_deliver() and only
 * then enter the guest. The handler sets run->immediate_exit, so a signal that arrives after signal_deliver() looked makes
 * KVM_RUN return -EINTR. Whoever writes immediate_exit = 0 elsewhere must set it again when t->sig_pending is set.
 * While RIP is in the shim do not call signal_deliver(); the held signal waits for the end of the call. */
#ifndef PSB_SIGNAL_H
#define PSB_SIGNAL_H

#include "host.h"
#include "monitor.h"

#define SIG_DFL 0ul
#define SIG_IGN 1ul

#define SIGILL 4
#define SIGTRAP 5
#define SIGABRT 6
#define SIGBUS 7
#define SIGFPE 8
#define SIGKILL 9
#define SIGSEGV 11
#define SIGCHLD 17
#define SIGSTOP 19
#define SIGSYS 31

#define SIG_BIT(signo) (1ull << ((signo)-1))
#define SIG_UNBLOCKABLE (SIG_BIT(SIGKILL) | SIG_BIT(SIGSTOP))
/* si_addr counts when the kernel raised them. */
#define SIG_FAULTS (SIG_BIT(SIGILL) | SIG_BIT(SIGTRAP) | SIG_BIT(SIGBUS) | SIG_BIT(SIGFPE) | SIG_BIT(SIGSEGV))
/* Never blocked on the host: raised by our own access to guest memory. */
#define SIG_COPY_FAULTS (SIG_BIT(SIGSEGV) | SIG_BIT(SIGBUS))

#define SA_NOCLDSTOP 0x00000001ul
#define SA_NOCLDWAIT 0x00000002ul
#define SA_SIGINFO 0x00000004ul
#define SA_EXPOSE_TAGBITS 0x00000800ul
#define SA_RESTORER 0x04000000ul
#define SA_ONSTACK 0x08000000ul
#define SA_RESTART 0x10000000ul
#define SA_NODEFER 0x40000000ul
#define SA_RESETHAND 0x80000000ul
#define SA_KNOWN                                                                                                    \
	(SA_NOCLDSTOP | SA_NOCLDWAIT | SA_SIGINFO | SA_EXPOSE_TAGBITS | SA_RESTORER | SA_ONSTACK | SA_RESTART |     \
	 SA_NODEFER | SA_RESETHAND)

#define SIG_BLOCK 0
#define SIG_UNBLOCK 1
#define SIG_SETMASK 2

#define SI_USER 0
#define SI_KERNEL 0x80
#define SI_TKILL (-6)
#define SYS_SECCOMP 1
#define AUDIT_ARCH_X86_64 0xC000003Eu

/* interrupted before anything was done: always called again, after the handler (the kernel's ERESTARTNOINTR) */
#define ERESTARTNOINTR 513
/* the kernel's own: a call with a timeout; becomes EINTR when a handler runs */
#define ERESTART_RESTARTBLOCK 516

#define SS_ONSTACK 1u
#define SS_DISABLE 2u
#define SS_AUTODISARM (1u << 31)

/* siginfo_t of x86-64: 128 bytes; the fields used here, by the kind of signal. */
struct siginfo_k {
	i32 signo, err, code, pad;
	union {
		struct {
			i32 pid;
			u32 uid;
		} from;
		u64 addr;
		struct {
			u64 call_addr;
			i32 nr;
			u32 arch;
		} sys;
		u8 room[112];
	};
};
_Static_assert(sizeof(struct siginfo_k) == 128, "siginfo_t");

struct stack_k {
	u64 sp;
	u32 flags, pad;
	u64 size;
};

/* struct sigcontext (64 bit): the order is the kernel's. */
struct sigcontext_k {
	u64 r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, rflags;
	u16 cs, gs, fs, ss;
	u64 err, trapno, oldmask, cr2, fpstate, reserved[8];
};
_Static_assert(sizeof(struct sigcontext_k) == 256, "struct sigcontext");

struct ucontext_k {
	u64 flags, link;
	struct stack_k stack;
	struct sigcontext_k mc;
	u64 sigmask;
};

struct sigframe_k {
	u64 pretcode;
	struct ucontext_k uc;
	struct siginfo_k info;
};
_Static_assert(sizeof(struct sigframe_k) == 440, "struct rt_sigframe");

/* What a synchronous fault leaves in the frame besides siginfo. */
struct fault_info {
	u64 trapno, err, cr2;
};

/* --- signal.c: for the rest of the monitor, besides monitor.h ---------------------------------------- */

/* Closes the thread to signals before something that must not lose one or be interrupted (clone, exit of a thread). 0: nothing
 * is held and nothing can arrive until signal_unblock(). -ERESTARTNOINTR: a signal is held; return that from the system
 * call, which is then made again after the handler. Thread itself only. */
long signal_block(struct thread *t);
void signal_unblock(struct thread *t);
/* A child's table begins without handlers; signals are blocked. */
void signal_clear_handlers(struct proc *p);
/* signal_block() for a thread that ends whatever comes: a held signal goes back to the process. */
void signal_thread_end(struct thread *t);
/* Host execveat of the next monitor image, so that no caught signal and no blocked SIGSEGV is lost by it. Returns only when it failed:
 * -errno or -ERESTARTNOINTR. args: the six of execveat. */
long signal_exec(struct thread *t, u64 fd, u64 path, u64 argv, u64 envp, u64 flags);
/* Policy verdict TRAP: SIGSYS with si_code SYS_SECCOMP, si_errno = data, si_call_addr = call_addr. On the thread itself only (the ring
 * server answers CALL_TO_TRAP). Returns CALL_NO_RETURN, registers are set. */
long signal_sigsys(struct thread *t, u32 nr, u32 data, u64 call_addr);
/* blocking_call() for ppoll, pselect6, epoll_pwait, epoll_pwait2, io_pgetevents: arguments as from the guest (pointers checked by
 * the caller, except the mask's, which is `set` of `size` bytes; the argument holding it is replaced). */
long blocking_call_masked(struct thread *t, gptr set, u64 size, long nr, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f);

/* Handlers of the system-call table. */
long h_rt_sigaction(struct thread *t, struct call *c);
long h_rt_sigprocmask(struct thread *t, struct call *c);
long h_rt_sigpending(struct thread *t, struct call *c);
long h_rt_sigsuspend(struct thread *t, struct call *c);
long h_rt_sigtimedwait(struct thread *t, struct call *c);
long h_pause(struct thread *t, struct call *c);
long h_rt_sigreturn(struct thread *t, struct call *c);
long h_sigaltstack(struct thread *t, struct call *c);

/* --- signal_frame.c: between the two -------------------------------------------------------------------- */

/* Builds the frame for `info` and sets the registers; on success t->sigmask is the handler's mask (the host mask is the caller's business)
 * and saved_sigmask is used up. -EFAULT: the frame could not be written, nothing changed. */
long frame_push(struct thread *t, const struct sigaction_k *act, const struct siginfo_k *info, const struct fault_info *fault);
/* Bytes below the stack pointer that a frame may take; AT_MINSIGSTKSZ. */
u64 frame_room(void);
/* Undoes frame_push() from the guest's RSP. 0, or -EFAULT for a frame that cannot be read. */
long frame_pop(struct thread *t);
void altstack_reset(struct thread *t);

/* --- signal.c <-> signal_frame.c ------------------------------------------------------------------------- */
/* A signal that cannot be blocked, ignored or left to the default without dying. */
void signal_force(struct thread *t, const struct siginfo_k *info, const struct fault_info *fault);
/* Makes t->sigmask the host mask, unless a signal is held. */
void signal_apply_mask(struct thread *t);
/* Back to CPL 3 after an exit through the raw door. */
void user_segments(struct thread *t);

/* --- signal_entry.S ------------------------------------------------------------------------------------- */
long signal_call(_Atomic u32 *pending, long nr, const u64 arg[6]);
void signal_restorer(void);
extern const char signal_call_begin[], signal_call_insn[], signal_call_end[];

#endif
