/* Guest page tables. The address space's lock is held by the caller. */
#ifndef PSB_MM_TABLES_H
#define PSB_MM_TABLES_H

#include "mm.h"

#define TABLE_SPAN (512 * PAGE)

/* Sets the PTEs of [start, end), shown from page `pool` of the text pool on if that is not 0. False when page-table or slot room
 * is used up. */
bool tables_set(struct mm *mm, u64 start, u64 end, u32 prot, u32 pool);
/* Takes away every right not in prot from PTEs that exist. Returns true when execute was taken from one. */
bool tables_restrict(struct mm *mm, u64 start, u64 end, u32 prot);

#endif
