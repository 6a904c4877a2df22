/* Races between what the monitor checks and what it uses, each with a thread that changes guest memory all the while.
 *     pidfd   the word that CLONE_PIDFD fills in names other numbers, while descriptors of the monitor are open for a moment
 *     path    the path of execve changes behind the copy that is recorded
 *     files   descriptors up to the limit: no number of the monitor's is ever handed out */
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
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FIRST = 3, LAST = 40, ROUNDS = 80 };

static volatile int word;
static _Atomic int stop;

static void *flip_word(void *unused)
{
	(void)unused;
	for (unsigned i = 0; !stop; i++)
		word = (int)(FIRST + i % 12);
	return NULL;
}

/* Fails late, when the monitor has everything open. */
static void *exec_in_vain(void *unused)
{
	(void)unused;
	char *huge = malloc(1 << 20), *argv[] = {huge, NULL};
	memset(huge, 'x', (1 << 20) - 1);
	huge[(1 << 20) - 1] = 0;
	while (!stop)
		if (execve("/proc/self/exe", argv, argv) != -1 || errno != E2BIG)
			_exit(9);
	free(huge);
	return NULL;
}

static _Atomic int stolen;

/* Copies what can be had, at once: the moment is short. */
static void *grab(void *unused)
{
	(void)unused;
	for (unsigned i = 0; !stop; i++) {
		char link[64], name[256];
		int fd = fcntl((int)(FIRST + i % 12), F_DUPFD, LAST);
		if (fd < 0)
			continue;
		snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
		ssize_t len = readlink(link, name, sizeof name - 1);
		name[len > 0 ? len : 0] = 0;
		if (!strstr(name, "pidfd") && !stolen++)
			fprintf(stderr, "stolen: %s %d\n", name, len < 0 ? errno : 0);
		close(fd);
	}
	return NULL;
}

static int forge(void)
{
	pthread_t a, b, g;
	pthread_create(&g, NULL, grab, NULL);
	pthread_create(&a, NULL, flip_word, NULL);
	pthread_create(&b, NULL, exec_in_vain, NULL);
	for (int i = 0; i < ROUNDS; i++) {
		long pid = syscall(SYS_clone, CLONE_PIDFD | SIGCHLD, 0, &word, 0, 0);
		if (!pid)
			_exit(0);
		if (pid > 0)
			waitpid((pid_t)pid, NULL, 0);
		for (int fd = FIRST; fd < LAST; fd++)
			close(fd);
	}
	stop = 1;
	pthread_join(a, NULL);
	pthread_join(b, NULL);
	pthread_join(g, NULL);
	return stolen;
}

static char path[] = "/tmp/program-a";

static void *flip_path(void *unused)
{
	(void)unused;
	while (!stop)
		path[sizeof path - 2] ^= 'a' ^ 'b';
	return NULL;
}

static void copy_self(const char *to)
{
	static char buffer[1 << 20];
	int in = open("/proc/self/exe", O_RDONLY), out = open(to, O_WRONLY | O_CREAT, 0755);
	for (ssize_t n; (n = read(in, buffer, sizeof buffer)) > 0;)
		if (write(out, buffer, (size_t)n) != n)
			_exit(8);
	close(in);
	close(out);
}

static int exec_many(void)
{
	pthread_t t;
	char *argv[] = {"program", "end", NULL};
	copy_self("/tmp/program-a");
	copy_self("/tmp/program-b");
	pthread_create(&t, NULL, flip_path, NULL);
	int failed = 0;
	for (int i = 0; i < 60; i++) {
		int status;
		pid_t pid = vfork();
		if (!pid) {
			syscall(SYS_execve, path, argv, argv + 2);
			_exit(7);
		}
		waitpid(pid, &status, 0);
		failed += status != 0;
	}
	stop = 1;
	pthread_join(t, NULL);
	return failed;
}

static int fill(void)
{
	struct rlimit limit = {1024, 1024};
	setrlimit(RLIMIT_NOFILE, &limit);
	int n = 0, fd, pair[2];
	while ((fd = open("/", O_PATH)) >= 0 && n++ < 5000)
		if (fcntl(fd, F_GETFL) < 0)
			return -1;
	int e = errno;
	if (pipe(pair) != -1 || errno != EMFILE)
		return -2;
	for (int i = FIRST; i < 1024; i++) /* all that can be closed, the monitor's cannot */
		close(i);
	int again = 0;
	while ((fd = open("/", O_PATH)) >= 0 && again++ < 5000)
		;
	return e == EMFILE && n > 1000 && n == again ? 0 : -3;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	if (!strcmp(what, "pidfd"))
		printf("stolen %d\n", forge());
	else if (!strcmp(what, "path"))
		printf("failed %d\n", exec_many());
	else if (!strcmp(what, "files"))
		printf("files %d\n", fill());
	return 0;
}
