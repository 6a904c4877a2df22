/* Sockets. Messages are taken apart here: the header is copied once, its vector and address checked, control data rewritten, so that
 * descriptors travel only when they are published, and arrive only through fd_publish(). */
#include "../linux_abi.h"
#include "handlers.h"

#define MSG_DONTWAIT 0x40u
#define MSG_CTRUNC 0x8u
#define MSG_NOSIGNAL 0x4000u
#define MSG_WAITFORONE 0x10000u
#define MSG_ERRQUEUE 0x2000u
#define MSG_WAITALL 0x100u
#define MSG_OOB 1u
#define SOL_SOCKET 1
#define SCM_RIGHTS 1
#define SCM_PIDFD 4
#define SCM_MAX_FD 253u /* of a message */
#define CONTROL_MAX (64ul << 10)
#define SEND_TRY 4096 /* blocking sends promise all bytes; only what fits one buffer is tried without waiting */

struct msghdr_k {
	u64 name;
	u32 namelen, pad;
	u64 iov, iovlen;
	u64 control, controllen;
	u32 flags, pad2;
};
_Static_assert(sizeof(struct msghdr_k) == 56, "struct msghdr");

struct cmsghdr_k {
	u64 len;
	i32 level, type;
};

static bool nonblocking(int fd)
{
	long fl = host_call(__NR_fcntl, fd, F_GETFL);
	return fl >= 0 && (u64)fl & O_NONBLOCK;
}

/* Makes the call: on the thread as asked; on the ring without waiting and without SIGPIPE, which the thread has to get. */
static long transfer(struct thread *t, struct call *c, bool out, u32 nr, const u64 a[6], int flags_at)
{
	if (c->may_block)
		return blocking_call(t, nr, a[0], a[1], a[2], a[3], a[4], a[5]);
	u64 b[6];
	memcpy(b, a, sizeof b);
	b[flags_at] |= MSG_DONTWAIT | (out ? MSG_NOSIGNAL : 0);
	long r = host_call(nr, b[0], b[1], b[2], b[3], b[4], b[5]);
	if (r == -EAGAIN)
		return (a[flags_at] & MSG_DONTWAIT) || nonblocking((int)a[0]) ? -EAGAIN : CALL_TO_TRAP;
	return r == -EPIPE ? CALL_TO_TRAP : r;
}

long h_sendto(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	if (!c->may_block && a[2] > SEND_TRY && !(a[3] & MSG_DONTWAIT))
		return CALL_TO_TRAP;
	return transfer(t, c, true, __NR_sendto, a, 3);
}

long h_recvfrom(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	if (!c->may_block && a[3] & MSG_WAITALL)
		return CALL_TO_TRAP;
	return transfer(t, c, false, __NR_recvfrom, a, 3);
}

/* --- messages -------------------------------------------------------------------------------------------------------- */

/* Header from the guest; name, vector and control data checked or copied. 0 or -errno. */
static long take_header(struct thread *t, u64 va, struct msghdr_k *h, bool out)
{
	long err;
	if (copy_from_guest(h, gptr_of(va), sizeof *h))
		return -EFAULT;
	if (!h->name)
		h->namelen = 0;
	if ((i32)h->namelen < 0)
		return -EINVAL;
	if (h->namelen > 128)
		h->namelen = 128;
	if (h->name && !guest_ok(h->name, h->namelen))
		return -EFAULT;
	if (h->iovlen > 1024)
		return -EMSGSIZE;
	h->iov = (u64)marshal_iovec(t, h->iov, h->iovlen, &err);
	if (err)
		return err;
	if (h->controllen && h->control && !guest_ok(h->control, h->controllen))
		return -EFAULT;
	if (h->controllen > CONTROL_MAX) {
		if (out)
			return -ENOBUFS;
		h->controllen = CONTROL_MAX;
	}
	return 0;
}

/* Next header in control data, NULL at the end; *data_len: bytes behind it. */
static struct cmsghdr_k *next_cmsg(u8 *buf, u64 len, u64 *at, u64 *data_len)
{
	if (*at > len || len - *at < sizeof(struct cmsghdr_k))
		return NULL;
	struct cmsghdr_k *h = (struct cmsghdr_k *)(buf + *at);
	if (h->len < sizeof *h || h->len > len - *at)
		return NULL;
	*data_len = h->len - sizeof *h;
	u64 step = ROUND_UP(h->len, 8);
	*at = step > len - *at ? len : *at + step;
	return h;
}

/* Descriptors in a message. */
static u64 count_sent(u8 *buf, u64 len)
{
	u64 at = 0, n, sum = 0;
	for (struct cmsghdr_k *h; (h = next_cmsg(buf, len, &at, &n));)
		sum += h->level == SOL_SOCKET && h->type == SCM_RIGHTS ? n / 4 : 0;
	return sum;
}

