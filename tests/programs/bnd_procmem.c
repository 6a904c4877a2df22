/* Tries to open its own, its child's and its parent's memory file in every way known. For each spelling one line: "open"
 * when the descriptor reads memory (seen by reading a known variable), else "refused". */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { RACE_TIME = 1000 }; /* milliseconds */

static volatile uint64_t secret = 0x5eed5eed12345678;

static int reads_memory(int fd)
{
	uint64_t value = 0;
	return pread(fd, &value, sizeof value, (off_t)(uintptr_t)&secret) == sizeof value && value == secret;
}

static void result(const char *how, int fd)
{
	int error = errno;
	int open = fd >= 0 && reads_memory(fd);
	if (open)
		printf("open %s\n", how);
	else
		printf("refused %s %s\n", how, fd < 0 ? strerrorname_np(error) : "empty");
	fflush(stdout);
	if (fd >= 0)
		close(fd);
}

static void path(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void path(const char *format, ...)
{
	char text[PATH_MAX];
	va_list arguments;
	va_start(arguments, format);
	vsnprintf(text, sizeof text, format, arguments);
	va_end(arguments);
	result(format, open(text, O_RDONLY));
}

static atomic_int stop;
static volatile char moving[64]; /* the path itself changes while it is being opened */

static void *flip_links(void *unused)
{
	while (!stop) {
		symlink("/tmp/harmless", "/tmp/next");
		rename("/tmp/next", "/tmp/flip");
		symlink("/proc/self/mem", "/tmp/next");
		rename("/tmp/next", "/tmp/flip");
	}
	return unused;
}

static void write_path(const char *text)
{
	for (int i = 0; i < 15; i++)
		moving[i] = text[i];
}

static void *flip_text(void *unused)
{
	while (!stop) {
		write_path("/tmp/harmless\0");
		write_path("/proc/self/mem");
	}
	return unused;
}

static int64_t now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static void race(const char *how, void *(*other)(void *), const char *name)
{
	pthread_t thread;
	stop = 0;
	pthread_create(&thread, NULL, other, NULL);
	int opened = 0;
	for (int64_t end = now() + RACE_TIME; now() < end && !opened;) {
		int fd = open(name, O_RDONLY);
		opened = fd >= 0 && reads_memory(fd);
		if (fd >= 0)
			close(fd);
	}
	stop = 1;
	pthread_join(thread, NULL);
	printf("%s %s\n", opened ? "open" : "refused", how);
}

static void *in_thread(void *unused)
{
	path("/proc/self/task/%ld/mem", syscall(SYS_gettid));
	path("/proc/%ld/mem", syscall(SYS_gettid));
	result("thread-self of a thread", open("/proc/thread-self/mem", O_RDONLY));
	return unused;
}

int main(void)
{
	int pid = getpid();
	path("/proc/self/mem");
	path("/proc/thread-self/mem");
	path("/proc/%d/mem", pid);
	path("/proc/self/task/%d/mem", pid);
	path("//proc/.//self/../self/./mem");
	path("/proc/self/task/../mem");
	path("/tmp/../proc/self/mem");
	path("/proc/self/root/proc/self/mem");
	path("/proc/%d/root/../proc/%d/mem", pid, pid);
	path("/proc/self/fd/../mem");
	result("O_RDWR", open("/proc/self/mem", O_RDWR));
	result("creat", open("/proc/self/mem", O_RDWR | O_CREAT, 0600));
	result("O_TRUNC", open("/proc/self/mem", O_RDWR | O_TRUNC));
	result("SYS_open", (int)syscall(SYS_open, "/proc/self/mem", O_RDONLY));
	struct open_how how = { .flags = O_RDONLY };
	result("openat2", (int)syscall(SYS_openat2, AT_FDCWD, "/proc/self/mem", &how, sizeof how));

	/* relative to a directory, by descriptor and by working directory */
	int directory = open("/proc/self", O_RDONLY | O_DIRECTORY), place = open("/proc/self", O_PATH);
	result("openat", openat(directory, "mem", O_RDONLY));
	result("openat O_PATH", openat(place, "mem", O_RDONLY));
	result("openat task", openat(directory, "task/../mem", O_RDONLY));
	how.resolve = RESOLVE_BENEATH;
	result("openat2 beneath", (int)syscall(SYS_openat2, directory, "mem", &how, sizeof how));
	path("/proc/self/fd/%d/mem", directory);
	path("/dev/fd/%d/mem", place);
	if (chdir("/proc/self") != 0)
		perror("chdir");
	path("mem");
	path("./mem");
	path("/proc/self/cwd/mem");
	if (chdir("/proc") != 0 || chdir("/tmp") != 0)
		perror("chdir");

	/* a descriptor that is not open for reading, opened again */
	int handle = open("/proc/self/mem", O_PATH);
	path("/proc/self/fd/%d", handle);
	path("/dev/fd/%d", handle);
	path("/proc/%d/fd/%d", pid, handle);
	result("empty path", openat(handle, "", O_RDONLY));

	/* links */
	symlink("/proc/self/mem", "direct");
	symlink("direct", "second");
	symlink("/proc/self", "selfdir");
	symlink("../proc/self/mem", "relative");
	symlink("/", "root");
	path("direct");
	path("second");
	path("selfdir/mem");
	path("/tmp/relative");
	path("root/proc/self/mem");
	path("/proc/self/cwd/direct");
	if (linkat(AT_FDCWD, "/proc/self/mem", AT_FDCWD, "hard", 0) == 0)
		path("hard");

	/* somebody else's */
	int pipes[2];
	if (pipe(pipes) != 0)
		perror("pipe");
	pid_t child = fork();
	if (child == 0) {
		result("child", open("/proc/self/mem", O_RDONLY));
		path("/proc/%d/mem", getppid());
		result("inherited directory", openat(directory, "mem", O_RDONLY));
		if (write(pipes[1], "x", 1) != 1)
			_exit(1);
		pause();
		_exit(0);
	}
	char byte;
	if (read(pipes[0], &byte, 1) != 1)
		perror("read");
	path("/proc/%d/mem", child);
	path("/proc/%d/task/%d/mem", child, child);
	kill(child, SIGKILL);
	wait(NULL);
	pthread_t thread;
	pthread_create(&thread, NULL, in_thread, NULL);
	pthread_join(thread, NULL);

	FILE *file = fopen("/tmp/harmless", "w");
	if (file == NULL || fclose(file) != 0)
		perror("harmless");
	symlink("/proc/self/mem", "flip");
	write_path("/tmp/harmless\0");
	race("link race", flip_links, "/tmp/flip");
	race("path race", flip_text, (const char *)moving);
	return 0;
}
