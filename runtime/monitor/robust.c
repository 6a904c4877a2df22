/* Robust futexes.
 *
 * The kernel would walk the guest's list at thread exit and change words it names, in the monitor's memory too if a forged
 * entry said so. So it never sees the list; we walk it with checked addresses. (A thread that dies by a signal leaves its
 * robust futexes locked.) */
#include "proc.h"
#include "syscalls/handlers.h"

#define ROBUST_LIMIT 2048
#define FUTEX_OWNER_DIED 0x40000000u
#define FUTEX_WAITERS 0x80000000u
#define FUTEX_TID_MASK 0x3fffffffu

static void owner_died(struct thread *t, u64 va)
{
	u32 word;
	if (va % 4 || copy_from_guest(&word, gptr_of(va), 4) || (word & FUTEX_TID_MASK) != (u32)t->tid)
		return;
	/* Written by a copy that may fault, not by an atomic: only this thread's own id stands there, and waiters only add a bit. One that
	 * does so in between finds the word changed, or is woken: as if somebody always waited. */
	u32 dead = FUTEX_WAITERS | FUTEX_OWNER_DIED;
	if (!copy_to_guest(gptr_of(va), &dead, 4))
		host_call(__NR_futex, va, 1 /* FUTEX_WAKE */, 1, 0, 0, 0);
}

void robust_release(struct thread *t)
{
	u64 head[3], next;
	if (!t->robust_list || copy_from_guest(head, gptr_of(t->robust_list), sizeof head))
		return;
	next = head[0];
	for (u32 i = 0; i < ROBUST_LIMIT && (next & ~1ul) != t->robust_list && next; i++) {
		u64 entry = next & ~1ul;
		if (copy_from_guest(&next, gptr_of(entry), 8))
			break;
		if (entry != (head[2] & ~1ul))
			owner_died(t, entry + head[1]);
	}
	if (head[2])
		owner_died(t, (head[2] & ~1ul) + head[1]);
	t->robust_list = 0;
}

long h_set_robust_list(struct thread *t, struct call *c)
{
	if (c->arg[1] != 24)
		return -EINVAL;
	t->robust_list = c->arg[0];
	return 0;
}

long h_get_robust_list(struct thread *t, struct call *c)
{
	static const u64 size = 24;
	int tid = (int)c->arg[0];
	const struct thread *of = tid && tid != t->tid ? NULL : t;
	for (u32 i = 0; !of && i < VCPU_MAX && threads.entry[i]; i++)
		if (threads.entry[i]->state == THREAD_USED && threads.entry[i]->proc == t->proc && threads.entry[i]->tid == tid)
			of = threads.entry[i];
	if (!of) /* of another process: its monitor's */
		return tid < 0 || host_call(__NR_kill, tid, 0) == -ESRCH ? -ESRCH : -EPERM;
	long r = copy_to_guest(gptr_of(c->arg[2]), &size, 8);
	return r ? r : copy_to_guest(gptr_of(c->arg[1]), &of->robust_list, 8);
}
