/* Trace writer: every process of a container writes its records into chunks of one shared file (shim/abi.h).
 *
 * Who may do what: a chunk is written by the process that claimed it, and only while it is that process's *current*
 * chunk. So a record is completed in place while its chunk is current, and by a PSB_REC_RET record afterwards; a
 * chunk that was left can be recycled at once, however long one of its calls goes on sleeping. */
#ifndef PSB_MONITOR_TRACE_H
#define PSB_MONITOR_TRACE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "../../shim/abi.h"
#include "host.h"

#define TRACE_PATH_MAX      4096 /* bytes of one payload item that are kept */
#define TRACE_ITEMS_MAX     6
#define TRACE_WINDOW_CHUNKS 2048u /* chunks mapped at a time, at most */

/* A new descriptor of the trace file (the caller closes it), or -errno. Asked for when the file has to grow or another
 * part of it must be mapped; the descriptor must not be reachable by the guest meanwhile. */
typedef int (*trace_open_fn)(void *ctx);

/* Names a record that may still be completed. Zeroed: no record, trace_end does nothing. */
struct trace_ref {
	uint64_t ordinal; /* of the chunk, 0: none */
	uint64_t seq;
	uint32_t offset; /* from the chunk's start */
	uint32_t nr;
	uint32_t tid;
	uint32_t pid; /* whose record: a forked child must not complete its parent's */
	bool refused; /* by the monitor's own rules, as it turned out: trace_end makes PSB_VERDICT_REFUSED of the verdict */
};

struct trace_item {
	const void *data;  /* monitor memory */
	uint32_t len;      /* bytes at data */
	uint32_t full_len; /* bytes there were before truncation; 0: len */
	uint8_t type;      /* PSB_ITEM_* */
	uint8_t arg;       /* argument it decodes, 255: none */
};

struct trace_event {
	uint8_t kind; /* PSB_REC_* */
	uint8_t verdict;
	uint8_t door;
	uint8_t flags; /* PSB_REC_DONE: `ret` is final already; PSB_REC_NORETURN; 0: trace_end will follow */
	uint32_t tid;
	uint32_t nr;
	uint32_t rule;
	uint64_t site;
	int64_t ret;
	const uint64_t *args;           /* six */
	const struct trace_item *items; /* NULL when nitems is 0 */
	uint32_t nitems;                /* at most TRACE_ITEMS_MAX */
};

/* One per guest process. All zero: tracing is off, and every function is a cheap no-op. */
struct tracer {
	_Atomic uint32_t lock;           /* a plain spin lock: releasing it costs no locked instruction */
	uint32_t mode;                   /* PSB_TRACE_*; meaningful while header is set */
	struct psb_trace_header *header; /* NULL: off */
	struct psb_trace_chunk *chunk;   /* current, NULL: none */
	uint64_t ordinal;                /* of the current chunk */
	uint32_t used;                   /* bytes of records in the current chunk */
	uint32_t room;                   /* bytes for records in any chunk */
	uint64_t seq;                    /* of the next record */
	uint8_t *window;                 /* mapped part of the file: chunks [window_first, +window_count) */
	uint32_t window_first, window_count;
	uint64_t touched[TRACE_WINDOW_CHUNKS / 64]; /* chunks of the window whose pages this process has mapped */
	uint64_t claimed_at;                        /* TSC */
	uint32_t index;                             /* of the current chunk in the file */
	uint32_t chunk_size;
	uint32_t pid, host_pid;
	uint32_t backoff;    /* ring: records still to lose before looking for a chunk again */
	uint64_t start_time; /* TSC */
	uint8_t comm[16];
	trace_open_fn open_file;
	void *open_ctx;
};

/* Attach a process to the trace file `fd` (may be closed afterwards). `start` is the process's start record: its `trace`,
 * `seq` and `trace_chunk` are honoured, so that a process continues its own chunk behind an execve. 0 or -errno (the
 * file is not a trace file, or no memory); with PSB_TRACE_OFF always 0. */
long tracer_attach(struct tracer *tr, int fd, const struct psb_start *start, trace_open_fn open_file, void *open_ctx);
/* Who writes: pids as the container and as the host see them (host_pid 0: unknown) and the process name. */
void tracer_identify(struct tracer *tr, uint32_t pid, uint32_t host_pid, const char *comm);
/* TSC frequency, once it is known. */
void tracer_set_tsc_khz(struct tracer *tr, uint32_t khz);

/* Write one record. 0 and *ref (may be NULL when flags are final); or -errno: the record does not exist and, in mode
 * full, the call must not be made (answer the guest this errno). Mode ring never fails: it counts a lost record. */
long trace_write(struct tracer *tr, const struct trace_event *ev, struct trace_ref *ref);
/* Complete a record: `ret` as the guest sees it. At most once a record; *ref is cleared. */
void trace_end(struct tracer *tr, struct trace_ref *ref, int64_t ret);
/* The call of this record will not return (exit, execve about to succeed, rt_sigreturn). If it returns all the same (execve
 * failed late) trace_end may still follow. */
void trace_noreturn(struct tracer *tr, const struct trace_ref *ref);

/* Around a host fork, so that no thread is in the middle of a record in the child's copy. */
void tracer_lock(struct tracer *tr);
void tracer_unlock(struct tracer *tr);
/* In the copy of a tracer that belongs to a new process (forked, or sharing memory): forgets the parent's chunk,
 * sequence and lock. Then tracer_identify, then the PSB_REC_FORK record. */
void tracer_init_child(struct tracer *tr);
/* Before execve: where the next monitor continues. The chunk stays this process's. */
void trace_exec_save(struct tracer *tr, struct psb_start *start);
/* Process end: closes the chunk. Nothing is written afterwards. */
void trace_close(struct tracer *tr);

#endif
