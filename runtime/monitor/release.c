/* Between `create` and `start`: everything of the container is set up but its virtual machine, and this process waits to be
 * released. It is asked through a listening SOCK_SEQPACKET socket in the container's state directory, so the file system
 * decides who may (shim/abi.h, "How a monitor is started").
 *
 * Nothing of the program is loaded yet: what waits is small, and a program changed meanwhile is found as it is at the
 * start. A release is answered when the program is about to run, by release_done(). */
#include "proc.h"

#define ALL_SIGNALS (~0ull)
#define CLOEXEC 02000000
#define NONBLOCK 04000
#define F_DUPFD_CLOEXEC 1030
#define MSG_NOSIGNAL 0x4000
#define POLLIN 1
#define SIG_SETMASK 2

/* HUP INT QUIT ILL TRAP ABRT BUS FPE SEGV TERM STKFLT SYS end a waiting container; the others mean nothing to it yet. */
#define ENDING_SIGNALS 0x4000c4ffull

struct pollfd_k {
	int fd;
	short events, revents;
};

static int released_by = -1;

/* By the signal where the kernel lets it: the init of a pid namespace is not killed by a signal of its own. */
static _Noreturn void end_by(u32 signo)
{
	u64 action[4] = {0}, mask = ~(1ull << (signo - 1));
	host_call(__NR_rt_sigaction, signo, action, 0, 8);
	host_call(__NR_rt_sigprocmask, SIG_SETMASK, &mask, 0, 8);
	host_call(__NR_tgkill, host_call(__NR_getpid), host_call(__NR_gettid), signo);
	for (;;)
		host_call(__NR_exit_group, 128 + signo);
}

/* Waits until fd can be read; acts on signals meanwhile. */
static void wait_readable(int fd, int signals)
{
	for (;;) {
		struct pollfd_k p[2] = {{fd, POLLIN, 0}, {signals, POLLIN, 0}};
		host_call(__NR_poll, p, 2, -1);
		u32 info[32];
		while (host_call(__NR_read, signals, info, sizeof info) == sizeof info)
			if (info[0] - 1 < 32 && ENDING_SIGNALS >> (info[0] - 1) & 1)
				end_by(info[0]);
		if (p[0].revents)
			return;
	}
}

void release_wait(int listener, int first_number)
{
	u64 mask = ALL_SIGNALS, before = 0;
	host_call(__NR_rt_sigprocmask, SIG_SETMASK, &mask, &before, 8);
	int signals = (int)host_call(__NR_signalfd4, -1, &mask, 8, CLOEXEC | NONBLOCK);
	if (signals < 0)
		fatal("wait for start: error %d", -signals);
	while (released_by < 0) {
		wait_readable(listener, signals);
		long low = host_call(__NR_accept4, listener, 0, 0, CLOEXEC | NONBLOCK);
		if (low < 0)
			continue;
		/* Not at a number that the program is to have. */
		int peer = (int)host_call(__NR_fcntl, low, F_DUPFD_CLOEXEC, first_number);
		host_call(__NR_close, low);
		char word = 0;
		if (peer >= 0) {
			wait_readable(peer, signals);
			host_call(__NR_recvfrom, peer, &word, 1, 0, 0, 0);
		}
		if (word == PSB_RELEASE_ASK) {
			char answer = PSB_RELEASE_WAITING;
			host_call(__NR_sendto, peer, &answer, 1, MSG_NOSIGNAL, 0, 0);
		}
		if (word == PSB_RELEASE_START)
			released_by = peer;
		else if (peer >= 0)
			host_call(__NR_close, peer);
	}
	host_call(__NR_close, signals);
	host_call(__NR_close, listener);
	host_call(__NR_rt_sigprocmask, SIG_SETMASK, &before, 0, 8);
}

void release_done(void)
{
	char answer = PSB_RELEASE_STARTED;
	if (released_by < 0)
		return;
	host_call(__NR_sendto, released_by, &answer, 1, MSG_NOSIGNAL, 0, 0);
	host_call(__NR_close, released_by);
	released_by = -1;
}
