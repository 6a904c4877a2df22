/* Native AIO by the system calls: what works, every error of every call, two threads. The lines are the same under any kernel. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BAD ((void *)16)
#define MONITOR ((void *)0x7fff00000000)

static long call(const char *what, long r)
{
	printf("%s: %ld %s\n", what, r, r < 0 ? strerrorname_np(errno) : "");
	return r;
}

#define setup(n, ctx) syscall(SYS_io_setup, (long)(n), ctx)
#define destroy(ctx) syscall(SYS_io_destroy, ctx)
#define submit(ctx, n, list) syscall(SYS_io_submit, ctx, (long)(n), list)
#define getevents(ctx, min, n, events, time) syscall(SYS_io_getevents, ctx, (long)(min), (long)(n), events, time)
#define cancel(ctx, cb, event) syscall(SYS_io_cancel, ctx, cb, event)

static void show(const char *what, const struct io_event *e, long n)
{
	for (long i = 0; i < n; i++)
		printf("  %s: data %llx res %lld %lld\n", what, e[i].data, (long long)e[i].res, (long long)e[i].res2);
}

static struct iocb *request(struct iocb *cb, int op, int fd, void *buf, size_t n, long long at)
{
	static int number;
	memset(cb, 0, sizeof *cb);
	cb->aio_data = (uint64_t)++number;
	cb->aio_lio_opcode = (uint16_t)op;
	cb->aio_fildes = (uint32_t)fd;
	cb->aio_buf = (uintptr_t)buf;
	cb->aio_nbytes = n;
	cb->aio_offset = at;
	cb->aio_key = 77;
	return cb;
}

static aio_context_t ctx;

static void one(const char *what, struct iocb *cb)
{
	struct io_event e[4];
	struct iocb *list[] = {cb};
	long r = call(what, submit(ctx, 1, list));
	printf("  key %d\n", r == 1 ? (int)cb->aio_key : -1);
	if (r == 1) {
		struct timespec second = {5, 0};
		r = getevents(ctx, 1, 4, e, &second);
		show(what, e, r);
		if (r > 0)
			printf("  same %d\n", e[0].obj == (uintptr_t)cb);
	}
}

static void transfers(void)
{
	char buf[64] = "hello, world", in[64] = "";
	struct iovec v[2] = {{in, 5}, {in + 20, 10}};
	struct iocb cb;
	int fd = open("/tmp/aio", O_RDWR | O_CREAT | O_TRUNC, 0600), p[2], event = eventfd(0, 0), readonly = open("/tmp/aio", O_RDONLY);
	uint64_t count;
	if (fd < 0 || pipe(p) || event < 0)
		exit(1);
	one("pwrite", request(&cb, IOCB_CMD_PWRITE, fd, buf, 12, 100));
	one("pread", request(&cb, IOCB_CMD_PREAD, fd, in, 64, 100));
	printf("  %s\n", in);
	one("preadv", request(&cb, IOCB_CMD_PREADV, fd, v, 2, 100));
	printf("  %.5s %.7s\n", in, in + 20);
	one("pwritev", request(&cb, IOCB_CMD_PWRITEV, fd, v, 2, 0));
	one("at the end", request(&cb, IOCB_CMD_PREAD, fd, in, 64, 1000));
	one("fsync", request(&cb, IOCB_CMD_FSYNC, fd, NULL, 0, 0));
	one("fdsync", request(&cb, IOCB_CMD_FDSYNC, fd, NULL, 0, 0));
	one("fsync, buffer", request(&cb, IOCB_CMD_FSYNC, fd, buf, 0, 0));
	one("noop", request(&cb, IOCB_CMD_NOOP, fd, NULL, 0, 0));
	one("no such", request(&cb, 99, fd, NULL, 0, 0));
	one("pipe, write", request(&cb, IOCB_CMD_PWRITE, p[1], buf, 12, 0));
	one("pipe, read", request(&cb, IOCB_CMD_PREAD, p[0], in, 5, 0));
	one("wrong end", request(&cb, IOCB_CMD_PREAD, p[1], in, 5, 0));
	one("read only", request(&cb, IOCB_CMD_PWRITE, readonly, buf, 5, 0));
	one("closed", request(&cb, IOCB_CMD_PREAD, 77, in, 5, 0));
	one("the monitor's", request(&cb, IOCB_CMD_PREAD, 1001, in, 5, 0));
	one("directory", request(&cb, IOCB_CMD_PREAD, open("/tmp", O_RDONLY), in, 5, 0));
	one("path only", request(&cb, IOCB_CMD_PREAD, open("/tmp/aio", O_PATH), in, 5, 0));
	one("unmapped", request(&cb, IOCB_CMD_PREAD, fd, BAD, 5, 0));
	one("unmapped, write", request(&cb, IOCB_CMD_PWRITE, fd, BAD, 5, 0));
	one("no address", request(&cb, IOCB_CMD_PREAD, fd, (void *)(-64l), 5, 0));
	one("vector, unmapped", request(&cb, IOCB_CMD_PREADV, fd, BAD, 1, 0));
	one("vector, too long", request(&cb, IOCB_CMD_PREADV, fd, v, 2000, 0));
	one("offset", request(&cb, IOCB_CMD_PREAD, fd, in, 5, -5));
	one("length", request(&cb, IOCB_CMD_PREAD, fd, in, (size_t)-1, 0));
	request(&cb, IOCB_CMD_PREAD, fd, in, 5, 0)->aio_reserved2 = 1;
	one("reserved", &cb);
	request(&cb, IOCB_CMD_PREAD, fd, in, 5, 0)->aio_flags = 64;
	one("flags", &cb);
	request(&cb, IOCB_CMD_PREAD, fd, in, 5, 0)->aio_rw_flags = 1 << 20;
	one("rw flags", &cb);
	request(&cb, IOCB_CMD_PWRITE, fd, buf, 5, 0)->aio_rw_flags = 2; /* RWF_DSYNC */
	one("dsync", &cb);
	request(&cb, IOCB_CMD_PREAD, fd, in, 5, 0)->aio_flags = IOCB_FLAG_RESFD;
	cb.aio_resfd = (uint32_t)event;
	one("eventfd", &cb);
	call("  count", read(event, &count, 8));
	printf("  %d\n", (int)count);
	cb.aio_resfd = (uint32_t)fd;
	one("no eventfd", &cb);
	cb.aio_resfd = 77;
	one("closed eventfd", &cb);
	close(fd);
}

