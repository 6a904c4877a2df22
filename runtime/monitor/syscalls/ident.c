/* Who and what the process is: identifiers, prctl, personality, System V semaphores' odd call. */
#include "../linux_abi.h"
#include "../peer.h"
#include "handlers.h"
#include "../mm.h"
#include "../seccomp.h"

long h_getpid(struct thread *t, struct call *c)
{
	(void)c;
	return t->proc->pid;
}

long h_gettid(struct thread *t, struct call *c)
{
	(void)c;
	return t->tid;
}

/* --- prctl ------------------------------------------------------------------------------------------------------------ */

enum prctl_kind { PR_NUM, PR_IN16, PR_OUT16, PR_OUT4, PR_OUT8 };
struct prctl_row {
	u16 option;
	u8 kind;     /* what the second argument is */
};

/* Passed on; everything else is EINVAL or handled below. */
static const struct prctl_row prctl_rows[] = {
	{1, PR_NUM},   /* SET_PDEATHSIG */
	{2, PR_OUT4},  /* GET_PDEATHSIG */
	{7, PR_NUM},   /* GET_KEEPCAPS */
	{13, PR_NUM},  /* GET_TIMING */
	{14, PR_NUM},  /* SET_TIMING */
	{15, PR_IN16}, /* SET_NAME: at most 16 bytes */
	{16, PR_OUT16}, /* GET_NAME */
	{23, PR_NUM},  /* CAPBSET_READ */
	{27, PR_NUM},  /* GET_SECUREBITS */
	{29, PR_NUM},  /* SET_TIMERSLACK */
	{30, PR_NUM},  /* GET_TIMERSLACK */
	{33, PR_NUM},  /* MCE_KILL */
	{34, PR_NUM},  /* MCE_KILL_GET */
	{36, PR_NUM},  /* SET_CHILD_SUBREAPER */
	{37, PR_OUT4}, /* GET_CHILD_SUBREAPER */
	{41, PR_NUM},  /* SET_THP_DISABLE */
	{42, PR_NUM},  /* GET_THP_DISABLE */
	{52, PR_NUM},  /* GET_SPECULATION_CTRL */
	{57, PR_NUM},  /* SET_IO_FLUSHER */
	{58, PR_NUM},  /* GET_IO_FLUSHER */
};

#define PR_GET_DUMPABLE 3
#define PR_SET_DUMPABLE 4
#define PR_SET_KEEPCAPS 8
#define PR_GET_SECCOMP 21
#define PR_SET_SECCOMP 22
#define PR_CAPBSET_DROP 24
#define PR_SET_SECUREBITS 28
#define PR_SET_NO_NEW_PRIVS 38
#define PR_GET_NO_NEW_PRIVS 39
#define PR_CAP_AMBIENT 47
#define PR_GET_TID_ADDRESS 40
#define PR_GET_TSC 25

static long prctl_pass(struct thread *t, const struct prctl_row *row, const u64 *a)
{
	(void)t;
	static const u8 size[] = {0, 1, 16, 4, 8};
	if (row->kind != PR_NUM && !guest_ok(a[1], size[row->kind]))
		return -EFAULT;
	if (row->kind == PR_IN16) {
		char name[16];
		long n = copy_string_from_guest(name, gptr_of(a[1]), sizeof name);
		if (n == -ENAMETOOLONG) { /* cut, as the kernel does */
			if (copy_from_guest(name, gptr_of(a[1]), sizeof name))
				return -EFAULT;
			name[15] = 0;
		} else if (n < 0) {
			return n;
		}
		return host_call(__NR_prctl, a[0], name, 0, 0, 0);
	}
	return host_call(__NR_prctl, a[0], a[1], a[2], a[3], a[4]);
}

/* The host's flag is always set; the program has its own, and set-uid bits that are without effect as on a nosuid mount. */
static long no_new_privs(struct proc *p, const u64 *a)
{
	bool set = a[0] == PR_SET_NO_NEW_PRIVS;
	if (a[1] != set || a[2] || a[3] || a[4])
		return -EINVAL;
	if (set) {
		p->no_new_privs = 1;
		peer_tell_status(p);
	}
	return set ? 0 : (long)p->no_new_privs;
}

long h_prctl(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	u32 option = (u32)a[0];
	for (u32 i = 0; i < ARRAY_LEN(prctl_rows); i++)
		if (prctl_rows[i].option == option)
			return prctl_pass(t, &prctl_rows[i], a);
	switch (option) {
	case PR_GET_DUMPABLE: /* the monitor is never dumpable; what the program is, other programs' monitors go by */
		return (long)t->proc->dumpable;
	case PR_SET_DUMPABLE:
		if (a[1] > 1)
			return -EINVAL;
		peer_set_dumpable(t->proc, a[1]);
		return 0;
	case PR_GET_SECCOMP: /* of the container's policy and the program's own, whatever the monitor is confined by; in strict mode nobody can ask */
		return policy_filters(t->proc->policy) || t->filters ? SECCOMP_MODE_FILTER : 0;
	case PR_SET_SECCOMP:
		return seccomp_prctl(t, a[1], a[2]);
	case PR_SET_NO_NEW_PRIVS:
	case PR_GET_NO_NEW_PRIVS:
		return no_new_privs(t->proc, a);
	case PR_SET_KEEPCAPS:
	case PR_CAPBSET_DROP:
	case PR_SET_SECUREBITS:
	case PR_CAP_AMBIENT:
		return proc_change_credentials(t, __NR_prctl, a);
	case PR_GET_TSC: {
		i32 enabled = 1;
		return copy_to_guest(gptr_of(a[1]), &enabled, 4);
	}
	case PR_GET_TID_ADDRESS:
		return guest_ok(a[1], 8) ? host_call(__NR_prctl, a[0], a[1], 0, 0, 0) : -EFAULT;
	default: /* SET_MM, SET_VMA and others that work on the monitor's address space */
		return refuse(t, -EINVAL);
	}
}

