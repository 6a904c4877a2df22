/* Which error comes when several could, and other small print of the kernel. One line a call; the same under any kernel. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SHOW(call)                                                                                       \
	do {                                                                                             \
		errno = 0;                                                                               \
		long r_ = (long)(call);                                                                  \
		printf("%s = %ld %s\n", #call, r_ > 0xffff ? 0xffff : r_, errno ? strerrorname_np(errno) : ""); \
	} while (0)

static char *volatile page, *volatile gone = (char *)16;

static void files(void)
{
	int file = open("/etc/passwd", O_RDONLY), path = open("/etc/passwd", O_PATH), watch = inotify_init(), fd;
	struct iovec v = {page, 4};
	SHOW(ioctl(path, TCGETS, page));
	SHOW(ioctl(path, 0x1234, page));
	SHOW(ioctl(file, 0x1234, page));
	SHOW(syscall(SYS_readv, file, &v, 1ul << 40));
	SHOW(syscall(SYS_preadv, file, &v, (1ul << 40) + 1, 0, 0));
	SHOW(syscall(SYS_readv, file, &v, 1025ul));
	int ends[2], zero = open("/dev/zero", O_RDONLY);
	SHOW(pipe(ends));
	SHOW(syscall(SYS_writev, ends[1], &v, 1ul << 40));
	SHOW(syscall(SYS_readv, zero, &v, (1ul << 40) + 1));
	close(ends[0]);
	close(ends[1]);
	close(zero);
	SHOW(syscall(SYS_linkat, AT_FDCWD, "/etc/passwd", AT_FDCWD, "/tmp/x", -1));
	SHOW(inotify_add_watch(watch, "/none", 0));
	SHOW(inotify_add_watch(watch, "/none", IN_MOVE));
	SHOW(inotify_add_watch(watch, "/", IN_ONLYDIR));
	SHOW(inotify_add_watch(watch, "/", IN_MASK_CREATE));
	SHOW(syscall(SYS_fcntl, file, F_DUPFD, 1ul << 40 | 20));
	/* the lowest number, by every way to it */
	close(file);
	static const char *const names[] = {"/proc/self/exe", "/dev/fd/0", "/proc/thread-self/fd/0", "/proc/self/root", "/proc/self/cwd/proc/self/exe"};
	for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
		fd = open(names[i], O_RDONLY | O_CLOEXEC);
		printf("%s: %d %d\n", names[i], fd, fcntl(fd, F_GETFD));
		close(fd);
		fd = open(names[i], O_PATH);
		printf("%s: %d %d\n", names[i], fd, fcntl(fd, F_GETFD));
		close(fd);
	}
}

static void sockets(void)
{
	int null = open("/dev/null", O_RDWR), len = 4, path = open("/", O_PATH);
	SHOW(socket(AF_UNSPEC, SOCK_STREAM, 0));
	SHOW(socket(AF_UNSPEC, 100, 0));
	SHOW(socket(AF_APPLETALK, 11, 0));
	SHOW(socket(100, 11, 0));
	SHOW(socket(-1, SOCK_STREAM, 0));
	SHOW(socket(AF_INET, 15, 0));
	SHOW(socket(AF_INET, SOCK_STREAM | 1 << 20, 0));
	SHOW(socketpair(AF_UNIX, 100, 0, (int *)page));
	SHOW(sendmsg(null, NULL, 0));
	SHOW(recvmsg(null, NULL, 0));
	SHOW(recvmsg(path, NULL, 0));
	SHOW(sendmmsg(null, NULL, 1, 0));
	SHOW(recvmmsg(null, NULL, 0, 0, NULL));
	SHOW(setsockopt(null, SOL_SOCKET, 99, page, 4));
	SHOW(setsockopt(null, 0, 64, page, 4));
	SHOW(getsockopt(null, SOL_SOCKET, SO_TYPE, page, NULL));
	SHOW(getsockopt(path, SOL_SOCKET, SO_TYPE, page, (void *)&len));
	SHOW(getsockopt(99, SOL_SOCKET, SO_TYPE, page, (void *)&len));
}

static void memory(void)
{
	struct timeval now = {0, 0};
	int queue = msgget(IPC_PRIVATE, 0600);
	SHOW(mprotect(page, 4096, PROT_READ | PROT_WRITE | 8));
	SHOW(mprotect(page, 4096, 16));
	SHOW(syscall(SYS_mmap, 0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 1));
	SHOW(syscall(SYS_mremap, page, 0, 4096, 0, 0));
	SHOW(syscall(SYS_mremap, page, 4096, -1, 0, 0));
	SHOW(syscall(SYS_mremap, page, 4096, 0, 0, 0));
	SHOW(syscall(SYS_mremap, page, 0, 4096, MREMAP_MAYMOVE, 0));
	SHOW(syscall(SYS_set_mempolicy, 0, page, -1));
	SHOW(syscall(SYS_set_mempolicy, 0, page, 1ul << 30));
	SHOW(syscall(SYS_msgsnd, queue, page, -1, IPC_NOWAIT));
	SHOW(syscall(SYS_msgrcv, queue, page, -1, 0, IPC_NOWAIT));
	msgctl(queue, IPC_RMID, NULL);
	/* as many bits as there are numbers, not as many as said */
	memset(page, 0, 4096);
	SHOW(syscall(SYS_select, 0x7fffffff, page + 4096 - 128, NULL, NULL, &now));
	SHOW(syscall(SYS_select, 2000, page + 4096 - 128, NULL, NULL, &now));
	struct pollfd ready = {open("/dev/null", O_RDWR), POLLOUT, 0};
	struct timespec wrong = {0, -1}, huge = {0, 1000000000};
	SHOW(ppoll(&ready, 1, &wrong, NULL));
	SHOW(ppoll(&ready, 1, &huge, NULL));
	SHOW(syscall(SYS_ppoll, &ready, 1, gone, NULL, 8));
	((fd_set *)page)->fds_bits[0] = 1 << ready.fd;
	SHOW(syscall(SYS_pselect6, 10, NULL, page, NULL, &wrong, NULL));
	((fd_set *)page)->fds_bits[1] = 1ul << 35; /* 99: behind the numbers there are */
	SHOW(select(100, (fd_set *)page, NULL, NULL, &now));
	SHOW(fcntl(ready.fd, F_DUPFD, 70));
	SHOW(select(100, (fd_set *)page, NULL, NULL, &now));
	closefrom(3);
	SHOW(unshare(1));
	SHOW(unshare(0x800000));
}

