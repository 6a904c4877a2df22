/* A static program with another C library than the rest of the root file system: musl. Threads, a child, stdio. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 4, ROUNDS = 1000 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long total;

static void *count(void *unused)
{
	(void)unused;
	for (int i = 0; i < ROUNDS; i++) {
		pthread_mutex_lock(&lock);
		total++;
		pthread_mutex_unlock(&lock);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t thread[THREADS];
	for (int i = 0; i < THREADS; i++)
		if (pthread_create(&thread[i], NULL, count, NULL) != 0)
			return 1;
	for (int i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	printf("musl: %ld, arguments: %d, first: %s\n", total, argc - 1, argc > 1 ? argv[1] : "-");
	fflush(stdout);

	pid_t child = fork();
	if (child < 0)
		return 1;
	if (child == 0)
		_exit(7);
	int status;
	if (waitpid(child, &status, 0) != child || !WIFEXITED(status))
		return 1;
	printf("musl: child exited with %d\n", WEXITSTATUS(status));
	return 0;
}
