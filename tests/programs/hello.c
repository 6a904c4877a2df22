/* Compiled inside the sandbox. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
	printf("hello, %s: %.3f %d\n", argc > 1 ? argv[1] : "world", sqrt((double)argc * 2), (int)sizeof(void *));
	fprintf(stderr, "%s\n", strerror(ENOENT));
	return 23;
}
