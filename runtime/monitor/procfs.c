/* Paths and procfs (invariant 4).
 *
 * Two rules keep procfs from being used against the monitor, whose process the guest's own /proc/self is:
 *   1. No magic link is followed blindly: the kernel walks with RESOLVE_NO_MAGICLINKS; where it meets one, the path is walked here
 *      component by component, and the link is followed only if it leads to something of the guest's.
 *   2. Whatever was opened is judged by what it is, not by how its path was spelled: a descriptor on a procfs is admitted by
 *      the name its canonical path has, looked up in a list; what is not listed is refused, what would show the monitor is
 *      replaced by text made here. */
#include "linux_abi.h"
#include "mm.h"
#include "monitor.h"
#include "kvm.h"
#include "peer.h"
#include "procfs.h"
#include "vault.h"
#include "syscalls/handlers.h"

#define PATH_MAX 4096
#define MAX_LINKS 40

void fd_link(char buf[32], int fd)
{
	format(buf, 32, "self/fd/%d", fd);
}

/* What a per-process name may do. Not listed: refused. */
#define OWN 1    /* the process itself may open it */
#define OTHERS 2 /* and other processes, as far as the kernel lets them */
#define TREE 4   /* the name stands for everything below it as well */
#define MADE 8   /* content is made by the monitor */
#define MADE_OWN 16 /* and of the process itself only */

struct rule {
	const char *name;
	u8 flags;
	procfs_maker make;
};

static const struct rule rules[] = {
	{"", OWN | OTHERS, NULL},
	{"attr", OWN | OTHERS | TREE, NULL},
	{"autogroup", OWN | OTHERS, NULL},
	{"auxv", OWN | MADE, make_auxv},
	{"cgroup", OWN | OTHERS, NULL},
	{"children", OWN | OTHERS, NULL},
	{"cmdline", OWN | OTHERS, NULL},
	{"comm", OWN | OTHERS, NULL},
	{"coredump_filter", OWN, NULL},
	{"cpu_resctrl_groups", OWN | OTHERS, NULL},
	{"cpuset", OWN | OTHERS, NULL},
	{"environ", OWN | OTHERS | MADE | MADE_OWN, make_environ},
	{"fd", OWN | OTHERS, NULL},
	{"fdinfo", OWN | OTHERS | TREE, NULL},
	{"gid_map", OWN | OTHERS, NULL},
	{"io", OWN | OTHERS, NULL},
	{"limits", OWN | OTHERS | MADE, make_limits},
	{"loginuid", OWN | OTHERS, NULL},
	{"maps", OWN | MADE, make_maps},
	{"mountinfo", OWN | OTHERS, NULL},
	{"mounts", OWN | OTHERS, NULL},
	{"mountstats", OWN | OTHERS, NULL},
	{"net", OWN | OTHERS | TREE, NULL},
	{"ns", OWN | OTHERS, NULL},
	{"oom_adj", OWN | OTHERS, NULL},
	{"oom_score", OWN | OTHERS, NULL},
	{"oom_score_adj", OWN | OTHERS, NULL},
	{"projid_map", OWN | OTHERS, NULL},
	{"sched", OWN | OTHERS, NULL},
	{"schedstat", OWN | OTHERS, NULL},
	{"sessionid", OWN | OTHERS, NULL},
	{"setgroups", OWN | OTHERS, NULL},
	{"smaps", OWN | MADE, make_smaps},
	{"smaps_rollup", OWN | MADE, make_smaps_rollup},
	{"stat", OWN | OTHERS | MADE, make_stat},
	{"statm", OWN | OTHERS | MADE, make_statm},
	{"status", OWN | OTHERS | MADE, make_status},
	{"task", OWN | OTHERS, NULL},
	{"timens_offsets", OWN | OTHERS, NULL},
	{"timers", OWN, NULL},
	{"timerslack_ns", OWN, NULL},
	{"uid_map", OWN | OTHERS, NULL},
	{"wchan", OWN | OTHERS, NULL},
};

static const struct rule *rule_of(const char *rest)
{
	for (u32 i = 0; i < ARRAY_LEN(rules); i++) {
		u64 len = strlen(rules[i].name);
		if (strncmp(rest, rules[i].name, len))
			continue;
		if (!rest[len] || (rules[i].flags & TREE && len && rest[len] == '/'))
			return &rules[i];
	}
	return NULL;
}

