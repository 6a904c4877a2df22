/* Where a signal frame says that the program stands when it interrupted a system call: at the instruction if the call will be made
 * again, behind it if not; RCX as the instruction leaves it. C libraries compare this with labels (cancellation). And that the program
 * goes on from there, or from where the handler says. Functions with different instructions around the call. */
#include "sig.h"
#include <sys/prctl.h>
#include <sys/time.h>

long behind(long nr, long a, long b, long c), infront(long nr, long a, long b, long c), branch(long nr, long a, long b, long c),
    both(long nr, long a, long b, long c), bare(long nr, long a, long b, long c);
extern const char cancelled[];
extern const long behind_at[2], infront_at[2], branch_at[2], both_at[2], bare_at[2];

/* NAME_at: distances from the function's start to the call and to what is behind it. Addresses, or symbols, would say that somebody
 * may jump there, and the call would be left in its place. */
#define FUNCTION(name, before, after)                    \
	__asm__(".text\n"                                \
		".globl " #name ", " #name "_at\n"       \
		".type " #name ", @function\n"            \
		#name ":\n"                               \
		"	mov %rdi, %rax\n"                  \
		"	mov %rsi, %rdi\n"                  \
		"	mov %rdx, %rsi\n"                  \
		"	mov %rcx, %rdx\n"                  \
		before                                     \
		".L" #name "_site:\n"                    \
		"	syscall\n"                         \
		".L" #name "_after:\n"                   \
		after                                      \
		"	ret\n"                             \
		".size " #name ", . - " #name "\n"      \
		".section .rodata\n"                     \
		".balign 8\n"                            \
		#name "_at: .quad .L" #name "_site - " #name ", .L" #name "_after - " #name "\n" \
		".text\n")

FUNCTION(behind, "", "	mov %rax, %r8\n	lea 1(%r8), %r9\n	mov %r8, %rax\n");
FUNCTION(infront, "	mov $0x11223344, %r10d\n", "");
FUNCTION(branch, "", "	cmp $-4095, %rax\n	jae 1f\n	mov %rax, %rax\n1:	nop\n");
FUNCTION(both, "	xor %r10d, %r10d\n", "	mov %eax, %r8d\n");
FUNCTION(bare, "	push %rbx\n	pop %rbx\n", "");
__asm__(".text\n.globl cancelled\n.type cancelled, @function\ncancelled:\n	mov $-1000, %rax\n	ret\n.size cancelled, . - cancelled\n");

struct function {
	const char *name;
	const long *at;
	long (*call)(long nr, long a, long b, long c);
	const char *site, *after;
};

static struct function functions[] = {
	{"behind", behind_at, behind, NULL, NULL}, {"in front", infront_at, infront, NULL, NULL}, {"branch", branch_at, branch, NULL, NULL},
	{"both", both_at, both, NULL, NULL},	   {"bare", bare_at, bare, NULL, NULL},
};

static struct function *f;
static int pipe_fd[2], feed, seen;
static const char *go_to;
static char place[64];
static long number_seen;

static void describe(const ucontext_t *uc)
{
	const char *rip = (const char *)uc->uc_mcontext.gregs[REG_RIP], *rcx = (const char *)uc->uc_mcontext.gregs[REG_RCX];
	snprintf(place, sizeof place, "at %s, rcx %s", rip == f->site ? "the call" : rip == f->after ? "behind" : "elsewhere",
		 rcx == f->after ? "behind" : "other");
	number_seen = uc->uc_mcontext.gregs[REG_RAX];
}

static void handler(int signo, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	(void)signo, (void)info;
	seen++;
	describe(uc);
	if (feed && write(pipe_fd[1], "xyz", 3) != 3)
		_exit(3);
	if (go_to) {
		uc->uc_mcontext.gregs[REG_RIP] = (long)go_to;
		uc->uc_mcontext.gregs[REG_RAX] = -77;
	}
}

static void soon(void)
{
	struct itimerval t = {.it_value = {.tv_usec = 20000}};
	setitimer(ITIMER_REAL, &t, NULL);
}

static void on_sigsys(int signo, siginfo_t *info, void *context)
{
	handler(signo, info, context);
	say("%s, trapped: %s, number %ld, call address %s, %d, errno %d", f->name, place, number_seen,
	    (const char *)info->si_call_addr == f->after ? "behind" : "elsewhere", info->si_syscall, info->si_errno);
	((ucontext_t *)context)->uc_mcontext.gregs[REG_RAX] = -55;
}

/* With a policy whose verdict on swapoff is TRAP. */
static int trapped(void)
{
	on_signal(SIGSYS, on_sigsys, 0);
	for (int i = 0; i < 2; i++)
		say("result %ld", f->call(SYS_swapoff, 0, 0, 0));
	return 0;
}

int main(int argc, char **argv)
{
	char buffer[8];
	struct timespec ten = {.tv_sec = 10};
	(void)argv;
	if (pipe(pipe_fd))
		return 1;
	for (unsigned i = 0; i < sizeof functions / sizeof *functions; i++) {
		f = &functions[i];
		f->site = (const char *)f->call + f->at[0];
		f->after = (const char *)f->call + f->at[1];
		if (argc > 1) {
			trapped();
			continue;
		}
		for (int round = 0; round < 2; round++) { /* the second: the call's text has been seen before */
			feed = 0;
			go_to = NULL;
			on_signal(SIGALRM, handler, 0);
			soon();
			long r = f->call(SYS_nanosleep, (long)&ten, 0, 0);
			say("%s, interrupted: %s, result %ld, number %ld", f->name, place, r, number_seen);
			check(r == -EINTR);

			on_signal(SIGALRM, handler, SA_RESTART);
			feed = 1;
			soon();
			r = f->call(SYS_read, pipe_fd[0], (long)buffer, 3);
			say("%s, restarted: %s, result %ld, number %ld", f->name, place, r, number_seen);
			check(r == 3);

			go_to = f->after;
			feed = 0;
			soon();
			r = f->call(SYS_read, pipe_fd[0], (long)buffer, 3);
			say("%s, sent behind: %s, result %ld", f->name, place, r);
			check(r == -77);

			go_to = cancelled;
			soon();
			r = f->call(SYS_read, pipe_fd[0], (long)buffer, 3);
			say("%s, cancelled: %s, result %ld", f->name, place, r);
			check(r == -1000);

			go_to = NULL; /* a signal raised by the call itself comes behind it */
			on_signal(SIGUSR1, handler, 0);
			r = f->call(SYS_kill, getpid(), SIGUSR1, 0);
			say("%s, by the call: %s, result %ld, number %ld", f->name, place, r, number_seen);
			check(r == 0);
		}
	}
	say("handlers %d", seen);
	return done();
}
