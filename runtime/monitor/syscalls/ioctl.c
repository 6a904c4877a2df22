/* ioctl, by a list: request, what its argument points to. A request that is not listed does not reach the kernel: ENOTTY,
 * as from a file that does not know it. Drivers read and write as much as they like behind an unknown argument. */
#include "../linux_abi.h"
#include "handlers.h"

enum ioctl_kind {
	I_NONE,  /* no argument, or a number */
	I_PTR,   /* `size` bytes */
	I_FD,    /* the argument is a descriptor */
	I_NEWFD_TTY, /* the result is a descriptor, if the file is of this kind: others may answer any number */
	I_NEWFD_NS,
	I_OWNER, /* a process or process group: who gets SIGIO */
	I_IFCONF, /* struct ifconf: length and pointer */
	I_RANGE, /* struct file_clone_range or file_dedupe_range: starts with a descriptor */
	I_FIEMAP,
	I_ROUTE, /* struct rtentry */
	I_ETHTOOL,
};
#define I_WAITS 1 /* may sleep */

struct ioctl_row {
	u32 request;
	u8 kind, flags;
	u16 size;
};

static const struct ioctl_row rows[] = {
	/* terminals */
	{0x5401, I_PTR, 0, 36}, /* TCGETS */
	{0x5402, I_PTR, I_WAITS, 36}, /* TCSETS */
	{0x5403, I_PTR, I_WAITS, 36}, /* TCSETSW */
	{0x5404, I_PTR, I_WAITS, 36}, /* TCSETSF */
	{0x5405, I_PTR, 0, 18}, /* TCGETA */
	{0x5406, I_PTR, I_WAITS, 18},
	{0x5407, I_PTR, I_WAITS, 18},
	{0x5408, I_PTR, I_WAITS, 18}, /* TCSETAF */
	{0x5409, I_NONE, I_WAITS, 0}, /* TCSBRK */
	{0x540a, I_NONE, I_WAITS, 0}, /* TCXONC */
	{0x540b, I_NONE, I_WAITS, 0}, /* TCFLSH */
	{0x540c, I_NONE, 0, 0}, /* TIOCEXCL */
	{0x540d, I_NONE, 0, 0}, /* TIOCNXCL */
	{0x540e, I_NONE, I_WAITS, 0}, /* TIOCSCTTY */
	{0x540f, I_PTR, 0, 4}, /* TIOCGPGRP */
	{0x5410, I_PTR, I_WAITS, 4}, /* TIOCSPGRP: SIGTTOU goes to the caller */
	{0x5411, I_PTR, 0, 4}, /* TIOCOUTQ, SIOCOUTQ */
	{0x5413, I_PTR, 0, 8}, /* TIOCGWINSZ */
	{0x5414, I_PTR, I_WAITS, 8}, /* TIOCSWINSZ */
	{0x5415, I_PTR, 0, 4}, /* TIOCMGET */
	{0x5416, I_PTR, I_WAITS, 4},
	{0x5417, I_PTR, I_WAITS, 4},
	{0x5418, I_PTR, I_WAITS, 4}, /* TIOCMSET */
	{0x5419, I_PTR, 0, 4}, /* TIOCGSOFTCAR */
	{0x541a, I_PTR, 0, 4},
	{0x541b, I_PTR, 0, 4}, /* FIONREAD */
	{0x5420, I_PTR, 0, 4}, /* TIOCPKT */
	{0x5421, I_PTR, 0, 4}, /* FIONBIO */
	{0x5422, I_NONE, I_WAITS, 0}, /* TIOCNOTTY */
	{0x5424, I_PTR, 0, 4}, /* TIOCGETD */
	{0x5425, I_NONE, I_WAITS, 0}, /* TCSBRKP */
	{0x5427, I_NONE, I_WAITS, 0}, /* TIOCSBRK */
	{0x5428, I_NONE, I_WAITS, 0}, /* TIOCCBRK */
	{0x5429, I_PTR, 0, 4}, /* TIOCGSID */
	{0x802c542a, I_PTR, 0, 44}, /* TCGETS2 */
	{0x402c542b, I_PTR, I_WAITS, 44},
	{0x402c542c, I_PTR, I_WAITS, 44},
	{0x402c542d, I_PTR, I_WAITS, 44}, /* TCSETSF2 */
	{0x80045430, I_PTR, 0, 4}, /* TIOCGPTN */
	{0x40045431, I_PTR, 0, 4}, /* TIOCSPTLCK */
	{0x80045432, I_PTR, 0, 4}, /* TIOCGDEV */
	{0x80045438, I_PTR, 0, 4}, /* TIOCGPKT */
	{0x80045439, I_PTR, 0, 4}, /* TIOCGPTLCK */
	{0x5441, I_NEWFD_TTY, I_WAITS, 0}, /* TIOCGPTPEER */
	/* any descriptor */
	{0x5450, I_NONE, 0, 0}, /* FIONCLEX */
	{0x5451, I_NONE, 0, 0}, /* FIOCLEX */
	{0x5452, I_PTR, 0, 4}, /* FIOASYNC */
	{0x5460, I_PTR, 0, 8}, /* FIOQSIZE */
	/* files */
	{1, I_PTR, 0, 4}, /* FIBMAP */
	{2, I_PTR, 0, 4}, /* FIGETBSZ */
	{0x80086601, I_PTR, 0, 4}, /* FS_IOC_GETFLAGS: the kernel moves an int */
	{0x40086602, I_PTR, 0, 4}, /* FS_IOC_SETFLAGS */
	{0x80087601, I_PTR, 0, 4}, /* FS_IOC_GETVERSION */
	{0x801c581f, I_PTR, 0, 28}, /* FS_IOC_FSGETXATTR */
	{0x401c5820, I_PTR, 0, 28}, /* FS_IOC_FSSETXATTR */
	{0x81009431, I_PTR, 0, 256}, /* FS_IOC_GETFSLABEL */
	{0x80111500, I_PTR, 0, 17}, /* FS_IOC_GETFSUUID */
	{0xc020660b, I_FIEMAP, I_WAITS, 32}, /* FS_IOC_FIEMAP */
	{0x40049409, I_FD, I_WAITS, 0}, /* FICLONE */
	{0x4020940d, I_RANGE, I_WAITS, 32}, /* FICLONERANGE */
	{0x1260, I_PTR, 0, 8}, /* BLKGETSIZE */
	{0x1268, I_PTR, 0, 4}, /* BLKSSZGET */
	{0x80081272, I_PTR, 0, 8}, /* BLKGETSIZE64 */
	{0x127b, I_PTR, 0, 4}, /* BLKPBSZGET */
	{0x125e, I_PTR, 0, 4}, /* BLKROGET */
	/* namespaces */
	{0xb701, I_NEWFD_NS, 0, 0}, /* NS_GET_USERNS */
	{0xb702, I_NEWFD_NS, 0, 0}, /* NS_GET_PARENT */
	{0xb703, I_NONE, 0, 0}, /* NS_GET_NSTYPE */
	{0xb704, I_PTR, 0, 4}, /* NS_GET_OWNER_UID */
	/* random */
	{0x80045200, I_PTR, 0, 4}, /* RNDGETENTCNT */
	/* sockets */
	{0x8901, I_OWNER, 0, 4}, /* FIOSETOWN */
	{0x8902, I_OWNER, 0, 4}, /* SIOCSPGRP */
	{0x8903, I_PTR, 0, 4}, /* FIOGETOWN */
	{0x8904, I_PTR, 0, 4}, /* SIOCGPGRP */
	{0x8905, I_PTR, 0, 4}, /* SIOCATMARK */
	{0x8906, I_PTR, 0, 16}, /* SIOCGSTAMP */
	{0x8907, I_PTR, 0, 16}, /* SIOCGSTAMPNS */
	{0x890b, I_ROUTE, I_WAITS, 120}, /* SIOCADDRT: what changes something needs CAP_NET_ADMIN */
	{0x890c, I_ROUTE, I_WAITS, 120}, /* SIOCDELRT */
	{0x8910, I_PTR, 0, 40}, /* SIOCGIFNAME */
	{0x8912, I_IFCONF, 0, 16}, /* SIOCGIFCONF */
	{0x8913, I_PTR, 0, 40}, /* SIOCGIFFLAGS */
	{0x8914, I_PTR, I_WAITS, 40}, /* SIOCSIFFLAGS */
	{0x8915, I_PTR, 0, 40}, /* SIOCGIFADDR */
	{0x8916, I_PTR, I_WAITS, 40}, /* SIOCSIFADDR */
	{0x8917, I_PTR, 0, 40}, /* SIOCGIFDSTADDR */
	{0x8918, I_PTR, I_WAITS, 40}, /* SIOCSIFDSTADDR */
	{0x8919, I_PTR, 0, 40}, /* SIOCGIFBRDADDR */
	{0x891a, I_PTR, I_WAITS, 40}, /* SIOCSIFBRDADDR */
	{0x891b, I_PTR, 0, 40}, /* SIOCGIFNETMASK */
	{0x891c, I_PTR, I_WAITS, 40}, /* SIOCSIFNETMASK */
	{0x891d, I_PTR, 0, 40}, /* SIOCGIFMETRIC */
	{0x8921, I_PTR, 0, 40}, /* SIOCGIFMTU */
	{0x8922, I_PTR, I_WAITS, 40}, /* SIOCSIFMTU */
	{0x8923, I_PTR, I_WAITS, 40}, /* SIOCSIFNAME */
	{0x8924, I_PTR, I_WAITS, 40}, /* SIOCSIFHWADDR */
	{0x8927, I_PTR, 0, 40}, /* SIOCGIFHWADDR */
	{0x8931, I_PTR, I_WAITS, 40}, /* SIOCADDMULTI */
	{0x8932, I_PTR, I_WAITS, 40}, /* SIOCDELMULTI */
	{0x8933, I_PTR, 0, 40}, /* SIOCGIFINDEX */
	{0x8942, I_PTR, 0, 40}, /* SIOCGIFTXQLEN */
	{0x8943, I_PTR, I_WAITS, 40}, /* SIOCSIFTXQLEN */
	{0x8946, I_ETHTOOL, I_WAITS, 40}, /* SIOCETHTOOL */
	{0x8953, I_PTR, I_WAITS, 68}, /* SIOCDARP */
	{0x8954, I_PTR, 0, 68}, /* SIOCGARP */
	{0x8955, I_PTR, I_WAITS, 68}, /* SIOCSARP */
	{0x8970, I_PTR, 0, 40}, /* SIOCGIFMAP */
	/* timerfd, pidfd: none; epoll: none */
	{0x40085400, I_PTR, 0, 8}, /* TFD_IOC_SET_TICKS */
};