/* Names of the top level that read physical or kernel memory. Masked by the OCI defaults as well, but masks are mounts. */
static bool top_refused(const char *rest)
{
	static const char *const names[] = {"kcore", "kmem", "mem", "kpageflags", "kpagecount", "kpagecgroup", "kallsyms", "vmcore", "kmsg", "keys", "key-users",
					    "timer_list", "sched_debug", "sysrq-trigger", "latency_stats", "vmallocinfo"};
	for (u32 i = 0; i < ARRAY_LEN(names); i++)
		if (!strcmp(rest, names[i]))
			return true;
	return false;
}

/* --- descriptors ------------------------------------------------------------------------------------------------- */

/* Static entries of procfs (PROC_DYNAMIC_FIRST): no process behind them. Numbers of per-process inodes are counted from 1 and sysctl's
 * too, those need the walk. */
#define PROC_STATIC_INO 0xf0000000ul

static bool top_is_genuine(struct proc *p, int fd, const char *path)
{
	struct stat_k st;
	if (host_call(__NR_fstat, fd, &st))
		return false;
	if (st.ino >= PROC_STATIC_INO && st.ino <= 0xfffffffful)
		return true;
	if (procfs_genuine(p, fd, path))
		return true;
	/* below a read-only bind of /proc/sys onto itself the walk crosses a mount: the inode alone must match */
	struct open_how_k how = {O_PATH | O_NOFOLLOW | O_CLOEXEC, 0, RESOLVE_NO_SYMLINKS};
	if (strncmp(path, "/proc/sys/", 10) && strcmp(path, "/proc/sys"))
		return false;
	struct stat_k root;
	if (host_call(__NR_newfstatat, p->proc_fd, "sys", &root, AT_SYMLINK_NOFOLLOW) || root.ino < PROC_STATIC_INO || root.dev != st.dev)
		return false;
	struct stat_k b;
	long o = host_call(__NR_openat2, p->proc_fd, path + 6, &how, sizeof how);
	if (o < 0)
		return false;
	bool same = !host_call(__NR_fstat, o, &b) && b.dev == st.dev && b.ino == st.ino;
	close_fd(o);
	return same;
}

/* -EACCES or the rule (NULL: a name of the top level). */
static long judge(struct thread *t, int fd, const char *path, const struct rule **out)
{
	struct proc *p = t->proc;
	struct proc_name n;
	*out = NULL;
	if (!procfs_parse(p, path, &n))
		return -EACCES;
	if (!n.per_process) {
		if (top_refused(n.rest))
			return -EACCES;
		return top_is_genuine(p, fd, path) ? 0 : -EACCES;
	}
	long hidden = procfs_hides(t, &n);
	if (hidden)
		return hidden;
	const struct rule *r = rule_of(n.rest);
	if (!r || !(r->flags & (n.own ? OWN : OTHERS)))
		return -EACCES;
	/* net/ lies behind a static directory; everything else must be what its name says */
	if (strncmp(n.rest, "net/", 4) && !procfs_genuine(p, fd, path))
		return -EACCES;
	if (n.own && !strncmp(n.rest, "fdinfo/", 7)) {
		u32 k;
		if (!procfs_number(n.rest + 7, &k) || !fd_published(p, (int)k))
			return -EACCES;
	}
	long shown = n.own ? 0 : peer_shows(t, &n);
	if (shown)
		return shown;
	*out = r->flags & MADE_OWN && !n.own ? NULL : r;
	return 0;
}

/* Gives `fd`, or a descriptor of the same number with made content (*made, a class of its own), or closes it. */
long procfs_admit(struct thread *t, int fd, bool *made)
{
	char path[512]; /* names of procfs are short; longer ones are not in any list */
	const struct rule *rule = NULL;
	long r = procfs_canonical(t->proc, fd, path, sizeof path);
	if (r >= 0)
		r = judge(t, fd, path, &rule);
	if (r == -EACCES)
		refuse(t, r);
	if (!r && rule && rule->flags & MADE) {
		long fl = host_call(__NR_fcntl, fd, F_GETFL);
		if (fl >= 0 && !((u64)fl & O_PATH)) {
			r = procfs_made_file(t, fd, path, rule->make);
			*made = r >= 0;
		}
	}
	if (r < 0) {
		close_fd(fd);
		return r;
	}
	return fd;
}

