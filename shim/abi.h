/* The ABI shared by the shim (guest), the monitor (host, C) and the runtime (Python).
 *
 * Everything that two of them must agree on is defined here, once: system-call slots, exit ports,
 * start record, vault, trace file, policy table and plan store. Python reads this header through
 * cffi-compatible declarations (no preprocessor tricks below the PSB_ABI_DECLS line but #define NAME NUMBER).
 * All structures are little-endian, naturally aligned, without implicit padding.
 */
#ifndef PSB_ABI_H
#define PSB_ABI_H

#define PSB_ABI_VERSION 1

/* Guest addresses end here; the monitor lives above. */
#define PSB_GUEST_LIMIT 0x700000000000

/* --- Ports: one `out %eax, $port` each, executed at CPL 3 (IOPL 3) or in a CPL 0 stub ----------- */
#define PSB_PORT_TRAP 0x11  /* a patched `syscall` instruction: E7 11, in place */
#define PSB_PORT_SHIM 0x12  /* shim, trap entry: registers as at `syscall`, RCX = return address */
#define PSB_PORT_CONT 0x13  /* shim: the slot was posted, the ring did not serve it; serve it now */
#define PSB_PORT_SIGCHECK 0x14 /* shim: call complete (RAX = result, RCX = return); deliver signals */
#define PSB_PORT_RAW 0x22   /* LSTAR stub: an unpatched `syscall` instruction */
#define PSB_PORT_EXC 0x40   /* exception stubs: port 0x40 + vector (0x40..0x5f) */

/* --- System-call slot: one per guest thread, found through GS base ------------------------------
 * Guest-writable, so the monitor believes nothing in it beyond "here is a request": it copies the
 * line once. Line 0 carries a whole request and its answer: one cache-line transfer each way.
 * `post` = byte-swapped return address, whose free low byte holds the state (bswap and mov leave the flags alone, as
 * `syscall` does); written last by the guest. The monitor answers by writing `nr_ret` and then `post` = PSB_SLOT_DONE
 * (or PSB_SLOT_TRAP). */
#define PSB_SLOT_SIZE 128
#define PSB_SLOT_NR_RET 0
#define PSB_SLOT_ARGS 8
#define PSB_SLOT_POST 56
#define PSB_SLOT_ENTRY 64   /* where trampolines jump: shim ring entry, or shim trap entry */
#define PSB_SLOT_PENDING 72 /* non-zero: a signal waits; the shim leaves through PSB_PORT_SIGCHECK */
#define PSB_SLOT_CPUID 80   /* where trampolines of `cpuid` jump, RBX = where to continue */
#define PSB_SLOT_SAVED 88   /* of the shim, while it answers `cpuid`: return address; EAX and ECX; RSI; RDI; flags */
#define PSB_SLOT_TAKEN 120   /* non-zero: the call now posted takes long and is in hand; the shim waits once more. In the last of SAVED,
                              * which is not in use while a call is posted; what stands there otherwise does no harm */
#define PSB_SLOT_IDLE 0
#define PSB_SLOT_POSTED 1
#define PSB_SLOT_DONE 2
#define PSB_SLOT_TRAP 3     /* this call may block or belongs to the thread: continue by PSB_PORT_CONT */

/* --- Verdicts, doors ------------------------------------------------------------------------- */
#define PSB_DOOR_JUMP 0
#define PSB_DOOR_TRAP 1
#define PSB_DOOR_RAW 2
#define PSB_DOOR_CPUID 3 /* in plans only: a `cpuid` instruction, answered by the shim from a table */

#define PSB_VERDICT_ALLOW 0
#define PSB_VERDICT_ERRNO 1
#define PSB_VERDICT_KILL_THREAD 2
#define PSB_VERDICT_KILL_PROCESS 3
#define PSB_VERDICT_TRAP 4
#define PSB_VERDICT_TRACE 5
#define PSB_VERDICT_LOG 6
#define PSB_VERDICT_NOTIFY 7
#define PSB_VERDICT_UNSUPPORTED 8 /* no row in the dispatcher's table: ENOSYS */
#define PSB_VERDICT_REFUSED 9     /* the monitor's own rules refuse (procfs, ioctl, pin, ...) */
#define PSB_RULE_OWN 0xffffffff   /* in the place of a rule's number: a filter that the program gave itself decided */

