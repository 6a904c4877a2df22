/* execve: everything that can fail is done here, in the old program; then the host executes the monitor afresh with
 * the guest's argv and envp, and start.c loads what was opened here. */
#include <elf.h>
#include "linux_abi.h"
#include "peer.h"
#include "proc.h"
#include "seccomp.h"
#include "signal.h"
#include "syscalls/handlers.h"

#define X_OK 1
#define ST_NOEXEC 8
#define SCRIPT_DEPTH 5
#define MAX_ARG_STRINGS 0x7fffffff

/* A regular file this process may execute, on a file system that allows it. */
static long check_executable(int fd)
{
	u64 st[18], fs[15];
	long r = host_call(__NR_fstat, fd, st);
	if (r)
		return r;
	if (((u32)st[3] & S_IFMT) != S_IFREG)
		return -EACCES;
	r = host_call(__NR_faccessat2, fd, "", X_OK, AT_EMPTY_PATH | AT_EACCESS);
	if (r)
		return r;
	r = host_call(__NR_fstatfs, fd, fs);
	return r ? r : fs[10] & ST_NOEXEC ? -EACCES : 0;
}

/* What could not be opened for a reason of its own (a socket, a device) is no program either: as the kernel, which looks first. */
static long other_kind(struct thread *t, int dirfd, const char *path, u64 how, long error)
{
	u64 st[18];
	long fd = *path ? path_open(t, dirfd, path, how | O_PATH, 0) : dirfd, r = error;
	if (fd < 0)
		return error;
	if (!host_call(__NR_fstat, fd, st) && ((u32)st[3] & S_IFMT) != S_IFREG && ((u32)st[3] & S_IFMT) != S_IFLNK)
		r = -EACCES;
	if (*path)
		host_call(__NR_close, fd);
	return r;
}

static long open_executable(struct thread *t, int dirfd, const char *path, u32 flags)
{
	long fd;
	u64 how = O_CLOEXEC | O_NONBLOCK | (flags & AT_SYMLINK_NOFOLLOW ? 0400000u : 0); /* a fifo shall not make us wait */
	if (!*path) {
		if (!(flags & AT_EMPTY_PATH))
			return -ENOENT;
		char link[32];
		format(link, sizeof link, "self/fd/%d", dirfd);
		fd = host_call(__NR_openat, t->proc->proc_fd, link, O_CLOEXEC, 0); /* published: checked by the caller */
	} else {
		fd = path_open(t, dirfd, path, how, 0);
	}
	if (fd < 0 && fd != -ENOENT)
		fd = other_kind(t, dirfd, path, how, fd);
	if (fd < 0)
		return fd;
	long r = check_executable((int)fd);
	if (r) {
		host_call(__NR_close, fd);
		return r;
	}
	return fd_move_high(t->proc, (int)fd, true);
}

/* ELF header and PT_INTERP. */
static long inspect_elf(struct thread *t, struct program *prog)
{
	Elf64_Ehdr eh;
	memcpy(&eh, prog->head, sizeof eh);
	if (memcmp(eh.e_ident, ELFMAG, SELFMAG) || eh.e_ident[EI_CLASS] != ELFCLASS64 || eh.e_machine != EM_X86_64 ||
	    (eh.e_type != ET_EXEC && eh.e_type != ET_DYN) || eh.e_phentsize != sizeof(Elf64_Phdr) || !eh.e_phnum || eh.e_phnum > 128)
		return -ENOEXEC;
	Elf64_Phdr ph;
	bool loadable = false;
	for (u32 i = 0; i < eh.e_phnum; i++) {
		if (host_call(__NR_pread64, prog->exe_fd, &ph, sizeof ph, eh.e_phoff + i * sizeof ph) != sizeof ph)
			return -ENOEXEC;
		loadable |= ph.p_type == PT_LOAD;
		if (ph.p_type != PT_INTERP || prog->interp_fd >= 0)
			continue;
		if (ph.p_filesz < 2 || ph.p_filesz > sizeof prog->interp)
			return -ENOEXEC;
		if (host_call(__NR_pread64, prog->exe_fd, prog->interp, ph.p_filesz, ph.p_offset) != (long)ph.p_filesz || prog->interp[ph.p_filesz - 1])
			return -ENOEXEC;
		long fd = open_executable(t, AT_FDCWD, prog->interp, 0);
		if (fd < 0)
			return fd;
		prog->interp_fd = (int)fd;
		Elf64_Ehdr ih;
		if (host_call(__NR_pread64, fd, &ih, sizeof ih, 0) != sizeof ih)
			return -EIO;
		if (memcmp(ih.e_ident, ELFMAG, SELFMAG) || ih.e_ident[EI_CLASS] != ELFCLASS64 || ih.e_machine != EM_X86_64)
			return -ELIBBAD;
	}
	return loadable ? 0 : -ENOEXEC;
}

