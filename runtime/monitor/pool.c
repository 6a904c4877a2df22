/* The text pool: memory of the container from which its programs are shown their read-only pages.
 *
 * KVM maps what the host can write eight pages at a fault and all else one by one, and a fault costs microseconds, so a program that
 * starts pays most for its text and symbol tables. Their first mapping in a container is copied to the pool, a memfd that each monitor
 * maps writable, above the guest limit; guest PTEs, which allow no writing, point there. The host mapping at the guest's address stays
 * the file's and read-only: it is what system calls and maps see.
 *
 * Monitors of one container trust each other (they share the vault); what the pool says is checked so that a mistake stays inside. */
#include "linux_abi.h"
#include "proc.h"

#define PIECE_MAX (4ul << 20)
#define CLOCK_REALTIME_COARSE 5
#define PRESENT_MAX (256ul << 10) /* of a piece that another process copied: made present in our page tables at once */
_Static_assert(sizeof(struct psb_pool) + PSB_POOL_ENTRIES * sizeof(struct psb_pool_entry) <= PSB_POOL_HEAD * PAGE, "pool head");
#define TMPFS_MAGIC 0x01021994
#define RAMFS_MAGIC 0x858458f6l
#define OVERLAYFS_MAGIC 0x794c7630l
#define SETTLED_NS 2000000000ul
#define WRITTEN_NS 60000000000ul /* twice as long as a page stays dirty: vm.dirty_expire_centisecs, and the time to get at it */
#define WRITE_AND_WAIT 7u        /* SYNC_FILE_RANGE_* */

static struct psb_pool *pool;
static struct psb_pool_entry *entries; /* PSB_POOL_ENTRIES */
static u64 pool_pages;

u64 pool_size(int fd)
{
	u64 st[18];
	if (fd < 0 || host_call(__NR_fstat, fd, st) || st[6] <= PSB_POOL_HEAD * PAGE || st[6] > POOL_MAX || st[6] % PAGE)
		return 0;
	return st[6];
}

void pool_open(struct vm *vm, int fd)
{
	if (!vm->pool_len)
		return;
	u8 *at = vm->sys + POOL_GPA;
	if (IS_ERR(host_call(__NR_mmap, at, vm->pool_len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0)))
		return;
	struct psb_pool *head = (struct psb_pool *)at;
	if (head->magic != PSB_POOL_MAGIC || head->version != PSB_ABI_VERSION)
		return;
	pool = head;
	entries = (struct psb_pool_entry *)(head + 1);
	pool_pages = vm->pool_len / PAGE;
}

/* A piece's place as the pool has it; 0 unless it lies within. */
static u32 place_of(u64 page, u64 pages)
{
	return page >= PSB_POOL_HEAD && page < pool_pages && pages <= pool_pages - page ? (u32)page : 0;
}

static u32 look_up(const struct psb_plan_key *k, u64 offset, u64 len)
{
	u32 n = __atomic_load_n(&pool->count, __ATOMIC_ACQUIRE);
	for (u32 i = 0; i < n && i < PSB_POOL_ENTRIES; i++) {
		const struct psb_pool_entry *e = &entries[i];
		if (__atomic_load_n(&e->ready, __ATOMIC_ACQUIRE) && e->offset == offset && e->len >= len && !memcmp(&e->key, k, sizeof *k))
			return place_of(__atomic_load_n(&e->page, __ATOMIC_RELAXED), len / PAGE);
	}
	return 0;
}

/* Will a later change of the file show in its times? Only if they are not of this very moment. Not at all where writing to a mapping
 * leaves them alone: in memory. Elsewhere such a write tells of itself unless the page is dirty already: so that none is, they are written
 * first (nothing to do, as a rule). Of an overlay only its upper layer can be told to do so, and not even that where it is mounted
 * `volatile`: what has been left alone for long enough was written anyhow. The plan store does not change. */
static bool settled(const struct psb_plan_key *k, int fd, u64 offset, u64 len)
{
	u64 now[2];
	struct statfs_k fs;
	if (k->dev == POOL_STORE_DEV)
		return true;
	if (host_call(__NR_clock_gettime, CLOCK_REALTIME_COARSE, now) || host_call(__NR_fstatfs, fd, &fs) || fs.type == TMPFS_MAGIC || fs.type == RAMFS_MAGIC)
		return false;
	bool overlay = fs.type == OVERLAYFS_MAGIC;
	u64 ns = now[0] * 1000000000ul + now[1], age = overlay ? WRITTEN_NS : SETTLED_NS;
	if (k->ctime_ns + age >= ns || k->mtime_ns + age >= ns)
		return false;
	struct psb_plan_key then;
	long r = overlay ? host_call(__NR_fdatasync, fd) : host_call(__NR_sync_file_range, fd, offset, len, WRITE_AND_WAIT);
	return !r && plan_key(fd, &then) && !memcmp(&then, k, sizeof *k);
}

/* Pages of the pool, given away for good. */
static u32 reserve(u64 pages)
{
	u64 next = __atomic_load_n(&pool->next, __ATOMIC_RELAXED);
	do {
		if (!place_of(next, pages))
			return 0;
	} while (!__atomic_compare_exchange_n(&pool->next, &next, next + pages, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
	return (u32)next;
}

static bool copy_piece(u32 page, int fd, u64 offset, u64 len)
{
	u8 *to = (u8 *)pool + page * PAGE;
	/* Not by write(): a memfd is a file, to which RLIMIT_FSIZE applies. */
	host_call(__NR_madvise, to, len, MADV_POPULATE_WRITE);
	for (u64 done = 0; done < len;) {
		long got = host_call(__NR_pread64, fd, to + done, len - done, offset + done);
		if (got <= 0)
			return got == 0 && len - done < PAGE; /* zeros behind the file's end, in its last page only */
		done += (u64)got;
	}
	return true;
}

u32 pool_find(const struct psb_plan_key *k, int fd, u64 offset, u64 len)
{
	if (!pool || !len || len > PIECE_MAX || len % PAGE || offset % PAGE)
		return 0;
	u32 page = look_up(k, offset, len);
	/* KVM's prefetch takes only what is present, and gives up for all eight pages at the first one that is not. */
	if (page && len <= PRESENT_MAX)
		host_call(__NR_madvise, (u8 *)pool + page * PAGE, len, MADV_POPULATE_READ);
	if (page || __atomic_load_n(&pool->count, __ATOMIC_RELAXED) >= PSB_POOL_ENTRIES || !settled(k, fd, offset, len) || !(page = reserve(len / PAGE)))
		return page;
	u32 i = __atomic_fetch_add(&pool->count, 1, __ATOMIC_ACQ_REL);
	if (i >= PSB_POOL_ENTRIES)
		return 0;
	struct psb_pool_entry *e = &entries[i];
	e->key = *k;
	e->offset = offset;
	e->len = len;
	e->page = page;
	if (!copy_piece(page, fd, offset, len))
		return 0;
	__atomic_store_n(&e->ready, 1, __ATOMIC_RELEASE);
	return page;
}
