/* psb-waiter: stands for a container's planner while there is nothing to plan.
 *
 *     psb-waiter PROGRAM [ARGUMENT...]      descriptor 3: socket to the container's monitors, 4: their plan index
 *
 * Blocks until a monitor asks for a plan and then starts PROGRAM (the planner, a Python program of many megabytes), which ends
 * when it has had nothing to do for a while. Ends when the other end of the socket is closed: with the container's last
 * monitor. It holds nothing else: not the caller's descriptors, directory, terminal. Who kills the waiter lets PROGRAM finish what
 * was asked for: it is of use to later containers. */
#include "../monitor/host.h"

#define SOCKET 3
#define FIRST_OTHER 5
#define POLLIN 1
#define PR_SET_NAME 15

struct pollfd_k {
	int fd;
	short events, revents;
};

_Noreturn void waiter(u64 *sp);

__asm__(".globl _start\n"
	"_start:\n\t"
	"xor %ebp, %ebp\n\t"
	"mov %rsp, %rdi\n\t"
	"and $-16, %rsp\n\t"
	"call waiter");

static _Noreturn void end(int status)
{
	for (;;)
		host_call(__NR_exit_group, status);
}

_Noreturn void waiter(u64 *sp)
{
	u64 argc = sp[0];
	char **argv = (char **)(sp + 1), **envp = argv + argc + 1;
	if (argc < 2)
		end(2);
	host_call(__NR_close_range, FIRST_OTHER, ~0u, 0);
	host_call(__NR_chdir, "/");
	host_call(__NR_prctl, PR_SET_NAME, "psb-planner", 0, 0, 0);
	for (;;) {
		struct pollfd_k p = {SOCKET, POLLIN, 0};
		long n = host_call(__NR_poll, &p, 1, -1);
		if (n == -EINTR)
			continue;
		char byte;
		/* POLLIN comes at the end as well; a look tells a request from it. */
		if (n != 1 || host_call(__NR_recvfrom, SOCKET, &byte, 1, 2 /* MSG_PEEK */, 0, 0) <= 0)
			end(0);
		long pid = host_call(__NR_fork);
		if (pid == 0) {
			host_call(__NR_execve, argv[1], argv + 1, envp);
			end(127);
		}
		int status = 0;
		while (pid > 0 && host_call(__NR_wait4, pid, &status, 0, 0) == -EINTR)
			;
		if (pid < 0 || status) /* no process, or a planner that fails: the request would be waiting for ever */
			end(1);
	}
}
