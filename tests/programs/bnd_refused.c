/* Calls that the sandbox's own rules refuse, each once, between two calls of gettid; what else is printed is outside of them. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static int results[32], count;

static void note(long r)
{
	results[count++] = r < 0 ? errno : 0;
}

int main(void)
{
	int sock = socket(AF_INET, SOCK_STREAM, 0), file = open("/proc/self/status", O_RDONLY);
	char text[32], link[64];
	unsigned long start, end;
	struct {
		unsigned long flags, mode, resolve;
	} how = {O_RDONLY, 0, 2 /* RESOLVE_NO_MAGICLINKS */};
	/* an address range of the program's own, as a name in map_files */
	FILE *maps = fopen("/proc/self/maps", "r");
	if (!maps || fscanf(maps, "%lx-%lx", &start, &end) != 2)
		return 1;
	fclose(maps);
	snprintf(link, sizeof link, "/proc/self/map_files/%lx-%lx", start, end);
	close(creat("/tmp/secret", 0));
	syscall(SYS_gettid);
	note(syscall(SYS_openat, AT_FDCWD, "/proc/self/mem", O_RDONLY));
	note(syscall(SYS_openat, AT_FDCWD, "/proc/self/pagemap", O_RDONLY));
	note(syscall(SYS_openat, AT_FDCWD, "/proc/self/nothing", O_RDONLY));
	note(syscall(SYS_openat2, AT_FDCWD, "/proc/self/exe", &how, sizeof how));
	note(syscall(SYS_ioctl, file, 0xAE80, 0)); /* KVM_RUN */
	note(syscall(SYS_ioctl, file, 0x5413, link)); /* TIOCGWINSZ */
	note(syscall(SYS_prctl, 35, 1, 0, 0, 0)); /* PR_SET_MM */
	note(syscall(SYS_fcntl, file, 4096, 0));
	note(syscall(SYS_socket, 38 /* AF_ALG */, 5, 0));
	note(syscall(SYS_setsockopt, sock, 0, 64 /* IPT_SO_SET_REPLACE */, link, 8));
	note(syscall(SYS_mmap, 0, 1 << 21, 3, 0x40022 /* MAP_HUGETLB */, -1, 0));
	note(syscall(SYS_shmget, 0, 1 << 21, 04600 /* SHM_HUGETLB */));
	note(syscall(SYS_get_mempolicy, text, 0, 0, 0x7f0000000000, 2 /* MPOL_F_ADDR */));
	note(syscall(SYS_unshare, CLONE_NEWUSER));
	note(syscall(SYS_clone, CLONE_NEWUSER | 17, 0, 0, 0, 0));
	note(syscall(SYS_ptrace, 0, 0, 0, 0));
	note(syscall(SYS_readlink, link, text, sizeof text));
	syscall(SYS_setresuid, -1, 65534, -1); /* this file is refused by the kernel */
	note(syscall(SYS_openat, AT_FDCWD, "/tmp/secret", O_RDONLY));
	syscall(SYS_gettid);
	for (int i = 0; i < count; i++)
		printf("%d\n", results[i]);
	return 0;
}
