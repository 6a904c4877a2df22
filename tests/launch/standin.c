/* Stands in for the monitor in tests of the launcher: checks everything a monitor is started with, then becomes the
 * container's program natively. Exit status 125 and a line on stderr when something is not as shim/abi.h says. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <linux/kvm.h>
#include "../../shim/abi.h"

#define REQUIRE(cond) do { if (!(cond)) { dprintf(2, "stand-in: %s failed (%s)\n", #cond, strerror(errno)); _exit(125); } } while (0)

int main(int argc, char **argv, char **envp)
{
	const char *execfn = (const char *)getauxval(AT_EXECFN);
	REQUIRE(argc > 0 && !strncmp(execfn, "/dev/fd/", 8));
	int n = atoi(execfn + 8);
	REQUIRE((fcntl(n, F_GET_SEALS) & (F_SEAL_WRITE | F_SEAL_SEAL)) == (F_SEAL_WRITE | F_SEAL_SEAL));

	struct psb_vault vault;
	union { char buf[CMSG_SPACE(sizeof(int) * PSB_VAULT_MAX)]; struct cmsghdr align; } control;
	for (int peek = 0; peek < 2; peek++) { /* twice: a peek must lose nothing */
		struct iovec iov = {&vault, sizeof vault};
		struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
		REQUIRE(recvmsg(n + 1, &msg, MSG_PEEK | MSG_CMSG_CLOEXEC) == sizeof vault);
		REQUIRE(vault.magic == PSB_VAULT_MAGIC && vault.version == PSB_ABI_VERSION && vault.nfds <= PSB_VAULT_MAX);
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
		REQUIRE(c && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int) * vault.nfds));
	}
	int fd[PSB_VAULT_MAX], role[PSB_VAULT_MAX];
	memset(fd, -1, sizeof fd);
	memcpy(role, CMSG_DATA(CMSG_FIRSTHDR((&(struct msghdr){.msg_control = &control, .msg_controllen = sizeof control}))), sizeof(int) * vault.nfds);
	for (uint32_t i = 0; i < vault.nfds; i++) {
		REQUIRE(vault.role[i] < PSB_VAULT_MAX && fd[vault.role[i]] < 0);
		fd[vault.role[i]] = role[i];
	}
	REQUIRE(ioctl(fd[PSB_FD_KVM], KVM_GET_API_VERSION, 0) == KVM_API_VERSION);
	struct stat one, other;
	REQUIRE(!fstat(n, &one) && !fstat(fd[PSB_FD_MONITOR], &other) && one.st_ino == other.st_ino);
	struct psb_policy policy;
	REQUIRE(pread(fd[PSB_FD_POLICY], &policy, sizeof policy, 0) == sizeof policy && policy.magic == PSB_POLICY_MAGIC);
	struct psb_ctl ctl;
	REQUIRE(pread(fd[PSB_FD_CTL], &ctl, sizeof ctl, 0) == sizeof ctl && ctl.ncpus > 0);
	struct psb_pool pool;
	REQUIRE(pread(fd[PSB_FD_POOL], &pool, sizeof pool, 0) == sizeof pool && pool.magic == PSB_POOL_MAGIC && pool.next == PSB_POOL_HEAD);
	char text[64];
	ssize_t len = readlinkat(fd[PSB_FD_HOST_SELF], "", text, sizeof text - 1);
	REQUIRE(len > 0);
	text[len] = 0;
	REQUIRE(strstr(text, "/task/"));
	len = readlinkat(fd[PSB_FD_PROC], "self", text, sizeof text - 1);
	REQUIRE(len > 0);
	text[len] = 0;
	REQUIRE(atoi(text) == getpid());
	struct psb_trace_header trace;
	if (fd[PSB_FD_TRACE] >= 0)
		REQUIRE(pread(fd[PSB_FD_TRACE], &trace, sizeof trace, 0) == sizeof trace && trace.magic == PSB_TRACE_MAGIC);

	struct psb_start start;
	REQUIRE(recv(n + 2, &start, sizeof start, MSG_PEEK) == sizeof start);
	REQUIRE(start.magic == PSB_START_MAGIC && start.version == PSB_ABI_VERSION && start.size < 65536 && !start.is_exec);
	char *record = malloc(start.size);
	REQUIRE(recv(n + 2, record, start.size, 0) == (ssize_t)start.size);
	const char *path = record + start.execfn_off;
	const uint64_t *fds = (const uint64_t *)(record + start.fds_off);
	unsigned published = 0;
	REQUIRE((start.trace == PSB_TRACE_OFF) == (fd[PSB_FD_TRACE] < 0));
	REQUIRE(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);

	/* Nothing but what is published, the three and the file of facts may have come through. */
	for (int i = 0; i < 4096; i++) {
		int known = (i >= n && i <= n + 2) || (start.facts_fd && i == (int)start.facts_fd);
		if ((uint32_t)i < start.nfds && fds[i / 64] >> i % 64 & 1) {
			known = 1;
			published++;
		}
		for (uint32_t k = 0; k < vault.nfds; k++)
			known |= role[k] == i;
		struct psb_vault unused;
		(void)unused;
		if (!known && fcntl(i, F_GETFD) >= 0 && !(fcntl(i, F_GETFD) & FD_CLOEXEC)) {
			dprintf(2, "stand-in: descriptor %d leaked\n", i);
			_exit(125);
		}
	}
	if (getenv("STANDIN_REPORT"))
		dprintf(1, "path=%s execfn=%s dispatch=%u trace=%u pin=%u nfds=%u stack=%llu n=%d roles=%u\n", record + start.path_off, path,
			start.dispatch, start.trace, start.pin, published, (unsigned long long)start.stack_limit, n, vault.nfds);
	close(n);
	close(n + 1);
	close(n + 2);
	if (start.facts_fd)
		close((int)start.facts_fd);
	for (uint32_t k = 0; k < vault.nfds; k++)
		close(role[k]);
	/* the monitor would keep this limit itself */
	REQUIRE(!setrlimit(RLIMIT_NOFILE, &(struct rlimit){start.nofile_soft, start.nofile_hard}));
	execve(path, argv, envp);
	dprintf(2, "stand-in: exec %s: %s\n", path, strerror(errno));
	return 126;
}
