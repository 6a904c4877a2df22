/* Reads that take long, of devices that look for signals meanwhile: all of it must come. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/uio.h>
#include <unistd.h>

#define MIB (1ul << 20)

int main(void)
{
	char *memory = malloc(64 * MIB);
	struct iovec parts[2] = {{memory, 32 * MIB}, {memory + 32 * MIB, 32 * MIB}};
	int zero = open("/dev/zero", O_RDONLY), urandom = open("/dev/urandom", O_RDONLY);
	for (int i = 0; i < 2000; i++) /* a burst of calls: whoever answers those has these to make, too */
		getppid();
	for (int i = 0; i < 2; i++) {
		printf("read %zd\n", read(zero, memory, 64 * MIB));
		printf("readv %zd\n", readv(zero, parts, 2));
		printf("pread %zd\n", pread(zero, memory, 64 * MIB, 0));
		printf("read %zd\n", read(urandom, memory, 16 * MIB));
		printf("getrandom %zd\n", getrandom(memory, 16 * MIB, 0));
		printf("read %zd\n", read(urandom, memory, 4096));
	}
	return 0;
}
