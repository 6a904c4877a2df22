/* System V memory attached over other mappings, and huge pages that are not offered: nothing is covered but what was asked for. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

enum { PAGE = 4096 };

int main(void)
{
	int id = shmget(IPC_PRIVATE, 2 * PAGE - 100, IPC_CREAT | 0600);
	char *m = mmap(NULL, 6 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(m, 1, 6 * PAGE);
	printf("occupied: %d\n", shmat(id, m + PAGE, 0) == (void *)-1 ? errno : 0);
	char *a = shmat(id, m + PAGE, SHM_REMAP);
	printf("remap: %d\n", a == m + PAGE);
	char *b = shmat(id, NULL, 0);
	memset(a, 7, 2 * PAGE);
	printf("same memory: %d %d, around: %d %d\n", b[0], b[2 * PAGE - 1], m[PAGE - 1], m[3 * PAGE]);
	printf("nowhere: %d\n", shmat(id, NULL, SHM_REMAP) == (void *)-1 ? errno : 0);
	printf("rounded: %d\n", shmat(id, m + 4 * PAGE + 5, SHM_REMAP | SHM_RND) == m + 4 * PAGE);
	printf("detach: %d %d %d\n", shmdt(a), shmdt(a) < 0 ? errno : 0, shmdt(m + 4 * PAGE));
	unsigned char vec[8];
	printf("hole: %d, around: %d\n", mincore(a, 2 * PAGE, vec) < 0 ? errno : 0, m[3 * PAGE]);
	shmctl(id, IPC_RMID, NULL);
	shmdt(b);
	return 0;
}
