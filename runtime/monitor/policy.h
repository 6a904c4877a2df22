/* Decides system calls by the container's policy table (struct psb_policy in shim/abi.h). */
#ifndef PSB_MONITOR_POLICY_H
#define PSB_MONITOR_POLICY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "../../shim/abi.h"

struct policy_result {
	uint32_t verdict; /* PSB_VERDICT_* */
	uint32_t data;    /* errno of ERRNO, message of TRACE and TRAP */
	uint32_t rule;    /* id of the rule that decided, 0: default action */
};

/* True (0) when the blob of `len` bytes is a policy that policy_decide may be given: magic, version, and every index
 * in range. -1 otherwise. Called once, by whoever maps the blob; it is sealed, so the answer stays true. */
int policy_check(const void *blob, size_t len);

/* What the policy says about this call. Pure: no state, no memory but its arguments'. */
struct policy_result policy_decide(const struct psb_policy *policy, uint32_t nr, const uint64_t args[6]);

/* False: the policy of a container without linux.seccomp, as if there was no filter. */
static inline bool policy_filters(const struct psb_policy *p)
{
	return p->default_verdict != PSB_VERDICT_ALLOW || p->nrules || p->flags;
}

#endif
