/* System calls from code that did not exist when the program was loaded: three ways to make a page executable, and the
 * registers a call must leave alone. Prints facts that do not differ from run to run. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096 };

/* long call(nr, a, b, c): moves the arguments to where the kernel wants them, syscall, ret */
static const uint8_t code[] = {
	0x48, 0x89, 0xf8, 0x48, 0x89, 0xf7, 0x48, 0x89, 0xd6, 0x48, 0x89, 0xca, 0x0f, 0x05, 0xc3,
};

typedef long (*call_t)(long nr, long a, long b, long c);

static uint8_t *page(int protection, int flags, int fd)
{
	uint8_t *where = mmap(NULL, PAGE, protection, flags, fd, 0);
	if (where == MAP_FAILED) {
		perror("mmap");
		_exit(1);
	}
	return where;
}

static void use(const char *name, const uint8_t *where)
{
	call_t call = (call_t)(uintptr_t)where;
	char text[64];
	int length = snprintf(text, sizeof text, "%s: written by a raw call\n", name);
	long written = call(SYS_write, 1, (long)text, length);
	long refused = call(SYS_openat, AT_FDCWD, (long)"/no/such/file", 0);
	long unknown = call(5000, 0, 0, 0);
	long fault = call(SYS_write, 1, 1, 10);
	printf("%s: %d %d %ld %ld %ld\n", name, written == length, call(SYS_getpid, 0, 0, 0) == getpid(), refused, unknown, fault);
	fflush(stdout);
	for (int i = 0; i < 500; i++)
		if (call(SYS_getppid, 0, 0, 0) != getppid())
			printf("%s: wrong at %d\n", name, i);
	long pid = call(SYS_fork, 0, 0, 0);
	if (pid == 0)
		call(SYS_exit_group, 17, 0, 0);
	int status = 0;
	if (waitpid((pid_t)pid, &status, 0) != pid)
		perror("waitpid");
	printf("%s: child ended with %d\n", name, WEXITSTATUS(status));
}

/* Every register but rax, rcx and r11 comes back as it was. */
static void registers(const uint8_t *bare)
{
	uint64_t changed;
	register const uint8_t *code_address __asm__("r15") = bare;
	__asm__ volatile(
		"sub $128, %%rsp\n" /* the red zone */
		"mov $0x1111, %%rbx; mov $0x2222, %%rdx; mov $0x3333, %%rsi; mov $0x4444, %%rdi; mov $0x5555, %%r8\n"
		"mov $0x6666, %%r9; mov $0x7777, %%r10; mov $0x8888, %%r12; mov $0x9999, %%r13; mov $0xaaaa, %%r14\n"
		"mov $39, %%eax; call *%%r15\n"
		"xor $0x1111, %%rbx; xor $0x2222, %%rdx; xor $0x3333, %%rsi; xor $0x4444, %%rdi; xor $0x5555, %%r8\n"
		"xor $0x6666, %%r9; xor $0x7777, %%r10; xor $0x8888, %%r12; xor $0x9999, %%r13; xor $0xaaaa, %%r14\n"
		"or %%rbx, %%rdx; or %%rsi, %%rdx; or %%rdi, %%rdx; or %%r8, %%rdx; or %%r9, %%rdx; or %%r10, %%rdx\n"
		"or %%r12, %%rdx; or %%r13, %%rdx; or %%r14, %%rdx\n"
		"add $128, %%rsp\n"
		: "=&d"(changed), "+r"(code_address)
		:
		: "rax", "rbx", "rcx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "memory", "cc");
	printf("registers changed: %llx\n", (unsigned long long)changed);
}

int main(void)
{
	uint8_t *where = page(PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	memcpy(where, code, sizeof code);
	if (mprotect(where, PAGE, PROT_READ | PROT_EXEC) != 0)
		perror("mprotect");
	use("protected", where);

	where = page(PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	for (int i = 0; i < 50; i++) { /* written again and again, at ever new places, as a JIT does */
		memset(where, 0xcc, PAGE);
		memcpy(where + i * 16, code, sizeof code);
		if (((call_t)(uintptr_t)(where + i * 16))(SYS_getpid, 0, 0, 0) != getpid())
			printf("rewritten: wrong at %d\n", i);
	}
	memcpy(where, code, sizeof code);
	use("writable", where);

	int fd = (int)syscall(SYS_memfd_create, "code", 0);
	if (fd < 0 || ftruncate(fd, PAGE) != 0)
		perror("memfd");
	uint8_t *writer = page(PROT_READ | PROT_WRITE, MAP_SHARED, fd);
	where = page(PROT_READ | PROT_EXEC, MAP_SHARED, fd);
	memcpy(writer, code, sizeof code);
	use("two views", where);
	memcpy(writer + 512, (uint8_t[]){ 0x0f, 0x05, 0xc3 }, 3); /* syscall; ret */
	registers(where + 512);
	puts("end");
	return 0;
}
