/* Interrupted calls: which restart with SA_RESTART, which never do, and what they return.
 *
 * Each call is interrupted after one unit of time and completed after three. "early" is one that the first signal ended, or that
 * was complete before it could be. */
#include "sig.h"
#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/file.h>
#include <sys/time.h>

static volatile sig_atomic_t hits;

static void handler(int signo, siginfo_t *info, void *context)
{
	(void)signo, (void)info, (void)context;
	hits++;
}

static long unit; /* milliseconds: 40, or what is long on this machine */

/* A child that begins, signals and is gone takes less than a quarter of a unit. */
static void measure(void)
{
	on_signal(SIGUSR1, handler, 0);
	for (int i = 0; i < 5; i++) {
		long start = now_ms();
		reap(kill_later(SIGUSR1, 0));
		long took = 4 * (now_ms() - start);
		unit = took > unit ? took : unit;
	}
	unit = unit > 40 ? unit : 40;
}

static struct timespec after(struct timespec t, long ms)
{
	long ns = t.tv_nsec + ms % 1000 * 1000000;
	return (struct timespec){t.tv_sec + ms / 1000 + ns / 1000000000, ns % 1000000000};
}

static struct timespec units(long n)
{
	return after((struct timespec){0, 0}, n * unit);
}

static int pipe_fd[2], sock[2];
static uint32_t word;

static long do_read(void)
{
	char c;
	return read(pipe_fd[0], &c, 1);
}

static long do_recv(void)
{
	char c;
	return recv(sock[0], &c, 1, 0);
}

static long do_recv_timeout(void)
{
	long ms = 4 * unit;
	struct timeval tv = {ms / 1000, ms % 1000 * 1000}, never = {0, 0};
	setsockopt(sock[0], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
	char c;
	long r = recv(sock[0], &c, 1, 0);
	setsockopt(sock[0], SOL_SOCKET, SO_RCVTIMEO, &never, sizeof never);
	return r;
}

static long do_nanosleep(void)
{
	struct timespec ts = units(3);
	return clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL) ? (errno = EINTR, -1) : 0;
}

static long do_nanosleep_abs(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	ts = after(ts, 3 * unit);
	return clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) ? (errno = EINTR, -1) : 0;
}

static long do_futex(void)
{
	return syscall(SYS_futex, &word, FUTEX_WAIT, 0, NULL);
}

static long do_futex_timeout(void)
{
	struct timespec ts = units(3);
	return syscall(SYS_futex, &word, FUTEX_WAIT, 0, &ts);
}

static long do_poll(void)
{
	struct pollfd p = {pipe_fd[0], POLLIN, 0};
	return poll(&p, 1, (int)(3 * unit));
}

static long do_select(void)
{
	long ms = 3 * unit;
	struct timeval tv = {ms / 1000, ms % 1000 * 1000};
	fd_set s;
	FD_ZERO(&s);
	FD_SET(pipe_fd[0], &s);
	return select(pipe_fd[0] + 1, &s, NULL, NULL, &tv);
}

static long do_epoll(void)
{
	int fd = epoll_create1(0);
	struct epoll_event e;
	long r = epoll_wait(fd, &e, 1, (int)(3 * unit));
	int saved = errno;
	close(fd);
	errno = saved;
	return r;
}

static long do_pause(void)
{
	return pause();
}

static long do_sigsuspend(void)
{
	sigset_t none;
	sigemptyset(&none);
	return sigsuspend(&none);
}

static long do_msgrcv(void)
{
	int q = msgget(IPC_PRIVATE, 0600);
	struct {
		long type;
		char c;
	} m;
	long r = msgrcv(q, &m, 1, 0, 0);
	int saved = errno;
	msgctl(q, IPC_RMID, NULL);
	errno = saved;
	return r;
}

static long do_wait(void)
{
	int status;
	return waitpid(-1, &status, 0) > 0 ? WEXITSTATUS(status) : -1;
}