long procfs_renew(struct thread *t, int fd)
{
	char path[512];
	const struct rule *rule = NULL;
	if (!procfs_made_of(t->proc, fd, path, sizeof path))
		return 0;
	long src = host_call(__NR_openat, t->proc->proc_fd, path + 6, O_CLOEXEC, 0);
	if (src < 0)
		return -ESRCH; /* the process has ended */
	long r = judge(t, (int)src, path, &rule);
	if (!r)
		r = rule && rule->flags & MADE ? procfs_make_again(t, fd, (int)src, rule->make) : -EACCES;
	close_fd(src);
	return r;
}

/* --- metadata ------------------------------------------------------------------------------------------------------ */

#define PROC_BLKSIZE 1024 /* of procfs and of hardly anything else */

void procfs_start(struct proc *p, const struct vault *v)
{
	const int files[] = {v->fd[PSB_FD_TRACE], v->fd[PSB_FD_KVM], v->fd[PSB_FD_PLAN_STORE], v->fd[PSB_FD_CTL]};
	_Static_assert(ARRAY_LEN(files) <= ARRAY_LEN(p->hidden), "hidden files");
	struct stat_k st;
	for (u32 i = 0; i < ARRAY_LEN(files); i++)
		if (files[i] >= 0 && !host_call(__NR_fstat, files[i], &st)) {
			p->hidden[i].dev = st.dev;
			p->hidden[i].ino = st.ino;
		}
	p->internal_dev[0] = p->monitor_dev;
	p->internal_dev[1] = host_call(__NR_fstat, p->vault_fd, &st) ? p->monitor_dev : st.dev;
	p->internal_dev[2] = host_call(__NR_fstat, p->vm->fd, &st) ? p->monitor_dev : st.dev;
}

bool procfs_suspect(const struct proc *p, u64 dev, u64 ino, u64 blksize)
{
	if (blksize == PROC_BLKSIZE || dev == p->internal_dev[0] || dev == p->internal_dev[1] || dev == p->internal_dev[2])
		return true;
	for (u32 i = 0; i < ARRAY_LEN(p->hidden); i++)
		if (ino == p->hidden[i].ino && dev == p->hidden[i].dev)
			return true;
	return false;
}

/* 0, or the error that stat() of a name of procfs gives: descriptors of the monitor are not there, not even as links. */
long procfs_shows(struct thread *t, int fd)
{
	char path[512];
	struct proc_name n;
	u32 k;
	if (!procfs_is(fd) || procfs_canonical(t->proc, fd, path, sizeof path) < 0 || !procfs_parse(t->proc, path, &n) || !n.per_process)
		return 0;
	long hidden = procfs_hides(t, &n);
	if (hidden)
		return hidden;
	const char *name = !strncmp(n.rest, "fd/", 3) ? n.rest + 3 : !strncmp(n.rest, "fdinfo/", 7) ? n.rest + 7 : NULL;
	if (name && n.own)
		return procfs_number(name, &k) && fd_published(t->proc, (int)k) ? 0 : -ENOENT;
	return !strncmp(n.rest, "map_files/", 10) ? refuse(t, -EACCES) : n.own ? 0 : peer_shows(t, &n);
}

/* --- walking ------------------------------------------------------------------------------------------------------ */

/* The same for what the program opens: a fifo waits for its other end, a lease for its holder. By the thread that the file is for, or
 * by the ring server. */
static long open_wait(struct thread *t, int dirfd, const char *path, u64 flags, u64 mode, u64 resolve)
{
	struct open_how_k how = {flags, mode, resolve};
	if (flags & O_PATH)
		return open2(dirfd, path, flags, mode, resolve);
	if (current_thread() == t)
		return blocking_call(t, __NR_openat2, (u64)(i64)dirfd, (u64)path, (u64)&how, sizeof how, 0, 0);
	return ring_call(__NR_openat2, (u64)(i64)dirfd, (u64)path, (u64)&how, sizeof how, 0, 0);
}

/* What is to be done with a magic link. */
enum link_verdict {
	LINK_FOLLOW = 1, /* natively */
	LINK_PROGRAM,    /* it is the program: p->exe_path */
	LINK_ASK,        /* the process that it is of knows */
	LINK_THREAD,     /* thread-self: the calling thread may be the ring server */
};

