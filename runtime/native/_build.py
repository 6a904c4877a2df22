# ruff: noqa: E101, E501 -- the C text follows the style of the C files
"""Builds `pysandbox.runtime.native._host`: host calls that Python's standard library does not offer.

cffi's API mode is used because its module imports in well under a millisecond (ctypes needs three) and the C compiler
checks every constant and signature against the kernel headers.

`python _build.py --source FILE` writes the C source (for the build system); `--in-place` compiles next to this file.
"""

from __future__ import annotations

import os
import sys

from cffi import FFI

CDEF = """
/* Each returns the call's result or a negative errno. */
long psb_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data);
long psb_umount2(const char *target, int flags);
long psb_pivot_root(const char *new_root, const char *put_old);
long psb_unshare(int flags);
long psb_setns(int fd, int nstype);
long psb_pidfd_getfd(int pidfd, int number);
long psb_openat2(int dirfd, const char *path, unsigned long long flags, unsigned long long mode, unsigned long long resolve);
long psb_open_tree(int dirfd, const char *path, unsigned int flags);
long psb_move_mount(int from_dirfd, const char *from, int to_dirfd, const char *to, unsigned int flags);
long psb_fsopen(const char *type, unsigned int flags);
long psb_fsconfig(int fd, unsigned int cmd, const char *key, const char *value, int aux);
long psb_fsmount(int fd, unsigned int flags, unsigned int attr);
long psb_mount_setattr(int dirfd, const char *path, unsigned int flags, unsigned long long set, unsigned long long clear,
                       unsigned long long propagation, int userns_fd);
long psb_prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
long psb_capset(unsigned long long effective, unsigned long long permitted, unsigned long long inheritable);
long psb_capget(unsigned long long out[3]);
long psb_join_session_keyring(const char *name);
long psb_setdomainname(const char *name, unsigned long len);
long psb_close_range(unsigned int first, unsigned int last, unsigned int flags);
long psb_personality(unsigned long persona);
long psb_signalfd(unsigned long long mask);
long psb_statfs_type(int fd);
long psb_ioprio_set(int ioclass, int priority);
long psb_sched_setattr(unsigned int policy, unsigned long long flags, int nice, unsigned int priority,
                       unsigned long long runtime, unsigned long long deadline, unsigned long long period);
long psb_device_filter(int cgroup_fd, const void *insns, unsigned int count);
long psb_fork_sibling(void);
long psb_all_cpus(void);
unsigned long long psb_rdtsc(void);
"""