static void errors(void)
{
	struct io_event e[8];
	struct iocb cb, *list[300] = {&cb};
	struct timespec none = {0, 0}, shortly = {0, 50000000};
	aio_context_t other = 0, used = 5;
	int zero = open("/dev/zero", O_RDONLY), i;
	char c;
	call("setup 0", setup(0, &other));
	call("setup used", setup(5, &used));
	call("setup NULL", setup(5, NULL));
	call("setup bad", setup(5, BAD));
	call("setup monitor", setup(5, MONITOR));
	call("setup many", setup(0x20000000, &other));
	call("destroy 0", destroy(0));
	call("destroy bad", destroy(BAD));
	call("submit to nothing", submit(0, 1, list));
	call("submit negative", submit(ctx, -1, list));
	call("submit none", submit(ctx, 0, BAD));
	call("submit bad list", submit(ctx, 1, BAD));
	call("submit monitor list", submit(ctx, 1, MONITOR));
	list[0] = BAD;
	call("submit bad", submit(ctx, 1, list));
	list[0] = MONITOR;
	call("submit monitor", submit(ctx, 1, list));
	list[0] = request(&cb, IOCB_CMD_PREAD, zero, &c, 1, 0);
	list[1] = BAD;
	call("submit one good", submit(ctx, 2, list));
	call("events of nothing", getevents(0, 1, 1, e, NULL));
	call("events negative", getevents(ctx, -1, 1, e, NULL));
	call("events least", getevents(ctx, 2, 1, e, NULL));
	call("events bad time", getevents(ctx, 1, 1, e, BAD));
	call("events bad", getevents(ctx, 1, 1, BAD, NULL));
	call("events monitor", getevents(ctx, 1, 1, MONITOR, NULL));
	call("events", getevents(ctx, 1, 1, e, NULL));
	call("events none", getevents(ctx, 0, 8, e, NULL));
	call("events none, no time", getevents(ctx, 1, 8, e, &none));
	call("events none, some time", getevents(ctx, 1, 8, e, &shortly));
	call("cancel", cancel(ctx, &cb, e));
	call("cancel bad", cancel(ctx, BAD, e));
	call("cancel nothing", cancel(0, &cb, e));
	call("setup again", setup(4, &other));
	for (i = 0; i < 300; i++)
		list[i] = &cb;
	for (i = 0; i < 100 && submit(other, 100, list) > 0; i++)
		;
	printf("full: %s\n", i < 100 ? strerrorname_np(errno) : "never");
	call("events of many", getevents(other, 4, 4, e, NULL));
	call("destroy", destroy(other));
	call("destroy again", destroy(other));
	call("events of destroyed", getevents(other, 1, 1, e, NULL));
}

static void *later(void *arg)
{
	struct iocb cb, *list[] = {&cb};
	char c;
	(void)arg;
	usleep(100000);
	request(&cb, IOCB_CMD_PREAD, open("/dev/zero", O_RDONLY), &c, 1, 0)->aio_data = 0x1234;
	if (submit(ctx, 1, list) != 1)
		printf("submit: %m\n");
	return NULL;
}

static void on_alarm(int signo)
{
	(void)signo;
}

static void processes(void)
{
	struct io_event e[8];
	struct iocb cb, *list[] = {&cb};
	struct sigaction act = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
	struct itimerspec soon = {.it_value = {0, 50000000}};
	char c;
	pthread_t t;
	timer_t timer;
	int status;
	pthread_create(&t, NULL, later, NULL);
	show("from a thread", e, call("wait", getevents(ctx, 1, 8, e, NULL)));
	pthread_join(t, NULL);
	sigaction(SIGALRM, &act, NULL);
	timer_create(CLOCK_MONOTONIC, NULL, &timer);
	timer_settime(timer, 0, &soon, NULL);
	call("interrupted", getevents(ctx, 1, 8, e, NULL));
	fflush(stdout);
	if (!fork()) {
		request(&cb, IOCB_CMD_PREAD, open("/dev/zero", O_RDONLY), &c, 1, 0);
		call("child submits", submit(ctx, 1, list));
		call("child waits", getevents(ctx, 1, 8, e, NULL));
		aio_context_t own = 0;
		call("child's own", setup(10, &own));
		call("child submits", submit(own, 1, list));
		call("child destroys", destroy(own));
		exit(0);
	}
	wait(&status);
	request(&cb, IOCB_CMD_PREAD, open("/dev/zero", O_RDONLY), &c, 1, 0);
	call("submit", submit(ctx, 1, list));
	munmap((void *)ctx, 4096); /* the number stays what it is */
	if (!fork()) {
		execl("/proc/self/exe", "x", "child", NULL);
		exit(9);
	}
	wait(&status);
	printf("status %x\n", status);
}

int main(int argc, char **argv)
{
	(void)argv;
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc > 1)
		return 3;
	call("setup", setup(128, &ctx));
	transfers();
	errors();
	processes();
	printf("end\n");
	return 0;
}
