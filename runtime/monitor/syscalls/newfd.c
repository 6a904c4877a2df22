/* Calls that make descriptors out of nothing: pipes, sockets, event, signal and memory files; openat2. */
#include "../linux_abi.h"
#include "handlers.h"

/* Two new descriptors into guest memory, as the kernel does: nothing stays open when they cannot be written. */
static long give_pair(struct thread *t, u64 where, const int pair[2], enum fd_class class)
{
	int given[2];
	long a = fd_publish_as(t, pair[0], class), b = fd_publish_as(t, pair[1], class);
	long r = a < 0 ? a : b < 0 ? b : 0;
	given[0] = (int)a;
	given[1] = (int)b;
	if (!r)
		r = copy_to_guest(gptr_of(where), given, sizeof given);
	for (int i = 0; r && i < 2; i++)
		if (given[i] >= 0)
			fd_close(t, given[i]);
	return r;
}

static long make_pipe(struct thread *t, u64 where, u32 flags)
{
	int pair[2];
	long r = host_call(__NR_pipe2, pair, flags);
	return r ? r : give_pair(t, where, pair, FD_PIPE);
}

long h_pipe(struct thread *t, struct call *c)
{
	(void)c;
	return make_pipe(t, marshal_of(t)->arg[0], 0);
}

long h_pipe2(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	if (a[1] & ~(u64)(O_CLOEXEC | O_NONBLOCK | 040000u)) /* O_DIRECT; notification pipes belong to keyrings */
		return -EINVAL;
	return make_pipe(t, a[0], (u32)a[1]);
}

#define SOCK_FLAGS 02004000u /* SOCK_CLOEXEC, SOCK_NONBLOCK */
#define SOCK_TYPES 11u
#define FAMILIES 46u

/* 0, or the error that the kernel would give for a family it does not have. */
static long family_offered(struct thread *t, i32 family, u32 type)
{
	if (type & ~(SOCK_FLAGS | 15u) || ((u32)family < FAMILIES && (type & 15u) >= SOCK_TYPES))
		return -EINVAL;
	return family >= 0 && family < 32 && SOCKET_FAMILIES >> family & 1 ? 0 : refuse(t, -EAFNOSUPPORT);
}

long h_socketpair(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	int pair[2];
	long r = family_offered(t, (i32)a[0], (u32)a[1]);
	if (r)
		return r;
	r = host_call(__NR_socketpair, a[0], a[1], a[2], pair);
	return r ? r : give_pair(t, a[3], pair, FD_SOCKET);
}

long h_socket(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	long r = family_offered(t, (i32)a[0], (u32)a[1]);
	if (r)
		return r;
	r = host_call(__NR_socket, a[0], a[1], a[2]);
	return r < 0 ? r : fd_publish_as(t, (int)r, FD_SOCKET);
}

static long make_eventfd(struct thread *t, u64 count, u64 flags)
{
	long r = host_call(__NR_eventfd2, count, flags);
	return r < 0 ? r : fd_publish_as(t, (int)r, FD_EVENT);
}

long h_eventfd(struct thread *t, struct call *c)
{
	(void)c;
	return make_eventfd(t, marshal_of(t)->arg[0], 0);
}

long h_eventfd2(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	return make_eventfd(t, a[0], a[1]);
}

long h_epoll_create(struct thread *t, struct call *c)
{
	(void)c;
	if ((i32)marshal_of(t)->arg[0] <= 0)
		return -EINVAL;
	long r = host_call(__NR_epoll_create1, 0);
	return r < 0 ? r : fd_publish(t, (int)r);
}

#define MFD_HUGETLB 4u

long h_memfd_create(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	if (a[1] & MFD_HUGETLB) /* pages that do not fit the 4 KiB guest page tables */
		return -ENOSYS;
	long r = host_call(__NR_memfd_create, a[0], a[1]);
	return r < 0 ? r : fd_publish_as(t, (int)r, FD_FILE);
}

static long make_signalfd(struct thread *t, int fd, u64 mask, u64 size, u64 flags)
{
	long r = host_call(__NR_signalfd4, fd, mask, size, flags);
	return r < 0 || r == fd ? r : fd_publish(t, (int)r);
}

long h_signalfd(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	return make_signalfd(t, (int)a[0], a[1], a[2], 0);
}

long h_signalfd4(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	return make_signalfd(t, (int)a[0], a[1], a[2], a[3]);
}

/* --- openat2 ----------------------------------------------------------------------------------------------------- */

/* struct open_how may be longer than we know: then the rest has to be zero, as the kernel demands. */
static long copy_how(u64 va, u64 size, struct open_how_k *how)
{
	u8 raw[PAGE];
	if (size < sizeof *how)
		return -EINVAL;
	if (size > sizeof raw)
		return -E2BIG;
	if (copy_from_guest(raw, gptr_of(va), size))
		return -EFAULT;
	for (u64 i = sizeof *how; i < size; i++)
		if (raw[i])
			return -E2BIG;
	memcpy(how, raw, sizeof *how);
	return 0;
}

/* The program's own rules for the walk met ELOOP. A magic link that they do not forbid by name is EXDEV to the kernel, nearly always: it leads
 * out of what it may not leave, or to another mount. */
static long scoped_error(int dirfd, const char *path, u64 flags, u64 resolve)
{
	static const u64 scopes = RESOLVE_BENEATH | RESOLVE_IN_ROOT;
	if (resolve & (RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS))
		return -ELOOP;
	if (resolve == RESOLVE_CACHED)
		return -EAGAIN; /* asked again without, it is walked */
	struct open_how_k how = {O_PATH | O_CLOEXEC | (flags & O_NOFOLLOW), 0, (resolve & ~(u64)RESOLVE_CACHED) | (resolve & scopes ? 0 : RESOLVE_BENEATH)};
	long fd = host_call(__NR_openat2, dirfd, path, &how, sizeof how);
	if (fd >= 0) /* it is not looked at */
		host_call(__NR_close, fd);
	return fd == -EXDEV ? -EXDEV : -ELOOP;
}

long h_openat2(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	struct open_how_k how;
	if (!c->may_block)
		return CALL_TO_TRAP;
	long r = copy_how(a[2], a[3], &how);
	if (r)
		return r;
	long fd = path_open_how(t, (int)a[0], (const char *)a[1], how.flags, how.mode, how.resolve);
	if (fd == -ELOOP && how.resolve)
		return scoped_error((int)a[0], (const char *)a[1], how.flags, how.resolve);
	return fd < 0 ? fd : fd_publish(t, (int)fd);
}
