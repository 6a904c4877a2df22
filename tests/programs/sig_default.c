/* Every signal at its default: what becomes of a process, and what its parent sees. Stop and continue. */
#include "sig.h"
#include <poll.h>
#include <sys/prctl.h>

static int ask[2], answer[2]; /* pipes: one byte each way */

/* It answers as long as it runs. */
static pid_t child(void)
{
	check(!pipe(ask) && !pipe(answer));
	pid_t pid = fork();
	char c = 'x';
	if (pid == 0) {
		close(answer[0]);
		setpgid(0, 0); /* with the parent in another group of the session: not orphaned, so terminal stops work */
		for (int s = 1; s < 65; s++)
			signal(s, SIG_DFL);
		do
			check(write(answer[1], &c, 1) == 1);
		while (read(ask[0], &c, 1) == 1);
		_exit(1);
	}
	close(answer[1]);
	check(read(answer[0], &c, 1) == 1); /* it is ready */
	return pid;
}

/* What the signal did: the first status change, or none within a while from when the child, asked behind it, answered. */
static void one(int signo)
{
	pid_t pid = child();
	int status = 0;
	kill(pid, signo);
	check(write(ask[1], "x", 1) == 1);
	pid_t r = 0;
	for (int i = 0; i < 50 && !(r = waitpid(pid, &status, WNOHANG | WUNTRACED));) {
		struct pollfd answered = {answer[0], POLLIN, 0};
		i += poll(&answered, 1, 0) == 1 && answered.revents & POLLIN;
		sleep_ms(2);
	}
	say("%2d: %s%s", signo, r ? status_text(status) : "nothing", r && WIFSIGNALED(status) && WCOREDUMP(status) ? " (core)" : "");
	if (!r || WIFSTOPPED(status)) {
		kill(pid, SIGCONT);
		kill(pid, SIGKILL);
		while (waitpid(pid, &status, 0) == pid && !WIFSIGNALED(status))
			;
	}
	close(ask[0]);
	close(ask[1]);
	close(answer[0]);
}

static void itself(int signo)
{
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		raise(signo);
		_exit(9);
	}
	waitpid(pid, &status, 0);
	say("raise(%d): %s", signo, status_text(status));
}

static volatile sig_atomic_t continued;

static void on_cont(int signo, siginfo_t *info, void *context)
{
	(void)signo, (void)info, (void)context;
	continued = 1;
}

static void stop_and_continue(void)
{
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		on_signal(SIGCONT, on_cont, 0);
		raise(SIGSTOP);
		_exit(continued ? 5 : 6);
	}
	check(waitpid(pid, &status, WUNTRACED) == pid);
	say("stop: %s", status_text(status));
	say("nothing new: %s", result(waitpid(pid, &status, WNOHANG | WUNTRACED | WCONTINUED)));
	kill(pid, SIGTSTP); /* stopped already; removed by the continue */
	kill(pid, SIGCONT);
	siginfo_t info = {0};
	check(!waitid(P_PID, (id_t)pid, &info, WEXITED));
	say("end: code %d status %d", info.si_code, info.si_status);

	pid = fork();
	if (pid == 0)
		for (;;)
			pause();
	kill(pid, SIGSTOP);
	waitpid(pid, &status, WUNTRACED);
	say("stop: %s", status_text(status));
	kill(pid, SIGCONT);
	check(waitpid(pid, &status, WCONTINUED) == pid);
	say("continue: %s", status_text(status));
	kill(pid, SIGSTOP);
	waitpid(pid, &status, WUNTRACED);
	kill(pid, SIGTERM); /* waits for the continue */
	sleep_ms(5);
	say("while stopped: %s", result(waitpid(pid, &status, WNOHANG)));
	kill(pid, SIGCONT);
	waitpid(pid, &status, 0);
	say("end: %s", status_text(status));

	/* A call that a stop interrupts is not disturbed. */
	pid = fork();
	if (pid == 0) {
		struct timespec ts = {0, 150000000};
		long start = now_ms();
		int r = nanosleep(&ts, NULL);
		_exit(r == 0 && now_ms() - start >= 149 ? 0 : 1);
	}
	sleep_ms(30);
	kill(pid, SIGSTOP);
	waitpid(pid, &status, WUNTRACED);
	kill(pid, SIGCONT);
	waitpid(pid, &status, 0);
	say("sleep across a stop: %s", status_text(status));
}

int main(void)
{
	for (int s = 1; s < 65; s++)
		if (s != 32 && s != 33) /* the C library's own */
			one(s);
	itself(SIGTERM);
	itself(SIGABRT);
	itself(SIGSEGV);
	itself(SIGKILL);
	itself(SIGRTMAX);
	itself(SIGCHLD);
	stop_and_continue();
	/* The parent's death as a signal. */
	int p[2];
	check(!pipe(p));
	if (fork() == 0) {
		pid_t parent = getpid();
		if (fork() == 0) {
			close(p[0]);
			prctl(PR_SET_PDEATHSIG, SIGHUP);
			if (getppid() != parent)
				raise(SIGHUP);
			for (;;)
				pause();
		}
		sleep_ms(30);
		_exit(0);
	}
	close(p[1]);
	char c;
	say("end of the orphan: %s", result(read(p[0], &c, 1)));
	return done();
}
