/* Guest threads and processes: clone in its three shapes (thread, fork, shared-memory child), exit.
 *
 * A guest thread is a host thread with a vCPU; a forked process is a forked monitor with a new VM; a vfork child is a host process
 * that shares this memory and borrows the waiting parent's vCPU. */
#include "linux_abi.h"
#include "peer.h"
#include "proc.h"
#include "seccomp.h"
#include "shim_offsets.h"
#include "signal.h"
#include "syscalls/handlers.h"

#define CLONE_VM 0x100ul
#define CLONE_FS 0x200ul
#define CLONE_SIGHAND 0x800ul
#define CLONE_PIDFD 0x1000ul
#define CLONE_PTRACE 0x2000ul
#define CLONE_VFORK 0x4000ul
#define CLONE_PARENT 0x8000ul
#define CLONE_THREAD 0x10000ul
#define CLONE_SYSVSEM 0x40000ul
#define CLONE_SETTLS 0x80000ul
#define CLONE_PARENT_SETTID 0x100000ul
#define CLONE_CHILD_CLEARTID 0x200000ul
#define CLONE_DETACHED 0x400000ul
#define CLONE_CHILD_SETTID 0x1000000ul
#define CLONE_IO 0x80000000ul
#define CLONE_CLEAR_SIGHAND 0x100000000ul
#define CLONE_INTO_CGROUP 0x200000000ul
#define CSIGNAL 0xfful

long clone_thread(u64 flags, void *stack_top, int *ptid, int *ctid, void *tls, void (*fn)(void *), void *arg);
_Noreturn void thread_leave(_Atomic u32 *state, u32 value);

struct threads threads;
static struct thread main_thread;

struct thread *thread_first(struct proc *p)
{
	main_thread.self = &main_thread;
	main_thread.proc = p;
	p->sig = &p->own_sig;
	main_thread.state = THREAD_USED;
	threads.entry[0] = &main_thread;
	p->nthreads = 1;
	return &main_thread;
}

/* What processes that shared this memory and are gone have left: nobody was there to give it back. */
static void collect_dead(struct proc *p)
{
	for (u32 i = 0; i < VCPU_MAX && threads.entry[i]; i++) {
		struct thread *t = threads.entry[i];
		struct proc *dead = t->proc;
		if (t->state != THREAD_USED || dead == p || !dead->shares_memory || dead->vfork_child || t->tid != dead->pid || host_call(__NR_kill, dead->pid, 0) != -ESRCH)
			continue;
		for (u32 k = 0; k < VCPU_MAX && threads.entry[k]; k++)
			if (threads.entry[k]->proc == dead && threads.entry[k]->state != THREAD_FREE) {
				vcpu_release(p->vm, threads.entry[k]);
				threads.entry[k]->proc = p;
				threads.entry[k]->state = THREAD_FREE;
			}
		proc_dispose(dead);
	}
}

static struct thread *free_entry(void)
{
	for (u32 i = 0; i < VCPU_MAX; i++) {
		if (!threads.entry[i]) {
			struct thread *n = host_alloc(sizeof *n);
			if (!n)
				return NULL;
			n->index = i;
			threads.entry[i] = n;
		}
		u32 free = THREAD_FREE;
		if (atomic_compare_exchange_strong(&threads.entry[i]->state, &free, THREAD_USED))
			return threads.entry[i];
	}
	return NULL;
}

struct thread *thread_take(struct proc *p)
{
	lock_acquire(&threads.lock);
	struct thread *t = free_entry();
	if (!t) {
		collect_dead(p);
		t = free_entry();
	}
	lock_release(&threads.lock);
	if (!t)
		return NULL;
	if (!t->stack) {
		u8 *stack = host_alloc(THREAD_STACK + PAGE);
		if (!stack) {
			t->state = THREAD_FREE;
			return NULL;
		}
		host_call(__NR_mprotect, stack, PAGE, 0); /* guard */
		t->stack = stack + PAGE;
		t->stack_len = THREAD_STACK;
	}
	t->self = t;
	t->tid = 0;
	t->proc = p;
	t->slot = (volatile struct psb_slot *)(p->mm->slots + t->index * PSB_SLOT_SIZE);
	t->slot->post = PSB_SLOT_IDLE;
	t->slot->pending = 0;
	t->slot->cpuid = p->mm->shim + SHIM_CPUID;
	t->busy = 0;
	t->call_on_ring = false;
	t->gs_changed = false;
	t->own_fs = false;
	t->sig_pending = 0;
	t->have_saved_sigmask = false;
	t->robust_list = 0;
	t->has_tid_address = false;
	seccomp_inherit(t, NULL);
	return t;
}

