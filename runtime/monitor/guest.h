/* Guest pointers. A gptr is a number that came from the guest: it cannot be dereferenced; the functions below
 * are the only way to use one, and each checks the range and survives unmapped memory. */
#ifndef PSB_GUEST_H
#define PSB_GUEST_H

#include "../../shim/abi.h"
#include "host.h"

typedef struct {
	u64 va;
} gptr;

static inline gptr gptr_of(u64 va)
{
	return (gptr){va};
}

/* True when [p, p+len) lies below the guest limit (len 0: p itself may be anything up to the limit). NULL is in range:
 * whether it means "absent" is the caller's business, the kernel or the copy functions answer EFAULT otherwise. */
static inline bool guest_range(gptr p, u64 len)
{
	return len <= PSB_GUEST_LIMIT && p.va <= PSB_GUEST_LIMIT - len;
}

/* Copy between guest and monitor; 0 or -EFAULT (nothing is promised about a partial copy). */
long copy_from_guest(void *dst, gptr src, u64 len);
long copy_to_guest(gptr dst, const void *src, u64 len);
/* NUL-terminated string of at most cap-1 bytes; its length, -EFAULT, or -ENAMETOOLONG. */
long copy_string_from_guest(char *dst, gptr src, u64 cap);
/* Where to continue after a fault at `rip`, if that is a copy above; else 0. For the signal handler. */
u64 guest_copy_fixup(u64 rip);
/* Fill with zero bytes. */
long clear_guest(gptr dst, u64 len);

#endif
