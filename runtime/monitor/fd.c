/* Published descriptors (invariant 3): the guest can use a number only while it is marked here. The monitor's own
 * descriptors live at high numbers and are never marked.
 *
 * A number can change its meaning between the check and the host call: another thread closes it, and the kernel hands it out
 * again to whatever is opened next, which may be a file that is still being examined and will be refused. Therefore calls *hold* the
 * numbers they use, and close() of a held number leaves a harmless placeholder behind until the last holder is done:
 *     hold:  use++, then look whether it is published         close:  unpublish, then look at use
 * (both sequentially consistent), so at least one side sees the other. dup2() onto a held number does replace the file there, by another one of
 * the program's: who looks at a file before it acts on it needs a number of its own, fd_own(). */
#include "linux_abi.h"
#include "monitor.h"
#include "syscalls/handlers.h"
#include "fd_table.h"
#include "kvm.h"

#define STRAYS 32u /* so far above the others may numbers be that were in use for a moment */
#define PREFERRED_TOP 1088 /* monitor descriptors below it, and above the usual limit of 1024: a larger kernel table makes every fork slower */

struct lock *fd_lock(struct proc *p)
{
	return &fd_tail(p)->lock;
}

bool fd_published(struct proc *p, int fd)
{
	u8 c = fd_class_raw(p, fd);
	return c != FD_NONE && c < ZOMBIE;
}

enum fd_class fd_class_of(struct proc *p, int fd)
{
	u8 c = fd_class_raw(p, fd);
	return c < ZOMBIE ? (enum fd_class)c : FD_NONE;
}

void fd_mark(struct proc *p, int fd, u8 class)
{
	atomic_store(fd_class_ref(p, fd), class);
	if (class == FD_NONE && (u32)fd < fd_tail(p)->full)
		fd_tail(p)->full = (u32)fd;
	if (class != FD_NONE && (u32)fd >= fd_tail(p)->high)
		fd_tail(p)->high = (u32)fd + 1;
	if (class != FD_NONE && class < ZOMBIE && (u32)fd >= fd_tail(p)->top)
		fd_tail(p)->top = (u32)fd + 1;
}

bool fd_hold(struct proc *p, int fd)
{
	if (!fd_in_table(fd))
		return false;
	atomic_fetch_add(&fd_tail(p)->use[fd], 1);
	if (fd_published(p, fd))
		return true;
	fd_drop(p, fd);
	return false;
}

/* Closes a placeholder that nobody holds any more; the lock is held. */
static void bury(struct proc *p, int fd)
{
	if (fd_class_raw(p, fd) == ZOMBIE && !atomic_load(&fd_tail(p)->use[fd])) {
		host_call(__NR_close, fd);
		fd_mark(p, fd, FD_NONE);
	}
}

void fd_sweep_stray(struct proc *p)
{
	int fd = (int)fd_tail(p)->stray - 1;
	fd_tail(p)->stray = 0;
	bury(p, fd);
}

void fd_drop(struct proc *p, int fd)
{
	if (atomic_fetch_sub(&fd_tail(p)->use[fd], 1) != 1 || likely(fd_class_raw(p, fd) != ZOMBIE))
		return;
	lock_acquire(fd_lock(p));
	bury(p, fd);
	lock_release(fd_lock(p));
}

bool fd_hold_in_handler(struct proc *p, int fd)
{
	if (!fd_in_table(fd))
		return false;
	atomic_fetch_add(&fd_tail(p)->use[fd], 1);
	if (fd_published(p, fd))
		return true;
	fd_drop_in_handler(p, fd);
	return false;
}

/* The lock may be the interrupted code's: then the next close() tidies up. */
void fd_drop_in_handler(struct proc *p, int fd)
{
	if (atomic_fetch_sub(&fd_tail(p)->use[fd], 1) != 1 || likely(fd_class_raw(p, fd) != ZOMBIE))
		return;
	fd_tail(p)->stray = (u32)fd + 1;
	if (lock_try(fd_lock(p))) {
		fd_sweep_stray(p);
		lock_release(fd_lock(p));
	}
}

long fd_close_locked(struct proc *p, int fd)
{
	fd_mark(p, fd, FD_NONE);
	if (likely(!atomic_load(&fd_tail(p)->use[fd])))
		return host_call(__NR_close, fd);
	long root = host_call(__NR_openat, AT_FDCWD, "/", O_PATH | O_CLOEXEC, 0);
	if (root >= 0) { /* else out of numbers or memory: the file itself stays there until the last holder is done */
		host_call(__NR_dup3, root, fd, O_CLOEXEC);
		host_call(__NR_close, root);
	}
	fd_mark(p, fd, ZOMBIE);
	if (!atomic_load(&fd_tail(p)->use[fd])) {
		host_call(__NR_close, fd);
		fd_mark(p, fd, FD_NONE);
	}
	return 0;
}