static char *keep_string(struct program *prog, const char *s, u64 len)
{
	if (prog->store_used + len + 1 > sizeof prog->store)
		return NULL;
	char *p = prog->store + prog->store_used;
	memcpy(p, s, len);
	p[len] = 0;
	prog->store_used += (u32)len + 1;
	return p;
}

static bool blank(char c)
{
	return c == ' ' || c == '\t';
}

/* "#! interpreter [argument]": pushes them, and the script's path, in front of the arguments. */
static long read_script_line(struct program *prog, const char *script, char **interp)
{
	char *p = prog->head + 2, *end = prog->head + HEAD_SIZE, *nl = p;
	while (nl < end && *nl && *nl != '\n')
		nl++;
	bool whole = nl < end;
	while (p < nl && blank(*p))
		p++;
	char *name = p;
	while (p < nl && !blank(*p))
		p++;
	if (p == name || (!whole && p == nl)) /* empty, or the interpreter's name does not fit */
		return -ENOEXEC;
	char *name_end = p;
	while (p < nl && blank(*p))
		p++;
	char *arg = p, *arg_end = nl;
	while (arg_end > arg && blank(arg_end[-1]))
		arg_end--;
	*interp = keep_string(prog, name, (u64)(name_end - name));
	char *kept_arg = arg_end > arg ? keep_string(prog, arg, (u64)(arg_end - arg)) : NULL;
	char *kept_script = keep_string(prog, script, strlen(script));
	if (!*interp || !kept_script || (arg_end > arg && !kept_arg))
		return -ENOEXEC;
	/* the newest interpreter comes first; the script replaces what was argv[0] at this level */
	u32 add = kept_arg ? 2 : 1;
	if (prog->nprefix + add + 1 > ARRAY_LEN(prog->prefix))
		return -ELOOP;
	if (prog->nprefix)
		prog->prefix[0] = kept_script;
	else
		prog->prefix[prog->nprefix++] = kept_script;
	memmove(prog->prefix + add, prog->prefix, prog->nprefix * sizeof *prog->prefix);
	prog->prefix[0] = *interp;
	if (kept_arg)
		prog->prefix[1] = kept_arg;
	prog->nprefix += add;
	return 0;
}

static void program_close(struct program *prog)
{
	if (prog->exe_fd >= 0)
		host_call(__NR_close, prog->exe_fd);
	if (prog->interp_fd >= 0)
		host_call(__NR_close, prog->interp_fd);
	prog->exe_fd = prog->interp_fd = -1;
}

/* Follows scripts to an ELF and its interpreter. On failure nothing stays open. */
static long resolve(struct thread *t, struct program *prog, int dirfd, const char *path, u32 flags, const char *script_name)
{
	prog->interp_fd = -1;
	long r = open_executable(t, dirfd, path, flags);
	for (int depth = 0;; depth++) {
		if (r < 0)
			return r;
		prog->exe_fd = (int)r;
		memset(prog->head, 0, HEAD_SIZE);
		r = host_call(__NR_pread64, prog->exe_fd, prog->head, HEAD_SIZE, 0);
		if (r < 0)
			break;
		if (prog->head[0] != '#' || prog->head[1] != '!') {
			r = inspect_elf(t, prog);
			break;
		}
		char *interp;
		r = depth == SCRIPT_DEPTH ? -ELOOP : read_script_line(prog, script_name, &interp);
		if (r)
			break;
		program_close(prog);
		script_name = interp;
		r = open_executable(t, AT_FDCWD, interp, 0);
	}
	if (r) {
		program_close(prog);
		return r;
	}
	char link[32];
	format(link, sizeof link, "self/fd/%d", prog->exe_fd);
	long n = host_call(__NR_readlinkat, t->proc->proc_fd, link, prog->path, sizeof prog->path - 1);
	prog->path[n > 0 ? n : 0] = 0;
	return 0;
}

long exec_first(struct thread *t, struct program *prog, const char *path, u64 *argc, char ***argv)
{
	long r = resolve(t, prog, AT_FDCWD, path, 0, path);
	if (r || !prog->nprefix)
		return r;
	u64 rest = *argc ? *argc - 1 : 0, n = prog->nprefix + rest;
	char **v = host_alloc((n + 1) * sizeof *v);
	if (!v)
		return -ENOMEM;
	memcpy(v, prog->prefix, prog->nprefix * sizeof *v);
	memcpy(v + prog->nprefix, *argv + (*argc ? 1 : 0), rest * sizeof *v);
	*argv = v;
	*argc = n;
	return 0;
}

