/* Asking: the kernel's rule for who may look at whom, and the question itself. */
#include "peer.h"
#include "proc.h"
#include "signal.h"
#include "vault.h"

#define CAP_SYS_PTRACE 19
#define FUTEX_WAIT 0
#define MS 1000000ul
#define PATIENCE 1000u     /* ms */
#define ONE_THREAD 30u     /* ms, before others are asked */
#define PATIENCE_DEAF 300u /* for one that waits where no signal is taken, as a parent in vfork does */
#define TICK 10000000ul    /* ns, of the times in stat */
#define YOUNG (200 * MS)

/* --- what the kernel tells everybody --------------------------------------------------------------------------------------------- */

static long read_proc(const struct proc *p, const char *who, const char *file, char *buf, u64 cap)
{
	char name[48];
	format(name, sizeof name, "%s/%s", who, file);
	long fd = host_call(__NR_openat, p->proc_fd, name, O_CLOEXEC, 0);
	if (fd < 0)
		return fd;
	long n = host_call(__NR_read, fd, buf, cap - 1);
	host_call(__NR_close, fd);
	buf[n > 0 ? n : 0] = 0;
	return n;
}

struct rights {
	u32 uid[4], gid[4]; /* real, effective, saved, of file accesses */
	u64 permitted, effective;
};

static u64 number_in(const char **s, u32 base)
{
	u64 v = 0;
	while (**s == ' ' || **s == '\t')
		(*s)++;
	for (;; (*s)++) {
		char c = **s;
		u32 digit = c >= '0' && c <= '9' ? (u32)(c - '0') : c >= 'a' && c <= 'f' ? (u32)(c - 'a' + 10) : 99;
		if (digit >= base)
			return v;
		v = v * base + digit;
	}
}

static bool line_of(const char *text, const char *key, const char **value)
{
	u64 n = strlen(key);
	for (const char *s = text; s; s = strchr(s, '\n')) {
		s += *s == '\n';
		if (!strncmp(s, key, n)) {
			*value = s + n;
			return true;
		}
		if (!*s)
			break;
	}
	return false;
}

static bool read_rights(const struct proc *p, const char *who, struct rights *c)
{
	char text[4096];
	const char *s;
	if (read_proc(p, who, "status", text, sizeof text) <= 0 || !line_of(text, "Uid:", &s))
		return false;
	for (int i = 0; i < 4; i++)
		c->uid[i] = (u32)number_in(&s, 10);
	if (!line_of(text, "Gid:", &s))
		return false;
	for (int i = 0; i < 4; i++)
		c->gid[i] = (u32)number_in(&s, 10);
	if (!line_of(text, "CapPrm:", &s))
		return false;
	c->permitted = number_in(&s, 16);
	if (!line_of(text, "CapEff:", &s))
		return false;
	c->effective = number_in(&s, 16);
	return true;
}

/* The kernel's __ptrace_may_access(PTRACE_MODE_READ_FSCREDS) with the commoncap rule. All processes of a container are in one user namespace:
 * a program cannot make another one. */
static bool may_look(const struct proc *p, u32 pid, bool dumpable)
{
	struct rights own, other;
	char who[16];
	format(who, sizeof who, "%u", pid);
	if (!read_rights(p, "thread-self", &own) || !read_rights(p, who, &other))
		return false;
	if (own.effective >> CAP_SYS_PTRACE & 1)
		return true;
	for (int i = 0; i < 3; i++)
		if (other.uid[i] != own.uid[3] || other.gid[i] != own.gid[3])
			return false;
	return dumpable && !(other.permitted & ~own.effective);
}

/* Field 3 (state) and 22 (start, in ticks since boot). */
static bool read_life(const struct proc *p, u32 pid, char *state, u64 *start)
{
	char who[16], text[2048];
	format(who, sizeof who, "%u", pid);
	if (read_proc(p, who, "stat", text, sizeof text) <= 0)
		return false;
	const char *s = strrchr(text, ')');
	if (!s || s[1] != ' ')
		return false;
	*state = s[2];
	s += 1;
	for (int field = 3; field < 22 && s; field++)
		s = strchr(s + 1, ' ');
	if (!s)
		return false;
	*start = number_in(&s, 10);
	return true;
}

/* The process does not answer, or may not be asked. It may have ended meanwhile. */
static long no_answer(const struct proc *p, u32 pid)
{
	char state;
	u64 start;
	return read_life(p, pid, &state, &start) && state != 'Z' && state != 'X' ? -EACCES : -ENOENT;
}

/* --- the question ----------------------------------------------------------------------------------------------------------------- */

static struct peer_record *find_record(u32 pid)
{
	for (u32 i = 0; pid && i < PEER_PROBES; i++) {
		struct peer_record *r = peer_place(pid, i);
		if (!r)
			return NULL;
		if (r->pid == pid)
			return r;
	}
	return NULL;
}

/* The record of a process that the caller may look at: 0, -ENOENT for one that has ended, -EACCES. One that is just being forked has none
 * yet, one that is about to end none any more. */
static long record_for(const struct proc *p, u32 pid, char *state, struct peer_record **record)
{
	struct timespec_k ms = {0, MS};
	for (int looks = 0;; looks++) {
		u64 start;
		struct peer_record *r = find_record(pid);
		if (!read_life(p, pid, state, &start) || *state == 'Z' || *state == 'X')
			return -ENOENT;
		if (r && start * TICK <= r->since && r->pid == pid) {
			*record = r;
			return may_look(p, pid, r->dumpable) ? 0 : no_answer(p, pid);
		}
		if (looks >= 5 && peer_clock() - start * TICK > YOUNG)
			return -EACCES;
		host_call(__NR_nanosleep, &ms, 0);
	}
}

