/* Paths that lead through procfs to descriptor numbers the program has not opened: the sandbox has some there. Every call of the
 * table that takes a path, by every spelling; a kernel without sandbox says that nothing is there. Prints a line for every call and
 * spelling with the answers of all numbers; calls that work on a name and follow nothing (mkdir) only say whether they failed. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Where the monitor keeps its own (test_host_filter.py looks whether it does). */
static const int numbers[] = {1023, 1024, 1025, 1026, 1027, 1028, 1029, 1030, 1031, 1064, 1065, 1066};
enum { NUMBERS = sizeof numbers / sizeof *numbers, MISSES = 8 };

/* Arguments of a call: what stands for the path, the directory, memory of ours, an inotify descriptor. */
enum { P = 1000001, D, B, I, S };

struct call {
	const char *name;
	int follows; /* looks at what the path leads to: the answer has to be the kernel's */
	long nr, arg[6];
};

static const struct call calls[] = {
	{"open", 1, SYS_open, {P, O_RDONLY}},
	{"open", 1, SYS_open, {P, O_PATH}},
	{"open", 1, SYS_open, {P, O_RDWR}},
	{"stat", 1, SYS_stat, {P, B}},
	{"lstat", 1, SYS_lstat, {P, B}},
	{"access", 1, SYS_access, {P, F_OK}},
	{"execve", 1, SYS_execve, {P, 0, 0}},
	{"truncate", 1, SYS_truncate, {P, 0}},
	{"chdir", 1, SYS_chdir, {P}},
	{"readlink", 1, SYS_readlink, {P, B, 64}},
	{"chmod", 1, SYS_chmod, {P, 0600}},
	{"chown", 1, SYS_chown, {P, 0, 0}},
	{"utime", 1, SYS_utime, {P, 0}},
	{"utimes", 1, SYS_utimes, {P, 0}},
	{"statfs", 1, SYS_statfs, {P, B}},
	{"chroot", 1, SYS_chroot, {P}},
	{"setxattr", 1, SYS_setxattr, {P, S, B, 1, 0}},
	{"getxattr", 1, SYS_getxattr, {P, S, B, 8}},
	{"listxattr", 1, SYS_listxattr, {P, B, 8}},
	{"removexattr", 1, SYS_removexattr, {P, S}},
	{"inotify_add_watch", 1, SYS_inotify_add_watch, {I, P, 0xfff}},
	{"openat", 1, SYS_openat, {D, P, O_RDONLY}},
	{"openat", 1, SYS_openat, {D, P, O_WRONLY | O_TRUNC}},
	{"fchownat", 1, SYS_fchownat, {D, P, 0, 0, 0}},
	{"futimesat", 1, SYS_futimesat, {D, P, 0}},
	{"newfstatat", 1, SYS_newfstatat, {D, P, B, 0}},
	{"newfstatat", 1, SYS_newfstatat, {D, P, B, AT_SYMLINK_NOFOLLOW}},
	{"linkat", 1, SYS_linkat, {D, P, AT_FDCWD, S, AT_SYMLINK_FOLLOW}},
	{"readlinkat", 1, SYS_readlinkat, {D, P, B, 64}},
	{"fchmodat", 1, SYS_fchmodat, {D, P, 0600}},
	{"faccessat", 1, SYS_faccessat, {D, P, R_OK}},
	{"utimensat", 1, SYS_utimensat, {D, P, 0, 0}},
	{"name_to_handle_at", 1, SYS_name_to_handle_at, {D, P, B, B, AT_SYMLINK_FOLLOW}},
	{"execveat", 1, SYS_execveat, {D, P, 0, 0, 0}},
	{"statx", 1, SYS_statx, {D, P, 0, 0xfff, B}},
	{"statx", 1, SYS_statx, {D, P, AT_SYMLINK_NOFOLLOW, 0xfff, B}},
	{"faccessat2", 1, SYS_faccessat2, {D, P, F_OK, AT_EACCESS}},
	{"faccessat2", 1, SYS_faccessat2, {D, P, F_OK, AT_SYMLINK_NOFOLLOW}},
	{"rename", 0, SYS_rename, {P, S}},
	{"rename", 0, SYS_rename, {S, P}},
	{"mkdir", 0, SYS_mkdir, {P, 0777}},
	{"rmdir", 0, SYS_rmdir, {P}},
	{"creat", 0, SYS_creat, {P, 0600}},
	{"link", 0, SYS_link, {P, S}},
	{"unlink", 0, SYS_unlink, {P}},
	{"symlink", 0, SYS_symlink, {S, P}},
	{"lchown", 0, SYS_lchown, {P, 0, 0}},
	{"mknod", 0, SYS_mknod, {P, S_IFIFO | 0600, 0}},
	{"pivot_root", 0, SYS_pivot_root, {P, P}},
	{"mount", 0, SYS_mount, {P, P, 0, 4096 /* MS_BIND */, 0}},
	{"umount2", 0, SYS_umount2, {P, 0}},
	{"lsetxattr", 0, SYS_lsetxattr, {P, S, B, 1, 0}},
	{"lgetxattr", 0, SYS_lgetxattr, {P, S, B, 8}},
	{"lremovexattr", 0, SYS_lremovexattr, {P, S}},
	{"mkdirat", 0, SYS_mkdirat, {D, P, 0777}},
	{"mknodat", 0, SYS_mknodat, {D, P, S_IFIFO | 0600, 0}},
	{"unlinkat", 0, SYS_unlinkat, {D, P, 0}},
	{"renameat", 0, SYS_renameat, {D, P, AT_FDCWD, S}},
	{"renameat2", 0, SYS_renameat2, {D, P, AT_FDCWD, S, 0}},
	{"symlinkat", 0, SYS_symlinkat, {S, D, P}},
	{"openat2", 0, SYS_openat2, {D, P, B, 24}},
	{"fchmodat2", 0, 452, {D, P, 0600, 0}},
};

