/* The monitor's own seccomp filter (invariant 6): generated from the table of system calls, hack/gen_host_filter.py says what is in
 * it and why. Installed once, by the first monitor of a container or of an exec into it; fork and execve inherit it. */
#include "confine.h"
#include "host.h"

struct filter_insn {
	u16 code;
	u8 jt, jf;
	u32 k;
};

/* A call that needs a capability: without it the instruction becomes EPERM, which is what the kernel would say. */
struct filter_capable {
	u16 insn;
	u8 capability;
};

#include "host_filter.h"

#define SECCOMP_SET_MODE_FILTER 1
#define SECCOMP_FILTER_FLAG_SPEC_ALLOW 4 /* as runc: no mitigation for the whole process that the kernel would not choose itself */
#define CAPABILITY_VERSION 0x20080522

static u64 permitted_capabilities(void)
{
	struct {
		u32 version;
		i32 pid;
	} head = {CAPABILITY_VERSION, 0};
	struct {
		u32 effective, permitted, inheritable;
	} set[2] = {{0, 0, 0}, {0, 0, 0}};
	long r = host_call(__NR_capget, &head, set);
	if (r)
		fatal("capget: error %d", (int)-r);
	return (u64)set[1].permitted << 32 | set[0].permitted;
}

void confine(void)
{
	struct filter_insn filter[ARRAY_LEN(host_filter)];
	struct {
		u16 len;
		void *filter;
	} program = {ARRAY_LEN(filter), filter};
	memcpy(filter, host_filter, sizeof filter);
	/* No process below this one ever has a capability that is not permitted here: no_new_privs is set. */
	u64 permitted = permitted_capabilities();
	for (u32 i = 0; i < ARRAY_LEN(host_filter_capable); i++)
		if (!(permitted >> host_filter_capable[i].capability & 1))
			filter[host_filter_capable[i].insn].k = HOST_FILTER_EPERM;
	long r = host_call(__NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program);
	if (r == -EINVAL) /* before Linux 4.17 */
		r = host_call(__NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
	if (r)
		fatal("cannot install the monitor's seccomp filter: error %d", (int)-r);
}

void confine_kill_process(void)
{
	host_call(HOST_DIE_PROCESS);
}
