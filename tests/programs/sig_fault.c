/* Faults of the program itself: siginfo, the frame's trap fields, mending and going on, jumping out, dying. */
#include "sig.h"
#include <fcntl.h>
#include <setjmp.h>
#include <sys/mman.h>

static char *page;
static volatile int code, err, trapno, signo_seen;
static volatile uintptr_t addr, cr2;
static sigjmp_buf back;
static volatile uintptr_t low = 8; /* never mapped; the compiler must not know */

static void note(int signo, siginfo_t *info, void *context)
{
	greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
	signo_seen = signo;
	code = info->si_code;
	addr = (uintptr_t)info->si_addr;
	err = (int)g[REG_ERR];
	trapno = (int)g[REG_TRAPNO];
	cr2 = (uintptr_t)g[REG_CR2];
}

static void mend(int signo, siginfo_t *info, void *context)
{
	note(signo, info, context);
	mprotect(page, 4096, PROT_READ | PROT_WRITE);
}

static void leave(int signo, siginfo_t *info, void *context)
{
	note(signo, info, context);
	siglongjmp(back, 1);
}

/* The faulting instruction is two bytes long everywhere below. */
static void skip(int signo, siginfo_t *info, void *context)
{
	note(signo, info, context);
	greg_t *g = ((ucontext_t *)context)->uc_mcontext.gregs;
	g[REG_RIP] += 2;
	g[REG_RAX] = 4711;
}

static void show(const char *what)
{
	say("%s: signal %d code %d trap %d error %x", what, signo_seen, code, trapno, (unsigned)err);
}

static int dies(void (*fn)(void), const char *what)
{
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		fn();
		_exit(0);
	}
	waitpid(pid, &status, 0);
	say("%s: %s", what, status_text(status));
	return status;
}