/* Every descriptor sent has to be published, and stays held while the call is made. */
static long hold_sent(struct thread *t, u8 *buf, u64 len, bool hold)
{
	u64 at = 0, n;
	if (hold && count_sent(buf, len) > SCM_MAX_FD)
		return -EINVAL;
	struct cmsghdr_k *h;
	while ((h = next_cmsg(buf, len, &at, &n))) {
		if (h->level != SOL_SOCKET || h->type != SCM_RIGHTS)
			continue;
		int *fds = (int *)(h + 1);
		for (u64 i = 0; i < n / 4; i++) {
			if (!hold) {
				fd_drop(t->proc, fds[i]);
			} else if (!fd_hold(t->proc, fds[i])) {
				/* undo: everything held so far, which is all before this one */
				struct cmsghdr_k *stop = h;
				u64 back = 0, m;
				for (struct cmsghdr_k *g; (g = next_cmsg(buf, len, &back, &m)) && g <= stop;) {
					if (g->level != SOL_SOCKET || g->type != SCM_RIGHTS)
						continue;
					for (u64 k = 0; k < m / 4 && (g != stop || k < i); k++)
						fd_drop(t->proc, ((int *)(g + 1))[k]);
				}
				return -EBADF;
			}
		}
	}
	return 0;
}

static long send_one(struct thread *t, struct call *c, int fd, u64 va, u64 flags)
{
	struct msghdr_k h;
	long r = take_header(t, va, &h, true);
	if (r)
		return r;
	if (h.name && h.namelen) {
		u8 *name = marshal_alloc(t, 128);
		if (!name)
			return -ENOMEM;
		if (copy_from_guest(name, gptr_of(h.name), h.namelen))
			return -EFAULT;
		h.name = (u64)name;
	}
	u8 *control = NULL;
	if (h.control && h.controllen) {
		control = marshal_alloc(t, h.controllen);
		if (!control)
			return -ENOBUFS;
		if (copy_from_guest(control, gptr_of(h.control), h.controllen))
			return -EFAULT;
		h.control = (u64)control;
		r = hold_sent(t, control, h.controllen, true);
		if (r)
			return r;
	}
	u64 a[6] = {(u64)(i64)fd, (u64)&h, flags};
	r = transfer(t, c, true, __NR_sendmsg, a, 2);
	if (control)
		hold_sent(t, control, h.controllen, false);
	return r;
}

/* A message is one unit of work: its scratch is given back when it is done (sendmmsg has up to 1024). */
static u32 scratch_mark(struct thread *t)
{
	return marshal_of(t)->used;
}

static void scratch_release(struct thread *t, u32 mark, u32 big)
{
	struct marshal *m = marshal_of(t);
	m->used = mark;
	while (m->nbig > big) {
		m->nbig--;
		host_free(m->big[m->nbig].p, m->big[m->nbig].len);
	}
}

/* For calls whose own checks would come first. */
static bool is_socket(struct thread *t, u64 fd)
{
	enum fd_class k = fd_class_of(t->proc, (int)fd);
	return k == FD_SOCKET || k == FD_OTHER; /* of others the kernel says what they are */
}

static long not_socket(u64 fd)
{
	long flags = host_call(__NR_fcntl, fd, F_GETFL);
	return flags >= 0 && (u32)flags & O_PATH ? -EBADF : -ENOTSOCK;
}

long h_sendmsg(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	if (!is_socket(t, a[0]))
		return not_socket(a[0]);
	if (!c->may_block) /* copies would be made again on the thread: small messages could be tried, but ask for the thread */
		return CALL_TO_TRAP;
	return send_one(t, c, (int)a[0], a[1], a[2]);
}

long h_sendmmsg(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	if (!is_socket(t, a[0]))
		return not_socket(a[0]);
	u64 n = a[2] < 1024 ? a[2] : 1024;
	long r = 0;
	u64 i;
	for (i = 0; i < n; i++) {
		u32 mark = scratch_mark(t), big = marshal_of(t)->nbig;
		r = send_one(t, c, (int)a[0], a[1] + i * 64, a[3]);
		scratch_release(t, mark, big);
		if (r < 0)
			break;
		u32 sent = (u32)r;
		if (copy_to_guest(gptr_of(a[1] + i * 64 + 56), &sent, 4)) {
			r = -EFAULT;
			break;
		}
	}
	return i ? (long)i : r;
}

/* Publishes what arrived; what the guest must not have is dropped from the list, as if there had been no room. The length that
 * is left. */
