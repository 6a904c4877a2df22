/* The record that each process has in the file which the monitors of a container share, and its answers to the others' questions.
 *
 * A monitor is not dumpable, so no other one learns from the kernel what the program's descriptors, directory or root are. It asks:
 * writes a question into the record and sends SIGBUS, which no monitor blocks, with a code that no program uses. The handler answers,
 * whatever its thread is doing, and host calls that it interrupted are made again, so that the program notices nothing. An answer is text and
 * metadata, never a descriptor, and speaks of nothing but what is published.
 *
 * Who asks has checked the right to know (peer_ask.c). The file is the monitors' alone. What is read from it is still
 * believed in no way that matters: lengths are bounded, text is text. */
#include "peer.h"
#include "proc.h"
#include "seccomp.h"
#include "signal.h"
#include "syscalls/handlers.h"

#define CLOCK_BOOTTIME 7
#define FALLOC_FL_KEEP_SIZE 1
#define FUTEX_WAKE 1
#define MS 1000000ul

static u8 *records; /* mapped by the first program's start, inherited by children */
static u64 first_tsc, first_ns; /* one moment */

struct peer_record *peer_place(u32 pid, u32 probe)
{
	return records ? (struct peer_record *)(records + (u64)((pid + probe * 61) % PSB_CTL_RECORDS) * PSB_CTL_RECORD) : NULL;
}

u64 peer_clock(void)
{
	struct timespec_k ts = {0, 0};
	host_call(__NR_clock_gettime, CLOCK_BOOTTIME, &ts);
	return (u64)ts.sec * 1000000000 + (u64)ts.nsec;
}

/* Memory first: a hole that cannot be filled would be a SIGBUS. */
long peer_reserve(int ctl_fd, const struct peer_record *r, bool answer)
{
	u64 at = PAGE + (u64)((const u8 *)r - records) + (answer ? PAGE : 0);
	return host_call(__NR_fallocate, ctl_fd, FALLOC_FL_KEEP_SIZE, at, PAGE);
}

static bool is_dead(u32 pid)
{
	return host_call(__NR_kill, pid, 0) == -ESRCH;
}

static struct peer_record *take_record(int ctl_fd, u32 pid)
{
	for (u32 i = 0; i < PEER_PROBES; i++) {
		struct peer_record *r = peer_place(pid, i);
		if (!r || peer_reserve(ctl_fd, r, false))
			return NULL;
		u32 was = r->pid;
		/* its own from before an execve, a free one, or that of a process which was killed */
		if ((was == pid || !was || is_dead(was)) && atomic_compare_exchange_strong(&r->pid, &was, pid))
			return r;
	}
	return NULL;
}

static bool map_records(int ctl_fd)
{
	struct psb_ctl head;
	u64 len = (u64)PSB_CTL_RECORDS * PSB_CTL_RECORD;
	struct stat_k st;
	if (host_call(__NR_fstat, ctl_fd, &st) || (u64)st.size < PAGE + len || host_call(__NR_pread64, ctl_fd, &head, sizeof head, 0) != sizeof head ||
	    head.version != PSB_CTL_VERSION)
		return false;
	long a = host_call(__NR_mmap, 0, len, 3, MAP_SHARED, ctl_fd, PAGE);
	if (IS_ERR(a))
		return false;
	host_call(__NR_madvise, a, len, MADV_RANDOM); /* else the file system may read megabytes of holes ahead, for 2 ms */
	records = (u8 *)a;
	return true;
}

static void write_exe(struct peer_record *r, const char *path)
{
	u64 len = strlen(path);
	u32 turn = atomic_load(&r->exe_turn) | 1;
	atomic_store(&r->exe_turn, turn);
	r->exe[0] = 0;
	if (len < sizeof r->exe)
		memcpy(r->exe, path, len + 1);
	atomic_store(&r->exe_turn, turn + 1);
}

