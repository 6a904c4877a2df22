/* KVM backend. See kvm.h for what it offers, docs/architecture.md for the memory layout.
 *
 * Guest CPL 3 runs natively; CPL 0 holds one `out` per stub and nothing else. IOPL is 3 so that `out` works at CPL 3.
 * RFLAGS.IF is always 1 (there is no interrupt source: no in-kernel irqchip). */
#include "kvm.h"

#define O_CLOEXEC 02000000
#define MSR_TSC 0x10
#define MSR_STAR 0xC0000081
#define MSR_LSTAR 0xC0000082
#define MSR_SFMASK 0xC0000084
#define XCR0_BASE 3ull /* x87, SSE */
#define XCR0_AVX 7ull
#define XCR0_AVX512 0xe7ull
#define CPUID_ROOM 256

#define TSS_SIZE 0x68
#define PORTS 0x60 /* ports below this are ours */

#define SEG_CS 0x33
#define SEG_DS 0x2b

/* What KVM offers on this host. Asking takes half a millisecond (each CPUID instruction may trap), so it is handed on at execve. */
static struct {
	int vcpu_mmap_size;
	bool have_sregs;
	struct kvm_sregs sregs; /* of a new vCPU, with our system registers put in */
	u64 xcr0;
	u32 xsave_size;
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entry[CPUID_ROOM];
	} cpuid;
} host;

const void *kvm_facts(u32 *len)
{
	*len = (u32)((u8 *)&host.cpuid.entry[host.cpuid.head.nent] - (u8 *)&host);
	return &host;
}

void kvm_take_facts(const void *facts, u32 len)
{
	if (len <= sizeof host)
		memcpy(&host, facts, len);
}

extern const u8 exception_stubs[], exception_stubs_end[];
#define STUB_STRIDE 8

/* Exception stubs: vector n exits through port PSB_PORT_EXC + n. Same stride for all: the IDT is computed. */
__asm__(".pushsection .rodata\n"
	".globl exception_stubs, exception_stubs_end\n"
	".hidden exception_stubs, exception_stubs_end\n"
	".balign 8\n"
	"exception_stubs:\n"
	".set n, 0\n"
	".rept 32\n"
	"	out %eax, $(0x40 + n)\n"
	"	hlt\n"
	"	.balign 8\n"
	".set n, n + 1\n"
	".endr\n"
	"exception_stubs_end:\n"
	".popsection\n");

/* Whether KVM shows RIP at the `out` of an exit (completed by the next KVM_RUN) or already behind it: a property of the
 * backend and of whether it emulates the instruction, found out at the first such exit. */
static enum { RIP_UNKNOWN, RIP_AT, RIP_BEHIND } out_rip;

static long kvm_ioctl(int fd, u64 request, u64 arg)
{
	return host_call(__NR_ioctl, fd, request, arg);
}

static void cpuid(u32 leaf, u32 sub, u32 out[4])
{
	__asm__("cpuid" : "=a"(out[0]), "=b"(out[1]), "=c"(out[2]), "=d"(out[3]) : "0"(leaf), "2"(sub));
}

u64 vm_sys_page(struct vm *vm)
{
	u64 p = atomic_load(&vm->sys_used);
	do {
		if (p + PAGE > SYS_SIZE)
			return 0;
	} while (!atomic_compare_exchange_weak(&vm->sys_used, &p, p + PAGE));
	return p;
}

/* Entry for one page of the system area at SYS_VA + offset; supervisor only. */
static void map_system_page(struct vm *vm, u64 offset, bool executable)
{
	u64 va = SYS_VA + offset;
	u64 *table = (u64 *)(vm->sys + SYS_PML4);
	for (int level = 3; level > 0; level--) {
		u64 *e = &table[(va >> (12 + 9 * level)) & 511];
		if (!(*e & 1)) {
			u64 p = vm_sys_page(vm);
			if (!p)
				fatal("no room for system page tables");
			*e = p | 0x63;
		}
		table = (u64 *)(vm->sys + (*e & 0xffffffffff000ull));
	}
	table[(va >> 12) & 511] = offset | (executable ? 0x61 : (1ull << 63) | 0x63);
}

