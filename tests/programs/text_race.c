/* A thread puts another file at a descriptor's number again and again while this one maps what the number stands for. Whatever is
 * mapped: another process that opens LIBRARY by itself sees LIBRARY. Usage: text_race LIBRARY FILE; FILE is made. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096ul
#define PAGES 38ul

static int library, other, number;
static volatile int stop;

static void *change(void *unused)
{
	while (!stop) {
		dup2(other, number);
		dup2(library, number);
	}
	return unused;
}

static char content[PAGES * PAGE], forged[PAGES * PAGE];

static void race(void)
{
	pthread_t thread;
	if (pthread_create(&thread, NULL, change, NULL))
		exit(1);
	for (unsigned long n = 1; n <= PAGES; n++)
		for (int i = 0; i < 3; i++)
			munmap(mmap(NULL, n * PAGE, PROT_READ, MAP_PRIVATE, number, 0), n * PAGE);
	stop = 1;
	pthread_join(thread, NULL);
}

static int differ(const char *path)
{
	int wrong = 0, fd = open(path, O_RDONLY);
	for (unsigned long n = 1; n <= PAGES; n++) {
		char *p = mmap(NULL, n * PAGE, PROT_READ, MAP_PRIVATE, fd, 0);
		wrong += p == MAP_FAILED || memcmp(p, content, n * PAGE) != 0;
		munmap(p, n * PAGE);
	}
	return wrong;
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 1;
	library = open(argv[1], O_RDONLY);
	other = open(argv[2], O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (pread(library, content, sizeof content, 0) != sizeof content)
		return 1;
	memcpy(forged, content, sizeof forged);
	for (unsigned long at = 3000; at < sizeof forged; at += PAGE) /* the header stays */
		forged[at] = (char)~forged[at];
	if (write(other, forged, sizeof forged) != sizeof forged || ftruncate(other, lseek(library, 0, SEEK_END)))
		return 1;
	number = dup(library);
	race();
	int status;
	pid_t child = fork();
	if (!child)
		_exit(differ(argv[1]));
	waitpid(child, &status, 0);
	printf("not the library's: %d\n", WEXITSTATUS(status));
	return status != 0;
}