long fd_close(struct thread *t, int fd)
{
	struct proc *p = t->proc;
	lock_acquire(fd_lock(p));
	if (unlikely(fd_tail(p)->stray))
		fd_sweep_stray(p);
	long r = fd_published(p, fd) ? fd_close_locked(p, fd) : -EBADF;
	lock_release(fd_lock(p));
	return r;
}

void fd_unpublish(struct proc *p, int fd)
{
	lock_acquire(fd_lock(p));
	if (fd_published(p, fd))
		fd_mark(p, fd, FD_NONE);
	lock_release(fd_lock(p));
}

long fd_publish_as(struct thread *t, int fd, enum fd_class class)
{
	struct proc *p = t->proc;
	if (!fd_may_have(p, fd)) {
		host_call(__NR_close, fd);
		return -EMFILE;
	}
	lock_acquire(fd_lock(p));
	fd_mark(p, fd, (u8)class);
	lock_release(fd_lock(p));
	return fd;
}

/* --- what a descriptor is -------------------------------------------------------------------------------------- */

/* Anonymous inodes a guest may have. KVM's, io_uring's, BPF's and others are not for it, however it came by them. */
static enum fd_class classify_anonymous(struct proc *p, int fd)
{
	static const char *const allowed[] = {"[timerfd]", "[signalfd]", "[eventpoll]", "inotify", "[pidfd]", "[userns]"};
	char link[32], name[64];
	fd_link(link, fd);
	long n = host_call(__NR_readlinkat, p->proc_fd, link, name, sizeof name - 1);
	if (n < 0)
		return FD_NONE;
	name[n] = 0;
	if (strncmp(name, "anon_inode:", 11))
		return strncmp(name, "pidfd:", 6) ? FD_NONE : FD_OTHER;
	if (!strcmp(name + 11, "[eventfd]"))
		return FD_EVENT;
	for (u32 i = 0; i < ARRAY_LEN(allowed); i++)
		if (!strcmp(name + 11, allowed[i]))
			return FD_OTHER;
	return FD_NONE;
}

static enum fd_class classify_chr(u64 rdev)
{
	u32 major = dev_major(rdev), minor = dev_minor(rdev);
	if (major == 1 && minor == 3) /* null */
		return FD_FILE;
	if (major == 1 && (minor == 5 || minor == 7 || minor == 9)) /* zero, full, urandom: never wait */
		return FD_DEVICE;
	if (major == 4 || major == 5 || (major >= 136 && major <= 143))
		return FD_TTY;
	return FD_OTHER;
}

/* procfs has blocks of 1024 bytes; nothing else needs the second look. */
static bool on_procfs(int fd, const struct stat_k *st)
{
	struct statfs_k fs;
	if (dev_major(st->dev) || st->blksize != 1024)
		return false;
	return !host_call(__NR_fstatfs, fd, &fs) && fs.type == PROC_SUPER_MAGIC;
}

/* Mapping such a file covers whole huge pages, whatever length was asked for (and checked). */
#define HUGETLBFS_MAGIC 0x958458f6l
static bool on_hugetlbfs(int fd, const struct stat_k *st)
{
	struct statfs_k fs;
	return st->blksize >= 65536 && !dev_major(st->dev) && !host_call(__NR_fstatfs, fd, &fs) && fs.type == HUGETLBFS_MAGIC;
}

/* Class by what it is, FD_NONE for what the guest must not have; *proc: needs procfs_admit(). */
static enum fd_class classify(struct proc *p, int fd, bool *proc)
{
	struct stat_k st;
	if (host_call(__NR_fstat, fd, &st))
		return FD_NONE;
	if (st.dev == p->monitor_dev && st.ino == p->monitor_ino)
		return FD_NONE;
	switch (st.mode & S_IFMT) {
	case S_IFREG:
		if (on_hugetlbfs(fd, &st))
			return FD_NONE;
		*proc = on_procfs(fd, &st);
		return *proc ? FD_PROC : FD_FILE;
	case S_IFDIR:
		*proc = on_procfs(fd, &st);
		return *proc ? FD_PROC_DIR : FD_DIR;
	case S_IFIFO:
		return FD_PIPE;
	case S_IFSOCK:
		return FD_SOCKET;
	case S_IFCHR:
		return classify_chr(st.rdev);
	case S_IFBLK:
		return FD_FILE;
	case S_IFLNK:
		return FD_PATH;
	default:
		return classify_anonymous(p, fd);
	}
}

