/* Files and paths: opening, metadata, and the calls that change a file by its path. Those resolve the path to an O_PATH
 * descriptor first (see procfs.c) and act on that; creating and removing names needs no such care, because a name in a
 * directory is never a magic link that gets followed. */
#include "../linux_abi.h"
#include "../peer.h"
#include "../procfs.h"
#include "handlers.h"

#define F_SETOWN 8
#define F_GETOWN 9
#define F_SETSIG 10
#define F_GETSIG 11
#define F_SETOWN_EX 15
#define F_GETOWN_EX 16
#define F_GETOWNER_UIDS 17
#define F_GETLK 5
#define F_SETLK 6
#define F_SETLKW 7
#define F_OFD_GETLK 36
#define F_OFD_SETLK 37
#define F_OFD_SETLKW 38
#define F_SETLEASE 1024
#define F_GETLEASE 1025
#define F_NOTIFY 1026
#define F_DUPFD_QUERY 1027
#define F_CREATED_QUERY 1028
#define F_GETPIPE_SZ 1032
#define F_ADD_SEALS 1033
#define F_GET_SEALS 1034
#define F_GET_RW_HINT 1035
#define F_SET_RW_HINT 1036
#define F_GET_FILE_RW_HINT 1037
#define F_SET_FILE_RW_HINT 1038

#define PATH_MAX 4096

/* --- opening ------------------------------------------------------------------------------------------------------ */

static long open_at(struct thread *t, int dirfd, const char *path, u64 flags, u64 mode, u64 resolve)
{
	flags &= O_VALID;
	if (flags & O_PATH)
		flags &= O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
	else
		flags |= O_LARGEFILE;
	mode = flags & (O_CREAT | O_TMPFILE_BIT) ? mode & 07777 : 0;
	long fd = path_open_how(t, dirfd, path, flags, mode, resolve);
	long r = fd < 0 ? fd : fd_publish(t, (int)fd);
	if (likely(r != -EACCES))
		return r;
	fd = peer_open_file(t, dirfd, path, flags);
	if (fd < 0)
		return fd;
	marshal_of(t)->refused = false;
	return fd_publish_as(t, (int)fd, FD_FILE);
}

/* A fifo without its other end makes open() wait, and so do some devices: those are the thread's. (Another process may put a fifo
 * in the place of the file meanwhile: see ring_call().) */
static long open_on_ring(struct thread *t, int dirfd, const char *path, u64 flags, u64 mode)
{
	struct stat_k st;
	if (!(flags & (O_PATH | O_DIRECTORY | O_NONBLOCK))) {
		long r = host_call(__NR_newfstatat, dirfd, path, &st, 0);
		u32 kind = r ? S_IFREG : st.mode & S_IFMT;
		if (kind == S_IFIFO || kind == S_IFBLK || (kind == S_IFCHR && dev_major(st.rdev) != 1)) /* 1: null, zero, random */
			return CALL_TO_TRAP;
	}
	return open_at(t, dirfd, path, flags, mode, 0);
}

static long do_open(struct thread *t, struct call *c, int dirfd, const char *path, u64 flags, u64 mode)
{
	if (!c->may_block)
		return open_on_ring(t, dirfd, path, flags, mode);
	return open_at(t, dirfd, path, flags, mode, 0);
}

long h_open(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	return do_open(t, c, AT_FDCWD, (const char *)a[0], a[1], a[2]);
}

long h_openat(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	return do_open(t, c, (int)a[0], (const char *)a[1], a[2], a[3]);
}

long h_creat(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	return do_open(t, c, AT_FDCWD, (const char *)a[0], O_CREAT | O_WRONLY | O_TRUNC, a[1]);
}

/* mq_open: the name is not a path; a queue is a file of its own file system. */
long h_mq_open(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	long fd = host_call(__NR_mq_open, a[0], a[1], a[2], a[3]);
	return fd < 0 ? fd : fd_publish_as(t, (int)fd, FD_OTHER);
}

/* --- metadata ------------------------------------------------------------------------------------------------------- */

