/* /proc/self/smaps and smaps_rollup: the host's numbers for the mappings that are the guest's.
 *
 * The host keeps one mapping where the guest has several (execute permission is not the host's): then the first of them has
 * all the numbers, so that sums are right. */
#include "maps.h"
#include "procfs.h"

#define NAME_WIDTH 16 /* columns of a name with its colon and the spaces behind it; the number has eight */
#define KEYS 32

struct smaps {
	struct writer w;
	struct mm *mm;
	bool rollup;
	u64 first, last;              /* of all mappings shown */
	u32 nkeys;
	struct {
		char name[NAME_WIDTH + 1];
		u64 sum;
	} key[KEYS];                  /* rollup */
	u32 head_len, block_len;
	char head[4608], block[4096]; /* the mapping being read: its line and what follows it */
};

/* What describes a mapping instead of counting its memory. */
static bool is_attribute(const char *line)
{
	static const char *const names[] = {"Size:", "KernelPageSize:", "MMUPageSize:", "THPeligible:", "ProtectionKey:", "VmFlags:"};
	for (u32 i = 0; i < ARRAY_LEN(names); i++)
		if (!strncmp(line, names[i], strlen(names[i])))
			return true;
	return false;
}

static void emit_number(struct smaps *s, const char *name, u64 kilobytes)
{
	char text[64], number[24];
	u64 n = (u64)format(number, sizeof number, "%lu", kilobytes), at = NAME_WIDTH;
	memset(text, ' ', sizeof text);
	memcpy(text, name, strnlen(name, NAME_WIDTH));
	at += n < 8 ? 8 - n : 0;
	memcpy(text + at, number, n);
	memcpy(text + at + n, " kB\n", 4);
	maps_emit(&s->w, text, at + n + 4);
}

static u64 number_of(const char *line)
{
	u64 v = 0;
	for (line += strnlen(line, NAME_WIDTH); *line == ' '; line++)
		;
	for (; *line >= '0' && *line <= '9'; line++)
		v = v * 10 + (u64)(*line - '0');
	return v;
}

static void add_up(struct smaps *s, const char *line)
{
	u32 i = 0;
	while (i < s->nkeys && strncmp(s->key[i].name, line, NAME_WIDTH))
		i++;
	if (i == KEYS)
		return;
	if (i == s->nkeys) {
		memcpy(s->key[i].name, line, strnlen(line, NAME_WIDTH));
		s->nkeys++;
	}
	s->key[i].sum += number_of(line);
}

/* The lines behind a mapping's own; `counts`: the host's numbers are this one's. */
static void emit_block(struct smaps *s, u64 size, bool counts)
{
	for (const char *line = s->block; line < s->block + s->block_len; line += strlen(line) + 1) {
		bool attribute = is_attribute(line);
		if (s->rollup) {
			if (!attribute && counts)
				add_up(s, line);
		} else if (!strncmp(line, "Size:", 5)) {
			emit_number(s, "Size:", size / 1024);
		} else if (attribute || counts) {
			maps_emit(&s->w, line, strlen(line));
			maps_emit(&s->w, "\n", 1);
		} else {
			emit_number(s, line, 0);
		}
	}
}

static void finish_mapping(struct smaps *s)
{
	if (!s->head_len)
		return;
	struct host_line l = maps_parse(s->head);
	bool counts = true;
	for (u64 at = l.start; at < l.end;) {
		const struct region *g = mm_find(s->mm, at);
		if (!g)
			break;
		u64 end = g->end < l.end ? g->end : l.end;
		if (!(g->flags & (REGION_HIDDEN | REGION_TRAMP))) {
			if (!s->rollup)
				maps_write_line(&s->w, s->mm, &l, g, at, end);
			emit_block(s, end - at, counts);
			counts = false;
			s->first = s->first ? s->first : at;
			s->last = end;
		}
		at = end;
	}
	s->head_len = s->block_len = 0;
}

static bool take_line(void *ctx, const char *line)
{
	struct smaps *s = ctx;
	u64 n = strlen(line) + 1;
	if (*line >= 'A' && *line <= 'Z') {
		if (s->head_len && s->block_len + n <= sizeof s->block) {
			memcpy(s->block + s->block_len, line, n);
			s->block_len += (u32)n;
		}
		return true;
	}
	finish_mapping(s);
	if (maps_parse(line).start >= PSB_GUEST_LIMIT)
		return false;
	s->head_len = (u32)(n < sizeof s->head ? n : sizeof s->head);
	memcpy(s->head, line, s->head_len);
	s->head[s->head_len - 1] = 0;
	return true;
}

static long make(struct thread *t, char *buf, u64 cap, bool rollup)
{
	struct smaps *s = host_alloc(sizeof *s);
	if (!s)
		return -ENOMEM;
	*s = (struct smaps){.w = {buf, cap, 0}, .mm = t->proc->mm, .rollup = rollup};
	lock_acquire(&s->mm->lock);
	maps_each_line(t->proc, "self/smaps", take_line, s);
	finish_mapping(s);
	lock_release(&s->mm->lock);
	if (rollup) {
		char text[128];
		int n = format(text, sizeof text, "%08lx-%08lx ---p 00000000 00:00 0                          [rollup]\n", s->first, s->last);
		maps_emit(&s->w, text, (u64)n);
		for (u32 i = 0; i < s->nkeys; i++)
			emit_number(s, s->key[i].name, s->key[i].sum);
	}
	u64 len = s->w.len;
	host_free(s, sizeof *s);
	return (long)len;
}

long make_smaps(struct thread *t, int fd, char *buf, u64 cap)
{
	(void)fd;
	return make(t, buf, cap, false);
}

long make_smaps_rollup(struct thread *t, int fd, char *buf, u64 cap)
{
	(void)fd;
	return make(t, buf, cap, true);
}
