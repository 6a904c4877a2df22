/* A program steps through its own code with the trap flag: over calls in every kind of place, cpuid and a fork. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

static volatile long traps, inside;
static volatile unsigned long from, to; /* an area whose traps are counted by themselves */
static int failed;

static void on_trap(int signo, siginfo_t *info, void *context)
{
	unsigned long ip = (unsigned long)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
	(void)signo;
	traps++;
	inside += ip >= from && ip < to;
	if (ip != (unsigned long)info->si_addr || traps > 100000)
		_exit(9); /* it does not come forward */
}

static void check(const char *what, int good)
{
	printf("%s%s\n", good ? "" : "FAIL ", what);
	fflush(stdout);
	failed |= !good;
}

#define ON __asm__ volatile("pushfq\n\torl $0x100, (%%rsp)\n\tpopfq" ::: "memory", "cc")
#define OFF __asm__ volatile("pushfq\n\tandl $~0x100, (%%rsp)\n\tpopfq" ::: "memory", "cc")
#define STEP(what) \
	do { \
		traps = inside = 0; \
		ON; \
		what; \
		OFF; \
	} while (0)

int main(void)
{
	static const unsigned char code[] = {0xb8, SYS_getpid, 0, 0, 0, 0x0f, 5, 0x90, 0x90, 0xc3}; /* mov; syscall; nop; nop; ret */
	struct sigaction act = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
	long r, own = getpid();
	unsigned a = 0, b, c = 0, d;
	sigaction(SIGTRAP, &act, NULL);
	STEP((void)0);
	check("nothing", traps == 3);
	STEP(r = getppid());
	check("getppid", r == getppid() && traps > 3);
	STEP(r = syscall(SYS_getpid));
	check("syscall", r == own && traps > 3);
	unsigned char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy(page, code, sizeof code);
	from = (unsigned long)page;
	to = from + sizeof code;
	STEP(r = ((long (*)(void))page)());
	check("code of its own", r == own && inside == 4);
	STEP(__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d)));
	check("cpuid", a > 0 && traps >= 4);
	STEP(r = write(1, "written\n", 8));
	check("write", r == 8);
	STEP(usleep(1000));
	check("slept", traps > 3);
	pid_t pid;
	int status = 0;
	STEP({
		pid = fork();
		if (!pid)
			_exit(3);
	});
	waitpid(pid, &status, 0);
	check("child", WIFEXITED(status) && WEXITSTATUS(status) == 3);
	STEP({
		pid = vfork();
		if (!pid)
			_exit(4);
	});
	waitpid(pid, &status, 0);
	check("vforked child", WIFEXITED(status) && WEXITSTATUS(status) == 4);
	puts(failed ? "failed" : "ok");
	return failed;
}