static u64 word_of(const struct proc *p, u32 state)
{
	return (u64)(u32)p->pid << 32 | state;
}

/* One asker at a time. One that was killed meanwhile keeps nobody out. */
static bool begin(const struct proc *p, struct peer_record *r)
{
	struct timespec_k ms = {0, MS};
	for (u32 i = 0; i < PATIENCE; i++) {
		u64 word = PEER_OPEN;
		if (!r->closing && atomic_compare_exchange_strong(&r->word, &word, word_of(p, PEER_ASKING)))
			return true;
		if ((u32)word > PEER_OPEN && host_call(__NR_kill, word >> 32, 0) == -ESRCH)
			atomic_compare_exchange_strong(&r->word, &word, PEER_OPEN);
		else
			host_call(__NR_nanosleep, &ms, 0);
	}
	return false;
}

/* Tells and waits. True: the answer is there, and the record ours until end(). */
static bool wait_for_answer(const struct proc *p, struct peer_record *r, u32 pid, u32 patience)
{
	struct siginfo_k info = {.signo = PEER_SIGNAL, .code = PEER_CODE, .from = {.pid = p->pid}};
	u64 value = PEER_VALUE, word = word_of(p, PEER_ASKING), asked = word_of(p, PEER_ASKED);
	memcpy(info.room + 8, &value, sizeof value);
	if (!atomic_compare_exchange_strong(&r->word, &word, asked))
		return false;
	/* To one thread, the first: a signal to all wakes one and may be taken by another, and the call of the former would end for nothing.
	 * Where the first thread does not answer, having ended or waiting for a vfork child, any shall. */
	long sent = r->word == asked ? host_call(__NR_rt_tgsigqueueinfo, pid, pid, PEER_SIGNAL, &info) : -ESRCH;
	for (u32 i = 0; !sent && i < patience; i++) {
		struct timespec_k ms = {0, MS};
		if (i == ONE_THREAD && r->word == asked)
			sent = host_call(__NR_rt_sigqueueinfo, pid, PEER_SIGNAL, &info);
		word = r->word;
		if (word == word_of(p, PEER_ANSWERED))
			return true;
		if (word != asked && word != word_of(p, PEER_ANSWERING))
			return false;
		host_call(__NR_futex, &r->word, FUTEX_WAIT, (u32)word, &ms, 0, 0);
	}
	word = asked;
	if (!atomic_compare_exchange_strong(&r->word, &word, PEER_OPEN) && word == word_of(p, PEER_ANSWERED))
		return true;
	if (word == word_of(p, PEER_ANSWERING)) /* in the middle of it: dead or stopped */
		atomic_compare_exchange_strong(&r->word, &word, PEER_OPEN);
	return false;
}

static long take_answer(struct proc *p, struct peer_record *r, struct peer_answer *a)
{
	i32 n = r->result;
	if (n >= 0) {
		a->len = (u32)n < PEER_ROOM ? (u32)n : PEER_ROOM;
		memcpy(&a->st, &r->st, sizeof a->st);
		memcpy(a->text, r->answer, a->len);
		a->text[a->len] = 0;
	}
	u64 word = word_of(p, PEER_ANSWERED);
	atomic_compare_exchange_strong(&r->word, &word, PEER_OPEN);
	return n < 0 ? n >= -4095 ? n : -EIO : 0;
}

static long reserve_answer(const struct proc *p, const struct peer_record *r)
{
	struct vault v;
	long n = vault_open(p->vault_fd, &v);
	if (n)
		return n;
	n = v.fd[PSB_FD_CTL] < 0 ? -EBADF : peer_reserve(v.fd[PSB_FD_CTL], r, true);
	vault_close(&v, 0);
	return n;
}

long peer_ask(struct thread *t, u32 pid, enum peer_question kind, i32 number, struct peer_answer *a)
{
	struct proc *p = t->proc;
	char state;
	struct peer_record *r;
	long n = record_for(p, pid, &state, &r);
	if (n)
		return n;
	if ((state != 'R' && state != 'S' && state != 'D') || reserve_answer(p, r) || !begin(p, r))
		return no_answer(p, pid);
	r->kind = kind;
	r->number = number;
	return wait_for_answer(p, r, pid, state == 'D' ? PATIENCE_DEAF : PATIENCE) ? take_answer(p, r, a) : no_answer(p, pid);
}

long peer_exe(struct thread *t, u32 pid, char *buf, u64 cap)
{
	char state;
	struct peer_record *r;
	long found = record_for(t->proc, pid, &state, &r);
	if (found)
		return found;
	for (u32 i = 0; i < 100; i++) {
		struct timespec_k ms = {0, MS};
		u32 turn = r->exe_turn;
		u64 n = strnlen(r->exe, sizeof r->exe - 1);
		n = n < cap ? n : cap;
		memcpy(buf, r->exe, n);
		atomic_thread_fence(memory_order_acquire);
		if (!(turn & 1) && turn == r->exe_turn)
			return n ? (long)n : -EACCES;
		host_call(__NR_nanosleep, &ms, 0);
	}
	return -EACCES;
}

struct peer_status peer_status(struct proc *p, u32 pid)
{
	char state;
	u64 start;
	struct peer_record *r = find_record(pid);
	if (r && read_life(p, pid, &state, &start) && start * TICK <= r->since && r->pid == pid)
		return r->status;
	return (struct peer_status){0};
}
