/* The monitor's central types: process, thread, call in flight. One subject a file; see docs/architecture.md. */
#ifndef PSB_MONITOR_H
#define PSB_MONITOR_H

#include <linux/kvm.h>
#include "../../shim/abi.h"
#include "guest.h"
#include "host.h"
#include "policy.h"
#include "trace.h"

#define NSIG 64
#define MONITOR_FD_ROOM 64
#define MONITOR_NOFILE_ROOM 1024ul /* the host's RLIMIT_NOFILE above the program's: a descriptor for each thread, and what is open for moments */
#define FD_OWN 960u /* where numbers that the monitor needs for a moment are looked for, when they must not be the program's */

struct thread;
struct proc;

/* A system call being served. Filled once from the guest (registers or slot), never re-read. */
struct call {
	u32 nr;
	u8 door;           /* PSB_DOOR_* */
	bool may_block;    /* true on the thread itself (trap, raw); false on the ring server */
	bool recorded;     /* policy was decided and the record written (continues a call begun on the ring) */
	u64 arg[6];
	u64 site;          /* address of the call instruction, 0 if unknown */
	u64 ret_addr;      /* where the guest continues */
	struct trace_ref rec;
};

/* What a handler may answer besides a result or -errno. */
#define CALL_TO_TRAP (-1000)  /* ring server: would block or belongs to the thread; nothing was done */
#define CALL_NO_RETURN (-1001) /* registers were set by the handler (rt_sigreturn); leave them alone */
#define ERESTARTSYS 512       /* as in the kernel: interrupted, restart if the handler has SA_RESTART */
#define ERESTARTNOHAND 514    /* interrupted, restart only if no handler runs */

struct sigaction_k { /* kernel layout of rt_sigaction's argument */
	u64 handler;
	u64 flags;
	u64 restorer;
	u64 mask;
};

/* Signal state of a process; threads of the process share it, a vfork child has a copy. Owner: signal.c */
struct signals {
	struct lock lock;
	bool shared;               /* with another process: CLONE_SIGHAND. For ever. */
	struct sigaction_k action[NSIG + 1];
};

/* Published descriptors (invariant 3). Owner: fd.c. One byte a number, FD_NONE = not published. */
enum fd_class { FD_NONE = 0, FD_OTHER, FD_FILE, FD_DIR, FD_PIPE, FD_SOCKET, FD_TTY, FD_EVENT, FD_PROC, FD_PROC_DIR, FD_PATH, FD_DEVICE, FD_MADE_NEW, FD_MADE };
struct fdtab {
	u8 *class_of;      /* FD_NUMBERS bytes, reserved memory */
};

/* Ring server of a process. Owner: ring.c */
struct ring {
	_Atomic u32 awake;     /* futex word: 0 asleep, 1 polling */
	_Atomic u32 started;
	u32 burst;
	u64 last_trap;         /* TSC */
	u64 backoff, backoff_until; /* TSC cycles; no polling before */
	_Atomic u64 missed_until;   /* TSC; until then one trap exit is enough to wake the server */
	u64 mask[16];          /* CPUs that this process may use; empty: not known yet */
	u8 *memory;
	u32 cred_gen;          /* of the thread that made the server */
	_Atomic u32 caller_cpu; /* where the thread that last entered the guest did so */
	_Atomic u32 retire;    /* the server's credentials are out of date: it ends */
	_Atomic int tid;       /* of the server, while it runs */
};

/* A guest process. */
struct proc {
	int pid, host_pid;          /* in the container's pid namespace; as the host sees it (0: unknown) */
	u32 dispatch, trace_mode, pin; /* from the start record */
	_Atomic u32 no_new_privs;      /* as the program sees it */
	const struct psb_policy *policy;
	struct tracer tracer;
	struct signals *sig, own_sig; /* own_sig, unless another process' are shared */
	struct fdtab fds;
	struct vm *vm;              /* KVM side; shared with the parent while a vfork child runs */
	struct mm *mm;              /* guest address space; likewise */
	bool clear_handlers;        /* a child that shares memory begins without signal handlers */
	bool shares_memory;         /* the structure is one of proc.c's, in memory that other processes have as well */
	bool vfork_child;           /* its parent waits for it */
	struct lock *_Atomic copying; /* its parent's table, held until the kernel has made the child's: whoever takes this lets go of it */
	bool strays;                /* other threads were there when its descriptors were copied */
	struct thread *vfork_parent;/* set in a vfork child until exec/exit */
	/* Monitor descriptors. vault_fd never moves; vault_fd-1 and vault_fd+1 are kept for exec, by copies of it. */
	int vault_fd;
	int proc_fd;                /* O_PATH root of the container's procfs */
	int store_fd, planner_fd;   /* plan store (O_RDONLY), planner socket; -1: none */
	int notify_fd;              /* socket for calls that an agent decides; -1: none */
	char exe_path[4096];        /* canonical path of the program, for /proc/self/exe */
	u64 exe_dev, exe_ino;       /* identity of that file */
	u64 monitor_dev, monitor_ino; /* identity of the monitor memfd, to recognise it when it is reached by a path */
	struct {
		u64 dev, ino;
	} hidden[4];                /* files of ours on file systems that are not: trace, /dev/kvm, plan store. Owner: procfs.c */
	u64 internal_dev[3];        /* devices of the kernel's own mounts: memfds, sockets, anonymous inodes */
	u64 stack_limit;            /* guest's RLIMIT_STACK soft limit */
	u64 nofile[2];              /* guest's RLIMIT_NOFILE, soft and hard. Owner: limits.c */
	u64 auxv[64];               /* as given to the program */
	u32 auxv_len;               /* bytes */
	const char *environ;        /* as execve was given it: strings, one behind the other */
	u64 environ_len;
	struct ring ring;
	struct lock exec_lock;      /* one execve at a time */
	struct peer_record *peer;   /* what other processes may learn of this one, NULL: nothing. Owner: peer.c */
	_Atomic u32 dumpable;       /* as the program sees it */
	_Atomic u32 nthreads;       /* guest threads */
};

