/* Descriptor numbers that change their meaning while calls use them, and what the monitor counts about them.
 *     select   the table grows while select() looks at it
 *     part     a process that shares its descriptors with another gets a table of its own, and goes on opening files
 *     holds    65536 uses of one number, which is then closed
 *     swap     a directory becomes /proc/self/fd and back, while it is copied and listed
 *     exec     files at the numbers that an execve uses
 *     cloexec  numbers that an execve has closed, while files are opened that are refused
 *     full     a number is closed that a call uses, when there is no other one left */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static _Atomic int stop;

/* --- select ----------------------------------------------------------------------------------------------------------- */

static void *grow(void *unused)
{
	for (int fd = 64; fd < 1024; fd *= 2) {
		usleep(200);
		dup2(0, fd);
	}
	stop = 1;
	return unused;
}

/* Errors of a select() that names nothing but the standard descriptors. */
static int select_once(void)
{
	pthread_t t;
	int bad = 0;
	pthread_create(&t, NULL, grow, NULL);
	while (!stop) {
		fd_set set[3];
		struct timeval now = {0, 0};
		memset(set, 0, sizeof set);
		for (int i = 0; i < 3; i++)
			for (int fd = 0; fd < 3; fd++)
				FD_SET(fd, &set[i]);
		bad += select(1024, &set[0], &set[1], &set[2], &now) < 0;
	}
	pthread_join(t, NULL);
	return bad;
}

static int selects(void)
{
	int bad = 0;
	for (int i = 0; i < 60; i++) {
		int status;
		pid_t child = fork();
		if (!child)
			_exit(select_once() ? 1 : 0);
		waitpid(child, &status, 0);
		bad += status != 0;
	}
	return bad;
}

/* --- part ------------------------------------------------------------------------------------------------------------------ */

static int sleep_long(void *unused)
{
	(void)unused;
	return (int)sleep(1000);
}

/* Calls by which the monitor gets busy for the program: its server wakes. */
static void burst(void)
{
	for (int i = 0; i < 2000; i++)
		syscall(SYS_getppid);
}

/* Opened by one call, used by another kind. */
static int files(void)
{
	int bad = 0;
	for (int i = 0; i < 200; i++) {
		char byte = 'x', back = 0;
		int fd = memfd_create("file", 0), other = fcntl(fd, F_DUPFD, 100), pair[2];
		bad += write(fd, &byte, 1) != 1 || fsync(fd) || fsync(other) || pread(other, &back, 1, 0) != 1 || back != byte;
		bad += pipe(pair) || write(pair[1], "y", 1) != 1 || read(pair[0], &back, 1) != 1 || back != 'y';
		bad += tee(pair[0], pair[1], 1, SPLICE_F_NONBLOCK) != -1 || errno == EBADF;
		close(fd);
		close(other);
		close(pair[0]);
		close(pair[1]);
	}
	return bad;
}

static int part(int by_unshare)
{
	char *stack = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	burst();
	pid_t child = clone(sleep_long, stack + 65536, CLONE_VM | CLONE_FILES | SIGCHLD, NULL);
	int bad = child < 0;
	burst();
	bad += files();
	bad += by_unshare ? unshare(CLONE_FILES) : (int)syscall(SYS_close_range, 900, 900, CLOSE_RANGE_UNSHARE);
	burst();
	bad += files();
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	munmap(stack, 65536);
	return bad;
}

/* --- holds ------------------------------------------------------------------------------------------------------------------- */

enum { MOST = 253, SENDERS = 260, SOCKETS = 4 }; /* SCM_MAX_FD; 259 * 253 + 9 = 65536. One socket has room for a hundred */

static int held, full[SOCKETS][2];
static pthread_barrier_t ready;