/* --- How a monitor is started ---------------------------------------------------------------
 * The launcher (first process) or a monitor (guest execve) executes the sealed monitor memfd with
 * execveat(fd, "", argv, envp, AT_EMPTY_PATH): argv and envp are the guest's own, so that
 * /proc/PID/cmdline and environ are right by themselves. AT_EXECFN is then "/dev/fd/N" and
 *     fd N   = the monitor memfd,  fd N+1 = the vault,  fd N+2 = the start record.
 * The record is the only message in the receive queue of a SOCK_DGRAM socket: no file, so RLIMIT_FSIZE does not matter.
 * All three are inheritable; none is published to the guest.
 * A start record with a `wait_fd` makes the monitor wait there before anything of the program is loaded: a listening
 * SOCK_SEQPACKET socket. Each connection carries one byte: ASK is answered by WAITING at once, START by STARTED when the
 * program is about to run; the end of the connection instead says that it will not. */
#define PSB_RELEASE_ASK 1
#define PSB_RELEASE_WAITING 2
#define PSB_RELEASE_START 3
#define PSB_RELEASE_STARTED 4
#define PSB_START_MAGIC 0x3154524154534250 /* "PBSTART1" */

#define PSB_DISPATCH_AUTO 0
#define PSB_DISPATCH_RING 1 /* the ring server never sleeps while calls may come */
#define PSB_DISPATCH_EXIT 2 /* no ring server: every call leaves the VM */
#define PSB_TRACE_RING 0
#define PSB_TRACE_FULL 1
#define PSB_TRACE_OFF 2
#define PSB_PIN_OFF 0
#define PSB_PIN_LOG 1
#define PSB_PIN_ENFORCE 2

/* The vault: one end of a SOCK_DGRAM socketpair (the other end closed) whose receive queue holds one
 * message: a struct psb_vault with the descriptors attached (SCM_RIGHTS), in the order of the roles.
 * Monitors read it with MSG_PEEK, use what they need and close it: descriptors in flight cannot be
 * reached through /proc/PID/fd, a socket cannot be reopened there, and nothing is lost by a peek. */
#define PSB_VAULT_MAGIC 0x31544c5541564250 /* "PBVAULT1" */
#define PSB_VAULT_MAX 16
#define PSB_FD_KVM 0        /* /dev/kvm, O_RDWR */
#define PSB_FD_MONITOR 1    /* sealed memfd with the monitor binary */
#define PSB_FD_TRACE 2      /* trace file, O_RDWR */
#define PSB_FD_POLICY 3     /* sealed memfd, struct psb_policy */
#define PSB_FD_PLAN_INDEX 4 /* memfd, struct psb_plan_index (read-only for monitors) */
#define PSB_FD_PLAN_STORE 5 /* plan store file, O_RDONLY */
#define PSB_FD_PROC 6       /* O_PATH directory: root of a procfs of the container's pid namespace */
#define PSB_FD_HOST_SELF 7  /* O_PATH|O_NOFOLLOW on the host procfs' `thread-self` symlink: tells host pid/tid */
#define PSB_FD_PLANNER 8    /* SOCK_SEQPACKET to the planner (optional): requests of struct psb_plan_wanted */
#define PSB_FD_CTL 9        /* file ROOT/ID/monitors, O_RDWR: shared by the container's monitors (struct psb_ctl) */
#define PSB_FD_NOTIFY 10    /* SOCK_SEQPACKET to who speaks with the agent (optional): requests of struct psb_notify_request */
#define PSB_FD_POOL 11      /* memfd, struct psb_pool: text shared and written by the container's monitors (optional) */

#define PSB_NOTIFY_MAGIC 0x315946544f4e4250 /* "PBNOTFY1" */
#define PSB_NOTIFY_ANSWER 0         /* the call's result is `error`, or `value` when that is 0 */
#define PSB_NOTIFY_CONTINUE 1       /* the call is made */
#define PSB_NOTIFY_ADD 2            /* a descriptor is attached; `value`: PSB_NOTIFY_CLOEXEC, _AT. Its number goes back (int64_t) */
#define PSB_NOTIFY_ADD_AND_ANSWER 3 /* and is the call's result */
#define PSB_NOTIFY_CLOEXEC 1
#define PSB_NOTIFY_AT 2 /* at the number `error`, in place of what has it */

