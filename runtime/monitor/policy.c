/* The policy table: validated once, then looked up for every system call.
 *
 * policy_decide trusts the indices in the blob, because policy_check has seen all of them and the blob is a sealed
 * memfd. Nothing here depends on the rest of the monitor. */
#include "policy.h"

#define X32_BIT 0x40000000u

static const struct psb_policy_rule *rules_of(const struct psb_policy *p)
{
	return (const struct psb_policy_rule *)(p + 1);
}

static const struct psb_policy_cond *conds_of(const struct psb_policy *p)
{
	return (const struct psb_policy_cond *)(rules_of(p) + p->nrules);
}

/* [first, first + count) lies within [0, n); the sum cannot overflow in 64 bits. */
static int in_range(uint64_t first, uint64_t count, uint64_t n)
{
	return first + count <= n;
}

static int verdict_valid(uint32_t verdict)
{
	return verdict <= PSB_VERDICT_NOTIFY;
}

int policy_check(const void *blob, size_t len)
{
	const struct psb_policy *p = blob;
	if (len < sizeof *p || (uintptr_t)blob % _Alignof(struct psb_policy))
		return -1;
	if (p->magic != PSB_POLICY_MAGIC || p->version != PSB_ABI_VERSION || !verdict_valid(p->default_verdict))
		return -1;
	if (p->flags & ~(uint32_t)(PSB_POLICY_KILL_X32 | PSB_POLICY_ENOSYS_ABOVE))
		return -1;
	/* Both counts are 32 bits wide: the products stay far below 2^64. */
	if (len != sizeof *p + (uint64_t)p->nrules * sizeof(struct psb_policy_rule) +
		       (uint64_t)p->nconds * sizeof(struct psb_policy_cond))
		return -1;
	for (uint32_t i = 0; i < PSB_POLICY_NRS; i++)
		if (!in_range(p->entry[i].first, p->entry[i].count, p->nrules))
			return -1;
	const struct psb_policy_rule *rule = rules_of(p);
	for (uint32_t i = 0; i < p->nrules; i++)
		if (!verdict_valid(rule[i].verdict) || !in_range(rule[i].first_cond, rule[i].nconds, p->nconds))
			return -1;
	const struct psb_policy_cond *cond = conds_of(p);
	for (uint32_t i = 0; i < p->nconds; i++)
		if (cond[i].arg > 5 || cond[i].op < PSB_CMP_NE || cond[i].op > PSB_CMP_MASKED_EQ)
			return -1;
	return 0;
}

static int holds(const struct psb_policy_cond *c, const uint64_t args[6])
{
	uint64_t a = args[c->arg];
	switch (c->op) {
	case PSB_CMP_NE:
		return a != c->value;
	case PSB_CMP_LT:
		return a < c->value;
	case PSB_CMP_LE:
		return a <= c->value;
	case PSB_CMP_EQ:
		return a == c->value;
	case PSB_CMP_GE:
		return a >= c->value;
	case PSB_CMP_GT:
		return a > c->value;
	default:
		return (a & c->mask) == c->value; /* MASKED_EQ: policy_check let nothing else through */
	}
}

static int all_hold(const struct psb_policy_cond *c, uint32_t n, const uint64_t args[6])
{
	for (uint32_t i = 0; i < n; i++)
		if (!holds(&c[i], args))
			return 0;
	return 1;
}

struct policy_result policy_decide(const struct psb_policy *p, uint32_t nr, const uint64_t args[6])
{
	if (nr < PSB_POLICY_NRS) {
		const struct psb_policy_rule *r = rules_of(p) + p->entry[nr].first;
		const struct psb_policy_rule *end = r + p->entry[nr].count;
		for (; r < end; r++)
			if (!r->nconds || all_hold(conds_of(p) + r->first_cond, r->nconds, args))
				return (struct policy_result){r->verdict, r->data, r->id};
	} else if (nr & X32_BIT && nr != UINT32_MAX && p->flags & PSB_POLICY_KILL_X32) {
		return (struct policy_result){PSB_VERDICT_KILL_THREAD, 0, 0};
	} else if (p->flags & PSB_POLICY_ENOSYS_ABOVE) {
		return (struct policy_result){PSB_VERDICT_ERRNO, 38 /* ENOSYS */, 0};
	}
	return (struct policy_result){p->default_verdict, p->default_data, 0};
}
