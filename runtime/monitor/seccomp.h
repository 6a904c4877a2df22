/* Filters that a program gives itself: seccomp(2) and prctl(PR_SET_SECCOMP). */
#ifndef PSB_SECCOMP_H
#define PSB_SECCOMP_H

#include "linux_abi.h"
#include "monitor.h"

#define SECCOMP_MODE_STRICT 1
#define SECCOMP_MODE_FILTER 2

/* Makes *r what the filters of `t`, which has some, say of the call, if that is as strict as *r, which was decided before. */
void seccomp_decide(struct thread *t, const struct call *c, struct policy_result *r);

/* A new thread's filters are those of the one that makes it, NULL: none. What the entry had from an earlier thread is let go. */
void seccomp_inherit(struct thread *t, const struct thread *from);

/* A fork takes it: the child's memory is a copy. */
struct lock *seccomp_lock(void);

/* prctl(PR_SET_SECCOMP): 0 or -errno. `program`: guest address. */
long seccomp_prctl(struct thread *t, u64 mode, u64 program);

/* Of the first thread: how many filters, and SECCOMP_MODE_* or 0. The container's policy is not among them. */
u32 seccomp_count(const struct proc *p, u32 *mode);

/* For the start record: bytes, their content, and back. */
u64 seccomp_size(const struct thread *t);
void seccomp_save(const struct thread *t, u8 *buf);
bool seccomp_restore(struct thread *t, const u8 *buf, u64 len);

#endif