/* May the magic link called `path` be followed? *n: its name. An enum link_verdict or -errno. */
static long judge_link(struct thread *t, int link_fd, const char *path, struct proc_name *n)
{
	struct proc *p = t->proc;
	if (!procfs_parse(p, path, n) || !n->per_process)
		return refuse(t, -EACCES);
	if (!procfs_genuine(p, link_fd, path)) {
		long fd = open2(p->proc_fd, path + 6, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0, RESOLVE_NO_XDEV | RESOLVE_NO_SYMLINKS);
		close_fd(fd);
		return fd == -ENOENT || fd == -ESRCH ? -ENOENT : refuse(t, -EACCES); /* it was closed, or its process has ended, meanwhile */
	}
	long hidden = procfs_hides(t, n);
	if (hidden)
		return hidden;
	/* Of others, too: the kernel wants CAP_SYS_PTRACE, as for any process that is not dumpable; what is behind it is the container's, or
	 * was given to it with the pid namespace. */
	if (!strncmp(n->rest, "ns/", 3))
		return LINK_FOLLOW;
	bool place = !strcmp(n->rest, "cwd") || !strcmp(n->rest, "root");
	if (!n->own)
		return place || !strcmp(n->rest, "exe") || !strncmp(n->rest, "fd/", 3) ? LINK_ASK : refuse(t, -EACCES);
	if (place)
		return LINK_FOLLOW;
	if (!strcmp(n->rest, "exe"))
		return LINK_PROGRAM;
	u32 k;
	if (!strncmp(n->rest, "fd/", 3) && procfs_number(n->rest + 3, &k))
		return marshal_hold(t, (int)k) ? LINK_FOLLOW : -ENOENT;
	return refuse(t, -EACCES);
}

struct walk {
	struct thread *t;
	long dir;        /* O_PATH, ours */
	char *rest;      /* PATH_MAX bytes: what is still to walk */
	char *spare;     /* PATH_MAX bytes */
	u32 links;
};

/* Puts the target in front of what is left. An absolute target starts again at the root. */
static long splice_target(struct walk *w, const char *target, const char *left)
{
	u64 a = strlen(target), b = strlen(left);
	if (a + b + 2 > PATH_MAX)
		return -ENAMETOOLONG;
	if (!a)
		return -ENOENT;
	if (++w->links > MAX_LINKS)
		return -ELOOP;
	memmove(w->rest + a + (b ? 1 : 0), left, b + 1);
	memcpy(w->rest, target, a);
	if (b)
		w->rest[a] = '/';
	if (*w->rest == '/') {
		long root = open2(AT_FDCWD, "/", O_PATH | O_CLOEXEC, 0, 0);
		if (root < 0)
			return root;
		close_fd(w->dir);
		w->dir = root;
	}
	return 0;
}

/* A link of another process: what the kernel lets us see of it, which takes a capability, or what its monitor says. */
static long walk_peer_link(struct walk *w, const struct proc_name *n, const char *name, const char *left, u64 flags, long *followed)
{
	struct peer_answer a;
	bool place = !strcmp(n->rest, "cwd") || !strcmp(n->rest, "root");
	if (place) {
		*followed = host_call(__NR_openat, w->dir, name, *left ? O_PATH | O_CLOEXEC : flags & ~(u64)O_NOFOLLOW, 0);
		if (*followed != -EACCES)
			return *followed < 0 ? *followed : 0;
	}
	long r = peer_link(w->t, n, &a);
	if (r)
		return r;
	if (!a.st.ino) /* the program: by its name, as one's own */
		return splice_target(w, a.text, left);
	*followed = peer_open_link(w->t, &a, flags, !*left);
	return *followed < 0 ? *followed : 0;
}

/* A symbolic link met on the way. `name` in w->dir is the link, `fd` stands on it, `left` follows it. *followed: descriptor gained by
 * following a permitted magic link, opened with these flags, else -1 and w->rest is the new rest. */
static long walk_link(struct walk *w, int fd, const char *name, const char *left, u64 flags, u64 mode, long *followed)
{
	*followed = -1;
	struct proc *p = w->t->proc;
	char *text = w->spare;
	struct statfs_k fs;
	if (!host_call(__NR_fstatfs, fd, &fs) && fs.flags & ST_NOSYMFOLLOW)
		return -ELOOP; /* the mount is one whose links nobody follows */
	if (procfs_is(fd)) {
		long n = procfs_canonical(p, fd, text, PATH_MAX);
		struct proc_name pn;
		if (n < 0)
			return n;
		if (!procfs_parse(p, text, &pn))
			return refuse(w->t, -EACCES);
		if (!pn.per_process && !strcmp(pn.rest, "thread-self")) { /* the calling thread may be the ring server */
			char own[48];
			format(own, sizeof own, "%d/task/%d", p->pid, w->t->tid);
			return splice_target(w, own, left);
		}
		if (pn.per_process) {
			long j = judge_link(w->t, fd, text, &pn);
			if (j < 0)
				return j;
			if (j == LINK_PROGRAM)
				return splice_target(w, p->exe_path, left);
			if (j == LINK_ASK)
				return walk_peer_link(w, &pn, name, left, flags, followed);
			*followed = open_wait(w->t, (int)w->dir, name, *left ? O_PATH | O_CLOEXEC : flags & ~(u64)O_NOFOLLOW, flags & (O_CREAT | O_TMPFILE_BIT) ? mode : 0, 0);
			return *followed < 0 ? *followed : 0;
		}
		/* "self", "mounts", "net": plain text */
	}
	long n = host_call(__NR_readlinkat, fd, "", text, PATH_MAX - 1);
	if (n < 0)
		return n;
	text[n] = 0;
	return splice_target(w, text, left);
}

