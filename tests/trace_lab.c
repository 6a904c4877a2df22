/* The monitor's trace writer inside a test process: a handle, calls in Python's terms, threads, and a stopwatch. */
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "../runtime/monitor/trace.h"

struct lab {
	struct tracer tracer;
	char path[512];
};

static int open_path(void *ctx)
{
	int fd = open(((struct lab *)ctx)->path, O_RDWR | O_CLOEXEC);
	return fd < 0 ? -ENOENT : fd;
}

static int open_denied(void *ctx)
{
	(void)ctx;
	return -ENOSPC;
}

struct lab *lab_new(const char *path, uint32_t mode, uint32_t is_exec, uint64_t seq, uint32_t chunk, int may_grow,
		    long *error)
{
	struct lab *lab = calloc(1, sizeof *lab);
	strncpy(lab->path, path, sizeof lab->path - 1);
	struct psb_start start = {.trace = mode, .is_exec = is_exec, .seq = seq, .trace_chunk = chunk};
	int fd = open_path(lab);
	*error = tracer_attach(&lab->tracer, fd, &start, may_grow ? open_path : open_denied, lab);
	close(fd);
	return lab;
}

void lab_identify(struct lab *lab, uint32_t pid, uint32_t host_pid, const char *comm)
{
	tracer_identify(&lab->tracer, pid, host_pid, comm);
}

long lab_write(struct lab *lab, uint32_t kind, uint32_t nr, uint32_t tid, uint32_t flags, uint32_t verdict, uint32_t door,
	       uint32_t rule, uint64_t site, const uint64_t *args, uint32_t item_type, uint32_t item_arg, const char *data,
	       uint32_t len, struct trace_ref *ref)
{
	struct trace_item item = {data, len, 0, (uint8_t)item_type, (uint8_t)item_arg};
	struct trace_event ev = {.kind = (uint8_t)kind,
				 .nr = nr,
				 .tid = tid,
				 .flags = (uint8_t)flags,
				 .verdict = (uint8_t)verdict,
				 .door = (uint8_t)door,
				 .rule = rule,
				 .site = site,
				 .args = args,
				 .items = &item,
				 .nitems = data != NULL};
	return trace_write(&lab->tracer, &ev, ref);
}

void lab_end(struct lab *lab, struct trace_ref *ref, int64_t ret)
{
	trace_end(&lab->tracer, ref, ret);
}

void lab_noreturn(struct lab *lab, struct trace_ref *ref)
{
	trace_noreturn(&lab->tracer, ref);
}

void lab_child(struct lab *lab)
{
	tracer_init_child(&lab->tracer);
}

uint32_t lab_exec_save(struct lab *lab, uint64_t *seq)
{
	struct psb_start start;
	trace_exec_save(&lab->tracer, &start);
	*seq = start.seq;
	return start.trace_chunk;
}

void lab_close(struct lab *lab)
{
	trace_close(&lab->tracer);
}

void lab_khz(struct lab *lab, uint32_t khz)
{
	tracer_set_tsc_khz(&lab->tracer, khz);
}

/* --- threads ------------------------------------------------------------------------------------ */

struct worker {
	struct lab *lab;
	uint32_t tid, count;
};

/* Each call's arguments and result are functions of thread and number, so that a reader can tell a torn record. Every
 * seventh call returns only after 1000 others. */
static void *work(void *arg)
{
	struct worker *w = arg;
	struct trace_ref late = {0};
	int64_t late_ret = 0;
	for (uint32_t i = 0; i < w->count; i++) {
		uint64_t key = (uint64_t)w->tid << 32 | i;
		uint64_t args[6] = {key, key + 1, key + 2, key + 3, key + 4, key + 5};
		char path[80];
		uint32_t len = 3 + i % 70;
		memset(path, 'a' + (int)(key % 26), len);
		struct trace_item item = {path, len, 0, PSB_ITEM_STRING, 1};
		struct trace_event ev = {
		    .kind = PSB_REC_CALL, .nr = 257, .tid = w->tid, .args = args, .items = &item, .nitems = i & 1};
		struct trace_ref ref;
		if (trace_write(&w->lab->tracer, &ev, &ref))
			return (void *)1;
		if (i % 7 == 0 && !late.ordinal) {
			late = ref;
			late_ret = (int64_t)(key * 2);
		} else {
			trace_end(&w->lab->tracer, &ref, (int64_t)(key * 2));
		}
		if (i % 1000 == 999 && late.ordinal)
			trace_end(&w->lab->tracer, &late, late_ret);
	}
	if (late.ordinal)
		trace_end(&w->lab->tracer, &late, late_ret);
	return NULL;
}

int lab_threads(struct lab *lab, uint32_t nthreads, uint32_t count)
{
	pthread_t thread[16];
	struct worker worker[16];
	int failed = 0;
	for (uint32_t i = 0; i < nthreads; i++) {
		worker[i] = (struct worker){lab, i + 1, count};
		pthread_create(&thread[i], NULL, work, &worker[i]);
	}
	for (uint32_t i = 0; i < nthreads; i++) {
		void *result;
		pthread_join(thread[i], &result);
		failed += result != NULL;
	}
	return failed;
}

/* Nanoseconds for begin and end of `count` calls without payload. */
void lab_bench(struct lab *lab, uint32_t count, double *begin_ns, double *end_ns)
{
	struct trace_ref *ref = calloc(count, sizeof *ref);
	const uint64_t args[6] = {1, 2, 3, 4, 5, 6};
	const struct trace_event ev = {.kind = PSB_REC_CALL, .nr = 39, .tid = 1, .args = args};
	struct timespec a, b, c;
	double begin = 0, end = 0;
	for (uint32_t done = 0; done < count;
	     done += 200) { /* a chunk holds 290: ends are mostly in the current one, as in life */
		clock_gettime(CLOCK_MONOTONIC, &a);
		for (uint32_t i = 0; i < 200; i++)
			trace_write(&lab->tracer, &ev, &ref[i]);
		clock_gettime(CLOCK_MONOTONIC, &b);
		for (uint32_t i = 0; i < 200; i++)
			trace_end(&lab->tracer, &ref[i], 0);
		clock_gettime(CLOCK_MONOTONIC, &c);
		begin += (double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec);
		end += (double)(c.tv_sec - b.tv_sec) * 1e9 + (double)(c.tv_nsec - b.tv_nsec);
	}
	*begin_ns = begin / count;
	*end_ns = end / count;
	free(ref);
}
