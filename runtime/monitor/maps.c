/* /proc/self/maps as the guest should see it: the host's list below the guest limit, with the guest's permissions, without
 * our pages, and with the files that rewritten text stands for. */
#include "maps.h"

#define O_CLOEXEC 02000000

void maps_emit(struct writer *w, const char *s, u64 n)
{
	for (u64 i = 0; i < n; i++, w->len++)
		if (w->len < w->cap)
			w->buf[w->len] = s[i];
}

static u64 hex(const char **s)
{
	u64 v = 0;
	for (;; (*s)++) {
		char c = **s;
		if (c >= '0' && c <= '9')
			v = v << 4 | (u64)(c - '0');
		else if (c >= 'a' && c <= 'f')
			v = v << 4 | (u64)(c - 'a' + 10);
		else
			return v;
	}
}

/* One line of the kernel's format; what is not there stays 0. */
struct host_line maps_parse(const char *s)
{
	struct host_line l = {0};
	l.start = hex(&s);
	s += *s == '-';
	l.end = hex(&s);
	s += *s == ' ';
	l.share = strnlen(s, 4) == 4 ? s[3] : 'p';
	s += strnlen(s, 5);
	l.offset = hex(&s);
	s += *s == ' ';
	l.major = (u32)hex(&s);
	s += *s == ':';
	l.minor = (u32)hex(&s);
	s += *s == ' ';
	while (*s >= '0' && *s <= '9')
		l.ino = l.ino * 10 + (u64)(*s++ - '0');
	while (*s == ' ')
		s++;
	l.path = s;
	return l;
}

void maps_write_line(struct writer *w, struct mm *mm, const struct host_line *l, const struct region *g, u64 start, u64 end)
{
	char text[128];
	u64 offset = l->ino || l->offset ? l->offset + (start - l->start) : 0, ino = l->ino;
	u32 major = l->major, minor = l->minor;
	const char *path = l->path;
	if (g->flags & REGION_IMAGE && g->file) {
		const struct image_file *f = &mm->file[g->file - 1];
		offset = g->offset + (start - g->start);
		ino = f->key.ino;
		major = (u32)(f->key.dev >> 8 & 0xfff);
		minor = (u32)((f->key.dev & 0xff) | (f->key.dev >> 12 & 0xfff00));
		path = f->path;
	}
	if (!*path) {
		if (start < mm->stack_top && end > mm->stack_low)
			path = "[stack]";
		else if (start >= mm->brk_start && end <= ROUND_UP(mm->brk, PAGE) && mm->brk > mm->brk_start)
			path = "[heap]";
	}
	int n = format(text, sizeof text, "%08lx-%08lx %c%c%c%c %08lx %02x:%02x %lu", start, end, g->prot & PROT_READ ? 'r' : '-', g->prot & PROT_WRITE ? 'w' : '-',
		       g->prot & PROT_EXEC ? 'x' : '-', l->share, offset, major, minor, ino);
	maps_emit(w, text, (u64)n);
	if (*path) {
		maps_emit(w, "                                                                         ", n < 73 ? (u64)(73 - n) : 1);
		maps_emit(w, path, strlen(path));
	} else {
		maps_emit(w, " ", 1);
	}
	maps_emit(w, "\n", 1);
}

static void write_vma(struct writer *w, struct mm *mm, const struct host_line *l)
{
	for (u64 at = l->start; at < l->end;) {
		const struct region *g = mm_find(mm, at);
		if (!g)
			return;
		u64 end = g->end < l->end ? g->end : l->end;
		if (!(g->flags & (REGION_HIDDEN | REGION_TRAMP)))
			maps_write_line(w, mm, l, g, at, end);
		at = end;
	}
}

void maps_each_line(struct proc *p, const char *name, bool (*take)(void *ctx, const char *line), void *ctx)
{
	enum { ROOM = 64 << 10 };
	char *text = host_alloc(ROOM);
	long fd = text ? host_call(__NR_openat, p->proc_fd, name, O_CLOEXEC, 0) : -ENOMEM;
	u64 have = 0;
	bool more = fd >= 0;
	while (more) {
		long got = host_call(__NR_read, fd, text + have, ROOM - 1 - have);
		more = got > 0;
		have += more ? (u64)got : 0;
		text[have] = 0;
		char *line = text;
		for (char *nl; more && (nl = strchr(line, '\n')); line = nl + 1) {
			*nl = 0;
			more = take(ctx, line);
		}
		have -= (u64)(line - text);
		memmove(text, line, have);
	}
	if (fd >= 0)
		host_call(__NR_close, fd);
	host_free(text, ROOM);
}

struct maps {
	struct writer w;
	struct mm *mm;
};

static bool take_line(void *ctx, const char *line)
{
	struct maps *m = ctx;
	struct host_line l = maps_parse(line);
	if (l.start >= PSB_GUEST_LIMIT) /* sorted: the rest is the monitor's */
		return false;
	write_vma(&m->w, m->mm, &l);
	return true;
}

u64 mm_format_maps(struct proc *p, char *buf, u64 cap)
{
	lock_acquire(&p->mm->lock);
	u64 n = mm_format_maps_locked(p, buf, cap);
	lock_release(&p->mm->lock);
	return n;
}

u64 mm_format_maps_locked(struct proc *p, char *buf, u64 cap)
{
	struct maps m = {{buf, cap, 0}, p->mm};
	maps_each_line(p, "self/maps", take_line, &m);
	static const char vsyscall[] = "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n";
	maps_emit(&m.w, vsyscall, sizeof vsyscall - 1); /* emulate.c */
	return m.w.len;
}

/* Ours is mapped as a whole; the kernel's would have grown so far. */
static u64 stack_used(const struct region *g)
{
	enum { FIRST = 132 << 10, MOST = 64 << 20 }; /* what a program begins with; what is looked through */
	u64 len = g->end - g->start, page = 0;
	u8 *present = len <= MOST ? host_alloc(len / PAGE) : NULL;
	if (present && !host_call(__NR_mincore, g->start, len, present))
		while (page < len / PAGE && !(present[page] & 1))
			page++;
	else
		page = len / PAGE;
	host_free(present, len / PAGE);
	u64 used = len - page * PAGE, least = len < FIRST ? len : FIRST;
	return used > least ? used : least;
}

void mm_sizes(struct mm *mm, struct mm_sizes *s)
{
	memset(s, 0, sizeof *s);
	lock_acquire(&mm->lock);
	for (u32 i = 0; i < mm->nregions; i++) {
		const struct region *g = &mm->region[i];
		u64 len = g->end - g->start;
		if (g->flags & (REGION_HIDDEN | REGION_TRAMP))
			continue;
		s->all += len;
		if (g->start < mm->stack_top && g->end > mm->stack_low) {
			u64 used = stack_used(g);
			s->stack += used;
			s->all -= len - used;
		} else if (g->prot & PROT_WRITE && !(g->flags & (REGION_SHARED | REGION_SHM))) {
			s->data += len;
		}
	}
	lock_release(&mm->lock);
}