long vm_init_system(struct vm *vm, u64 pool_len)
{
	vm->pool_len = pool_len;
	vm->sys = host_alloc(SYS_SIZE + pool_len);
	if (!vm->sys)
		return -ENOMEM;
	vm->sys_used = SYS_FIRST_FREE;
	u64 *gdt = (u64 *)(vm->sys + SYS_GDT);
	gdt[2] = 0x00af9b000000ffffull; /* 0x10: CPL 0 code, 64 bit */
	gdt[3] = 0x00cf93000000ffffull; /* 0x18: CPL 0 data */
	gdt[5] = 0x00cff3000000ffffull; /* 0x2b: CPL 3 data */
	gdt[6] = 0x00affb000000ffffull; /* 0x33: CPL 3 code, 64 bit; there is no 32-bit code segment */
	u64 *idt = (u64 *)(vm->sys + SYS_IDT);
	memcpy(vm->sys + SYS_STUBS, exception_stubs, (size_t)(exception_stubs_end - exception_stubs));
	for (u64 v = 0; v < 32; v++) {
		u64 handler = SYS_VA + SYS_STUBS + v * STUB_STRIDE;
		/* int3 and into may be raised from CPL 3, all others only by the CPU */
		u64 type = v == 3 || v == 4 ? 0xee00ull : 0x8e00ull;
		idt[2 * v] = (handler & 0xffff) | 0x10ull << 16 | type << 32 | (handler >> 16 & 0xffff) << 48;
		idt[2 * v + 1] = handler >> 32;
	}
	map_system_page(vm, SYS_GDT, false);
	map_system_page(vm, SYS_IDT, false);
	map_system_page(vm, SYS_STUBS, true);
	for (int i = 0; i < VCPU_MAX; i++)
		vm->vcpu[i].fd = -1;
	return 0;
}

/* Bits of CPUID leaf 7 that mean AVX-512. */
#define AVX512_EBX (1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31)
#define AVX512_ECX (1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14)
#define AVX512_EDX (1u << 2 | 1u << 3 | 1u << 8 | 1u << 23)
/* PKU, OSPKE, shadow stacks; IBT, AMX: state we do not carry */
#define NOT_CARRIED_ECX (1u << 3 | 1u << 4 | 1u << 7)
#define NOT_CARRIED_EDX (1u << 20 | 1u << 22 | 1u << 24 | 1u << 25)

/* Extended state the guest may use. It has to be all that the host's programs can: some kinds of KVM run the guest with the host's
 * XCR0 and let `cpuid` say so, and what is not asked for here is not saved with a signal. */