SOURCE = r"""
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Own layouts of extensible kernel structures: older libc headers lack them, newer ones define them in two places. */
struct psb_open_how { uint64_t flags, mode, resolve; };
struct psb_mount_attr { uint64_t attr_set, attr_clr, propagation, userns_fd; };
struct psb_sched_attr {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
};

#define RESULT(expr) do { long r_ = (expr); return r_ < 0 ? -(long)errno : r_; } while (0)

static long psb_mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)
{ RESULT(mount(source, target, type, flags, data)); }
static long psb_umount2(const char *target, int flags) { RESULT(umount2(target, flags)); }
static long psb_pivot_root(const char *new_root, const char *put_old) { RESULT(syscall(SYS_pivot_root, new_root, put_old)); }
static long psb_unshare(int flags) { RESULT(unshare(flags)); }
static long psb_setns(int fd, int nstype) { RESULT(setns(fd, nstype)); }
static long psb_pidfd_getfd(int pidfd, int number) { RESULT(syscall(438, pidfd, number, 0)); }
static long psb_openat2(int dirfd, const char *path, unsigned long long flags, unsigned long long mode, unsigned long long resolve)
{
	struct psb_open_how how = {flags, mode, resolve};
	RESULT(syscall(437 /* openat2 */, dirfd, path, &how, sizeof how));
}
static long psb_open_tree(int dirfd, const char *path, unsigned int flags) { RESULT(syscall(428, dirfd, path, flags)); }
static long psb_move_mount(int from_dirfd, const char *from, int to_dirfd, const char *to, unsigned int flags)
{ RESULT(syscall(429, from_dirfd, from, to_dirfd, to, flags)); }
static long psb_fsopen(const char *type, unsigned int flags) { RESULT(syscall(430, type, flags)); }
static long psb_fsconfig(int fd, unsigned int cmd, const char *key, const char *value, int aux)
{ RESULT(syscall(431, fd, cmd, key, value, aux)); }
static long psb_fsmount(int fd, unsigned int flags, unsigned int attr) { RESULT(syscall(432, fd, flags, attr)); }
static long psb_mount_setattr(int dirfd, const char *path, unsigned int flags, unsigned long long set, unsigned long long clear,
			      unsigned long long propagation, int userns_fd)
{
	struct psb_mount_attr attr = {set, clear, propagation, userns_fd < 0 ? 0 : (uint64_t)userns_fd};
	RESULT(syscall(442, dirfd, path, flags, &attr, sizeof attr));
}
static long psb_prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)
{ RESULT(prctl(option, a, b, c, d)); }
static long psb_capset(unsigned long long effective, unsigned long long permitted, unsigned long long inheritable)
{
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2];
	for (int i = 0; i < 2; i++) {
		data[i].effective = (uint32_t)(effective >> 32 * i);
		data[i].permitted = (uint32_t)(permitted >> 32 * i);
		data[i].inheritable = (uint32_t)(inheritable >> 32 * i);
	}
	RESULT(syscall(SYS_capset, &head, data));
}
static long psb_capget(unsigned long long out[3])
{
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2];
	if (syscall(SYS_capget, &head, data) < 0)
		return -(long)errno;
	out[0] = data[0].effective | (unsigned long long)data[1].effective << 32;
	out[1] = data[0].permitted | (unsigned long long)data[1].permitted << 32;
	out[2] = data[0].inheritable | (unsigned long long)data[1].inheritable << 32;
	return 0;
}
static long psb_join_session_keyring(const char *name) { RESULT(syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name)); }
static long psb_setdomainname(const char *name, unsigned long len) { RESULT(setdomainname(name, len)); }
static long psb_close_range(unsigned int first, unsigned int last, unsigned int flags) { RESULT(syscall(436, first, last, flags)); }
static long psb_personality(unsigned long persona) { RESULT(personality(persona)); }
static long psb_signalfd(unsigned long long mask)
{
	sigset_t set;
	sigemptyset(&set);
	for (int signo = 1; signo <= 64; signo++)
		if (mask >> (signo - 1) & 1)
			sigaddset(&set, signo);
	RESULT(signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
}
static long psb_statfs_type(int fd)
{
	struct statfs st;
	if (fstatfs(fd, &st) < 0)
		return -(long)errno;
	return (long)st.f_type;
}
static long psb_all_cpus(void)
{
	uint64_t mask[128]; /* 8192 CPUs, the most a kernel is built for; it takes as many as it knows */
	memset(mask, 0xff, sizeof mask);
	RESULT(syscall(SYS_sched_setaffinity, 0, sizeof mask, mask));
}
static long psb_ioprio_set(int ioclass, int priority) { RESULT(syscall(SYS_ioprio_set, 1 /* process */, 0, ioclass << 13 | priority)); }
static long psb_sched_setattr(unsigned int policy, unsigned long long flags, int nice, unsigned int priority,
			      unsigned long long runtime, unsigned long long deadline, unsigned long long period)
{
	struct psb_sched_attr attr = {sizeof attr, policy, flags, nice, priority, runtime, deadline, period};
	RESULT(syscall(SYS_sched_setattr, 0, &attr, 0));
}
/* Loads a BPF_PROG_TYPE_CGROUP_DEVICE program (8-byte instructions), attaches it to the cgroup (v2) and detaches those
   that were attached there before: each one can only take away, so the old rules would stay in force. The new one comes
   first, so that at no moment there is none. */
static long psb_device_filter(int cgroup_fd, const void *insns, unsigned int count)
{
	union bpf_attr attr;
	uint32_t old[64];
	unsigned int n_old;
	long prog, ret;
	memset(&attr, 0, sizeof attr);
	attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
	attr.insns = (uint64_t)(uintptr_t)insns;
	attr.insn_cnt = count;
	attr.license = (uint64_t)(uintptr_t)"Apache-2.0";
	prog = syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr);
	if (prog < 0)
		return -(long)errno;
	memset(&attr, 0, sizeof attr);
	attr.query.target_fd = (uint32_t)cgroup_fd;
	attr.query.attach_type = BPF_CGROUP_DEVICE;
	attr.query.prog_ids = (uint64_t)(uintptr_t)old;
	attr.query.prog_cnt = 64; /* the most a cgroup takes */
	n_old = syscall(SYS_bpf, BPF_PROG_QUERY, &attr, sizeof attr) < 0 ? 0 : attr.query.prog_cnt;
	memset(&attr, 0, sizeof attr);
	attr.target_fd = (uint32_t)cgroup_fd;
	attr.attach_bpf_fd = (uint32_t)prog;
	attr.attach_type = BPF_CGROUP_DEVICE;
	attr.attach_flags = BPF_F_ALLOW_MULTI;
	ret = syscall(SYS_bpf, BPF_PROG_ATTACH, &attr, sizeof attr);
	ret = ret < 0 ? -(long)errno : 0;
	for (unsigned int i = 0; ret == 0 && i < n_old; i++) {
		long fd;
		memset(&attr, 0, sizeof attr);
		attr.prog_id = old[i];
		fd = syscall(SYS_bpf, BPF_PROG_GET_FD_BY_ID, &attr, sizeof attr);
		if (fd < 0)
			continue; /* gone, or a security module keeps it: then it goes on restricting */
		memset(&attr, 0, sizeof attr);
		attr.target_fd = (uint32_t)cgroup_fd;
		attr.attach_bpf_fd = (uint32_t)fd;
		attr.attach_type = BPF_CGROUP_DEVICE;
		if (syscall(SYS_bpf, BPF_PROG_DETACH, &attr, sizeof attr) < 0 && errno != ENOENT)
			ret = -(long)errno;
		close((int)fd);
	}
	close((int)prog);
	return ret;
}
/* As fork(2), but the child's parent is the caller's. Only for a process with one thread: nothing is done for others. */
static long psb_fork_sibling(void) { RESULT(syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0)); }
static unsigned long long psb_rdtsc(void) { return __builtin_ia32_rdtsc(); }
"""


def builder() -> FFI:
    ffi = FFI()
    ffi.cdef(CDEF)
    ffi.set_source(
        "pysandbox.runtime.native._host",
        SOURCE,
        extra_compile_args=["-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-Wno-cast-function-type"],
    )
    return ffi


def main(argv: list[str]) -> int:
    if len(argv) == 2 and argv[0] == "--source":
        builder().emit_c_code(argv[1])
        return 0
    if argv == ["--in-place"]:
        import shutil
        import tempfile

        here = os.path.dirname(os.path.abspath(__file__))
        with tempfile.TemporaryDirectory() as tmp:
            built = builder().compile(tmpdir=tmp, verbose=False)
            shutil.move(built, os.path.join(here, os.path.basename(built)))
        return 0
    print("usage: _build.py --source FILE | --in-place", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
