/* The ring server: a host thread that answers system calls posted in slots, without a VM exit.
 *
 * It polls only while calls keep coming and a CPU is to spare; otherwise it sleeps and trampolines lead to the shim's trap
 * entry. The switch is each slot's `entry`, which the monitor writes. A shim that posted to a server that has just fallen asleep
 * gives up after a bounded spin and leaves the VM (PSB_PORT_CONT): no wake-up can be lost for good. */
#include "proc.h"
#include "shim_offsets.h"
#include "syscalls/handlers.h"

#define FUTEX_WAIT_PRIVATE 128
#define FUTEX_WAKE_PRIVATE 129
#define RING_STACK (64ul << 10)
/* In TSC cycles; the values need only be right within a factor of two. */
#define BURST_GAP 400000ul    /* calls closer than this (exit included) belong to a burst */
#define BURST_LENGTH 4u       /* so many in a row wake the server */
#define IDLE_SPIN 150000ul    /* the server sleeps after so long without a call */
#define PREEMPTED 300000ul    /* a gap in our own polling: somebody else needs the CPU */

long clone_thread(u64 flags, void *stack_top, int *ptid, int *ctid, void *tls, void (*fn)(void *), void *arg);

static struct {
	_Atomic u32 awake;       /* futex word: 0 asleep, 1 polling */
	_Atomic u32 started;
	struct proc *proc;
	u64 ring_va, trap_va;
	u64 last_trap;           /* TSC */
	u32 burst;
	u64 backoff_until;       /* TSC: no polling before */
	u64 backoff;
	u32 cpus;
	struct thread *thread;   /* the server's own: scratch and TLS, no vCPU */
} ring;

u64 ring_entry(void)
{
	return atomic_load(&ring.awake) ? ring.ring_va : ring.trap_va;
}

u64 trap_entry(void)
{
	return ring.trap_va;
}

static void set_entries(u64 entry)
{
	for (u32 i = 0; i < VCPU_MAX && threads.entry[i]; i++) {
		struct thread *t = threads.entry[i];
		if (t->state == THREAD_USED && t->proc == ring.proc && t->slot && !t->gs_changed)
			t->slot->entry = entry;
	}
}

/* One posted call. The line is copied once; `busy` keeps the thread's own side out meanwhile. */
static bool serve(struct thread *t)
{
	if ((u8)t->slot->post != PSB_SLOT_POSTED)
		return false;
	u32 zero = 0;
	if (!atomic_compare_exchange_strong(&t->busy, &zero, 1))
		return false;
	u64 post = t->slot->post;
	if ((u8)post != PSB_SLOT_POSTED || t->proc != ring.proc || t->call_on_ring) {
		atomic_store(&t->busy, 0);
		return false;
	}
	struct call *c = &t->call;
	*c = (struct call){.nr = (u32)t->slot->nr_ret, .door = PSB_DOOR_JUMP};
	for (int i = 0; i < 6; i++)
		c->arg[i] = t->slot->args[i];
	c->ret_addr = c->site = __builtin_bswap64(post & ~0xfful);
	long ret = dispatch(t, c);
	if (ret == CALL_TO_TRAP) {
		t->call_on_ring = true;
		t->slot->post = PSB_SLOT_TRAP;
	} else {
		t->slot->nr_ret = (u64)ret;
		t->slot->post = PSB_SLOT_DONE;
	}
	atomic_store(&t->busy, 0);
	counters.ring++;
	return true;
}

static void serve_all(u64 *last_call)
{
	for (u32 i = 0; i < VCPU_MAX && threads.entry[i]; i++) {
		struct thread *t = threads.entry[i];
		if (t->state == THREAD_USED && t->slot && serve(t))
			*last_call = rdtsc();
	}
}

static void fall_asleep(void)
{
	set_entries(ring.trap_va);
	atomic_store(&ring.awake, 0);
	u64 ignored;
	serve_all(&ignored); /* posted before the entries changed; later ones give up by themselves */
	while (!atomic_load(&ring.awake))
		host_call(__NR_futex, &ring.awake, FUTEX_WAIT_PRIVATE, 0, 0, 0, 0);
	set_entries(ring.ring_va);
}

