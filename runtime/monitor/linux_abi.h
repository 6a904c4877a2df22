/* Kernel constants and structures the handlers use; the C library's headers are not for a freestanding program. */
#ifndef PSB_LINUX_ABI_H
#define PSB_LINUX_ABI_H

#include "host.h"

#define O_ACCMODE 3u
#define O_WRONLY 1u
#define O_RDWR 2u
#define O_CREAT 0100u
#define O_EXCL 0200u
#define O_NOCTTY 0400u
#define O_TRUNC 01000u
#define O_APPEND 02000u
#define O_NONBLOCK 04000u
#define O_LARGEFILE 0100000u
#define O_DIRECTORY 0200000u
#define O_NOFOLLOW 0400000u
#define O_CLOEXEC 02000000u
#define O_PATH 010000000u
#define O_TMPFILE_BIT 020000000u
/* What open() looks at; it ignores the rest, openat2() refuses it. */
#define O_VALID 037777703u

#define AT_FDCWD (-100)
#define AT_SYMLINK_NOFOLLOW 0x100u
#define AT_REMOVEDIR 0x200u
#define AT_EACCESS 0x200u
#define AT_SYMLINK_FOLLOW 0x400u
#define AT_EMPTY_PATH 0x1000u

#define RESOLVE_NO_XDEV 1u
#define RESOLVE_NO_MAGICLINKS 2u
#define RESOLVE_NO_SYMLINKS 4u
#define RESOLVE_BENEATH 8u
#define RESOLVE_IN_ROOT 16u
#define RESOLVE_CACHED 32u

#define S_IFMT 0170000u
#define S_IFSOCK 0140000u
#define S_IFLNK 0120000u
#define S_IFREG 0100000u
#define S_IFBLK 0060000u
#define S_IFDIR 0040000u
#define S_IFCHR 0020000u
#define S_IFIFO 0010000u

#define F_DUPFD 0
#define F_GETFD 1
#define F_SETFD 2
#define F_GETFL 3
#define F_SETFL 4
#define F_DUPFD_CLOEXEC 1030
#define F_SETPIPE_SZ 1031
#define FD_CLOEXEC 1u

/* Address families a guest may have sockets of: UNIX, INET, INET6, NETLINK, PACKET. Others answer as a kernel without them. */
#define SOCKET_FAMILIES (1u << 1 | 1u << 2 | 1u << 10 | 1u << 16 | 1u << 17)

#define PROC_SUPER_MAGIC 0x9fa0
#define PROC_ROOT_INO 1

#define MADV_RANDOM 1
#define MADV_DONTNEED 4
#define MADV_WIPEONFORK 18
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23

#define CLONE_FILES 0x400u
/* Kinds of namespaces that a program may make and enter, where it has CAP_SYS_ADMIN. */
#define CLONE_NEW_EVERY 0x7e020080u /* namespaces of every kind */
#define CLONE_NEWNS 0x20000u
#define CLONE_NEWCGROUP 0x2000000u
#define CLONE_NEWUTS 0x4000000u
#define CLONE_NEWIPC 0x8000000u
#define CLONE_NEWNET 0x40000000u
#define CLONE_NEW_ALLOWED (CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET)
#define ST_NOSYMFOLLOW 0x2000 /* statfs f_flags of a mount whose symbolic links are not followed */
#define RLIMIT_NOFILE 7
#define RLIMIT_STACK 3

struct stat_k {
	u64 dev, ino, nlink;
	u32 mode, uid, gid, pad;
	u64 rdev;
	i64 size, blksize, blocks;
	i64 atime, atime_ns, mtime, mtime_ns, ctime, ctime_ns, unused[3];
};
_Static_assert(sizeof(struct stat_k) == 144, "struct stat");

struct statfs_k {
	i64 type, bsize;
	u64 blocks, bfree, bavail, files, ffree, fsid;
	i64 namelen, frsize, flags, spare[4];
};
_Static_assert(sizeof(struct statfs_k) == 120, "struct statfs");

struct open_how_k {
	u64 flags, mode, resolve;
};

struct timespec_k {
	i64 sec, nsec;
};

static inline u32 dev_major(u64 dev)
{
	return (u32)(dev >> 8 & 0xfff) | (u32)(dev >> 32 & ~0xffful);
}

static inline u32 dev_minor(u64 dev)
{
	return (u32)(dev & 0xff) | (u32)(dev >> 12 & ~0xfful);
}

/* As the kernel packs the two halves in struct stat. */
static inline u64 make_dev(u32 major, u32 minor)
{
	return (u64)(minor & 0xff) | (u64)(major & 0xfff) << 8 | (u64)(minor & ~0xffu) << 12 | (u64)(major & ~0xfffu) << 32;
}

struct statx_k {
	u32 mask, blksize;
	u64 attributes;
	u32 nlink, uid, gid, mode;
	u64 ino, size, blocks, attributes_mask;
	struct timespec_k atime, btime, ctime, mtime; /* the kernel's has 32 bits of nanoseconds and padding */
	u32 rdev_major, rdev_minor, dev_major, dev_minor;
	u64 tail[14];
};
_Static_assert(sizeof(struct statx_k) == 256, "struct statx");

#endif
