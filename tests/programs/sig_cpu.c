/* What a program may do with segment bases, the vsyscall page and small signal stacks. */
#include "sig.h"
#include <asm/prctl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/time.h>

#ifndef HWCAP2_FSGSBASE
#define HWCAP2_FSGSBASE 2
#endif
#ifndef AT_MINSIGSTKSZ
#define AT_MINSIGSTKSZ 51
#endif
#ifndef CLONE_CLEAR_SIGHAND
#define CLONE_CLEAR_SIGHAND 0x100000000ull
#endif

#define CHECK(cond) (say("%s", #cond), fact(__LINE__, cond))

static void fact(int line, int holds)
{
	if (!holds)
		say("FAIL line %d", line);
	failures += !holds;
}

static unsigned long blocks[4][16];
static volatile sig_atomic_t seen;

static void count(int signo)
{
	(void)signo;
	seen++;
}

static unsigned long at_gs(void)
{
	unsigned long v;
	__asm__ volatile("mov %%gs:8, %0" : "=r"(v));
	return v;
}

static unsigned long kernel_gs(void)
{
	unsigned long v = 1;
	syscall(SYS_arch_prctl, ARCH_GET_GS, &v);
	return v;
}

static void *use_gs(void *arg)
{
	unsigned long *mine = arg;
	int good = kernel_gs() == 0; /* a thread begins with its creator's, which has not set it yet */
	mine[1] = (unsigned long)mine;
	syscall(SYS_arch_prctl, ARCH_SET_GS, mine);
	for (int i = 0; i < 3000; i++)
		good &= at_gs() == (unsigned long)mine && syscall(SYS_gettid) > 0 && getppid() >= 0;
	good &= kernel_gs() == (unsigned long)mine;
	return (void *)(long)good;
}

static void threads(void)
{
	pthread_t t[3];
	long all = 1;
	for (int i = 0; i < 3; i++)
		CHECK(!pthread_create(&t[i], NULL, use_gs, blocks[i]));
	for (int i = 0; i < 2000; i++) /* a thread without GS of its own makes calls meanwhile */
		all &= getppid() >= 0;
	for (int i = 0; i < 3; i++) {
		void *good;
		pthread_join(t[i], &good);
		all &= (long)good;
	}
	CHECK(all);
}

static void alone(void)
{
	struct itimerval every = {{0, 300}, {0, 300}}, none = {{0, 0}, {0, 0}};
	unsigned long *mine = blocks[3], v = 0;
	mine[1] = 4711;
	CHECK(syscall(SYS_arch_prctl, ARCH_SET_GS, mine) == 0);
	signal(SIGALRM, count);
	setitimer(ITIMER_REAL, &every, NULL);
	int good = 1;
	for (int i = 0; i < 20000 || seen < 20; i++)
		good &= at_gs() == 4711 && getppid() >= 0;
	setitimer(ITIMER_REAL, &none, NULL);
	CHECK(good);
	pid_t child = fork();
	if (!child)
		_exit(at_gs() == 4711 && kernel_gs() == (unsigned long)mine ? 7 : 1);
	int status;
	waitpid(child, &status, 0);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
	if (getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE) {
		__asm__ volatile("rdgsbase %0" : "=r"(v));
		CHECK(v == (unsigned long)mine);
		__asm__ volatile("wrgsbase %0" : : "r"(blocks[0]));
		CHECK(at_gs() == blocks[0][1] && kernel_gs() == (unsigned long)blocks[0]);
		__asm__ volatile("rdfsbase %%r9; wrfsbase %%r9; mov %%r9, %0" : "=r"(v) : : "r9");
		CHECK(v == (unsigned long)pthread_self());
	}
	unsigned a = 0, b, c, d;
	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "=c"(c), "=d"(d));
	CHECK(a && b && c && d);
	__asm__ volatile("mov %0, %%gs" : : "r"(0));
	CHECK(kernel_gs() == 0);
	CHECK(syscall(SYS_arch_prctl, ARCH_SET_GS, ~0ul) == -1 && errno == EPERM);
}

/* In a program that never told: only the selector is loaded. */
static void selector(void)
{
	pid_t child = fork();
	if (!child) {
		__asm__ volatile("mov %0, %%gs" : : "r"(0));
		_exit(getppid() > 0 && syscall(SYS_gettid) == getpid() ? 9 : 1);
	}
	int status;
	waitpid(child, &status, 0);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 9);
}