/* One component; 1: *out is the result, 0: go on, else -errno. */
static long walk_step(struct walk *w, u64 flags, u64 mode, long *out)
{
	char name[256];
	char *s = w->rest;
	while (*s == '/')
		s++;
	u64 len = 0;
	while (s[len] && s[len] != '/')
		len++;
	if (len >= sizeof name)
		return -ENAMETOOLONG;
	memcpy(name, s, len);
	name[len] = 0;
	char *left = s + len;
	bool slash = *left == '/';
	while (*left == '/')
		left++;
	bool final = !*left;
	if (!len)
		memcpy(name, ".", 2);
	long fd = open2((int)w->dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0, RESOLVE_NO_MAGICLINKS);
	if (fd == -ENOENT && final && flags & O_CREAT) {
		*out = open2((int)w->dir, name, flags | O_NOFOLLOW, mode, RESOLVE_NO_MAGICLINKS);
		return *out < 0 ? *out : 1;
	}
	if (fd < 0)
		return fd;
	struct stat_k st;
	long r = host_call(__NR_fstat, fd, &st);
	bool link = !r && (st.mode & S_IFMT) == S_IFLNK;
	if (!r && link && !(final && !slash && flags & O_NOFOLLOW)) {
		long followed;
		/* `left` lies in w->rest, which splice_target() moves within */
		r = walk_link(w, (int)fd, name, left, flags, mode, &followed);
		close_fd(fd);
		if (r || followed < 0)
			return r;
		if (!*left) {
			*out = followed;
			return 1;
		}
		close_fd(w->dir);
		w->dir = followed;
		memmove(w->rest, left, strlen(left) + 1);
		return 0;
	}
	if (!r && final) { /* an O_NOFOLLOW that meets a link ends here too: the kernel says what it says */
		close_fd(fd);
		*out = open_wait(w->t, (int)w->dir, name, flags | O_NOFOLLOW | (slash ? O_DIRECTORY : 0), mode, RESOLVE_NO_MAGICLINKS);
		return *out < 0 ? *out : 1;
	}
	if (r) {
		close_fd(fd);
		return r;
	}
	close_fd(w->dir);
	w->dir = fd;
	memmove(w->rest, left, strlen(left) + 1);
	return 0;
}

static long walk(struct thread *t, int dirfd, const char *path, u64 flags, u64 mode)
{
	char *buf = host_alloc(2 * PATH_MAX);
	if (!buf)
		return -ENOMEM;
	struct walk w = {.t = t, .rest = buf, .spare = buf + PATH_MAX};
	long r = -ENAMETOOLONG, out = -1;
	if (strlen(path) < PATH_MAX) {
		memcpy(w.rest, path, strlen(path) + 1);
		w.dir = *path == '/' ? open2(AT_FDCWD, "/", O_PATH | O_CLOEXEC, 0, 0) : open2(dirfd, ".", O_PATH | O_CLOEXEC, 0, 0);
		r = w.dir < 0 ? w.dir : 0;
		while (!r)
			r = walk_step(&w, flags, mode, &out);
		close_fd(w.dir);
	}
	host_free(buf, 2 * PATH_MAX);
	return r < 0 ? r : out;
}

/* Walking has used numbers itself: the program expects the lowest that is free. */
static long lowest(long fd)
{
	if (fd < 0)
		return fd;
	long flags = host_call(__NR_fcntl, fd, F_GETFD), low = host_call(__NR_fcntl, fd, flags > 0 ? F_DUPFD_CLOEXEC : F_DUPFD, 0);
	close_fd(low >= 0 && low < fd ? fd : low);
	return low >= 0 && low < fd ? low : fd;
}

