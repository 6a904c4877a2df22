/* Masks, nesting and flags: which handler runs when. */
#include "sig.h"

static volatile int depth, repeated;

static void show_mask(const char *what)
{
	sigset_t m;
	sigprocmask(SIG_BLOCK, NULL, &m);
	printf("%*s%s blocked:", depth * 2, "", what);
	for (int s = 1; s < 65; s++)
		if (sigismember(&m, s) == 1)
			printf(" %d", s);
	putchar('\n');
	fflush(stdout);
}

static void show_pending(const char *what)
{
	sigset_t m;
	sigpending(&m);
	printf("%*s%s pending:", depth * 2, "", what);
	for (int s = 1; s < 65; s++)
		if (sigismember(&m, s) == 1)
			printf(" %d", s);
	putchar('\n');
	fflush(stdout);
}

static void nested(int signo, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	(void)info;
	depth++;
	say("%*senter %d, frame blocks USR1 %d USR2 %d", depth * 2, "", signo, sigismember(&uc->uc_sigmask, SIGUSR1),
	    sigismember(&uc->uc_sigmask, SIGUSR2));
	show_mask("in handler");
	if (signo == SIGUSR1) {
		raise(SIGUSR2);          /* runs here and now, on top */
		if (!repeated++)
			raise(SIGUSR1);  /* blocked until the return */
		else
			sigaddset(&uc->uc_sigmask, SIGWINCH); /* what the return restores */
		show_pending("after raise");
	}
	say("%*sleave %d", depth * 2, "", signo);
	depth--;
}

static volatile int rounds; /* raise() is a "leaf": the compiler would not look again */

static void again(int signo, siginfo_t *info, void *context)
{
	(void)info, (void)context;
	if (++rounds < 4)
		raise(signo);
	rounds += 10;
}

int main(void)
{
	struct sigaction sa = {.sa_sigaction = nested, .sa_flags = SA_SIGINFO}, old;
	sigemptyset(&sa.sa_mask);
	sigaction(SIGUSR2, &sa, NULL);
	sigaddset(&sa.sa_mask, SIGHUP);
	sigaddset(&sa.sa_mask, SIGKILL);
	sigaction(SIGUSR1, &sa, NULL);
	sigaction(SIGUSR1, NULL, &old);
	say("mask holds HUP %d KILL %d, flags %x", sigismember(&old.sa_mask, SIGHUP), sigismember(&old.sa_mask, SIGKILL),
	    (unsigned)old.sa_flags & ~0x04000000u);
	show_mask("start");
	raise(SIGUSR1); /* the second USR1 comes after the first handler returned: depth 1 again */
	show_mask("after");

	/* Pending in several: lowest number's frame is built first, so the highest runs first. */
	sa.sa_flags = SA_SIGINFO;
	sigemptyset(&sa.sa_mask);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
	sigset_t all, before;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	raise(SIGTERM);
	raise(SIGHUP);
	show_pending("both");
	sigprocmask(SIG_SETMASK, &before, NULL);
	show_pending("none");

	on_signal(SIGURG, again, SA_NODEFER);
	raise(SIGURG);
	say("nodefer rounds %d", rounds);
	check(rounds == 44);
	rounds = 0;
	on_signal(SIGURG, again, SA_RESETHAND);
	raise(SIGURG); /* the second is ignored by default */
	sigaction(SIGURG, NULL, &old);
	say("resethand rounds %d, default again %d", rounds, old.sa_handler == SIG_DFL);

	/* sigaction's rules */
	say("KILL %s", result(sigaction(SIGKILL, &sa, NULL)));
	say("look at STOP %s", result(sigaction(SIGSTOP, NULL, &old)));
	struct {
		void *handler;
		unsigned long flags;
		void *restorer;
		unsigned long mask;
	} k = {(void *)SIG_IGN, 0xffffffff, NULL, ~0ul}, got;
	syscall(SYS_rt_sigaction, SIGUSR2, &k, NULL, 8);
	syscall(SYS_rt_sigaction, SIGUSR2, NULL, &got, 8);
	say("known flags %lx mask %lx", got.flags, got.mask);
	say("size %s", result(syscall(SYS_rt_sigaction, SIGUSR2, NULL, NULL, 4)));
	say("number %s", result(syscall(SYS_rt_sigaction, 65, NULL, NULL, 8)));
	say("pointer %s", result(syscall(SYS_rt_sigaction, SIGUSR2, 8, NULL, 8)));
	say("how %s", result(syscall(SYS_rt_sigprocmask, 9, &all, NULL, 8)));
	say("old pointer %s", result(syscall(SYS_rt_sigprocmask, 0, NULL, 8, 8)));
	sigprocmask(SIG_SETMASK, &all, NULL);
	unsigned long raw;
	syscall(SYS_rt_sigprocmask, 0, NULL, &raw, 8);
	say("everything but KILL and STOP: %lx", raw);
	return done();
}
