/* Processes and threads of the guest, the run loop and the ring server. */
#ifndef PSB_PROC_H
#define PSB_PROC_H

#include "kvm.h"
#include "mm.h"
#include "vault.h"

#define THREAD_FREE 0
#define THREAD_USED 1
#define THREAD_LEAVING 2   /* host thread still on its stack */
#define THREAD_STACK (64ul << 10)

/* The thread table: one entry for each thread that shares this address space (VCPU_MAX of them). Lives with the mm. */
struct threads {
	struct lock lock;
	struct thread *entry[VCPU_MAX]; /* allocated on first use, then reused */
};
extern struct threads threads;

/* Takes a free entry with stack and slot; NULL when all are used. */
struct thread *thread_take(struct proc *p);
void thread_give_back(struct thread *t);
/* The first thread, on the stack the kernel gave the monitor. */
struct thread *thread_first(struct proc *p);
/* Enters the guest until the process ends. */
_Noreturn void thread_run(struct thread *t);
_Noreturn void thread_run_on_stack(struct thread *t);
/* Makes the VM of a process from the vault's KVM descriptor. */
long proc_make_vm(struct proc *p);

struct proc *cp_prepare(struct proc *cp, const struct proc *p);
void proc_dispose(struct proc *cp);

/* release.c: waiting for `start`. first_number: of the descriptors that are the monitor's own */
void release_wait(int listener, int first_number);
void release_done(void);

/* proc_trace.c: process events in the trace */
void proc_read_host_pid(struct proc *p, const struct vault *v);
void proc_trace_start(struct proc *p, const struct vault *v, const struct psb_start *start);
void proc_trace_exec(struct proc *p, struct thread *t, u64 entry);
void proc_trace_fork(struct proc *p, int parent, u64 flags);
/* An executable mapping just made of the file `fd`. */
void proc_trace_map(struct proc *p, int tid, u64 addr, u64 len, int fd, u64 offset);
void proc_trace_exit(struct proc *p, struct thread *t, u64 status);

/* run.c: around a call on the thread itself. The ring server may be on its slot right now, or behind the answer of the call before: until
 * `busy` is taken, `call` and the scratch room are not the thread's. A holder that lost its CPU gets ours. */
void call_begin(struct thread *t);
void call_end(struct thread *t);

/* ring.c */
void ring_start(struct proc *p);
void ring_note_trap(struct thread *t);     /* a call took the trap door at a jumpable site: wake the server if it pays */
void ring_new_process(struct proc *p, struct thread *only); /* after fork, or in a vfork child */
void ring_thread_added(struct thread *t);
void ring_process_runs(struct proc *p, struct thread *t);
void ring_retire(struct proc *p);
void ring_dispose(struct proc *p);
void ring_absent(struct thread *t);
/* Interrupts the host call that the server makes, if that is one by ring_call(). */
void ring_kick(struct proc *p);
void ring_note_exit(u64 cycles);
extern u64 exit_cost;                      /* of leaving the guest and entering it again, TSC cycles: the least seen */
u64 ring_entry(const struct proc *p);      /* what a slot's `entry` should be now */
u64 trap_entry(const struct proc *p);
extern struct ring_counters {
	u64 exits, ring, trap, raw, faults, wakeups;
} counters;

/* cpuid.c: the shim's table, with the vCPU's answers: asked for by the first monitor, then taken from the one before */
void cpuid_fill_shim(struct mm *mm);
void cpuid_ask(struct thread *t);
const struct psb_cpuid *cpuid_answers(void); /* CPUID_TABLE of them */
void cpuid_take_answers(const struct psb_cpuid *answers);

/* robust.c: what a thread that ends does with its list */
void robust_release(struct thread *t);

/* emulate.c: true or 0 when the program can go on */
bool emulate_base_access(struct thread *t);
bool emulate_vsyscall(struct thread *t, u64 va);
bool gs_fault(struct thread *t); /* a trampoline that did not find the slot */
long gs_set(struct thread *t, u64 base);
u64 gs_get(struct thread *t);

