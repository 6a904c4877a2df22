/* A timer signal a thousand times a second over computing, system calls and AVX: nothing may be lost or doubled. */
#include "sig.h"
#include <fcntl.h>
#include <immintrin.h>
#include <sys/time.h>

static volatile unsigned long ticks, damage;

static void tick(int signo, siginfo_t *info, void *context)
{
	(void)signo, (void)info, (void)context;
	ticks++;
	__asm__ volatile("vpcmpeqd %%ymm0, %%ymm0, %%ymm0; vmovdqa %%ymm0, %%ymm3; vmovdqa %%ymm0, %%ymm9; vmovdqa %%ymm0, %%ymm14"
			 : : : "xmm0", "xmm3", "xmm9", "xmm14");
}

static uint64_t compute(void)
{
	uint64_t h = 0xcbf29ce484222325ull;
	__m256i a = _mm256_set1_epi32(1), b = _mm256_set1_epi32(3);
	for (long i = 0; i < 60000000; i++) {
		h = (h ^ (uint64_t)i) * 0x100000001b3ull;
		a = _mm256_castpd_si256(_mm256_xor_pd(_mm256_castsi256_pd(a), _mm256_castsi256_pd(b)));
	}
	uint64_t lane[4];
	_mm256_storeu_si256((__m256i *)lane, a);
	return h ^ lane[0] ^ lane[3];
}

/* Bytes written to a pipe come out in order and none twice, whatever interrupts. */
static uint64_t calls(void)
{
	int p[2];
	check(!pipe(p));
	uint64_t h = 0, left = 20000;
	pid_t parent = getppid();
	for (uint64_t i = 0; i < left; i++) {
		uint64_t out = i * 2654435761u, in = 0;
		long r;
		while ((r = write(p[1], &out, 8)) < 0 && errno == EINTR)
			;
		check(r == 8);
		while ((r = read(p[0], &in, 8)) < 0 && errno == EINTR)
			;
		check(r == 8 && in == out);
		if (getppid() != parent)
			damage++;
		h = h * 31 + in;
	}
	close(p[0]);
	close(p[1]);
	return h;
}

static int children(void)
{
	int sum = 0;
	for (int i = 0; i < 20; i++) {
		int status;
		pid_t r, pid = fork();
		if (pid == 0)
			_exit(i);
		check(pid > 0);
		while ((r = waitpid(pid, &status, 0)) < 0 && errno == EINTR)
			;
		check(r == pid && WIFEXITED(status));
		sum += WEXITSTATUS(status);
	}
	return sum;
}

static void round_with(const char *what)
{
	unsigned long before = ticks;
	say("%s: %lx %lx %d", what, (unsigned long)compute(), (unsigned long)calls(), children());
	if (before || ticks)
		say("  signals came: %d", ticks - before > 20);
}

int main(void)
{
	round_with("quiet");
	on_signal(SIGALRM, tick, 0);
	struct itimerval it = {{0, 1000}, {0, 1000}};
	setitimer(ITIMER_REAL, &it, NULL);
	round_with("storm");
	on_signal(SIGALRM, tick, SA_RESTART);
	round_with("storm with SA_RESTART");
	it = (struct itimerval){0};
	setitimer(ITIMER_REAL, &it, NULL);
	check(!damage);
	return done();
}
