/* Waiting for signals: sigtimedwait, signalfd, and the calls that change the mask for their own time. */
#include "sig.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/signalfd.h>

static volatile sig_atomic_t hits, last;
static volatile int mask_in_handler, mask_in_frame;

static void handler(int signo, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	sigset_t m;
	(void)info;
	sigprocmask(SIG_BLOCK, NULL, &m);
	hits++;
	last = signo;
	mask_in_handler = sigismember(&m, SIGUSR1) | sigismember(&m, SIGUSR2) << 1 | sigismember(&m, SIGHUP) << 2;
	mask_in_frame = sigismember(&uc->uc_sigmask, SIGUSR1) | sigismember(&uc->uc_sigmask, SIGUSR2) << 1 | sigismember(&uc->uc_sigmask, SIGHUP) << 2;
}

static int mask_now(void)
{
	sigset_t m;
	sigprocmask(SIG_BLOCK, NULL, &m);
	return sigismember(&m, SIGUSR1) | sigismember(&m, SIGUSR2) << 1 | sigismember(&m, SIGHUP) << 2;
}

static void timed(void)
{
	sigset_t s = set_of(SIGUSR1, SIGRTMIN);
	siginfo_t info;
	struct timespec zero = {0, 0}, some = {0, 50000000}, much = {5, 0};
	sigprocmask(SIG_BLOCK, &s, NULL);
	say("nothing pending: %s", result(sigtimedwait(&s, &info, &zero)));
	say("nothing comes: %s", result(sigtimedwait(&s, &info, &some)));
	kill(getpid(), SIGUSR1);
	int r = sigtimedwait(&s, &info, &zero);
	say("pending: %d code %d own pid %d", r, info.si_code, info.si_pid == getpid());
	pid_t pid = kill_later(SIGUSR1, 40);
	r = sigtimedwait(&s, &info, &much);
	say("comes: %d code %d from the child %d", r, info.si_code, info.si_pid == pid);
	reap(pid);
	on_signal(SIGUSR2, handler, SA_RESTART);
	pid = kill_later(SIGUSR2, 40);
	const char *text = result(sigtimedwait(&s, &info, &much));
	say("another: %s, handlers %d", text, (int)hits);
	reap(pid);
	say("bad pointer: %s", result(syscall(SYS_rt_sigtimedwait, 8, NULL, NULL, 8)));
	say("bad size: %s", result(syscall(SYS_rt_sigtimedwait, &s, NULL, NULL, 16)));
	say("bad timeout: %s", result(syscall(SYS_rt_sigtimedwait, &s, NULL, &(struct timespec){0, 2000000000}, 8)));
	/* a signal that is not blocked, with a handler */
	on_signal(SIGURG, handler, 0);
	hits = 0;
	s = set_of(SIGURG, 0);
	pid = kill_later(SIGURG, 40);
	text = result(sigtimedwait(&s, &info, &much));
	say("not blocked: %s, handlers %d", text, (int)hits);
	reap(pid);
}

static void with_mask(const char *name, int which)
{
	sigset_t none, all, hup = set_of(SIGHUP, 0);
	sigemptyset(&none);
	sigfillset(&all);
	struct timespec much = {5, 0}, little = {0, 30000000};
	int ep = epoll_create1(0);
	struct epoll_event ev;
	fd_set fds;
	for (int kind = 0; kind < 4; kind++) {
		/* 0: comes during the call; 1: pending before; 2: blocked during the call as well; 3: pending before, all blocked */
		const sigset_t *mask = kind < 2 ? &hup : &all;
		const struct timespec *ts = kind < 2 ? &much : &little;
		pid_t pid = -1;
		hits = 0;
		if (kind % 2)
			kill(getpid(), SIGUSR1);
		else
			pid = kill_later(SIGUSR1, kind ? 0 : 40);
		const char *r = "";
		switch (which) {
		case 0:
			r = result(ppoll(NULL, 0, ts, mask));
			break;
		case 1:
			FD_ZERO(&fds);
			r = result(pselect(0, &fds, NULL, NULL, ts, mask));
			break;
		case 2:
			r = result(epoll_pwait(ep, &ev, 1, ts == &much ? 5000 : 30, mask));
			break;
		case 3:
			if (kind >= 2) {
				kill(getpid(), SIGTERM);
				mask = &none;
			}
			r = result(sigsuspend(mask));
			break;
		}
		say("%s %d: %s, handlers %d, mask %d", name, kind, r, (int)hits, mask_now());
		if (hits)
			say("  in handler %d, in frame %d", mask_in_handler, mask_in_frame);
		if (pid > 0)
			reap(pid);
		if (kind >= 2) {
			hits = 0;
			unblock(SIGUSR1);
			sleep_ms(1);
			say("  then delivered: %d", which == 3 ? 1 : (int)hits);
			block(SIGUSR1);
		}
	}
	close(ep);
}

static void by_descriptor(void)
{
	sigset_t s = set_of(SIGUSR1, SIGCHLD);
	sigprocmask(SIG_BLOCK, &s, NULL);
	int fd = signalfd(-1, &s, SFD_NONBLOCK | SFD_CLOEXEC);
	check(fd >= 0);
	struct signalfd_siginfo info[4];
	say("signalfd empty: %s", result(read(fd, info, sizeof info)));
	sigqueue(getpid(), SIGUSR1, (union sigval){.sival_int = 99});
	struct pollfd p = {fd, POLLIN, 0};
	say("poll: %s", result(poll(&p, 1, 1000)));
	long n = read(fd, info, sizeof info);
	say("read %ld: signal %u code %d value %d", n, info[0].ssi_signo, info[0].ssi_code, info[0].ssi_int);
	pid_t pid = fork();
	if (pid == 0)
		_exit(3);
	say("poll for the child: %s", result(poll(&p, 1, 2000)));
	n = read(fd, info, sizeof info);
	say("read %ld: signal %u code %d status %d child %d", n, info[0].ssi_signo, info[0].ssi_code, info[0].ssi_status, info[0].ssi_pid == (uint32_t)pid);
	reap(pid);
	close(fd);
	fd = signalfd(-1, &s, 0);
	pid = kill_later(SIGUSR1, 40);
	n = read(fd, info, sizeof *info); /* blocks */
	say("blocking read %ld: signal %u", n, info[0].ssi_signo);
	n = read(fd, info, sizeof *info);
	say("and the child's end %ld: signal %u", n, info[0].ssi_signo);
	reap(pid);
	close(fd);
}

int main(void)
{
	timed();
	on_signal(SIGUSR1, handler, 0);
	on_signal(SIGTERM, handler, 0);
	unblock(SIGUSR2);
	with_mask("ppoll", 0);
	with_mask("pselect", 1);
	with_mask("epoll_pwait", 2);
	with_mask("sigsuspend", 3);
	say("ppoll size: %s", result(syscall(SYS_ppoll, NULL, 0, NULL, &last, 4)));
	say("ppoll pointer: %s", result(syscall(SYS_ppoll, NULL, 0, NULL, 8, 8)));
	say("sigsuspend size: %s", result(syscall(SYS_rt_sigsuspend, &last, 4)));
	by_descriptor();
	return done();
}
