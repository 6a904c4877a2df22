/* The trace writer. See trace.h for who may write where; the file's layout is in shim/abi.h.
 *
 * Races, argued:
 * - Threads of one process: tracer.lock covers every write into the current chunk and every change of chunk.
 * - Processes: a chunk is claimed by a compare-and-swap on its ordinal, which never repeats, from the value seen when the
 *   chunk was judged free to "my ordinal, being set up". So of several claimers one wins, and a judgement that is out of
 *   date (the owner died, somebody else took it) makes the swap fail. Afterwards only the owner writes.
 * - Readers copy a chunk and look at the ordinal before and after. `used` is stored with release order behind the
 *   record's bytes; a record's `flags` with release order behind its result.
 */
#include "trace.h"

#define CHUNK_NONE      UINT32_MAX
#define SETTING_UP      (1ull << 63)
#define STALE_ROUNDS    1024 /* a claimer that was overtaken so many times by the whole ring died while setting up */
#define WINDOW_BYTES    (64u << 20)
#define RING_MAX_CHUNKS 4096u
#define RING_BACKOFF    64  /* lost records between two searches for a chunk */
#define FULL_GROWTH     64u /* chunks */
#define CHUNK_MIN       (WINDOW_BYTES / TRACE_WINDOW_CHUNKS)
#define HOT_TICKS       (1ull << 27) /* some 50 ms */
#define CHUNK_MAX       (4u << 20)

#define PROT_RW              3
#define MAP_SHARED_          1
#define MADV_RANDOM_         1
#define MADV_DONTNEED_       4
#define MADV_POPULATE_WRITE_ 23
#define CLOCK_REALTIME_      0

#define LOAD(p)     __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define STORE(p, v) __atomic_store_n(p, v, __ATOMIC_RELEASE)
#define ADD(p, v)   __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL)

