/* `cpuid` at a site that is rewritten beside the same instruction in a page made at run time, which is not: registers, flags,
 * and what a timer signal sees that may interrupt it anywhere. */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>

struct state {
	uint64_t rax, rbx, rcx, rdx, rsi, rdi, flags;
};

/* All registers and flags in, the instruction, all out. */
#define AROUND(insn) \
	"push %%rbx\n push %%rbp\n mov %0, %%rbp\n" \
	"push 48(%%rbp)\n popf\n" \
	"mov 0(%%rbp), %%rax\n mov 8(%%rbp), %%rbx\n mov 16(%%rbp), %%rcx\n mov 24(%%rbp), %%rdx\n mov 32(%%rbp), %%rsi\n mov 40(%%rbp), %%rdi\n" \
	insn \
	"mov %%rax, 0(%%rbp)\n mov %%rbx, 8(%%rbp)\n mov %%rcx, 16(%%rbp)\n mov %%rdx, 24(%%rbp)\n mov %%rsi, 32(%%rbp)\n mov %%rdi, 40(%%rbp)\n" \
	"pushf\n pop 48(%%rbp)\n pop %%rbp\n pop %%rbx\n"
#define CLOBBERS "rax", "rcx", "rdx", "rsi", "rdi", "r12", "cc", "memory"

static void *raw_code;

static __attribute__((noinline)) void rewritten(struct state *s)
{
	__asm__ volatile("sub $128, %%rsp\n" AROUND("cpuid\n nop\n nop\n nop\n") "add $128, %%rsp\n" : : "r"(s) : CLOBBERS);
}

static __attribute__((noinline)) void raw(struct state *s)
{
	__asm__ volatile("sub $128, %%rsp\n mov %1, %%r12\n" AROUND("call *%%r12\n") "add $128, %%rsp\n" : : "r"(s), "r"(raw_code) : CLOBBERS);
}

static volatile unsigned long signals, strange;
static uint64_t text_from, text_to;

static void on_timer(int signo, siginfo_t *info, void *context)
{
	uint64_t rip = (uint64_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
	struct state s = {.rax = 4, .rcx = 1};
	(void)signo, (void)info;
	rewritten(&s); /* in the middle of another one */
	signals++;
	strange += rip < text_from || rip >= text_to;
}

extern char __executable_start, etext;

int main(void)
{
	static const uint32_t functions[] = {0, 1, 2, 4, 6, 7, 0xb, 0xd, 0x14, 0x1f, 0x20, 0x99, 0x40000000, 0x80000000, 0x80000001, 0x80000005,
					     0x80000006, 0x80000008, 0x8000001d, 0x8000001e, 0x80000099, 0xffffffff};
	static const uint64_t flags[] = {0x202, 0x202 | 0x8d5, 0x202 | 0x800, 0x202 | 0xd5, 0x202 | 0x441};
	unsigned long differ = 0, compared = 0, rounds;
	unsigned char code[] = {0x0f, 0xa2, 0xc3};
	cpu_set_t one; /* some leaves name the CPU */
	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	sched_setaffinity(0, sizeof one, &one);
	raw_code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy(raw_code, code, sizeof code);
	for (unsigned i = 0; i < sizeof functions / sizeof *functions; i++)
		for (uint64_t index = 0; index < 6; index++) {
			uint64_t high = 0x1234567800000000;
			struct state a = {functions[i] | high, 0x1111111111111111, index | high, 3, 0x4444444444444444, 0x5555555555555555, flags[(i + index) % 5]};
			struct state b = a;
			rewritten(&a);
			raw(&b);
			compared++;
			if (memcmp(&a, &b, sizeof a)) {
				differ++;
				fprintf(stderr, "%x.%lx: %lx %lx %lx %lx %lx %lx flags %lx, not %lx %lx %lx %lx %lx %lx flags %lx\n", functions[i], (unsigned long)index, a.rax, a.rbx,
					a.rcx, a.rdx, a.rsi, a.rdi, a.flags, b.rax, b.rbx, b.rcx, b.rdx, b.rsi, b.rdi, b.flags);
			}
		}
	printf("%lu compared, %lu differ\n", compared, differ);
	text_from = (uint64_t)&__executable_start;
	text_to = (uint64_t)&etext;
	struct sigaction act = {.sa_sigaction = on_timer, .sa_flags = SA_SIGINFO | SA_RESTART};
	sigaction(SIGALRM, &act, NULL);
	struct state first = {.rax = 4, .rcx = 1, .flags = 0xad7}, s;
	rewritten(&first);
	struct itimerval every = {{0, 500}, {0, 500}};
	setitimer(ITIMER_REAL, &every, NULL);
	for (rounds = differ = 0; signals < 300; rounds++) {
		s = (struct state){.rax = 4, .rcx = 1, .flags = 0xad7};
		rewritten(&s);
		differ += memcmp(&s, &first, sizeof s) != 0;
	}
	printf("interrupted: %lu differ, %lu signals outside the program's text\n", differ, strange);
	return 0;
}