static void server_main(void *arg)
{
	(void)arg;
	bool always = ring.proc->dispatch == PSB_DISPATCH_RING;
	u64 last_call = rdtsc(), last_poll = last_call;
	set_entries(ring.ring_va);
	for (;;) {
		u64 before = last_call;
		serve_all(&last_call);
		u64 now = rdtsc();
		bool preempted = last_call == before && now - last_poll > PREEMPTED;
		last_poll = now;
		if (!always && (preempted || now - last_call > IDLE_SPIN)) {
			if (preempted) { /* the CPU is wanted: stay away for a while, longer each time */
				ring.backoff = ring.backoff ? ring.backoff * 2 : 4000000;
				if (ring.backoff > 400000000)
					ring.backoff = 400000000;
				ring.backoff_until = now + ring.backoff;
			} else {
				ring.backoff = 0;
			}
			fall_asleep();
			last_call = last_poll = rdtsc();
		}
		if (last_call == before)
			__builtin_ia32_pause();
	}
}

static void start_server(struct proc *p)
{
	u32 zero = 0;
	if (!atomic_compare_exchange_strong(&ring.started, &zero, 1))
		return;
	struct thread *s = host_alloc(sizeof *s);
	u8 *stack = host_alloc(RING_STACK);
	if (!s || !stack)
		return;
	s->self = s;
	s->proc = p;
	ring.thread = s;
	atomic_store(&ring.awake, 1);
	u64 all = ~(1ul << 10 | 1ul << 6), old; /* SIGSEGV and SIGBUS stay open: guest memory may fault in copies */
	host_call(__NR_rt_sigprocmask, 2, &all, &old, 8);
	/* CLONE_VM FS FILES SIGHAND THREAD SYSVSEM SETTLS */
	long r = clone_thread(0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000 | 0x80000, stack + RING_STACK, NULL, NULL, s, server_main, NULL);
	host_call(__NR_rt_sigprocmask, 2, &old, 0, 8);
	if (r < 0)
		atomic_store(&ring.awake, 0);
}

static void wake_server(void)
{
	if (!atomic_load(&ring.started)) {
		start_server(ring.proc);
	} else if (!atomic_exchange(&ring.awake, 1)) {
		host_call(__NR_futex, &ring.awake, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
	}
	counters.wakeups++;
}

void ring_note_trap(struct thread *t)
{
	if (t->proc != ring.proc || ring.proc->dispatch == PSB_DISPATCH_EXIT || ring.cpus < 2 || atomic_load(&ring.awake))
		return;
	u64 now = rdtsc();
	ring.burst = now - ring.last_trap < BURST_GAP ? ring.burst + 1 : 0;
	ring.last_trap = now;
	if (ring.burst >= BURST_LENGTH && now >= ring.backoff_until) {
		ring.burst = 0;
		wake_server();
	}
}

void ring_thread_added(struct thread *t)
{
	if (t->proc == ring.proc && !t->gs_changed)
		t->slot->entry = ring_entry();
}

void ring_start(struct proc *p)
{
	ring.proc = p;
	ring.ring_va = p->mm->shim + SHIM_RING;
	ring.trap_va = p->mm->shim + SHIM_TRAP;
	u64 mask[16] = {0};
	host_call(__NR_sched_getaffinity, 0, sizeof mask, mask);
	for (u32 i = 0; i < ARRAY_LEN(mask); i++)
		for (u64 m = mask[i]; m; m &= m - 1)
			ring.cpus++;
	if (p->dispatch == PSB_DISPATCH_RING)
		start_server(p);
}

void ring_reset_after_fork(struct proc *p, struct thread *only)
{
	/* The server was a thread of the parent. Its stack and struct stay behind as copies that nothing touches. */
	ring.proc = p;
	atomic_store(&ring.awake, 0);
	atomic_store(&ring.started, 0);
	ring.burst = 0;
	only->slot->entry = ring.trap_va;
	only->slot->post = PSB_SLOT_IDLE;
	if (p->dispatch == PSB_DISPATCH_RING)
		start_server(p);
}
