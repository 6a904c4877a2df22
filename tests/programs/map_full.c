/* A thread maps a library, for execution too, while there is no free descriptor left. Usage: map_full LIBRARY */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int library;

static void *map(void *unused)
{
	static char content[4096];
	int shown = 0;
	while (dup(0) >= 0)
		;
	printf("dup: %s\n", strerror(errno));
	if (pread(library, content, sizeof content, 0) != sizeof content)
		return NULL;
	static const int prot[] = {PROT_READ, PROT_READ | PROT_EXEC, PROT_READ | PROT_WRITE};
	for (int i = 0; i < 3; i++) {
		void *p = mmap(NULL, sizeof content, prot[i], MAP_PRIVATE, library, 0);
		shown += p != MAP_FAILED && !memcmp(p, content, sizeof content);
	}
	printf("shown: %d\n", shown);
	return unused;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	library = open(argv[argc - 1], O_RDONLY);
	if (argc != 2 || library < 0 || pthread_create(&thread, NULL, map, NULL))
		return 1;
	pthread_join(thread, NULL);
	return 0;
}
