/* The guest's page tables, which lie in the system area. What holds of them stands at the top of mm.c. */
#include "kvm.h"
#include "mm_tables.h"

#define PTE_P 1ull
#define PTE_W 2ull
#define PTE_U 4ull
#define PTE_A 0x20ull
#define PTE_D 0x40ull
#define PTE_NX (1ull << 63)
#define PTE_ADDR 0xffffffffff000ull

/* The PTE of va, making tables when `make`; NULL when absent (or no room). */
static u64 *walk(struct mm *mm, u64 va, bool make)
{
	u64 *table = (u64 *)(mm->vm->sys + SYS_PML4);
	for (int level = 3; level > 0; level--) {
		u64 *e = &table[(va >> (12 + 9 * level)) & 511];
		if (!(*e & PTE_P)) {
			if (!make)
				return NULL;
			u64 p = vm_sys_page(mm->vm);
			if (!p)
				return NULL;
			*(volatile u64 *)e = p | 0x67;
		}
		table = (u64 *)(mm->vm->sys + (*e & PTE_ADDR));
	}
	return &table[(va >> 12) & 511];
}

static u64 chunk_gpa(struct mm *mm, u64 va)
{
	u32 n = mm->chunk_of[va / CHUNK_SIZE];
	if (!n) {
		if (mm->nchunks == mm->max_chunks)
			return 0;
		long r = vm_add_chunk(mm->vm, mm->nchunks, ROUND_DOWN(va, CHUNK_SIZE));
		if (r) {
			log_line("memory slot: error %d", (int)-r);
			return 0;
		}
		mm->chunk_va[mm->nchunks] = ROUND_DOWN(va, CHUNK_SIZE);
		n = ++mm->nchunks;
		mm->chunk_of[va / CHUNK_SIZE] = n;
	}
	return CHUNK_GPA(n - 1) + (va & (CHUNK_SIZE - 1));
}

static u64 pte_bits(u32 prot)
{
	if (!(prot & (PROT_READ | PROT_WRITE | PROT_EXEC)))
		return 0;
	return PTE_P | PTE_U | PTE_A | (prot & PROT_WRITE ? PTE_W | PTE_D : 0) | (prot & PROT_EXEC ? 0 : PTE_NX);
}

bool tables_set(struct mm *mm, u64 start, u64 end, u32 prot, u32 pool)
{
	u64 bits = pte_bits(prot);
	for (u64 va = start; va < end;) {
		u64 stop = ROUND_DOWN(va, TABLE_SPAN) + TABLE_SPAN;
		if (stop > end)
			stop = end;
		u64 *pte = walk(mm, va, bits != 0);
		if (!pte) {
			if (bits)
				return false;
			va = stop;
			continue;
		}
		u64 gpa = !bits ? 0 : pool ? POOL_GPA + pool * PAGE + (va - start) : chunk_gpa(mm, va);
		if (bits && !gpa)
			return false;
		for (; va < stop; va += PAGE, gpa += PAGE)
			*(volatile u64 *)pte++ = bits ? gpa | bits : 0;
	}
	return true;
}

bool tables_restrict(struct mm *mm, u64 start, u64 end, u32 prot)
{
	u64 bits = pte_bits(prot);
	bool lost_exec = false;
	for (u64 va = start; va < end;) {
		u64 stop = ROUND_DOWN(va, TABLE_SPAN) + TABLE_SPAN;
		if (stop > end)
			stop = end;
		u64 *pte = walk(mm, va, false);
		for (; pte && va < stop; va += PAGE, pte++) {
			u64 e = *pte;
			if (!(e & PTE_P))
				continue;
			if (!bits) {
				*(volatile u64 *)pte = 0;
				continue;
			}
			lost_exec |= !(e & PTE_NX) && bits & PTE_NX;
			*(volatile u64 *)pte = (e & ~(PTE_W | PTE_D)) | (e & bits & (PTE_W | PTE_D)) | (bits & PTE_NX);
		}
		va = stop;
	}
	return lost_exec;
}
