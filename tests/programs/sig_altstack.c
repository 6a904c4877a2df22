/* The alternate stack: when it is used, reported, refused, left; and recovery from a stack overflow on it. */
#include "sig.h"
#include <setjmp.h>
#include <sys/mman.h>
#include <sys/resource.h>

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1U << 31)
#endif
#define SIZE 65536
static char *area;
static sigjmp_buf back;
static volatile int level;

static bool on_area(const void *p)
{
	return (const char *)p >= area && (const char *)p < area + SIZE;
}

static void report(const char *what)
{
	stack_t s;
	char here;
	check(!sigaltstack(NULL, &s));
	say("%s: on area %d, flags %x, size %zu", what, on_area(&here), (unsigned)s.ss_flags, s.ss_size);
}

static void handler(int signo, siginfo_t *info, void *context)
{
	(void)info;
	ucontext_t *uc = context;
	level++;
	report(level == 1 ? "handler" : "nested handler");
	say("  frame: sp in area %d, flags %x, size %zu", on_area(uc->uc_stack.ss_sp), (unsigned)uc->uc_stack.ss_flags, uc->uc_stack.ss_size);
	stack_t s = {.ss_sp = area, .ss_size = SIZE / 2};
	say("  change: %s", result(sigaltstack(&s, NULL)));
	if (level == 1 && signo == SIGUSR1)
		raise(SIGUSR2);
	level--;
}

static void overflow_handler(int signo, siginfo_t *info, void *context)
{
	(void)signo, (void)context;
	say("overflow: code %d, on area %d", info->si_code == SEGV_MAPERR || info->si_code == SEGV_ACCERR, on_area(&info));
	siglongjmp(back, 1);
}

static int __attribute__((noinline)) recurse(volatile char *up)
{
	volatile char room[4096];
	room[0] = up[0];
	return up[0] ? 0 : recurse(room) + room[0];
}

static void install(unsigned flags, size_t size)
{
	stack_t s = {.ss_sp = area, .ss_size = size, .ss_flags = (int)flags};
	say("install flags %x size %zu: %s", flags, size, result(sigaltstack(&s, NULL)));
}

int main(void)
{
	area = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	report("start");
	install(0, 1024);
	install(4, SIZE);
	say("pointer: %s", result(syscall(SYS_sigaltstack, 8, NULL)));
	on_signal(SIGUSR1, handler, SA_ONSTACK);
	on_signal(SIGUSR2, handler, SA_ONSTACK);
	raise(SIGUSR1);
	install(0, SIZE);
	report("installed");
	raise(SIGUSR1);
	report("after");
	install(SS_ONSTACK, SIZE);
	report("installed with SS_ONSTACK");
	install(SS_AUTODISARM, SIZE);
	report("installed to disarm itself");
	raise(SIGUSR1);
	report("after");
	on_signal(SIGUSR1, handler, 0);
	install(0, SIZE);
	raise(SIGUSR1); /* USR1 on the normal stack, USR2 on the other */
	report("after");
	install(SS_DISABLE, 0);
	report("disabled");

	install(0, SIZE);
	struct rlimit rl = {1 << 20, 1 << 20};
	setrlimit(RLIMIT_STACK, &rl);
	on_signal(SIGSEGV, overflow_handler, SA_ONSTACK);
	for (int i = 0; i < 3; i++) {
		volatile char start = 0;
		if (!sigsetjmp(back, 1))
			recurse(&start);
		report("recovered");
	}

	/* A frame that fits nowhere ends the process with SIGSEGV, whatever the signal was. */
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		mprotect(area, SIZE, PROT_READ);
		signal(SIGSEGV, SIG_DFL);
		on_signal(SIGUSR1, handler, SA_ONSTACK);
		raise(SIGUSR1);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	say("no room for a frame: %s", status_text(status));
	return done();
}
