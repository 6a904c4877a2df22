/* Descriptors and threads in procfs: of the program only what is its own, of other processes what their monitors say (peer.h).
 *
 * A magic link of another process is never followed by the kernel for the program. Its text and metadata are what that monitor tells;
 * whoever opens through it gets what the text leads to, if that is the same file, with the rights he has to it. */
#include "procfs.h"
#include "peer.h"
#include "proc.h"
#include "syscalls/handlers.h"

#define ENVIRON_MAX (2ul << 20)

struct dirent_head {
	u64 ino, off;
	u16 reclen;
} __attribute__((packed));

static bool own_number(const struct proc *p, u32 k, bool tasks)
{
	return tasks ? proc_has_thread(p, (int)k) : fd_published((struct proc *)p, (int)k);
}

static bool peer_number(const struct peer_answer *a, u32 k, bool tasks)
{
	if (!tasks)
		return k / 8 < a->len && (u8)a->text[k / 8] >> k % 8 & 1;
	for (u32 i = 0; i + 4 <= a->len; i += 4)
		if (!memcmp(a->text + i, &k, 4))
			return true;
	return false;
}

/* Directories of descriptors and threads: drop numbers that are the monitor's. */
long procfs_filter_dirents(struct thread *t, int fd, u8 *buf, long len, bool old_layout)
{
	char path[512];
	struct proc_name n;
	struct peer_answer a;
	if (procfs_canonical(t->proc, fd, path, sizeof path) < 0 || !procfs_parse(t->proc, path, &n) || !n.per_process)
		return len;
	bool tasks = !strcmp(n.rest, "task");
	if (!tasks && strcmp(n.rest, "fd") && strcmp(n.rest, "fdinfo"))
		return len;
	if (!n.own && peer_ask(t, n.pid, tasks ? PEER_TASKS : PEER_FDS, 0, &a)) {
		if (tasks) /* no process of ours, or one that is about to end: the kernel's word */
			return len;
		a.len = 0;
	}
	long in = 0, out = 0;
	while (in + (long)sizeof(struct dirent_head) <= len) {
		struct dirent_head h;
		memcpy(&h, buf + in, sizeof h);
		if (h.reclen < sizeof h || in + h.reclen > len)
			break;
		const char *name = (const char *)buf + in + (old_layout ? 18 : 19);
		u32 k;
		if (!procfs_number(name, &k) || (n.own ? own_number(t->proc, k, tasks) : peer_number(&a, k, tasks))) {
			memmove(buf + out, buf + in, h.reclen);
			out += h.reclen;
		}
		in += h.reclen;
	}
	return out;
}

/* --- links ------------------------------------------------------------------------------------------------------------------ */

/* fd/N or fdinfo/N: the number. */
static bool numbered(const struct proc_name *n, const char *directory, i32 *k)
{
	u64 len = strlen(directory);
	u32 v;
	const char *end = strncmp(n->rest, directory, len) ? NULL : procfs_number(n->rest + len, &v);
	if (!end || *end)
		return false;
	*k = (i32)v;
	return true;
}

long peer_link(struct thread *t, const struct proc_name *n, struct peer_answer *a)
{
	i32 k;
	long r = -EACCES;
	if (!strcmp(n->rest, "exe")) {
		r = peer_exe(t, n->pid, a->text, PEER_ROOM);
		a->len = r > 0 ? (u32)r : 0;
		a->text[a->len] = 0;
		memset(&a->st, 0, sizeof a->st);
	} else if (!strcmp(n->rest, "cwd")) {
		r = peer_ask(t, n->pid, PEER_CWD, 0, a);
	} else if (!strcmp(n->rest, "root")) {
		r = peer_ask(t, n->pid, PEER_ROOT, 0, a);
	} else if (numbered(n, "fd/", &k)) {
		r = peer_ask(t, n->pid, PEER_FD, k, a);
	}
	return r == -EACCES ? refuse(t, r) : r < 0 ? r : 0;
}

static bool same_file(const struct stat_k *a, const struct stat_k *b)
{
	return a->dev == b->dev && a->ino == b->ino && (a->mode & S_IFMT) == (b->mode & S_IFMT);
}

long peer_open_link(struct thread *t, const struct peer_answer *a, u64 flags, bool last)
{
	struct stat_k st;
	struct open_how_k how = {O_PATH | O_CLOEXEC, 0, RESOLVE_NO_MAGICLINKS};
	long fd = *a->text == '/' ? host_call(__NR_openat2, AT_FDCWD, a->text, &how, sizeof how) : -ENOENT;
	if (fd >= 0 && (host_call(__NR_fstat, fd, &st) || !same_file(&st, &a->st))) {
		host_call(__NR_close, fd);
		fd = -ENOENT;
	}
	if (fd < 0) {
		if (last) {
			memcpy(t->peer_stat, &a->st, sizeof a->st);
			t->peer_stat_valid = true;
		}
		return refuse(t, -EACCES);
	}
	if (!last || flags & O_PATH)
		return fd;
	char link[32];
	fd_link(link, (int)fd);
	long r = host_call(__NR_openat, t->proc->proc_fd, link, flags & ~(u64)(O_NOFOLLOW | O_CREAT | O_EXCL), 0);
	host_call(__NR_close, fd);
	return r;
}