static const struct ioctl_row *find(u32 request)
{
	for (u32 i = 0; i < ARRAY_LEN(rows); i++)
		if (rows[i].request == request)
			return &rows[i];
	return NULL;
}

static long set_owner(struct thread *t, const u64 *a)
{
	i32 who;
	if (copy_from_guest(&who, gptr_of(a[2]), sizeof who))
		return -EFAULT;
	return tid_hidden(t, who) ? -ESRCH : host_call(__NR_ioctl, a[0], a[1], &who);
}

struct ifconf_k {
	i32 len, pad;
	u64 buf;
};

static long get_ifconf(u64 fd, u64 va)
{
	struct ifconf_k conf;
	if (copy_from_guest(&conf, gptr_of(va), sizeof conf))
		return -EFAULT;
	if (conf.buf && (conf.len < 0 || !guest_ok(conf.buf, (u64)conf.len)))
		return conf.len < 0 ? -EINVAL : -EFAULT;
	long r = host_call(__NR_ioctl, fd, 0x8912, &conf);
	return r ? r : copy_to_guest(gptr_of(va), &conf.len, 4);
}

/* The extents lie behind the header, as many as it says. */
static long get_fiemap(struct thread *t, struct call *c, const u64 *a)
{
	u8 head[32];
	u32 count;
	if (copy_from_guest(head, gptr_of(a[2]), sizeof head))
		return -EFAULT;
	memcpy(&count, head + 24, 4);
	u64 len = 32 + count * 56ul;
	if (count > 4096)
		return -ENOTTY; /* more than anybody asks for; programs then fall back to SEEK_DATA */
	if (!guest_ok(a[2], len))
		return -EFAULT;
	u8 *buf = marshal_alloc(t, len);
	if (!buf)
		return -ENOMEM;
	if (copy_from_guest(buf, gptr_of(a[2]), len))
		return -EFAULT;
	memcpy(buf + 24, &count, 4);
	long r = call_host(t, c, __NR_ioctl, a[0], a[1], (u64)buf, 0, 0, 0);
	if (!r && copy_to_guest(gptr_of(a[2]), buf, len))
		return -EFAULT;
	return r;
}