static void null_write(void) { *(volatile int *)low = 1; }
static void undefined(void) { __asm__ volatile("ud2"); }
static void divide(void) { __asm__ volatile("xor %%edx, %%edx; xor %%ecx, %%ecx; mov $1, %%eax; div %%ecx" : : : "rax", "rcx", "rdx"); }
static void breakpoint(void) { __asm__ volatile("int3"); }
static void privileged(void) { __asm__ volatile("hlt"); }
static void non_canonical(void) { *(volatile int *)(low << 60) = 1; }
static void blocked_fault(void)
{
	on_signal(SIGSEGV, note, 0);
	block(SIGSEGV);
	null_write();
}
static void ignored_fault(void)
{
	signal(SIGSEGV, SIG_IGN);
	null_write();
}
static void fault_in_handler(int signo, siginfo_t *info, void *context)
{
	(void)signo, (void)info, (void)context;
	null_write();
}
static void double_fault(void)
{
	on_signal(SIGSEGV, fault_in_handler, 0);
	null_write();
}
static void bad_handler(void)
{
	struct sigaction sa = {.sa_handler = (void (*)(int))0x8000000000001000};
	sigaction(SIGUSR1, &sa, NULL);
	raise(SIGUSR1);
}
static void unmapped_handler(void)
{
	struct sigaction sa = {.sa_handler = (void (*)(int))0x1000};
	sigaction(SIGUSR1, &sa, NULL);
	raise(SIGUSR1);
}
static void no_restorer(void)
{
	struct {
		void *handler;
		unsigned long flags;
		void *restorer;
		unsigned long mask;
	} k = {(void *)note, SA_SIGINFO, NULL, 0};
	syscall(SYS_rt_sigaction, SIGUSR1, &k, NULL, 8);
	raise(SIGUSR1);
}
static void no_frame(void)
{
	__asm__ volatile("mov $0x2000, %%rsp; mov $15, %%eax; syscall" : : : "rax", "memory");
}
static void bad_context(int signo, siginfo_t *info, void *context)
{
	(void)signo, (void)info;
	((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] = (greg_t)0x8000000000001000;
}
static void return_nowhere(void)
{
	on_signal(SIGUSR1, bad_context, 0);
	raise(SIGUSR1);
}
static void bad_fpstate(int signo, siginfo_t *info, void *context)
{
	(void)signo, (void)info;
	((ucontext_t *)context)->uc_mcontext.fpregs = (void *)0x1000;
}
static void return_without_state(void)
{
	on_signal(SIGUSR1, bad_fpstate, 0);
	raise(SIGUSR1);
}
static void sent_by_others(void)
{
	kill(getpid(), SIGSEGV);
	sleep_ms(1000);
}

int main(void)
{
	page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	on_signal(SIGSEGV, mend, 0);
	*(volatile char *)(page + 100) = 5;
	show("write to PROT_NONE");
	check(page[100] == 5 && addr == (uintptr_t)page + 100 && cr2 == addr);
	mprotect(page, 4096, PROT_READ);
	*(volatile char *)(page + 4000) = 6;
	show("write to PROT_READ");
	check(page[4000] == 6 && addr == (uintptr_t)page + 4000 && code == SEGV_ACCERR);

	on_signal(SIGSEGV, leave, 0);
	munmap(page, 4096);
	for (int i = 0; i < 2; i++) {
		if (!sigsetjmp(back, 1))
			page[7] = 1;
		show("write to a hole");
		check(addr == (uintptr_t)page + 7 && code == SEGV_MAPERR);
	}
	if (!sigsetjmp(back, 1))
		say("%d", *(volatile char *)page);
	show("read of a hole");
	if (!sigsetjmp(back, 1))
		((void (*)(void))page)();
	show("jump to a hole");
	check(addr == (uintptr_t)page);
	page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(page, 0xc3, 4096);
	if (!sigsetjmp(back, 1))
		((void (*)(void))page)();
	show("jump to a page without execute permission");
	if (!sigsetjmp(back, 1))
		non_canonical();
	show("non-canonical address");
	check(addr == 0);
	if (!sigsetjmp(back, 1))
		privileged();
	show("privileged instruction");

	long rax;
	on_signal(SIGILL, skip, 0);
	__asm__ volatile("ud2" : "=a"(rax) : : "memory");
	show("ud2");
	check(rax == 4711 && addr != 0);
	on_signal(SIGFPE, skip, 0);
	__asm__ volatile("xor %%edx, %%edx; xor %%ecx, %%ecx; mov $1, %%eax; div %%ecx" : "=a"(rax) : : "rcx", "rdx");
	show("division by zero");
	check(rax == 4711 && code == FPE_INTDIV);
	on_signal(SIGTRAP, note, 0);
	breakpoint();
	show("int3");

	int fd = memfd_create("short", 0);
	check(!ftruncate(fd, 8192));
	char *m = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	m[4096] = 1;
	check(!ftruncate(fd, 4096));
	on_signal(SIGBUS, leave, 0);
	if (!sigsetjmp(back, 1))
		m[4096] = 2;
	say("behind the end of the file: signal %d code %d", signo_seen, code);
	check(addr == (uintptr_t)m + 4096);

	/* The same fault inside a system call is an error, not a signal. */
	say("EFAULT: %s", result(read(open("/dev/zero", O_RDONLY), (void *)low, 1)));
	say("EFAULT: %s", result(write(1, m + 4096, 10)));

	for (int s = 1; s < 32; s++)
		if (s != SIGKILL && s != SIGSTOP)
			signal(s, SIG_DFL);
	dies(null_write, "SIGSEGV by default");
	dies(undefined, "SIGILL by default");
	dies(divide, "SIGFPE by default");
	dies(breakpoint, "SIGTRAP by default");
	dies(blocked_fault, "fault while blocked");
	dies(ignored_fault, "fault while ignored");
	dies(double_fault, "fault in the handler");
	dies(bad_handler, "handler at a non-canonical address");
	dies(unmapped_handler, "handler at a hole");
	dies(no_restorer, "handler without restorer");
	dies(no_frame, "sigreturn without a frame");
	dies(return_nowhere, "sigreturn to a non-canonical address");
	dies(return_without_state, "sigreturn with a bad state pointer");
	dies(sent_by_others, "SIGSEGV by kill");
	return done();
}