struct spelling {
	const char *name, *text;
	int at; /* from the directory descriptor */
	int link;
};

static const struct spelling spellings[] = {
	{"self", "/proc/self/fd/%d", 0, 0},
	{"thread-self", "/proc/thread-self/fd/%d", 0, 0},
	{"task", "/proc/self/task/%2$d/fd/%1$d", 0, 0},
	{"pid", "/proc/%2$d/fd/%1$d", 0, 0},
	{"dots", "/proc/self/fd/../../self/./fd//%d", 0, 0},
	{"root", "/proc/self/root/proc/self/fd/%d", 0, 0},
	{"cwd", "/proc/self/cwd/%d", 0, 0},
	{"directory link", "/tmp/fds/%d", 0, 0},
	{"through a descriptor", "/proc/self/fd/3/proc/self/fd/%d", 0, 0},
	{"link", "/proc/self/fd/%d", 0, 1},
	{"link to link", "/tmp/fds/%d", 0, 1},
	{"relative", "%d", 0, 0},
	{"at", "%d", 1, 0},
	{"at, dots", ".././fd/%d", 1, 0},
	{"other", "/proc/%3$d/fd/%1$d", 0, 0},
	{"other, task", "/proc/%3$d/task/%3$d/fd/%1$d", 0, 0},
	{"other, link", "/proc/%3$d/fd/%1$d", 0, 1},
	{"other, root", "/proc/%3$d/root/proc/%3$d/fd/%1$d", 0, 0},
	{"other, descriptor", "/proc/%3$d/fd/3/proc/%3$d/fd/%1$d", 0, 0},
};

static char path[256], memory[4096];
static int directory, watcher, other;

static long value(long a, const struct spelling *s)
{
	switch (a) {
	case P:
		return (long)path;
	case D:
		return s->at ? directory : AT_FDCWD;
	case B:
		return (long)memory;
	case I:
		return watcher;
	case S:
		return (long)"user.x";
	default:
		return a;
	}
}

/* The answer: 0 or the errno. What was opened is closed again. */
static int try(const struct call *c, const struct spelling *s)
{
	long v[6];
	memset(memory, 0, sizeof memory);
	if (c->nr == SYS_name_to_handle_at)
		*(unsigned *)memory = 64;
	for (int i = 0; i < 6; i++)
		v[i] = value(c->arg[i], s);
	long r = syscall(c->nr, v[0], v[1], v[2], v[3], v[4], v[5]);
	return r < 0 ? errno : 0;
}