/* The plain call first; the result tells whether it may be of the monitor, or a name of procfs: then the path is walked with
 * care, and what that finds is the answer. (A descriptor was checked when it was published: the empty path needs no walk.) */

/* O_PATH descriptor of what may be shown, or -errno. */
static long find_shown(struct thread *t, int dirfd, const char *path, bool follow)
{
	long fd = path_resolve(t, dirfd, path, follow);
	if (fd < 0)
		return fd;
	long r = procfs_shows(t, (int)fd);
	if (r) {
		host_call(__NR_close, fd);
		return r;
	}
	return fd;
}

/* Refused by the kernel: it may be a link of another process, whose monitor tells where it leads. */
static bool needs_walk(const struct proc *p, long r, u64 dev, u64 ino, u64 blksize)
{
	return r ? r == -EACCES : procfs_suspect(p, dev, ino, blksize);
}

static long give_stat(struct thread *t, long r, struct stat_k *st, u64 where, int dirfd, const char *path, bool follow)
{
	if (unlikely(needs_walk(t->proc, r, st->dev, st->ino, (u64)st->blksize)) && *path) {
		t->peer_stat_valid = false;
		long fd = find_shown(t, dirfd, path, follow);
		r = fd < 0 ? fd : host_call(__NR_fstat, fd, st);
		if (fd >= 0)
			host_call(__NR_close, fd);
		else if (peer_found(t, st))
			r = 0;
	}
	return r ? r : copy_to_guest(gptr_of(where), st, sizeof *st);
}

long h_stat(struct thread *t, struct call *c)
{
	(void)c;
	struct stat_k st;
	const u64 *a = marshal_of(t)->arg;
	return give_stat(t, host_call(__NR_newfstatat, AT_FDCWD, a[0], &st, 0), &st, a[1], AT_FDCWD, (const char *)a[0], true);
}

long h_lstat(struct thread *t, struct call *c)
{
	(void)c;
	struct stat_k st;
	const u64 *a = marshal_of(t)->arg;
	return give_stat(t, host_call(__NR_newfstatat, AT_FDCWD, a[0], &st, AT_SYMLINK_NOFOLLOW), &st, a[1], AT_FDCWD, (const char *)a[0], false);
}

long h_fstat(struct thread *t, struct call *c)
{
	(void)c;
	(void)t;
	const u64 *a = marshal_of(t)->arg;
	return host_call(__NR_fstat, a[0], a[1]); /* a published descriptor is never the monitor */
}

long h_newfstatat(struct thread *t, struct call *c)
{
	(void)c;
	struct stat_k st;
	const u64 *a = marshal_of(t)->arg;
	const char *path = a[1] ? (const char *)a[1] : ""; /* NULL: as the empty path, since Linux 6.11 */
	return give_stat(t, host_call(__NR_newfstatat, a[0], a[1], &st, a[3]), &st, a[2], (int)a[0], path, !(a[3] & AT_SYMLINK_NOFOLLOW));
}

#define STATX_BASIC_STATS 0x7ffu

static void statx_of(struct statx_k *x, const struct stat_k *st)
{
	memset(x, 0, sizeof *x);
	x->mask = STATX_BASIC_STATS;
	x->blksize = (u32)st->blksize;
	x->nlink = (u32)st->nlink;
	x->uid = st->uid;
	x->gid = st->gid;
	x->mode = st->mode;
	x->ino = st->ino;
	x->size = (u64)st->size;
	x->blocks = (u64)st->blocks;
	x->atime = (struct timespec_k){st->atime, st->atime_ns};
	x->ctime = (struct timespec_k){st->ctime, st->ctime_ns};
	x->mtime = (struct timespec_k){st->mtime, st->mtime_ns};
	x->rdev_major = dev_major(st->rdev);
	x->rdev_minor = dev_minor(st->rdev);
	x->dev_major = dev_major(st->dev);
	x->dev_minor = dev_minor(st->dev);
}