static u64 wanted_xcr0(u32 kvm_offers)
{
	u32 h[4], lo, hi;
	cpuid(1, 0, h);
	if (!(h[2] & 1u << 27) || !(h[2] & 1u << 28)) /* OSXSAVE, AVX */
		return XCR0_BASE;
	__asm__("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	if ((lo & XCR0_AVX) != XCR0_AVX)
		return XCR0_BASE;
	return (lo & kvm_offers & XCR0_AVX512) == XCR0_AVX512 ? XCR0_AVX512 : XCR0_AVX;
}

/* Bytes of the XSAVE area in standard format. */
static u32 xsave_area(u64 xcr0)
{
	u32 size = 576, h[4];
	for (u32 i = 2; i < 32; i++) {
		if (!(xcr0 >> i & 1))
			continue;
		cpuid(0xd, i, h);
		if (h[0] + h[1] > size)
			size = h[0] + h[1];
	}
	return size;
}

static const struct kvm_cpuid_entry2 *cpuid_entry(u32 function)
{
	for (u32 i = 0; i < host.cpuid.head.nent; i++)
		if (host.cpuid.entry[i].function == function && !host.cpuid.entry[i].index)
			return &host.cpuid.entry[i];
	return NULL;
}

/* CPUID for the guest: what KVM supports, plus AVX where the host has it and KVM merely omits it (it loads XCR0 as
 * asked). Features whose state is outside host.xcr0 are taken away. */
static void prepare_cpuid(int kvm_fd)
{
	host.cpuid.head.nent = CPUID_ROOM;
	long r = kvm_ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, (u64)&host.cpuid);
	if (IS_ERR(r))
		fatal("KVM_GET_SUPPORTED_CPUID: error %d", (int)-r);
	u32 h[4];
	const struct kvm_cpuid_entry2 *states = cpuid_entry(0xd);
	host.xcr0 = wanted_xcr0(states ? states->eax : 0);
	host.xsave_size = xsave_area(host.xcr0);
	bool avx = host.xcr0 & 4, avx512 = host.xcr0 == XCR0_AVX512;
	bool have_d0 = false;
	for (u32 i = 0; i < host.cpuid.head.nent; i++) {
		struct kvm_cpuid_entry2 *e = &host.cpuid.entry[i];
		cpuid(e->function, e->index, h);
		switch (e->function) {
		case 1:
			if (avx) /* FMA, XSAVE, OSXSAVE, AVX, F16C as the host has them */
				e->ecx |= h[2] & (1u << 12 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 29);
			break;
		case 7:
			if (e->index)
				break;
			if (avx)
				e->ebx |= h[1] & (1u << 5); /* AVX2 */
			e->ebx = (e->ebx & ~(AVX512_EBX | 1u << 14 /* MPX */)) | (avx512 ? h[1] & AVX512_EBX : 0);
			e->ecx = (e->ecx & ~(AVX512_ECX | NOT_CARRIED_ECX)) | (avx512 ? h[2] & AVX512_ECX : 0);
			e->edx = (e->edx & ~(AVX512_EDX | NOT_CARRIED_EDX)) | (avx512 ? h[3] & AVX512_EDX : 0);
			break;
		case 0xd:
			if (e->index == 0) {
				have_d0 = true;
				e->eax = (u32)host.xcr0;
				e->edx = 0;
				e->ebx = e->ecx = host.xsave_size;
			} else if (e->index == 1) {
				e->eax &= 1; /* xsaveopt only */
				e->ebx = e->ecx = e->edx = 0;
			} else if (e->index >= 2 && !(host.xcr0 >> e->index & 1)) {
				e->eax = e->ebx = e->ecx = e->edx = 0;
			}
			break;
		}
	}
	struct kvm_cpuid_entry2 *extra = &host.cpuid.entry[host.cpuid.head.nent];
	if (!have_d0 && avx && host.cpuid.head.nent + 3 <= CPUID_ROOM) {
		cpuid(0xd, 2, h);
		extra[0] = (struct kvm_cpuid_entry2){.function = 0xd, .index = 0, .flags = 1, .eax = 7, .ebx = 832, .ecx = 832};
		extra[1] = (struct kvm_cpuid_entry2){.function = 0xd, .index = 1, .flags = 1};
		extra[2] = (struct kvm_cpuid_entry2){.function = 0xd, .index = 2, .flags = 1, .eax = h[0], .ebx = h[1], .ecx = h[2]};
		host.cpuid.head.nent += 3;
	}
}

u64 vcpu_xcr0(void)
{
	return host.xcr0;
}

u32 vcpu_xsave_size(void)
{
	return host.xsave_size;
}

static long add_slot(struct vm *vm, u32 slot, u64 gpa, u64 size, u64 hva)
{
	struct kvm_userspace_memory_region r = {.slot = slot, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = hva};
	return kvm_ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, (u64)&r);
}

long vm_create(struct vm *vm, int kvm_fd)
{
	long fd = kvm_ioctl(kvm_fd, KVM_CREATE_VM, 0);
	if (IS_ERR(fd))
		return fd;
	vm->fd = (int)fd;
	if (!host.vcpu_mmap_size) {
		long size = kvm_ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
		if (IS_ERR(size))
			return size;
		prepare_cpuid(kvm_fd);
		host.vcpu_mmap_size = (int)size;
	}
	return add_slot(vm, 0, SYS_GPA, SYS_SIZE + vm->pool_len, (u64)vm->sys);
}