#define RUSAGE_THREAD 1
long h_getrusage(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	return !c->may_block && (i32)a[0] == RUSAGE_THREAD ? CALL_TO_TRAP : host_call(__NR_getrusage, a[0], a[1]);
}

long h_sched_getaffinity(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	return host_call(__NR_sched_getaffinity, (i32)a[0] ? a[0] : (u64)t->tid, a[1], a[2]); /* 0 would be the ring server */
}

#define ADDR_NO_RANDOMIZE 0x0040000u
long h_personality(struct thread *t, struct call *c)
{
	(void)c;
	(void)t;
	u32 want = (u32)marshal_of(t)->arg[0];
	if (want == 0xffffffffu || !(want & ~ADDR_NO_RANDOMIZE))
		return host_call(__NR_personality, want);
	return refuse(t, -EINVAL);
}

/* kcmp: compares what monitors hold, which is not what programs share. Refused, but for processes that do not exist. */
long h_kcmp(struct thread *t, struct call *c)
{
	(void)c;
	for (int i = 0; i < 2; i++) {
		int pid = (int)marshal_of(t)->arg[i];
		if (pid <= 0 || host_call(__NR_kill, pid, 0) == -ESRCH)
			return -ESRCH;
	}
	return refuse(t, -EPERM);
}

/* sched_setattr: the structure says its own size. */
long h_sched_setattr(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	u32 size;
	u8 attr[PAGE];
	if (!a[1])
		return -EINVAL;
	if (copy_from_guest(&size, gptr_of(a[1]), 4))
		return -EFAULT;
	if (!size)
		size = 48;
	if (size < 48 || size > sizeof attr)
		return -E2BIG;
	if (copy_from_guest(attr, gptr_of(a[1]), size))
		return -EFAULT;
	memcpy(attr, &size, 4);
	long r = host_call(__NR_sched_setattr, a[0], attr, a[2]);
	if (r == -E2BIG) /* the kernel says which size it knows */
		copy_to_guest(gptr_of(a[1]), attr, 4);
	return r;
}

/* --- semctl -------------------------------------------------------------------------------------------------------------- */

#define IPC_RMID 0
#define IPC_SET 1
#define IPC_STAT 2
#define IPC_INFO 3
#define GETALL 13
#define SETVAL 16
#define SETALL 17
#define SEM_STAT 18
#define SEM_INFO 19
#define SEM_STAT_ANY 20
#define SEM_ROOM (128ul << 10) /* 64 Ki values; SEMMSL is 32000 by default, more cannot be asked for here */

/* GETALL and SETALL move as many values as the set has: through memory of our own, because the set may be replaced by a larger one
 * between a look at its size and the call. */
static long semctl_all(struct thread *t, const u64 *a, u32 cmd)
{
	u8 ds[104];
	u64 info[13];
	long r = host_call(__NR_semctl, a[0], 0, IPC_STAT, ds);
	if (r < 0)
		return r;
	memcpy(info, ds, sizeof info);
	u64 n = info[10], len = n * 2; /* sem_nsems */
	if (len > SEM_ROOM)
		return -EINVAL;
	u8 *buf = marshal_alloc(t, SEM_ROOM);
	if (!buf)
		return -ENOMEM;
	if (cmd == SETALL && copy_from_guest(buf, gptr_of(a[3]), len))
		return -EFAULT;
	r = host_call(__NR_semctl, a[0], a[1], cmd, buf);
	if (r >= 0 && cmd == GETALL && copy_to_guest(gptr_of(a[3]), buf, len))
		return -EFAULT;
	return r;
}

long h_semctl(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	u32 cmd = (u32)a[2] & ~0x100u;
	switch (cmd) {
	case GETALL:
	case SETALL:
		return guest_ok(a[3], 2) ? semctl_all(t, a, cmd) : -EFAULT;
	case IPC_SET:
	case IPC_STAT:
	case IPC_INFO:
	case SEM_STAT:
	case SEM_INFO:
	case SEM_STAT_ANY:
		return guest_ok(a[3], 104) ? host_call(__NR_semctl, a[0], a[1], cmd, a[3]) : -EFAULT;
	default:
		return host_call(__NR_semctl, a[0], a[1], cmd, a[3]);
	}
}
