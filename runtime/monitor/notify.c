/* Verdict NOTIFY: the call waits for what an agent outside says. The process that speaks with it (runtime/notify.py) gets one message
 * a call, with a socket for the answer: whose end is told by the socket's, on either side. */
#include "linux_abi.h"
#include "signal.h"
#include "syscalls/handlers.h"

#define AF_UNIX 1
#define SOCK_SEQPACKET 5
#define SOL_SOCKET 1
#define SCM_RIGHTS 1
#define MSG_NOSIGNAL 0x4000
#define MSG_CMSG_CLOEXEC 0x40000000

struct msghdr_k {
	u64 name;
	u32 namelen, pad0;
	u64 iov, iovlen, control, controllen;
	u32 flags, pad1;
};

struct one_fd {
	u64 len;
	i32 level, type, fd, pad;
};

/* Errors above those that programs know mean something to the dispatcher. */
static long as_result(i64 value)
{
	return value < -511 && value >= -4095 ? -EINVAL : value;
}

static long ask(struct thread *t, const struct call *c, int reply)
{
	struct psb_notify_request q = {.magic = PSB_NOTIFY_MAGIC, .nr = c->nr, .arch = AUDIT_ARCH_X86_64, .ip = c->ret_addr};
	for (int i = 0; i < 6; i++)
		q.args[i] = c->arg[i];
	struct one_fd control = {20, SOL_SOCKET, SCM_RIGHTS, reply, 0};
	struct iovec_k iov = {(u64)&q, sizeof q};
	struct msghdr_k m = {.iov = (u64)&iov, .iovlen = 1, .control = (u64)&control, .controllen = sizeof control};
	return blocking_call(t, __NR_sendmsg, (u64)t->proc->notify_fd, (u64)&m, MSG_NOSIGNAL, 0, 0, 0);
}

/* A descriptor of the agent's becomes one of the program's: the lowest that is free, or in place of what `a` names. There it is put as
 * the program itself would do it, from a number that other threads can see for a moment. */
static long added(struct thread *t, const struct one_fd *control, u64 controllen, const struct psb_notify_answer *a)
{
	u64 cloexec = a->value & PSB_NOTIFY_CLOEXEC;
	if (controllen < 20 || control->level != SOL_SOCKET || control->type != SCM_RIGHTS)
		return -EBADF;
	if (fd_full(t->proc)) {
		host_call(__NR_close, control->fd);
		return -EMFILE;
	}
	if (!cloexec)
		host_call(__NR_fcntl, control->fd, F_SETFD, 0);
	long fd = fd_publish(t, control->fd);
	if (fd < 0 || !(a->value & PSB_NOTIFY_AT) || fd == a->error)
		return fd;
	long r = fd_dup_onto(t, (int)fd, a->error, cloexec ? O_CLOEXEC : 0);
	fd_close(t, (int)fd);
	return r;
}

long notify_agent(struct thread *t, const struct call *c, bool *go_on)
{
	int pair[2];
	*go_on = false;
	if (t->proc->notify_fd < 0)
		return -ENOSYS;
	long r = host_call(__NR_socketpair, AF_UNIX, SOCK_SEQPACKET | O_CLOEXEC, 0, pair);
	if (r)
		return -ENOSYS;
	r = ask(t, c, pair[1]);
	host_call(__NR_close, pair[1]);
	while (r > 0) {
		struct psb_notify_answer a;
		struct one_fd control = {0};
		struct iovec_k iov = {(u64)&a, sizeof a};
		struct msghdr_k m = {.iov = (u64)&iov, .iovlen = 1, .control = (u64)&control, .controllen = sizeof control};
		r = blocking_call(t, __NR_recvmsg, (u64)pair[0], (u64)&m, MSG_CMSG_CLOEXEC, 0, 0, 0);
		if (r != sizeof a)
			break;
		i64 fd = a.kind == PSB_NOTIFY_ADD || a.kind == PSB_NOTIFY_ADD_AND_ANSWER ? added(t, &control, m.controllen, &a) : 0;
		if (a.kind == PSB_NOTIFY_ADD || a.kind == PSB_NOTIFY_ADD_AND_ANSWER)
			host_call(__NR_sendto, pair[0], &fd, sizeof fd, MSG_NOSIGNAL, 0, 0);
		if (a.kind == PSB_NOTIFY_ADD || (a.kind == PSB_NOTIFY_ADD_AND_ANSWER && fd < 0))
			continue;
		host_call(__NR_close, pair[0]);
		*go_on = a.kind == PSB_NOTIFY_CONTINUE;
		return a.kind == PSB_NOTIFY_ADD_AND_ANSWER ? fd : as_result(a.error ? a.error : a.value);
	}
	host_call(__NR_close, pair[0]);
	/* interrupted: begun again, or not, as the signal has it. Anything else: there is no agent any more. */
	return r == -ERESTARTSYS || r == -ERESTARTNOINTR || r == -EINTR ? r : -ENOSYS;
}
