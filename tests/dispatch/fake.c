/* The dispatcher without KVM, signals or a trace: host calls are recorded instead of made, guest memory is a few pages mapped at
 * a low address. test_dispatch_*.py drives it. */
#include <stdio.h>
#include <stdlib.h>
#include <stdarg.h>
#include "../../runtime/monitor/monitor.h"
#include "../../runtime/monitor/maps.h"
#include "../../runtime/monitor/mm.h"
#include "../../runtime/monitor/peer.h"
#include "../../runtime/monitor/signal.h"
#include "../../runtime/monitor/plan_sites.h"
#include "../../runtime/monitor/proc.h"
#include "../../runtime/monitor/syscalls/handlers.h"
#include "../../runtime/monitor/syscalls/row.h"

void *mmap(void *addr, size_t len, int prot, int flags, int fd, long off); /* <sys/mman.h> and mm.h define the same names */

#define GUEST_BASE 0x100000000000ul
#define GUEST_LEN 0x100000ul
#define MAX_CALLS 256

static struct {
	long nr;
	u64 arg[6];
} recorded[MAX_CALLS];
static int ncalls;
static long answer, died_by, sigsys_data;
static struct proc proc;
static struct thread thread;
static struct mm mm;
static struct psb_policy policy;

/* Every host call of the code under test lands here (the build renames host.h's). */
long host6(long nr, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
	if (ncalls < MAX_CALLS) {
		u64 arg[6] = {a, b, c, d, e, f};
		recorded[ncalls].nr = nr;
		memcpy(recorded[ncalls++].arg, arg, sizeof arg);
	}
	return answer;
}

static bool mapped(gptr p, u64 len)
{
	return guest_range(p, len) && p.va >= GUEST_BASE && p.va + len <= GUEST_BASE + GUEST_LEN;
}

long copy_from_guest(void *dst, gptr src, u64 len)
{
	if (!mapped(src, len))
		return -EFAULT;
	memcpy(dst, (void *)src.va, len);
	return 0;
}

long copy_to_guest(gptr dst, const void *src, u64 len)
{
	if (!mapped(dst, len))
		return -EFAULT;
	memcpy((void *)dst.va, src, len);
	return 0;
}

long copy_string_from_guest(char *dst, gptr src, u64 cap)
{
	for (u64 i = 0; i < cap; i++) {
		if (!mapped(gptr_of(src.va + i), 1))
			return -EFAULT;
		if (!(dst[i] = *(char *)(src.va + i)))
			return (long)i;
	}
	return -ENAMETOOLONG;
}

void *host_alloc(size_t len)
{
	return calloc(1, len);
}

void host_free(void *p, size_t len)
{
	(void)len;
	free(p);
}

void lock_acquire(struct lock *l)
{
	l->word++;
}

bool lock_try(struct lock *l)
{
	(void)l;
	return true;
}

void lock_release(struct lock *l)
{
	l->word--;
}

void fatal(const char *fmt, ...)
{
	fprintf(stderr, "fatal: %s\n", fmt);
	abort();
}

int format(char *buf, size_t cap, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(buf, cap, fmt, ap);
	va_end(ap);
	return n;
}

long blocking_call(struct thread *t, long nr, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
	(void)t;
	return host6(nr, a, b, c, d, e, f);
}

long blocking_call_masked(struct thread *t, gptr set, u64 size, long nr, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
	(void)t, (void)set, (void)size;
	return host6(nr, a, b, c, d, e, f);
}

long ring_call(long nr, u64 a, u64 b, u64 d, u64 e, u64 f, u64 g)
{
	return host6(nr, a, b, d, e, f, g);
}

static int written, ended, last_verdict;
long trace_write(struct tracer *tr, const struct trace_event *ev, struct trace_ref *ref)
{
	(void)tr, (void)ref;
	written++;
	last_verdict = ev->verdict;
	return ncalls ? -EIO : 0; /* a record behind the call would break invariant 5 */
}

void trace_end(struct tracer *tr, struct trace_ref *ref, int64_t ret)
{
	(void)tr, (void)ref, (void)ret;
	ended++;
}

