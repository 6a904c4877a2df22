/* What a freestanding program needs of a C library, and the checked access to guest memory. */
#include <stdarg.h>
#include "guest.h"
#include "host.h"

#define FUTEX_WAIT_PRIVATE 128
#define FUTEX_WAKE_PRIVATE 129

void *memcpy(void *dst, const void *src, size_t n)
{
	void *d = dst;
	__asm__ volatile("rep movsb" : "+D"(d), "+S"(src), "+c"(n) : : "memory");
	return dst;
}

void *memmove(void *dst, const void *src, size_t n)
{
	if ((u64)dst - (u64)src >= n)
		return memcpy(dst, src, n);
	u8 *d = (u8 *)dst + n - 1;
	const u8 *s = (const u8 *)src + n - 1;
	__asm__ volatile("std; rep movsb; cld" : "+D"(d), "+S"(s), "+c"(n) : : "memory");
	return dst;
}

void *memset(void *dst, int c, size_t n)
{
	void *d = dst;
	__asm__ volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(c) : "memory");
	return dst;
}

int memcmp(const void *a, const void *b, size_t n)
{
	const u8 *x = a, *y = b;
	for (; n; n--, x++, y++)
		if (*x != *y)
			return *x - *y;
	return 0;
}

size_t strlen(const char *s)
{
	size_t n = 0;
	while (s[n])
		n++;
	return n;
}

size_t strnlen(const char *s, size_t max)
{
	size_t n = 0;
	while (n < max && s[n])
		n++;
	return n;
}

int strcmp(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return (u8)*a - (u8)*b;
}

int strncmp(const char *a, const char *b, size_t n)
{
	for (; n; n--, a++, b++) {
		if (*a != *b)
			return (u8)*a - (u8)*b;
		if (!*a)
			return 0;
	}
	return 0;
}

char *strchr(const char *s, int c)
{
	for (;; s++) {
		if (*s == (char)c)
			return (char *)s;
		if (!*s)
			return NULL;
	}
}

char *strrchr(const char *s, int c)
{
	const char *last = NULL;
	for (;; s++) {
		if (*s == (char)c)
			last = s;
		if (!*s)
			return (char *)last;
	}
}

struct out {
	char *buf;
	size_t cap, len;
};

static void put(struct out *o, char c)
{
	if (o->len + 1 < o->cap)
		o->buf[o->len++] = c;
}

static void put_number(struct out *o, u64 v, unsigned base, int width, char pad)
{
	char tmp[24];
	int n = 0;
	do
		tmp[n++] = "0123456789abcdef"[v % base];
	while (v /= base);
	for (; width > n; width--)
		put(o, pad);
	while (n)
		put(o, tmp[--n]);
}

static int vformat(char *buf, size_t cap, const char *fmt, va_list ap)
{
	struct out o = {buf, cap, 0};
	for (; *fmt; fmt++) {
		if (*fmt != '%') {
			put(&o, *fmt);
			continue;
		}
		fmt++;
		char pad = ' ';
		int width = 0, wide = 0;
		if (*fmt == '0')
			pad = '0', fmt++;
		while (*fmt >= '0' && *fmt <= '9')
			width = width * 10 + *fmt++ - '0';
		while (*fmt == 'l' || *fmt == 'z')
			wide = 1, fmt++;
		switch (*fmt) {
		case 's': {
			const char *s = va_arg(ap, const char *);
			while (*s)
				put(&o, *s++);
			break;
		}
		case 'c':
			put(&o, (char)va_arg(ap, int));
			break;
		case 'd': {
			i64 v = wide ? va_arg(ap, i64) : va_arg(ap, int);
			if (v < 0)
				put(&o, '-');
			put_number(&o, v < 0 ? -(u64)v : (u64)v, 10, width, pad);
			break;
		}
		case 'u':
		case 'x':
			put_number(&o, wide ? va_arg(ap, u64) : va_arg(ap, u32), *fmt == 'x' ? 16 : 10, width, pad);
			break;
		default:
			put(&o, *fmt);
		}
	}
	if (cap)
		buf[o.len] = 0;
	return (int)o.len;
}