long fd_publish(struct thread *t, int fd)
{
	struct proc *p = t->proc;
	if (!fd_may_have(p, fd)) {
		host_call(__NR_close, fd);
		return -EMFILE;
	}
	bool proc = false, made = false;
	enum fd_class class = classify(p, fd, &proc);
	if (class == FD_NONE) {
		host_call(__NR_close, fd);
		return refuse(t, -EACCES);
	}
	if (proc) {
		long r = procfs_admit(t, fd, &made);
		if (r < 0)
			return r;
		if (r != fd)
			return fd_publish_as(t, (int)r, FD_FILE);
	}
	return fd_publish_as(t, fd, made ? FD_MADE_NEW : class);
}

void fd_made_is_old(struct proc *p, int fd)
{
	lock_acquire(fd_lock(p));
	if (fd_class_raw(p, fd) == FD_MADE_NEW)
		fd_mark(p, fd, FD_MADE);
	lock_release(fd_lock(p));
}

/* --- the table as a whole ---------------------------------------------------------------------------------------- */

static void make_table(struct proc *p)
{
	p->fds.class_of = host_alloc(TAB_BYTES);
	if (!p->fds.class_of)
		fatal("no memory for the descriptor table");
	fd_tail(p)->sharers = 1;
	/* holders are threads; a forked child has only one, and it holds nothing */
	host_call(__NR_madvise, fd_tail(p), sizeof fd_tail(p)->use, MADV_WIPEONFORK);
}

void fd_drop_closed(u64 *map, u32 n)
{
	for (u32 i = 0; i < n / 64; i++)
		for (u64 bits = map[i]; bits; bits &= bits - 1)
			if (host_call(__NR_fcntl, i * 64 + (u32)__builtin_ctzl(bits), F_GETFD) < 0)
				map[i] &= ~(bits & -bits);
}

void fd_start(struct proc *p, const u64 *map, u32 n)
{
	make_table(p);
	for (int fd = p->vault_fd - 1; fd <= p->vault_fd + 1; fd++)
		fd_mark(p, fd, MONITOR);
	for (u32 i = 0; i < n / 64; i++) {
		for (u64 bits = map[i]; bits; bits &= bits - 1) {
			int fd = (int)(i * 64 + (u32)__builtin_ctzl(bits));
			bool proc = false;
			enum fd_class class = fd_in_table(fd) ? classify(p, fd, &proc) : FD_NONE;
			if (class != FD_NONE) /* a procfs file here was admitted when it was opened, or given by the launcher */
				fd_mark(p, fd, (u8)class);
		}
	}
}

u32 fd_map_size(struct proc *p)
{
	return (u32)ROUND_UP(fd_tail(p)->top, 64);
}

void fd_map(struct proc *p, u64 *map, u32 n)
{
	memset(map, 0, n / 8);
	for (u32 fd = 0; fd < n; fd++)
		if (fd_published(p, (int)fd))
			map[fd / 64] |= 1ul << fd % 64;
}

void fd_keep_neighbours(struct proc *p)
{
	host_call(__NR_dup3, p->vault_fd, p->vault_fd - 1, O_CLOEXEC);
	host_call(__NR_dup3, p->vault_fd, p->vault_fd + 1, O_CLOEXEC);
}

/* The host's limit is higher, so it would make the descriptor, and whatever comes with it. No number below `full` is free: who opens until
 * nothing is left, and then again and again, is not answered by counting each time. */
bool fd_full(struct proc *p)
{
	struct fdtab_tail *n = fd_tail(p);
	u64 limit = p->nofile[0] < FD_COUNT ? p->nofile[0] : FD_COUNT;
	if (likely(n->high < limit))
		return false;
	lock_acquire(&n->lock);
	while (n->full < limit && fd_class_raw(p, (int)n->full) != FD_NONE)
		n->full++;
	bool full = n->full >= limit;
	lock_release(&n->lock);
	return full;
}

/* Lock held, until the kernel has made its copy: else a number might be closed in between, and the kernel's copy be of what was opened
 * after it, which may be a file that is still being examined. */
void fd_copy(struct proc *child, struct proc *parent)
{
	make_table(child);
	u32 high = fd_tail(parent)->high;
	memcpy(child->fds.class_of, parent->fds.class_of, high);
	fd_tail(child)->high = high;
	fd_tail(child)->top = fd_tail(parent)->top;
}

void fd_share(struct proc *child, struct proc *parent)
{
	child->fds = parent->fds;
	atomic_fetch_add(&fd_tail(parent)->sharers, 1);
}

void fd_forked(struct proc *p)
{
	fd_tail(p)->sharers = 1;
}

