/* What is left when single threads end: by the policy's verdict KILL_THREAD (on swapoff), or by exit(2) itself. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_mutex_t robust;
static int gate[2];

static void on_sigsys(int signo)
{
	(void)signo;
	static const char text[] = "handler: wrong\n";
	if (write(1, text, sizeof text - 1) < 0)
		_exit(99);
}

static void forbidden(void)
{
	syscall(SYS_swapoff, "/nothing");
}

static void *killed(void *arg)
{
	if (arg)
		pthread_mutex_lock(&robust);
	forbidden();
	printf("survived: wrong\n");
	return NULL;
}

/* Waits until the first thread is gone: its entry stays as a zombie of state Z. */
static void wait_for_leader(void)
{
	char path[64], text[512];
	snprintf(path, sizeof path, "/proc/self/task/%d/stat", getpid());
	for (;;) {
		FILE *f = fopen(path, "r");
		size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
		text[n] = 0;
		if (f)
			fclose(f);
		char *state = strrchr(text, ')');
		if (!state || state[2] == 'Z')
			return;
		usleep(1000);
	}
}

static void *last_exits(void *status)
{
	wait_for_leader();
	printf("still here\n");
	fflush(stdout);
	syscall(SYS_exit, (int)(long)status);
	return NULL;
}

static void *last_ends_the_group(void *status)
{
	wait_for_leader();
	printf("still here\n");
	fflush(stdout);
	_exit((int)(long)status);
}

static void *last_is_killed(void *arg)
{
	(void)arg;
	wait_for_leader();
	printf("still here\n");
	fflush(stdout);
	forbidden();
	return NULL;
}

static void worker(void)
{
	pthread_mutexattr_t attr;
	pthread_t t;
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&robust, &attr);
	pthread_create(&t, NULL, killed, &robust);
	pthread_join(t, NULL);
	int r = pthread_mutex_lock(&robust);
	printf("joined, mutex %s\n", r == EOWNERDEAD ? "EOWNERDEAD" : "other");
	for (int i = 0; i < 20; i++) {
		pthread_create(&t, NULL, killed, NULL);
		pthread_join(t, NULL);
	}
	pthread_t many[8];
	for (int i = 0; i < 8; i++)
		pthread_create(&many[i], NULL, killed, NULL);
	for (int i = 0; i < 8; i++)
		pthread_join(many[i], NULL);
	printf("all joined\n");
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	pthread_t t;
	signal(SIGSYS, on_sigsys);
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (pipe(gate))
		return 98;
	if (!strcmp(what, "worker")) {
		worker();
		return 6;
	}
	if (!strcmp(what, "alone"))
		forbidden();
	if (!strcmp(what, "leader")) {
		pthread_create(&t, NULL, last_exits, (void *)7);
		forbidden();
	}
	if (!strcmp(what, "leader-group")) {
		pthread_create(&t, NULL, last_ends_the_group, (void *)7);
		forbidden();
	}
	if (!strcmp(what, "leader-exit")) {
		pthread_create(&t, NULL, last_exits, (void *)7);
		syscall(SYS_exit, 3);
	}
	if (!strcmp(what, "leader-exit-killed")) {
		pthread_create(&t, NULL, last_is_killed, NULL);
		syscall(SYS_exit, 3);
	}
	if (!strcmp(what, "leader-exit-group")) {
		pthread_create(&t, NULL, last_ends_the_group, (void *)7);
		syscall(SYS_exit, 3);
	}
	printf("survived: wrong\n");
	return 99;
}
