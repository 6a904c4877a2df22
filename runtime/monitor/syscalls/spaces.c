/* What a process sees of the system: namespaces, mounts, root.
 *
 * A new namespace, or a change to another, belongs to the calling host thread. So do credentials, and the rule is theirs: the ring server
 * gives way, and serves only threads whose generation it has (proc_change_credentials). The monitor itself needs none of
 * them: what it holds are descriptors, its procfs among them. docs/architecture.md says why the other kinds are refused. */
#include "../linux_abi.h"
#include "../proc.h"
#include "handlers.h"

#define CLONE_FS 0x200u
#define CLONE_SYSVSEM 0x40000u
#define CLONE_THREAD 0x10000u
#define CLONE_SIGHAND 0x800u
#define CLONE_VM 0x100u
#define CLONE_NEWTIME 0x80u
#define CLONE_NEWPID 0x20000000u
#define NSFS_MAGIC 0x6e736673
#define CAP_SYS_ADMIN 21

static long change(struct thread *t, long nr, u64 a, u64 b)
{
	long r = host_call(nr, a, b);
	if (!r)
		proc_part_from_ring(t);
	return r;
}

/* What is not listed is refused as without the capability. Directory, root, umask and namespaces a thread can have for itself; its calls
 * are then made by itself. A descriptor table of its own only a process can have. */
long h_unshare(struct thread *t, struct call *c)
{
	(void)c;
	u32 flags = (u32)marshal_of(t)->arg[0];
	const u32 whole = CLONE_THREAD | CLONE_SIGHAND | CLONE_VM;
	const u32 threads_own = CLONE_FS | CLONE_SYSVSEM | CLONE_NEW_ALLOWED;
	if (flags & ~(CLONE_FILES | CLONE_FS | CLONE_SYSVSEM | CLONE_NEW_EVERY | whole))
		return -EINVAL;
	if (flags & ~(CLONE_FILES | whole | threads_own))
		return refuse(t, -EPERM);
	if (flags & whole && t->proc->nthreads > 1)
		return -EINVAL;
	if (flags & CLONE_FILES && t->proc->nthreads > 1)
		return refuse(t, -EINVAL);
	long r = flags & threads_own ? change(t, __NR_unshare, flags & threads_own, 0) : 0;
	if (!r && flags & (CLONE_FS | CLONE_NEWNS))
		t->own_fs = true;
	return !r && flags & CLONE_FILES ? fd_unshare(t) : r;
}

/* The kinds are always said to the kernel: a descriptor that becomes another one meanwhile leads to none but these. */
static long join(struct thread *t, int fd, u32 kinds)
{
	/* Who enters a mount namespace must have its root and working directory to itself. The ring server shares them. */
	if (kinds & CLONE_NEWNS && (t->own_fs || t->proc->nthreads == 1)) {
		long r = change(t, __NR_unshare, CLONE_FS, 0);
		if (r < 0)
			return r;
	}
	return change(t, __NR_setns, (u64)fd, kinds);
}

/* The pid or time namespace that the program is in already: entering it changes nothing. */
static bool is_own(struct thread *t, int fd, const char *name)
{
	struct stat_k a, b;
	return !host_call(__NR_fstat, fd, &a) && !host_call(__NR_newfstatat, t->proc->proc_fd, name, &b, 0) && a.dev == b.dev && a.ino == b.ino;
}

static long join_namespace(struct thread *t, int fd, u32 kind)
{
	static const u32 kinds[] = {CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS};
	bool own = ((!kind || kind == CLONE_NEWPID) && is_own(t, fd, "self/ns/pid")) || ((!kind || kind == CLONE_NEWTIME) && is_own(t, fd, "self/ns/time"));
	if (own && capable(CAP_SYS_ADMIN))
		return 0;
	if (kind & ~CLONE_NEW_ALLOWED)
		return refuse(t, -EPERM);
	if (kind)
		return join(t, fd, kind);
	for (u32 i = 0; i < ARRAY_LEN(kinds); i++) {
		long r = join(t, fd, kinds[i]);
		if (r != -EINVAL)
			return r;
	}
	return refuse(t, -EPERM);
}

