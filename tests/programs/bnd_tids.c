/* Threads of a process are those that its program has made, for whoever asks by number: neither the monitor's server nor KVM's worker.
 *     own     numbers near our own, by every call that takes one
 *     other   the same of another process, which is busy meanwhile */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NEAR 24 /* numbers behind a process' own: everything of this container */

static _Atomic int stop;
static int known[3], nknown;

/* Work for the server. */
static void *keep_busy(void *unused)
{
	while (!stop)
		syscall(SYS_getppid);
	return unused;
}

static int is_known(int tid)
{
	for (int i = 0; i < nknown; i++)
		if (known[i] == tid)
			return 1;
	return tid == getpid();
}

static long by_capget(int tid)
{
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, tid};
	struct __user_cap_data_struct data[2];
	return syscall(SYS_capget, &head, data);
}

static long by_timer(int tid)
{
	struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
	int timer;
	ev._sigev_un._tid = tid;
	return syscall(SYS_timer_create, CLOCK_MONOTONIC, &ev, &timer);
}

static long by_owner(int tid)
{
	static int pair[2] = {-1, -1};
	struct f_owner_ex owner = {F_OWNER_TID, tid};
	if (pair[0] < 0 && pipe(pair))
		exit(2);
	return fcntl(pair[0], F_SETOWN_EX, &owner);
}

static long by_path(int pid, int tid, const char *file)
{
	char name[64];
	struct stat st;
	snprintf(name, sizeof name, "/proc/%d/task/%d%s", pid, tid, file);
	int fd = open(name, O_RDONLY);
	if (fd >= 0)
		close(fd);
	return fd >= 0 || !stat(name, &st) || !access(name, F_OK) ? 0 : -1;
}

/* How many ways lead to thread `tid` of process `pid`. */
static int ways(int pid, int tid)
{
	cpu_set_t set;
	struct sched_param param;
	struct timespec ts;
	struct iovec v = {&ts, sizeof ts};
	char attr[48] = {48};
	int n = 0;
	siginfo_t info = {.si_code = SI_QUEUE, .si_signo = SIGURG};
	n += syscall(SYS_tgkill, pid, tid, 0) == 0;
	n += syscall(SYS_tkill, tid, 0) == 0;
	n += kill(tid, 0) == 0;
	n += syscall(SYS_rt_tgsigqueueinfo, pid, tid, 0, &info) == 0;
	n += sched_getaffinity(tid, sizeof set, &set) == 0;
	n += syscall(SYS_sched_getparam, tid, &param) == 0;
	n += syscall(SYS_sched_getscheduler, tid) >= 0;
	n += syscall(SYS_sched_getattr, tid, attr, sizeof attr, 0) == 0;
	n += syscall(SYS_sched_rr_get_interval, tid, &ts) == 0;
	n += syscall(SYS_getpriority, PRIO_PROCESS, tid) > 0;
	n += syscall(SYS_setpriority, PRIO_PROCESS, tid, 0) == 0;
	n += syscall(SYS_ioprio_get, 1, tid) >= 0;
	n += getpgid(tid) >= 0;
	n += getsid(tid) >= 0;
	n += by_capget(tid) == 0;
	n += by_path(pid, tid, "/stat") == 0;
	n += by_path(pid, tid, "") == 0;
	n += syscall(SYS_prlimit64, tid, RLIMIT_CORE, NULL, &v) == 0;
	if (pid == getpid()) {
		n += by_timer(tid) == 0;
		n += by_owner(tid) == 0;
		n += syscall(SYS_clock_gettime, (~(unsigned)tid << 3) | 6, &ts) == 0; /* its CPU time */
	}
	return n;
}

static int neighbours(int pid)
{
	int n = 0;
	for (int tid = pid + 1; tid < pid + NEAR; tid++)
		if (!is_known(tid))
			n += ways(pid, tid);
	return n;
}

/* thread-self is the caller, whoever makes the call for it. */
static int other_selves(void)
{
	int other = 0;
	for (int i = 0; i < 300; i++) {
		char text[64] = "", name[64];
		int fd = open("/proc/thread-self/stat", O_RDONLY);
		other += fd < 0 || read(fd, text, sizeof text - 1) <= 0 || atoi(text) != (int)syscall(SYS_gettid);
		close(fd);
		other += access("/proc/thread-self/comm", R_OK) != 0;
		ssize_t n = readlink("/proc/thread-self", name, sizeof name - 1);
		name[n > 0 ? n : 0] = 0;
		other += n < 0 || atoi(strrchr(name, '/') + 1) != (int)syscall(SYS_gettid);
	}
	return other;
}

static int listed(int pid)
{
	char name[32];
	int n = 0;
	snprintf(name, sizeof name, "/proc/%d/task", pid);
	DIR *d = opendir(name);
	for (struct dirent *e; d && (e = readdir(d));)
		n += atoi(e->d_name) > 0;
	if (d)
		closedir(d);
	return n;
}

static void *tell_number(void *place)
{
	*(int *)place = (int)syscall(SYS_gettid);
	return keep_busy(NULL);
}

static int own(void)
{
	pthread_t t[2];
	for (nknown = 0; nknown < 2; nknown++) {
		pthread_create(&t[nknown], NULL, nknown ? keep_busy : tell_number, &known[nknown]);
		usleep(50000);
	}
	nknown = 1;
	printf("threads listed: %d\n", listed(getpid()));
	printf("ways to a thread: %d\n", ways(getpid(), known[0]));
	/* the second thread did not tell its number: it is the one that all ways lead to */
	printf("ways to unknown ones: %d\n", neighbours(getpid()));
	printf("other selves: %d\n", other_selves());
	stop = 1;
	pthread_join(t[0], NULL);
	pthread_join(t[1], NULL);
	usleep(200000); /* joined, they are on the way to be gone */
	printf("ways when both are gone: %d\n", neighbours(getpid()));
	return 0;
}

static int other(void)
{
	pid_t child = fork();
	if (!child) {
		keep_busy(NULL);
		_exit(0);
	}
	usleep(300000);
	printf("threads listed: %d\n", listed(child));
	printf("ways to unknown ones: %d\n", neighbours(child));
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	return 0;
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IONBF, 0);
	return argc == 2 && !strcmp(argv[1], "own") ? own() : other();
}