void fd_release(struct proc *p)
{
	if (p->fds.class_of && atomic_fetch_sub(&fd_tail(p)->sharers, 1) == 1)
		host_free(p->fds.class_of, TAB_BYTES);
}

static void close_strays(struct proc *p, u32 from, u32 to)
{
	for (u32 fd = from; fd < to && fd < FD_COUNT; fd++) {
		u8 class = fd_class_raw(p, (int)fd);
		if (class != FD_NONE && class != ZOMBIE)
			continue;
		host_call(__NR_close, fd);
		fd_mark(p, (int)fd, FD_NONE);
	}
}

/* Numbers that other threads of the parent had in use when it was copied: files being looked at, on the way to be published, of calls that
 * never end here. Nobody would close them, and dup2() onto them would be refused. For a process with one thread and a table of its
 * own; its monitor's descriptors are all marked. */
void fd_close_strays(struct proc *p)
{
	u32 high = fd_tail(p)->high;
	lock_acquire(fd_lock(p));
	close_strays(p, 0, high + STRAYS);
	close_strays(p, FD_OWN, FD_OWN + STRAYS);
	lock_release(fd_lock(p));
}

bool fd_shared(struct proc *p)
{
	return fd_tail(p)->sharers > 1;
}

int fd_own(struct proc *p, int fd)
{
	if (p->nthreads == 1 && !fd_shared(p))
		return fd;
	/* high, where no program puts its own; it would get EBUSY */
	long own = host_call(__NR_fcntl, fd, F_DUPFD_CLOEXEC, FD_OWN);
	return (int)(own < 0 ? host_call(__NR_fcntl, fd, F_DUPFD_CLOEXEC, 0) : own);
}

void fd_own_close(int own, int fd)
{
	if (own >= 0 && own != fd)
		host_call(__NR_close, own);
}

/* The kernel's table and ours part at one moment: under the lock no number changes its meaning. (A descriptor that some other process
 * is just opening stays behind in this one's table, published to nobody.) Only the calling host thread gets the new one. The ring server
 * keeps the old: it may not serve this process any more, to which the same numbers mean other files now. */
long fd_unshare(struct thread *t)
{
	struct proc *p = t->proc, new = *p, old = *p;
	struct marshal *m = marshal_of(t);
	if (!fd_shared(p))
		return 0;
	if (p->nthreads > 1) /* each thread would have to have a table */
		return -EAGAIN;
	make_table(&new);
	lock_acquire(fd_lock(&old));
	long r = host_call(__NR_unshare, CLONE_FILES);
	for (u32 fd = 0; !r && fd < fd_tail(&old)->high; fd++) {
		u8 class = fd_class_raw(&old, (int)fd);
		if (class == ZOMBIE) { /* nobody here holds it */
			host_call(__NR_close, fd);
			class = FD_NONE;
		}
		fd_mark(&new, (int)fd, class);
	}
	for (u32 i = 0; !r && i < m->nheld; i++) /* by this call */
		atomic_fetch_add(&fd_tail(&new)->use[m->held[i]], 1);
	if (!r) {
		p->fds = new.fds;
		proc_part_from_ring(t);
	}
	lock_release(fd_lock(&old));
	for (u32 i = 0; !r && i < m->nheld; i++)
		fd_drop(&old, m->held[i]);
	fd_release(r ? &new : &old);
	return r;
}

int fd_move_high(struct proc *p, int fd, bool cloexec)
{
	u64 limit[2] = {PREFERRED_TOP, PREFERRED_TOP};
	host_call(__NR_prlimit64, 0, RLIMIT_NOFILE, 0, limit);
	u64 top = limit[0] < PREFERRED_TOP ? limit[0] : PREFERRED_TOP;
	long n = -EMFILE;
	for (u64 base = top > MONITOR_FD_ROOM ? top - MONITOR_FD_ROOM : 3; n < 0 && base >= 3; base /= 2)
		n = host_call(__NR_fcntl, fd, cloexec ? F_DUPFD_CLOEXEC : F_DUPFD, base);
	if (n < 0) {
		if (p->fds.class_of && fd_in_table(fd)) {
			lock_acquire(fd_lock(p));
			fd_mark(p, fd, MONITOR);
			lock_release(fd_lock(p));
		}
		return fd;
	}
	if (p->fds.class_of) {
		lock_acquire(fd_lock(p));
		if (fd_in_table(fd)) /* it is ours, whatever it was taken for; once it is closed, it may be anybody's */
			fd_mark(p, fd, FD_NONE);
		if (fd_in_table((int)n))
			fd_mark(p, (int)n, MONITOR);
		lock_release(fd_lock(p));
	}
	host_call(__NR_close, fd);
	return (int)n;
}
