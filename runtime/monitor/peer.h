/* Processes of one container about each other: what a program may see of another one in /proc/PID. peer.c answers, peer_ask.c asks,
 * procfs_peer.c makes procfs of it. */
#ifndef PSB_PEER_H
#define PSB_PEER_H

#include "linux_abi.h"
#include "monitor.h"

/* What can be asked for. Text answers have no NUL behind them. */
enum peer_question {
	PEER_FD = 1,  /* link text of a published descriptor, and its struct stat */
	PEER_CWD,     /* the same of the working directory */
	PEER_ROOT,    /* and of the root */
	PEER_FDS,     /* bit map of the published numbers */
	PEER_TASKS,   /* i32 for each thread of the program */
	PEER_FDINFO,  /* text of fdinfo/N */
	PEER_ENVIRON, /* block `number` of environ: PEER_ROOM bytes, the last one fewer */
	PEER_MAPS,    /* and of maps */
	PEER_AUXV,
};

#define PEER_ROOM 4096u

struct peer_answer {
	struct stat_k st;
	u32 len;
	char text[PEER_ROOM + 1]; /* ends in NUL behind `len` bytes */
};

struct vault;
/* Takes a record for this process, on which nobody asks before peer_open(). Without one (no room) nobody learns anything. */
void peer_start(struct proc *p, const struct vault *v);
void peer_open(struct proc *p);
/* Before an execve: waits for a question under way. Afterwards no signal of an asker is to be expected. */
void peer_close(struct proc *p);
void peer_gone(struct proc *p);
void peer_set_dumpable(struct proc *p, bool dumpable);

/* In the host's signal handler: is this signal a question? It is answered then, and nothing else. */
struct siginfo_k;
bool peer_signal(struct thread *t, const struct siginfo_k *info);
/* `asked` counted on during a host call that began at TSC `started` and returned *r: true when it has to be made again, with arg
 * changed from `first`, as it was at the beginning, to the time that is left (`room`: a struct timespec for it). */
bool peer_again(struct thread *t, u32 asked, u64 started, long nr, const u64 first[6], u64 arg[6], u64 room[2], long *r);

/* The same for a struct timespec: what is left of `spec`. */
void peer_time_left(u64 started, const u64 spec[2], u64 left[2]);

/* Path of the program that `pid` runs: length, or -errno. */
long peer_exe(struct thread *t, u32 pid, char *buf, u64 cap);
/* 0 or -errno: -EACCES if the caller has no right to know it, the process has no record, or does not answer. */
long peer_ask(struct thread *t, u32 pid, enum peer_question kind, i32 number, struct peer_answer *a);
/* procfs_peer.c: after a walk that ended with EACCES: the struct stat of what it led to, if that is known, though no path leads there. */
bool peer_found(struct thread *t, void *st);
/* open() was refused: if the name is of a file that another process' monitor tells about, a descriptor of what it says, else -EACCES. */
long peer_open_file(struct thread *t, int dirfd, const char *path, u64 flags);
/* What of status is not the kernel's to say. No right is needed for it. */
struct peer_status {
	u32 threads;      /* of the program; 0: nothing is known */
	u8 no_new_privs;
	u8 caught, ignored; /* bit 0: SIGSEGV, 1: SIGBUS */
	u8 seccomp; /* SECCOMP_MODE_* of its own, or 0 */
	u32 filters, unused; /* its own */
	u64 nofile[2], stack; /* RLIMIT_NOFILE, soft and hard; RLIMIT_STACK, soft: the host's are the monitor's */
};
struct peer_status peer_own_status(const struct proc *p);
void peer_tell_status(struct proc *p); /* something of it has changed */
struct peer_status peer_status(struct proc *p, u32 pid);

/* --- peer.c <-> peer_ask.c: the records, in a file that the monitors of a container share ---------------------------------- */

/* Low half of `word`, and the futex that askers wait on. The high half is the asker's pid. */
#define PEER_CLOSED 0u
#define PEER_OPEN 1u
#define PEER_ASKING 2u   /* an asker writes its question */
#define PEER_ASKED 3u    /* the signal is on its way */
#define PEER_ANSWERING 4u
#define PEER_ANSWERED 5u

struct peer_record {
	_Atomic u32 pid;      /* 0: free */
	_Atomic u32 dumpable; /* as the program has it */
	_Atomic u64 word;
	_Atomic u64 since;    /* CLOCK_BOOTTIME in ns when it was taken: a younger process is another one with this pid */
	struct peer_status status;
	u32 kind;
	i32 number;
	i32 result;           /* length of the answer, or -errno */
	struct stat_k st;
	_Atomic u32 closing;  /* nobody is to begin any more */
	_Atomic u32 exe_turn; /* odd while exe is written */
	char exe[3584];       /* "": too long */
	u8 unused[PAGE - 88 - sizeof(struct stat_k) - 3584];
	char answer[PEER_ROOM]; /* has memory from the first question on: who asks sees to it */
};
_Static_assert(sizeof(struct peer_record) == PSB_CTL_RECORD, "record");

#define PEER_PROBES 8u /* places that a pid may have its record in */
struct peer_record *peer_place(u32 pid, u32 probe); /* NULL: there are no records at all */
u64 peer_clock(void); /* CLOCK_BOOTTIME, ns */
long peer_reserve(int ctl_fd, const struct peer_record *r, bool answer);

/* The signal that carries a question. Not blocked by any monitor, and no program's own code. */
#define PEER_SIGNAL 7 /* SIGBUS */
#define PEER_CODE (-0x707362)
#define PEER_VALUE 0x6b73612d72656570ul
#define RING_VALUE 0x6b63696b676e6972ul /* no question: ring_kick() */

#endif