void peer_start(struct proc *p, const struct vault *v)
{
	int fd = v->fd[PSB_FD_CTL];
	p->peer = NULL;
	if (fd < 0 || (!records && !map_records(fd)))
		return;
	struct peer_record *r = take_record(fd, (u32)p->pid);
	if (!r)
		return;
	atomic_store(&r->word, PEER_CLOSED);
	atomic_store(&r->closing, 0);
	write_exe(r, p->exe_path);
	atomic_store(&r->dumpable, p->dumpable);
	u64 now = peer_clock();
	if (!first_ns) {
		first_ns = now;
		first_tsc = rdtsc();
	}
	p->peer = r;
	peer_tell_status(p);
	atomic_store(&r->since, now);
}

void peer_open(struct proc *p)
{
	u64 closed = PEER_CLOSED;
	if (!p->peer)
		return;
	atomic_store(&p->peer->closing, 0);
	atomic_compare_exchange_strong(&p->peer->word, &closed, PEER_OPEN);
}

void peer_close(struct proc *p)
{
	struct timespec_k ms = {0, MS};
	if (!p->peer)
		return;
	atomic_store(&p->peer->closing, 1);
	for (int i = 0; i < 200; i++) {
		u64 open = PEER_OPEN;
		if (atomic_compare_exchange_strong(&p->peer->word, &open, PEER_CLOSED) || (u32)open == PEER_CLOSED)
			return;
		host_call(__NR_nanosleep, &ms, 0);
	}
	/* Who asks is dead or stopped; it looks at the word before it sends the signal. */
	atomic_store(&p->peer->word, PEER_CLOSED);
}

void peer_gone(struct proc *p)
{
	if (p->peer && p->peer->pid == (u32)p->pid)
		atomic_store(&p->peer->pid, 0);
}

struct peer_status peer_own_status(const struct proc *p)
{
	static const u8 faults[] = {SIGSEGV, SIGBUS};
	struct peer_status s = {.threads = p->nthreads, .no_new_privs = (u8)p->no_new_privs, .nofile = {p->nofile[0], p->nofile[1]}, .stack = p->stack_limit};
	u32 mode;
	s.filters = seccomp_count(p, &mode);
	s.seccomp = (u8)mode;
	for (u32 i = 0; i < ARRAY_LEN(faults); i++) {
		u64 handler = p->sig->action[faults[i]].handler;
		s.caught |= (u8)((handler > SIG_IGN) << i);
		s.ignored |= (u8)((handler == SIG_IGN) << i);
	}
	return s;
}

void peer_tell_status(struct proc *p)
{
	if (p->peer)
		p->peer->status = peer_own_status(p);
}

void peer_set_dumpable(struct proc *p, bool dumpable)
{
	p->dumpable = dumpable;
	if (p->peer)
		atomic_store(&p->peer->dumpable, dumpable);
}

/* --- answers: in the signal handler ---------------------------------------------------------------------------------------------- */

static long answer_link(const struct proc *p, const char *name, struct peer_record *r)
{
	if (host_call(__NR_newfstatat, p->proc_fd, name, &r->st, 0))
		return -ENOENT;
	return host_call(__NR_readlinkat, p->proc_fd, name, r->answer, PEER_ROOM);
}

static long answer_file(const struct proc *p, const char *name, struct peer_record *r)
{
	long fd = host_call(__NR_openat, p->proc_fd, name, O_CLOEXEC, 0);
	if (fd < 0)
		return fd;
	long n = host_call(__NR_pread64, fd, r->answer, PEER_ROOM, 0);
	host_call(__NR_close, fd);
	return n;
}

/* Held, so that the number means the same file all the time: see fd.c. */
static long answer_descriptor(struct proc *p, i32 number, bool info, struct peer_record *r)
{
	char name[32];
	if (!fd_hold_in_handler(p, number))
		return -ENOENT;
	format(name, sizeof name, info ? "self/fdinfo/%d" : "self/fd/%d", number);
	long n = info ? answer_file(p, name, r) : answer_link(p, name, r);
	bool still = fd_published(p, number);
	fd_drop_in_handler(p, number);
	return still ? n : -ENOENT;
}

static long answer_numbers(struct proc *p, struct peer_record *r)
{
	memset(r->answer, 0, PEER_ROOM);
	u32 n = fd_map_size(p);
	n = n < PEER_ROOM * 8 ? n : PEER_ROOM * 8;
	for (u32 fd = 0; fd < n; fd++)
		if (fd_published(p, (int)fd))
			r->answer[fd / 8] = (char)((u8)r->answer[fd / 8] | 1u << fd % 8);
	return n / 8;
}

