/* Text about the guest's mappings, made from the host's: maps.c and smaps.c. */
#ifndef PSB_MAPS_H
#define PSB_MAPS_H

#include "proc.h"

struct writer {
	char *buf;
	u64 cap, len; /* len may grow beyond cap: what would be needed */
};
void maps_emit(struct writer *w, const char *s, u64 n);

struct host_line {
	u64 start, end, offset, ino;
	u32 major, minor;
	char share;
	const char *path;
};
/* One line of the kernel's maps format; what is not there stays 0. `path` points into the text. */
struct host_line maps_parse(const char *s);

/* The line the guest sees for [start, end) of region `g`, which lies in the host mapping `l`. */
void maps_write_line(struct writer *w, struct mm *mm, const struct host_line *l, const struct region *g, u64 start, u64 end);

/* Calls `take` for every line of a file of the container's procfs until it says false. */
void maps_each_line(struct proc *p, const char *name, bool (*take)(void *ctx, const char *line), void *ctx);

/* Bytes of the guest's address space: all of it, what is private and writable, the stack. */
struct mm_sizes {
	u64 all, data, stack;
};
void mm_sizes(struct mm *mm, struct mm_sizes *s);

#endif
