/* What a thread has for itself on the host: credentials, FS and GS, the address the kernel clears when it ends. */
#include "peer.h"
#include "proc.h"
#include "syscalls/handlers.h"

#define ARCH_SET_GS 0x1001
#define ARCH_SET_FS 0x1002
#define ARCH_GET_FS 0x1003
#define ARCH_GET_GS 0x1004

/* --- credentials ----------------------------------------------------------------------------------------------------
 * They belong to the host thread, as in Linux (a C library carries a change to its other threads by itself). Only the ring server is
 * a thread the program does not know: it serves threads with its own credentials and gives way after a change. */
static void effective_ids(u32 ids[4])
{
	static const u16 ask[] = {__NR_geteuid, __NR_getegid, __NR_setfsuid, __NR_setfsgid}; /* the latter tell when they are given nonsense */
	for (u32 i = 0; i < ARRAY_LEN(ask); i++)
		ids[i] = (u32)host_call(ask[i], -1);
}

u32 proc_new_generation(void)
{
	static _Atomic u32 generation;
	return atomic_fetch_add(&generation, 1) + 1;
}

void proc_part_from_ring(struct thread *t)
{
	t->cred_gen = proc_new_generation();
	ring_retire(t->proc);
}

long proc_change_credentials(struct thread *t, long nr, const u64 arg[6])
{
	u32 before[4], after[4];
	effective_ids(before);
	long r = host_call(nr, arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]);
	effective_ids(after);
	if (memcmp(before, after, sizeof before)) /* as commit_creds() does */
		peer_set_dumpable(t->proc, false);
	if (r >= 0) {
		proc_part_from_ring(t);
		host_call(__NR_prctl, 4 /* PR_SET_DUMPABLE */, 0, 0, 0, 0);
	}
	return r;
}

/* --- registers and memory ----------------------------------------------------------------------------------------------------- */

long h_arch_prctl(struct thread *t, struct call *c)
{
	u64 v;
	switch ((int)c->arg[0]) {
	case ARCH_SET_FS:
		if (c->arg[1] >= 0x7ffffffff000ul)
			return -EPERM;
		vcpu_set_fs(t, c->arg[1]);
		return 0;
	case ARCH_SET_GS:
		return gs_set(t, c->arg[1]);
	case ARCH_GET_FS:
		v = vcpu_get_fs(t);
		return copy_to_guest(gptr_of(c->arg[1]), &v, 8);
	case ARCH_GET_GS:
		v = gs_get(t);
		return copy_to_guest(gptr_of(c->arg[1]), &v, 8);
	case 0x1011: /* ARCH_GET_CPUID */
		return 1;
	}
	return -EINVAL;
}

long h_set_tid_address(struct thread *t, struct call *c)
{
	t->tid_address = c->arg[0];
	t->has_tid_address = true;
	return t->tid;
}
