/* mlockall: what it locks, now and later, and when it is refused. Without CAP_IPC_LOCK. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static long locked(void)
{
	char line[128];
	long kb = -1;
	FILE *f = fopen("/proc/self/status", "r");
	while (f && fgets(line, sizeof line, f))
		sscanf(line, "VmLck: %ld kB", &kb);
	if (f)
		fclose(f);
	return kb;
}

static void say(const char *what, long r)
{
	printf("%s: %ld %s\n", what, r, r < 0 ? strerror(errno) : "");
	fflush(stdout);
}

static long map(size_t len)
{
	return mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0;
}

static void limit(rlim_t bytes)
{
	struct rlimit r;
	getrlimit(RLIMIT_MEMLOCK, &r);
	r.rlim_cur = bytes;
	if (setrlimit(RLIMIT_MEMLOCK, &r))
		say("limit", -1);
}

int main(void)
{
	unsigned char present[16] = {0};
	say("none", mlockall(0));
	say("alone", mlockall(MCL_ONFAULT));
	say("unknown", mlockall(64));
	limit(65536);
	say("too much", mlockall(MCL_CURRENT));
	limit(0);
	say("no right", mlockall(MCL_FUTURE));
	limit(8 << 20);
	void *before = mmap(NULL, sizeof present * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	say("current", mlockall(MCL_CURRENT));
	say("much", locked() > 1000);
	say("mincore", mincore(before, sizeof present * 4096, present));
	say("present", present[0] & present[15] & 1);
	long was = locked();
	say("map", map(1 << 20));
	say("more", locked() - was);
	say("future", mlockall(MCL_CURRENT | MCL_FUTURE));
	was = locked();
	say("map", map(1 << 20));
	say("more", locked() - was);
	was = locked();
	say("brk", sbrk(1 << 20) == (void *)-1);
	say("more", locked() - was);
	say("beyond", map(64 << 20));
	pid_t pid = fork();
	if (!pid) {
		say("child", locked());
		say("map", map(1 << 20));
		say("child", locked());
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	say("touched", mlockall(MCL_FUTURE | MCL_ONFAULT));
	was = locked();
	say("map", map(1 << 20));
	say("more", locked() - was);
	say("beyond", map(64 << 20));
	say("unlock", munlockall());
	say("left", locked());
	say("map", map(1 << 20));
	say("left", locked());
	return 0;
}
