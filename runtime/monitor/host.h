/* The monitor's own small world: host system calls and the few libc functions a freestanding program needs.
 *
 * The monitor has no libc: threads that share memory with vfork children, signals that arrive anywhere and a
 * published list of host calls leave no room for hidden state. Every host call is one of these, spelled out. */
#ifndef PSB_HOST_H
#define PSB_HOST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <asm/unistd_64.h>
#include <asm-generic/errno-base.h>
#include <asm-generic/errno.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t i32;
typedef int64_t i64;

#define PAGE 4096ul
#define ROUND_DOWN(x, a) ((x) & ~((u64)(a)-1))
#define ROUND_UP(x, a) ROUND_DOWN((x) + (u64)(a)-1, a)
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define IS_ERR(r) ((u64)(r) >= (u64)-4095l)

/* A host system call; returns the result or -errno. */
static inline long host6(long nr, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
	long ret;
	register u64 r10 __asm__("r10") = d;
	register u64 r8 __asm__("r8") = e;
	register u64 r9 __asm__("r9") = f;
	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return ret;
}
#define HOST_PICK(_0, _1, _2, _3, _4, _5, _6, name, ...) name
#define HOST_0(n) host6(n, 0, 0, 0, 0, 0, 0)
#define HOST_1(n, a) host6(n, (u64)(a), 0, 0, 0, 0, 0)
#define HOST_2(n, a, b) host6(n, (u64)(a), (u64)(b), 0, 0, 0, 0)
#define HOST_3(n, a, b, c) host6(n, (u64)(a), (u64)(b), (u64)(c), 0, 0, 0)
#define HOST_4(n, a, b, c, d) host6(n, (u64)(a), (u64)(b), (u64)(c), (u64)(d), 0, 0)
#define HOST_5(n, a, b, c, d, e) host6(n, (u64)(a), (u64)(b), (u64)(c), (u64)(d), (u64)(e), 0)
#define HOST_6(n, a, b, c, d, e, f) host6(n, (u64)(a), (u64)(b), (u64)(c), (u64)(d), (u64)(e), (u64)(f))
/* host_call(__NR_openat, dir, path, ...): up to six arguments, each converted to u64. */
#define host_call(...) HOST_PICK(__VA_ARGS__, HOST_6, HOST_5, HOST_4, HOST_3, HOST_2, HOST_1, HOST_0)(__VA_ARGS__)

void *memcpy(void *dst, const void *src, size_t n);
void *memmove(void *dst, const void *src, size_t n);
void *memset(void *dst, int c, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);
size_t strnlen(const char *s, size_t max);
int strcmp(const char *a, const char *b);
int strncmp(const char *a, const char *b, size_t n);
char *strchr(const char *s, int c);
char *strrchr(const char *s, int c);

/* Bounded formatter: %s %d %u %x %c %% with l/z and 0-width. Returns the length written (without NUL), never exceeding cap-1. */
int format(char *buf, size_t cap, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* One line on the monitor's stderr (host descriptor 2). Only for fatal conditions and debugging. */
void log_line(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* An inconsistency inside the monitor: says so and kills the process (SIGKILL to itself). */
_Noreturn void fatal(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Page-granular private memory above the guest limit; NULL on failure. */
void *host_alloc(size_t len);
void host_free(void *p, size_t len);

/* A small lock for short critical sections; waits with futex when contended. Not recursive. */
struct lock {
	_Atomic u32 word;
};
void lock_acquire(struct lock *l);
bool lock_try(struct lock *l);
void lock_release(struct lock *l);

/* TSC and the number of the CPU it was read on. */
static inline u64 rdtscp(u32 *cpu)
{
	u32 lo, hi;
	__asm__ volatile("rdtscp" : "=a"(lo), "=d"(hi), "=c"(*cpu));
	return (u64)hi << 32 | lo;
}

static inline u64 rdtsc(void)
{
	u32 lo, hi;
	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (u64)hi << 32 | lo;
}

#endif