int format(char *buf, size_t cap, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int n = vformat(buf, cap, fmt, ap);
	va_end(ap);
	return n;
}

static void log_v(const char *fmt, va_list ap)
{
	char line[512];
	int n = format(line, sizeof line, "pysandbox-monitor[%d]: ", (int)host_call(__NR_getpid));
	n += vformat(line + n, sizeof line - (size_t)n - 1, fmt, ap);
	line[n++] = '\n';
	host_call(__NR_write, 2, line, n);
}

void log_line(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	log_v(fmt, ap);
	va_end(ap);
}

void fatal(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	log_v(fmt, ap);
	va_end(ap);
	for (;;) {
		host_call(__NR_kill, host_call(__NR_getpid), 9);
		host_call(__NR_exit_group, 125); /* pid 1 of a namespace cannot kill itself */
	}
}

void *host_alloc(size_t len)
{
	/* PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_NORESERVE */
	long p = host_call(__NR_mmap, 0, ROUND_UP(len, PAGE), 3, 0x4022, -1, 0);
	if (IS_ERR(p))
		return NULL;
	if ((u64)p < PSB_GUEST_LIMIT) /* the host ran out of room above the limit: never use guest room */
		fatal("host memory below the guest limit");
	return (void *)p;
}

void host_free(void *p, size_t len)
{
	if (p)
		host_call(__NR_munmap, p, ROUND_UP(len, PAGE));
}

/* Word: 0 free, 1 held, 2 held and somebody may wait. Shared futexes are not needed: one memory, private. */
void lock_acquire(struct lock *l)
{
	for (int spin = 0; spin < 100; spin++) {
		u32 zero = 0;
		if (atomic_compare_exchange_strong(&l->word, &zero, 1))
			return;
		__builtin_ia32_pause();
	}
	while (atomic_exchange(&l->word, 2) != 0)
		host_call(__NR_futex, &l->word, FUTEX_WAIT_PRIVATE, 2, 0, 0, 0);
}

bool lock_try(struct lock *l)
{
	u32 zero = 0;
	return atomic_compare_exchange_strong(&l->word, &zero, 1);
}

void lock_release(struct lock *l)
{
	if (atomic_exchange(&l->word, 0) == 2)
		host_call(__NR_futex, &l->word, FUTEX_WAKE_PRIVATE, 1, 0, 0, 0);
}

extern char guest_access_begin[], guest_access_end[], guest_access_fixup[];
long raw_copy(void *dst, const void *src, u64 len);
long raw_clear(void *dst, u64 len);
long raw_copy_string(char *dst, const char *src, u64 cap);

u64 guest_copy_fixup(u64 rip)
{
	return rip >= (u64)guest_access_begin && rip < (u64)guest_access_end ? (u64)guest_access_fixup : 0;
}

long copy_from_guest(void *dst, gptr src, u64 len)
{
	if (!guest_range(src, len))
		return -EFAULT;
	return raw_copy(dst, (const void *)src.va, len);
}

long copy_to_guest(gptr dst, const void *src, u64 len)
{
	if (!guest_range(dst, len))
		return -EFAULT;
	return raw_copy((void *)dst.va, src, len);
}

long clear_guest(gptr dst, u64 len)
{
	if (!guest_range(dst, len))
		return -EFAULT;
	return raw_clear((void *)dst.va, len);
}

long copy_string_from_guest(char *dst, gptr src, u64 cap)
{
	if (src.va >= PSB_GUEST_LIMIT)
		return -EFAULT;
	u64 room = PSB_GUEST_LIMIT - src.va;
	long n = raw_copy_string(dst, (const char *)src.va, cap < room ? cap : room);
	return n == -ENAMETOOLONG && room < cap ? -EFAULT : n;
}
