/* The ring server: a host thread that answers system calls posted in slots, without a VM exit.
 *
 * It polls only while calls keep coming and a CPU is to spare; otherwise it sleeps and trampolines lead to the shim's trap
 * entry. The switch is each slot's `entry`, which the monitor writes. A shim that posted to a server that has just fallen asleep
 * gives up after a bounded spin and leaves the VM (PSB_PORT_CONT): no wake-up can be lost for good. */
#include "peer.h"
#include "proc.h"
#include "shim_offsets.h"
#include "signal.h"
#include "syscalls/handlers.h"
#include "syscalls/row.h"

#define FUTEX_WAIT_PRIVATE 128
#define FUTEX_WAKE_PRIVATE 129
#define RING_MEMORY (ROUND_UP(sizeof(struct thread), PAGE) + (64ul << 10)) /* struct thread, then stack */
/* In TSC cycles; the values need only be right within a factor of two. How long to wait for the next call depends on what an exit
 * costs here (1 microsecond with hardware support, 30 without): polling pays as long as it is the price of a few exits. */
#define EXIT_COST_GUESS 50000ul
#define EXIT_COST_MIN 2000ul
#define EXIT_COST_MAX 100000ul
#define IDLE_SPIN (8 * exit_cost)         /* the server sleeps after so long without a call */
#define BUSY_SPIN (24 * exit_cost)        /* the same after BUSY calls since it was woken */
#define BUSY 16u
#define MISSED (80 * exit_cost)           /* a server that was busy, and asleep no longer than this, is woken by the first trap exit */
#define BURST_GAP (10 * exit_cost)        /* trap exits closer than this would have found a polling server */
#define BURST_LENGTH 2u                   /* so many in a row wake any other */
#define PREEMPTED 300000ul    /* a gap in our own polling: somebody else needs the CPU */
#define BACKOFF_SHARED 1000000ul /* after losing the CPU though there was work */
#define BACKOFF_MIN 4000000ul
#define BACKOFF_MAX 400000000ul
#define LEAVE_NS 100000000ul  /* a server that sleeps longer ends: it counts as a task, and an idle process shall have no more than it needs */
#define WORTH_IT 50u          /* calls served since the last wake-up: a server that is used, whoever else wants its CPU */
#define MOVE_GAP 2000000ul    /* between two moves to another CPU: more often the scheduler knows better */

#define SERVER_NONE 0u
#define SERVER_RUNS 1u
#define SERVER_GONE 2u

static u32 cpus; /* that this process may use */
u64 exit_cost = EXIT_COST_GUESS;

_Noreturn void thread_leave(_Atomic u32 *state, u32 value);
long clone_thread(u64 flags, void *stack_top, int *ptid, int *ctid, void *tls, void (*fn)(void *), void *arg);

static bool serves(const struct proc *p)
{
	return atomic_load(&p->ring.awake) && atomic_load(&p->ring.started) == SERVER_RUNS;
}

u64 ring_entry(const struct proc *p)
{
	return serves(p) ? p->mm->shim + SHIM_RING : trap_entry(p);
}

u64 trap_entry(const struct proc *p)
{
	return p->mm->shim + SHIM_TRAP;
}

static void set_entries(struct proc *p, u64 entry)
{
	for (u32 i = 0; i < VCPU_MAX && threads.entry[i]; i++) {
		struct thread *t = threads.entry[i];
		if (t->state == THREAD_USED && t->proc == p && t->slot && !t->gs_changed)
			t->slot->entry = entry;
	}
}