/* Copies a guest pointer vector behind `prefix` entries; skips the first `skip` pointers. The pointers are checked here, on the
 * copy; the strings stay where they are, the host reads them from there. */
static long copy_vector(gptr vec, char **prefix, u32 nprefix, u32 skip, char ***out, u64 *out_len)
{
	u64 n = 0, p = 1;
	while (vec.va && n < MAX_ARG_STRINGS) {
		long r = copy_from_guest(&p, gptr_of(vec.va + n * 8), 8);
		if (r)
			return r;
		if (!p)
			break;
		n++;
	}
	if (n > (6ul << 20))
		return -E2BIG;
	u64 len = (nprefix + n + 2) * sizeof(char *);
	char **v = host_alloc(len);
	if (!v)
		return -ENOMEM;
	*out_len = len;
	*out = v;
	memcpy(v, prefix, nprefix * sizeof *v);
	char **to = v + nprefix;
	if (n && copy_from_guest(to, vec, n * 8)) {
		host_free(v, len);
		return -EFAULT;
	}
	for (u64 i = 0; i < n; i++)
		if ((u64)to[i] >= PSB_GUEST_LIMIT || !to[i]) {
			host_free(v, len);
			return -EFAULT;
		}
	to[n] = NULL;
	if (skip && n) {
		memmove(to, to + 1, n * sizeof *to);
	} else if (!n && !nprefix && skip == 0 && prefix) {
		to[0] = (char *)""; /* Linux gives a program at least an empty argv[0] */
		to[1] = NULL;
	}
	return 0;
}

#define AF_UNIX 1
#define SOCK_DGRAM 2
#define SOCK_CLOEXEC O_CLOEXEC

/* Sends the record into a socket whose other end then stands at the number the next monitor looks at. */
static long leave_record(struct proc *p, struct iovec_k *iov, u32 n, u64 size)
{
	int pair[2];
	long r = host_call(__NR_socketpair, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair);
	if (r)
		return r;
	r = host_call(__NR_writev, pair[0], iov, n);
	if (r >= 0)
		r = r == (long)size ? host_call(__NR_dup3, pair[1], p->vault_fd + 1, 0) : -ENOSPC;
	host_call(__NR_close, pair[0]);
	host_call(__NR_close, pair[1]);
	return r < 0 ? r : 0;
}

static long write_start_record(struct thread *t, const struct program *prog, const char *execfn)
{
	struct proc *p = t->proc;
	u32 nfds = fd_map_size(p);
	u64 *fds = host_alloc(FD_NUMBERS / 8);
	if (!fds)
		return -ENOMEM;
	fd_map(p, fds, nfds);
	u64 filters_len = seccomp_size(t);
	u8 *filters = filters_len ? host_alloc(filters_len) : NULL;
	if (filters_len && !filters) {
		host_free(fds, FD_NUMBERS / 8);
		return -ENOMEM;
	}
	seccomp_save(t, filters);
	u64 path_len = strlen(prog->path) + 1, fn_len = strlen(execfn) + 1;
	struct psb_start s = {.magic = PSB_START_MAGIC, .version = PSB_ABI_VERSION, .dispatch = p->dispatch, .trace = p->trace_mode, .pin = p->pin,
			      .is_exec = 1, .exe_fd = prog->exe_fd, .interp_fd = prog->interp_fd, .stack_limit = p->stack_limit, .nfds = nfds,
			      .nofile_soft = p->nofile[0], .nofile_hard = p->nofile[1], .no_new_privs = p->no_new_privs, .ignored = signals_ignored(p), .facts_off = sizeof s, .exec_tsc = rdtsc()};
	const struct host_facts *facts = facts_collect(p, &s.facts_len);
	s.fds_off = s.facts_off + (u32)ROUND_UP(s.facts_len, 8);
	s.filters_off = s.fds_off + nfds / 8;
	s.filters_len = (u32)filters_len;
	s.path_off = s.filters_off + s.filters_len;
	s.execfn_off = s.path_off + (u32)path_len;
	s.size = s.execfn_off + (u32)fn_len;
	trace_exec_save(&p->tracer, &s);
	struct iovec_k iov[] = {{(u64)&s, sizeof s}, {(u64)facts, ROUND_UP(s.facts_len, 8)}, {(u64)fds, nfds / 8}, {(u64)filters, filters_len},
				{(u64)prog->path, path_len}, {(u64)execfn, fn_len}};
	long r = s.size > START_MAX ? -E2BIG : leave_record(p, iov, ARRAY_LEN(iov), s.size);
	host_free(filters, filters_len);
	host_free(fds, FD_NUMBERS / 8);
	return r;
}

