/* Instructions that the guest's CPU does not do by itself, found out by the exceptions they raise.
 *
 * GS belongs to the trampolines: `jmp *%gs:PSB_SLOT_ENTRY` finds the thread's slot. A program that uses GS as well gets it, and from
 * then on every trampoline of its address space leaves the VM instead, without looking at GS. CR4.FSGSBASE is off so that no
 * program changes GS unseen: those four instructions are done here. A selector loaded into GS gives it the base 0; the next
 * trampoline faults at the bottom of the address space, where nothing can be mapped, and the program is found out then.
 *
 * The vsyscall page is the kernel's oldest vDSO, at an address above the guest's. */
#include "plan_sites.h"
#include "signal.h"

#define VSYSCALL_PAGE 0xffffffffff600000ul
#define ADDRESS_END 0x7ffffffff000ul
#define TRAMP_JUMP 8 /* bytes of `jmp *%gs:PSB_SLOT_ENTRY` or PSB_SLOT_CPUID, in front of `back` */

/* `out %eax, $PSB_PORT_SHIM; jmp *%rcx`, as the shim's trap entry */
static const u8 leave_vm[TRAMP_JUMP] = {0xe7, PSB_PORT_SHIM, 0xff, 0xe1, 0x0f, 0x0b, 0x0f, 0x0b};
/* `nopw 0(%rax,%rax)`, and `cpuid` itself as the last thing in front of `back` */
static const u8 plain_cpuid[TRAMP_JUMP] = {0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00, 0x0f, 0xa2};

/* A copy with other jumps takes the place of the trampolines, all pages at once for whoever runs there. */
static long replace_trampolines(struct proc *p, const struct region *g)
{
	const struct image_sites *s = sites_of_region(p, g);
	u64 len = g->end - g->start;
	if (!s)
		return -EIO;
	u8 *copy = host_alloc(len);
	if (!copy)
		return -ENOMEM;
	memcpy(copy, (const void *)g->start, len);
	for (u64 i = 0; i < s->image.nsites; i++) {
		const struct psb_plan_site *x = &s->site[i];
		u64 at = (u64)x->tramp + x->tramp_back;
		if ((x->door == PSB_DOOR_JUMP || x->door == PSB_DOOR_CPUID) && at <= len && x->tramp_back >= TRAMP_JUMP)
			memcpy(copy + at - TRAMP_JUMP, x->door == PSB_DOOR_JUMP ? leave_vm : plain_cpuid, TRAMP_JUMP);
	}
	host_call(__NR_mprotect, copy, len, PROT_READ);
	/* MREMAP_MAYMOVE | MREMAP_FIXED */
	long r = host_call(__NR_mremap, copy, len, len, 3, g->start);
	if (IS_ERR(r)) {
		host_free(copy, len);
		return r;
	}
	mm_leave_pool(p->mm, g->start, g->end);
	return 0;
}

/* The program uses GS. 0 or -errno: then its trampolines are as they were. */
static long give_gs(struct thread *t)
{
	struct mm *mm = t->proc->mm;
	long r = 0;
	lock_acquire(&mm->lock);
	for (u32 i = 0; !mm->gs_given && !r && i < mm->nregions; i++)
		if (mm->region[i].flags & REGION_TRAMP)
			r = replace_trampolines(t->proc, &mm->region[i]);
	if (!r)
		mm->gs_given = true; /* no image is mapped any more: see plan_map() */
	lock_release(&mm->lock);
	if (!r && !t->gs_changed) {
		t->gs_changed = true;
		vcpu_set_gs(t, 0);
	}
	return r;
}

u64 gs_get(struct thread *t)
{
	return t->gs_changed ? vcpu_get_gs(t) : 0;
}

long gs_set(struct thread *t, u64 base)
{
	if (base >= ADDRESS_END)
		return -EPERM;
	if (!base && !t->gs_changed)
		return 0;
	long r = give_gs(t);
	if (!r)
		vcpu_set_gs(t, base);
	return r;
}