/* Sends the signal after one unit, and after three what completes the call. */
static pid_t helper(bool is_wait)
{
	pid_t me = getpid(), pid = fork();
	if (pid)
		return pid;
	sleep_ms(unit);
	kill(me, SIGUSR1);
	sleep_ms(2 * unit);
	if (is_wait)
		_exit(7);
	word = 0; /* own copy: the futex cases without timeout are ended by a second signal */
	char c = 'x';
	check(write(pipe_fd[1], &c, 1) == 1);
	check(write(sock[1], &c, 1) == 1);
	sleep_ms(unit);
	kill(me, SIGUSR2);
	_exit(7);
}

static void drain(void)
{
	char c[16];
	while (recv(sock[0], c, sizeof c, MSG_DONTWAIT) > 0)
		;
	struct pollfd p = {pipe_fd[0], POLLIN, 0};
	while (poll(&p, 1, 0) > 0)
		check(read(pipe_fd[0], c, sizeof c) > 0);
}

static void run(const char *name, long (*fn)(void), int flags)
{
	on_signal(SIGUSR1, handler, flags);
	on_signal(SIGUSR2, handler, 0);
	hits = 0;
	long start = now_ms();
	pid_t pid = helper(fn == do_wait);
	errno = 0;
	long r = fn();
	int err = errno, interrupted = hits;
	bool early = r < 0 && err == EINTR ? interrupted < 2 : now_ms() - start < 2 * unit;
	say("%s%s: %ld %s, %s, handlers so far %d", name, flags & SA_RESTART ? " SA_RESTART" : "", r, r < 0 ? strerror(err) : "",
	    early ? "early" : "late", interrupted);
	if (!(fn == do_wait && r == 7))
		reap(pid);
	for (int i = 0; fn != do_wait && hits < 2 && i < 100; i++)
		sleep_ms(unit / 8);
	drain();
}

int main(void)
{
	static const struct {
		const char *name;
		long (*fn)(void);
	} calls[] = {
		{"read", do_read},         {"recv", do_recv},     {"recv with SO_RCVTIMEO", do_recv_timeout},
		{"nanosleep", do_nanosleep}, {"nanosleep until", do_nanosleep_abs}, {"futex", do_futex},
		{"futex with timeout", do_futex_timeout}, {"poll", do_poll}, {"select", do_select},
		{"epoll_wait", do_epoll},  {"pause", do_pause},   {"sigsuspend", do_sigsuspend},
		{"msgrcv", do_msgrcv},     {"wait", do_wait},
	};
	measure();
	check(!pipe(pipe_fd));
	check(!socketpair(AF_UNIX, SOCK_STREAM, 0, sock));
	for (unsigned i = 0; i < sizeof calls / sizeof *calls; i++) {
		run(calls[i].name, calls[i].fn, 0);
		run(calls[i].name, calls[i].fn, SA_RESTART);
	}

	/* The remaining time of an interrupted sleep. */
	on_signal(SIGUSR1, handler, SA_RESTART);
	pid_t pid = kill_later(SIGUSR1, unit);
	struct timespec ts = units(125), left = {0, 0};
	int r = nanosleep(&ts, &left);
	long left_ms = left.tv_sec * 1000 + left.tv_nsec / 1000000;
	say("nanosleep: %d %s, remaining %d", r, strerror(errno), left_ms > 100 * unit && left_ms < 125 * unit);
	reap(pid);

	/* A transfer in part is a success. */
	pid = kill_later(SIGUSR1, 2 * unit);
	static char big[1 << 20];
	on_signal(SIGUSR1, handler, 0);
	long n = write(pipe_fd[1], big, sizeof big);
	say("partial write %ld", n);
	reap(pid);

	/* An ignored or default-ignored signal interrupts nothing. */
	signal(SIGUSR1, SIG_IGN);
	pid = kill_later(SIGUSR1, unit);
	pid_t winch = kill_later(SIGWINCH, unit);
	long start = now_ms();
	ts = units(3);
	r = nanosleep(&ts, NULL);
	say("ignored: %d, full time %d", r, now_ms() - start >= 3 * unit - 1);
	reap(pid);
	reap(winch);
	return done();
}
