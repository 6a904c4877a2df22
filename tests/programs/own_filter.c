/* What a program forbids itself with seccomp(2). Every case runs in a child; how it ends and what it says is printed. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOAD(field) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, field))
#define RETURN(value) BPF_STMT(BPF_RET | BPF_K, value)
#define WHEN(value, skip) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, skip)

static const char *self;

static long install_flags(struct sock_filter *code, unsigned n, unsigned flags)
{
	struct sock_fprog prog = {(unsigned short)n, code};
	return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &prog);
}

/* getppid() gets `action`, all else is allowed. */
static long act_on(long nr, unsigned action, unsigned flags)
{
	struct sock_filter code[] = {LOAD(arch), WHEN(AUDIT_ARCH_X86_64, 3), LOAD(nr), WHEN((unsigned)nr, 1), RETURN(action), RETURN(SECCOMP_RET_ALLOW)};
	return install_flags(code, sizeof code / sizeof *code, flags);
}

static void nnp(void)
{
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

static void say(const char *what, long r)
{
	printf("%s: %ld %s\n", what, r < 0 ? r : r > 0 ? 1 : 0, r < 0 ? strerror(errno) : "");
	fflush(stdout);
}

static void needs_right(void)
{
	say("without", act_on(SYS_getppid, SECCOMP_RET_ERRNO | 7, 0));
	nnp();
	say("with", act_on(SYS_getppid, SECCOMP_RET_ERRNO | 7, 0));
	say("getppid", syscall(SYS_getppid));
	say("get", prctl(PR_GET_SECCOMP) == 2);
	say("strict", prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0));
}

static void arguments(void)
{
	struct sock_filter code[] = {LOAD(nr), WHEN(SYS_dup2, 5), LOAD(args[1]), BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xf0), BPF_STMT(BPF_MISC | BPF_TAX, 0),
				     BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x20, 0, 1), RETURN(SECCOMP_RET_ERRNO | ENOTTY), RETURN(SECCOMP_RET_ALLOW)};
	nnp();
	say("filter", install_flags(code, sizeof code / sizeof *code, SECCOMP_FILTER_FLAG_LOG));
	say("dup2 31", dup2(0, 31));
	say("dup2 32", dup2(0, 32));
	say("dup2 287", dup2(0, 287));
}

static void strictest(void)
{
	nnp();
	say("5", act_on(SYS_getppid, SECCOMP_RET_ERRNO | 5, 0));
	say("getppid", syscall(SYS_getppid));
	say("9", act_on(SYS_getppid, SECCOMP_RET_ERRNO | 9, 0)); /* of equals the newest */
	say("getppid", syscall(SYS_getppid));
	say("log", act_on(SYS_getppid, SECCOMP_RET_LOG, 0));
	say("getppid", syscall(SYS_getppid));
	say("trace", act_on(SYS_getpgrp, SECCOMP_RET_TRACE, 0));
	say("getpgrp", syscall(SYS_getpgrp));
	say("notify", act_on(SYS_getuid, SECCOMP_RET_USER_NOTIF, 0));
	say("getuid", syscall(SYS_getuid));
	say("large", act_on(SYS_getgid, SECCOMP_RET_ERRNO | 0xffff, 0));
	say("getgid", syscall(SYS_getgid) == -1);
	printf("%d\n", errno);
	char line[256];
	FILE *f = fopen("/proc/self/status", "r");
	while (f && fgets(line, sizeof line, f))
		if (!strncmp(line, "Seccomp", 7))
			printf("%s", line);
}

static void on_trap(int signo, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	printf("signal %d code %d errno %d nr %d %d\n", signo, info->si_code, info->si_errno, info->si_syscall, uc->uc_mcontext.gregs[REG_RIP] == (long long)info->si_call_addr);
	uc->uc_mcontext.gregs[REG_RAX] = 4711;
}

static void trap(void)
{
	struct sigaction act = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
	sigaction(SIGSYS, &act, NULL);
	nnp();
	say("trap", act_on(SYS_getppid, SECCOMP_RET_TRAP | 33, 0));
	printf("%ld\n", syscall(SYS_getppid));
}

static void die(unsigned action)
{
	nnp();
	say("die", act_on(SYS_getppid, action, 0));
	syscall(SYS_getppid);
	say("alive", 0);
}

static void kill_process(void)
{
	die(SECCOMP_RET_KILL_PROCESS);
}

static void kill_only_thread(void)
{
	die(SECCOMP_RET_KILL_THREAD);
}

static void unknown_action(void)
{
	die(0x12340000);
}

static void strict(void)
{
	say("strict", prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0, 0));
	write(1, "written\n", 8);
	syscall(SYS_getppid);
	write(1, "alive\n", 6);
}

static void strict_exit(void)
{
	say("strict", syscall(SYS_seccomp, SECCOMP_SET_MODE_STRICT, 0, 0));
	syscall(SYS_exit, 3);
}

static pthread_barrier_t barrier;

