/* Vector registers under preemption: more busy threads than processors, each with its own pattern in all sixteen ymm
 * registers, under timer signals whose handler overwrites them, with system calls in between. Ends with 77 without AVX. */
#define _GNU_SOURCE
#include <immintrin.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 6, REGISTERS = 16, MILLISECONDS = 1500 };

static atomic_int ticks;
static atomic_int wrong;

static void handler(int number)
{
	(void)number;
	__asm__ volatile(
		"vpcmpeqd %%xmm0, %%xmm0, %%xmm0; vinsertf128 $1, %%xmm0, %%ymm0, %%ymm0\n"
		"vmovaps %%ymm0, %%ymm1; vmovaps %%ymm0, %%ymm7; vmovaps %%ymm0, %%ymm8; vmovaps %%ymm0, %%ymm15\n" ::
			: "xmm0", "xmm1", "xmm7", "xmm8", "xmm15");
	atomic_fetch_add(&ticks, 1);
}

static int64_t now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

#define EACH(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11) f(12) f(13) f(14) f(15)
#define LOAD(n) "vmovups " #n "*32(%[in]), %%ymm" #n "\n"
#define STORE(n) "vmovups %%ymm" #n ", " #n "*32(%[out])\n"
#define CLOBBER(n) , "xmm" #n

static void *work(void *argument)
{
	uint8_t in[REGISTERS][32], out[REGISTERS][32];
	long id = (long)argument, rounds = 0;
	unsigned int control = 0x1f80 | (unsigned int)(id & 3) << 13; /* this thread's own rounding mode */
	_mm_setcsr(control);
	for (int64_t end = now() + MILLISECONDS; now() < end; rounds++) {
		for (int i = 0; i < REGISTERS; i++)
			memset(in[i], (int)(id * 37 + i * 11 + rounds), 32);
		memset(out, 0, sizeof out);
		uint64_t spins = 100000;
		__asm__ volatile(EACH(LOAD) "1: dec %[spins]; jnz 1b\n"
				"mov $110, %%eax; syscall\n" /* getppid */
				EACH(STORE) "vzeroupper\n"
				: [spins] "+r"(spins)
				: [in] "r"(in), [out] "r"(out)
				: "rax", "rcx", "r11", "memory", "cc" EACH(CLOBBER));
		if (memcmp(in, out, sizeof in) != 0 || (_mm_getcsr() & 0xffc0) != control)
			atomic_fetch_add(&wrong, 1);
	}
	return (void *)rounds;
}

int main(void)
{
	if (!__builtin_cpu_supports("avx"))
		return 77;
	struct sigaction action = { .sa_handler = handler, .sa_flags = SA_RESTART };
	sigaction(SIGALRM, &action, NULL);
	struct itimerval timer = { { 0, 1000 }, { 0, 1000 } };
	setitimer(ITIMER_REAL, &timer, NULL);
	pthread_t threads[THREADS];
	long rounds = 0;
	for (long i = 0; i < THREADS; i++)
		pthread_create(&threads[i], NULL, work, (void *)i);
	for (int i = 0; i < THREADS; i++) {
		void *result;
		pthread_join(threads[i], &result);
		rounds += (long)result;
	}
	printf("ticks %d, rounds %d, wrong %d\n", ticks > 50, rounds > 100, wrong);
	return 0;
}
