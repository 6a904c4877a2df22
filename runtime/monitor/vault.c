/* Descriptors kept in flight. The vault is a datagram socket whose only message is never consumed. */
#include "vault.h"

#define MSG_PEEK 2
#define MSG_CMSG_CLOEXEC 0x40000000
#define SOL_SOCKET 1
#define SCM_RIGHTS 1

struct msghdr_k {
	u64 name;
	u32 namelen, pad0;
	u64 iov, iovlen, control, controllen;
	u32 flags, pad1;
};

long vault_open(int vault_fd, struct vault *v)
{
	struct psb_vault head;
	struct {
		u64 len;
		i32 level, type;
		i32 fd[PSB_VAULT_MAX];
	} control;
	struct {
		void *base;
		u64 len;
	} iov = {&head, sizeof head};
	struct msghdr_k m = {.iov = (u64)&iov, .iovlen = 1, .control = (u64)&control, .controllen = sizeof control};
	for (int i = 0; i < PSB_VAULT_MAX; i++)
		v->fd[i] = -1;
	u32 got = 0;
	long n = host_call(__NR_recvmsg, vault_fd, &m, MSG_PEEK | MSG_CMSG_CLOEXEC);
	if (IS_ERR(n))
		return n;
	if (n == sizeof head && m.controllen >= 16 && control.level == SOL_SOCKET && control.type == SCM_RIGHTS)
		got = (u32)(control.len - 16) / 4;
	if (n != sizeof head || head.magic != PSB_VAULT_MAGIC || head.version != PSB_ABI_VERSION || head.nfds > PSB_VAULT_MAX ||
	    got != head.nfds) {
		for (u32 i = 0; i < got && i < PSB_VAULT_MAX; i++) /* numbers ran out in the middle */
			host_call(__NR_close, control.fd[i]);
		return n == sizeof head && got < head.nfds ? -EMFILE : -EINVAL;
	}
	for (u32 i = 0; i < head.nfds; i++)
		if (head.role[i] < PSB_VAULT_MAX)
			v->fd[head.role[i]] = control.fd[i];
	return 0;
}

void vault_close(struct vault *v, u32 keep)
{
	for (int i = 0; i < PSB_VAULT_MAX; i++)
		if (v->fd[i] >= 0 && !(keep >> i & 1)) {
			host_call(__NR_close, v->fd[i]);
			v->fd[i] = -1;
		}
}
