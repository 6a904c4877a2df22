/* KVM backend: one VM per guest address space, one vCPU per guest thread. Everything that knows ioctls and x86 system
 * state is in kvm.c; the rest of the monitor sees registers and exits. */
#ifndef PSB_KVM_H
#define PSB_KVM_H

#include "monitor.h"

#define VCPU_MAX 512
#define SYS_GPA 0ul
#define SYS_SIZE (64ul << 20)  /* page tables, descriptor tables, TSSs: guest-physical 0 */
#define CHUNK_SIZE (64ul << 20)
#define POOL_GPA SYS_SIZE      /* the text pool: in the same memory slot, which saves 25 us where slots are dear */
#define POOL_MAX (64ul << 20)
#define CHUNK_GPA(index) (SYS_SIZE + POOL_MAX + (u64)(index) * CHUNK_SIZE)
#define SYS_VA 0xffff800000000000ul /* where supervisor-only pages are mapped */

/* Fixed pages in the system area. */
#define SYS_PML4 0x1000ul
#define SYS_GDT 0x2000ul
#define SYS_IDT 0x3000ul
#define SYS_STUBS 0x4000ul
#define SYS_FIRST_FREE 0x5000ul

struct vcpu {
	int fd;                /* -1: not created */
	bool in_use;
	u64 tss, stack;        /* system-area offsets, 0: not made yet; survive vm_forget */
	struct kvm_run *run;
};

struct vm {
	int fd;
	u8 *sys;               /* SYS_SIZE bytes, host address of guest-physical 0; the text pool follows */
	u64 pool_len;          /* bytes, 0: there is none */
	_Atomic u64 sys_used;  /* taken from under mm->lock (page tables) and under vm->lock (vCPUs) */
	u64 stub_va;           /* guest address of the LSTAR stub (shim_raw) */
	u32 nchunks;
	struct lock lock;
	struct vcpu vcpu[VCPU_MAX];
};

/* What was found out about KVM on this host, for the monitor that follows at an execve. */
const void *kvm_facts(u32 *len);
/* What a vCPU answers to `cpuid`, for the shim; at most `room` entries with the one that ends the table. After vm_create(). */
void kvm_cpuid_table(struct psb_cpuid *table, u64 room);
void kvm_take_facts(const void *facts, u32 len);
/* Creates the VM with its system slot. The system area must exist (vm_init_system). 0 or -errno. */
long vm_create(struct vm *vm, int kvm_fd);
/* Allocates and fills the system area: descriptor tables, exception stubs, empty top-level page table; behind it room for a pool of
 * `pool_len` bytes. */
long vm_init_system(struct vm *vm, u64 pool_len);
/* A forked child: same memory, no VM yet. Forgets the inherited descriptors (closing them). */
void vm_forget(struct vm *vm);
/* Adds the memory slot of chunk number `index` (guest-physical CHUNK_GPA) at host address va. */
long vm_add_chunk(struct vm *vm, u32 index, u64 va);
/* Zeroed page in the system area: its offset, or 0 when full. */
u64 vm_sys_page(struct vm *vm);
/* Takes a vCPU for the thread, creating one if none is idle. 0 or -errno. */
long vcpu_attach(struct vm *vm, struct thread *t);
void vcpu_release(struct vm *vm, struct thread *t);
/* Loads the initial user state: RIP, RSP, FS base; GS base = slot. */
void vcpu_set_user(struct thread *t, u64 rip, u64 rsp, u64 fs);
/* Address of the `out` instruction of the last exit (two bytes). */
u64 vcpu_out_site(struct thread *t);
/* After a syscall/exception stub ran at CPL 0: back to user segments. */
void vcpu_to_user(struct thread *t);
/* An exception is half delivered: the exit came while the CPU was at it, RIP still is that of its instruction, and the next KVM_RUN
 * delivers it, wherever RIP is by then. */
bool vcpu_in_exception(struct thread *t);
/* Nothing of the kind any more. */
void vcpu_forget_exception(struct thread *t);
/* Enter the guest; 0 on an exit to look at, -EINTR, or another -errno. */
long vcpu_run(struct thread *t);

#endif
