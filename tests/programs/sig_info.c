/* siginfo: what each way to send a signal leaves in it. */
#include "sig.h"
#include <sys/time.h>

static volatile sig_atomic_t count;
static siginfo_t seen;
static pid_t child;

static void note(int signo, siginfo_t *info, void *context)
{
	(void)context;
	check(signo == info->si_signo);
	seen = *info;
	count++;
}

static void expect_one(const char *what, int code)
{
	check(count == 1);
	say("%s: signal %d code %d errno %d", what, seen.si_signo, seen.si_code, seen.si_errno);
	check(seen.si_code == code);
	count = 0;
}

static void child_event(const char *what, int code, int status)
{
	for (int i = 0; i < 200 && !count; i++)
		sleep_ms(10);
	expect_one(what, code);
	check(seen.si_pid == child && seen.si_uid == getuid() && seen.si_status == status);
	say("  status %d", seen.si_status);
}

static void children(void)
{
	on_signal(SIGCHLD, note, 0);
	if ((child = fork()) == 0)
		_exit(42);
	child_event("child exits", CLD_EXITED, 42);
	reap(child);
	if ((child = fork()) == 0)
		for (;;)
			pause();
	kill(child, SIGSTOP);
	child_event("child stops", CLD_STOPPED, SIGSTOP);
	kill(child, SIGCONT);
	child_event("child continues", CLD_CONTINUED, SIGCONT);
	kill(child, SIGTERM);
	child_event("child is killed", CLD_KILLED, SIGTERM);
	reap(child);
	on_signal(SIGCHLD, note, SA_NOCLDSTOP);
	if ((child = fork()) == 0)
		for (;;)
			pause();
	kill(child, SIGSTOP);
	int status;
	check(waitpid(child, &status, WUNTRACED) == child);
	say("no SIGCHLD for a stop: %d, %s", (int)count, status_text(status));
	kill(child, SIGKILL);
	child_event("child is killed", CLD_KILLED, SIGKILL);
	reap(child);
	on_signal(SIGCHLD, note, SA_NOCLDWAIT);
	if ((child = fork()) == 0)
		_exit(1);
	errno = 0;
	pid_t r;
	while ((r = waitpid(child, &status, 0)) < 0 && errno == EINTR)
		;
	say("no zombie: %d, %s", (int)r, strerror(errno));
	signal(SIGCHLD, SIG_IGN);
	if ((child = fork()) == 0)
		_exit(1);
	errno = 0;
	r = waitpid(child, &status, 0);
	say("ignored SIGCHLD: %d, %s", (int)r, strerror(errno));
	signal(SIGCHLD, SIG_DFL);
	count = 0;
}

static void timers(void)
{
	on_signal(SIGALRM, note, 0);
	struct itimerval it = {.it_value.tv_usec = 20000};
	setitimer(ITIMER_REAL, &it, NULL);
	while (!count)
		pause();
	expect_one("setitimer", SI_KERNEL);
	timer_t id;
	struct sigevent ev = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 3, .sigev_value.sival_int = 77};
	on_signal(SIGRTMIN + 3, note, 0);
	check(!timer_create(CLOCK_MONOTONIC, &ev, &id));
	struct itimerspec ts = {.it_value.tv_nsec = 10000000};
	timer_settime(id, 0, &ts, NULL);
	while (!count)
		sleep_ms(5);
	expect_one("timer_create", SI_TIMER);
	say("  value %d overrun %d", seen.si_value.sival_int, seen.si_overrun);
	timer_delete(id);
}

int main(void)
{
	on_signal(SIGUSR1, note, 0);
	kill(getpid(), SIGUSR1);
	expect_one("kill", SI_USER);
	check(seen.si_pid == getpid() && seen.si_uid == getuid());
	raise(SIGUSR1);
	expect_one("raise", SI_TKILL);
	check(seen.si_pid == getpid());
	sigqueue(getpid(), SIGUSR1, (union sigval){.sival_ptr = (void *)0x123456789abcdef0});
	expect_one("sigqueue", SI_QUEUE);
	say("  value %lx", (unsigned long)seen.si_value.sival_ptr);
	check(seen.si_pid == getpid());

	on_signal(SIGPIPE, note, 0);
	int p[2];
	check(!pipe(p));
	close(p[0]);
	errno = 0;
	long r = write(p[1], "x", 1);
	say("write: %ld %s", r, strerror(errno));
	expect_one("write to a closed pipe", SI_USER);

	/* Real-time signals queue, in order, lowest number first. */
	block(SIGRTMIN + 1);
	block(SIGRTMIN + 2);
	for (int i = 0; i < 3; i++) {
		sigqueue(getpid(), SIGRTMIN + 2, (union sigval){.sival_int = 20 + i});
		sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = 10 + i});
	}
	sigset_t both = set_of(SIGRTMIN + 1, SIGRTMIN + 2);
	for (int i = 0; i < 6; i++) {
		siginfo_t info;
		int s = sigwaitinfo(&both, &info);
		say("queued: RTMIN+%d value %d", s - SIGRTMIN, info.si_value.sival_int);
	}
	children();
	timers();
	return done();
}
