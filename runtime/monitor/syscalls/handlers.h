/* Handlers of the system-call table and what they share: the marshalled arguments. */
#ifndef PSB_SYSCALLS_HANDLERS_H
#define PSB_SYSCALLS_HANDLERS_H

#include "../monitor.h"

/* The arguments of the call in flight as the host may see them: widths made right, strings and vectors copied, pointers
 * checked. Lives at the end of t->scratch; survives from the ring server to the thread (same struct call), so that nothing is
 * fetched from the guest twice. Copies lie in the scratch in front of it, or in memory of their own when they are large. */
#define MARSHAL_HELD 8
#define MARSHAL_BIG 6
struct marshal {
	u64 arg[6];
	u32 used;                 /* bytes of scratch taken */
	u8 nheld, nbig;
	bool live;                /* made for the call in flight */
	bool refused;             /* see refuse() */
	u16 len[6];               /* of copied strings and socket addresses; 0: none */
	int held[MARSHAL_HELD];   /* descriptors held until the call ends: see fd_hold() */
	struct {
		void *p;
		u64 len;
	} big[MARSHAL_BIG];
};
#define SCRATCH_ROOM (3 * 4096)
_Static_assert(sizeof(struct marshal) <= 512, "marshal has to fit behind the scratch room");

static inline struct marshal *marshal_of(struct thread *t)
{
	return (struct marshal *)(t->scratch + SCRATCH_ROOM);
}

/* Memory for the rest of the call; NULL when there is none. */
void *marshal_alloc(struct thread *t, u64 len);
/* Gives back what was allocated since `used` and `nbig` were these. */
void marshal_free(struct marshal *m, u32 used, u32 nbig);
/* Copies an iovec array and checks every element: the copy, or NULL with *err set (EINVAL, EFAULT, ENOMEM). */
struct iovec_k *marshal_iovec(struct thread *t, u64 va, u64 count, long *err);

struct iovec_k {
	u64 base, len;
};

/* Asks the agent and waits: true in *go_on when it leaves the call to be made, else the call's result. On the thread only. */
long notify_agent(struct thread *t, const struct call *c, bool *go_on);

/* An error that the monitor's own rules give, found out after the record was written: its verdict becomes "refused". */
static inline long refuse(struct thread *t, long err)
{
	marshal_of(t)->refused = true;
	return err;
}

/* A host call with these arguments: blocking_call() on the thread, ring_call() on the ring (only for what does not wait). */
long call_host(struct thread *t, struct call *c, long nr, u64 a, u64 b, u64 d, u64 e, u64 f, u64 g);

/* The server's host call that should not wait and could: what was found out about the file may have changed since. CALL_TO_TRAP when it was
 * interrupted. ring.c */
long ring_call(long nr, u64 a, u64 b, u64 d, u64 e, u64 f, u64 g);

/* ioctl_net.c; `a`: the call's arguments */
long ioctl_route(struct thread *t, struct call *c, const u64 *a);
long ioctl_ethtool(struct thread *t, struct call *c, const u64 *a);

/* True for an address the guest may use, `len` bytes; NULL counts as good (absent, or EFAULT by the kernel). */
static inline bool guest_ok(u64 va, u64 len)
{
	return guest_range(gptr_of(va), len ? len : 1);
}

/* --- fd.c, for handlers ------------------------------------------------------------------------------ */
/* A descriptor number used by a call in flight. While it is held, close() does not make the number free, so that a number
 * checked here cannot become a monitor file that some other thread is opening right now. False: not published. */
bool fd_hold(struct proc *p, int fd);
void fd_drop(struct proc *p, int fd);
/* The same in the host's signal handler, which may have interrupted anything. */
bool fd_hold_in_handler(struct proc *p, int fd);
void fd_drop_in_handler(struct proc *p, int fd);
/* The same for the rest of the call. */
bool marshal_hold(struct thread *t, int fd);
/* A number that means the same file as long as the call wants it, whatever other threads do with `fd`: that itself where there is nobody
 * else, or one of our own (-errno: there is none left). */