static void copies(void)
{
	char from[300] = "0123456789abcdef", to[300] = "";
	struct iovec here[3] = {{to, 5}, {to + 10, 0}, {to + 20, 200}}, there[2] = {{from + 2, 7}, {from + 10, 4}}, edge[2] = {{page + 8192 - 5, 4096}, {from, 5}};
	struct iovec bad = {gone, 5}, readonly = {page + 4096, 5};
	int pid = getpid();
	SHOW(process_vm_readv(pid, here, 3, there, 2, 0));
	printf("%s %s\n", to, to + 20);
	SHOW(process_vm_writev(pid, there, 2, here, 3, 0));
	SHOW(process_vm_readv(pid, edge + 1, 1, &bad, 1, 0));
	SHOW(process_vm_readv(pid, &bad, 1, there, 1, 0));
	SHOW(process_vm_readv(pid, here, 3, edge, 2, 0));
	SHOW(process_vm_writev(pid, there, 1, &readonly, 1, 0));
	SHOW(process_vm_readv(pid, here, 1, there, 1, 1));
	SHOW(process_vm_readv(pid, NULL, 0, there, 1, 0));
	SHOW(process_vm_readv(pid, here, 1, NULL, 0, 0));
	SHOW(process_vm_readv(pid, NULL, 1, there, 1, 0));
	SHOW(process_vm_readv(pid, here, 1, NULL, 1, 0));
	SHOW(process_vm_readv(pid, here, 2000, there, 1, 0));
	SHOW(process_vm_readv(99999, here, 1, there, 1, 0));
	SHOW(process_vm_readv(0, here, 1, there, 1, 0));
	SHOW(process_vm_readv(gettid(), here, 1, there, 1, 0));
	SHOW(syscall(SYS_get_robust_list, 99999, to, from));
	SHOW(syscall(SYS_get_robust_list, -1, to, from));
	SHOW(syscall(SYS_get_robust_list, gettid(), to, from));
}

/* What a fork leaves out is not there in the child: for the program, for the kernel, and for a mapping to come. */
static void left_out(void)
{
	int status, fd = open("/etc/passwd", O_RDONLY);
	char *m = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(m, 'x', 3 * 4096);
	SHOW(madvise(m + 4096, 4096, MADV_DONTFORK));
	for (int i = 0; i < 4; i++) {
		fflush(stdout);
		pid_t pid = fork();
		if (!pid) {
			if (i == 0)
				m[4096] = 1;
			if (i == 1)
				exit(((volatile char *)m)[5000]);
			SHOW(read(fd, m + 4096, 10));
			SHOW(munmap(m + 4096, 4096));
			if (i == 3)
				SHOW(mmap(m + 4096, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == m + 4096);
			exit(m[8192] + (i == 3 ? m[4096] : 0));
		}
		waitpid(pid, &status, 0);
		printf("left out %d: %x\n", i, status & ~0x80);
	}
	SHOW(munmap((void *)-4096ul, 4096));
	SHOW(munmap(m, -1ul));
	printf("%c\n", m[4096]);
}

/* The signal of a file that would get too large ends the process, whoever makes the call for it. */
static void too_large(int which)
{
	struct rlimit limit = {100, 100};
	int status, fd;
	fflush(stdout);
	pid_t pid = fork();
	if (!pid) {
		fd = open("/tmp/large", O_RDWR | O_CREAT | O_TRUNC, 0600);
		setrlimit(RLIMIT_FSIZE, &limit);
		for (int i = 0; i < 2000; i++) /* a burst, so that the ring server has it */
			getppid();
		for (int i = 0; i < 50; i++)
			pwrite(fd, page, 100, 0);
		signal(SIGXFSZ, SIG_IGN);
		printf("ignored: %zd %s\n", pwrite(fd, page, 10, 100), strerrorname_np(errno));
		fflush(stdout);
		signal(SIGXFSZ, SIG_DFL);
		long r = which == 0 ? pwrite(fd, page, 10, 100) : which == 1 ? ftruncate(fd, 200) : fallocate(fd, 0, 0, 200);
		printf("lives: %ld %s\n", r, strerrorname_np(errno));
		exit(3);
	}
	waitpid(pid, &status, 0);
	printf("too large %d: %x\n", which, status & ~0x80);
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	page = mmap(NULL, 4 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(page + 8192, 8192);
	memory();
	mprotect(page + 4096, 4096, PROT_READ);
	files();
	sockets();
	copies();
	for (int i = 0; i < 3; i++)
		too_large(i);
	left_out();
	SHOW(prctl(PR_GET_SECCOMP));
	printf("end\n");
	return 0;
}
