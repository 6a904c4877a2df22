/* Files of procfs whose content is made here, because the kernel's would show the monitor. */
#include "procfs.h"
#include "peer.h"
#include "linux_abi.h"
#include "mm.h"
#include "seccomp.h"
#include "signal.h"
#include "syscalls/handlers.h"

long make_maps(struct thread *t, int fd, char *buf, u64 cap)
{
	(void)fd;
	return (long)mm_format_maps(t->proc, buf, cap);
}

long make_auxv(struct thread *t, int fd, char *buf, u64 cap)
{
	(void)fd;
	u64 n = t->proc->auxv_len;
	if (n > sizeof t->proc->auxv || n > cap)
		return -EIO;
	memcpy(buf, t->proc->auxv, n);
	return (long)n;
}

long make_environ(struct thread *t, int fd, char *buf, u64 cap)
{
	(void)fd;
	const struct proc *p = t->proc;
	if (p->environ_len <= cap)
		memcpy(buf, p->environ, p->environ_len);
	return (long)p->environ_len;
}

static u64 number_at(const char *s)
{
	u64 v = 0;
	for (; *s >= '0' && *s <= '9'; s++)
		v = v * 10 + (u64)(*s - '0');
	return v;
}

#define NUM_THREADS 20

/* stat: the addresses of the monitor's text, stack and registers become 0, as for somebody without ptrace rights. */
long make_stat(struct thread *t, int fd, char *buf, u64 cap)
{
	enum { VSIZE = 23 };
	static const u8 hidden[] = {26, 27, 28, 29, 30, 35, 45, 46, 47, 48, 49, 50, 51};
	char text[2048];
	long n = host_call(__NR_read, fd, text, sizeof text - 1);
	if (n <= 0 || (u64)n * 2 > cap)
		return n < 0 ? n : -EIO;
	text[n] = 0;
	const char *s = strrchr(text, ')'); /* the name may hold anything, but it ends at the last parenthesis */
	if (!s)
		return -EIO;
	u64 out = (u64)(s + 1 - text);
	memcpy(buf, text, out);
	u32 pid = (u32)number_at(text), nthreads = pid == (u32)t->proc->pid ? t->proc->nthreads : peer_status(t->proc, pid).threads;
	u32 field = 2;
	for (s++; *s == ' ';) {
		const char *end = s + 1;
		while (*end && *end != ' ' && *end != '\n')
			end++;
		field++;
		bool hide = false;
		for (u32 i = 0; i < sizeof hidden; i++)
			hide |= hidden[i] == field;
		buf[out++] = ' ';
		if (hide) {
			buf[out++] = '0';
		} else if (nthreads && field == NUM_THREADS) {
			out += (u64)format(buf + out, 16, "%u", nthreads);
		} else if (field == VSIZE && number_at(s + 1)) {
			out += (u64)format(buf + out, 24, "%lu", procfs_vsize(t, pid == (u32)t->proc->pid, number_at(s + 1)));
		} else {
			memcpy(buf + out, s + 1, (u64)(end - s - 1));
			out += (u64)(end - s - 1);
		}
		s = end;
	}
	buf[out++] = '\n';
	return (long)out;
}

/* Text padded to `width` columns. */
static u64 column(char *buf, u64 out, const char *text, u64 width)
{
	u64 n = strlen(text);
	memcpy(buf + out, text, n);
	while (n < width)
		buf[out + n++] = ' ';
	return out + n;
}

static u64 limit_column(char *buf, u64 out, u64 value)
{
	char text[24];
	format(text, sizeof text, value == ~0ul ? "unlimited" : "%lu", value);
	return column(buf, out, text, 21);
}

/* Of the process whose file in procfs this is; nothing known: no threads. */
static struct peer_status status_behind(struct thread *t, int fd)
{
	char path[512];
	struct proc_name n;
	if (procfs_canonical(t->proc, fd, path, sizeof path) < 0 || !procfs_parse(t->proc, path, &n) || !n.per_process)
		return (struct peer_status){0};
	return n.own ? peer_own_status(t->proc) : peer_status(t->proc, n.pid);
}

/* limits: the two that monitors keep themselves have the program's values (see limits.c). */
long make_limits(struct thread *t, int fd, char *buf, u64 cap)
{
	struct peer_status s = status_behind(t, fd);
	char text[4096];
	u64 out = 0;
	long n = host_call(__NR_read, fd, text, sizeof text - 1);
	if (n <= 0 || (u64)n * 2 > cap)
		return n < 0 ? n : -EIO;
	text[n] = 0;
	for (const char *line = text; *line;) {
		const char *end = strchr(line, '\n');
		u64 len = end ? (u64)(end + 1 - line) : strlen(line);
		bool files = !strncmp(line, "Max open files", 14), stack = !strncmp(line, "Max stack size", 14);
		if (s.threads && (files || stack) && len >= 26 + 21 + 21) {
			memcpy(buf + out, line, 26);
			out = limit_column(buf, out + 26, files ? s.nofile[0] : s.stack);
			if (files) /* of the stack the hard limit is the kernel's */
				limit_column((char *)text, (u64)(line + 26 + 21 - text), s.nofile[1]);
			memcpy(buf + out, line + 26 + 21, len - 26 - 21);
			out += len - 26 - 21;
		} else {
			memcpy(buf + out, line, len);
			out += len;
		}
		line += len;
	}
	return (long)out;
}