int fd_own(struct proc *p, int fd);
void fd_own_close(int own, int fd);
/* Publishes a descriptor whose nature is known from the call that made it. */
long fd_publish_as(struct thread *t, int fd, enum fd_class class);
/* As dup3() of published `from`: `to`, or -errno. */
long fd_dup_onto(struct thread *t, int from, int to, u32 flags);
long fd_close(struct thread *t, int fd);
/* F_DUPFD and F_DUPFD_CLOEXEC. */
long fd_dup_from(struct thread *t, int fd, u32 cmd, u64 least);

/* --- procfs.c ------------------------------------------------------------------------------------------ */
/* Opened file on procfs: fd (possibly another one with synthesised content) or -errno, then closed. `flags` as at open. */
long procfs_admit(struct thread *t, int fd, bool *made);
/* Makes the text of a made file (class FD_MADE) anew. 0 or -errno. */
long procfs_renew(struct thread *t, int fd);
/* For a descriptor of class FD_PROC_DIR: drops entries the guest must not see from a getdents buffer; the new length. */
long procfs_filter_dirents(struct thread *t, int fd, u8 *buf, long len, bool old_layout);
/* Learns what stat() of a magic link could show of the monitor: identities of its files. The VM exists. */
struct vault;
void procfs_start(struct proc *p, const struct vault *v);
/* Metadata that a native walk found: may it be of something that only a magic link leads to, or of procfs itself? Then the path has
 * to be walked by path_resolve(), and procfs_shows() asked about what it gives. */
bool procfs_suspect(const struct proc *p, u64 dev, u64 ino, u64 blksize);
long procfs_shows(struct thread *t, int fd);
/* A path resolved to an O_PATH descriptor (monitor's, temporary) without following a magic link that is not permitted. */
long path_resolve(struct thread *t, int dirfd, const char *path, bool follow);
/* openat2 with RESOLVE_NO_MAGICLINKS, permitted magic links followed, nothing checked yet about what was opened. */
long path_open_how(struct thread *t, int dirfd, const char *path, u64 flags, u64 mode, u64 resolve);
/* Text of the link that `fd` (O_PATH|O_NOFOLLOW on a symlink) stands for, as the guest should see it; length or -errno. */
long path_readlink(struct thread *t, int dirfd, const char *path, char *buf, u64 cap);
/* "self/fd/N", to be used relative to p->proc_fd. */
bool capable(u32 capability); /* of the thread: effective */
bool fd_nonblocking(int fd); /* O_NONBLOCK is set; io.c */
u64 iovec_total(const struct iovec_k *v, u32 n); /* bytes; n as the kernel has it: 32 bits of a count. io.c */
/* wait4 and waitid with these options neither wait nor want the caller's own children: the ring server may ask. wait.c */
bool wait_only_looks(u64 options);
void fd_link(char buf[32], int fd);

/* --- the core: provided by proc.c; a direct call as long as it is not ---------------------------------- */
/* Policy verdict KILL_THREAD: the calling thread ends as by SIGSYS (by SIGKILL in the program's own strict mode), with the process if it is the last. */
_Noreturn void thread_killed_by_policy(struct thread *t, int signo);
/* The thread has something of its own now that the ring server has otherwise. */
void proc_part_from_ring(struct thread *t);
u32 proc_new_generation(void); /* for a thread that has such things from its start */
long proc_change_credentials(struct thread *t, long nr, const u64 arg[6]);
long h_set_robust_list(struct thread *t, struct call *c);
long h_get_robust_list(struct thread *t, struct call *c);

/* tids.c */
long clock_usable(struct thread *t, i32 id); /* 0 or -EINVAL */
long h_capget(struct thread *t, struct call *c);
long h_priority(struct thread *t, struct call *c);
long h_timer_create(struct thread *t, struct call *c);

