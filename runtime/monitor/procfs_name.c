/* Names in procfs: what a path says, and whether the file is the one of that name. See procfs.c. */
#include "linux_abi.h"
#include "monitor.h"
#include "procfs.h"
#include "syscalls/handlers.h"

static long path_of(struct proc *p, int fd, char *buf, u64 cap)
{
	char link[32];
	fd_link(link, fd);
	long n = host_call(__NR_readlinkat, p->proc_fd, link, buf, cap - 1);
	if (n >= 0)
		buf[n] = 0;
	return n;
}

bool procfs_is(int fd)
{
	struct statfs_k fs;
	return !host_call(__NR_fstatfs, fd, &fs) && fs.type == PROC_SUPER_MAGIC;
}

const char *procfs_number(const char *s, u32 *out)
{
	u64 n = 0;
	const char *p = s;
	for (; *p >= '0' && *p <= '9' && p - s < 10; p++)
		n = n * 10 + (u64)(*p - '0');
	*out = (u32)n;
	return p > s && (!*p || *p == '/') && n <= 0x7fffffff ? p : NULL;
}

static const char *skip_slash(const char *s)
{
	return *s == '/' ? s + 1 : s;
}

bool procfs_parse(struct proc *p, const char *path, struct proc_name *n)
{
	memset(n, 0, sizeof *n);
	if (strncmp(path, "/proc", 5) || (path[5] && path[5] != '/'))
		return false;
	n->rest = skip_slash(path + 5);
	const char *after = procfs_number(n->rest, &n->pid);
	if (!after)
		return true;
	n->per_process = true;
	n->own = n->pid == (u32)p->pid;
	n->rest = skip_slash(after);
	u32 tid;
	if (!strncmp(n->rest, "task/", 5) && (after = procfs_number(n->rest + 5, &tid))) {
		n->tid = tid;
		n->rest = skip_slash(after);
	}
	return true;
}

long procfs_hides(struct thread *t, const struct proc_name *n)
{
	if (!n->per_process || (!tid_hidden(t, (int)n->pid) && !tid_hidden(t, (int)n->tid)))
		return 0;
	return current_thread() == t ? -ENOENT : CALL_TO_TRAP;
}

/* Does this procfs know the process by one number only? Then its pid namespace is that of the process: proc(5), NSpid. */
static bool is_of_own_namespace(int root)
{
	char text[2048];
	long fd = open2(root, "self/status", O_CLOEXEC, 0, RESOLVE_NO_XDEV);
	long n = fd < 0 ? fd : host_call(__NR_read, fd, text, sizeof text - 1);
	close_fd(fd);
	if (n <= 0)
		return false;
	text[n] = 0;
	for (const char *line = text; line; line = strchr(line, '\n'), line = line ? line + 1 : NULL) {
		if (strncmp(line, "NSpid:\t", 7))
			continue;
		u64 digits = 0;
		for (line += 7; *line >= '0' && *line <= '9'; line++)
			digits++;
		return digits && *line == '\n';
	}
	return false;
}

/* The root of the procfs that `dev` is: the container's own, or another that a program has mounted at /proc since, if it shows the
 * same processes by the same numbers. A descriptor for the caller, or -1; `*ours`: to be closed. */
static long procfs_root(struct proc *p, u64 dev, bool *ours)
{
	struct stat_k st;
	*ours = false;
	if (!host_call(__NR_fstat, p->proc_fd, &st) && st.dev == dev)
		return p->proc_fd;
	long fd = open2(AT_FDCWD, "/proc", O_PATH | O_DIRECTORY | O_CLOEXEC, 0, RESOLVE_NO_SYMLINKS);
	if (fd < 0)
		return -1;
	*ours = true;
	if (!host_call(__NR_fstat, fd, &st) && st.dev == dev && st.ino == PROC_ROOT_INO && procfs_is((int)fd) && is_of_own_namespace((int)fd))
		return fd;
	close_fd(fd);
	return -1;
}

/* Is the file that is called `path` really the one of that name in a procfs? Mounts can give a per-process file any
 * name, so the name counts only when walking to it without crossing a mount gives the same inode. */
bool procfs_genuine(struct proc *p, int fd, const char *path)
{
	struct stat_k a, b;
	const char *below = skip_slash(path + 5);
	bool ours;
	if (host_call(__NR_fstat, fd, &a))
		return false;
	long root = procfs_root(p, a.dev, &ours);
	if (root < 0)
		return false;
	long o = open2((int)root, *below ? below : ".", O_PATH | O_NOFOLLOW | O_CLOEXEC, 0, RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS);
	if (ours)
		close_fd(root);
	bool same = o >= 0 && !host_call(__NR_fstat, o, &b) && a.dev == b.dev && a.ino == b.ino;
	close_fd(o);
	return same;
}

/* The canonical path of something on a procfs. Where the container's own is mounted at another place, its files get their names below
 * /proc: what stands behind the mount point is a name only if it leads to the same file. */
long procfs_canonical(struct proc *p, int fd, char *buf, u64 cap)
{
	static const char own[] = "/proc";
	struct stat_k root, st;
	long n = path_of(p, fd, buf, cap);
	if (n < 0 || (!strncmp(buf, own, 5) && (!buf[5] || buf[5] == '/')) || *buf != '/')
		return n;
	if (host_call(__NR_fstat, p->proc_fd, &root) || host_call(__NR_fstat, fd, &st) || st.dev != root.dev)
		return n;
	char name[512];
	for (const char *tail = buf + 1; tail; tail = strchr(tail, '/'), tail = tail ? tail + 1 : NULL) {
		u64 len = strlen(tail) + 1;
		if (len + 6 > sizeof name || len + 6 > cap)
			continue;
		memcpy(name, own, 5);
		name[5] = '/';
		memcpy(name + 6, tail, len);
		if (procfs_genuine(p, fd, name)) {
			memcpy(buf, name, len + 6);
			return (long)len + 5;
		}
	}
	if (st.ino == PROC_ROOT_INO) {
		memcpy(buf, own, sizeof own);
		return sizeof own - 1;
	}
	return n;
}