void vm_forget(struct vm *vm)
{
	for (int i = 0; i < VCPU_MAX; i++) {
		struct vcpu *v = &vm->vcpu[i];
		if (v->fd < 0)
			continue;
		/* the run page is MAP_SHARED of the parent's vCPU: drop it before anything reads it */
		host_call(__NR_munmap, v->run, host.vcpu_mmap_size);
		host_call(__NR_close, v->fd);
		v->fd = -1;
		v->in_use = false;
	}
	host_call(__NR_close, vm->fd);
	vm->fd = -1;
}

long vm_add_chunk(struct vm *vm, u32 index, u64 va)
{
	return add_slot(vm, 1 + index, CHUNK_GPA(index), CHUNK_SIZE, va);
}

static const struct kvm_segment user_cs = {.limit = 0xffffffff, .selector = SEG_CS, .type = 11, .present = 1, .dpl = 3, .s = 1, .l = 1, .g = 1};
static const struct kvm_segment user_ds = {.limit = 0xffffffff, .selector = SEG_DS, .type = 3, .present = 1, .dpl = 3, .db = 1, .s = 1, .g = 1};

/* The guest's TSC must equal the host's: the vDSO's clock needs it. Offset 0 by attribute, else by writing the MSR. */
static void set_tsc(int fd)
{
	u64 zero = 0;
	struct kvm_device_attr attr = {.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (u64)&zero};
	kvm_ioctl(fd, KVM_SET_DEVICE_ATTR, (u64)&attr);
}

static void set_msrs(struct vm *vm, struct vcpu *v)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[3];
	} m = {.head.nmsrs = 3};
	m.entry[0].index = MSR_STAR;
	m.entry[0].data = 0x10ull << 32 | 0x23ull << 48;
	m.entry[1].index = MSR_LSTAR;
	m.entry[1].data = vm->stub_va;
	m.entry[2].index = MSR_SFMASK;
	m.entry[2].data = 0x100; /* TF: the stub is nothing to step through */
	long r = kvm_ioctl(v->fd, KVM_SET_MSRS, (u64)&m);
	if (r != 3)
		fatal("KVM_SET_MSRS: %d", (int)r);
}

static long vcpu_create(struct vm *vm, struct proc *p, int id)
{
	struct vcpu *v = &vm->vcpu[id];
	long fd = kvm_ioctl(vm->fd, KVM_CREATE_VCPU, (u64)id);
	if (IS_ERR(fd))
		return fd;
	long run = host_call(__NR_mmap, 0, host.vcpu_mmap_size, 3, 1 /* MAP_SHARED */, fd, 0);
	if (IS_ERR(run)) {
		host_call(__NR_close, fd);
		return run;
	}
	v->fd = fd_move_high(p, (int)fd, true); /* out of the numbers the guest gets */
	v->run = (struct kvm_run *)run;
	long r = kvm_ioctl(v->fd, KVM_SET_CPUID2, (u64)&host.cpuid);
	if (IS_ERR(r))
		fatal("KVM_SET_CPUID2: error %d", (int)-r);
	struct kvm_xcrs x = {.nr_xcrs = 1};
	x.xcrs[0].value = host.xcr0;
	r = kvm_ioctl(v->fd, KVM_SET_XCRS, (u64)&x);
	if (IS_ERR(r))
		fatal("KVM_SET_XCRS: error %d", (int)-r);
	set_tsc(v->fd);
	if (!host.have_sregs) {
		r = kvm_ioctl(v->fd, KVM_GET_SREGS, (u64)&host.sregs);
		if (IS_ERR(r))
			fatal("KVM_GET_SREGS: error %d", (int)-r);
		struct kvm_sregs *s = &host.sregs;
		s->cr0 = 0x80050033;                         /* PG AM WP NE ET MP PE */
		s->cr4 = 0x20 | 0x600;                       /* PAE OSFXSR OSXMMEXCPT; not FSGSBASE, see emulate.c */
		s->efer = 0x500 | 1 | 0x800;                 /* LMA LME SCE NX */
		if (host.xcr0 & 4 || host.xsave_size)
			s->cr4 |= 1 << 18;                   /* OSXSAVE: xgetbv and AVX at CPL 3 */
		s->cr3 = SYS_PML4;
		s->gdt.base = SYS_VA + SYS_GDT;
		s->gdt.limit = 0x7f;
		s->idt.base = SYS_VA + SYS_IDT;
		s->idt.limit = 32 * 16 - 1;
		s->cs = user_cs;
		s->ds = s->es = s->fs = s->gs = s->ss = user_ds;
		host.have_sregs = true;
	}
	return 0;
}

