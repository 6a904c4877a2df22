/* Children that share what clone() lets them share: memory, descriptors, handlers, directory; together and alone. Prints what each side
 * sees afterwards, so that the lines are the same under any kernel. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define STACK 65536

struct child {
	int what, opened, given, word;
	char **argv;
};

enum { CHANGE, EXEC, EXEC_FAILS, DIE_ABORT, DIE_FAULT, UNSHARE_FILES, CLOSE_RANGE, FORK, BY_SIGNAL };

static volatile int caught;
static void *volatile nowhere = (void *)16;

static void first(int signo)
{
	caught = signo;
}

static void second(int signo)
{
	caught = 100 + signo;
}

static int open_p(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

static int run(void *arg)
{
	struct child *c = arg;
	switch (c->what) {
	case UNSHARE_FILES:
		if (unshare(CLONE_FILES))
			_exit(90);
		break;
	case CLOSE_RANGE:
		if (syscall(SYS_close_range, c->given, c->given, 2 /* UNSHARE */))
			_exit(91);
		break;
	}
	c->word = 1;
	c->opened = open("/etc/passwd", O_RDONLY);
	close(c->given);
	if (chdir("/usr") || signal(SIGUSR1, second) == SIG_ERR)
		_exit(92);
	umask(c->what == CHANGE ? 077 : 027);
	switch (c->what) {
	case EXEC_FAILS:
		execl("/no/such", "x", NULL);
		execl("/etc/passwd", "x", NULL);
		close(c->opened);
		c->opened = open("/etc/hostname", O_RDONLY);
		break;
	case EXEC:
		execl(c->argv[0], c->argv[0], "child", NULL);
		_exit(93);
	case DIE_ABORT:
		syscall(SYS_tkill, syscall(SYS_gettid), SIGABRT);
		break;
	case DIE_FAULT:
		*(volatile int *)nowhere = 1;
		break;
	case FORK: {
		pid_t pid = fork();
		int status;
		if (!pid) { /* shares nothing */
			close(c->opened);
			c->word = 5;
			_exit(open_p(c->given) ? 1 : 2);
		}
		waitpid(pid, &status, 0);
		_exit(WEXITSTATUS(status));
	}
	case BY_SIGNAL:
		kill(getpid(), SIGKILL);
	}
	_exit(7);
}

static void one(const char *name, int flags, int what, char **argv)
{
	static char stack[STACK] __attribute__((aligned(16)));
	struct child *c = aligned_alloc(64, 128);
	int status = 0;
	char where[256];
	memset(c, 0, sizeof *c);
	c->what = what;
	c->argv = argv;
	c->given = open("/dev/null", O_RDONLY);
	c->opened = -1;
	if (chdir("/") || signal(SIGUSR1, first) == SIG_ERR)
		exit(1);
	umask(022);
	pid_t pid = clone(run, stack + STACK, flags | SIGCHLD, c);
	if (pid < 0) {
		printf("%s %x: %s\n", name, flags, strerrorname_np(errno));
		close(c->given);
		return;
	}
	if (waitpid(pid, &status, __WALL) != pid)
		exit(1);
	caught = 0;
	raise(SIGUSR1);
	int mask = umask(022);
	printf("%s %x: status %x word %d opened %d given %d handler %d directory %s mask %o\n", name, flags, status & ~0x80, c->word,
	       c->opened >= 0 ? open_p(c->opened) : -1, open_p(c->given), caught, getcwd(where, sizeof where), (unsigned)mask);
	/* Faults of our own still have handlers, calls with bad pointers their errors. */
	if (read(c->given >= 0 ? open("/dev/zero", O_RDONLY) : 0, nowhere, 16) != -1 || errno != EFAULT)
		printf("  read: %m\n");
	closefrom(3);
}

/* --- threads with a directory of their own ------------------------------------------------------------------------- */

static void *thread(void *arg)
{
	char where[64];
	struct stat st;
	(void)arg;
	if (unshare(CLONE_FS))
		printf("unshare: %m\n");
	if (chdir("/usr"))
		printf("chdir: %m\n");
	umask(077);
	for (int i = 0; i < 300; i++)
		if (stat("share", &st) || !getcwd(where, sizeof where) || strcmp(where, "/usr"))
			printf("thread: %s\n", where);
	return NULL;
}

static void own_directory(void)
{
	pthread_t t;
	char where[64];
	struct stat st;
	umask(022);
	if (chdir("/") || pthread_create(&t, NULL, thread, NULL))
		exit(1);
	for (int i = 0; i < 300; i++)
		if (stat("usr/share", &st) || !getcwd(where, sizeof where) || strcmp(where, "/"))
			printf("main: %s\n", where);
	pthread_join(t, NULL);
	printf("threads: %s %o\n", getcwd(where, sizeof where), (unsigned)umask(022));
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int what;
	} cases[] = {{"change", CHANGE},   {"exec", EXEC},       {"failing exec", EXEC_FAILS}, {"abort", DIE_ABORT}, {"fault", DIE_FAULT},
		     {"unshare", UNSHARE_FILES}, {"close_range", CLOSE_RANGE}, {"fork", FORK}, {"kill", BY_SIGNAL}};
	static const int flags[] = {CLONE_VM, CLONE_VM | CLONE_FILES, CLONE_VM | CLONE_FS | CLONE_FILES, CLONE_VM | CLONE_SIGHAND,
				    CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND, CLONE_VM | CLONE_VFORK | CLONE_FILES,
				    CLONE_VM | CLONE_VFORK | CLONE_SIGHAND, CLONE_FS, 0};
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc > 1) {
		printf("  child: 3 is %s\n", open_p(3) ? "open" : "closed");
		return 9;
	}
	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++)
		for (unsigned k = 0; k < sizeof flags / sizeof *flags; k++)
			one(cases[i].name, flags[k], cases[i].what, argv);
	printf("SIGHAND alone %d\n", clone(run, NULL, CLONE_SIGHAND | SIGCHLD, NULL) < 0 ? errno : 0);
	printf("unshare %d", unshare(CLONE_FILES | CLONE_FS) ? errno : 0);
	printf(" %d", unshare(CLONE_THREAD) ? errno : 0);
	printf(" %d\n", unshare(CLONE_VM) ? errno : 0);
	own_directory();
	for (int i = 0; i < 600; i++) { /* more than there is room for at a time */
		static char stack[STACK];
		struct child c = {.what = CHANGE, .given = 50};
		int status;
		pid_t pid = clone(run, stack + STACK, CLONE_VM | CLONE_FILES | SIGCHLD, &c);
		if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0x700) {
			printf("child %d: %s %x\n", i, pid < 0 ? strerrorname_np(errno) : "", status);
			break;
		}
		close(c.opened);
	}
	printf("end\n");
	return 0;
}
