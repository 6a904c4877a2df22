/* Small operations, timed inside a container: `micro` prints one line a case, "NAME NANOSECONDS" per operation.
 *
 *     micro                      all small cases
 *     micro spawn N PROGRAM ...  fork, exec and wait for the program, after one round that warms caches up
 *     micro hold N               N children that wait, for a look at memory from outside; "ready" when they are up
 *
 * Each case runs in batches of about BATCH_NS; the median batch counts, so that one preemption does not. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BATCHES = 7, MAX_HOLD = 64 };
#define BATCH_NS 20000000ull
#define MAX_ROUNDS 200000

static int file_fd, null_fd, pipe_fd[2];

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void need(int good, const char *what)
{
	if (!good) {
		perror(what);
		exit(1);
	}
}

static void do_getppid(void)
{
	need(getppid() >= 0, "getppid");
}

static void do_pread(void)
{
	char byte;
	need(pread(file_fd, &byte, 1, 0) == 1, "pread");
}

static void do_fstat(void)
{
	struct stat st;
	need(fstat(file_fd, &st) == 0, "fstat");
}

static void do_stat(void)
{
	struct stat st;
	need(stat("/etc/passwd", &st) == 0, "stat");
}

static void do_open_close(void)
{
	int fd = open("/etc/passwd", O_RDONLY);
	need(fd >= 0, "open");
	close(fd);
}

static void do_write_null(void)
{
	need(write(null_fd, "x", 1) == 1, "write");
}

static void do_clock(void)
{
	now();
}

static void do_mmap(void)
{
	enum { LENGTH = 65536, PAGE = 4096 };
	char *p = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	need(p != MAP_FAILED, "mmap");
	for (int i = 0; i < LENGTH; i += PAGE)
		p[i] = 1;
	munmap(p, LENGTH);
}

static void do_pipe(void)
{
	char byte = 'x';
	need(write(pipe_fd[1], &byte, 1) == 1 && read(pipe_fd[0], &byte, 1) == 1, "pipe");
}

static void wait_for(pid_t child)
{
	int status;
	need(child > 0 && waitpid(child, &status, 0) == child && status == 0, "child");
}

static void do_fork(void)
{
	pid_t child = fork();
	if (child == 0)
		_exit(0);
	wait_for(child);
}

static char **spawned;
static void do_spawn(void)
{
	pid_t child = fork();
	if (child == 0) {
		execv(spawned[0], spawned);
		_exit(127);
	}
	wait_for(child);
}

static void do_exec_true(void)
{
	static char *arguments[] = {"/bin/true", NULL};
	spawned = arguments;
	do_spawn();
}

static void do_cpu(void)
{
	static volatile double sum;
	for (long i = 0; i < 100000000; i++)
		sum = sum + (double)i;
}

static const struct bench {
	const char *name;
	void (*run)(void);
} cases[] = {
	{"getppid", do_getppid},
	{"pread-1B", do_pread},
	{"fstat", do_fstat},
	{"stat", do_stat},
	{"open-close", do_open_close},
	{"write-null", do_write_null},
	{"clock_gettime", do_clock},
	{"mmap-touch-munmap-64K", do_mmap},
	{"pipe-1B", do_pipe},
	{"fork-wait", do_fork},
	{"fork-exec", do_exec_true},
	{"cpu-loop", do_cpu},
};

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static double batch(void (*run)(void), uint64_t rounds)
{
	uint64_t start = now();
	for (uint64_t i = 0; i < rounds; i++)
		run();
	return (double)(now() - start) / (double)rounds;
}

static void measure(const char *name, void (*run)(void), uint64_t rounds, int batches)
{
	double values[BATCHES];
	run();
	if (rounds == 0) {
		double probe = batch(run, 8);
		rounds = probe * 8 > BATCH_NS ? 1 : (uint64_t)(BATCH_NS / (probe + 1)) + 1;
		if (rounds > MAX_ROUNDS)
			rounds = MAX_ROUNDS;
	}
	for (int i = 0; i < batches; i++)
		values[i] = batch(run, rounds);
	qsort(values, (size_t)batches, sizeof values[0], by_value);
	printf("%s %.2f\n", name, values[batches / 2]);
	fflush(stdout);
}

static int hold(int count)
{
	int ready[2];
	char byte = 'r';
	need(count > 0 && count <= MAX_HOLD && pipe(ready) == 0, "hold");
	for (int i = 0; i < count; i++)
		if (fork() == 0) {
			need(write(ready[1], &byte, 1) == 1, "hold");
			for (;;)
				pause();
		}
	for (int i = 0; i < count; i++)
		need(read(ready[0], &byte, 1) == 1, "hold");
	puts("ready");
	fflush(stdout);
	/* Ends when its standard input does. */
	while (read(0, &byte, 1) > 0)
		;
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "hold") == 0)
		return hold(atoi(argv[2]));
	if (argc > 3 && strcmp(argv[1], "spawn") == 0) {
		spawned = argv + 3;
		measure("spawn", do_spawn, 1, atoi(argv[2]) < BATCHES ? atoi(argv[2]) : BATCHES);
		return 0;
	}
	if (argc != 1)
		return 2;
	file_fd = open("/etc/passwd", O_RDONLY);
	null_fd = open("/dev/null", O_WRONLY);
	need(file_fd >= 0 && null_fd >= 0 && pipe(pipe_fd) == 0, "set-up");
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
		measure(cases[i].name, cases[i].run, cases[i].run == do_cpu ? 1 : 0, cases[i].run == do_cpu ? 3 : BATCHES);
	return 0;
}