long h_statx(struct thread *t, struct call *c)
{
	(void)c;
	struct statx_k st;
	const u64 *a = marshal_of(t)->arg;
	memset(&st, 0, sizeof st);
	long r = host_call(__NR_statx, a[0], a[1], a[2], a[3], &st);
	if (a[1] && *(const char *)a[1] && needs_walk(t->proc, r, make_dev(st.dev_major, st.dev_minor), st.ino, st.blksize)) {
		struct stat_k found;
		t->peer_stat_valid = false;
		long fd = find_shown(t, (int)a[0], (const char *)a[1], !(a[2] & AT_SYMLINK_NOFOLLOW));
		r = fd < 0 ? fd : host_call(__NR_statx, fd, "", a[2] | AT_EMPTY_PATH, a[3], &st);
		if (fd >= 0) {
			host_call(__NR_close, fd);
		} else if (peer_found(t, &found)) {
			statx_of(&st, &found);
			r = 0;
		}
	}
	return r ? r : copy_to_guest(gptr_of(a[4]), &st, sizeof st);
}

/* No result tells what was looked at, so the walk comes first. */
static long check_access(struct thread *t, int dirfd, const char *path, u64 mode, u64 flags)
{
	if (mode & ~7ul || flags & ~(u64)(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | AT_EACCESS))
		return -EINVAL;
	if (!*path && flags & AT_EMPTY_PATH)
		return host_call(__NR_faccessat2, dirfd, path, mode, flags);
	long fd = find_shown(t, dirfd, path, !(flags & AT_SYMLINK_NOFOLLOW));
	if (fd < 0)
		return fd;
	long r = host_call(__NR_faccessat2, fd, "", mode, (flags & AT_EACCESS) | AT_EMPTY_PATH);
	host_call(__NR_close, fd);
	return r;
}

long h_access(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	return check_access(t, AT_FDCWD, (const char *)a[0], a[1], 0);
}

long h_faccessat(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	return check_access(t, (int)a[0], (const char *)a[1], a[2], c->nr == __NR_faccessat2 ? a[3] : 0);
}

long h_statfs(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	long fd = find_shown(t, AT_FDCWD, (const char *)a[0], true);
	if (fd < 0)
		return fd;
	long r = host_call(__NR_fstatfs, fd, a[1]);
	host_call(__NR_close, fd);
	return r;
}

long h_name_to_handle_at(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	const char *path = (const char *)a[1];
	if (!*path)
		return host_call(__NR_name_to_handle_at, a[0], path, a[2], a[3], a[4]);
	long fd = find_shown(t, (int)a[0], path, a[4] & AT_SYMLINK_FOLLOW);
	if (fd < 0)
		return fd;
	long r = host_call(__NR_name_to_handle_at, fd, "", a[2], a[3], (a[4] & ~(u64)AT_SYMLINK_FOLLOW) | AT_EMPTY_PATH);
	host_call(__NR_close, fd);
	return r;
}

/* Only a name that procfs could give to a magic link needs the walk; the last component of a path for readlink is the link itself. */
static bool looks_magic(const char *path)
{
	const char *s = strrchr(path, '/');
	s = s ? s + 1 : path;
	if (*s >= '0' && *s <= '9')
		return true;
	return !*s || !strcmp(s, "exe") || !strcmp(s, "thread-self") || !strcmp(s, "cwd") || !strcmp(s, "root") || strchr(s, '-');
}

static long do_readlink(struct thread *t, int dirfd, const char *path, u64 where, i32 size)
{
	if (size <= 0)
		return -EINVAL;
	if (!looks_magic(path))
		return host_call(__NR_readlinkat, dirfd, path, where, size);
	char buf[4096];
	long n = path_readlink(t, dirfd, path, buf, size < (i32)sizeof buf ? (u64)size : sizeof buf);
	if (n < 0)
		return n;
	long r = copy_to_guest(gptr_of(where), buf, (u64)n);
	return r ? r : n;
}

long h_readlink(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	return do_readlink(t, AT_FDCWD, (const char *)a[0], a[1], (i32)a[2]);
}

long h_readlinkat(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	return do_readlink(t, (int)a[0], (const char *)a[1], a[2], (i32)a[3]);
}

