/* Sizes of address spaces in status, stat and statm: the program's, without what the monitor has mapped above. Of another process it is
 * taken that its monitor has as much as ours: an estimate, a thread makes a difference of some 70 kB. */
#include "procfs.h"
#include "maps.h"

static u64 number_at(const char *s)
{
	u64 v = 0;
	for (; *s == ' ' || *s == '\t'; s++)
		;
	for (; *s >= '0' && *s <= '9'; s++)
		v = v * 10 + (u64)(*s - '0');
	return v;
}

/* Bytes that the kernel counts in our own address space and the program has not. */
static u64 ours(struct proc *p, const struct mm_sizes *s)
{
	char text[128];
	long fd = host_call(__NR_openat, p->proc_fd, "self/statm", O_CLOEXEC, 0);
	long n = fd < 0 ? fd : host_call(__NR_read, fd, text, sizeof text - 1);
	if (fd >= 0)
		host_call(__NR_close, fd);
	text[n > 0 ? n : 0] = 0;
	u64 all = number_at(text) * PAGE;
	return all > s->all ? all - s->all : 0;
}

static u64 put_size(char *buf, u64 n, const char *key, u64 bytes)
{
	char text[32];
	format(text, sizeof text, "\t%8lu kB", bytes >> 10);
	return status_set(buf, n, key, text);
}

/* Of the process `own` or not, of which the kernel says that it has `host` bytes. */
static void sizes(struct thread *t, bool own, u64 host, struct mm_sizes *s)
{
	mm_sizes(t->proc->mm, s);
	if (!own) {
		u64 more = ours(t->proc, s);
		*s = (struct mm_sizes){.all = host > more ? host - more : host};
	}
}

u64 procfs_vsize(struct thread *t, bool own, u64 host)
{
	struct mm_sizes s;
	sizes(t, own, host, &s);
	return s.all;
}

/* `status`: the values behind these keys, which are text of `n` bytes with room for as much more; the new length. */
u64 procfs_show_sizes(struct thread *t, bool own, char *buf, u64 n)
{
	struct mm_sizes s;
	const char *now = status_value(buf, "VmSize:"), *peak = status_value(buf, "VmPeak:");
	if (!now || !peak) /* a process that has ended has no memory */
		return n;
	u64 host = number_at(now) << 10, above = (number_at(peak) << 10) - host;
	sizes(t, own, host, &s);
	n = put_size(buf, n, "VmPeak:", s.all + above);
	n = put_size(buf, n, "VmSize:", s.all);
	if (!own)
		return n;
	n = put_size(buf, n, "VmStk:", s.stack);
	return put_size(buf, n, "VmData:", s.data);
}

long make_statm(struct thread *t, int fd, char *buf, u64 cap)
{
	char text[128];
	struct mm_sizes s;
	struct proc_name name;
	u64 v[7] = {0};
	long n = host_call(__NR_read, fd, text, sizeof text - 1);
	if (n <= 0)
		return n < 0 ? n : -EIO;
	text[n] = 0;
	const char *at = text;
	for (u32 i = 0; i < ARRAY_LEN(v) && at; i++, at = at ? strchr(at, ' ') : NULL) {
		at += *at == ' ';
		v[i] = number_at(at);
	}
	n = procfs_canonical(t->proc, fd, text, sizeof text);
	if (n < 0 || !procfs_parse(t->proc, text, &name))
		return -EACCES;
	if (v[0]) {
		sizes(t, name.own, v[0] * PAGE, &s);
		v[0] = s.all / PAGE;
		v[5] = name.own ? (s.data + s.stack) / PAGE : v[5];
	}
	return format(buf, cap, "%lu %lu %lu %lu %lu %lu %lu\n", v[0], v[1], v[2], v[3], v[4], v[5], v[6]);
}
