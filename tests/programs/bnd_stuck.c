/* Calls that begin to wait although a moment ago they would not have: whatever waits is interrupted by a signal for its thread.
 *     accept  O_NONBLOCK comes and goes
 *     read    a file becomes a pipe and a file again
 *     open    a name is that of a file, and that of a fifo
 *     fifo    an open() that waits from its start */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define PLACE 20

static _Atomic int stop, turns, signals;
static int listener, file, ends[2];

static void on_signal(int signo)
{
	(void)signo;
	signals++;
}

static void *change_flag(void *unused)
{
	while (!stop) {
		fcntl(listener, F_SETFL, 0);
		fcntl(listener, F_SETFL, O_NONBLOCK);
	}
	return unused;
}

static void try_accept(void)
{
	int fd = accept(listener, NULL, NULL);
	if (fd >= 0 || (errno != EAGAIN && errno != EINTR))
		exit(3);
}

static void *change_file(void *unused)
{
	while (!stop) {
		dup2(ends[0], PLACE);
		dup2(file, PLACE);
	}
	return unused;
}

static void try_read(void)
{
	char byte;
	if (read(PLACE, &byte, 1) < 0 && errno != EINTR)
		exit(3);
}

static void *change_name(void *unused)
{
	while (!stop) {
		symlink("/tmp/a-file", "/tmp/new");
		rename("/tmp/new", "/tmp/name");
		symlink("/tmp/a-fifo", "/tmp/new");
		rename("/tmp/new", "/tmp/name");
	}
	return unused;
}

static void try_open(void)
{
	int fd = open("/tmp/name", O_RDONLY);
	if (fd < 0 && errno != EINTR && errno != ENOENT)
		exit(3);
	close(fd);
}

static void *try_on(void *one)
{
	while (!stop) {
		((void (*)(void))one)();
		turns++;
	}
	return NULL;
}

/* Whether `one` goes on all the time, interrupted now and then. */
static int goes_on(void (*one)(void), void *(*change)(void *))
{
	pthread_t tries, changes;
	int stuck = 0;
	pthread_create(&changes, NULL, change, NULL);
	pthread_create(&tries, NULL, try_on, (void *)one);
	for (int i = 0, last = -1; i < 150 && stuck < 100; i++) {
		usleep(20000);
		pthread_kill(tries, SIGUSR1);
		stuck = turns == last ? stuck + 1 : 0;
		last = turns;
		i -= stuck > 0;
	}
	if (stuck >= 100) {
		printf("stuck\n");
		_exit(0);
	}
	stop = 1;
	for (int i = 0; i < 50; i++) { /* the last one may be waiting */
		usleep(2000);
		pthread_kill(tries, SIGUSR1);
	}
	pthread_join(changes, NULL);
	pthread_join(tries, NULL);
	return turns > 150;
}

static int fifo(void)
{
	alarm(1);
	int r = open("/tmp/a-fifo", O_RDONLY);
	printf("open: %d %s, signals %d\n", r, strerror(errno), signals);
	return 1;
}

static void prepare(void)
{
	struct sigaction action = {.sa_handler = on_signal};
	sigaction(SIGUSR1, &action, NULL);
	sigaction(SIGALRM, &action, NULL);
	struct sockaddr_in name = {.sin_family = AF_INET};
	listener = socket(AF_INET, SOCK_STREAM, 0);
	bind(listener, (struct sockaddr *)&name, sizeof name);
	listen(listener, 5);
	file = open("/proc/self/exe", O_RDONLY);
	if (dup2(file, PLACE) < 0 || pipe(ends))
		exit(2);
	mkfifo("/tmp/a-fifo", 0600);
	close(open("/tmp/a-file", O_CREAT | O_WRONLY, 0600));
	symlink("/tmp/a-file", "/tmp/name");
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	setvbuf(stdout, NULL, _IONBF, 0);
	prepare();
	int good = !strcmp(mode, "accept") ? goes_on(try_accept, change_flag)
		 : !strcmp(mode, "read")   ? goes_on(try_read, change_file)
		 : !strcmp(mode, "open")   ? goes_on(try_open, change_name)
					   : fifo();
	printf("good %d\n", good);
	return 0;
}