#ifndef __ASSEMBLER__
#include <stdint.h>
/* PSB_ABI_DECLS */

struct psb_slot {
	uint64_t nr_ret;
	uint64_t args[6];
	uint64_t post;
	uint64_t entry;
	uint64_t pending;
	uint64_t cpuid;
	uint64_t saved[5];
};

/* What the shim answers `cpuid` with: entries behind its text up to the end of the page, the last with `end`. */
struct psb_cpuid {
	uint32_t function;
	uint32_t index;      /* ECX, under index_mask */
	uint32_t index_mask; /* 0: ECX does not matter */
	uint32_t end;        /* 1: no entry; what was not found is asked of the CPU itself */
	uint32_t eax;
	uint32_t ebx;
	uint32_t ecx;
	uint32_t edx;
};

struct psb_vault {
	uint64_t magic;
	uint32_t version;
	uint32_t nfds;
	uint32_t role[16]; /* PSB_FD_*, one per descriptor */
};

/* Start record. Strings are offsets into the record, NUL-terminated. */
struct psb_start {
	uint64_t magic;
	uint32_t version;
	uint32_t size;        /* of the whole record */
	uint32_t dispatch;    /* PSB_DISPATCH_* */
	uint32_t trace;       /* PSB_TRACE_* */
	uint32_t pin;         /* PSB_PIN_* */
	uint32_t is_exec;     /* 0: first program of the container (the monitor resolves the path itself);
	                         1: guest execve (exe_fd is open and checked) */
	int32_t exe_fd;       /* is_exec: the ELF to load, unpublished; else -1 */
	int32_t interp_fd;    /* is_exec: its PT_INTERP, unpublished, or -1 */
	uint32_t path_off;    /* canonical path of the program (for /proc/self/exe) */
	uint32_t execfn_off;  /* guest's AT_EXECFN */
	uint64_t stack_limit; /* guest's RLIMIT_STACK soft limit, bytes; ~0 = unlimited */
	uint64_t seq;         /* next trace sequence number of this process */
	uint32_t trace_chunk; /* chunk being written (~0: none) */
	uint32_t nfds;        /* numbers the map of published descriptors has a bit for, multiple of 64 */
	uint32_t fds_off;     /* uint64_t[nfds / 64] */
	uint32_t wait_fd;     /* descriptor to wait on for the release; 0: none */
	uint64_t exec_tsc;
	uint64_t nofile_soft; /* guest's RLIMIT_NOFILE; the host's is higher where the monitor needs more */
	uint64_t nofile_hard;
	uint32_t facts_off;   /* what another monitor has found out about this host (struct host_facts in runtime/monitor/proc.h; */
	uint32_t facts_len;   /* same binary, same boot), 0: nothing */
	uint32_t no_new_privs; /* what the guest is told; the host's flag is always set */
	uint32_t end_signal;  /* not 0: nothing is to run, the process ends by this signal */
	uint64_t ignored;     /* is_exec: bit n - 1: signal n is ignored */
	uint32_t facts_fd;    /* not 0: file to leave the facts in (struct psb_facts), before the program runs */
	uint32_t filters_off; /* is_exec: the program's own seccomp filters (runtime/monitor/seccomp.c), a multiple of 8 */
	uint32_t filters_len;
	uint32_t reserved;
};

/* A file next to the plans, one for each binary of the monitor and boot of the host: what a container's first monitor finds out, those
 * of later containers are told. PSB_FACTS_SIZE bytes, which are there from the beginning. */
#define PSB_FACTS_MAGIC 0x3153544346425350 /* "PSBFCTS1" */
#define PSB_FACTS_SIZE 16384

struct psb_facts {
	uint64_t magic;
	uint64_t len; /* of struct host_facts behind this; written last, 0 until then */
};

/* Shared by all monitors of one container: a page with this structure, then PSB_CTL_RECORDS records of PSB_CTL_RECORD bytes, one for a
 * process (runtime/monitor/peer.h), which have memory from their first use on. */
#define PSB_CTL_VERSION 2
#define PSB_CTL_RECORDS 1024
#define PSB_CTL_RECORD 8192

