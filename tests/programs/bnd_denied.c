/* Calls that the test's policy denies, directly and by their arguments; prints what the program saw. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void show(const char *name, long result)
{
	printf("%s: %d %s\n", name, result >= 0, result < 0 ? strerrorname_np(errno) : "-");
	fflush(stdout);
}

int main(void)
{
	show("mkdir", mkdir("/tmp/denied", 0700));
	show("access", access("/tmp/denied", F_OK));
	show("chmod 0644", syscall(SYS_chmod, "/tmp", 0644));
	show("chmod 01777", syscall(SYS_chmod, "/tmp", 01777));
	show("socket inet", socket(AF_INET, SOCK_STREAM, 0));
	show("socket unix", socket(AF_UNIX, SOCK_STREAM, 0));
	for (int i = 0; i < 3; i++)
		show("sync", syscall(SYS_sync));
	if (fork() == 0) {
		mkdir("/tmp/denied", 0700);
		show("child", mkdir("/tmp/denied", 0700));
		_exit(0);
	}
	wait(NULL);
	if (fork() == 0) {
		syscall(SYS_swapoff, "/nothing");
		puts("not reached");
		_exit(0);
	}
	int status;
	wait(&status);
	printf("killed by %d\n", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
	return 0;
}