static int wants_path_at(const struct call *c)
{
	return c->arg[0] == D || c->arg[1] == D;
}

static void one(const struct call *c, const struct spelling *s)
{
	int seen[MISSES], nseen = 0, reached = 0;
	char target[256];
	for (int k = 0; k < NUMBERS; k++) {
		snprintf(target, sizeof target, s->text, numbers[k], getpid(), other);
		if (s->link) {
			snprintf(path, sizeof path, "/tmp/link");
			unlink(path);
			if (symlink(target, path)) {
				perror("symlink");
				exit(1);
			}
		} else {
			snprintf(path, sizeof path, "%s", target);
		}
		int e = try(c, s), known = 0;
		reached += !e;
		for (int i = 0; i < nseen; i++)
			known |= seen[i] == e;
		if (!known && nseen < MISSES)
			seen[nseen++] = e;
		if (chdir("/proc/self/fd"))
			exit(1);
	}
	if (!c->follows) {
		printf("%s, %s: %s\n", c->name, s->name, reached ? "REACHED" : "failed");
		return;
	}
	printf("%s %lx, %s:", c->name, c->arg[c->arg[0] == D ? 3 : 1] & 0xffffff, s->name);
	for (int i = 0; i < nseen; i++)
		printf(" %s", seen[i] ? strerrorname_np(seen[i]) : "REACHED");
	printf("\n");
}

/* --- a link that changes while it is followed ------------------------------------------------------------------------- */

static _Atomic int stop;

static void *flip(void *unused)
{
	(void)unused;
	while (!stop)
		syscall(SYS_renameat2, AT_FDCWD, "/tmp/flip", AT_FDCWD, "/tmp/flop", 2 /* RENAME_EXCHANGE */);
	return NULL;
}

static int race(void)
{
	struct stat good, st;
	struct statx sx;
	struct statfs good_fs, fs;
	int wrong = 0;
	if (symlink("/etc/passwd", "/tmp/flip") || stat("/etc/passwd", &good) || statfs("/etc/passwd", &good_fs))
		return -1;
	for (int k = 0; k < NUMBERS; k++) {
		pthread_t t;
		char target[64];
		snprintf(target, sizeof target, "/proc/self/fd/%d", numbers[k]);
		unlink("/tmp/flop");
		unlink("/tmp/flip");
		if (symlink(target, "/tmp/flop") || symlink("/etc/passwd", "/tmp/flip"))
			return -1;
		stop = 0;
		if (pthread_create(&t, NULL, flip, NULL))
			return -1;
		for (int i = 0; i < 300; i++) {
			if (!stat("/tmp/flip", &st))
				wrong += st.st_ino != good.st_ino || st.st_dev != good.st_dev;
			if (!statx(AT_FDCWD, "/tmp/flip", 0, STATX_BASIC_STATS, &sx))
				wrong += sx.stx_ino != good.st_ino;
			if (!statfs("/tmp/flip", &fs))
				wrong += fs.f_type != good_fs.f_type;
		}
		stop = 1;
		pthread_join(t, NULL);
	}
	return wrong;
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (open("/", O_PATH) != 3 || symlink("/proc/self/fd", "/tmp/fds"))
		return 1;
	directory = open("/proc/self/fd", O_RDONLY | O_DIRECTORY);
	watcher = (int)syscall(SYS_inotify_init1, 0);
	if (directory < 0 || watcher < 0 || chdir("/proc/self/fd"))
		return 1;
	if (argc > 1 && !strcmp(argv[1], "race")) {
		printf("wrong %d\n", race());
		return 0;
	}
	other = fork();
	if (!other)
		for (;;)
			pause();
	for (unsigned i = 0; i < sizeof calls / sizeof *calls; i++)
		for (unsigned k = 0; k < sizeof spellings / sizeof *spellings; k++)
			if (!spellings[k].at || wants_path_at(&calls[i]))
				one(&calls[i], &spellings[k]);
	kill(other, SIGKILL);
	return 0;
}
