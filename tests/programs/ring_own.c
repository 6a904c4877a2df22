/* What belongs to the calling thread although another one makes the call for it: signals, working directory and umask, limits by number.
 * `ring_own files`: a thread without CLONE_FILES. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define THREAD (CLONE_VM | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID)

static volatile int caught, running, changed;
static char stack[65536] __attribute__((aligned(16)));

static void on_signal(int signo)
{
	(void)signo;
	caught++;
}

/* So many calls in a row are answered without an exit, where that is possible at all. */
static void burst(void)
{
	for (int i = 0; i < 3000; i++)
		syscall(SYS_getppid);
}

static void send_to_nobody(int fd, const char *what)
{
	int file = open("/etc/passwd", O_RDONLY);
	burst();
	long r = sendfile(fd, file, NULL, 100);
	int error = r < 0 ? errno : 0;
	burst();
	printf("%s: %s, signals %d\n", what, strerror(error), caught);
	close(file);
	close(fd);
}

static void start(int (*run)(void *), int flags)
{
	running = 1;
	if (clone(run, stack + sizeof stack, THREAD | flags, NULL, NULL, NULL, (void *)(unsigned long)&running) < 0) {
		printf("clone: %s\n", strerror(errno));
		return;
	}
	while (running)
		usleep(1000);
}

static int own_directory(void *unused)
{
	(void)unused;
	burst();
	changed = !chdir("/usr") && (umask(0), 1);
	burst();
	syscall(SYS_exit, 0);
	return 0;
}

static int own_files(void *unused)
{
	(void)unused;
	changed = 1;
	syscall(SYS_exit, 0);
	return 0;
}

static void *limits(void *unused)
{
	struct rlimit r, set = {100, 900};
	int tid = (int)syscall(SYS_gettid);
	if (prlimit(tid, RLIMIT_NOFILE, &set, NULL) || getrlimit(RLIMIT_NOFILE, &r))
		exit(1);
	printf("limit %ld of %ld: %d\n", (long)r.rlim_cur, (long)r.rlim_max, dup2(0, 200));
	set.rlim_cur = 1 << 20;
	set.rlim_max = 2 << 20;
	if (prlimit(tid, RLIMIT_STACK, &set, NULL) || getrlimit(RLIMIT_STACK, &r))
		exit(1);
	printf("stack %ld of %ld\n", (long)r.rlim_cur, (long)r.rlim_max);
	return unused;
}

int main(int argc, char **argv)
{
	(void)argv;
	setvbuf(stdout, NULL, _IONBF, 0);
	if (argc > 1) {
		start(own_files, CLONE_FS);
		printf("ran: %d\n", changed);
		return 0;
	}
	signal(SIGPIPE, on_signal);
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) || close(pair[1]))
		return 1;
	send_to_nobody(pair[0], "socket");
	if (pipe2(pair, O_NONBLOCK) || close(pair[0]))
		return 1;
	send_to_nobody(pair[1], "pipe");
	umask(022);
	start(own_directory, CLONE_FILES);
	char here[100];
	printf("changed %d, here %s, umask %o\n", changed, getcwd(here, sizeof here), umask(022));
	pthread_t thread;
	if (pthread_create(&thread, NULL, limits, NULL))
		return 1;
	pthread_join(thread, NULL);
	return 0;
}
