/* Processes made while other threads open and close files: a child has what was open, no more (numbers that its parent's threads had in use
 * for a moment), and nothing else under a number that it knows. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define KNOWN 5 /* the null device, or closed */

extern char **environ;
static volatile int stop, other, opened;
static struct stat null;

static void *look_around(void *unused)
{
	char name[100];
	while (!stop) {
		if (readlink("/proc/self/exe", name, sizeof name) < 0)
			exit(1);
		close(open("/proc/self/status", O_RDONLY));
		close(open("/proc/self/cwd/../etc/passwd", O_RDONLY));
	}
	return unused;
}

/* The lowest free number is KNOWN, or becomes it by close(). */
static void *open_and_close(void *unused)
{
	while (!stop) {
		int fd = open("/dev/null", O_RDONLY);
		close(fd);
		fd = open("/proc/self/mem", O_RDWR);
		if (fd >= 0) { /* then it is nobody's secret */
			opened = 1;
			close(fd);
		}
	}
	return unused;
}

static int check_known(void)
{
	struct stat st;
	return !fstat(KNOWN, &st) && st.st_rdev != null.st_rdev;
}

static void forks(void)
{
	int wrong = 0;
	for (int i = 0; i < 200; i++) {
		int status;
		pid_t child = fork();
		if (!child) {
			for (int fd = KNOWN; fd < 12; fd++)
				if (dup2(0, fd) != fd)
					_exit(1);
			_exit(0);
		}
		waitpid(child, &status, 0);
		wrong += status != 0;
	}
	printf("after fork: %d\n", wrong);
}

static void spawns(void)
{
	int wrong = 0;
	for (int i = 0; i < 100; i++) {
		posix_spawn_file_actions_t actions;
		char *args[] = {"true", NULL};
		pid_t child;
		int status = 1;
		posix_spawn_file_actions_init(&actions);
		for (int fd = KNOWN; fd < 12; fd++)
			posix_spawn_file_actions_adddup2(&actions, 0, fd);
		if (!posix_spawn(&child, "/bin/true", &actions, NULL, args, environ))
			waitpid(child, &status, 0);
		wrong += status != 0;
		posix_spawn_file_actions_destroy(&actions);
	}
	printf("after posix_spawn: %d\n", wrong);
}

static void vfork_once(void)
{
	pid_t child = vfork();
	if (!child) {
		other += check_known();
		_exit(0);
	}
	waitpid(child, NULL, 0);
}

static void vforks(void)
{
	for (int i = 0; i < 3000; i++)
		vfork_once();
	printf("after vfork: %d\n", other && !opened);
}

/* A program made by vfork() has its parent's descriptors. */
static void program(void)
{
	pid_t child = vfork();
	if (!child) {
		execl("/bin/echo", "echo", "by vfork", NULL);
		_exit(1);
	}
	waitpid(child, NULL, 0);
}

static void with(void *(*run)(void *), void (*test)(void))
{
	pthread_t thread;
	stop = 0;
	if (pthread_create(&thread, NULL, run, NULL))
		exit(1);
	test();
	stop = 1;
	pthread_join(thread, NULL);
}

int main(void)
{
	stat("/dev/null", &null);
	dup2(open("/dev/null", O_RDONLY), 3);
	dup2(3, 4);
	setvbuf(stdout, NULL, _IONBF, 0);
	program();
	with(look_around, program);
	with(look_around, forks);
	with(look_around, spawns);
	with(open_and_close, vforks);
	return 0;
}