struct thread {
	struct thread *self;        /* %fs:0 of the host thread */
	struct proc *proc;
	int tid;
	u32 index;                  /* in the mm's thread table */
	/* KVM */
	int vcpu_id, vcpu_fd;
	u64 *exception_frame;       /* end of the vCPU's exception stack: frame[-5..-1] = RIP CS RFLAGS RSP SS (or -6 with error code) */
	struct kvm_run *run;        /* sync regs in run->s.regs */
	bool io_pending;            /* an `out` exit is not completed yet: see vcpu_settle() */
	bool in_slot;               /* the call in flight came through the slot (jump door) */
	/* shim */
	volatile struct psb_slot *slot;
	_Atomic u32 busy;           /* serialises ring server and thread on this slot */
	struct call call;           /* call in flight, if any */
	/* signals: owner signal.c */
	u64 sigmask;                /* the guest's mask */
	u64 saved_sigmask;          /* sigsuspend, pselect, ...: restored after delivery */
	bool have_saved_sigmask;
	_Atomic u32 sig_pending;    /* a host signal was caught and waits in sig_info */
	u8 sig_info[128];           /* siginfo_t of that signal */
	bool peer_stat_valid;       /* peer_found() */
	u64 peer_stat[18];
	u32 asked;                  /* counts questions that its handler answered: peer.c */
	u64 altstack_sp, altstack_size;
	u32 altstack_flags;
	/* host thread */
	void *stack;
	u64 stack_len;
	_Atomic u32 state;          /* THREAD_* in proc.c */
	bool gs_changed;            /* the guest uses GS itself: trap door only */
	bool call_on_ring;          /* `call` was begun by the ring server and continues on the thread */
	bool own_fs;                /* root, working directory and umask are not those of other threads (nor of other programs) */
	u32 cred_gen;               /* counts credential changes: the ring server has those of its creation */
	u64 robust_list;            /* guest's list head; walked by us, the kernel is not shown it */
	u64 tid_address;            /* cleared when the thread ends, if has_tid_address; 0: none */
	bool has_tid_address;       /* set_tid_address() was called */
	u32 memory_retries;         /* KVM_RUN failed on memory that is there: see run.c */
	struct thread *creator;     /* valid while starting */
	struct seccomp_filter *_Atomic filters; /* its own, newest first: seccomp.c */
	u8 xsave[4096] __attribute__((aligned(64)));
	u8 scratch[3 * 4096 + 512] __attribute__((aligned(64))); /* for handlers: path buffers etc.; valid during one call */
};

static inline struct thread *current_thread(void)
{
	struct thread *t;
	__asm__("mov %%fs:0, %0" : "=r"(t));
	return t;
}

/* --- dispatch.c: the one way through for every door -------------------------------------------------- */
/* Policy, record, perform. Returns what the guest sees in RAX, or CALL_TO_TRAP / CALL_NO_RETURN, or -ERESTART*. */
long dispatch(struct thread *t, struct call *c);
/* What follows a result other than CALL_TO_TRAP, while `busy` is still held: copies and descriptors are let go, the result is
 * recorded. The ring server answers the guest first, which goes on meanwhile. */
void dispatch_done(struct thread *t, struct call *c, long ret);

/* --- kvm.c ------------------------------------------------------------------------------------------- */
/* Registers of the thread's vCPU as of the last exit, with a pending `out` completed (RIP behind it). Call before
 * changing RIP or building a frame; changes take effect after vcpu_regs_changed(). */
