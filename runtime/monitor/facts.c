/* What a monitor finds out about the host: some sixty executions of CPUID, each of which may leave a virtual machine that this host
 * itself is, and the way into a guest and back. Handed on at execve, and through a file of the launcher's to later containers.
 *
 * The file is left before any code of the guest has run, and the descriptor is closed then: a container has no say in it. */
#include "linux_abi.h"
#include "proc.h"

static struct vdso_layout vdso_layout;

struct vdso_layout *vdso_facts(void)
{
	return &vdso_layout;
}

/* A host that is a virtual machine may have been moved to another CPU since the facts were found. */
static void name_cpu(u32 cpu[8])
{
	__asm__("cpuid" : "=a"(cpu[0]), "=b"(cpu[1]), "=c"(cpu[2]), "=d"(cpu[3]) : "0"(1), "2"(0));
	__asm__("cpuid" : "=a"(cpu[4]), "=b"(cpu[5]), "=c"(cpu[6]), "=d"(cpu[7]) : "0"(7), "2"(0));
	cpu[1] = 0; /* the number of the processor, among others */
}

/* Of what stands behind it. A file can be damaged, and a monitor that believed it would not start. */
static u64 sum_of(const struct host_facts *f, u32 len)
{
	u64 sum = len;
	for (const u32 *at = f->cpu; (const u8 *)(at + 1) <= (const u8 *)f + len; at++)
		sum = (sum << 7 | sum >> 57) ^ *at;
	return sum;
}

const struct host_facts *facts_collect(struct proc *p, u32 *len)
{
	static struct host_facts f;
	u32 n;
	const void *kvm = kvm_facts(&n);
	*len = (u32)offsetof(struct host_facts, kvm) + n;
	if (n > sizeof f.kvm)
		return NULL;
	f.vdso = vdso_layout;
	f.exit_cost = exit_cost;
	memcpy(f.cpuid, cpuid_answers(), sizeof f.cpuid);
	f.ring_backoff_until = p->ring.backoff_until;
	memcpy(f.kvm, kvm, n);
	return &f;
}

bool facts_take(struct proc *p, const struct psb_start *s)
{
	if (!s->facts_len)
		return false;
	const struct host_facts *f = (const struct host_facts *)((const u8 *)s + s->facts_off);
	if (!s->is_exec) {
		u32 cpu[8];
		name_cpu(cpu);
		if (memcmp(cpu, f->cpu, sizeof cpu) || f->sum != sum_of(f, s->facts_len))
			return false;
	}
	vdso_layout = f->vdso;
	exit_cost = f->exit_cost;
	cpuid_take_answers(f->cpuid);
	p->ring.backoff_until = f->ring_backoff_until;
	kvm_take_facts(f->kvm, s->facts_len - (u32)offsetof(struct host_facts, kvm));
	return true;
}

/* By a mapping: the program's RLIMIT_FSIZE would apply to a write. */
void facts_leave(struct proc *p, const struct psb_start *s)
{
	u32 len;
	u64 st[18];
	const struct host_facts *found = facts_collect(p, &len);
	if (!s->facts_fd || !found || len > PSB_FACTS_SIZE - sizeof(struct psb_facts))
		return;
	if (host_call(__NR_fstat, s->facts_fd, st) || st[6] < PSB_FACTS_SIZE)
		return;
	long at = host_call(__NR_mmap, 0, PSB_FACTS_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, s->facts_fd, 0);
	if (IS_ERR(at))
		return;
	struct psb_facts *file = (struct psb_facts *)at;
	struct host_facts *there = (struct host_facts *)(file + 1);
	memcpy(there, found, len);
	name_cpu(there->cpu);
	there->ring_backoff_until = 0;
	there->sum = sum_of(there, len);
	__atomic_store_n(&file->len, len, __ATOMIC_RELEASE);
	host_call(__NR_munmap, at, PSB_FACTS_SIZE);
}