struct psb_ctl {
	uint32_t version;     /* PSB_CTL_VERSION */
	uint32_t ncpus;       /* CPUs the container may use */
	uint32_t spinners;    /* ring servers now polling */
	uint32_t reserved;
	uint64_t exits;       /* totals over finished processes */
	uint64_t ring_calls;
	uint64_t trap_calls;
	uint64_t raw_calls;
	uint64_t processes;
};

/* --- Trace file ---------------------------------------------------------------------------------
 * Page 0: struct psb_trace_header. Then chunks of chunk_size bytes. A process owns one chunk at a time, taken
 * with an atomic increment of next_chunk (ring: index modulo nchunks, skipping chunks that a live process still writes;
 * full: the file grows by fallocate). A chunk is a struct psb_trace_chunk followed by records, back to back.
 * Mode ring recycles the oldest closed chunk; mode full never recycles. */
#define PSB_TRACE_MAGIC 0x3145434152544250 /* "PBTRACE1" */
#define PSB_TRACE_HEADER_SIZE 4096
#define PSB_CHUNK_MAGIC 0x4b4e4843 /* "CHNK" */
#define PSB_CHUNK_FREE 0
#define PSB_CHUNK_ACTIVE 1
#define PSB_CHUNK_CLOSED 2

struct psb_trace_header {
	uint64_t magic;
	uint32_t version;
	uint32_t mode;        /* PSB_TRACE_RING or PSB_TRACE_FULL */
	uint32_t chunk_size;  /* bytes, multiple of the page size */
	uint32_t nchunks;     /* chunks in the file; atomic, grows only (ring: when live processes hold all of them) */
	uint64_t next_chunk;  /* ordinals given out so far; atomic. The first chunk's ordinal is 1 */
	uint64_t tsc0;        /* TSC and CLOCK_REALTIME (ns) read together at creation */
	uint64_t realtime0_ns;
	uint64_t tsc_khz;     /* 0: unknown, then readers calibrate with tsc1/realtime1_ns */
	uint64_t tsc1;        /* a second pair, refreshed by monitors when they close a chunk */
	uint64_t realtime1_ns;
	uint64_t lost;        /* records that could not be written (ring mode only; full mode refuses the call) */
	uint8_t id[256];      /* container id, NUL-terminated */
};

struct psb_trace_chunk {
	uint32_t magic;
	uint32_t state;       /* PSB_CHUNK_* */
	uint64_t ordinal;     /* allocation number, orders chunks of one process; 0: never used; bit 63: being set up */
	uint32_t host_pid;
	uint32_t pid;         /* in the container's pid namespace */
	uint64_t first_seq;
	uint64_t used;        /* bytes of complete records behind this header; atomic, grows only */
	uint64_t start_time;  /* process start, TSC: tells two users of one pid apart */
	uint8_t comm[16];
};

#define PSB_REC_CALL 1
#define PSB_REC_MAP 2     /* an executable file mapping: args = {address, length, file offset, dev, ino, offset
                             of its image in the plan store or 0}; payload: path */
#define PSB_REC_EXEC 3    /* program start; payload: path; args[0] = entry address */
#define PSB_REC_SIGNAL 4  /* delivered signal: args = {signo, si_code, si_addr or sender pid, handler, 0, 0} */
#define PSB_REC_EXIT 5    /* args[0] = wait status */
#define PSB_REC_FORK 6    /* written by the child first: args = {parent pid, clone flags} */
#define PSB_REC_RET 7     /* completes the call `seq` (takes no number of its own), whose chunk was left before it returned; a
                             verdict other than ALLOW replaces the one recorded before the call */


#define PSB_REC_DONE 1     /* flags: ret is valid */
#define PSB_REC_NORETURN 2 /* flags: call never returns (exit, execve that succeeded, rt_sigreturn) */

/* Payload items follow the record: struct psb_trace_item, then len bytes, padded to 8. */
#define PSB_ITEM_STRING 1   /* path or other NUL-free text */
#define PSB_ITEM_SOCKADDR 2 /* raw struct sockaddr */
#define PSB_ITEM_BYTES 3
#define PSB_ITEM_STRV 4     /* strings separated by NUL (argv) */

