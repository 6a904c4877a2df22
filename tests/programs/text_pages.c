/* Read-only pages of files, mapped the ways loaders and others map them, changed, moved and replaced: what is seen must be the file's,
 * or the program's own change. Usage: text_pages LIBRARY DIRECTORY; LIBRARY: an ELF of at least eight pages that is not new. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ul
#define SPAN (6 * PAGE)

static sigjmp_buf escape;

static void on_fault(int sig)
{
	siglongjmp(escape, sig);
}

static int fault_at(volatile const char *p)
{
	int sig = sigsetjmp(escape, 1);
	if (!sig)
		(void)*p;
	return sig;
}

static void say(const char *what, long value)
{
	printf("%s: %ld\n", what, value);
	fflush(stdout);
}

static char expect[SPAN + PAGE];

static int same(const char *p, unsigned long from, unsigned long len)
{
	return !memcmp(p + from, expect + from, len);
}

static char *map_start(int fd)
{
	return mmap(NULL, SPAN, PROT_READ, MAP_PRIVATE, fd, 0);
}

static char *map_fixed(int fd)
{
	char *at = mmap(NULL, SPAN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return mmap(at, SPAN, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0);
}

static void changes(char *(*map)(int), int fd, int other)
{
	char *p = map(fd);
	say("as the file", same(p, 0, SPAN));
	say("written after mprotect", mprotect(p + PAGE, PAGE, PROT_READ | PROT_WRITE) || (p[PAGE] = ~expect[PAGE], p[PAGE] != (char)~expect[PAGE]));
	say("neighbours", same(p, 0, PAGE) && same(p, 2 * PAGE, SPAN - 2 * PAGE));
	char *q = map(fd);
	say("another mapping", same(q, 0, SPAN));
	say("read-only again", mprotect(p, SPAN, PROT_READ));
	say("keeps the change", p[PAGE] == (char)~expect[PAGE] && same(p, 2 * PAGE, PAGE));
	say("hole", munmap(p + 3 * PAGE, PAGE));
	say("in the hole", fault_at(p + 3 * PAGE));
	say("behind the hole", same(p, 4 * PAGE, PAGE));
	say("anonymous over it", mmap(p + 4 * PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p + 4 * PAGE && p[4 * PAGE] == 0);
	say("other file over it", mmap(q, SPAN, PROT_READ, MAP_PRIVATE | MAP_FIXED, other, 0) == q && q[0] == 'o' && q[SPAN - 1] == 'o');
	munmap(q, SPAN);
	say("unmapped", fault_at(q));
	q = map(fd);
	char *moved = mremap(q, SPAN, SPAN, MREMAP_MAYMOVE | MREMAP_FIXED, mmap(NULL, SPAN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
	say("moved", moved != q && same(moved, 0, SPAN) && fault_at(q) == SIGSEGV);
	say("shrunk", mremap(moved, SPAN, 2 * PAGE, 0) == moved && same(moved, 0, 2 * PAGE) && fault_at(moved + 2 * PAGE) == SIGSEGV);
	say("no access", mprotect(moved, PAGE, PROT_NONE) || fault_at(moved));
	say("access again", mprotect(moved, PAGE, PROT_READ) || !same(moved, 0, 2 * PAGE));
	say("advised", madvise(moved, 2 * PAGE, MADV_DONTNEED) || !same(moved, 0, 2 * PAGE));
	pid_t child = fork();
	if (!child) {
		int wrong = !same(moved, 0, 2 * PAGE) || p[PAGE] != (char)~expect[PAGE];
		munmap(moved, PAGE);
		_exit(wrong || fault_at(moved) != SIGSEGV || !same(moved, PAGE, PAGE));
	}
	int status;
	waitpid(child, &status, 0);
	say("child", status);
	say("parent", same(moved, 0, 2 * PAGE));
}

static int seen_by_child(int fd, int offset)
{
	int status;
	pid_t child = fork();
	if (!child) {
		unsigned char c = (unsigned char)map_start(fd)[offset];
		_exit(c);
	}
	waitpid(child, &status, 0);
	return WEXITSTATUS(status);
}

/* A file that is changed in place, with its times put back: a mapping made afterwards shows the change. */
static void changed_file(const char *path)
{
	struct stat st;
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0700);
	if (write(fd, expect, SPAN) != SPAN || fstat(fd, &st))
		exit(1);
	nanosleep(&(struct timespec){2, 500000000}, NULL);
	say("old content", seen_by_child(fd, 100) == (unsigned char)expect[100]);
	for (int n = 1; n <= 3; n++) {
		char c = (char)(expect[100] + n);
		if (pwrite(fd, &c, 1, 100) != 1 || futimens(fd, (struct timespec[2]){st.st_atim, st.st_mtim}))
			exit(1);
		say("new content", seen_by_child(fd, 100) == (unsigned char)c);
	}
	close(fd);
}

__attribute__((noinline, aligned(4096))) static int answer(int n)
{
	__asm__ volatile("" : "+r"(n));
	return n + 1;
}

/* The program's own text, written to: seen by it and by a child made later, not by others of the same file. */
static void own_text(char *self)
{
	unsigned char *at = (unsigned char *)((unsigned long)answer & ~(PAGE - 1));
	say("answer", answer(1));
	static const unsigned char code[] = {0xb8, 77, 0, 0, 0, 0xc3};
	if (mprotect(at, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC))
		exit(1);
	memcpy((void *)(unsigned long)answer, code, sizeof code);
	say("patched", answer(1));
	int status;
	pid_t child = fork();
	if (!child)
		_exit(answer(1));
	waitpid(child, &status, 0);
	say("patched in the child", WEXITSTATUS(status));
	child = fork();
	if (!child) {
		execl(self, self, "answer", NULL);
		_exit(1);
	}
	waitpid(child, &status, 0);
	say("in a new program", WEXITSTATUS(status));
}

int main(int argc, char **argv)
{
	if (argc == 2)
		return answer(1);
	char path[200];
	signal(SIGSEGV, on_fault);
	signal(SIGBUS, on_fault);
	int fd = open(argv[1], O_RDONLY);
	if (argc != 3 || pread(fd, expect, SPAN, 0) != SPAN)
		return 1;
	snprintf(path, sizeof path, "%s/other", argv[2]);
	int other = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	static char o[SPAN];
	memset(o, 'o', sizeof o);
	if (write(other, o, SPAN) != SPAN)
		return 1;
	own_text(argv[0]);
	changes(map_start, fd, other);
	changes(map_fixed, fd, other);
	snprintf(path, sizeof path, "%s/changed", argv[2]);
	changed_file(path);
	setrlimit(RLIMIT_FSIZE, &(struct rlimit){0, 0});
	say("with a file size limit of 0", same(map_start(fd), 0, SPAN));
	int status;
	pid_t child = fork();
	if (!child) {
		execl("/bin/true", "true", NULL);
		_exit(1);
	}
	waitpid(child, &status, 0);
	say("and a program", status);
	return 0;
}
