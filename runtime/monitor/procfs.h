/* procfs.c judges what was opened; procfs_made.c makes what the program gets instead; procfs_peer.c knows what is shown of
 * descriptors and threads, and of other processes. */
#ifndef PSB_PROCFS_H
#define PSB_PROCFS_H

#include "linux_abi.h"
#include "monitor.h"

/* --- procfs_name.c ---------------------------------------------------------------------------------------------------- */

/* /proc/PID/... or /proc/PID/task/TID/...: what follows, and whose it is. */
struct proc_name {
	bool per_process;
	bool own;
	u32 pid, tid;     /* tid 0: not through task/TID */
	const char *rest; /* "", "status", "fd/3", "net/tcp"; top level: path below /proc/ */
};


bool procfs_parse(struct proc *p, const char *path, struct proc_name *n);
/* 0, or -ENOENT for what is of a thread of a monitor; CALL_TO_TRAP where that is the calling one, through thread-self. */
long procfs_hides(struct thread *t, const struct proc_name *n);
/* A number that ends the name or its component: what follows, or NULL. */
const char *procfs_number(const char *s, u32 *out);
bool procfs_is(int fd);
/* Path of an open file as the kernel tells it, of one of the container's procfs as if that were at /proc: length or -errno. */
long procfs_canonical(struct proc *p, int fd, char *buf, u64 cap);
/* Is the file that is called `path` really the one of that name in the container's procfs? */
bool procfs_genuine(struct proc *p, int fd, const char *path);

/* --- procfs_made.c ------------------------------------------------------------------------------------------------------ */

/* Writes the text of the opened file `fd` into buf; its length (above `cap`: needed, nothing is valid) or -errno. */
typedef long (*procfs_maker)(struct thread *t, int fd, char *buf, u64 cap);
long make_maps(struct thread *t, int fd, char *buf, u64 cap);
long make_environ(struct thread *t, int fd, char *buf, u64 cap);
long make_auxv(struct thread *t, int fd, char *buf, u64 cap);
long make_stat(struct thread *t, int fd, char *buf, u64 cap);
long make_smaps(struct thread *t, int fd, char *buf, u64 cap);
long make_smaps_rollup(struct thread *t, int fd, char *buf, u64 cap);
long make_statm(struct thread *t, int fd, char *buf, u64 cap);
long make_status(struct thread *t, int fd, char *buf, u64 cap);
long make_limits(struct thread *t, int fd, char *buf, u64 cap);

/* A read-only file with that text under the number `fd`, or -errno. */
long procfs_made_file(struct thread *t, int fd, const char *path, procfs_maker make);
/* What a made file was made of (a name that starts with /proc/), if that is known. */
bool procfs_made_of(struct proc *p, int fd, char *buf, u64 cap);
/* Its text anew, from the file `src` of that name. */
long procfs_make_again(struct thread *t, int fd, int src, procfs_maker make);
long procfs_text_file(struct thread *t, int fd, const char *name, const char *buf, u64 n);

/* The value behind a key of `status`, which starts its line; NULL if the kernel does not know the key. */
char *status_value(char *buf, const char *key);
/* Puts `text` in the place of a value, in a text of `n` bytes with room for it: the new length. */
u64 status_set(char *buf, u64 n, const char *key, const char *text);

/* --- procfs_size.c ------------------------------------------------------------------------------------------------------ */

/* The size, in bytes, of the address space of this process or of one of which the kernel says `host`. */
u64 procfs_vsize(struct thread *t, bool own, u64 host);
u64 procfs_show_sizes(struct thread *t, bool own, char *buf, u64 n);

/* --- procfs_peer.c: of other processes -------------------------------------------------------------------------------------- */

struct peer_answer;
/* What the magic link `n` leads to: 0, or -errno. */
long peer_link(struct thread *t, const struct proc_name *n, struct peer_answer *a);
/* The same found by the path it has, and opened: a descriptor, or -errno. What no path leads to is noted for peer_found(). */
long peer_open_link(struct thread *t, const struct peer_answer *a, u64 flags, bool last);
/* May fd, fdinfo, fd/N, fdinfo/N of another process be shown? 0 or -errno. */
long peer_shows(struct thread *t, const struct proc_name *n);

static inline void close_fd(long fd)
{
	if (fd >= 0)
		host_call(__NR_close, fd);
}

static inline long open2(int dirfd, const char *path, u64 flags, u64 mode, u64 resolve)
{
	struct open_how_k how = {flags, mode, resolve};
	return host_call(__NR_openat2, dirfd, path, &how, sizeof how);
}

#endif
