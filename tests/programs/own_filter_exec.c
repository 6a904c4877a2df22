/* A filter that one thread gives to all (TSYNC) while another one executes a program: if it was given, the program has it.
 * Usage: own_filter_exec. Before each execve the filter comes a little later. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define TOLD 3 /* end of a pipe for who has given a filter */
#define ROUNDS 60

static int delay;

/* getppid() fails from here on. Long, so that it takes its time to be copied. */
static long give(void)
{
	static struct sock_filter code[2000];
	const int n = sizeof code / sizeof code[0];
	for (int i = 0; i < n - 4; i++)
		code[i] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_IMM, 0);
	code[n - 4] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	code[n - 3] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1);
	code[n - 2] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOTTY);
	code[n - 1] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog program = {n, code};
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
}

static volatile int begin;

static void *give_later(void *unused)
{
	while (!begin)
		;
	for (volatile int i = 0; i < delay; i++)
		;
	if (!give() && write(TOLD, "g", 1) != 1)
		exit(3);
	return unused;
}

/* In a child: becomes the program that looks at itself. */
static void execute(int round)
{
	pthread_t t;
	char *argv[] = {"program", "look", NULL};
	delay = round * 20000;
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	pthread_create(&t, NULL, give_later, NULL);
	begin = 1;
	execv("/proc/self/exe", argv);
	_exit(4);
}

int main(int argc, char **argv)
{
	int told[2], lost = 0, strange = 0;
	if (argc > 1 && !strcmp(argv[1], "look"))
		return syscall(SYS_getppid) == -1 && errno == ENOTTY ? 1 : 2;
	for (int round = 0; round < ROUNDS; round++) {
		int status;
		char byte;
		if (pipe(told) || told[0] != TOLD)
			return 5;
		pid_t child = fork();
		if (!child) {
			dup2(told[1], TOLD);
			execute(round);
		}
		close(told[1]);
		waitpid(child, &status, 0);
		int given = read(told[0], &byte, 1) == 1;
		close(told[0]);
		lost += given && WEXITSTATUS(status) != 1;
		strange += !WIFEXITED(status) || (WEXITSTATUS(status) != 1 && WEXITSTATUS(status) != 2);
	}
	printf("lost %d, strange %d\n", lost, strange);
	return 0;
}