long vcpu_attach(struct vm *vm, struct thread *t)
{
	lock_acquire(&vm->lock);
	int id = 0;
	while (id < VCPU_MAX && vm->vcpu[id].in_use)
		id++;
	if (id == VCPU_MAX) {
		lock_release(&vm->lock);
		return -EAGAIN;
	}
	struct vcpu *v = &vm->vcpu[id];
	if (v->fd < 0) {
		long r = vcpu_create(vm, t->proc, id);
		if (r) {
			lock_release(&vm->lock);
			return r;
		}
	}
	if (!v->tss) {
		/* task-state segment and the stack that exceptions push their frame on, one pair a vCPU */
		u64 tss = vm_sys_page(vm), stack = vm_sys_page(vm);
		if (!tss || !stack) {
			lock_release(&vm->lock);
			return -ENOMEM;
		}
		map_system_page(vm, tss, false);
		map_system_page(vm, stack, false);
		u64 rsp0 = SYS_VA + stack + PAGE;
		memcpy(vm->sys + tss + 4, &rsp0, 8);
		/* I/O permission bitmap: our ports are allowed at CPL 3 whatever IOPL is (a `syscall` may lose IOPL on its
		 * way to the stub); the byte behind the bitmap is all ones, as the CPU wants it. */
		*(u16 *)(vm->sys + tss + 102) = TSS_SIZE;
		vm->sys[tss + TSS_SIZE + PORTS / 8] = 0xff;
		v->tss = tss;
		v->stack = stack;
	}
	v->in_use = true;
	lock_release(&vm->lock);
	t->vcpu_id = id;
	t->vcpu_fd = v->fd;
	t->run = v->run;
	t->exception_frame = (u64 *)(vm->sys + v->stack + PAGE);
	t->io_pending = false;
	t->run->kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
	t->run->immediate_exit = 0;
	struct kvm_sregs *s = &t->run->s.regs.sregs;
	*s = host.sregs;
	s->tr = (struct kvm_segment){.base = SYS_VA + v->tss, .limit = TSS_SIZE + PORTS / 8, .selector = 0x40, .type = 11, .present = 1};
	t->run->kvm_dirty_regs = 0;
	/* By ioctl, not with the first KVM_RUN: that would load RFLAGS before the CPU is in protected mode. */
	long r = kvm_ioctl(v->fd, KVM_SET_SREGS, (u64)s);
	if (r) {
		vcpu_release(vm, t);
		return r;
	}
	set_msrs(vm, v);
	return 0;
}

void vcpu_release(struct vm *vm, struct thread *t)
{
	lock_acquire(&vm->lock);
	vm->vcpu[t->vcpu_id].in_use = false;
	lock_release(&vm->lock);
}

void vcpu_set_user(struct thread *t, u64 rip, u64 rsp, u64 fs)
{
	struct kvm_regs *r = &t->run->s.regs.regs;
	*r = (struct kvm_regs){.rip = rip, .rsp = rsp, .rflags = 0x3202};
	t->run->s.regs.sregs.fs.base = fs;
	t->run->s.regs.sregs.gs.base = (u64)t->slot;
	t->run->kvm_dirty_regs |= KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
}