/* Ending the process cannot return; the test only asks for verdicts in its own process up to here. */
void signal_die(struct thread *t, int signo)
{
	(void)t;
	died_by = signo;
	_Exit(100 + signo);
}

void thread_killed_by_policy(struct thread *t, int signo)
{
	(void)signo;
	(void)t;
	_Exit(99);
}

static struct {
	long result;
	bool go_on;
} agent;

void fake_agent(long result, int go_on)
{
	agent.result = result;
	agent.go_on = go_on;
}

long notify_agent(struct thread *t, const struct call *c, bool *go_on)
{
	(void)t, (void)c;
	*go_on = agent.go_on;
	return agent.result;
}

long signal_sigsys(struct thread *t, u32 nr, u32 data, u64 call_addr)
{
	(void)t, (void)nr, (void)call_addr;
	sigsys_data = (long)data;
	return CALL_NO_RETURN;
}

/* peer_ask.c, peer.c: nobody else is there */
long peer_ask(struct thread *t, u32 pid, enum peer_question kind, i32 number, struct peer_answer *a)
{
	(void)t, (void)pid, (void)kind, (void)number, (void)a;
	return -EACCES;
}

long peer_exe(struct thread *t, u32 pid, char *buf, u64 cap)
{
	(void)t, (void)pid, (void)buf, (void)cap;
	return -EACCES;
}

struct peer_status peer_status(struct proc *p, u32 pid)
{
	(void)p, (void)pid;
	return (struct peer_status){0};
}

struct peer_status peer_own_status(const struct proc *p)
{
	return (struct peer_status){.threads = p->nthreads};
}

void peer_tell_status(struct proc *p)
{
	(void)p;
}

void proc_part_from_ring(struct thread *t)
{
	t->cred_gen++;
}

void peer_set_dumpable(struct proc *p, bool dumpable)
{
	p->dumpable = dumpable;
}

bool proc_has_thread(const struct proc *p, int tid)
{
	return tid == p->pid;
}

/* tids.c: one thread is the monitor's */
bool tid_hidden(struct thread *t, int tid)
{
	(void)t;
	return tid == 13;
}

long clock_usable(struct thread *t, i32 id)
{
	return id < 0 && tid_hidden(t, ~(id >> 3)) ? -EINVAL : 0;
}

long make_smaps(struct thread *t, int fd, char *buf, u64 cap)
{
	(void)t, (void)fd, (void)buf, (void)cap;
	return 0;
}

long make_smaps_rollup(struct thread *t, int fd, char *buf, u64 cap)
{
	return make_smaps(t, fd, buf, cap);
}

void mm_sizes(struct mm *mm, struct mm_sizes *s)
{
	(void)mm;
	*s = (struct mm_sizes){0};
}

u64 mm_format_maps(struct proc *p, char *buf, u64 cap)
{
	(void)p, (void)buf, (void)cap;
	return 0;
}

/* Handlers of other files: reached only with good arguments; they answer something recognisable. */
#define OTHER(name)                                      \
	long name(struct thread *t, struct call *c)      \
	{                                                \
		(void)t, (void)c;                        \
		return 77;                               \
	}
OTHER(h_io_setup) OTHER(h_io_destroy) OTHER(h_io_getevents) OTHER(h_io_submit) OTHER(h_io_cancel)
OTHER(h_mmap) OTHER(h_munmap) OTHER(h_mprotect) OTHER(h_mremap) OTHER(h_brk) OTHER(h_madvise) OTHER(h_clone) OTHER(h_clone3) OTHER(h_mlockall) OTHER(h_munlockall)
OTHER(h_fork) OTHER(h_vfork) OTHER(h_execve) OTHER(h_execveat) OTHER(h_exit) OTHER(h_exit_group) OTHER(h_arch_prctl)
OTHER(h_set_tid_address) OTHER(h_set_robust_list) OTHER(h_get_robust_list) OTHER(h_shmat) OTHER(h_shmdt) OTHER(h_shmget) OTHER(h_pkey_mprotect) OTHER(h_rt_sigaction) OTHER(h_rt_sigprocmask)
OTHER(h_capget) OTHER(h_priority) OTHER(h_timer_create) OTHER(h_rt_sigpending) OTHER(h_rt_sigsuspend) OTHER(h_rt_sigtimedwait) OTHER(h_pause) OTHER(h_rt_sigreturn) OTHER(h_sigaltstack)