static bool swap64(uint64_t *p, uint64_t seen, uint64_t new)
{
	return __atomic_compare_exchange_n(p, &seen, new, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static bool swap32(uint32_t *p, uint32_t seen, uint32_t new)
{
	return __atomic_compare_exchange_n(p, &seen, new, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/* Held for some 20 ns, or for the microseconds of a change of chunk. A holder that was preempted needs the CPU; one of lower
 * real-time priority gets it only when the waiter sleeps. */
static void acquire(struct tracer *tr)
{
	for (int round = 0;; round++) {
		if (likely(!atomic_exchange_explicit(&tr->lock, 1, memory_order_acquire)))
			return;
		for (int spin = 0; spin < 200; spin++) {
			if (!atomic_load_explicit(&tr->lock, memory_order_relaxed))
				break;
			__builtin_ia32_pause();
		}
		if (!atomic_load_explicit(&tr->lock, memory_order_relaxed))
			continue;
		const int64_t pause[2] = {0, 50000};
		if (round < 20)
			host_call(__NR_sched_yield);
		else
			host_call(__NR_nanosleep, pause, NULL);
	}
}

static void release(struct tracer *tr)
{
	atomic_store_explicit(&tr->lock, 0, memory_order_release);
}

static uint64_t realtime_ns(void)
{
	struct {
		int64_t sec, nsec;
	} ts = {0, 0};
	host_call(__NR_clock_gettime, CLOCK_REALTIME_, &ts);
	return (uint64_t)ts.sec * 1000000000u + (uint64_t)ts.nsec;
}

/* --- the file ------------------------------------------------------------------------------------ */

/* Maps the part of the file that holds chunk `index`. A part is never unmapped again: a child that shares memory may
 * still write there. What stays behind is address space, 64 MiB for every 64 MiB of trace written. */
static long map_window(struct tracer *tr, uint32_t index, int fd)
{
	uint32_t count = WINDOW_BYTES / tr->chunk_size;
	uint32_t first = index - index % count;
	bool opened = fd < 0;
	if (opened)
		fd = tr->open_file ? tr->open_file(tr->open_ctx) : -EBADF;
	if (fd < 0)
		return fd;
	uint64_t offset = PSB_TRACE_HEADER_SIZE + (uint64_t)first * tr->chunk_size;
	long p = host_call(__NR_mmap, 0, (uint64_t)count * tr->chunk_size, PROT_RW, MAP_SHARED_, fd, offset);
	if (opened)
		host_call(__NR_close, fd);
	if (IS_ERR(p))
		return p;
	host_call(__NR_madvise, p, (uint64_t)count * tr->chunk_size, MADV_RANDOM_); /* see map_records() in peer.c */
	tr->window = (uint8_t *)p;
	tr->window_first = first;
	tr->window_count = count;
	memset(tr->touched, 0, sizeof tr->touched);
	return 0;
}

/* The chunk's header; NULL when it cannot be mapped. The caller knows that the file reaches that far. */
static struct psb_trace_chunk *chunk_at(struct tracer *tr, uint32_t index)
{
	if (!tr->window || index - tr->window_first >= tr->window_count) /* below the window wraps around */
		if (map_window(tr, index, -1))
			return NULL;
	return (struct psb_trace_chunk *)(tr->window + (uint64_t)(index - tr->window_first) * tr->chunk_size);
}

/* Makes the file `more` chunks longer than `have` (a value of header->nchunks). Another process may do the same at the same time:
 * the same bytes are allocated twice, which is harmless, and one of the swaps wins. */
static long grow(struct tracer *tr, uint32_t have, uint32_t more)
{
	int fd = tr->open_file ? tr->open_file(tr->open_ctx) : -EBADF;
	if (fd < 0)
		return fd;
	uint64_t offset = PSB_TRACE_HEADER_SIZE + (uint64_t)have * tr->chunk_size;
	long r;
	do
		r = host_call(__NR_fallocate, fd, 0, offset, (uint64_t)more * tr->chunk_size);
	while (r == -EINTR);
	host_call(__NR_close, fd);
	if (r)
		return r;
	swap32(&tr->header->nchunks, have, have + more);
	return 0;
}

/* --- chunks -------------------------------------------------------------------------------------- */

static bool owner_alive(const struct tracer *tr, const struct psb_trace_chunk *c)
{
	uint32_t pid = __atomic_load_n(&c->pid, __ATOMIC_RELAXED);
	if (pid == tr->pid) /* ours would not be looked at: an earlier process of this number */
		return false;
	/* A number taken by another process since keeps the chunk until that one ends: a smaller ring, nothing worse. */
	return pid && (int32_t)pid > 0 && host_call(__NR_kill, pid, 0) != -ESRCH;
}

/* The swap was won: the chunk is ours alone. */
static void set_up(struct tracer *tr, struct psb_trace_chunk *c, uint32_t index, uint64_t ordinal)
{
	STORE(&c->state, PSB_CHUNK_FREE);
	STORE(&c->used, 0);
	c->magic = PSB_CHUNK_MAGIC;
	c->host_pid = tr->host_pid;
	c->pid = tr->pid;
	c->first_seq = tr->seq;
	c->start_time = tr->start_time;
	memcpy(c->comm, tr->comm, sizeof c->comm);
	STORE(&c->state, PSB_CHUNK_ACTIVE);
	STORE(&c->ordinal, ordinal);
	tr->chunk = c;
	tr->ordinal = ordinal;
	tr->index = index;
	tr->used = 0;
	tr->claimed_at = rdtsc();
	uint32_t place = index - tr->window_first;
	if (!(tr->touched[place / 64] >> place % 64 & 1)) {
		tr->touched[place / 64] |= 1ull << place % 64;
		/* One call in place of a fault for each page; kernels without it fault. */
		host_call(__NR_madvise, c, tr->chunk_size, MADV_POPULATE_WRITE_);
	}
}

static bool try_claim(struct tracer *tr, uint32_t index, uint64_t ordinal, uint32_t nchunks)
{
	struct psb_trace_chunk *c = chunk_at(tr, index);
	if (!c)
		return false;
	uint64_t seen = LOAD(&c->ordinal);
	if (seen & SETTING_UP) {
		if (ordinal - (seen & ~SETTING_UP) < (uint64_t)STALE_ROUNDS * nchunks)
			return false;
	} else if (seen && LOAD(&c->state) == PSB_CHUNK_ACTIVE && owner_alive(tr, c)) {
		return false;
	}
	if (!swap64(&c->ordinal, seen, ordinal | SETTING_UP))
		return false;
	set_up(tr, c, index, ordinal);
	return true;
}

/* The oldest chunk that no live process writes. When there is none the ring grows, so that hundreds of idle processes,
 * each with a chunk of its own, do not stop the others from being recorded. */
static long claim_in_ring(struct tracer *tr)
{
	struct psb_trace_header *h = tr->header;
	uint32_t n = LOAD(&h->nchunks);
	for (uint32_t i = 0; i < n; i++) {
		uint64_t ordinal = ADD(&h->next_chunk, 1) + 1;
		if (try_claim(tr, (uint32_t)((ordinal - 1) % n), ordinal, n))
			return 0;
	}
	uint32_t more = n / 4 < 16 ? 16 : n / 4;
	if (n + more > RING_MAX_CHUNKS)
		return -ENOSPC;
	long r = grow(tr, n, more);
	if (r)
		return r;
	for (uint32_t i = n; i < n + more; i++)
		if (try_claim(tr, i, ADD(&h->next_chunk, 1) + 1, n + more))
			return 0;
	return -EAGAIN; /* others were faster at every one of them */
}

static long claim_at_end(struct tracer *tr)
{
	struct psb_trace_header *h = tr->header;
	for (;;) {
		uint64_t next = LOAD(&h->next_chunk);
		uint32_t have = LOAD(&h->nchunks);
		if (next >= UINT32_MAX - FULL_GROWTH)
			return -EFBIG;
		if (next >= have) {
			long r = grow(tr, have, FULL_GROWTH);
			if (r)
				r = grow(tr, have, 1); /* the last room on a full disk */
			if (r)
				return r;
			continue;
		}
		struct psb_trace_chunk *c = chunk_at(tr, (uint32_t)next);
		if (!c)
			return -ENOMEM;
		if (!swap64(&h->next_chunk, next, next + 1))
			continue;
		STORE(&c->ordinal, (next + 1) | SETTING_UP);
		set_up(tr, c, (uint32_t)next, next + 1);
		return 0;
	}
}

/* Refreshes the second pair that readers compute the TSC's frequency from. Zeroed in between: a reader that sees half a pair knows it. */
static void refresh_clock(struct psb_trace_header *h)
{
	STORE(&h->realtime1_ns, 0);
	uint64_t ns = realtime_ns();
	STORE(&h->tsc1, rdtsc());
	STORE(&h->realtime1_ns, ns);
}

static void leave_chunk(struct tracer *tr)
{
	struct psb_trace_chunk *c = tr->chunk;
	if (!c)
		return;
	refresh_clock(tr->header);
	tr->chunk = NULL;
	tr->ordinal = 0;
	STORE(&c->state, PSB_CHUNK_CLOSED);
}

/* The trace should not count as this process's memory, so its page-table entries are dropped (never the data). Not while it
 * fills chunks fast: it will be back at this one soon, and faults would be half of the cost of a record. */
static void drop_pages(struct tracer *tr)
{
	if (tr->window && rdtsc() - tr->claimed_at > HOT_TICKS) {
		host_call(__NR_madvise, tr->window, (uint64_t)tr->window_count * tr->chunk_size, MADV_DONTNEED_);
		memset(tr->touched, 0, sizeof tr->touched);
	}
}

static long next_chunk(struct tracer *tr)
{
	if (tr->backoff && tr->mode == PSB_TRACE_RING) {
		tr->backoff--;
		return -EAGAIN;
	}
	if (tr->chunk) {
		leave_chunk(tr);
		drop_pages(tr);
	}
	long r = tr->mode == PSB_TRACE_RING ? claim_in_ring(tr) : claim_at_end(tr);
	tr->backoff = r ? RING_BACKOFF : 0;
	return r;
}

/* --- attaching ----------------------------------------------------------------------------------- */

/* `nchunks`: as read before the file's size, because others make the file longer first and count then. */
static bool header_valid(const struct psb_trace_header *h, uint32_t nchunks, uint64_t file_size)
{
	return h->magic == PSB_TRACE_MAGIC && h->version == PSB_ABI_VERSION && h->mode <= PSB_TRACE_FULL &&
	       h->chunk_size % PAGE == 0 && h->chunk_size >= CHUNK_MIN && h->chunk_size <= CHUNK_MAX &&
	       WINDOW_BYTES % h->chunk_size == 0 && (nchunks || h->mode == PSB_TRACE_FULL) &&
	       nchunks <= (file_size - PSB_TRACE_HEADER_SIZE) / h->chunk_size;
}

/* Behind an execve: the chunk that the same process was writing. */
static void resume_chunk(struct tracer *tr, uint32_t index)
{
	if (index >= LOAD(&tr->header->nchunks))
		return;
	struct psb_trace_chunk *c = chunk_at(tr, index);
	if (!c || c->magic != PSB_CHUNK_MAGIC || c->state != PSB_CHUNK_ACTIVE || c->pid != tr->pid || c->used > tr->room ||
	    c->ordinal & SETTING_UP)
		return;
	tr->chunk = c;
	tr->ordinal = c->ordinal;
	tr->index = index;
	tr->used = (uint32_t)c->used;
	tr->start_time = c->start_time;
	tr->host_pid = c->host_pid;
	memcpy(tr->comm, c->comm, sizeof tr->comm);
}

long tracer_attach(struct tracer *tr, int fd, const struct psb_start *start, trace_open_fn open_file, void *open_ctx)
{
	memset(tr, 0, sizeof *tr);
	if (start->trace == PSB_TRACE_OFF)
		return 0;
	uint64_t stat[18]; /* struct stat; [6] is st_size */
	long r = host_call(__NR_fstat, fd, stat);
	if (r)
		return r;
	if (stat[6] < PSB_TRACE_HEADER_SIZE)
		return -EINVAL;
	long p = host_call(__NR_mmap, 0, PSB_TRACE_HEADER_SIZE, PROT_RW, MAP_SHARED_, fd, 0);
	if (IS_ERR(p))
		return p;
	struct psb_trace_header *h = (struct psb_trace_header *)p;
	uint32_t nchunks = LOAD(&h->nchunks);
	r = host_call(__NR_fstat, fd, stat);
	if (!r && !header_valid(h, nchunks, stat[6]))
		r = -EINVAL;
	if (!r) {
		tr->mode = h->mode;
		tr->chunk_size = h->chunk_size;
		tr->room = h->chunk_size - (uint32_t)sizeof(struct psb_trace_chunk);
		tr->open_file = open_file;
		tr->open_ctx = open_ctx;
		r = map_window(tr, 0, fd);
	}
	if (r) {
		host_call(__NR_munmap, p, PSB_TRACE_HEADER_SIZE);
		return r;
	}
	tr->header = h;
	tr->pid = (uint32_t)host_call(__NR_getpid);
	tr->start_time = rdtsc();
	if (!LOAD(&h->tsc0)) { /* the runtime has no TSC at hand when it makes the file */
		uint64_t ns = realtime_ns();
		if (swap64(&h->tsc0, 0, rdtsc()))
			STORE(&h->realtime0_ns, ns);
	}
	if (start->is_exec) {
		tr->seq = start->seq;
		if (start->trace_chunk != CHUNK_NONE)
			resume_chunk(tr, start->trace_chunk);
	}
	return 0;
}

void tracer_identify(struct tracer *tr, uint32_t pid, uint32_t host_pid, const char *comm)
{
	if (pid)
		tr->pid = pid;
	if (host_pid)
		tr->host_pid = host_pid;
	if (comm) {
		memset(tr->comm, 0, sizeof tr->comm);
		memcpy(tr->comm, comm, strnlen(comm, sizeof tr->comm - 1));
	}
}

void tracer_set_tsc_khz(struct tracer *tr, uint32_t khz)
{
	if (tr->header)
		STORE(&tr->header->tsc_khz, khz);
}

/* --- records ------------------------------------------------------------------------------------- */

static uint32_t item_len(const struct tracer *tr, const struct trace_item *it)
{
	uint32_t cap = tr->room / (TRACE_ITEMS_MAX + 2); /* so that any record fits into an empty chunk */
	cap = cap > TRACE_PATH_MAX ? TRACE_PATH_MAX : cap;
	return it->len > cap ? cap : it->len;
}

/* Room for a record in the current chunk or the next. NULL with the errno in *why. */
static struct psb_trace_record *reserve(struct tracer *tr, uint32_t size, long *why)
{
	if (unlikely(!tr->chunk || size > tr->room - tr->used)) {
		*why = next_chunk(tr);
		if (*why)
			return NULL;
	}
	return (struct psb_trace_record *)((uint8_t *)(tr->chunk + 1) + tr->used);
}

static void publish(struct tracer *tr, uint32_t size)
{
	tr->used += size;
	STORE(&tr->chunk->used, tr->used);
}

static void put_items(struct tracer *tr, uint8_t *to, const struct trace_event *ev, uint32_t nitems)
{
	for (uint32_t i = 0; i < nitems; i++) {
		const struct trace_item *it = &ev->items[i];
		uint32_t len = item_len(tr, it), padded = (uint32_t)ROUND_UP(len, 8);
		struct psb_trace_item *head = (struct psb_trace_item *)to;
		*head = (struct psb_trace_item){it->type, it->arg, (uint16_t)len, it->full_len ? it->full_len : it->len};
		to += sizeof *head;
		memcpy(to, it->data, len);
		memset(to + len, 0, padded - len);
		to += padded;
	}
}

long trace_write(struct tracer *tr, const struct trace_event *ev, struct trace_ref *ref)
{
	if (ref)
		ref->ordinal = 0;
	if (!tr->header)
		return 0;
	uint32_t nitems = ev->nitems > TRACE_ITEMS_MAX ? TRACE_ITEMS_MAX : ev->nitems;
	uint32_t size = sizeof(struct psb_trace_record);
	for (uint32_t i = 0; i < nitems; i++)
		size += (uint32_t)(sizeof(struct psb_trace_item) + ROUND_UP(item_len(tr, &ev->items[i]), 8));
	long why = 0;
	acquire(tr);
	struct psb_trace_record *rec = reserve(tr, size, &why);
	if (unlikely(!rec)) {
		if (tr->mode == PSB_TRACE_RING) {
			ADD(&tr->header->lost, 1);
			tr->seq++; /* a reader sees that something is missing, and where */
			why = 0;
		}
		release(tr);
		return why == -EAGAIN ? -ENOSPC : why;
	}
	uint64_t now = rdtsc();
	rec->size = size;
	rec->kind = ev->kind;
	rec->verdict = ev->verdict;
	rec->door = ev->door;
	rec->flags = ev->flags;
	rec->seq = tr->seq;
	rec->tsc = now;
	rec->tid = ev->tid;
	rec->nr = ev->nr;
	rec->rule = ev->rule;
	rec->reserved = 0;
	for (int i = 0; i < 6; i++)
		rec->args[i] = ev->args ? ev->args[i] : 0;
	rec->ret = ev->ret;
	rec->site = ev->site;
	rec->tsc_end = ev->flags & PSB_REC_DONE ? now : 0;
	if (nitems)
		put_items(tr, (uint8_t *)(rec + 1), ev, nitems);
	if (ref)
		*ref = (struct trace_ref){tr->ordinal, tr->seq, (uint32_t)((uint8_t *)rec - (uint8_t *)tr->chunk),
					  ev->nr,      ev->tid, tr->pid,
					  false};
	tr->seq++;
	publish(tr, size);
	release(tr);
	return 0;
}

/* The chunk of the call was left while the call was under way: its result becomes a record of its own. */
static void write_completion(struct tracer *tr, const struct trace_ref *ref, int64_t ret, uint64_t now)
{
	long why;
	struct psb_trace_record *rec = reserve(tr, sizeof *rec, &why);
	if (!rec) {
		ADD(&tr->header->lost, 1);
		return;
	}
	*rec = (struct psb_trace_record){.size = sizeof *rec,
					 .kind = PSB_REC_RET,
					 .verdict = ref->refused ? PSB_VERDICT_REFUSED : PSB_VERDICT_ALLOW,
					 .flags = PSB_REC_DONE,
					 .seq = ref->seq,
					 .tsc = now,
					 .tid = ref->tid,
					 .nr = ref->nr,
					 .ret = ret,
					 .tsc_end = now};
	publish(tr, sizeof *rec);
}

static bool is_current(const struct tracer *tr, const struct trace_ref *ref)
{
	return tr->chunk && tr->ordinal == ref->ordinal;
}

static struct psb_trace_record *record_of(struct tracer *tr, const struct trace_ref *ref)
{
	return (struct psb_trace_record *)((uint8_t *)tr->chunk + ref->offset);
}

void trace_end(struct tracer *tr, struct trace_ref *ref, int64_t ret)
{
	if (!ref->ordinal || !tr->header)
		return;
	if (likely(ref->pid == tr->pid)) {
		uint64_t now = rdtsc();
		acquire(tr);
		if (likely(is_current(tr, ref))) {
			struct psb_trace_record *rec = record_of(tr, ref);
			rec->ret = ret;
			rec->tsc_end = now;
			if (unlikely(ref->refused))
				rec->verdict = PSB_VERDICT_REFUSED;
			STORE(&rec->flags, PSB_REC_DONE);
		} else {
			write_completion(tr, ref, ret, now);
		}
		release(tr);
	}
	ref->ordinal = 0;
}

void trace_noreturn(struct tracer *tr, const struct trace_ref *ref)
{
	if (!ref->ordinal || !tr->header || ref->pid != tr->pid)
		return;
	acquire(tr);
	if (is_current(tr, ref))
		STORE(&record_of(tr, ref)->flags, PSB_REC_NORETURN);
	release(tr);
}

/* --- the life of a process ----------------------------------------------------------------------- */

void tracer_lock(struct tracer *tr)
{
	acquire(tr);
}

void tracer_unlock(struct tracer *tr)
{
	release(tr);
}

void tracer_init_child(struct tracer *tr)
{
	tr->lock = 0;
	tr->chunk = NULL;
	tr->ordinal = 0;
	tr->used = 0;
	tr->seq = 0;
	tr->backoff = 0;
	tr->pid = 0;
	tr->host_pid = 0;
	tr->start_time = rdtsc();
}

void trace_exec_save(struct tracer *tr, struct psb_start *start)
{
	acquire(tr);
	start->seq = tr->seq;
	start->trace_chunk = tr->chunk ? tr->index : CHUNK_NONE;
	release(tr);
}

void trace_close(struct tracer *tr)
{
	if (!tr->header)
		return;
	acquire(tr);
	leave_chunk(tr);
	tr->header = NULL;
	release(tr);
}