/* aio.c */
void aio_forked(void); /* a child has no contexts */
long h_io_cancel(struct thread *t, struct call *c);
long h_io_destroy(struct thread *t, struct call *c);
long h_io_getevents(struct thread *t, struct call *c);
long h_io_setup(struct thread *t, struct call *c);
long h_io_submit(struct thread *t, struct call *c);

/* the core (address space, processes) */
long h_arch_prctl(struct thread *t, struct call *c);
long h_brk(struct thread *t, struct call *c);
long h_clone(struct thread *t, struct call *c);
long h_clone3(struct thread *t, struct call *c);
long h_seccomp(struct thread *t, struct call *c);
long h_mlockall(struct thread *t, struct call *c);
long h_munlockall(struct thread *t, struct call *c);
long h_execve(struct thread *t, struct call *c);
long h_execveat(struct thread *t, struct call *c);
long h_exit(struct thread *t, struct call *c);
long h_exit_group(struct thread *t, struct call *c);
long h_fork(struct thread *t, struct call *c);
long h_madvise(struct thread *t, struct call *c);
long h_mmap(struct thread *t, struct call *c);
long h_mprotect(struct thread *t, struct call *c);
long h_mremap(struct thread *t, struct call *c);
long h_munmap(struct thread *t, struct call *c);
long h_pkey_mprotect(struct thread *t, struct call *c);
long h_set_tid_address(struct thread *t, struct call *c);
long h_shmat(struct thread *t, struct call *c);
long h_shmget(struct thread *t, struct call *c);
long h_shmdt(struct thread *t, struct call *c);
long h_vfork(struct thread *t, struct call *c);

/* signal.c */
long h_pause(struct thread *t, struct call *c);
long h_rt_sigaction(struct thread *t, struct call *c);
long h_rt_sigpending(struct thread *t, struct call *c);
long h_rt_sigprocmask(struct thread *t, struct call *c);
long h_rt_sigreturn(struct thread *t, struct call *c);
long h_rt_sigsuspend(struct thread *t, struct call *c);
long h_rt_sigtimedwait(struct thread *t, struct call *c);
long h_sigaltstack(struct thread *t, struct call *c);