static long answer_threads(const struct proc *p, struct peer_record *r)
{
	u32 n = 0;
	for (u32 i = 0; i < VCPU_MAX && threads.entry[i] && n < PEER_ROOM / 4; i++) {
		const struct thread *t = threads.entry[i];
		if (t->state != THREAD_FREE && t->proc == p && t->tid)
			memcpy(r->answer + 4 * n++, &t->tid, 4);
	}
	return 4 * n;
}

static long answer_environ(const struct proc *p, u64 offset, struct peer_record *r)
{
	u64 n = offset < p->environ_len ? p->environ_len - offset : 0;
	n = n < PEER_ROOM ? n : PEER_ROOM;
	memcpy(r->answer, p->environ + offset, n);
	return (long)n;
}

/* -EAGAIN: the interrupted code is changing the address space. Who asks comes again. */
static long answer_maps(struct proc *p, u64 offset, struct peer_record *r)
{
	u64 cap = 256 << 10, n;
	char *text = host_alloc(cap);
	if (!text)
		return -ENOMEM;
	if (!lock_try(&p->mm->lock)) {
		host_free(text, cap);
		return -EAGAIN;
	}
	n = mm_format_maps_locked(p, text, cap);
	if (n > cap) {
		host_free(text, cap);
		cap = n;
		text = host_alloc(cap);
		n = text ? mm_format_maps_locked(p, text, cap) : 0;
	}
	lock_release(&p->mm->lock);
	n = n < cap ? n : cap;
	n = offset < n ? n - offset : 0;
	n = n < PEER_ROOM ? n : PEER_ROOM;
	memcpy(r->answer, text + offset, n);
	host_free(text, cap);
	return (long)n;
}

static long answer(struct proc *p, struct peer_record *r)
{
	switch (r->kind) {
	case PEER_FD:
		return answer_descriptor(p, r->number, false, r);
	case PEER_CWD:
		return answer_link(p, "self/cwd", r);
	case PEER_ROOT:
		return answer_link(p, "self/root", r);
	case PEER_FDS:
		return answer_numbers(p, r);
	case PEER_TASKS:
		return answer_threads(p, r);
	case PEER_FDINFO:
		return answer_descriptor(p, r->number, true, r);
	case PEER_ENVIRON:
		return answer_environ(p, (u64)(u32)r->number * PEER_ROOM, r);
	case PEER_AUXV:
		memcpy(r->answer, p->auxv, p->auxv_len);
		return p->auxv_len;
	case PEER_MAPS:
		return answer_maps(p, (u64)(u32)r->number * PEER_ROOM, r);
	default:
		return -EINVAL;
	}
}

bool peer_signal(struct thread *t, const struct siginfo_k *info)
{
	u64 value;
	memcpy(&value, info->room + 8, sizeof value); /* si_value, behind pid and uid */
	if (info->code != PEER_CODE || value != PEER_VALUE)
		return false;
	struct proc *p = t->proc;
	struct peer_record *r = p->peer;
	t->asked++;
	/* A child that has just been forked still has its parent's record. */
	if (!r || r->pid != (u32)host_call(__NR_getpid))
		return true;
	u64 word = r->word;
	if ((u32)word != PEER_ASKED || !atomic_compare_exchange_strong(&r->word, &word, (word & ~0xfffffffful) | PEER_ANSWERING))
		return true; /* who asked has given up */
	r->result = (i32)answer(p, r);
	word = (word & ~0xfffffffful) | PEER_ANSWERING;
	atomic_compare_exchange_strong(&r->word, &word, (word & ~0xfffffffful) | PEER_ANSWERED);
	host_call(__NR_futex, &r->word, FUTEX_WAKE, 1, 0, 0, 0);
	return true;
}

/* --- calls that a question interrupted ------------------------------------------------------------------------------------------- */

static u64 elapsed_ns(u64 since)
{
	u64 tsc = rdtsc(), us = (peer_clock() - first_ns) / 1000, per_us = us ? (tsc - first_tsc) / us : 0;
	return per_us ? (tsc - since) / per_us * 1000 : 0;
}

