/* Files that change under a mapping, in ways that their times do not tell: ELF files written to through a shared mapping, data files.
 * Usage: text_stale LIBRARY DIRECTORY; LIBRARY: an ELF whose first segment has eight pages or more; DIRECTORY: for the files. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul
#define SPAN (8 * PAGE)
#define AT 5000

static sigjmp_buf escape;
static char content[1 << 20];
static unsigned long size;

static void on_fault(int sig)
{
	siglongjmp(escape, sig);
}

static char *map(int fd, int fixed)
{
	void *at = fixed ? mmap(NULL, SPAN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) : NULL;
	return mmap(at, SPAN, PROT_READ, MAP_PRIVATE | (fixed ? MAP_FIXED : 0), fd, 0);
}

static int seen_by_child(int fd, int fixed)
{
	int status;
	pid_t child = fork();
	if (!child)
		_exit(map(fd, fixed)[AT]);
	waitpid(child, &status, 0);
	return WEXITSTATUS(status);
}

static int fault_at(volatile const char *p)
{
	int sig = sigsetjmp(escape, 1);
	if (!sig)
		(void)*p;
	return sig;
}

static void become_old(void)
{
	nanosleep(&(struct timespec){2, 600000000}, NULL);
}

static void elf(int fd)
{
	if (write(fd, content, size) != (long)size)
		exit(1);
	char *shared = mmap(NULL, SPAN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	shared[AT] = 1;
	become_old();
	for (char n = 1; n < 7; n++) {
		shared[AT] = n;
		printf("%d ", seen_by_child(fd, n > 3));
	}
	volatile const char *p = map(fd, 0);
	printf("%d ", p[AT]);
	shared[AT] = 42;
	printf("%d ", p[AT]);
	printf("%d ", ftruncate(fd, PAGE) || fault_at(p + AT));
	printf("%d\n", ftruncate(fd, (long)size) || p[AT]);
}

static void data(int fd)
{
	memset(content, 'a', SPAN);
	if (write(fd, content, SPAN - 100) != SPAN - 100)
		exit(1);
	become_old();
	volatile const char *p = map(fd, 1);
	printf("%c", p[AT]);
	if (pwrite(fd, "b", 1, AT) != 1 || pwrite(fd, "cc", 2, SPAN - 50) != 2)
		exit(1);
	printf("%c%c\n", p[AT], p[SPAN - 49]);
}

int main(int argc, char **argv)
{
	int fd;
	if (argc != 3 || (fd = open(argv[1], O_RDONLY)) < 0 || chdir(argv[2]))
		return 1;
	long n = pread(fd, content, sizeof content, 0);
	if (n < (long)SPAN)
		return 1;
	size = (unsigned long)n;
	signal(SIGSEGV, on_fault);
	signal(SIGBUS, on_fault);
	setvbuf(stdout, NULL, _IONBF, 0);
	elf(open("elf", O_RDWR | O_CREAT | O_TRUNC, 0700));
	elf(memfd_create("elf", 0));
	data(open("data", O_RDWR | O_CREAT | O_TRUNC, 0600));
	return 0;
}