static long clone_range(struct thread *t, struct call *c, const u64 *a)
{
	u64 range[4]; /* descriptor, offset, length, offset */
	if (copy_from_guest(range, gptr_of(a[2]), sizeof range))
		return -EFAULT;
	if (!marshal_hold(t, (int)range[0]))
		return -EBADF;
	return call_host(t, c, __NR_ioctl, a[0], a[1], (u64)range, 0, 0, 0);
}

#define NSFS_MAGIC 0x6e736673

static bool makes_descriptors(int fd, u8 kind)
{
	struct stat_k st;
	struct statfs_k fs;
	if (kind == I_NEWFD_NS)
		return !host_call(__NR_fstatfs, fd, &fs) && fs.type == NSFS_MAGIC;
	return !host_call(__NR_fstat, fd, &st) && (st.mode & S_IFMT) == S_IFCHR && dev_major(st.rdev) == 5 && dev_minor(st.rdev) == 2; /* ptmx */
}

/* A file system in user space lets its server choose what any request answers: the number of some file of the monitor's, for instance. */
static long make_descriptor(struct thread *t, struct call *c, u8 kind, const u64 *a)
{
	int own = fd_own(t->proc, (int)a[0]);
	if (own < 0)
		return own;
	long r = makes_descriptors(own, kind) ? call_host(t, c, __NR_ioctl, (u64)own, (u32)a[1], a[2], 0, 0, 0) : -ENOTTY;
	fd_own_close(own, (int)a[0]);
	return r < 0 ? r : fd_publish(t, (int)r);
}

