/* What `cpuid` answers to the guest, learned once: the shim then answers from a table, because the instruction itself leaves the VM.
 *
 * The table has to say what the instruction says, and only the VM knows: some kinds of KVM hand the host's values through, whatever
 * KVM_SET_CPUID2 was given. So the first program's vCPU is asked, by code of the shim, before the program is there; monitors
 * behind an execve inherit the answers. What is not in the table the shim leaves to the instruction. */
#include "proc.h"
#include "shim_offsets.h"
#include "signal.h"

struct question {
	u32 function;
	bool indexed;
	u16 indices; /* bit n: ECX = n */
};

/* What programs and their libraries look at when they start. Not here: leaves that name the CPU they were executed on (1, 0xb, 0x1f,
 * 0x8000001e), and everything rare. */
static const struct question questions[] = {
    {0x0, false, 1},	  {0x2, false, 1},	  {0x4, true, 0x1f},	  {0x5, false, 1},	 {0x6, false, 1},	 {0x7, true, 7},
    {0xa, false, 1},	  {0xd, true, 0x2ef},	  {0x14, true, 3},	  {0x15, false, 1},	 {0x16, false, 1},	 {0x19, false, 1},
    {0x80000000, false, 1}, {0x80000001, false, 1}, {0x80000002, false, 1}, {0x80000003, false, 1}, {0x80000004, false, 1}, {0x80000005, false, 1},
    {0x80000006, false, 1}, {0x80000007, false, 1}, {0x80000008, false, 1}, {0x80000019, false, 1}, {0x8000001d, true, 0x1f},
};

static struct psb_cpuid table[CPUID_TABLE] = {{.end = 1}};
_Static_assert(sizeof table + SHIM_CPUID_TABLE <= PAGE, "the table must fit the shim's page");

static void write_questions(void)
{
	u32 n = 0;
	for (u32 i = 0; i < ARRAY_LEN(questions); i++)
		for (u32 index = 0; index < 16; index++)
			if (questions[i].indices >> index & 1 && n + 1 < CPUID_TABLE)
				table[n++] = (struct psb_cpuid){.function = questions[i].function, .index = index, .index_mask = questions[i].indexed ? ~0u : 0};
	table[n] = (struct psb_cpuid){.end = 1};
}

/* The shim fills in the answers. Where the VM does not do that nothing is lost but time. */
void cpuid_ask(struct thread *t)
{
	struct mm *mm = t->proc->mm;
	struct psb_cpuid *there = (struct psb_cpuid *)(mm->slots + PAGE); /* slots of threads to come */
	write_questions();
	memcpy(there, table, sizeof table);
	vcpu_set_user(t, mm->shim + SHIM_ASK, 0, 0);
	t->run->s.regs.regs.rdi = (u64)there;
	long r;
	do
		r = vcpu_run(t);
	while (r == -EINTR);
	if (r || t->run->exit_reason != KVM_EXIT_IO || t->run->io.port != PSB_PORT_SHIM) {
		table[0].end = 1;
		return;
	}
	vcpu_settle(t);
	memcpy(table, there, sizeof table);
	memset(there, 0, sizeof table);
	host_call(__NR_mprotect, mm->shim, PAGE, PROT_READ | PROT_WRITE);
	cpuid_fill_shim(mm);
	host_call(__NR_mprotect, mm->shim, PAGE, PROT_READ);
}

const struct psb_cpuid *cpuid_answers(void)
{
	return table;
}

void cpuid_take_answers(const struct psb_cpuid *answers)
{
	memcpy(table, answers, sizeof table);
}

void cpuid_fill_shim(struct mm *mm)
{
	memcpy((void *)(mm->shim + SHIM_CPUID_TABLE), table, sizeof table);
}