struct psb_trace_item {
	uint8_t type;         /* PSB_ITEM_* */
	uint8_t arg;          /* argument it decodes, 0..5; 255: none */
	uint16_t len;         /* bytes stored (may be a truncation) */
	uint32_t full_len;    /* bytes there were */
};

struct psb_trace_record {
	uint32_t size;        /* whole record with payload, multiple of 8 */
	uint8_t kind;         /* PSB_REC_* */
	uint8_t verdict;      /* PSB_VERDICT_* */
	uint8_t door;         /* PSB_DOOR_* */
	uint8_t flags;        /* PSB_REC_DONE, ... ; written last, with release order */
	uint64_t seq;
	uint64_t tsc;
	uint32_t tid;         /* container's view */
	uint32_t nr;          /* system call number */
	uint32_t rule;        /* 0: default action; else rule id */
	uint32_t reserved;
	uint64_t args[6];
	int64_t ret;
	uint64_t site;        /* address of the call instruction (0: unknown) */
	uint64_t tsc_end;
};

/* --- Policy table: linux.seccomp, compiled -----------------------------------------------------
 * blob = struct psb_policy, then nrules struct psb_policy_rule, then nconds struct psb_policy_cond.
 * For a number: rules [first, first+count) in order, the first whose conditions all hold decides;
 * none: the default. Numbers >= PSB_POLICY_NRS: the default. */
#define PSB_POLICY_MAGIC 0x31594c4f50425350 /* "PSBPOLY1" */
#define PSB_POLICY_NRS 512
#define PSB_POLICY_KILL_X32 1     /* flags: numbers with the x32 bit kill the thread */
#define PSB_POLICY_ENOSYS_ABOVE 2 /* flags: numbers >= PSB_POLICY_NRS are ENOSYS, not the default */
#define PSB_CMP_NE 1
#define PSB_CMP_LT 2
#define PSB_CMP_LE 3
#define PSB_CMP_EQ 4
#define PSB_CMP_GE 5
#define PSB_CMP_GT 6
#define PSB_CMP_MASKED_EQ 7

struct psb_policy_entry {
	uint32_t first;
	uint32_t count;
};

struct psb_policy {
	uint64_t magic;
	uint32_t version;
	uint32_t default_verdict; /* PSB_VERDICT_* */
	uint32_t default_data;    /* errno for ERRNO, message for TRACE/TRAP */
	uint32_t nrules;
	uint32_t nconds;
	uint32_t flags;
	struct psb_policy_entry entry[512];
};

struct psb_policy_rule {
	uint32_t verdict;
	uint32_t data;
	uint32_t id;              /* shown as `rule`: 1-based index of the seccomp.syscalls entry */
	uint32_t first_cond;
	uint32_t nconds;
	uint32_t reserved;
};

struct psb_policy_cond {
	uint32_t arg;             /* 0..5 */
	uint32_t op;              /* PSB_CMP_* */
	uint64_t mask;            /* MASKED_EQ: (arg & mask) == value; else ~0 */
	uint64_t value;
};

/* --- Plan store: rewritten text, shared by all processes ------------------------------------------
 * A patched *image* of an ELF's executable segments plus its trampolines lies page-aligned in the store file. When a
 * guest maps such an ELF executable, the monitor maps the image's pages (MAP_PRIVATE) in place of the file's: nothing is
 * copied or patched at map time, and all processes share the page cache. The image assumes its trampolines at
 * load base + tramp_vaddr; where that place is taken the file itself is mapped and the raw door serves it.
 * The index of a container names files by identity (a guest cannot set ctime). */
#define PSB_PLAN_INDEX_MAGIC 0x31584449504c4250 /* "PBLPIDX1" */
#define PSB_PLAN_IMAGE_MAGIC 0x31474d49504c4250 /* "PBLPIMG1" */
#define PSB_PLAN_MAX_SEGS 8

struct psb_plan_key {
	uint64_t dev;             /* st_dev as the monitor's fstat shows it */
	uint64_t ino;
	uint64_t size;
	uint64_t mtime_ns;
	uint64_t ctime_ns;
};

struct psb_plan_index_entry {
	struct psb_plan_key key;
	uint64_t store_off;       /* of the image header in the store file; 0: planned, nothing to patch */
	uint64_t store_len;
};