static void small_stack(void)
{
	size_t least = getauxval(AT_MINSIGSTKSZ) + 4096;
	char *memory = mmap(NULL, 3 * 65536, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	stack_t alt = {.ss_sp = memory + 65536, .ss_size = least};
	CHECK(!mprotect(alt.ss_sp, (least + 4095) & ~4095ul, PROT_READ | PROT_WRITE));
	CHECK(!sigaltstack(&alt, NULL));
	struct sigaction act = {.sa_handler = count, .sa_flags = SA_ONSTACK};
	sigaction(SIGUSR1, &act, NULL);
	seen = 0;
	raise(SIGUSR1);
	CHECK(seen == 1);
}

/* True where there is none. */
static int vsyscall_page(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[4096];
	int there = 0;
	while (fgets(line, sizeof line, maps))
		there |= strstr(line, "[vsyscall]") && strstr(line, "xp ");
	fclose(maps);
	if (!there)
		return 1;
	long (*old_time)(long *) = (long (*)(long *))0xffffffffff600400;
	long (*old_gettimeofday)(struct timeval *, void *) = (long (*)(struct timeval *, void *))0xffffffffff600000;
	struct timeval tv = {0, 0};
	long got = 0, now = time(NULL);
	return old_time(&got) - now <= 2 && got - now <= 2 && got >= now && old_gettimeofday(&tv, NULL) == 0 && tv.tv_sec - now <= 2;
}

static void clear_handlers(void)
{
	struct clone_args args = {.flags = CLONE_CLEAR_SIGHAND, .exit_signal = SIGCHLD};
	signal(SIGUSR2, count);
	signal(SIGHUP, SIG_IGN);
	pid_t child = (pid_t)syscall(SYS_clone3, &args, sizeof args);
	if (!child) {
		struct sigaction one, other;
		sigaction(SIGUSR2, NULL, &one);
		sigaction(SIGHUP, NULL, &other);
		if (one.sa_handler != SIG_DFL || other.sa_handler != SIG_IGN)
			_exit(1);
		raise(SIGUSR2);
		_exit(2);
	}
	int status;
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGUSR2);
	args.flags |= CLONE_SIGHAND | CLONE_VM;
	CHECK(syscall(SYS_clone3, &args, sizeof args) == -1 && errno == EINVAL);
}

#define EACH16(x) x(0) x(1) x(2) x(3) x(4) x(5) x(6) x(7) x(8) x(9) x(10) x(11) x(12) x(13) x(14) x(15)
#define UPPER16(x) x(16) x(17) x(18) x(19) x(20) x(21) x(22) x(23) x(24) x(25) x(26) x(27) x(28) x(29) x(30) x(31)
#define LOAD_YMM(n) "vmovdqu " #n "*64(%0), %%ymm" #n "\n"
#define STORE_YMM(n) "vmovdqu %%ymm" #n ", " #n "*64(%1)\n"
#define LOAD_ZMM(n) "vmovdqu64 " #n "*64(%0), %%zmm" #n "\n"
#define STORE_ZMM(n) "vmovdqu64 %%zmm" #n ", " #n "*64(%1)\n"
#define CLOBBER "rcx", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"
#define SPIN "mov $3000000, %%rcx\n1: dec %%rcx\njnz 1b\n"

static unsigned char before[32 * 64] __attribute__((aligned(64))), after[32 * 64] __attribute__((aligned(64)));
static bool avx, avx512;

static void spoil(int signo)
{
	count(signo);
	if (avx)
		__asm__ volatile("vzeroall" : : : CLOBBER);
	if (avx512)
		__asm__ volatile("vpxord %%zmm16, %%zmm16, %%zmm16; vpxord %%zmm31, %%zmm31, %%zmm31; kxnorw %%k1, %%k1, %%k1" : : : CLOBBER);
}

/* A signal at any moment leaves all registers as they were. */
static void vectors(void)
{
	struct itimerval every = {{0, 700}, {0, 700}}, none = {{0, 0}, {0, 0}};
	unsigned mask = 0x5a, mask_after = 0x5a;
	int same = 1;
	avx = __builtin_cpu_supports("avx");
	avx512 = __builtin_cpu_supports("avx512f");
	say("avx %d, avx512 %d", avx, avx512);
	for (unsigned i = 0; i < sizeof before; i++)
		before[i] = (unsigned char)(i * 7 + i / 64 + 1);
	signal(SIGALRM, spoil);
	setitimer(ITIMER_REAL, &every, NULL);
	seen = 0;
	for (int i = 0; i < 10 || seen < 10; i++) {
		unsigned char *from = before, *to = after;
		memset(after, 0, sizeof after);
		if (avx512)
			__asm__ volatile("kmovw %2, %%k1\n" EACH16(LOAD_ZMM) UPPER16(LOAD_ZMM) SPIN EACH16(STORE_ZMM) UPPER16(STORE_ZMM) "kmovw %%k1, %2"
					 : "+r"(from), "+r"(to), "+r"(mask_after) : : CLOBBER);
		else if (avx)
			__asm__ volatile(EACH16(LOAD_YMM) SPIN EACH16(STORE_YMM) : : "r"(from), "r"(to) : CLOBBER);
		for (int r = 0; r < (avx512 ? 32 : 16); r++)
			same &= !avx || !memcmp(before + r * 64, after + r * 64, avx512 ? 64 : 32);
		same &= mask_after == mask;
	}
	setitimer(ITIMER_REAL, &none, NULL);
	CHECK(same);
}

int main(void)
{
	vectors();
	selector();
	threads();
	alone();
	small_stack();
	CHECK(vsyscall_page());
	clear_handlers();
	return done();
}