/* The value behind a key of `status`, which starts its line and ends in a tab; NULL if the kernel does not know the key. */
char *status_value(char *buf, const char *key)
{
	u64 n = strlen(key);
	for (char *line = buf; (line = strchr(line, '\n')); line++)
		if (!strncmp(line + 1, key, n))
			return line + 1 + n;
	return NULL;
}

/* Puts `text` in the place of a value, in a text of `n` bytes with room for it: the new length. */
u64 status_set(char *buf, u64 n, const char *key, const char *text)
{
	char *value = status_value(buf, key), *end = value ? strchr(value, '\n') : NULL;
	if (!end)
		return n;
	u64 len = strlen(text), old = (u64)(end - value);
	memmove(value + len, end, n - (u64)(end - buf) + 1);
	memcpy(value, text, len);
	return n - old + len;
}

/* Two faults are always caught by the monitor; the other bits of the masks are the program's own. */
static void show_fault(char *mask, int signo, bool set)
{
	u32 bit = (u32)signo - 1;
	char *digit = mask + 15 - bit / 4;
	u32 value = *digit >= 'a' ? (u32)(*digit - 'a' + 10) : (u32)(*digit - '0');
	value = (value & ~(1u << bit % 4)) | (u32)set << bit % 4;
	*digit = "0123456789abcdef"[value & 15];
}

static void show_faults(const struct peer_status *s, char *buf)
{
	static const int faults[] = {SIGSEGV, SIGBUS};
	char *caught = status_value(buf, "SigCgt:\t"), *ignored = status_value(buf, "SigIgn:\t");
	for (u32 i = 0; caught && ignored && i < ARRAY_LEN(faults); i++) {
		show_fault(caught, faults[i], s->caught >> i & 1);
		show_fault(ignored, faults[i], s->ignored >> i & 1);
	}
}

/* Not at a moment when the process' monitor is in its signal handler, with a mask that is not the program's. */
static long read_status(int fd, char *buf, u64 cap)
{
	static const char handler[] = "fffffffffffbfeff"; /* all that can be blocked */
	struct timespec_k ms = {0, 1000000};
	for (int i = 0;; i++) {
		long n = host_call(__NR_pread64, fd, buf, cap, 0);
		if (n <= 0 || (u64)n == cap)
			return n < 0 ? n : -EIO;
		buf[n] = 0;
		const char *mask = status_value(buf, "SigBlk:\t");
		if (!mask || strncmp(mask, handler, sizeof handler - 1) || i == 5)
			return n;
		host_call(__NR_nanosleep, &ms, 0);
	}
}

/* status: what the monitor is and does for itself is not shown: its threads, handlers, no_new_privs and seccomp filter. */
long make_status(struct thread *t, int fd, char *buf, u64 cap)
{
	enum { ROOM = 96 }; /* more than values can grow by */
	const struct proc *p = t->proc;
	const struct psb_policy *policy = p->policy;
	long n = read_status(fd, buf, cap - ROOM);
	if (n < 0)
		return n;
	const char *tgid = status_value(buf, "Tgid:\t");
	u32 pid = tgid ? (u32)number_at(tgid) : 0;
	struct peer_status s = pid == (u32)p->pid ? peer_own_status(p) : peer_status(t->proc, pid);
	if (!s.threads) /* no process of ours, or one that is just being forked */
		return n;
	char threads[24];
	format(threads, sizeof threads, "%u", s.threads);
	bool filtered = policy_filters(policy);
	char mode[4], filters[24];
	format(mode, sizeof mode, "%u", s.seccomp ? s.seccomp : filtered ? SECCOMP_MODE_FILTER : 0u);
	format(filters, sizeof filters, "%u", s.filters + filtered);
	u64 len = status_set(buf, (u64)n, "NoNewPrivs:\t", s.no_new_privs ? "1" : "0");
	len = status_set(buf, len, "Threads:\t", threads);
	len = status_set(buf, len, "Seccomp:\t", mode);
	len = status_set(buf, len, "Seccomp_filters:\t", filters);
	show_faults(&s, buf);
	return (long)procfs_show_sizes(t, pid == (u32)p->pid, buf, len);
}

