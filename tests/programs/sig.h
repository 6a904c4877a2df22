/* Shared by the signal programs. Each prints what it saw, one fact a line, without anything that differs between two runs (pids,
 * addresses), so that a run under the sandbox can be compared with a native one; check() makes a run alone meaningful. */
#ifndef SIG_PROGRAMS_H
#define SIG_PROGRAMS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static int failures;

#define check(cond)                                                             \
	do {                                                                    \
		if (!(cond)) {                                                  \
			printf("FAIL %s:%d: %s\n", __FILE_NAME__, __LINE__, #cond); \
			failures++;                                             \
		}                                                               \
	} while (0)

#define say(...) (printf(__VA_ARGS__), putchar('\n'), fflush(stdout))

/* The result of a call and its error, as text. */
#define result(call) (errno = 0, outcome((long)(call)))

static inline const char *outcome(long r)
{
	static char text[2][80];
	static int turn;
	turn = !turn;
	if (r < 0)
		snprintf(text[turn], sizeof *text, "%ld %s", r, strerror(errno));
	else
		snprintf(text[turn], sizeof *text, "%ld", r);
	return text[turn];
}

static inline int done(void)
{
	say(failures ? "failed" : "ok");
	return failures != 0;
}

static inline void on_signal(int signo, void (*fn)(int, siginfo_t *, void *), int flags)
{
	struct sigaction sa = {.sa_sigaction = fn, .sa_flags = SA_SIGINFO | flags};
	sigemptyset(&sa.sa_mask);
	if (sigaction(signo, &sa, NULL))
		perror("sigaction"), exit(2);
}

static inline sigset_t set_of(int a, int b)
{
	sigset_t s;
	sigemptyset(&s);
	if (a)
		sigaddset(&s, a);
	if (b)
		sigaddset(&s, b);
	return s;
}

static inline void block(int signo)
{
	sigset_t s = set_of(signo, 0);
	sigprocmask(SIG_BLOCK, &s, NULL);
}

static inline void unblock(int signo)
{
	sigset_t s = set_of(signo, 0);
	sigprocmask(SIG_UNBLOCK, &s, NULL);
}

static inline void sleep_ms(long ms)
{
	struct timespec ts = {ms / 1000, ms % 1000 * 1000000};
	while (clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, &ts) == EINTR)
		;
}

static inline long now_ms(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* A child that sends `signo` to this process after `ms`; wait for it with waitpid(). */
static inline pid_t kill_later(int signo, long ms)
{
	pid_t me = getpid(), pid = fork();
	if (pid == 0) {
		sleep_ms(ms);
		kill(me, signo);
		_exit(0);
	}
	return pid;
}

static inline void reap(pid_t pid)
{
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

static inline const char *status_text(int status)
{
	static char text[64];
	if (WIFEXITED(status))
		snprintf(text, sizeof text, "exit %d", WEXITSTATUS(status));
	else if (WIFSIGNALED(status))
		snprintf(text, sizeof text, "killed by %d", WTERMSIG(status));
	else if (WIFSTOPPED(status))
		snprintf(text, sizeof text, "stopped by %d", WSTOPSIG(status));
	else if (WIFCONTINUED(status))
		snprintf(text, sizeof text, "continued");
	else
		snprintf(text, sizeof text, "status %x", (unsigned)status);
	return text;
}

#endif