static void *send_many(void *number)
{
	int which = (int)(long)number, n = which ? MOST : 9;
	struct {
		struct cmsghdr head;
		int fd[MOST + 1];
	} control = {.head = {CMSG_LEN((size_t)n * sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
	struct iovec byte = {"x", 1};
	struct msghdr m = {.msg_iov = &byte, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = CMSG_SPACE((size_t)n * sizeof(int))};
	for (int i = 0; i < n; i++)
		control.fd[i] = held;
	pthread_barrier_wait(&ready);
	sendmsg(full[which % SOCKETS][1], &m, MSG_NOSIGNAL);
	return NULL;
}

static int too_many(void)
{
	static struct {
		struct cmsghdr head;
		int fd[MOST + 1];
	} control = {.head = {CMSG_LEN((MOST + 1) * sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
	struct iovec byte = {"x", 1};
	struct msghdr m = {.msg_iov = &byte, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	return sendmsg(full[0][1], &m, MSG_DONTWAIT) < 0 ? errno : 0;
}

static int holds(void)
{
	pthread_t t[SENDERS];
	pthread_attr_t small;
	for (int i = 0; i < SOCKETS; i++)
		if (socketpair(AF_UNIX, SOCK_STREAM, 0, full[i]))
			return 2;
	printf("one more than a message takes: %d\n", too_many() == EINVAL);
	static char block[4096];
	for (int i = 0; i < SOCKETS; i++)
		while (send(full[i][1], block, sizeof block, MSG_DONTWAIT) > 0)
			;
	held = open("/dev/null", O_RDONLY);
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 65536);
	pthread_barrier_init(&ready, NULL, SENDERS + 1);
	for (long i = 0; i < SENDERS; i++)
		if (pthread_create(&t[i], &small, send_many, (void *)i))
			return 3;
	pthread_barrier_wait(&ready);
	sleep(1); /* all of them wait for room */
	close(held);
	int fd = open("/dev/null", O_RDONLY);
	printf("given to another file: %d\n", fd == held);
	for (int i = 0; i < SOCKETS; i++)
		shutdown(full[i][1], SHUT_RDWR);
	for (int i = 0; i < SENDERS; i++)
		pthread_join(t[i], NULL);
	int pair[2] = {open("/dev/null", O_RDONLY), open("/dev/null", O_RDONLY)};
	printf("free again: %d\n", pair[0] == held || pair[1] == held || fd == held);
	return 0;
}

/* --- swap -------------------------------------------------------------------------------------------------------------------- */

enum { PLACE = 20, MONITORS = 900 }; /* no number of ours is as high as the latter */

static int plain, numbers;

static void *swap(void *unused)
{
	while (!stop) {
		dup2(numbers, PLACE);
		dup2(plain, PLACE);
	}
	return unused;
}

/* Names in the directory that are numbers no one here has. */
static int strange(int fd)
{
	static char buf[32768];
	int n = 0;
	lseek(fd, 0, SEEK_SET);
	long len = syscall(SYS_getdents64, fd, buf, sizeof buf);
	for (long at = 0; at < len; at += *(unsigned short *)(buf + at + 16))
		n += atoi(buf + at + 19) >= MONITORS;
	return n;
}

static int swaps(void)
{
	pthread_t t;
	int direct = 0, copies = 0;
	plain = open("/", O_RDONLY | O_DIRECTORY);
	numbers = open("/proc/self/fd", O_RDONLY | O_DIRECTORY);
	dup2(plain, PLACE);
	pthread_create(&t, NULL, swap, NULL);
	for (int i = 0; i < 15000; i++) {
		direct += strange(PLACE);
		int fd = i & 1 ? dup(PLACE) : fcntl(PLACE, F_DUPFD_CLOEXEC, 30);
		if (fd < 0)
			return 2;
		copies += strange(fd);
		close(fd);
	}
	stop = 1;
	pthread_join(t, NULL);
	printf("strange numbers: %d %d\n", direct, copies);
	return 0;
}

/* --- exec ------------------------------------------------------------------------------------------------------------------- */

/* Fails when everything is in place for the next program. */
static void *exec_in_vain(void *unused)
{
	char *huge = malloc(1 << 20), *argv[] = {huge, NULL};
	memset(huge, 'x', (1 << 20) - 1);
	huge[(1 << 20) - 1] = 0;
	while (!stop)
		execve("/proc/self/exe", argv, argv);
	free(huge);
	return unused;
}

static int open_many(void)
{
	int n = 0;
	while (open("/dev/null", O_RDONLY) >= 0)
		n++;
	return n;
}

enum { SPARE = 16, BATCH = 6 }; /* an execve has a dozen open for a moment */

static int other_files(void)
{
	pthread_t t;
	struct stat st;
	int other = 0, highest = 1023;
	open_many();
	while (close(highest))
		highest--;
	for (int i = 0; i < SPARE; i++)
		close(100 + i);
	pthread_create(&t, NULL, exec_in_vain, NULL);
	for (int i = 0; i < 8000; i++) {
		int fd[BATCH];
		for (int k = 0; k < BATCH; k++)
			fd[k] = open("/dev/null", O_RDONLY); /* or none: the other thread has it */
		for (int k = 0; k < BATCH; k++)
			other += fd[k] >= 0 && (fstat(fd[k], &st) || st.st_rdev != makedev(1, 3));
		for (int k = 0; k < BATCH; k++)
			close(fd[k]);
	}
	stop = 1;
	pthread_join(t, NULL);
	printf("other files: %d\n", other);
	return 0;
}

/* --- cloexec ---------------------------------------------------------------------------------------------------------------- */

enum { CLOSED = 30 };

static int opened;

/* The number is one of those that were closed, for as long as it takes to say no. */
static void *open_memory(void *unused)
{
	while (!stop) {
		int fd = open("/proc/self/mem", O_RDWR);
		if (fd >= 0) { /* then there is no secret in it */
			opened = 1;
			close(fd);
		}
	}
	return unused;
}

static int closed_by_execve(int again)
{
	char *argv[] = {"program", "closed", NULL};
	static long word = 42;
	long got;
	int seen = 0;
	pthread_t t;
	if (!again) {
		for (int i = 0; i < CLOSED; i++)
			if (open("/dev/null", O_RDONLY | O_CLOEXEC) < 0)
				return 2;
		execv("/proc/self/exe", argv);
		return 3;
	}
	pthread_create(&t, NULL, open_memory, NULL);
	for (int fd = 3; fd < CLOSED; fd++) {
		for (int i = 0; i < 200; i++)
			seen += pread(fd, &got, sizeof got, (off_t)(unsigned long)&word) > 0;
		while (open("/dev/null", O_RDONLY) > fd) /* the lowest that is free is the next one from here on */
			close(fd + 1);
	}
	stop = 1;
	pthread_join(t, NULL);
	printf("seen: %d\n", seen && !opened);
	return 0;
}

/* --- full ------------------------------------------------------------------------------------------------------------------- */

static int ends[2];

static void *read_end(void *byte)
{
	return (void *)read(ends[0], byte, 1);
}

static int full_table(void)
{
	pthread_t t;
	char byte = 0;
	void *got;
	if (pipe(ends) || pthread_create(&t, NULL, read_end, &byte))
		return 2;
	usleep(300000);
	open_many();
	printf("close: %d", close(ends[0]));
	printf(", again: %d", close(ends[0]));
	printf(", write: %zd", write(ends[1], "x", 1));
	pthread_join(t, &got);
	int fd = open("/dev/null", O_RDONLY);
	printf(", read: %ld %c, number: %d\n", (long)got, byte, fd == ends[0]);
	return 0;
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	setvbuf(stdout, NULL, _IONBF, 0);
	if (!strcmp(mode, "select"))
		printf("select %d\n", selects());
	else if (!strcmp(mode, "part"))
		printf("part %d %d\n", part(0), part(1));
	else if (!strcmp(mode, "holds"))
		return holds();
	else if (!strcmp(mode, "swap"))
		return swaps();
	else if (!strcmp(mode, "exec"))
		return other_files();
	else if (!strcmp(mode, "cloexec") || !strcmp(mode, "closed"))
		return closed_by_execve(mode[2] == 'o' && mode[3] == 's');
	else if (!strcmp(mode, "full"))
		return full_table();
	return 0;
}