/* One posted call. The line is copied once; `busy` keeps the thread's own side out meanwhile. */
static bool serve(struct proc *p, struct thread *t)
{
	if ((u8)t->slot->post != PSB_SLOT_POSTED)
		return false;
	u32 zero = 0;
	if (!atomic_compare_exchange_strong(&t->busy, &zero, 1))
		return false;
	u64 post = t->slot->post;
	if ((u8)post != PSB_SLOT_POSTED || t->proc != p || t->call_on_ring) {
		atomic_store(&t->busy, 0);
		return false;
	}
	if (t->cred_gen != p->ring.cred_gen) { /* other credentials than the server's: on the thread itself */
		t->slot->post = PSB_SLOT_TRAP;
		atomic_store(&t->busy, 0);
		return true;
	}
	struct call *c = &t->call;
	c->nr = (u32)t->slot->nr_ret; /* field by field: clearing it as a whole first would cost more */
	c->door = PSB_DOOR_JUMP;
	c->may_block = c->recorded = false;
	for (int i = 0; i < 6; i++)
		c->arg[i] = t->slot->args[i];
	c->ret_addr = c->site = __builtin_bswap64(post & ~0xfful);
	c->rec.ordinal = 0;
	const struct row *r = row_of(c->nr);
	if (r && r->flags & F_OWN) /* memory is mapped and filled, which may take as long as an exit */
		t->slot->saved[4] = 1; /* PSB_SLOT_TAKEN */
	long ret = dispatch(t, c);
	if (ret == CALL_TO_TRAP) {
		t->call_on_ring = true;
		t->slot->post = PSB_SLOT_TRAP;
	} else { /* the guest goes on while the rest is done; its next call waits for `busy` */
		t->slot->nr_ret = (u64)ret;
		t->slot->post = PSB_SLOT_DONE;
		dispatch_done(t, c, ret);
	}
	atomic_store_explicit(&t->busy, 0, memory_order_release);
	counters.ring++;
	return true;
}

static bool serve_all(struct proc *p)
{
	bool any = false;
	for (u32 i = 0; i < VCPU_MAX && threads.entry[i]; i++) {
		struct thread *t = threads.entry[i];
		if (t->state == THREAD_USED && t->proc == p && t->slot)
			any |= serve(p, t);
	}
	return any;
}

/* No call made here waits, by what is known of it: the kind of file, O_NONBLOCK. Other threads and processes can change that in the moment before
 * it is made. Then the thread whose call it is, which waits for `busy`, interrupts the server and makes the call itself. */
long ring_call(long nr, u64 a, u64 b, u64 d, u64 e, u64 f, u64 g)
{
	static _Atomic u32 nothing_held;
	const u64 arg[6] = {a, b, d, e, f, g};
	long r = signal_call(&nothing_held, nr, arg);
	return r == -EINTR || (r <= -ERESTARTSYS && r >= -ERESTART_RESTARTBLOCK) ? CALL_TO_TRAP : r;
}

void ring_kick(struct proc *p)
{
	struct siginfo_k info = {.signo = PEER_SIGNAL, .code = PEER_CODE, .from = {.pid = p->pid}};
	u64 value = RING_VALUE;
	int tid = atomic_load(&p->ring.tid);
	memcpy(info.room + 8, &value, sizeof value);
	if (tid)
		host_call(__NR_rt_tgsigqueueinfo, host_call(__NR_getpid), tid, PEER_SIGNAL, &info);
}

/* Makes room for a server with newer credentials, or for others at the limit of tasks. Memory is given back by that one's creator. */
static _Noreturn void leave(struct proc *p)
{
	set_entries(p, trap_entry(p));
	atomic_store(&p->ring.awake, 0);
	atomic_store(&p->ring.tid, 0);
	thread_leave(&p->ring.started, SERVER_GONE);
}

static void fall_asleep(struct proc *p)
{
	static const u64 patience[2] = {0, LEAVE_NS};
	set_entries(p, trap_entry(p));
	atomic_store(&p->ring.awake, 0);
	serve_all(p); /* posted before the entries changed; later ones give up by themselves */
	while (!atomic_load(&p->ring.awake) && !atomic_load(&p->ring.retire))
		if (host_call(__NR_futex, &p->ring.awake, FUTEX_WAIT_PRIVATE, 0, patience, 0, 0) == -ETIMEDOUT && !atomic_load(&p->ring.awake))
			leave(p); /* somebody may wake it in this moment: serves() knows */
	if (!atomic_load(&p->ring.retire))
		set_entries(p, p->mm->shim + SHIM_RING);
}