/* One more or one less; how many there are now. */
static u32 proc_count_threads(struct proc *p, int change)
{
	u32 n = atomic_fetch_add(&p->nthreads, (u32)change) + (u32)change;
	peer_tell_status(p);
	return n;
}

bool proc_has_thread(const struct proc *p, int tid)
{
	for (u32 i = 0; i < VCPU_MAX && threads.entry[i]; i++) {
		const struct thread *t = threads.entry[i];
		if (t->state != THREAD_FREE && t->proc == p && t->tid == tid)
			return true;
	}
	return false;
}

void thread_give_back(struct thread *t)
{
	t->state = THREAD_FREE;
}

struct clone_request {
	u64 flags;
	int exit_signal;
	u64 stack;    /* top; 0: the caller's */
	u64 ptid, ctid, tls, pidfd;
};

/* User state of a child: the caller's, with result 0, its own stack and TLS where asked. */
static void child_user_state(struct thread *child, struct thread *parent, const struct clone_request *q, struct kvm_regs regs, u64 parent_fs, u64 parent_gs)
{
	regs.rax = 0;
	if (q->stack)
		regs.rsp = q->stack;
	child->run->s.regs.regs = regs;
	vcpu_regs_changed(child);
	vcpu_to_user(child);
	vcpu_set_fs(child, q->flags & CLONE_SETTLS ? q->tls : parent_fs);
	child->gs_changed = parent->gs_changed;
	vcpu_set_gs(child, parent->gs_changed ? parent_gs : (u64)child->slot);
}

/* --- threads ---------------------------------------------------------------------------------------------- */

static void thread_main(void *arg)
{
	struct thread *t = arg;
	t->tid = (int)host_call(__NR_gettid);
	signal_thread_start(t, t->creator);
	ring_thread_added(t);
	thread_run(t);
}

