/* A fault that a signal gets ahead of: it comes again behind the handler, at its own instruction, and nowhere else. After a fork the
 * memory that a virtual CPU delivers exceptions through is shared, so the delivery itself takes long enough to be interrupted. */
#include "sig.h"
#include <sys/mman.h>
#include <sys/time.h>

#define ROUNDS 30

static char *closed;
static volatile unsigned long ticks, faults, elsewhere;
static greg_t here, behind; /* the instruction that faults, and where its handler goes on */
static void *address;       /* si_addr */

/* A function with that instruction between two labels. */
#define FAULT(name, text)                                                                                             \
	extern char name##_here[], name##_behind[];                                                                    \
	__attribute__((noinline)) static void name(void)                                                               \
	{                                                                                                              \
		__asm__ volatile(#name "_here: " text "\n" #name "_behind:" : : "D"(closed), "a"(1), "d"(0), "c"(0) : "cc", "memory"); \
	}

FAULT(load, "cmpb $0, (%%rdi)")
FAULT(store, "movb $0, (%%rdi)")
FAULT(divide, "idivl %%ecx")
FAULT(undefined, "ud2")

static void tick(int signo, siginfo_t *info, void *context)
{
	(void)signo, (void)info, (void)context;
	ticks++;
}

static void fault(int signo, siginfo_t *info, void *context)
{
	(void)signo;
	greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
	faults++;
	if (regs[REG_RIP] != here || info->si_addr != address)
		elsewhere++; /* and back to where it was: the right one comes still */
	else
		regs[REG_RIP] = behind;
}

static void rounds(const char *name, void (*fn)(void), char *from, char *to, void *where)
{
	struct itimerval every = {{0, 500}, {0, 500}}, never = {{0, 0}, {0, 0}};
	here = (greg_t)from, behind = (greg_t)to, address = where;
	faults = elsewhere = 0;
	for (int i = 0; i < ROUNDS; i++) {
		pid_t pid = fork();
		if (pid == 0)
			_exit(0);
		setitimer(ITIMER_REAL, &every, NULL);
		unsigned long before = ticks;
		while (ticks == before) /* the next one comes half a millisecond later, or sooner */
			;
		for (long spin = i * 5000; spin; spin--)
			__asm__ volatile("");
		fn();
		setitimer(ITIMER_REAL, &never, NULL);
		reap(pid);
	}
	say("%s: faults %lu, elsewhere %lu", name, faults, elsewhere);
	check(faults == ROUNDS && !elsewhere);
}

#define ROUNDS_OF(name, where) rounds(#name, name, name##_here, name##_behind, where)

int main(void)
{
	closed = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	on_signal(SIGALRM, tick, SA_RESTART);
	on_signal(SIGSEGV, fault, 0);
	on_signal(SIGFPE, fault, 0);
	on_signal(SIGILL, fault, 0);
	ROUNDS_OF(load, closed);
	ROUNDS_OF(store, closed);
	ROUNDS_OF(divide, divide_here);
	ROUNDS_OF(undefined, undefined_here);
	say("signals came: %d", ticks >= 4 * ROUNDS);
	return done();
}