static void *killed(void *unused)
{
	act_on(SYS_getppid, SECCOMP_RET_KILL_THREAD, 0);
	syscall(SYS_getppid);
	return unused;
}

static void *waits(void *unused)
{
	pthread_barrier_wait(&barrier);
	pthread_barrier_wait(&barrier);
	say("in the thread", syscall(SYS_getppid));
	return unused;
}

static void *apart(void *unused)
{
	say("own", act_on(SYS_getpgrp, SECCOMP_RET_ERRNO | 3, 0));
	return waits(unused);
}

static void threads(void)
{
	pthread_t t;
	nnp();
	pthread_create(&t, NULL, killed, NULL);
	struct timespec second = {1, 0};
	nanosleep(&second, NULL);
	say("others live", syscall(SYS_getppid));
	pthread_barrier_init(&barrier, NULL, 2);
	pthread_create(&t, NULL, waits, NULL);
	pthread_barrier_wait(&barrier);
	say("all threads", act_on(SYS_getppid, SECCOMP_RET_ERRNO | 11, SECCOMP_FILTER_FLAG_TSYNC));
	pthread_barrier_wait(&barrier);
	pthread_join(t, NULL);
	pthread_create(&t, NULL, apart, NULL);
	pthread_barrier_wait(&barrier);
	say("apart", act_on(SYS_getpid, SECCOMP_RET_ERRNO | 12, SECCOMP_FILTER_FLAG_TSYNC));
	say("apart", act_on(SYS_getpid, SECCOMP_RET_ERRNO | 12, SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_TSYNC_ESRCH));
	say("getpid", syscall(SYS_getpid));
	pthread_barrier_wait(&barrier);
	pthread_join(t, NULL);
}

static void kept(void)
{
	nnp();
	say("filter", act_on(SYS_getppid, SECCOMP_RET_ERRNO | 21, 0));
	say("filter", act_on(SYS_getpgrp, SECCOMP_RET_ERRNO | 22, 0));
	pid_t pid = fork();
	if (!pid) {
		say("forked", syscall(SYS_getppid));
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	pid = vfork();
	if (!pid) {
		execl(self, self, "again", (char *)NULL);
		_exit(1);
	}
	waitpid(pid, NULL, 0);
	execl(self, self, "again", (char *)NULL);
}

static void refused(void)
{
	static struct sock_filter none[] = {RETURN(SECCOMP_RET_ALLOW)}, odd[] = {LOAD(nr), RETURN(0)}, far[] = {LOAD(nr), WHEN(1, 9), RETURN(0)},
				  bytes[] = {BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0), RETURN(0)}, open_end[] = {LOAD(nr)}, slot[] = {BPF_STMT(BPF_ST, 16), RETURN(0)},
				  zero[] = {BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 0), RETURN(0)}, mod[] = {BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, 3), RETURN(0)};
	odd[0].k = 2;
	nnp();
	say("empty", install_flags(none, 0, 0));
	say("long", install_flags(none, 4097, 0));
	say("odd", install_flags(odd, 2, 0));
	odd[0].k = 64;
	say("beyond", install_flags(odd, 2, 0));
	say("far", install_flags(far, 3, 0));
	say("bytes", install_flags(bytes, 2, 0));
	say("open", install_flags(open_end, 1, 0));
	say("slot", install_flags(slot, 2, 0));
	say("zero", install_flags(zero, 2, 0));
	say("modulo", install_flags(mod, 2, 0));
	say("flags", install_flags(none, 1, 0x8000));
	say("null", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, NULL));
	struct sock_fprog nowhere = {1, NULL};
	say("nowhere", syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &nowhere));
	say("operation", syscall(SYS_seccomp, 99, 0, NULL));
	say("mode", prctl(PR_SET_SECCOMP, 5, 0, 0, 0));
	unsigned action = SECCOMP_RET_ERRNO, unknown = 0x50001000;
	say("available", syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action));
	say("available", syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &unknown));
	say("get", prctl(PR_GET_SECCOMP) == 2);
}

static const struct {
	const char *name;
	void (*function)(void);
} cases[] = {{"needs a right", needs_right}, {"arguments", arguments}, {"strictest", strictest}, {"trap", trap}, {"kill process", kill_process},
	     {"kill thread", kill_only_thread}, {"unknown action", unknown_action}, {"strict", strict}, {"strict exit", strict_exit}, {"threads", threads},
	     {"kept", kept}, {"refused", refused}};

int main(int argc, char **argv)
{
	self = argv[0];
	if (argc > 1) {
		say("next program", syscall(SYS_getppid));
		say("next program", syscall(SYS_getpgrp));
		return 0;
	}
	for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
		printf("== %s\n", cases[i].name);
		fflush(stdout);
		pid_t pid = fork();
		if (!pid) {
			cases[i].function();
			fflush(stdout);
			_exit(0);
		}
		int status;
		waitpid(pid, &status, 0);
		printf("status %#x\n", status);
	}
	return 0;
}
