/* process_vm_readv and process_vm_writev: of the program's own memory (a careful way to look at an address that may not be there), copied
 * here. Other processes' would be the memory of monitors: refused as by a kernel that finds no right to it. */
#include "../proc.h"
#include "handlers.h"

#define READV 310 /* process_vm_readv; not one of our own host calls */

struct side {
	const struct iovec_k *v;
	u64 n, done; /* elements left; bytes done of the first one */
};

static u64 left(struct side *s)
{
	while (s->n && s->done == s->v->len) {
		s->v++;
		s->n--;
		s->done = 0;
	}
	return s->n ? s->v->len - s->done : 0;
}

static u64 least(u64 a, u64 b)
{
	return a < b ? a : b;
}

/* Bytes copied; -EFAULT when the first ones are not there. Never across a page, so that all is copied up to what is not there. */
static long copy(struct side from, struct side to)
{
	u8 page[PAGE];
	u64 sum = 0, a, b;
	while ((a = left(&from)) && (b = left(&to))) {
		u64 src = from.v->base + from.done, dst = to.v->base + to.done;
		u64 n = least(least(a, b), least(PAGE - src % PAGE, PAGE - dst % PAGE));
		if (copy_from_guest(page, gptr_of(src), n) || copy_to_guest(gptr_of(dst), page, n))
			return sum ? (long)sum : -EFAULT;
		from.done += n;
		to.done += n;
		sum += n;
	}
	return (long)sum;
}

long h_process_vm(struct thread *t, struct call *c)
{
	const u64 *a = c->arg;
	long err;
	i32 pid = (i32)a[0];
	if (a[5])
		return -EINVAL;
	const struct iovec_k *here = marshal_iovec(t, a[1], a[2], &err);
	if (err || !iovec_total(here, (u32)a[2]))
		return err;
	const struct iovec_k *there = marshal_iovec(t, a[3], a[4], &err);
	if (err || !iovec_total(there, (u32)a[4]))
		return err;
	if (pid != t->proc->pid && (pid <= 0 || !proc_has_thread(t->proc, pid)))
		return pid <= 0 || host_call(__NR_kill, pid, 0) == -ESRCH || tid_hidden(t, pid) ? -ESRCH : refuse(t, -EPERM);
	struct side mine = {here, (u32)a[2], 0}, other = {there, (u32)a[4], 0};
	return c->nr == READV ? copy(other, mine) : copy(mine, other);
}