/* Entries [0, count) are valid; count is published with release order after the entry is written. */
struct psb_plan_index {
	uint64_t magic;
	uint32_t version;
	uint32_t capacity;
	uint64_t count;
	uint64_t reserved;
	/* struct psb_plan_index_entry entry[capacity] */
};

struct psb_plan_seg {
	uint64_t vaddr;           /* page-aligned p_vaddr of the patched pages */
	uint64_t file_off;        /* page-aligned file offset they replace */
	uint64_t len;             /* bytes, page multiple; the last page is zero-filled behind the file's end as mmap does */
	uint64_t image_off;       /* from the image header, page-aligned */
};

struct psb_plan_image {
	uint64_t magic;
	uint32_t version;
	uint32_t nsegs;
	uint8_t sha256[32];       /* of the original file */
	uint64_t total_len;       /* of the image in the store */
	uint64_t span;            /* last byte of any PT_LOAD, page-rounded, minus lowest page-rounded p_vaddr */
	uint64_t base_vaddr;      /* lowest page-rounded p_vaddr */
	uint64_t tramp_vaddr;     /* p_vaddr-style address of the trampolines (>= base_vaddr + span) */
	uint64_t tramp_len;       /* page multiple, 0: none */
	uint64_t tramp_off;       /* from the image header, page-aligned */
	uint64_t nsites;
	uint64_t sites_off;       /* from the image header: struct psb_plan_site[nsites], by vaddr */
	struct psb_plan_seg seg[8];
};

/* Pieces of files and of the plan store, copied once by the first monitor of a container that maps them: see
 * runtime/monitor/pool.c. Entries [0, count) may be looked at; one is valid when `ready` is set (release order). */
#define PSB_POOL_MAGIC 0x314c4f4f50425350 /* "PSBPOOL1" */
#define PSB_POOL_ENTRIES 100
#define PSB_POOL_HEAD 2           /* pages of struct psb_pool and its entries, in front of the pieces */

struct psb_pool_entry {
	struct psb_plan_key key;  /* of the file; dev ~0: the plan store */
	uint64_t offset;          /* bytes into that file, page multiple */
	uint64_t len;             /* page multiple */
	uint64_t page;            /* where the copy starts, in pages from the pool's start */
	uint32_t ready;
	uint32_t reserved;
};

struct psb_pool {
	uint64_t magic;
	uint32_t version;
	uint32_t count;           /* entries begun; may exceed PSB_POOL_ENTRIES */
	uint64_t next;            /* first page not given away */
	/* struct psb_pool_entry entry[PSB_POOL_ENTRIES] */
};

/* A trampoline: [moved instructions of before], `lea back(%rip),%rcx; jmp *%gs:PSB_SLOT_ENTRY`,
 * back: `lea site+2,%rcx` [moved instructions of after], `jmp resume`.
 * Of a cpuid: [before], `lea back(%rip),%rbx; jmp *%gs:PSB_SLOT_CPUID`, back: [after], `jmp resume`. */
struct psb_plan_site {
	uint64_t vaddr;           /* of the syscall (or cpuid) instruction */
	int32_t nr;               /* proven number or -1 */
	uint8_t door;             /* PSB_DOOR_JUMP, PSB_DOOR_TRAP or PSB_DOOR_CPUID */
	uint8_t window_before;    /* bytes of moved instructions in front of the site */
	uint8_t window_after;     /* bytes of moved instructions behind it */
	uint8_t reserved;
	uint32_t tramp;           /* offset of its trampoline in the trampoline area (jump door) */
	uint32_t tramp_back;      /* offset of `back` from the trampoline's start */
};

/* Datagram to the planner: an ELF was mapped executable without a plan. The descriptor (O_RDONLY) is attached. */
struct psb_plan_wanted {
	uint64_t magic;
	struct psb_plan_key key;
};

/* Verdict NOTIFY: a call that waits for an answer on the socket that is attached (SOCK_SEQPACKET). */
struct psb_notify_request {
	uint64_t magic;
	uint32_t nr;
	uint32_t arch;
	uint64_t ip;
	uint64_t args[6];
};

struct psb_notify_answer {
	uint32_t kind; /* PSB_NOTIFY_* */
	int32_t error;
	int64_t value;
};

#endif /* __ASSEMBLER__ */

#endif
