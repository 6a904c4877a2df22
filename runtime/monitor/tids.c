/* Thread numbers. A monitor has threads that its program did not make: the ring server, KVM's worker. The kernel gives them numbers of the
 * container's pid namespace; for programs there is nobody at these numbers. */
#include "linux_abi.h"
#include "peer.h"
#include "procfs.h"
#include "proc.h"
#include "syscalls/handlers.h"

/* The process of a thread that is not its first, or 0. */
static u32 process_of(struct thread *t, int tid)
{
	char name[32], text[4096];
	long fd = host_call(__NR_pidfd_open, tid, 0);
	if (fd >= 0) { /* of a process: the usual case */
		host_call(__NR_close, fd);
		return 0;
	}
	if (fd != -EINVAL && fd != -ENOENT)
		return 0;
	format(name, sizeof name, "%d/status", tid);
	fd = host_call(__NR_openat, t->proc->proc_fd, name, O_CLOEXEC, 0);
	if (fd < 0)
		return 0;
	long n = host_call(__NR_read, fd, text, sizeof text - 1);
	host_call(__NR_close, fd);
	text[n > 0 ? n : 0] = 0;
	const char *value = status_value(text, "Tgid:\t");
	u32 pid = 0;
	for (; value && *value >= '0' && *value <= '9'; value++)
		pid = pid * 10 + (u32)(*value - '0');
	return pid;
}

/* Of another process' thread its monitor tells, if the program may ask. Else it may hardly do anything to it either. */
static bool peer_has_thread(struct thread *t, u32 pid, int tid)
{
	struct peer_answer a;
	if (peer_ask(t, pid, PEER_TASKS, 0, &a))
		return true;
	for (u32 i = 0; i + sizeof tid <= a.len; i += sizeof tid)
		if (!memcmp(a.text + i, &tid, sizeof tid))
			return true;
	return false;
}

bool tid_hidden(struct thread *t, int tid)
{
	const struct proc *p = t->proc;
	if (tid <= 0 || tid == p->pid || tid == t->tid || proc_has_thread(p, tid))
		return false;
	u32 pid = process_of(t, tid);
	return pid && (pid == (u32)p->pid || !peer_has_thread(t, pid, tid));
}

/* Clocks of processes and threads, and those of devices, have what they are of in their numbers. */
#define CLOCK_OF_FILE 3
long clock_usable(struct thread *t, i32 id)
{
	if (id >= 0)
		return 0;
	if ((id & 7) == CLOCK_OF_FILE)
		return marshal_hold(t, ~(id >> 3)) ? 0 : -EINVAL;
	return tid_hidden(t, ~(id >> 3)) ? -EINVAL : 0;
}

/* --- calls whose argument is a thread's number only sometimes --------------------------------------------------------- */

/* The first argument that says so. */
static i32 who_is_process(u32 nr)
{
	switch (nr) {
	case __NR_ioprio_get:
	case __NR_ioprio_set:
		return 1; /* IOPRIO_WHO_PROCESS */
	case __NR_getpriority:
	case __NR_setpriority:
	default:
		return 0; /* PRIO_PROCESS */
	}
}

long h_priority(struct thread *t, struct call *c)
{
	const u64 *a = marshal_of(t)->arg;
	if ((i32)a[0] == who_is_process(c->nr) && tid_hidden(t, (int)a[1]))
		return -ESRCH;
	return host_call(c->nr, a[0], a[1], a[2]);
}

#define SIGEV_THREAD_ID 4
long h_timer_create(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	struct {
		u64 value;
		i32 signo, notify, tid;
		u8 rest[44];
	} ev;
	_Static_assert(sizeof ev == 64, "struct sigevent");
	if (!a[1])
		return host_call(__NR_timer_create, a[0], 0, a[2]);
	if (copy_from_guest(&ev, gptr_of(a[1]), sizeof ev))
		return -EFAULT;
	if (ev.notify & SIGEV_THREAD_ID && tid_hidden(t, ev.tid))
		return -EINVAL;
	return host_call(__NR_timer_create, a[0], &ev, a[2]);
}

long h_capget(struct thread *t, struct call *c)
{
	(void)c;
	const u64 *a = marshal_of(t)->arg;
	struct {
		u32 version;
		i32 pid;
	} head;
	if (copy_from_guest(&head, gptr_of(a[0]), sizeof head))
		return -EFAULT;
	if (tid_hidden(t, head.pid))
		return -ESRCH;
	u32 version = head.version;
	long r = host_call(__NR_capget, &head, a[1]);
	if (head.version != version && copy_to_guest(gptr_of(a[0]), &head.version, sizeof version))
		return -EFAULT;
	return r;
}