struct kvm_regs *vcpu_settle(struct thread *t);
void vcpu_regs_changed(struct thread *t);
u64 vcpu_get_fs(struct thread *t);
void vcpu_set_fs(struct thread *t, u64 base);
u64 vcpu_get_gs(struct thread *t);
void vcpu_set_gs(struct thread *t, u64 base);
/* Extended state in the XSAVE standard format, as KVM_GET_XSAVE gives it (4096 bytes). 0 or -errno. */
long vcpu_get_xsave(struct thread *t, void *buf);
long vcpu_set_xsave(struct thread *t, const void *buf);
u64 vcpu_xcr0(void);
u32 vcpu_xsave_size(void); /* bytes of the standard-format area for xcr0 (CPUID 0xd.0 EBX) */

/* --- signal.c ---------------------------------------------------------------------------------------- */
/* New program (after host exec): catches nothing, has the inherited mask and ignored set. */
void signal_start(struct proc *p, struct thread *t, const struct psb_start *start);
u64 signals_ignored(const struct proc *p);                /* bit n - 1: signal n */
void signal_thread_start(struct thread *t, struct thread *parent); /* new thread/forked child: inherits the mask, no altstack for threads */
/* Before entering the guest: deliver what waits. Sets up frames in guest memory and registers. Returns true when
 * registers changed. Never returns when the default action ends the process. `ret` is the result of the system call just
 * finished (for ERESTART* decisions), `nr` its number, or nr = -1 when the guest was interrupted outside a call. */
bool signal_deliver(struct thread *t, long nr, long ret);
/* A fault of the guest itself: SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP with si_code, si_addr, trap number, error code, cr2. */
void signal_fault(struct thread *t, int signo, int code, u64 addr, u64 trapno, u64 err, u64 cr2);
/* End the process by this signal, so that the parent's wait status is right. */
_Noreturn void signal_die(struct thread *t, int signo);
/* A host call that may block. If a signal is waiting or arrives before the call starts, -ERESTARTNOINTR at once (-ERESTARTNOHAND if
 * the call only waits); if it interrupts the call: -ERESTARTSYS where the kernel would restart, -EINTR where it would not, or the
 * partial result. */
long blocking_call(struct thread *t, long nr, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f);

/* --- proc.c: is this one of the program's threads? ---------------------------------------------------- */
bool proc_has_thread(const struct proc *p, int tid);

/* --- tids.c: a thread of some monitor that programs do not know of? For them nobody is there. --------- */
bool tid_hidden(struct thread *t, int tid);

/* --- procfs.c: openat with all checks of what was opened; an unpublished host descriptor or -errno. ------- */
long path_open(struct thread *t, int dirfd, const char *path, u64 flags, u64 mode);

/* --- mm.c -------------------------------------------------------------------------------------------- */
/* Text of /proc/self/maps as the guest should see it, into buf; bytes needed. smaps: adds nothing yet. */
u64 mm_format_maps(struct proc *p, char *buf, u64 cap);
u64 mm_format_maps_locked(struct proc *p, char *buf, u64 cap);
/* True if va is mapped by the guest with PROT_EXEC etc.; for si_code and procfs. Returns PROT_* or -1. */
int mm_prot_at(struct mm *mm, u64 va);

/* --- fd.c (invariant 3) ------------------------------------------------------------------------------- */
bool fd_published(struct proc *p, int fd);
enum fd_class fd_class_of(struct proc *p, int fd);
/* Classifies (fstat/fstatfs) and checks a descriptor the host just returned, then publishes it: fd, or -errno with the
 * descriptor closed (for example a procfs file the guest must not have). */
long fd_publish(struct thread *t, int fd);
void fd_unpublish(struct proc *p, int fd);
/* Bit maps of published numbers, `n` (a multiple of 64) of them; for the start record. */
void fd_start(struct proc *p, const u64 *map, u32 n); /* marks those that are open */
/* Before the monitor opens anything: leaves in the map what an execve has left open. Numbers that it closed (FD_CLOEXEC) are the lowest that are free. */
void fd_drop_closed(u64 *map, u32 n);
u32 fd_map_size(struct proc *p);
void fd_map(struct proc *p, u64 *map, u32 n);
void fd_keep_neighbours(struct proc *p); /* of the vault: nothing else is ever opened at their numbers */
/* A made file has been read for the first time: the next reading from its beginning renews it. */
void fd_made_is_old(struct proc *p, int fd);
bool fd_full(struct proc *p); /* a new descriptor would have a number above the guest's limit */
void fd_copy(struct proc *child, struct proc *parent); /* own table of a child that shares memory; the parent's lock is held */
void fd_share(struct proc *child, struct proc *parent); /* CLONE_FILES */
bool fd_shared(struct proc *p);
long fd_unshare(struct thread *t); /* 0 or -errno: a table for this process alone, of the kernel's descriptors and of ours */
void fd_forked(struct proc *p);
void fd_close_strays(struct proc *p); /* a new process, whose parent had other threads */
void fd_release(struct proc *p);
struct lock *fd_lock(struct proc *p); /* of the table */
/* Move a monitor descriptor to a free high number (CLOEXEC as asked). */
int fd_move_high(struct proc *p, int fd, bool cloexec);
#define FD_MAX 1048576
#define FD_NUMBERS 262144 /* a guest has lower ones only */

#endif