void exec_to_die(struct thread *t, int signo)
{
	struct proc *p = t->proc;
	struct psb_start s = {.magic = PSB_START_MAGIC, .version = PSB_ABI_VERSION, .is_exec = 1, .size = sizeof s + 8, .end_signal = (u32)signo};
	u64 nothing = 0;
	s.path_off = s.execfn_off = sizeof s;
	struct iovec_k iov[2] = {{(u64)&s, sizeof s}, {(u64)&nothing, sizeof nothing}};
	struct vault v;
	char *none[] = {(char *)"", NULL};
	if (fd_unshare(t) || leave_record(p, iov, ARRAY_LEN(iov), s.size) || vault_open(p->vault_fd, &v))
		return;
	host_call(__NR_dup3, v.fd[PSB_FD_MONITOR], p->vault_fd - 1, 0);
	host_call(__NR_fcntl, p->vault_fd, F_SETFD, 0);
	host_call(__NR_execveat, p->vault_fd - 1, "", none, none + 1, AT_EMPTY_PATH);
}

static long exec_now(struct thread *t, struct program *prog, const char *execfn, char **argv, char **envp)
{
	struct proc *p = t->proc;
	struct vault v;
	long r = fd_unshare(t);
	if (r)
		return r;
	/* For ever, if all goes well: what the record says of each number is true of the table that the next program gets. */
	struct lock *table = fd_lock(p);
	lock_acquire(table);
	r = write_start_record(t, prog, execfn);
	if (!r)
		r = vault_open(p->vault_fd, &v);
	if (!r) {
		r = host_call(__NR_dup3, v.fd[PSB_FD_MONITOR], p->vault_fd - 1, 0);
		vault_close(&v, 0);
	}
	if (r >= 0) {
		host_call(__NR_fcntl, p->vault_fd, F_SETFD, 0);
		host_call(__NR_fcntl, prog->exe_fd, F_SETFD, 0);
		if (prog->interp_fd >= 0)
			host_call(__NR_fcntl, prog->interp_fd, F_SETFD, 0);
		peer_close(p);
		r = signal_exec(t, (u64)(p->vault_fd - 1), (u64) "", (u64)argv, (u64)envp, AT_EMPTY_PATH);
		peer_open(p);
		host_call(__NR_fcntl, p->vault_fd, F_SETFD, 1);
	}
	fd_keep_neighbours(p);
	lock_release(table);
	return r;
}

static long do_exec(struct thread *t, int dirfd, const char *path, u32 flags, gptr gargv, gptr genvp)
{
	struct proc *p = t->proc;
	struct program *prog = host_alloc(sizeof *prog);
	if (!prog)
		return -ENOMEM;
	prog->exe_fd = prog->interp_fd = -1;
	char *name = prog->name;
	bool by_path = dirfd == AT_FDCWD || path[0] == '/';
	if (by_path)
		format(name, sizeof prog->name, "%s", path);
	else
		format(name, sizeof prog->name, *path ? "/dev/fd/%d/%s" : "/dev/fd/%d", dirfd, path);
	char **argv = NULL, **envp = NULL;
	u64 alen = 0, elen = 0;
	lock_acquire(&p->exec_lock);
	long r = resolve(t, prog, dirfd, path, flags, name);
	if (!r && prog->nprefix && !by_path && host_call(__NR_fcntl, dirfd, F_GETFD) == 1)
		r = -ENOENT; /* the interpreter could not open the script any more */
	if (!r)
		r = copy_vector(gargv, prog->prefix, prog->nprefix, prog->nprefix != 0, &argv, &alen);
	if (!r)
		r = copy_vector(genvp, NULL, 0, 0, &envp, &elen);
	if (!r)
		r = exec_now(t, prog, name, argv, envp);
	lock_release(&p->exec_lock);
	if (r)
		program_close(prog);
	host_free(argv, alen);
	host_free(envp, elen);
	host_free(prog, sizeof *prog);
	return r;
}

long h_execve(struct thread *t, struct call *c)
{
	/* the copy that policy and trace have seen */
	return do_exec(t, AT_FDCWD, (const char *)marshal_of(t)->arg[0], 0, gptr_of(c->arg[1]), gptr_of(c->arg[2]));
}

long h_execveat(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg; /* a directory that is not published has become -1, one that is is held */
	const char *path = (const char *)a[1];
	int dirfd = (int)a[0];
	u32 flags = (u32)c->arg[4];
	if (flags & ~(u32)(AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW))
		return -EINVAL;
	if (dirfd == -1 && path[0] != '/')
		return -EBADF;
	return do_exec(t, dirfd, path, flags, gptr_of(c->arg[2]), gptr_of(c->arg[3]));
}