long path_open_how(struct thread *t, int dirfd, const char *path, u64 flags, u64 mode, u64 resolve)
{
	long fd = open_wait(t, dirfd, path, flags, mode, resolve | RESOLVE_NO_MAGICLINKS);
	/* ELOOP also says: O_NOFOLLOW met a link, too many links, or what the guest itself forbade; EACCES, that a magic link is
	 * another process'. Walking finds out. */
	if ((fd != -ELOOP && fd != -EACCES) || resolve)
		return fd;
	return lowest(walk(t, dirfd, path, flags, mode));
}

/* As open() cleans its flags. */
static u64 open_flags(u64 flags)
{
	flags &= O_VALID;
	return flags & O_PATH ? flags & (O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : flags | O_LARGEFILE;
}

long path_open(struct thread *t, int dirfd, const char *path, u64 flags, u64 mode)
{
	flags = open_flags(flags);
	mode = flags & (O_CREAT | O_TMPFILE_BIT) ? mode & 07777 : 0;
	long fd = path_open_how(t, dirfd, path, flags, mode, 0);
	struct stat_k st;
	if (fd < 0)
		return fd;
	if (host_call(__NR_fstat, fd, &st) || (st.dev == t->proc->monitor_dev && st.ino == t->proc->monitor_ino)) {
		close_fd(fd);
		return refuse(t, -EACCES);
	}
	if (!dev_major(st.dev) && st.blksize == 1024 && procfs_is((int)fd))
		return procfs_admit(t, (int)fd, &(bool){false});
	return fd;
}

#define STATX_INO 0x100u
#define AT_STATX_DONT_SYNC 0x4000u

/* Without asking whoever serves the file system, who may be gone: umount() has to work then. */
static bool is_monitor(const struct proc *p, int fd)
{
	struct statx_k st;
	return host_call(__NR_statx, fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_INO, &st) ||
	       (st.ino == p->monitor_ino && make_dev(st.dev_major, st.dev_minor) == p->monitor_dev);
}

long path_resolve(struct thread *t, int dirfd, const char *path, bool follow)
{
	long fd = path_open_how(t, dirfd, path, O_PATH | O_CLOEXEC | (follow ? 0 : O_NOFOLLOW), 0, 0);
	if (fd >= 0 && is_monitor(t->proc, (int)fd)) {
		close_fd(fd);
		return -EACCES;
	}
	return fd;
}

long path_readlink(struct thread *t, int dirfd, const char *path, char *buf, u64 cap)
{
	struct proc *p = t->proc;
	long fd = *path ? path_open_how(t, dirfd, path, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0, 0) : dirfd;
	if (fd < 0)
		return fd;
	long n;
	char name[512];
	struct proc_name pn;
	struct stat_k st;
	if (host_call(__NR_fstat, fd, &st) || (st.mode & S_IFMT) != S_IFLNK) {
		n = *path ? -EINVAL : -ENOENT; /* as readlink of what is no link */
	} else if (procfs_is((int)fd) && (procfs_canonical(p, (int)fd, name, sizeof name) < 0 || !procfs_parse(p, name, &pn))) {
		n = refuse(t, -EACCES); /* of a procfs that is not the container's: whose text it is, is not known */
	} else if (procfs_is((int)fd) && (pn.per_process || !strcmp(pn.rest, "thread-self"))) {
		struct peer_answer a;
		long j = pn.per_process ? judge_link(t, (int)fd, name, &pn) : LINK_THREAD;
		if (j == LINK_PROGRAM) {
			n = (long)strnlen(p->exe_path, cap);
			memcpy(buf, p->exe_path, (u64)n);
		} else if (j == LINK_ASK) {
			n = !strcmp(pn.rest, "cwd") || !strcmp(pn.rest, "root") ? host_call(__NR_readlinkat, fd, "", buf, cap) : -EACCES;
			if (n == -EACCES) {
				n = peer_link(t, &pn, &a);
				n = n ? n : (long)(a.len < cap ? a.len : cap);
				memcpy(buf, a.text, n > 0 ? (u64)n : 0);
			}
		} else if (j == LINK_THREAD) {
			char own[48];
			n = format(own, sizeof own, "%d/task/%d", p->pid, t->tid);
			n = (u64)n < cap ? n : (long)cap;
			memcpy(buf, own, (u64)n);
		} else {
			n = j < 0 ? j : host_call(__NR_readlinkat, fd, "", buf, cap);
		}
	} else {
		n = host_call(__NR_readlinkat, fd, "", buf, cap);
	}
	if (*path)
		close_fd(fd);
	return n;
}