static u64 publish_received(struct thread *t, u8 *buf, u64 len, u32 *flags)
{
	u64 at = 0, n;
	struct cmsghdr_k *h;
	while ((h = next_cmsg(buf, len, &at, &n))) {
		if (h->level != SOL_SOCKET || (h->type != SCM_RIGHTS && h->type != SCM_PIDFD))
			continue;
		int *fds = (int *)(h + 1);
		u64 kept = 0;
		long fd;
		for (u64 i = 0; i < n / 4; i++) {
			if (h->type == SCM_PIDFD && fds[i] < 0)
				kept++;
			else if ((fd = fd_publish(t, fds[i])) >= 0)
				fds[kept++] = (int)fd;
			else
				*flags |= MSG_CTRUNC;
		}
		if (kept == n / 4)
			continue;
		/* Close up: `at` stands behind this message, or behind the end where its padding was cut off. */
		u64 behind = at < len ? at : len, begin = (u64)((u8 *)h - buf), end = begin + (kept ? ROUND_UP(sizeof *h + kept * 4, 8) : 0);
		h->len = sizeof *h + kept * 4;
		memmove(buf + end, buf + behind, len - behind);
		len = end + (len - behind);
		at = end;
	}
	return len;
}

static long receive_one(struct thread *t, struct call *c, int fd, u64 va, u64 flags)
{
	struct msghdr_k h;
	long r = take_header(t, va, &h, false);
	if (r)
		return r;
	u64 control_va = h.control;
	u8 *control = NULL;
	if (h.control && h.controllen) {
		control = marshal_alloc(t, h.controllen);
		if (!control)
			return -ENOBUFS;
		memset(control, 0, h.controllen);
		h.control = (u64)control;
	} else {
		h.controllen = 0;
	}
	u64 a[6] = {(u64)(i64)fd, (u64)&h, flags};
	r = transfer(t, c, false, __NR_recvmsg, a, 2);
	if (r < 0)
		return r;
	if (control && h.controllen)
		h.controllen = publish_received(t, control, h.controllen, &h.flags);
	/* the message is taken: an address that cannot be written is the caller's loss, as with the kernel */
	if (control && h.controllen && copy_to_guest(gptr_of(control_va), control, h.controllen))
		return -EFAULT;
	if (copy_to_guest(gptr_of(va + 8), &h.namelen, 4) || copy_to_guest(gptr_of(va + 40), &h.controllen, 8) ||
	    copy_to_guest(gptr_of(va + 48), &h.flags, 4))
		return -EFAULT;
	return r;
}

long h_recvmsg(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	if (!is_socket(t, a[0]))
		return not_socket(a[0]);
	if (!c->may_block)
		return CALL_TO_TRAP;
	return receive_one(t, c, (int)a[0], a[1], a[2]);
}

static i64 now_ns(void)
{
	struct timespec_k ts;
	host_call(__NR_clock_gettime, 1, &ts);
	return ts.sec * 1000000000 + ts.nsec;
}

/* As in the kernel, the timeout is looked at between messages only. */
long h_recvmmsg(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	if (!is_socket(t, a[0]))
		return not_socket(a[0]);
	u64 n = a[2] < 1024 ? a[2] : 1024, flags = a[3];
	struct timespec_k ts;
	i64 end = 0;
	if (a[4]) {
		if (copy_from_guest(&ts, gptr_of(a[4]), sizeof ts))
			return -EFAULT;
		if (ts.sec < 0 || ts.nsec < 0 || ts.nsec >= 1000000000)
			return -EINVAL;
		end = now_ns() + (ts.sec > 1000000000 ? 1000000000 : ts.sec) * 1000000000 + ts.nsec;
	}
	long r = 0;
	u64 i;
	for (i = 0; i < n; i++) {
		u32 mark = scratch_mark(t), big = marshal_of(t)->nbig;
		r = receive_one(t, c, (int)a[0], a[1] + i * 64, flags & ~(u64)MSG_WAITFORONE);
		scratch_release(t, mark, big);
		if (r < 0)
			break;
		u32 got = (u32)r;
		if (copy_to_guest(gptr_of(a[1] + i * 64 + 56), &got, 4)) {
			r = -EFAULT;
			break;
		}
		if (flags & MSG_WAITFORONE)
			flags |= MSG_DONTWAIT;
		if (end && now_ns() >= end) {
			i++;
			break;
		}
	}
	if (end) {
		i64 left = end - now_ns();
		ts = left > 0 ? (struct timespec_k){left / 1000000000, left % 1000000000} : (struct timespec_k){0, 0};
		copy_to_guest(gptr_of(a[4]), &ts, sizeof ts);
	}
	return i ? (long)i : r;
}

/* --- options ------------------------------------------------------------------------------------------------------------ */