static long clone_a_thread(struct thread *t, struct call *c, const struct clone_request *q)
{
	struct proc *p = t->proc;
	if (!(q->flags & CLONE_FILES)) /* two tables of the kernel's, one of ours: what is published in one could be the monitor's in the other */
		return refuse(t, -EINVAL);
	struct thread *n = thread_take(p);
	if (!n)
		return -EAGAIN;
	long r = vcpu_attach(p->vm, n);
	if (r) {
		thread_give_back(n);
		return r;
	}
	static const u64 pass = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_PARENT_SETTID |
				CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | CLONE_IO;
	u8 *xsave = t->xsave;
	if (!vcpu_get_xsave(t, xsave))
		vcpu_set_xsave(n, xsave);
	child_user_state(n, t, q, call_return_regs(t, c), vcpu_get_fs(t), vcpu_get_gs(t));
	n->creator = t;
	n->sigmask = t->sigmask;
	seccomp_inherit(n, t);
	n->cred_gen = q->flags & CLONE_FS ? t->cred_gen : proc_new_generation();
	n->own_fs = !(q->flags & CLONE_FS);
	if (q->flags & CLONE_FS)
		t->own_fs = false;
	n->slot->entry = trap_entry(p);
	proc_count_threads(p, 1);
	r = signal_block(t);
	if (!r)
		r = clone_thread((q->flags & pass) | CLONE_SETTLS, (u8 *)n->stack + n->stack_len, (int *)q->ptid, (int *)q->ctid, n, thread_main, n);
	signal_unblock(t);
	int unknown = 0;
	if (r > 0) /* it does so itself, but may not have run yet: whoever lists threads now shall find it */
		__atomic_compare_exchange_n(&n->tid, &unknown, (int)r, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
	if (r < 0) {
		proc_count_threads(p, -1);
		vcpu_release(p->vm, n);
		thread_give_back(n);
	}
	return r;
}

/* CLONE_PIDFD: the kernel writes the new descriptor into memory of ours. A number read back from the guest's could be that of a file
 * which some other thread of the monitor has open for a moment, and would be published. */
static long check_pidfd(const struct clone_request *q)
{
	int none = -1;
	return q->flags & CLONE_PIDFD ? copy_to_guest(gptr_of(q->pidfd), &none, sizeof none) : 0;
}

static u64 host_flags(const struct clone_request *q, u64 pass)
{
	return q->flags & pass & ~(q->flags & CLONE_PIDFD ? CLONE_PARENT_SETTID : 0);
}

static void give_pidfd(struct thread *t, const struct clone_request *q, long r, int fd)
{
	if (r <= 0 || !(q->flags & CLONE_PIDFD))
		return;
	if (q->flags & CLONE_PARENT_SETTID) { /* clone() has one address for both */
		int pid = (int)r;
		copy_to_guest(gptr_of(q->ptid), &pid, sizeof pid);
	}
	fd = (int)fd_publish(t, fd);
	if (fd >= 0)
		copy_to_guest(gptr_of(q->pidfd), &fd, sizeof fd);
}

/* --- fork --------------------------------------------------------------------------------------------------- */

/* In the child: a VM of its own over the copied memory. Only this thread exists. */
static void become_forked_child(struct thread *t, const struct clone_request *q, struct kvm_regs regs, u64 fs, u64 gs)
{
	struct proc *p = t->proc;
	int parent = p->pid;
	p->pid = (int)host_call(__NR_getpid);
	t->tid = p->pid;
	for (u32 i = 0; i < VCPU_MAX && threads.entry[i]; i++)
		if (threads.entry[i] != t)
			threads.entry[i]->state = THREAD_FREE;
	bool strays = p->nthreads > 1;
	p->nthreads = 1;
	p->mm->users = 1;
	p->own_sig = *p->sig; /* shared with nobody, whatever the parent's are */
	p->own_sig.shared = false;
	p->sig = &p->own_sig;
	p->shares_memory = p->vfork_child = false;
	fd_forked(p);
	if (strays)
		fd_close_strays(p);
	aio_forked();
	p->vfork_parent = NULL;
	t->sig_pending = 0;
	t->busy = 0;
	t->call_on_ring = false;
	t->has_tid_address = false;
	vm_forget(p->vm);
	ring_new_process(p, t);
	long r = proc_make_vm(p);
	if (!r)
		r = mm_reattach(p->mm);
	if (!r)
		r = vcpu_attach(p->vm, t);
	if (r)
		fatal("fork: cannot create a virtual machine: error %d", (int)-r);
	vcpu_set_xsave(t, t->xsave);
	child_user_state(t, t, q, regs, fs, gs);
	if (q->flags & CLONE_CLEAR_SIGHAND)
		signal_clear_handlers(p);
	proc_trace_fork(p, parent, q->flags);
	signal_thread_start(t, NULL);
	peer_open(p);
	mm_own_likely(p->mm, regs.rsp, regs.rip);
	ring_process_runs(p, t);
}

static long fork_process(struct thread *t, struct call *c, const struct clone_request *q)
{
	struct proc *p = t->proc;
	if (q->flags & CLONE_FILES) /* one table of the kernel's, two copies of ours */
		return -EINVAL;
	static const u64 pass = CLONE_FS | CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | CLONE_PIDFD | CLONE_PARENT | CLONE_IO | CLONE_SYSVSEM |
				CLONE_VFORK | CLONE_NEW_ALLOWED;
	struct kvm_regs regs = call_return_regs(t, c);
	u64 fs = vcpu_get_fs(t), gs = vcpu_get_gs(t);
	int pidfd = -1;
	long r = check_pidfd(q);
	if (!r)
		r = vcpu_get_xsave(t, t->xsave);
	if (r)
		return r;
	r = signal_block(t);
	if (r)
		return r;
	/* Nothing may be half-done in the memory that the child copies. */
	lock_acquire(&p->exec_lock);
	lock_acquire(&threads.lock);
	lock_acquire(&p->mm->lock);
	lock_acquire(&p->vm->lock);
	lock_acquire(fd_lock(p));
	lock_acquire(&p->sig->lock);
	lock_acquire(seccomp_lock());
	tracer_lock(&p->tracer);
	r = host_call(__NR_clone, host_flags(q, pass) | (u64)q->exit_signal, 0, q->flags & CLONE_PIDFD ? (u64)&pidfd : q->ptid, q->ctid, 0);
	tracer_unlock(&p->tracer);
	lock_release(seccomp_lock());
	lock_release(&p->sig->lock);
	lock_release(fd_lock(p));
	lock_release(&p->vm->lock);
	lock_release(&p->mm->lock);
	lock_release(&threads.lock);
	lock_release(&p->exec_lock);
	if (r == 0) {
		become_forked_child(t, q, regs, fs, gs);
		return CALL_NO_RETURN; /* registers are set, mask as the caller had it */
	}
	signal_unblock(t);
	if (r > 0)
		mm_own_likely(p->mm, regs.rsp, regs.rip);
	give_pidfd(t, q, r, pidfd);
	return r;
}

/* --- children that share memory (vfork, posix_spawn) ------------------------------------------------------------ */

/* One that is to live on: others may ask about it. */
static void register_peer(struct proc *p)
{
	struct vault v;
	if (vault_open(p->vault_fd, &v))
		return;
	peer_start(p, &v);
	vault_close(&v, 0);
	peer_open(p);
}

/* By a child of vfork(), whose parent waits inside clone() and does it only when the child was killed before, or never made. */
static void table_copied(struct proc *cp)
{
	struct lock *l = atomic_exchange(&cp->copying, NULL);
	if (l)
		lock_release(l);
}

static void shared_child_main(void *arg)
{
	struct thread *t = arg;
	struct proc *p = t->proc;
	table_copied(p);
	p->pid = (int)host_call(__NR_getpid);
	t->tid = p->pid;
	if (p->strays)
		fd_close_strays(p);
	proc_trace_fork(p, t->creator->proc->pid, CLONE_VM);
	if (p->clear_handlers)
		signal_clear_handlers(p);
	signal_thread_start(t, NULL);
	if (!p->vfork_child)
		register_peer(p);
	ring_process_runs(p, t);
	thread_run(t);
}

static long spawn_sharing_memory(struct thread *t, struct call *c, const struct clone_request *q)
{
	struct proc *p = t->proc;
	bool borrow = q->flags & CLONE_VFORK;
	int pidfd = -1;
	long r = check_pidfd(q);
	if (r)
		return r;
	struct proc *cp = host_alloc(sizeof *cp);
	struct thread *n = cp ? thread_take(cp_prepare(cp, p)) : NULL;
	if (!n) {
		host_free(cp, sizeof *cp);
		return -EAGAIN;
	}
	struct kvm_regs regs = call_return_regs(t, c), mine = regs;
	u64 fs = vcpu_get_fs(t), gs = vcpu_get_gs(t);
	r = vcpu_get_xsave(t, t->xsave);
	if (!r && !borrow) {
		r = vcpu_attach(p->vm, n);
		if (!r)
			vcpu_set_xsave(n, t->xsave);
	}
	if (r) {
		thread_give_back(n);
		host_free(cp, sizeof *cp);
		return r;
	}
	if (borrow) {
		/* The parent waits inside clone() until the child is gone: its vCPU is free. */
		n->vcpu_id = t->vcpu_id;
		n->vcpu_fd = t->vcpu_fd;
		n->run = t->run;
		n->exception_frame = t->exception_frame;
		n->io_pending = t->io_pending;
	}
	n->creator = t;
	n->sigmask = t->sigmask;
	seccomp_inherit(n, t);
	n->cred_gen = t->cred_gen;
	if (q->flags & CLONE_FS)
		t->own_fs = false;
	ring_new_process(cp, n); /* the parent's ring server must not serve the child: it is another process */
	child_user_state(n, t, q, regs, fs, gs);
	cp->nthreads = 1;
	cp->clear_handlers = q->flags & CLONE_CLEAR_SIGHAND;
	cp->vfork_child = borrow;
	cp->strays = p->nthreads > 1 && !(q->flags & CLONE_FILES);
	if (q->flags & CLONE_FILES)
		fd_share(cp, p);
	static const u64 pass = CLONE_VM | CLONE_VFORK | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID | CLONE_PIDFD | CLONE_PARENT |
				CLONE_IO | CLONE_SYSVSEM | CLONE_NEW_ALLOWED;
	lock_acquire(&p->sig->lock);
	if (q->flags & CLONE_SIGHAND) {
		cp->sig = p->sig;
		p->sig->shared = true;
	} else {
		memcpy(cp->own_sig.action, p->sig->action, sizeof cp->own_sig.action);
	}
	lock_release(&p->sig->lock);
	r = signal_block(t);
	bool copied = !r && !(q->flags & CLONE_FILES);
	if (copied) {
		lock_acquire(fd_lock(p));
		if (borrow)
			cp->copying = fd_lock(p);
		fd_copy(cp, p);
	}
	if (!r)
		r = clone_thread(host_flags(q, pass) | CLONE_SETTLS | (u64)q->exit_signal, (u8 *)n->stack + n->stack_len,
			 q->flags & CLONE_PIDFD ? &pidfd : (int *)q->ptid, (int *)q->ctid, n, shared_child_main, n);
	if (borrow)
		table_copied(cp);
	else if (copied)
		lock_release(fd_lock(p));
	if (borrow) {
		t->run->immediate_exit = 0;
		vcpu_forget_exception(t); /* the child may have been killed in the middle of one */
		t->run->s.regs.regs = mine;
		vcpu_to_user(t);
		vcpu_set_fs(t, fs);
		vcpu_set_gs(t, gs);
		vcpu_regs_changed(t);
		vcpu_set_xsave(t, t->xsave);
		t->io_pending = false;
		thread_give_back(n);
		proc_dispose(cp);
		signal_unblock(t);
		give_pidfd(t, q, r, pidfd);
		return r;
	}
	signal_unblock(t);
	if (r < 0) {
		vcpu_release(p->vm, n);
		thread_give_back(n);
		proc_dispose(cp);
	}
	give_pidfd(t, q, r, pidfd);
	return r;
}

/* A copy of the process for a child that shares memory: its own pid, descriptors and signal table; same memory and VM. */
struct proc *cp_prepare(struct proc *cp, const struct proc *p)
{
	memcpy(cp, p, sizeof *cp);
	cp->exec_lock = (struct lock){0};
	cp->shares_memory = true;
	cp->sig = &cp->own_sig;
	cp->own_sig.lock = (struct lock){0};
	cp->own_sig.shared = false;
	cp->fds.class_of = NULL;
	cp->copying = NULL;
	cp->peer = NULL;
	tracer_init_child(&cp->tracer);
	return cp;
}

void proc_dispose(struct proc *cp)
{
	ring_dispose(cp);
	fd_release(cp);
	if (!cp->own_sig.shared) /* else another process uses what is in it */
		host_free(cp, sizeof *cp);
}

/* --- the system calls --------------------------------------------------------------------------------------------- */

static long clone_any(struct thread *t, struct call *c, const struct clone_request *q)
{
	u64 f = q->flags;
	if (f & CLONE_NEW_EVERY & (f & CLONE_THREAD ? ~0ul : ~(u64)CLONE_NEW_ALLOWED))
		return refuse(t, -EPERM);
	if ((f & CLONE_SIGHAND && !(f & CLONE_VM)) || (f & CLONE_THREAD && !(f & CLONE_SIGHAND)) || f & CLONE_PTRACE)
		return -EINVAL;
	if (f & CLONE_PARENT_SETTID && q->ptid >= PSB_GUEST_LIMIT)
		return -EFAULT;
	if (f & (CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID) && q->ctid >= PSB_GUEST_LIMIT)
		return -EFAULT;
	if (f & CLONE_PIDFD && f & CLONE_THREAD)
		return -EINVAL;
	if (f & CLONE_PIDFD && q->pidfd >= PSB_GUEST_LIMIT)
		return -EFAULT;
	if (f & CLONE_PIDFD && f & CLONE_PARENT_SETTID && q->pidfd == q->ptid)
		return -EINVAL;
	if (f & CLONE_SETTLS && q->tls >= 0x7ffffffff000ul)
		return -EPERM;
	if (f & CLONE_CLEAR_SIGHAND && f & CLONE_SIGHAND)
		return -EINVAL;
	if (f & CLONE_THREAD)
		return clone_a_thread(t, c, q);
	if (f & CLONE_VM)
		return spawn_sharing_memory(t, c, q);
	return fork_process(t, c, q);
}

long h_clone(struct thread *t, struct call *c)
{
	struct clone_request q = {.flags = c->arg[0] & ~CSIGNAL & 0xffffffff, .exit_signal = (int)(c->arg[0] & CSIGNAL), .stack = c->arg[1],
				  .ptid = c->arg[2], .ctid = c->arg[3], .tls = c->arg[4], .pidfd = c->arg[2]};
	return clone_any(t, c, &q);
}

struct clone_args_k {
	u64 flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

long h_clone3(struct thread *t, struct call *c)
{
	struct clone_args_k a = {0};
	u64 size = c->arg[1];
	if (size > PAGE)
		return -E2BIG;
	if (size < 64)
		return -EINVAL;
	long r = copy_from_guest(&a, gptr_of(c->arg[0]), size < sizeof a ? size : sizeof a);
	if (r)
		return r;
	for (u64 i = sizeof a; i < size; i += 8) { /* what this structure does not know must be zero */
		u64 word = 0;
		if (copy_from_guest(&word, gptr_of(c->arg[0] + i), size - i < 8 ? size - i : 8))
			return -EFAULT;
		if (word)
			return -E2BIG;
	}
	if (a.set_tid_size > 32 || !a.set_tid != !a.set_tid_size || (a.flags & CLONE_INTO_CGROUP && a.cgroup > 0x7fffffff))
		return -EINVAL;
	if (a.set_tid_size || a.flags & CLONE_INTO_CGROUP)
		return refuse(t, -EPERM);
	if (a.flags & (CSIGNAL & ~CLONE_NEW_EVERY) || a.exit_signal & ~CSIGNAL || a.exit_signal > NSIG || !a.stack != !a.stack_size || a.flags & CLONE_DETACHED)
		return -EINVAL;
	if (a.flags & (CLONE_THREAD | CLONE_PARENT) && a.exit_signal)
		return -EINVAL;
	if (a.stack && (a.stack >= PSB_GUEST_LIMIT || a.stack_size > PSB_GUEST_LIMIT - a.stack))
		return -EINVAL;
	struct clone_request q = {.flags = a.flags, .exit_signal = (int)a.exit_signal, .stack = a.stack ? a.stack + a.stack_size : 0,
				  .ptid = a.parent_tid, .ctid = a.child_tid, .tls = a.tls, .pidfd = a.pidfd};
	return clone_any(t, c, &q);
}

long h_fork(struct thread *t, struct call *c)
{
	struct clone_request q = {.exit_signal = 17};
	return clone_any(t, c, &q);
}

long h_vfork(struct thread *t, struct call *c)
{
	struct clone_request q = {.flags = CLONE_VM | CLONE_VFORK, .exit_signal = 17};
	return clone_any(t, c, &q);
}

/* --- exit ------------------------------------------------------------------------------------------------------------ */

/* What set_tid_address() asked for. The kernel was not told, so that the ring server can serve that call; of the address that a thread
 * is made with, it knows. */
static void clear_tid_address(struct thread *t)
{
	static const u32 zero;
	if (!t->has_tid_address)
		return;
	host_call(__NR_set_tid_address, 0);
	if (t->tid_address && !copy_to_guest(gptr_of(t->tid_address), &zero, sizeof zero))
		host_call(__NR_futex, t->tid_address, 1 /* FUTEX_WAKE */, 1, 0, 0, 0);
}

long h_exit_group(struct thread *t, struct call *c)
{
	robust_release(t);
	if (t->proc->mm->users > 1) /* somebody may look */
		clear_tid_address(t);
	proc_trace_exit(t->proc, t, (u64)(c->arg[0] & 0xff) << 8);
	peer_gone(t->proc);
	host_call(__NR_exit_group, c->arg[0]);
	__builtin_unreachable();
}

/* The calling thread ends alone; signals are blocked. */
static _Noreturn void leave_program(struct thread *t)
{
	robust_release(t);
	clear_tid_address(t);
	vcpu_release(t->proc->vm, t);
	t->slot->post = PSB_SLOT_IDLE;
	t->state = THREAD_LEAVING;
	if (!t->stack) { /* the first thread: its stack is the kernel's, the entry is not used again */
		for (;;)
			host_call(__NR_exit, 0);
	}
	thread_leave(&t->state, THREAD_FREE);
}

/* The last thread decides how the process ends, as in the kernel. It has to be ended then: the ring server is a thread as well. */
long h_exit(struct thread *t, struct call *c)
{
	if (signal_block(t)) /* one is held: deliver it first, then exit again */
		return -ERESTARTNOINTR;
	if (!proc_count_threads(t->proc, -1))
		h_exit_group(t, c);
	leave_program(t);
}

void thread_killed_by_policy(struct thread *t, int signo)
{
	signal_thread_end(t);
	if (!proc_count_threads(t->proc, -1))
		signal_die(t, signo);
	leave_program(t);
}