/* plan.c */
long plan_open(struct proc *p, int index_fd, int store_fd, int planner_fd);
/* Identity of a regular file, as plans and the pool know it; false: it is no such file. */
bool plan_key(int fd, struct psb_plan_key *k);
/* mmap of a file (descriptor checked by the caller): uses the plan store for executable mappings. Same result as mm_map. */
long plan_map(struct proc *p, struct mm *mm, u64 addr, u64 len, u32 prot, u32 flags, int fd, u64 offset);

/* pool.c */
#define POOL_STORE_DEV (~0ul) /* in a key: the plan store */
u64 pool_size(int fd); /* bytes, 0: no pool of ours */
/* Maps the container's text pool behind the system area. On failure there is none. */
void pool_open(struct vm *vm, int fd);
/* The page of the pool where [offset, offset + len) of a file lies (page multiples), copied there if it was not. 0: not there. */
u32 pool_find(const struct psb_plan_key *k, int fd, u64 offset, u64 len);

/* loader.c */
struct image {
	u64 entry, phdr, base, end, interp_base;
	u16 phnum;
};
long load_program(struct proc *p, int exe_fd, int interp_fd, struct image *out);
/* What execve opened and found out. */
#define HEAD_SIZE 256
struct program {
	int exe_fd, interp_fd;
	u32 nprefix;         /* strings in front of the arguments: interpreter, its argument, script */
	char *prefix[16];
	char head[HEAD_SIZE];
	char path[4096];     /* canonical path of the ELF */
	char name[4096];     /* as execve was called: AT_EXECFN */
	char interp[4096];
	u32 store_used;
	char store[16384];
};
u64 build_stack(struct proc *p, const struct image *img, u64 argc, char **argv, char **envp, const char *execfn, const u64 *host_auxv);

/* facts.c. What a monitor found out about this host and hands to those that follow, because asking again would take longer than the
 * rest of their start. */
struct vdso_layout {
	u32 n, pad;
	struct {
		i64 offset; /* from the vDSO itself */
		u64 len;
	} part[8];
};
#define CPUID_TABLE 64u
struct host_facts {
	u64 sum;                     /* in a file: of all that follows */
	u32 cpu[8];                  /* leaves 1 and 7 of this CPU, where they do not name the processor */
	struct psb_cpuid cpuid[CPUID_TABLE];
	struct vdso_layout vdso;
	u64 exit_cost;               /* ring.c */
	u64 ring_backoff_until;      /* TSC; the ring server of this process found the CPUs busy */
	u8 kvm[12288];               /* kvm_facts(): as long as it is */
};
#define START_MAX (192ul << 10) /* a start record: facts, two paths, a bit for every descriptor number, filters */
const struct host_facts *facts_collect(struct proc *p, u32 *len);
/* Whether the record had some, of the CPU that this process is on. */
bool facts_take(struct proc *p, const struct psb_start *s);
/* For the containers to come. */
void facts_leave(struct proc *p, const struct psb_start *s);
/* Where the kernel put its vDSO and the data pages in front of it, relative to the vDSO; the same in every process of a boot. */
struct vdso_layout *vdso_facts(void);

/* exec.c: the container's first program, found by path; argv gets a script's interpreter in front. */
long exec_first(struct thread *t, struct program *prog, const char *path, u64 *argc, char ***argv);

/* A process that shares its signal handlers ends by this signal behind an execve, which parts it from them. Returns only when that fails. */
void exec_to_die(struct thread *t, int signo);

/* run.c */
/* Registers as they will be behind the system call now served (RIP set, RAX not). */
struct kvm_regs call_return_regs(struct thread *t, const struct call *c);

/* operand.c: address of the memory operand at RIP, 0: unknown */
u64 operand_address(struct thread *t);

extern const u8 shim_image[], shim_image_end[];

#endif
