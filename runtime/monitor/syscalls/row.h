/* What a row of the system-call table is made of. A call exists for the guest only as a row: number, name, door, handler
 * (or PASS: the host kernel does it once the arguments were checked), flags, and a type for every argument. */
#ifndef PSB_SYSCALLS_ROW_H
#define PSB_SYSCALLS_ROW_H

#include "../monitor.h"

#define CALL_MAX 471 /* newest known number + 1 */

/* Which door may serve a call. */
enum call_door {
	DOOR_RING = 1, /* cheap and never blocks: the ring server makes it */
	DOOR_TRY,      /* its handler tries without blocking on the ring, and answers CALL_TO_TRAP otherwise */
	DOOR_TRAP,     /* belongs to the thread, or blocks: always on the thread itself */
};

enum arg_kind {
	A_NONE = 0,
	A_INT,   /* 32 bits, sign-extended */
	A_UINT,  /* 32 bits, zero-extended; flags, modes, uids */
	A_LONG,  /* 64 bits: sizes, offsets, opaque values */
	A_ADDR,  /* an address nobody dereferences (a cookie, a hint) */
	A_RANGE, /* guest memory range of `link` bytes that a memory call works on; outside: ENOMEM */
	A_FD,    /* must be published */
	A_FDOPT, /* -1, or must be published */
	A_MAPFD, /* mmap: must be published unless the flags in `link` say anonymous */
	A_ATFD,  /* AT_FDCWD or published; what is not becomes -1, which the kernel refuses only if it is used */
	A_PID,   /* 32 bits, signed: of a process or thread. Of a thread that is the monitor's: ESRCH */
	A_CLOCK, /* 32 bits, signed: a clock, which may be a thread's or a file's */
	A_PATH,  /* string, copied once; the copy is what the call uses */
	A_PATHN, /* the same, or NULL */
	A_STR,   /* a name that is not a path (attribute, file system type); copied like a path */
	A_STRN,  /* the same, or NULL */
	A_PTR,   /* `size` bytes */
	A_BUF,   /* as many bytes as argument `link` says */
	A_ARR,   /* `size` bytes times argument `link` */
	A_BITS,  /* node mask of argument `link` bits, in whole words */
	A_PAGEVEC, /* one byte for each page of argument `link` bytes */
	A_IOV,   /* struct iovec[argument `link`], copied once, every element checked */
	A_SADDR, /* struct sockaddr of argument `link` bytes, copied once */
	A_NEST,  /* `size` bytes with pointers inside: the handler copies them once and checks those */
	A_STRV,  /* NULL-terminated vector of strings: the handler copies it */
};

enum arg_dir { DIR_IN = 1, DIR_OUT = 2, DIR_INOUT = 3 };

struct arg {
	u8 kind, link, dir, pad;
	u32 size;
};

/* Row flags. */
#define F_FD 1       /* returns a new descriptor: checked and published */
#define F_BLOCK 2    /* may sleep: blocking_call() on the thread; DOOR_TRY: on the ring when its arguments say that it will not */
#define F_CLAMP 4    /* a length above MAX_RW is cut, as the kernel does */
#define F_NORETURN 8 /* does not come back when it succeeds */
#define F_CREDS 16   /* credentials: has to reach every host thread of the process */
#define F_OWN 32     /* the handler takes the arguments from struct call itself (address space, processes, signals) */

#define MAX_RW 0x7ffff000ul

typedef long (*call_handler)(struct thread *t, struct call *c);

struct row {
	const char *name;
	call_handler handler; /* NULL: PASS */
	u8 door;              /* 0: no such row */
	u8 nargs;
	u8 refuse;            /* errno of a call that is not offered, else 0 */
	u8 flags;
	struct arg arg[6];
};

extern const struct row call_table[CALL_MAX];

/* NULL for a number without row. */
static inline const struct row *row_of(u32 nr)
{
	return nr < CALL_MAX && call_table[nr].door ? &call_table[nr] : NULL;
}

/* The door of a number; unknown numbers are answered on the ring. */
enum call_door call_door(u32 nr);

#endif