bool gs_fault(struct thread *t)
{
	const struct mm *mm = t->proc->mm;
	u64 rip = t->run->s.regs.regs.rip;
	if (vcpu_get_gs(t) == (u64)t->slot || site_shown(t->proc, rip) == rip)
		return false;
	if (mm->gs_given) { /* while another thread was replacing them; later there is no such jump */
		u8 code[TRAMP_JUMP];
		return !copy_from_guest(code, gptr_of(rip), sizeof code) &&
		       (!memcmp(code, leave_vm, sizeof code) || !memcmp(code, plain_cpuid, sizeof code));
	}
	return !give_gs(t);
}

/* rdfsbase, rdgsbase, wrfsbase, wrgsbase: F3 [REX] 0F AE /0 to /3 with a register. */
bool emulate_base_access(struct thread *t)
{
	struct kvm_regs *r = &t->run->s.regs.regs;
	u8 c[5], rex = 0;
	if (copy_from_guest(c, gptr_of(r->rip), sizeof c) || c[0] != 0xf3)
		return false;
	u32 at = 1;
	if ((c[at] & 0xf0) == 0x40)
		rex = c[at++];
	if (c[at] != 0x0f || c[at + 1] != 0xae || (c[at + 2] & 0xe0) != 0xc0)
		return false;
	u64 *const reg[16] = {(u64 *)&r->rax, (u64 *)&r->rcx, (u64 *)&r->rdx, (u64 *)&r->rbx, (u64 *)&r->rsp, (u64 *)&r->rbp, (u64 *)&r->rsi, (u64 *)&r->rdi,
			      (u64 *)&r->r8,  (u64 *)&r->r9,  (u64 *)&r->r10, (u64 *)&r->r11, (u64 *)&r->r12, (u64 *)&r->r13, (u64 *)&r->r14, (u64 *)&r->r15};
	u64 *operand = reg[(c[at + 2] & 7) | (rex & 1 ? 8 : 0)];
	bool gs = c[at + 2] & 8, write = c[at + 2] & 16;
	u64 wide = rex & 8 ? ~0ul : 0xffffffff;
	if (write) {
		u64 base = *operand & wide;
		if ((u64)((i64)(base << 16) >> 16) != base) /* a general protection fault, for the caller to make of it what it likes */
			return false;
		if (gs && (base || t->gs_changed)) {
			if (give_gs(t))
				return false;
			vcpu_set_gs(t, base);
		} else if (!gs) {
			vcpu_set_fs(t, base);
		}
	} else {
		*operand = (gs ? gs_get(t) : vcpu_get_fs(t)) & wide;
	}
	r->rip += at + 3;
	vcpu_regs_changed(t);
	return true;
}

/* The program called into the page: gettimeofday, time or getcpu, and back. */
bool emulate_vsyscall(struct thread *t, u64 va)
{
	static const u32 number[] = {__NR_gettimeofday, __NR_time, __NR_getcpu};
	struct kvm_regs *r = &t->run->s.regs.regs;
	u64 which = (va - VSYSCALL_PAGE) / 1024, back;
	if (va < VSYSCALL_PAGE || va % 1024 || which >= ARRAY_LEN(number) || r->rip != va || copy_from_guest(&back, gptr_of(r->rsp), 8))
		return false;
	call_begin(t);
	t->call = (struct call){.nr = number[which], .door = PSB_DOOR_TRAP, .may_block = true, .site = va, .ret_addr = back};
	const u64 a[6] = {r->rdi, r->rsi, r->rdx, r->r10, r->r8, r->r9};
	memcpy(t->call.arg, a, sizeof a);
	long ret = dispatch(t, &t->call);
	dispatch_done(t, &t->call, ret);
	call_end(t);
	if (ret == CALL_NO_RETURN)
		return true;
	r->rax = (u64)ret;
	r->rip = back;
	r->rsp += 8;
	vcpu_regs_changed(t);
	return true;
}