/* A namespace, or a process (pidfd) some of whose namespaces are entered. The latter the kernel allows as it allows to open them in
 * /proc: see judge_link(). */
long h_setns(struct thread *t, struct call *c)
{
	(void)c;
	int fd = (int)marshal_of(t)->arg[0];
	u32 kinds = (u32)marshal_of(t)->arg[1];
	struct statfs_k fs;
	long r = host_call(__NR_fstatfs, fd, &fs);
	if (r)
		return r;
	if (fs.type == NSFS_MAGIC)
		return join_namespace(t, fd, kinds);
	if (kinds & ~CLONE_NEW_ALLOWED)
		return refuse(t, -EPERM);
	return kinds ? join(t, fd, kinds) : -EINVAL;
}

/* --- mounts and root ---------------------------------------------------------------------------------------------- */

/* The walk says whether a forbidden magic link lies in the way; the call then repeats it natively. What a race could still
 * reach is a directory: the root of a procfs whose files are judged again when they are opened. */
static long check_path(struct thread *t, const char *path)
{
	long fd = path_resolve(t, AT_FDCWD, path, true);
	if (fd < 0)
		return fd;
	host_call(__NR_close, fd);
	return 0;
}

long h_chroot(struct thread *t, struct call *c)
{
	(void)c;
	const char *path = (const char *)marshal_of(t)->arg[0];
	long r = check_path(t, path);
	return r ? r : host_call(__NR_chroot, path);
}

#define UMOUNT_NOFOLLOW 8u
#define UMOUNT_FLAGS 15u
long h_umount2(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	if (a[1] & ~(u64)UMOUNT_FLAGS)
		return -EINVAL;
	long r = a[1] & UMOUNT_NOFOLLOW ? 0 : check_path(t, (const char *)a[0]);
	return r ? r : host_call(__NR_umount2, a[0], a[1]);
}

/* Descriptors that a file system is told by their numbers (FUSE, autofs, 9p): as any other that a call uses. One that is not the
 * program's is not open; numbers are decimal, as everybody writes them. */
static long hold_told(struct thread *t, const char *options)
{
	static const char *const keys[] = {"fd=", "rfdno=", "wfdno="};
	for (const char *s = options; s; s = strchr(s, ','), s = s ? s + 1 : NULL) {
		for (u32 i = 0; i < ARRAY_LEN(keys); i++) {
			u64 n = strlen(keys[i]);
			if (strncmp(s, keys[i], n))
				continue;
			u32 fd = 0;
			const char *digit = s + n;
			for (; *digit >= '0' && *digit <= '9' && fd < FD_MAX && (fd || digit == s + n); digit++)
				fd = fd * 10 + (u32)(*digit - '0');
			if (digit == s + n || (*digit && *digit != ',') || !marshal_hold(t, (int)fd))
				return -EINVAL;
		}
	}
	return 0;
}

/* mount: the kernel asks for the capability. A path in procfs as source would give per-process files new names; its root does not, because
 * below another name than /proc nothing of it can be opened (procfs.c). */
#define MS_REMOUNT 32ul
#define MS_BIND 4096ul
#define MS_MOVE 8192ul
long h_mount(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	if (a[0] && a[3] & (MS_BIND | MS_MOVE) && !(a[3] & MS_REMOUNT)) {
		struct statfs_k fs;
		struct stat_k st;
		long fd = path_resolve(t, AT_FDCWD, (const char *)a[0], true);
		if (fd < 0)
			return fd;
		long r = host_call(__NR_fstatfs, fd, &fs);
		if (!r)
			r = host_call(__NR_fstat, fd, &st);
		host_call(__NR_close, fd);
		if (r)
			return r;
		if (fs.type == PROC_SUPER_MAGIC && st.ino != PROC_ROOT_INO)
			return refuse(t, -EPERM);
	}
	long r = check_path(t, (const char *)a[1]);
	if (!r && a[4])
		r = hold_told(t, (const char *)a[4]);
	return r ? r : host_call(__NR_mount, a[0], a[1], a[2], a[3], a[4]);
}