/* Where a call has the time it waits at most, relative to now: argument number + 1. Absolute times, and those that the kernel itself
 * makes shorter (select, ppoll), need nothing. */
static u32 timeout_ms(long nr)
{
	return nr == __NR_poll ? 3 : nr == __NR_epoll_wait || nr == __NR_epoll_pwait ? 4 : 0;
}

static u32 timeout_spec(long nr, const u64 arg[6])
{
	switch (nr) {
	case __NR_nanosleep:
		return 1;
	case __NR_clock_nanosleep:
		return arg[1] & 1 ? 0 : 3; /* TIMER_ABSTIME */
	case __NR_rt_sigtimedwait:
		return 3;
	case __NR_futex:
		return (arg[1] & 127) == 0 ? 4 : 0; /* FUTEX_WAIT */
	case __NR_semtimedop:
	case __NR_epoll_pwait2:
		return 4;
	default:
		return 0;
	}
}

static void take_off(u64 spec[2], u64 ns)
{
	i64 sec = (i64)spec[0] - (i64)(ns / 1000000000), nsec = (i64)spec[1] - (i64)(ns % 1000000000);
	if (nsec < 0) {
		nsec += 1000000000;
		sec--;
	}
	spec[0] = sec < 0 ? 0 : (u64)sec;
	spec[1] = sec < 0 ? 0 : (u64)nsec;
}

void peer_time_left(u64 started, const u64 spec[2], u64 left[2])
{
	memcpy(left, spec, 16);
	if (spec[1] < 1000000000) /* else the kernel says what it thinks of it */
		take_off(left, elapsed_ns(started));
}

static void shorten(long nr, const u64 first[6], u64 arg[6], u64 room[2], u64 ns)
{
	u32 at = timeout_ms(nr);
	struct timespec_k ts;
	if (at) {
		i32 left = (i32)first[at - 1];
		if (left > 0)
			arg[at - 1] = (u64)left > ns / MS ? (u64)left - ns / MS : 0;
		return;
	}
	at = timeout_spec(nr, arg);
	if (!at || !first[at - 1])
		return;
	if (first[at - 1] >= PSB_GUEST_LIMIT) /* a copy of ours */
		memcpy(&ts, (const void *)first[at - 1], sizeof ts);
	else if (copy_from_guest(&ts, gptr_of(first[at - 1]), sizeof ts))
		return;
	memcpy(room, &ts, sizeof ts);
	take_off(room, ns);
	arg[at - 1] = (u64)room;
}

/* Of what a program writes at once nothing may be left out because somebody asked. */
static void write_rest(struct thread *t, u32 asked, long nr, u64 arg[6], long *done)
{
	long n = *done;
	while (n > 0 && (u64)n < arg[2] && t->asked != asked && !t->sig_pending) {
		arg[1] += (u64)n;
		arg[2] -= (u64)n;
		asked = t->asked;
		n = signal_call(&t->sig_pending, nr, arg);
		*done += n > 0 ? n : 0;
	}
}

/* Calls whose EINTR has no other cause than a signal. It can be one for which the kernel woke this thread and which another one took: then
 * nothing has happened to this thread. */
static bool only_signals_end(long nr)
{
	switch (nr) {
	case __NR_poll:
	case __NR_ppoll:
	case __NR_select:
	case __NR_pselect6:
	case __NR_epoll_wait:
	case __NR_epoll_pwait:
	case __NR_epoll_pwait2:
	case __NR_pause:
	case __NR_rt_sigsuspend:
	case __NR_rt_sigtimedwait:
	case __NR_nanosleep:
	case __NR_clock_nanosleep:
	case __NR_futex:
	case __NR_semop:
	case __NR_semtimedop:
	case __NR_msgsnd:
	case __NR_msgrcv:
		return true;
	default:
		return false;
	}
}

bool peer_again(struct thread *t, u32 asked, u64 started, long nr, const u64 first[6], u64 arg[6], u64 room[2], long *r)
{
	if (t->sig_pending)
		return false;
	if (nr == __NR_write || nr == __NR_sendto)
		write_rest(t, asked, nr, arg, r);
	if (*r != -EINTR || (t->asked == asked && !only_signals_end(nr)))
		return false;
	shorten(nr, first, arg, room, elapsed_ns(started));
	return true;
}