/* Directory entries of procfs are filtered in our own memory, so that the guest never sees the unfiltered buffer. */
static long filtered_dirents(struct thread *t, struct call *c, int fd, const u64 *a)
{
	u64 size = a[2] < 32768 ? a[2] : 32768;
	u8 *buf = marshal_alloc(t, size);
	if (!buf)
		return -ENOMEM;
	for (;;) {
		long n = host_call(c->nr, fd, buf, size);
		if (n <= 0)
			return n;
		n = procfs_filter_dirents(t, fd, buf, n, c->nr == __NR_getdents);
		if (!n) /* all were hidden: 0 would say "end" */
			continue;
		long r = copy_to_guest(gptr_of(a[1]), buf, (u64)n);
		return r ? r : n;
	}
}

long h_getdents(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	int fd = (int)a[0], own = fd_own(t->proc, fd);
	if (own < 0)
		return own;
	bool proc = own == fd ? fd_class_of(t->proc, fd) == FD_PROC_DIR : procfs_is(own);
	long r = proc ? filtered_dirents(t, c, own, a) : host_call(c->nr, own, a[1], a[2]);
	fd_own_close(own, fd);
	return r;
}

/* --- changes by path ------------------------------------------------------------------------------------------------- */

/* Calls `nr`(proc_fd, "self/fd/N", x, y, flags) on what `path` leads to; N is followed natively, being ours. */
static long change(struct thread *t, int dirfd, const char *path, bool follow, bool empty, long nr, u64 x, u64 y, u64 flags)
{
	char link[32];
	struct proc *p = t->proc;
	if (!*path && empty && dirfd != AT_FDCWD) {
		fd_link(link, dirfd);
		return host_call(nr, p->proc_fd, link, x, y, flags);
	}
	long fd = find_shown(t, dirfd, !*path && empty ? "." : path, follow);
	if (fd < 0)
		return fd;
	fd_link(link, (int)fd);
	long r = host_call(nr, p->proc_fd, link, x, y, flags);
	host_call(__NR_close, fd);
	return r;
}

long h_chmod(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	return change(t, AT_FDCWD, (const char *)a[0], true, false, __NR_fchmodat, a[1], 0, 0);
}

long h_fchmodat(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	return change(t, (int)a[0], (const char *)a[1], true, false, __NR_fchmodat, a[2], 0, 0);
}

long h_fchmodat2(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	if (a[3] & ~(u64)(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH))
		return -EINVAL;
	return change(t, (int)a[0], (const char *)a[1], !(a[3] & AT_SYMLINK_NOFOLLOW), a[3] & AT_EMPTY_PATH, __NR_fchmodat, a[2], 0, 0);
}

static long chown_at(struct thread *t, int dirfd, u64 path, u64 uid, u64 gid, u64 flags)
{
	if (flags & ~(u64)(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH))
		return -EINVAL;
	return change(t, dirfd, (const char *)path, !(flags & AT_SYMLINK_NOFOLLOW), flags & AT_EMPTY_PATH, __NR_fchownat, uid, gid, 0);
}

long h_chown(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	return chown_at(t, AT_FDCWD, a[0], a[1], a[2], 0);
}

long h_lchown(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	return chown_at(t, AT_FDCWD, a[0], a[1], a[2], AT_SYMLINK_NOFOLLOW);
}

long h_fchownat(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	return chown_at(t, (int)a[0], a[1], a[2], a[3], a[4]);
}

/* ts: guest address of two timespecs, or 0; the kernel reads it. */
static long set_times(struct thread *t, int dirfd, u64 path, u64 ts, u64 flags)
{
	if (flags & ~(u64)(AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH))
		return -EINVAL;
	if (!path) { /* NULL: the descriptor itself */
		if (dirfd == AT_FDCWD)
			return -EFAULT;
		return flags ? -EINVAL : host_call(__NR_utimensat, dirfd, 0, ts, 0);
	}
	return change(t, dirfd, (const char *)path, !(flags & AT_SYMLINK_NOFOLLOW), flags & AT_EMPTY_PATH, __NR_utimensat, ts, 0, 0);
}

long h_utimensat(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	return set_times(t, (int)a[0], a[1], a[2], a[3]);
}