/* --- what the test calls ------------------------------------------------------------------------------------------ */

int fake_start(void);
long fake_call(u32 nr, const u64 *args, int may_block);
int fake_calls(void);
long fake_called(int i, u64 *args);
void fake_answer(long r);
void fake_agent(long result, int go_on);
int fake_row(u32 nr, char *name, u32 *out);
void fake_publish(int fd, int class);
int fake_published(int fd);
void fake_policy(u32 nr, u32 verdict, u32 data);
int fake_records(int what);
long fake_close(int fd);
int fake_hold(int fd);
void fake_drop(int fd);

int fake_start(void)
{
	void *p = mmap((void *)GUEST_BASE, GUEST_LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (p != (void *)GUEST_BASE)
		return -1;
	thread.self = &thread;
	thread.proc = &proc;
	thread.tid = proc.pid = 7;
	proc.mm = &mm;
	proc.sig = &proc.own_sig;
	mm.users = 1;
	proc.policy = &policy;
	proc.vault_fd = 1001;
	proc.proc_fd = 1005;
	proc.nofile[0] = proc.nofile[1] = FD_NUMBERS;
	proc.monitor_dev = proc.monitor_ino = ~0ul;
	fd_start(&proc, NULL, 0);
	return 0;
}

long fake_call(u32 nr, const u64 *args, int may_block)
{
	struct call c = {.nr = nr, .may_block = may_block};
	memcpy(c.arg, args, sizeof c.arg);
	ncalls = written = ended = 0;
	long ret = dispatch(&thread, &c);
	if (ret != CALL_TO_TRAP)
		dispatch_done(&thread, &c, ret);
	return ret;
}

int fake_calls(void)
{
	return ncalls;
}

long fake_called(int i, u64 *args)
{
	memcpy(args, recorded[i].arg, 48);
	return recorded[i].nr;
}

void fake_answer(long r)
{
	answer = r;
}

/* name, then door, nargs, refuse, flags, and kind, link, size of each argument. 0: no row. */
int fake_row(u32 nr, char *name, u32 *out)
{
	const struct row *r = row_of(nr);
	if (!r)
		return 0;
	snprintf(name, 64, "%s", r->name);
	*out++ = r->door;
	*out++ = r->nargs;
	*out++ = r->refuse;
	*out++ = r->flags;
	for (int i = 0; i < 6; i++) {
		*out++ = r->arg[i].kind;
		*out++ = r->arg[i].link;
		*out++ = r->arg[i].size;
	}
	return 1;
}

void fake_publish(int fd, int class)
{
	fd_publish_as(&thread, fd, (enum fd_class)class);
}

int fake_published(int fd)
{
	return fd_published(&proc, fd);
}

void fake_policy(u32 nr, u32 verdict, u32 data)
{
	static struct {
		struct psb_policy head;
		struct psb_policy_rule rule;
	} blob;
	memset(&blob, 0, sizeof blob);
	blob.head.nrules = 1;
	blob.head.entry[nr].count = 1;
	blob.rule = (struct psb_policy_rule){.verdict = verdict, .data = data, .id = 3};
	proc.policy = &blob.head;
}

int fake_records(int what)
{
	return what == 0 ? written : what == 1 ? ended : last_verdict;
}

long fake_close(int fd)
{
	ncalls = 0;
	return fd_close(&thread, fd);
}

int fake_hold(int fd)
{
	return fd_hold(&proc, fd);
}

void fake_drop(int fd)
{
	ncalls = 0;
	fd_drop(&proc, fd);
}

/* proc.c makes the call and retires the ring server; here only the call is of interest. */
long proc_change_credentials(struct thread *t, long nr, const u64 arg[6])
{
	(void)t;
	return host_call(nr, arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]);
}

struct threads threads; /* nobody is in it */

u64 site_shown(struct proc *p, u64 rip)
{
	(void)p;
	return rip;
}