#define MADE_MAX (16ul << 20)
#define MEMFD_NAME 249 /* bytes */
#define RLIMIT_FSIZE 1

/* A descriptor to read the text from: of a memfd, or of a pipe where RLIMIT_FSIZE does not let us fill a file. */
static long text_descriptor(const char *name, const char *buf, u64 n)
{
	u64 limit[2] = {0, 0};
	int pair[2];
	long r = host_call(__NR_prlimit64, 0, RLIMIT_FSIZE, 0, limit);
	if (!r && n <= limit[0]) {
		r = host_call(__NR_memfd_create, name, 1);
		pair[0] = pair[1] = (int)r;
	} else {
		r = host_call(__NR_pipe2, pair, O_CLOEXEC | O_NONBLOCK);
		if (!r)
			host_call(__NR_fcntl, pair[1], F_SETPIPE_SZ, n);
	}
	if (r < 0)
		return r;
	if (host_call(__NR_write, pair[1], buf, n) != (long)n) {
		close_fd(pair[0]);
		r = -ENOSPC;
	}
	if (pair[1] != pair[0])
		close_fd(pair[1]);
	return r < 0 ? r : pair[0];
}

/* A read-only file with the text, under the number of `fd`. */
long procfs_text_file(struct thread *t, int fd, const char *name, const char *buf, u64 n)
{
	long flags = host_call(__NR_fcntl, fd, F_GETFD), mem = text_descriptor(name, buf, n);
	if (mem < 0)
		return mem;
	char link[32];
	fd_link(link, (int)mem);
	long r = host_call(__NR_openat, t->proc->proc_fd, link, O_CLOEXEC, 0);
	close_fd(mem);
	if (r < 0)
		return r;
	/* the number the guest expects: the one it was opened under */
	long d = host_call(__NR_dup3, r, fd, flags > 0 && (u64)flags & FD_CLOEXEC ? O_CLOEXEC : 0);
	close_fd(r);
	return d;
}

/* Its length, and *buf of *cap bytes, to be freed; or -errno. */
static long make_text(struct thread *t, int fd, procfs_maker make, char **buf, u64 *cap)
{
	*cap = make == make_maps || make == make_smaps ? 64 << 10 : 8 << 10;
	for (;;) {
		*buf = host_alloc(*cap);
		if (!*buf)
			return -ENOMEM;
		long n = make(t, fd, *buf, *cap);
		if (n < 0 || (u64)n <= *cap)
			return n;
		host_free(*buf, *cap);
		*buf = NULL;
		if ((u64)n > MADE_MAX)
			return -EFBIG;
		*cap = ROUND_UP((u64)n + PAGE, PAGE);
	}
}

/* The file has its name, by which procfs_made_of() knows what it was made of. */
long procfs_made_file(struct thread *t, int fd, const char *path, procfs_maker make)
{
	char *buf;
	u64 cap;
	long n = make_text(t, fd, make, &buf, &cap);
	if (n >= 0)
		n = procfs_text_file(t, fd, strlen(path) > MEMFD_NAME ? "" : path, buf, (u64)n);
	host_free(buf, cap);
	return n;
}

#define MEMFD_PREFIX "/memfd:"

bool procfs_made_of(struct proc *p, int fd, char *buf, u64 cap)
{
	char link[32];
	fd_link(link, fd);
	long n = host_call(__NR_readlinkat, p->proc_fd, link, buf, cap - 1);
	u64 before = sizeof MEMFD_PREFIX - 1;
	if (n < 0)
		return false;
	buf[n] = 0;
	char *end = strrchr(buf, ' '); /* " (deleted)" */
	if (!end || strncmp(buf, MEMFD_PREFIX "/proc/", before + 6))
		return false;
	*end = 0;
	memmove(buf, buf + before, strlen(buf + before) + 1);
	return true;
}

/* Whoever reads it in between meets a mixture of the old and the new text: as who reads the kernel's in pieces. */
long procfs_make_again(struct thread *t, int fd, int src, procfs_maker make)
{
	char link[32], *buf;
	u64 cap, limit[2] = {0, 0};
	long n = make_text(t, src, make, &buf, &cap);
	fd_link(link, fd);
	long to = n < 0 ? n : host_call(__NR_openat, t->proc->proc_fd, link, O_WRONLY | O_CLOEXEC, 0);
	if (to >= 0) {
		if (!host_call(__NR_prlimit64, 0, RLIMIT_FSIZE, 0, limit) && (u64)n <= limit[0]) {
			host_call(__NR_pwrite64, to, buf, n, 0);
			host_call(__NR_ftruncate, to, n);
		}
		close_fd(to);
	}
	host_free(buf, cap);
	return n < 0 ? n : 0;
}