long h_ioctl(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	u32 request = (u32)a[1];
	const struct ioctl_row *r = find(request);
	if (!r) { /* O_PATH descriptors have no requests at all */
		long flags = host_call(__NR_fcntl, a[0], F_GETFL);
		return flags >= 0 && (u32)flags & O_PATH ? -EBADF : refuse(t, -ENOTTY);
	}
	if (r->size && !guest_ok(a[2], r->size))
		return -EFAULT;
	/* terminals make background processes wait and signal them: the caller has to be the thread itself */
	if (!c->may_block && (r->flags & I_WAITS || fd_class_of(t->proc, (int)a[0]) == FD_TTY))
		return CALL_TO_TRAP;
	switch (r->kind) {
	case I_FD:
		if (!marshal_hold(t, (int)a[2]))
			return -EBADF;
		return call_host(t, c, __NR_ioctl, a[0], request, a[2], 0, 0, 0);
	case I_NEWFD_TTY:
	case I_NEWFD_NS:
		return make_descriptor(t, c, r->kind, a);
	case I_OWNER:
		return set_owner(t, a);
	case I_IFCONF:
		return get_ifconf(a[0], a[2]);
	case I_FIEMAP:
		return get_fiemap(t, c, a);
	case I_RANGE:
		return clone_range(t, c, a);
	case I_ROUTE:
		return ioctl_route(t, c, a);
	case I_ETHTOOL:
		return ioctl_ethtool(t, c, a);
	default:
		return call_host(t, c, __NR_ioctl, a[0], request, a[2], 0, 0, 0);
	}
}