#define SO_ATTACH_FILTER 26
#define SO_ATTACH_BPF 50
#define SO_ATTACH_REUSEPORT_CBPF 51
#define SO_ATTACH_REUSEPORT_EBPF 52
#define SO_PEERPIDFD 77
#define IPPROTO_TCP 6
#define TCP_ZEROCOPY_RECEIVE 35
#define IPPROTO_SCTP 132
#define SOL_PACKET 263
#define PACKET_FANOUT_DATA 22
#define OPTION_SLACK (64ul << 10)

struct sock_fprog_k {
	u16 len, pad[3];
	u64 filter;
};

static long attach_filter(struct thread *t, const u64 *a)
{
	struct sock_fprog_k prog;
	if (a[4] != sizeof prog)
		return -EINVAL;
	if (copy_from_guest(&prog, gptr_of(a[3]), sizeof prog))
		return -EFAULT;
	if (!prog.len || prog.len > 4096)
		return -EINVAL;
	void *code = marshal_alloc(t, prog.len * 8ul);
	if (!code)
		return -ENOMEM;
	if (copy_from_guest(code, gptr_of(prog.filter), prog.len * 8ul))
		return -EFAULT;
	prog.filter = (u64)code;
	return host_call(__NR_setsockopt, a[0], a[1], a[2], &prog, sizeof prog);
}

/* Netfilter's own calls live among the options of IP and IPv6: iptables and ip6tables (64, 65), arptables (96, 97), ebtables (128 to 131),
 * IPVS (1152 and up). Their structures are full of pointers. What is left of that range are plain values: SO_ORIGINAL_DST (80), IPv6's
 * options from 66 on but for the tables' revisions (68, 69), and multicast routing (200 to 212). */
static bool is_netfilter(u64 level, u64 name)
{
	if (level == 0)
		return name >= 64 && name != 80 && !(name >= 200 && name <= 212);
	return level == 41 && (name == 64 || name == 65 || name == 68 || name == 69 || (name >= 96 && name < 200) || name > 212);
}

/* The value is passed on in place; options with pointers or descriptors inside need more, or are not offered. */
static bool option_refused(u64 level, u64 name)
{
	if (is_netfilter(level, name))
		return true;
	switch (level) {
	case SOL_SOCKET:
		return name == SO_ATTACH_BPF || name == SO_ATTACH_REUSEPORT_EBPF;
	case IPPROTO_TCP: /* maps pages at an address of its choice */
		return name == TCP_ZEROCOPY_RECEIVE;
	case SOL_PACKET: /* a filter program by pointer or descriptor */
		return name == PACKET_FANOUT_DATA;
	case IPPROTO_SCTP: /* PEELOFF and PEELOFF_FLAGS make descriptors, CONNECTX3 has a pointer */
		return name == 102 || name == 122 || name == 111;
	default:
		return false;
	}
}

long h_setsockopt(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	if (!is_socket(t, a[0]))
		return not_socket(a[0]);
	if (option_refused(a[1], a[2]))
		return refuse(t, -ENOPROTOOPT);
	if (a[1] == SOL_SOCKET && (a[2] == SO_ATTACH_FILTER || a[2] == SO_ATTACH_REUSEPORT_CBPF))
		return attach_filter(t, a);
	return host_call(__NR_setsockopt, a[0], a[1], a[2], a[3], a[4]);
}

/* The length lies in guest memory, where it could change between check and use: the kernel gets a copy. Some options write more
 * than it says (SO_GET_FILTER counts instructions, multicast filters count addresses): hence the slack. */
long h_getsockopt(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	if (!is_socket(t, a[0]))
		return not_socket(a[0]);
	i32 len;
	int pidfd = -1;
	if (copy_from_guest(&len, gptr_of(a[4]), 4))
		return -EFAULT;
	if (len < 0)
		return -EINVAL;
	if (!guest_ok(a[3], (u64)len + OPTION_SLACK))
		return -EFAULT;
	if (option_refused(a[1], a[2]))
		return refuse(t, -ENOPROTOOPT);
	if (a[1] != SOL_SOCKET || a[2] != SO_PEERPIDFD) {
		long r = host_call(__NR_getsockopt, a[0], a[1], a[2], a[3], &len);
		return copy_to_guest(gptr_of(a[4]), &len, 4) ? -EFAULT : r;
	}
	/* A new descriptor: its number must come from memory of ours, see give_pidfd() in proc.c. */
	if (len > (i32)sizeof pidfd)
		len = sizeof pidfd;
	if (len < (i32)sizeof pidfd)
		return -EINVAL;
	long r = host_call(__NR_getsockopt, a[0], a[1], a[2], &pidfd, &len);
	if (!r && (r = fd_publish(t, pidfd)) >= 0) {
		pidfd = (int)r;
		r = copy_to_guest(gptr_of(a[3]), &pidfd, sizeof pidfd);
	}
	return copy_to_guest(gptr_of(a[4]), &len, 4) ? -EFAULT : r;
}