/* Moves a server (0: the caller) off the CPU of the thread that is to be served: on that one it would not begin to run before that
 * thread sleeps, and the scheduler moves neither of two busy threads for some milliseconds. It is not bound for long: where it runs the scheduler may
 * do what it thinks best. */
static bool move_off(struct proc *p, int tid, u32 cpu)
{
	u64 mask[ARRAY_LEN(p->ring.mask)], others = 0;
	memcpy(mask, p->ring.mask, sizeof mask);
	if (cpu / 64 < ARRAY_LEN(mask))
		mask[cpu / 64] &= ~(1ul << cpu % 64);
	for (u32 i = 0; i < ARRAY_LEN(mask); i++)
		others |= mask[i];
	bool moved = others && !host_call(__NR_sched_setaffinity, tid, sizeof mask, mask);
	if (moved)
		host_call(__NR_sched_setaffinity, tid, sizeof mask, p->ring.mask);
	return moved;
}

/* Nobody posts any more, or the CPU is wanted: for how long no burst of calls shall wake the server. */
static void back_off(struct proc *p, bool cpu_wanted, u64 served, u64 now)
{
	struct ring *r = &p->ring;
	u64 wait = r->backoff * 2;
	if (!cpu_wanted)
		r->backoff = 0;
	else if (served >= WORTH_IT)
		r->backoff = BACKOFF_SHARED;
	else /* longer each time */
		r->backoff = wait < BACKOFF_MIN ? BACKOFF_MIN : wait > BACKOFF_MAX ? BACKOFF_MAX : wait;
	r->backoff_until = now + r->backoff;
}

static void server_main(void *arg)
{
	struct proc *p = arg;
	bool always = p->dispatch == PSB_DISPATCH_RING;
	u64 last_call = rdtsc(), last_poll = last_call, moved = 0, woken = counters.ring;
	atomic_store(&p->ring.tid, (int)host_call(__NR_gettid));
	set_entries(p, p->mm->shim + SHIM_RING);
	for (;;) {
		bool any = false;
		u32 cpu;
		if (atomic_load(&p->ring.retire))
			leave(p);
		/* Look often, read the clock rarely; no `pause`, it would cost as much as the answer. */
		for (int look = 0; look < 100; look++)
			any |= serve_all(p);
		u64 now = rdtscp(&cpu);
		bool in_the_way = cpu == atomic_load_explicit(&p->ring.caller_cpu, memory_order_relaxed);
		if (in_the_way && !any && now - moved > MOVE_GAP && move_off(p, 0, cpu)) {
			last_poll = moved = rdtsc();
			continue;
		}
		bool cpu_wanted = !any && (in_the_way || now - last_poll > PREEMPTED);
		last_poll = now;
		if (any)
			last_call = now;
		bool busy = counters.ring - woken >= BUSY;
		if (!always && (cpu_wanted || now - last_call > (busy ? BUSY_SPIN : IDLE_SPIN))) {
			back_off(p, cpu_wanted, counters.ring - woken, now);
			atomic_store(&p->ring.missed_until, busy ? now + MISSED : 0);
			fall_asleep(p);
			last_call = last_poll = rdtsc();
			woken = counters.ring;
		}
	}
}

static void start_server(struct proc *p, u32 cred_gen)
{
	u32 was = atomic_load(&p->ring.started);
	if (was == SERVER_RUNS || !atomic_compare_exchange_strong(&p->ring.started, &was, SERVER_RUNS))
		return;
	atomic_store(&p->ring.retire, 0);
	p->ring.cred_gen = cred_gen;
	u8 *memory = p->ring.memory ? p->ring.memory : host_alloc(RING_MEMORY);
	if (!memory)
		return;
	struct thread *s = (struct thread *)memory; /* its own scratch and TLS; no vCPU */
	s->self = s;
	s->proc = p;
	p->ring.memory = memory;
	atomic_store(&p->ring.awake, 1);
	u64 all = ~(1ul << 10 | 1ul << 6), old; /* SIGSEGV and SIGBUS stay open: guest memory may fault in copies */
	host_call(__NR_rt_sigprocmask, 2, &all, &old, 8);
	/* CLONE_VM FS FILES SIGHAND THREAD SYSVSEM SETTLS */
	long r = clone_thread(0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000 | 0x80000, memory + RING_MEMORY, NULL, NULL, s, server_main, p);
	host_call(__NR_rt_sigprocmask, 2, &old, 0, 8);
	if (r < 0) {
		atomic_store(&p->ring.awake, 0);
		return;
	}
	u32 cpu;
	rdtscp(&cpu);
	move_off(p, (int)r, cpu);
}