static long set_timevals(struct thread *t, int dirfd, u64 path, u64 tv)
{
	struct timespec_k ts[2];
	if (tv) {
		if (copy_from_guest(ts, gptr_of(tv), sizeof ts))
			return -EFAULT;
		for (int i = 0; i < 2; i++) {
			if (ts[i].nsec < 0 || ts[i].nsec >= 1000000)
				return -EINVAL;
			ts[i].nsec *= 1000;
		}
	}
	return set_times(t, dirfd, path, tv ? (u64)ts : 0, 0);
}

long h_utimes(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	return set_timevals(t, AT_FDCWD, a[0], a[1]);
}

long h_futimesat(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	return set_timevals(t, (int)a[0], a[1], a[2]);
}

long h_utime(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	i64 when[2];
	if (!a[1])
		return set_times(t, AT_FDCWD, a[0], 0, 0);
	if (copy_from_guest(when, gptr_of(a[1]), sizeof when))
		return -EFAULT;
	struct timespec_k ts[2] = {{when[0], 0}, {when[1], 0}};
	return set_times(t, AT_FDCWD, a[0], (u64)ts, 0);
}

/* truncate() has no form for O_PATH descriptors: what was found is opened for writing. */
long h_truncate(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	struct stat_k st;
	char link[32];
	if ((i64)a[1] < 0)
		return -EINVAL;
	long fd = path_resolve(t, AT_FDCWD, (const char *)a[0], true);
	if (fd < 0)
		return fd;
	long r = host_call(__NR_fstat, fd, &st);
	if (!r && (st.mode & S_IFMT) != S_IFREG)
		r = (st.mode & S_IFMT) == S_IFDIR ? -EISDIR : -EINVAL;
	fd_link(link, (int)fd);
	long w = r ? r : host_call(__NR_openat, t->proc->proc_fd, link, O_WRONLY | O_CLOEXEC | O_LARGEFILE, 0);
	if (w >= 0) {
		r = host_call(__NR_ftruncate, w, a[1]);
		host_call(__NR_close, w);
	} else {
		r = w;
	}
	host_call(__NR_close, fd);
	return r;
}

long h_chdir(struct thread *t, struct call *c)
{
	(void)c;
	long fd = find_shown(t, AT_FDCWD, (const char *)marshal_of(t)->arg[0], true);
	if (fd < 0)
		return fd;
	long r = host_call(__NR_fchdir, fd);
	host_call(__NR_close, fd);
	return r;
}

/* Calls that have no form for an O_PATH descriptor, but one that does not follow: what the walk found gets its canonical path, whose last
 * component is not followed. A race can then lead to another file of the guest's, never through a magic link. */
static long find_name(struct thread *t, const char *path, char **name)
{
	char link[32];
	*name = marshal_alloc(t, PATH_MAX);
	if (!*name)
		return -ENOMEM;
	long fd = find_shown(t, AT_FDCWD, path, true);
	if (fd < 0)
		return fd;
	fd_link(link, (int)fd);
	long n = host_call(__NR_readlinkat, t->proc->proc_fd, link, *name, PATH_MAX - 1);
	host_call(__NR_close, fd);
	if (n < 0)
		return n;
	(*name)[n] = 0;
	return **name == '/' ? 0 : -ENOENT; /* outside the root, or of no mount: a descriptor's, not a path's */
}

/* setxattr 188, lsetxattr 189, and so for get, list and remove: the form that does not follow links has the next number. */
#define NOT_FOLLOWING 1
long h_xattr_path(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	char *name;
	long r = find_name(t, (const char *)a[0], &name);
	return r ? r : host_call(c->nr + NOT_FOLLOWING, name, a[1], a[2], a[3], a[4]);
}

#define IN_DONT_FOLLOW 0x02000000u
#define IN_ALL 0xf700efffu /* events and flags that there are */

long h_inotify_add_watch(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	char *name;
	if (!(a[2] & IN_ALL))
		return -EINVAL;
	if (a[2] & IN_DONT_FOLLOW)
		return host_call(__NR_inotify_add_watch, a[0], a[1], a[2]);
	long r = find_name(t, (const char *)a[1], &name);
	return r ? r : host_call(__NR_inotify_add_watch, a[0], name, a[2] | IN_DONT_FOLLOW);
}

