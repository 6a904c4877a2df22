/* Trace writer. The file is mapped above the guest limit only: the guest can neither read nor write it. A record is complete in
 * memory before the call it tells of is made. */
#include "trace.h"
#include "host.h"

#define MAP_SHARED 1
#define PROT_RW 3
#define LEAST_ROOM 1024u /* a chunk with less is full: paths would be cut short */
#define KIND_MAX_CHUNK (1u << 24)

void tracer_lock(struct tracer *tr)
{
	lock_acquire((struct lock *)&tr->lock);
}

void tracer_unlock(struct tracer *tr)
{
	lock_release((struct lock *)&tr->lock);
}

/* The header is shared memory: its geometry is read once and must fit the file. */
static bool geometry_ok(const struct psb_trace_header *h, u64 file_size)
{
	return h->magic == PSB_TRACE_MAGIC && h->version == PSB_ABI_VERSION && h->chunk_size >= PAGE && h->chunk_size % PAGE == 0 &&
	       h->chunk_size <= KIND_MAX_CHUNK &&
	       (h->mode == PSB_TRACE_FULL || (h->nchunks && h->nchunks <= (file_size - PSB_TRACE_HEADER_SIZE) / h->chunk_size));
}

static struct psb_trace_chunk *ring_chunk(const struct tracer *tr, u64 index)
{
	return (struct psb_trace_chunk *)(tr->window + index * tr->chunk_size);
}

static void use_chunk(struct tracer *tr, struct psb_trace_chunk *c, u32 index)
{
	tr->chunk = c;
	tr->index = index;
	tr->ordinal = c->ordinal;
	tr->used = (u32)c->used;
}

/* execve: go on in the chunk of the program before, if it is still this process's. */
static void continue_chunk(struct tracer *tr, u32 index)
{
	if (tr->mode != PSB_TRACE_RING || index >= tr->window_count)
		return;
	struct psb_trace_chunk *c = ring_chunk(tr, index);
	if (c->magic != PSB_CHUNK_MAGIC || c->state != PSB_CHUNK_ACTIVE || c->pid != (u32)host_call(__NR_getpid) || c->used > tr->room)
		return;
	use_chunk(tr, c, index);
	tr->start_time = c->start_time;
}

long tracer_attach(struct tracer *tr, int fd, const struct psb_start *start, trace_open_fn open_file, void *open_ctx)
{
	u64 st[18];
	if (start->trace == PSB_TRACE_OFF)
		return 0;
	long r = host_call(__NR_fstat, fd, st);
	if (r)
		return r;
	if (st[6] < PSB_TRACE_HEADER_SIZE)
		return -EINVAL;
	u64 len = start->trace == PSB_TRACE_RING ? st[6] : PSB_TRACE_HEADER_SIZE;
	long m = host_call(__NR_mmap, 0, len, PROT_RW, MAP_SHARED, fd, 0);
	if (IS_ERR(m))
		return m;
	struct psb_trace_header *h = (struct psb_trace_header *)m;
	if (!geometry_ok(h, st[6])) {
		host_call(__NR_munmap, m, len);
		return -EINVAL;
	}
	tr->mode = start->trace;
	tr->chunk_size = h->chunk_size;
	tr->room = h->chunk_size - (u32)sizeof(struct psb_trace_chunk);
	tr->window = (u8 *)h + PSB_TRACE_HEADER_SIZE;
	tr->window_count = tr->mode == PSB_TRACE_RING ? h->nchunks : 0;
	tr->seq = start->seq;
	tr->start_time = rdtsc();
	tr->open_file = open_file;
	tr->open_ctx = open_ctx;
	tr->header = h;
	if (!h->tsc0) {
		i64 ts[2];
		if (!host_call(__NR_clock_gettime, 0, ts)) {
			h->realtime0_ns = (u64)ts[0] * 1000000000u + (u64)ts[1];
			h->tsc0 = rdtsc();
		}
	}
	if (start->is_exec)
		continue_chunk(tr, start->trace_chunk);
	return 0;
}

void tracer_identify(struct tracer *tr, uint32_t pid, uint32_t host_pid, const char *comm)
{
	tr->pid = pid;
	tr->host_pid = host_pid;
	memset(tr->comm, 0, sizeof tr->comm);
	memcpy(tr->comm, comm, strnlen(comm, sizeof tr->comm - 1));
	if (tr->chunk)
		memcpy(tr->chunk->comm, tr->comm, sizeof tr->comm);
}

void tracer_set_tsc_khz(struct tracer *tr, uint32_t khz)
{
	if (tr->header)
		tr->header->tsc_khz = khz;
}