bool peer_found(struct thread *t, void *st)
{
	bool valid = t->peer_stat_valid;
	t->peer_stat_valid = false;
	if (valid)
		memcpy(st, t->peer_stat, sizeof t->peer_stat);
	return valid;
}

long peer_shows(struct thread *t, const struct proc_name *n)
{
	i32 k;
	struct peer_answer a;
	bool all = !strcmp(n->rest, "fd") || !strcmp(n->rest, "fdinfo");
	if (!all && !numbered(n, "fd/", &k) && !numbered(n, "fdinfo/", &k))
		return 0;
	long r = peer_ask(t, n->pid, all ? PEER_FDS : PEER_FD, all ? 0 : k, &a);
	if (all && r == -ENOENT) /* a process that has ended has none */
		return 0;
	return r == -EACCES ? refuse(t, r) : r;
}

/* --- files that the kernel keeps to the process --------------------------------------------------------------------------------- */

/* What comes in front of "environ" or "fdinfo/N" at the end of a path, made a string in `head`: the question, or 0. */
static enum peer_question split(const char *path, char *head, u64 cap, i32 *k)
{
	const char *last = strrchr(path, '/');
	u64 len = last ? (u64)(last + 1 - path) : 0;
	u32 v;
	enum peer_question kind = 0;
	if (!strcmp(path + len, "environ")) {
		kind = PEER_ENVIRON;
	} else if (!strcmp(path + len, "auxv")) {
		kind = PEER_AUXV;
	} else if (!strcmp(path + len, "maps")) {
		kind = PEER_MAPS;
	} else if (procfs_number(path + len, &v) && len >= 7 && !strncmp(path + len - 7, "fdinfo/", 7)) {
		*k = (i32)v;
		len -= 7;
		kind = len && path[len - 1] != '/' ? 0 : PEER_FDINFO;
	}
	if (!kind || len + 2 > cap)
		return 0;
	memcpy(head, path, len);
	memcpy(head + len, ".", 2);
	return kind;
}

static long ask_text(struct thread *t, u32 pid, enum peer_question kind, i32 k, char *buf, u64 cap)
{
	struct peer_answer a;
	u64 len = 0;
	for (i32 block = 0, again = 0;;) {
		long r = peer_ask(t, pid, kind, kind == PEER_FDINFO ? k : block, &a);
		if (r == -EAGAIN && again++ < 100)
			continue;
		if (r)
			return r;
		if (len + a.len > cap)
			return -EFBIG;
		memcpy(buf + len, a.text, a.len);
		len += a.len;
		if (kind == PEER_FDINFO || a.len < PEER_ROOM)
			return (long)len;
		block++;
	}
}

long peer_open_file(struct thread *t, int dirfd, const char *path, u64 flags)
{
	char head[1024], name[512];
	struct proc_name n;
	i32 k = 0;
	enum peer_question kind = flags & (O_ACCMODE | O_PATH | O_DIRECTORY | O_CREAT) ? 0 : split(path, head, sizeof head, &k);
	long fd = kind ? path_open_how(t, dirfd, head, O_PATH | O_DIRECTORY | (flags & O_CLOEXEC), 0, 0) : -EACCES;
	if (fd < 0)
		return -EACCES;
	char *buf = host_alloc(ENVIRON_MAX);
	long r = -EACCES;
	bool known = procfs_is((int)fd) && procfs_canonical(t->proc, (int)fd, name, sizeof name) >= 0 && procfs_parse(t->proc, name, &n) && n.per_process &&
		     !*n.rest && procfs_genuine(t->proc, (int)fd, name);
	if (buf && known && !n.own)
		r = ask_text(t, n.pid, kind, k, buf, ENVIRON_MAX);
	else if (buf && known && kind == PEER_ENVIRON) /* not dumpable, a monitor has no right to these files of its own */
		r = make_environ(t, (int)fd, buf, ENVIRON_MAX);
	else if (buf && known && kind == PEER_AUXV)
		r = make_auxv(t, (int)fd, buf, ENVIRON_MAX);
	if (r > (long)ENVIRON_MAX)
		r = -EFBIG;
	if (r >= 0)
		r = procfs_text_file(t, (int)fd, path + strlen(head) - 1, buf, (u64)r);
	host_free(buf, ENVIRON_MAX);
	if (r < 0)
		host_call(__NR_close, fd);
	return r;
}