/* After a change of credentials by a thread of p: the server still has the old ones. */
void ring_retire(struct proc *p)
{
	if (atomic_load(&p->ring.started) != SERVER_RUNS)
		return;
	atomic_store(&p->ring.retire, 1);
	host_call(__NR_futex, &p->ring.awake, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
}

static void wake_server(struct proc *p, u32 cred_gen)
{
	if (atomic_load(&p->ring.started) != SERVER_RUNS)
		start_server(p, cred_gen);
	else if (!atomic_exchange(&p->ring.awake, 1))
		host_call(__NR_futex, &p->ring.awake, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
	counters.wakeups++;
}

void ring_note_trap(struct thread *t)
{
	struct proc *p = t->proc;
	struct ring *r = &p->ring;
	if (p->dispatch == PSB_DISPATCH_EXIT || cpus < 2 || serves(p))
		return;
	u64 now = rdtsc();
	r->burst = now - r->last_trap < BURST_GAP ? r->burst + 1 : 0;
	r->last_trap = now;
	if ((r->burst >= BURST_LENGTH || now < atomic_load(&r->missed_until)) && now >= r->backoff_until) {
		r->burst = 0;
		wake_server(p, t->cred_gen);
	}
}

void ring_thread_added(struct thread *t)
{
	if (!t->gs_changed)
		t->slot->entry = ring_entry(t->proc);
}

void ring_start(struct proc *p)
{
	u64 *mask = p->ring.mask;
	host_call(__NR_sched_getaffinity, 0, sizeof p->ring.mask, mask);
	for (u32 i = 0; i < ARRAY_LEN(p->ring.mask); i++)
		for (u64 m = mask[i]; m; m &= m - 1)
			cpus++;
	/* A program's start is a burst of calls. Not where an ancestor lately found the other CPUs busy. */
	if (p->dispatch == PSB_DISPATCH_RING || (p->dispatch == PSB_DISPATCH_AUTO && cpus > 1 && rdtsc() >= p->ring.backoff_until))
		start_server(p, 0);
}

/* A posted call found no answer: the server lost its CPU. Until it says otherwise this thread takes the trap door. */
void ring_absent(struct thread *t)
{
	if (t->proc->dispatch == PSB_DISPATCH_AUTO)
		t->slot->entry = trap_entry(t->proc);
}

/* The least time between entering the guest and its next exit; creeps up, so that one odd reading does not stay. */
void ring_note_exit(u64 cycles)
{
	exit_cost = cycles < exit_cost ? cycles : exit_cost + exit_cost / 256;
	if (exit_cost < EXIT_COST_MIN)
		exit_cost = EXIT_COST_MIN;
	else if (exit_cost > EXIT_COST_MAX)
		exit_cost = EXIT_COST_MAX;
}

void ring_new_process(struct proc *p, struct thread *only)
{
	/* The server was a thread of the parent. After fork its memory stays behind as a copy that nothing touches. */
	struct ring fresh = {.backoff_until = p->ring.backoff_until};
	memcpy(fresh.mask, p->ring.mask, sizeof fresh.mask);
	p->ring = fresh;
	only->slot->entry = trap_entry(p);
	only->slot->post = PSB_SLOT_IDLE;
}

/* In the new process itself. */
void ring_process_runs(struct proc *p, struct thread *t)
{
	if (p->dispatch == PSB_DISPATCH_RING)
		start_server(p, t->cred_gen);
}

void ring_dispose(struct proc *p)
{
	host_free(p->ring.memory, RING_MEMORY);
}