void tracer_init_child(struct tracer *tr)
{
	tr->lock = 0;
	tr->chunk = NULL;
	tr->seq = 0;
	tr->start_time = rdtsc();
}

void trace_exec_save(struct tracer *tr, struct psb_start *start)
{
	start->seq = tr->seq;
	start->trace_chunk = tr->chunk ? tr->index : ~0u;
}

static void leave_chunk(struct tracer *tr)
{
	if (!tr->chunk)
		return;
	i64 ts[2];
	if (!host_call(__NR_clock_gettime, 0, ts)) { /* a second pair of clocks, for readers that have to convert TSC */
		tr->header->tsc1 = rdtsc();
		tr->header->realtime1_ns = (u64)ts[0] * 1000000000u + (u64)ts[1];
	}
	__atomic_store_n(&tr->chunk->state, PSB_CHUNK_CLOSED, __ATOMIC_RELEASE);
	if (tr->mode == PSB_TRACE_FULL)
		host_call(__NR_munmap, tr->chunk, tr->chunk_size);
	tr->chunk = NULL;
}

void trace_close(struct tracer *tr)
{
	if (!tr->header)
		return;
	tracer_lock(tr);
	leave_chunk(tr);
	tracer_unlock(tr);
}

/* Ring: a chunk that is free, closed, or whose owner died without closing it. A chunk in use is stepped over. */
static struct psb_trace_chunk *take_ring_chunk(struct tracer *tr, u64 *ordinal, u32 *index)
{
	for (u32 tries = 0; tries < 2 * tr->window_count; tries++) {
		u64 ord = __atomic_fetch_add(&tr->header->next_chunk, 1, __ATOMIC_RELAXED);
		struct psb_trace_chunk *c = ring_chunk(tr, ord % tr->window_count);
		u32 state = __atomic_load_n(&c->state, __ATOMIC_ACQUIRE);
		if (state == PSB_CHUNK_ACTIVE && host_call(__NR_kill, c->pid, 0) != -ESRCH)
			continue;
		if (!__atomic_compare_exchange_n(&c->state, &state, PSB_CHUNK_ACTIVE, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
			continue;
		*ordinal = ord;
		*index = (u32)(ord % tr->window_count);
		return c;
	}
	return NULL;
}

static long grow_file(struct tracer *tr, struct psb_trace_chunk **out, u64 *ordinal, u32 *index)
{
	int fd = tr->open_file(tr->open_ctx);
	if (fd < 0)
		return fd;
	u64 ord = __atomic_fetch_add(&tr->header->next_chunk, 1, __ATOMIC_RELAXED);
	u64 at = PSB_TRACE_HEADER_SIZE + ord * tr->chunk_size;
	long r = host_call(__NR_fallocate, fd, 0, at, tr->chunk_size);
	if (!r)
		r = host_call(__NR_mmap, 0, tr->chunk_size, PROT_RW, MAP_SHARED, fd, at);
	host_call(__NR_close, fd);
	if (IS_ERR(r))
		return r;
	__atomic_fetch_add(&tr->header->nchunks, 1, __ATOMIC_RELAXED);
	*out = (struct psb_trace_chunk *)r;
	(*out)->state = PSB_CHUNK_ACTIVE;
	*ordinal = ord;
	*index = (u32)ord;
	return 0;
}

static long next_chunk(struct tracer *tr)
{
	leave_chunk(tr);
	u64 ordinal = 0;
	u32 index = 0;
	struct psb_trace_chunk *c = NULL;
	if (tr->mode == PSB_TRACE_RING) {
		c = take_ring_chunk(tr, &ordinal, &index);
		if (!c)
			return -ENOSPC;
	} else {
		long r = grow_file(tr, &c, &ordinal, &index);
		if (r)
			return r;
	}
	__atomic_store_n(&c->used, 0, __ATOMIC_RELEASE);
	c->magic = PSB_CHUNK_MAGIC;
	c->ordinal = ordinal;
	c->pid = tr->pid;
	c->host_pid = tr->host_pid;
	c->first_seq = tr->seq;
	c->start_time = tr->start_time;
	memcpy(c->comm, tr->comm, sizeof c->comm);
	use_chunk(tr, c, index);
	return 0;
}

/* Appends the payload; what does not fit is cut, and says so in full_len. */
static void add_items(struct tracer *tr, struct psb_trace_record *r, const struct trace_event *ev)
{
	for (u32 i = 0; i < ev->nitems; i++) {
		const struct trace_item *in = &ev->items[i];
		u32 have = tr->room - tr->used - r->size, head = sizeof(struct psb_trace_item);
		if (have < head + 16)
			return;
		u32 keep = in->len < TRACE_PATH_MAX ? in->len : TRACE_PATH_MAX;
		if (keep > have - head - 8)
			keep = have - head - 8;
		struct psb_trace_item *item = (struct psb_trace_item *)((u8 *)r + r->size);
		*item = (struct psb_trace_item){.type = in->type, .arg = in->arg, .len = (u16)keep, .full_len = in->full_len ? in->full_len : in->len};
		memcpy(item + 1, in->data, keep);
		u32 padded = (u32)ROUND_UP(keep, 8);
		memset((u8 *)(item + 1) + keep, 0, padded - keep);
		r->size += head + padded;
	}
}

/* With the lock held and a current chunk: the record, published with `used`. */
static struct psb_trace_record *append(struct tracer *tr, const struct trace_event *ev, u64 seq)
{
	struct psb_trace_record *r = (struct psb_trace_record *)((u8 *)(tr->chunk + 1) + tr->used);
	u64 now = rdtsc();
	*r = (struct psb_trace_record){.size = sizeof *r, .kind = ev->kind, .verdict = ev->verdict, .door = ev->door, .flags = ev->flags, .seq = seq,
				       .tsc = now, .tid = ev->tid, .nr = ev->nr, .rule = ev->rule, .ret = ev->ret, .site = ev->site,
				       .tsc_end = ev->flags & PSB_REC_DONE ? now : 0};
	for (int i = 0; i < 6; i++)
		r->args[i] = ev->args[i];
	add_items(tr, r, ev);
	tr->used += r->size;
	__atomic_store_n(&tr->chunk->used, tr->used, __ATOMIC_RELEASE);
	return r;
}

static long have_room(struct tracer *tr)
{
	return tr->chunk && tr->room - tr->used >= LEAST_ROOM ? 0 : next_chunk(tr);
}

long trace_write(struct tracer *tr, const struct trace_event *ev, struct trace_ref *ref)
{
	if (ref)
		*ref = (struct trace_ref){0};
	if (!tr->header)
		return 0;
	tracer_lock(tr);
	long r = have_room(tr);
	if (r) {
		if (tr->mode == PSB_TRACE_RING) {
			__atomic_fetch_add(&tr->header->lost, 1, __ATOMIC_RELAXED);
			tr->seq++;
			r = 0;
		}
	} else {
		u64 seq = tr->seq++;
		u32 offset = tr->used;
		append(tr, ev, seq);
		if (ref)
			*ref = (struct trace_ref){.ordinal = tr->ordinal + 1, .seq = seq, .offset = offset, .nr = ev->nr, .tid = ev->tid};
	}
	tracer_unlock(tr);
	return r;
}

/* The record, while its chunk is still ours. Lock held. (ref->ordinal is one more than the chunk's: 0 means none.) */
static struct psb_trace_record *find(struct tracer *tr, const struct trace_ref *ref)
{
	return tr->chunk && tr->ordinal + 1 == ref->ordinal ? (struct psb_trace_record *)((u8 *)(tr->chunk + 1) + ref->offset) : NULL;
}

void trace_end(struct tracer *tr, struct trace_ref *ref, int64_t ret)
{
	if (!tr->header || !ref->ordinal)
		return;
	tracer_lock(tr);
	struct psb_trace_record *r = find(tr, ref);
	if (r) {
		r->tsc_end = rdtsc();
		r->ret = ret;
		__atomic_store_n(&r->flags, (r->flags & ~PSB_REC_NORETURN) | PSB_REC_DONE, __ATOMIC_RELEASE);
	} else if (!have_room(tr)) {
		/* The chunk was left and may be another process's by now: say the result in a record of its own. */
		static const u64 none[6];
		const struct trace_event ev = {.kind = PSB_REC_RET, .flags = PSB_REC_DONE, .tid = ref->tid, .nr = ref->nr, .ret = ret, .args = none};
		append(tr, &ev, ref->seq);
	}
	tracer_unlock(tr);
	*ref = (struct trace_ref){0};
}

void trace_noreturn(struct tracer *tr, const struct trace_ref *ref)
{
	if (!tr->header || !ref->ordinal)
		return;
	tracer_lock(tr);
	struct psb_trace_record *r = find(tr, ref);
	if (r)
		__atomic_store_n(&r->flags, r->flags | PSB_REC_NORETURN, __ATOMIC_RELEASE);
	tracer_unlock(tr);
}