/* io.c fs.c net.c wait.c ident.c ioctl.c */
long h_access(struct thread *t, struct call *c);
long h_chdir(struct thread *t, struct call *c);
long h_chmod(struct thread *t, struct call *c);
long h_chown(struct thread *t, struct call *c);
long h_chroot(struct thread *t, struct call *c);
long h_clock(struct thread *t, struct call *c);
long h_close(struct thread *t, struct call *c);
long h_close_range(struct thread *t, struct call *c);
long h_creat(struct thread *t, struct call *c);
long h_dup(struct thread *t, struct call *c);
long h_dup2(struct thread *t, struct call *c);
long h_dup3(struct thread *t, struct call *c);
long h_epoll_create(struct thread *t, struct call *c);
long h_epoll_pwait(struct thread *t, struct call *c);
long h_epoll_pwait2(struct thread *t, struct call *c);
long h_epoll_wait(struct thread *t, struct call *c);
long h_eventfd(struct thread *t, struct call *c);
long h_eventfd2(struct thread *t, struct call *c);
long h_faccessat(struct thread *t, struct call *c);
long h_fchmodat(struct thread *t, struct call *c);
long h_fchmodat2(struct thread *t, struct call *c);
long h_fchownat(struct thread *t, struct call *c);
long h_fcntl(struct thread *t, struct call *c);
long h_fstat(struct thread *t, struct call *c);
long h_inotify_add_watch(struct thread *t, struct call *c);
long h_name_to_handle_at(struct thread *t, struct call *c);
long h_statfs(struct thread *t, struct call *c);
long h_umount2(struct thread *t, struct call *c);
long h_futex(struct thread *t, struct call *c);
long h_futex_requeue(struct thread *t, struct call *c);
long h_futex_waitv(struct thread *t, struct call *c);
long h_futimesat(struct thread *t, struct call *c);
long h_getdents(struct thread *t, struct call *c);
long h_getpid(struct thread *t, struct call *c);
long h_getrandom(struct thread *t, struct call *c);
long h_getrlimit(struct thread *t, struct call *c);
long h_getsockopt(struct thread *t, struct call *c);
long h_gettid(struct thread *t, struct call *c);
long h_ioctl(struct thread *t, struct call *c);
long h_lchown(struct thread *t, struct call *c);
long h_linkat(struct thread *t, struct call *c);
long h_lstat(struct thread *t, struct call *c);
long h_memfd_create(struct thread *t, struct call *c);
long h_mount(struct thread *t, struct call *c);
long h_mq_notify(struct thread *t, struct call *c);
long h_mq_open(struct thread *t, struct call *c);
long h_newfstatat(struct thread *t, struct call *c);
long h_open(struct thread *t, struct call *c);
long h_openat(struct thread *t, struct call *c);
long h_openat2(struct thread *t, struct call *c);
long h_personality(struct thread *t, struct call *c);
long h_getrusage(struct thread *t, struct call *c);
long h_sched_getaffinity(struct thread *t, struct call *c);
long h_pipe(struct thread *t, struct call *c);
long h_pipe2(struct thread *t, struct call *c);
long h_poll(struct thread *t, struct call *c);
long h_ppoll(struct thread *t, struct call *c);
long h_prctl(struct thread *t, struct call *c);
long h_pread(struct thread *t, struct call *c);
long h_preadv(struct thread *t, struct call *c);
long h_preadv2(struct thread *t, struct call *c);
long h_prlimit64(struct thread *t, struct call *c);
long h_pselect6(struct thread *t, struct call *c);
long h_pwrite(struct thread *t, struct call *c);
long h_pwritev(struct thread *t, struct call *c);
long h_pwritev2(struct thread *t, struct call *c);
long h_read(struct thread *t, struct call *c);
long h_readlink(struct thread *t, struct call *c);
long h_readlinkat(struct thread *t, struct call *c);
long h_readv(struct thread *t, struct call *c);
long h_recvfrom(struct thread *t, struct call *c);
long h_recvmmsg(struct thread *t, struct call *c);
long h_recvmsg(struct thread *t, struct call *c);
long h_sched_setattr(struct thread *t, struct call *c);
long h_select(struct thread *t, struct call *c);
long h_semctl(struct thread *t, struct call *c);
long h_sendmmsg(struct thread *t, struct call *c);
long h_sendmsg(struct thread *t, struct call *c);
long h_sendto(struct thread *t, struct call *c);
long h_setrlimit(struct thread *t, struct call *c);
long h_setsockopt(struct thread *t, struct call *c);
long h_signalfd(struct thread *t, struct call *c);
long h_signalfd4(struct thread *t, struct call *c);
long h_socket(struct thread *t, struct call *c);
long h_socketpair(struct thread *t, struct call *c);
long h_stat(struct thread *t, struct call *c);
long h_statx(struct thread *t, struct call *c);
long h_truncate(struct thread *t, struct call *c);
long h_setns(struct thread *t, struct call *c);
long h_unshare(struct thread *t, struct call *c);
long h_process_vm(struct thread *t, struct call *c);
long h_kcmp(struct thread *t, struct call *c);
long h_utime(struct thread *t, struct call *c);
long h_utimensat(struct thread *t, struct call *c);
long h_utimes(struct thread *t, struct call *c);
long h_waitid(struct thread *t, struct call *c);
long h_write(struct thread *t, struct call *c);
long h_writev(struct thread *t, struct call *c);
long h_xattr_path(struct thread *t, struct call *c);

#endif