void vcpu_to_user(struct thread *t)
{
	struct kvm_sregs *s = &t->run->s.regs.sregs;
	s->cs = user_cs;
	s->ss = user_ds;
	t->run->kvm_dirty_regs |= KVM_SYNC_X86_SREGS;
}

struct kvm_regs *vcpu_settle(struct thread *t)
{
	if (t->io_pending) {
		/* Let KVM complete the `out` (move RIP behind it) without running the guest. */
		t->run->immediate_exit = 1;
		long r = kvm_ioctl(t->vcpu_fd, KVM_RUN, 0);
		t->run->immediate_exit = 0;
		if (r != -EINTR)
			fatal("completing an exit: %d", (int)r);
		t->io_pending = false;
		t->run->kvm_dirty_regs = 0;
		if (t->sig_pending) /* a signal in between set the flag that was just cleared */
			t->run->immediate_exit = 1;
	}
	return &t->run->s.regs.regs;
}

void vcpu_regs_changed(struct thread *t)
{
	t->run->s.regs.regs.rflags = (t->run->s.regs.regs.rflags & 0x240dd5ul) | 0x3202;
	t->run->kvm_dirty_regs |= KVM_SYNC_X86_REGS;
}

u64 vcpu_get_fs(struct thread *t)
{
	return t->run->s.regs.sregs.fs.base;
}

void vcpu_set_fs(struct thread *t, u64 base)
{
	t->run->s.regs.sregs.fs.base = base;
	t->run->kvm_dirty_regs |= KVM_SYNC_X86_SREGS;
}

u64 vcpu_get_gs(struct thread *t)
{
	return t->run->s.regs.sregs.gs.base;
}

void vcpu_set_gs(struct thread *t, u64 base)
{
	t->run->s.regs.sregs.gs.base = base;
	t->run->kvm_dirty_regs |= KVM_SYNC_X86_SREGS;
}

long vcpu_get_xsave(struct thread *t, void *buf)
{
	return kvm_ioctl(t->vcpu_fd, KVM_GET_XSAVE, (u64)buf);
}

long vcpu_set_xsave(struct thread *t, const void *buf)
{
	return kvm_ioctl(t->vcpu_fd, KVM_SET_XSAVE, (u64)buf);
}

bool vcpu_in_exception(struct thread *t)
{
	struct kvm_vcpu_events e;
	long r = kvm_ioctl(t->vcpu_fd, KVM_GET_VCPU_EVENTS, (u64)&e);
	if (r)
		fatal("KVM_GET_VCPU_EVENTS: error %d", (int)-r);
	return e.exception.injected || e.exception.pending;
}

void vcpu_forget_exception(struct thread *t)
{
	static const struct kvm_vcpu_events none; /* no interrupts and no NMIs either: there never are */
	long r = kvm_ioctl(t->vcpu_fd, KVM_SET_VCPU_EVENTS, (u64)&none);
	if (r)
		fatal("KVM_SET_VCPU_EVENTS: error %d", (int)-r);
}

long vcpu_run(struct thread *t)
{
	long r = kvm_ioctl(t->vcpu_fd, KVM_RUN, 0);
	if (r == -EAGAIN)
		return r; /* the VM got no thread of KVM's own: nothing was looked at, the registers are still to be taken over */
	t->run->kvm_dirty_regs = 0;
	t->io_pending = r == 0 && t->run->exit_reason == KVM_EXIT_IO && out_rip != RIP_BEHIND;
	return r;
}

u64 vcpu_out_site(struct thread *t)
{
	if (out_rip == RIP_UNKNOWN) {
		u64 before = t->run->s.regs.regs.rip;
		u64 after = vcpu_settle(t)->rip;
		out_rip = before == after ? RIP_BEHIND : RIP_AT;
	}
	return t->run->s.regs.regs.rip - (t->io_pending ? 0 : 2);
}
