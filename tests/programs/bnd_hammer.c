/* Threads that do everything with few descriptor numbers, while others open what they must not have. Nothing of the program's can be read
 * from: whatever gives a byte is not its own. Usage: bnd_hammer SECONDS */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FIRST = 3, LAST = 14 };

extern char **environ;
static _Atomic int stop, stolen, opened, rounds;
static long word = 42;

static unsigned pick(unsigned *seed)
{
	*seed = *seed * 1103515245 + 12345;
	return *seed >> 16 & 0x7fff;
}

static int number(unsigned *seed)
{
	return FIRST + (int)(pick(seed) % (LAST - FIRST));
}

static void *open_forbidden(void *unused)
{
	static const char *const names[] = {"/proc/self/mem", "/proc/thread-self/mem", "/proc/self/task/1/mem", "/proc/self/environ", "/proc/self/maps",
					    "/proc/self/fd/../mem", "/proc/self/exe", "/proc/self/status"};
	for (unsigned i = 0; !stop; i++) {
		int fd = open(names[i % 8], i % 8 < 3 ? O_RDWR : O_RDONLY);
		if (fd < 0)
			continue;
		if (i % 8 < 3 || i % 8 == 5)
			opened = 1;
		close(fd); /* of the others the program may have a look: they are at a number for a moment */
	}
	return unused;
}

static void pass_on(int fd)
{
	int pair[2], got = -1;
	char byte = 'x';
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec v = {&byte, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
	if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair))
		return;
	control.head = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
	memcpy(CMSG_DATA(&control.head), &fd, sizeof fd);
	if (sendmsg(pair[0], &m, MSG_DONTWAIT) == 1 && recvmsg(pair[1], &m, MSG_DONTWAIT) == 1 && m.msg_controllen >= CMSG_LEN(sizeof(int))) {
		memcpy(&got, CMSG_DATA(&control.head), sizeof got);
		close(got);
	}
	close(pair[0]);
	close(pair[1]);
}

static void spawn(void)
{
	char *argv[] = {"hammer", NULL};
	pid_t pid;
	if (!posix_spawn(&pid, "/proc/self/exe", NULL, NULL, argv, environ))
		waitpid(pid, NULL, 0);
}

static void *shuffle(void *start)
{
	unsigned seed = (unsigned)(long)start;
	for (; !stop; rounds++) {
		int a = number(&seed), b = number(&seed), n = (int)(pick(&seed) % 64);
		switch (n % 10) {
		case 0:
		case 1:
			open("/dev/null", O_RDONLY | (n & 32 ? O_CLOEXEC : 0));
			break;
		case 2:
			close(a);
			break;
		case 3:
			dup2(a, b);
			break;
		case 4:
			fcntl(a, F_DUPFD, b);
			break;
		case 5:
			pass_on(a);
			break;
		case 6:
			open("/", O_PATH);
			break;
		case 7:
			eventfd(0, EFD_NONBLOCK);
			break;
		case 8:
			syscall(SYS_close_range, a, a + 2, n & 32 ? 4 : 0);
			break;
		case 9:
			if (n == 9)
				spawn();
			else
				dup(a);
		}
	}
	return NULL;
}

static void *steal(void *start)
{
	unsigned seed = (unsigned)(long)start;
	long got;
	for (; !stop; rounds++) {
		int fd = number(&seed);
		/* At no address of a page that the kernel would give anything else for. */
		if (pread(fd, &got, sizeof got, (off_t)(unsigned long)&word) == sizeof got && got == 42)
			stolen++;
		void *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (p != MAP_FAILED) /* nothing of the program's can be mapped for writing */
			stolen++;
	}
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t t[7];
	if (argc != 2) /* spawned */
		return 0;
	for (int i = 0; i < 7; i++)
		pthread_create(&t[i], NULL, i < 2 ? open_forbidden : i < 5 ? shuffle : steal, (void *)(long)(i * 7919));
	sleep((unsigned)atoi(argv[1]));
	stop = 1;
	for (int i = 0; i < 7; i++)
		pthread_join(t[i], NULL);
	printf("stolen %d, idle %d\n", stolen && !opened, rounds < 100);
	return 0;
}
