/* Namespaces of single threads: what one changes, the others do not see, whichever door their calls take.
 * Prints one line for each question; the answers of a kernel are the same in every run. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROUNDS 20000
static pthread_barrier_t barrier;
static int old_mounts, old_names;

static void meet(void)
{
	pthread_barrier_wait(&barrier);
}

static int sees(void)
{
	return access("/mnt/inside", F_OK) == 0;
}

static int named(void)
{
	struct utsname u;
	uname(&u);
	return !strcmp(u.nodename, "thread");
}

/* How often a cheap call, of those that need not leave the VM, gives the answers of the other namespaces. */
static void count(const char *who, int mounts, int names, const char *directory)
{
	int wrong = 0;
	char cwd[256];
	struct stat st;
	for (int i = 0; i < ROUNDS; i++) {
		wrong += sees() != mounts;
		wrong += (stat("/mnt/inside", &st) == 0) != mounts;
		wrong += named() != names;
		wrong += !getcwd(cwd, sizeof cwd) || strcmp(cwd, directory);
	}
	printf("%s: wrong %d\n", who, wrong);
	fflush(stdout);
}

static void *child_thread(void *arg)
{
	(void)arg;
	count("thread of the thread", 1, 1, "/mnt");
	return NULL;
}

static void *changer(void *arg)
{
	(void)arg;
	meet();
	if (unshare(CLONE_NEWNS | CLONE_NEWUTS))
		perror("unshare");
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) || mount("none", "/mnt", "tmpfs", 0, NULL))
		perror("mount");
	close(open("/mnt/inside", O_CREAT | O_WRONLY, 0600));
	sethostname("thread", 6);
	if (chdir("/mnt"))
		perror("chdir");
	meet();
	count("thread", 1, 1, "/mnt");
	meet();
	pid_t pid = fork();
	if (!pid) {
		count("child", 1, 1, "/mnt");
		execl("/bin/sh", "sh", "-c", "ls /mnt; hostname", NULL);
		_exit(1);
	}
	waitpid(pid, NULL, 0);
	printf("back: %d", setns(old_names, CLONE_NEWUTS));
	printf(" %d", setns(old_mounts, CLONE_NEWNS));
	printf(" sees %d named %d\n", sees(), named());
	fflush(stdout);
	unshare(CLONE_FS | CLONE_NEWNS | CLONE_NEWUTS);
	if (mount("none", "/mnt", "tmpfs", 0, NULL) || chdir("/mnt"))
		perror("mount");
	close(open("/mnt/inside", O_CREAT | O_WRONLY, 0600));
	sethostname("thread", 6);
	pthread_t t;
	pthread_create(&t, NULL, child_thread, NULL);
	pthread_join(t, NULL);
	meet();
	return NULL;
}

static void errors(void)
{
	static const struct {
		const char *path;
		int kind;
	} tries[] = {{"/proc/self/ns/user", 0}, {"/proc/self/ns/user", CLONE_NEWUSER}, {"/proc/self/ns/uts", CLONE_NEWNET}, {"/proc/self/status", 0},
		     {"/", CLONE_NEWNS}, {"/proc/self/ns/net", 0}, {"/proc/self/ns/net", CLONE_NEWNET}, {"/proc/self/ns/ipc", 0}};
	for (unsigned i = 0; i < sizeof tries / sizeof *tries; i++) {
		int fd = open(tries[i].path, O_RDONLY);
		int r = setns(fd, tries[i].kind);
		printf("%s %x: %s\n", tries[i].path, tries[i].kind, r ? strerrorname_np(errno) : "entered");
		close(fd);
	}
	for (int fd = 3; fd < 1100; fd++) {
		int r = setns(fd, CLONE_NEWNET);
		if (!r || errno != EBADF)
			printf("descriptor %d: %s\n", fd, r ? strerrorname_np(errno) : "entered");
	}
}

int main(void)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	errors();
	old_mounts = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
	old_names = open("/proc/self/ns/uts", O_RDONLY | O_CLOEXEC);
	pthread_t t;
	pthread_barrier_init(&barrier, NULL, 2);
	if (pthread_create(&t, NULL, changer, NULL))
		return 1;
	printf("shared root: %s\n", setns(old_mounts, CLONE_NEWNS) ? strerrorname_np(errno) : "entered");
	meet();
	meet();
	meet();
	count("first", 0, 0, "/tmp");
	meet();
	pthread_join(t, NULL);
	count("first", 0, 0, "/tmp");
	printf("alone: %d", setns(old_mounts, CLONE_NEWNS));
	printf(" %s\n", getcwd((char[64]){0}, 64));
	/* clone with new namespaces, as posix_spawn's kind and as fork's */
	for (int vfork_like = 0; vfork_like < 2; vfork_like++) {
		long pid = syscall(SYS_clone, CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP | 17 | (vfork_like ? CLONE_VFORK : 0), 0, 0, 0, 0);
		if (!pid) {
			int r = mount("none", "/mnt", "tmpfs", 0, NULL) | sethostname("thread", 6);
			close(open("/mnt/inside", O_CREAT | O_WRONLY, 0600));
			_exit(r || !sees() || !named());
		}
		int status = -1;
		waitpid((pid_t)pid, &status, 0);
		printf("clone %d: %d, sees %d named %d\n", vfork_like, status, sees(), named());
	}
	return 0;
}