/* Only AT_SYMLINK_FOLLOW can lead through a magic link; it is how O_TMPFILE files get their name. */
long h_linkat(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	const char *from = (const char *)a[1];
	char link[32];
	if (a[4] & ~(u64)(AT_SYMLINK_FOLLOW | AT_EMPTY_PATH))
		return -EINVAL;
	if (!(a[4] & AT_SYMLINK_FOLLOW) || (!*from && a[4] & AT_EMPTY_PATH))
		return host_call(__NR_linkat, a[0], a[1], a[2], a[3], a[4]);
	long fd = path_resolve(t, (int)a[0], from, true);
	if (fd < 0)
		return fd;
	fd_link(link, (int)fd);
	long r = host_call(__NR_linkat, t->proc->proc_fd, link, a[2], a[3], AT_SYMLINK_FOLLOW);
	host_call(__NR_close, fd);
	return r;
}

/* --- fcntl ---------------------------------------------------------------------------------------------------------- */

static u32 fcntl_pointer(u32 cmd)
{
	switch (cmd) {
	case F_GETLK:
	case F_SETLK:
	case F_SETLKW:
	case F_OFD_GETLK:
	case F_OFD_SETLK:
	case F_OFD_SETLKW:
		return 32;
	case F_SETOWN_EX:
	case F_GETOWN_EX:
	case F_GETOWNER_UIDS:
	case F_GET_RW_HINT:
	case F_SET_RW_HINT:
	case F_GET_FILE_RW_HINT:
	case F_SET_FILE_RW_HINT:
		return 8;
	default:
		return 0;
	}
}

#define F_OWNER_PGRP 2

/* Who gets SIGIO, as a structure. Of a single thread or process, too. */
static long set_owner(struct thread *t, const u64 *a)
{
	i32 owner[2]; /* kind, number */
	if (copy_from_guest(owner, gptr_of(a[2]), sizeof owner))
		return -EFAULT;
	if (owner[0] != F_OWNER_PGRP && tid_hidden(t, owner[1]))
		return -ESRCH;
	return host_call(__NR_fcntl, a[0], F_SETOWN_EX, owner);
}

long h_fcntl(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	u32 cmd = (u32)a[1], size = fcntl_pointer(cmd);
	if (size && !guest_ok(a[2], size))
		return -EFAULT;
	switch (cmd) {
	case F_DUPFD:
	case F_DUPFD_CLOEXEC:
		return fd_dup_from(t, (int)a[0], cmd, a[2]);
	case F_DUPFD_QUERY:
		return marshal_hold(t, (int)a[2]) ? host_call(__NR_fcntl, a[0], cmd, a[2]) : -EBADF;
	case F_SETLKW:
	case F_OFD_SETLKW:
	case F_SETLEASE:
		if (!c->may_block)
			return CALL_TO_TRAP;
		return blocking_call(t, __NR_fcntl, a[0], a[1], a[2], 0, 0, 0);
	case F_SETOWN_EX:
		return set_owner(t, a);
	case F_SETOWN:
		if (tid_hidden(t, (int)a[2]))
			return -ESRCH;
		return host_call(__NR_fcntl, a[0], a[1], a[2]);
	case F_GETFD:
	case F_SETFD:
	case F_GETFL:
	case F_SETFL:
	case F_GETLK:
	case F_SETLK:
	case F_OFD_GETLK:
	case F_OFD_SETLK:
	case F_GETOWN:
	case F_SETSIG:
	case F_GETSIG:
	case F_GETOWN_EX:
	case F_GETOWNER_UIDS:
	case F_GETLEASE:
	case F_NOTIFY:
	case F_CREATED_QUERY:
	case F_SETPIPE_SZ:
	case F_GETPIPE_SZ:
	case F_ADD_SEALS:
	case F_GET_SEALS:
	case F_GET_RW_HINT:
	case F_SET_RW_HINT:
	case F_GET_FILE_RW_HINT:
	case F_SET_FILE_RW_HINT:
		return host_call(__NR_fcntl, a[0], a[1], a[2]);
	default:
		return refuse(t, -EINVAL);
	}
}
