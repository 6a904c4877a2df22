/* What a new program inherits: ignored signals and the mask, not handlers; pending signals stay pending. */
#include "sig.h"
#include <spawn.h>

extern char **environ;

static void handler(int signo, siginfo_t *info, void *context)
{
	(void)signo, (void)info, (void)context;
}

static void print_state(const char *what)
{
	sigset_t mask, pending;
	sigprocmask(SIG_BLOCK, NULL, &mask);
	sigpending(&pending);
	printf("%s: blocked", what);
	for (int s = 1; s < 65; s++)
		if (sigismember(&mask, s) == 1)
			printf(" %d", s);
	printf("; pending");
	for (int s = 1; s < 65; s++)
		if (sigismember(&pending, s) == 1)
			printf(" %d", s);
	printf("; ignored");
	for (int s = 1; s < 65; s++) {
		struct sigaction sa;
		if (!sigaction(s, NULL, &sa) && sa.sa_handler == SIG_IGN)
			printf(" %d", s);
		else if (sa.sa_handler != SIG_DFL)
			printf(" %d(handler)", s);
	}
	stack_t st;
	sigaltstack(NULL, &st);
	say("; altstack flags %x", (unsigned)st.ss_flags);
}

static void show_child(const char *what, pid_t pid)
{
	int status;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	say("%s: %s", what, status_text(status));
}

int main(int argc, char **argv)
{
	if (argc > 1) {
		print_state(argv[1]);
		if (!strcmp(argv[1], "exec")) {
			unblock(SIGUSR2); /* pending since before: kills by default */
			say("not reached");
		}
		return 0;
	}
	on_signal(SIGUSR1, handler, 0);
	on_signal(SIGSEGV, handler, SA_ONSTACK);
	signal(SIGHUP, SIG_IGN);
	signal(SIGBUS, SIG_IGN);
	static char area[65536];
	stack_t s = {.ss_sp = area, .ss_size = sizeof area};
	sigaltstack(&s, NULL);
	block(SIGSEGV);
	block(SIGTERM);
	print_state("before");
	pid_t pid = fork();
	if (pid == 0) {
		print_state("fork");
		on_signal(SIGUSR2, handler, 0);
		block(SIGUSR2);
		raise(SIGUSR2);
		raise(SIGSEGV); /* sent, blocked: waits like any other */
		print_state("child");
		execl(argv[0], argv[0], "exec", NULL);
		_exit(1);
	}
	show_child("after exec", pid);
	raise(SIGTERM);
	pid = fork();
	if (pid == 0) {
		print_state("fork with a pending signal in the parent");
		_exit(0);
	}
	show_child("fork", pid);
	char *args[] = {argv[0], "spawn", NULL};
	check(!posix_spawn(&pid, argv[0], NULL, NULL, args, environ));
	show_child("spawn", pid);
	posix_spawnattr_t attr;
	posix_spawnattr_init(&attr);
	sigset_t mask = set_of(SIGURG, 0), def = set_of(SIGHUP, SIGBUS);
	posix_spawnattr_setsigmask(&attr, &mask);
	posix_spawnattr_setsigdefault(&attr, &def);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	args[1] = "spawn with attributes";
	check(!posix_spawn(&pid, argv[0], NULL, &attr, args, environ));
	show_child("spawn", pid);
	print_state("after");

	/* Asynchronous SIGSEGV: ignored, blocked, handled, in that order of preparation. */
	signal(SIGSEGV, SIG_IGN);
	raise(SIGSEGV);
	unblock(SIGSEGV);
	kill(getpid(), SIGSEGV);
	say("ignored SIGSEGV survived");
	return done();
}
