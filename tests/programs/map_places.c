/* Where mappings go and what they show, as programs rely on it that keep a map of their address space: compilers to memory, valgrind.
 * Usage: map_places LIBRARY, an ELF whose text calls the kernel. */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096ul

static void say(const char *what, long got)
{
	printf("%s: %ld\n", what, got);
}

static void low_addresses(void)
{
	int prot = PROT_READ | PROT_WRITE, flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT | MAP_NORESERVE;
	char *a = mmap((void *)0x50000000, 1 << 20, prot, flags, -1, 0);
	say("hint below 2 GiB is taken", a == (char *)0x50000000);
	char *b = mmap(a, 1 << 20, prot, flags, -1, 0);
	say("one in use is not", b != a && b != MAP_FAILED && (uintptr_t)b < 0x80000000);
	char *c = mmap((void *)0x300000000000, 1 << 20, prot, flags, -1, 0);
	say("nor one above", c != MAP_FAILED && (uintptr_t)c < 0x80000000);
	munmap(a, 1 << 20);
	munmap(b, 1 << 20);
	munmap(c, 1 << 20);
}

static void stack_with_code(void)
{
	static const unsigned char code[] = {0xb8, 42, 0, 0, 0, 0xc3}; /* mov $42, %eax; ret */
	unsigned char on_stack[sizeof code];
	int all = PROT_READ | PROT_WRITE | PROT_EXEC;
	char *page = (char *)((uintptr_t)on_stack & ~(PAGE - 1));
	say("stack made executable", mprotect(page, PAGE, all | PROT_GROWSDOWN));
	memcpy(on_stack, code, sizeof code);
	int (*function)(void);
	void *at = on_stack;
	memcpy(&function, &at, sizeof function);
	say("code on it", function());
	char *other = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int r = mprotect(other, PAGE, all | PROT_GROWSDOWN);
	say("memory that does not grow", r ? errno : 0);
	r = mprotect(page, PAGE, all | PROT_GROWSDOWN | PROT_GROWSUP);
	say("both directions", r ? errno : 0);
}

/* Bytes of the mapping that are not the file's. */
static long differences(const char *at, int fd, off_t offset, size_t len)
{
	char buf[PAGE];
	long n = 0;
	for (size_t done = 0; done < len; done += PAGE) {
		ssize_t got = pread(fd, buf, PAGE, offset + (off_t)done);
		for (ssize_t i = 0; i < got; i++)
			n += buf[i] != at[done + (size_t)i];
	}
	return n;
}

static void text_as_in_the_file(const char *path)
{
	int fd = open(path, O_RDONLY);
	Elf64_Ehdr eh;
	Elf64_Phdr ph[32];
	if (fd < 0 || pread(fd, &eh, sizeof eh, 0) != sizeof eh || eh.e_phnum > 32 || pread(fd, ph, sizeof *ph * eh.e_phnum, (off_t)eh.e_phoff) < 0) {
		puts("no library");
		return;
	}
	char *base = mmap(NULL, 64 << 20, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(base, 64 << 20);
	for (int i = 0; i < eh.e_phnum; i++) {
		if (ph[i].p_type != PT_LOAD || !(ph[i].p_flags & PF_X))
			continue;
		size_t skew = ph[i].p_vaddr % PAGE, len = ph[i].p_filesz + skew;
		off_t offset = (off_t)(ph[i].p_offset - skew);
		/* text alone, where nothing is */
		char *at = mmap(base, len, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, fd, offset);
		say("text put in a free place", at == MAP_FAILED ? -1 : differences(at, fd, offset, len));
		munmap(at, len);
		/* the whole file there, then text over it */
		struct stat st;
		fstat(fd, &st);
		char *all = mmap(base, (size_t)st.st_size, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0);
		at = mmap(all + offset, len, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, fd, offset);
		say("text over its file", at == MAP_FAILED ? -1 : differences(at, fd, offset, len));
		munmap(all, (size_t)st.st_size);
	}
	close(fd);
}

int main(int argc, char **argv)
{
	if (argc != 2)
		return 2;
	low_addresses();
	stack_with_code();
	text_as_in_the_file(argv[1]);
	return 0;
}
