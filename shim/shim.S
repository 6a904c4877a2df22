/* The shim: the only code of ours that runs in the guest at CPL 3. Flat, position independent, no data.
 *
 * Entered from a trampoline by `jmp *%gs:PSB_SLOT_ENTRY` with all registers as at a `syscall` instruction, except
 * RCX = where to continue. Like `syscall` it keeps every register but RAX, RCX and R11, and unlike compare and
 * arithmetic instructions the ones used here leave the flags alone (mov, lea, bswap, jrcxz, movzx, out).
 *
 * Signals: the monitor never builds a frame while RIP is in here. It sets the slot's `pending` and lets the shim finish;
 * from shim_leave on the call is complete and the monitor itself continues at R11. */
#include "abi.h"

#define SLOT(off) %gs:off

	.text
	.globl	shim_start, shim_ring, shim_trap, shim_cont, shim_leave, shim_leave_end, shim_raw, shim_end
shim_start:
/* Trap entry: nobody polls. One exit. */
shim_trap:
	out	%eax, $PSB_PORT_SHIM
	jmp	*%rcx

	.balign 64
/* Ring entry: post the request, wait for the answer. */
shim_ring:
	mov	%rax, SLOT(PSB_SLOT_NR_RET)
	mov	%rdi, SLOT(PSB_SLOT_ARGS)
	mov	%rsi, SLOT(PSB_SLOT_ARGS+8)
	mov	%rdx, SLOT(PSB_SLOT_ARGS+16)
	mov	%r10, SLOT(PSB_SLOT_ARGS+24)
	mov	%r8, SLOT(PSB_SLOT_ARGS+32)
	mov	%r9, SLOT(PSB_SLOT_ARGS+40)
	mov	%rcx, %r11
	bswap	%r11
	mov	$PSB_SLOT_POSTED, %r11b
	mov	%r11, SLOT(PSB_SLOT_POST)	/* x86 keeps the order of stores: the line is complete */
	mov	%rcx, %r11
	mov	$500, %eax			/* the usual answer comes at once; `pause` alone would take as long */
1:	movzbl	SLOT(PSB_SLOT_POST), %ecx
	lea	-PSB_SLOT_POSTED(%rcx), %rcx
	jrcxz	2f
	lea	PSB_SLOT_POSTED-PSB_SLOT_DONE(%rcx), %rcx
	jrcxz	3f
	jmp	shim_cont
2:	lea	-1(%rax), %rax
	mov	%rax, %rcx
	jrcxz	5f
	jmp	1b
5:	mov	$2000, %eax			/* some 50 microseconds, then the monitor is asked by an exit */
6:	pause
	movzbl	SLOT(PSB_SLOT_POST), %ecx
	lea	-PSB_SLOT_POSTED(%rcx), %rcx
	jrcxz	7f
	lea	PSB_SLOT_POSTED-PSB_SLOT_DONE(%rcx), %rcx
	jrcxz	3f
	jmp	shim_cont
7:	lea	-1(%rax), %rax
	mov	%rax, %rcx
	jrcxz	8f
	jmp	6b
8:	mov	SLOT(PSB_SLOT_TAKEN), %rcx
	jrcxz	shim_cont
	movq	$0, SLOT(PSB_SLOT_TAKEN)
	jmp	5b
3:	mov	SLOT(PSB_SLOT_NR_RET), %rax
	mov	SLOT(PSB_SLOT_PENDING), %rcx
shim_leave:
	jrcxz	4f
	mov	%r11, %rcx
	out	%eax, $PSB_PORT_SIGCHECK
	jmp	*%rcx
4:	mov	%r11, %rcx
	jmp	*%rcx
shim_leave_end:

/* Not served on the ring: continue on the thread itself. */
shim_cont:
	mov	%r11, %rcx
	out	%eax, $PSB_PORT_CONT
	jmp	*%rcx

	.balign 64
/* `cpuid` from a table: the instruction itself leaves the VM, and every C library starts with dozens of them. RBX = where to
 * continue, RDX is free. Only the first part changes flags, so they are put back before the results are loaded.
 *
 * Interrupted by a signal, the monitor undoes all this (run.c): the program is in front of its `cpuid` again, with what it
 * could still use of its registers (RBX and RDX were about to be overwritten). */
	.globl	shim_cpuid, shim_cpuid_saved, shim_cpuid_flags, shim_cpuid_end, shim_cpuid_table
shim_cpuid:
	mov	%rbx, SLOT(PSB_SLOT_SAVED)
	mov	%eax, SLOT(PSB_SLOT_SAVED+8)
	mov	%ecx, SLOT(PSB_SLOT_SAVED+12)
	mov	%rsi, SLOT(PSB_SLOT_SAVED+16)
	mov	%rdi, SLOT(PSB_SLOT_SAVED+24)
shim_cpuid_saved:
	mov	%eax, %edi
	lahf
	seto	%al
	mov	%rax, SLOT(PSB_SLOT_SAVED+32)
shim_cpuid_flags:
	lea	shim_cpuid_table(%rip), %rsi
1:	cmpl	$0, 12(%rsi)
	jne	3f
	cmp	%edi, (%rsi)
	jne	2f
	mov	4(%rsi), %edx
	xor	%ecx, %edx
	and	8(%rsi), %edx
	jz	4f
2:	add	$32, %rsi
	jmp	1b
3:	add	$0x7f, %al			/* OF as it was; the others are in AH */
	sahf
	mov	%edi, %eax
	cpuid
	jmp	5f
4:	add	$0x7f, %al
	sahf
	mov	16(%rsi), %eax
	mov	20(%rsi), %ebx
	mov	24(%rsi), %ecx
	mov	28(%rsi), %edx
5:	mov	SLOT(PSB_SLOT_SAVED+24), %rdi
	mov	SLOT(PSB_SLOT_SAVED+16), %rsi
	jmp	*SLOT(PSB_SLOT_SAVED)
shim_cpuid_end:

/* For the monitor, before there is a program: answers the entries at RDI. */
	.globl	shim_ask
shim_ask:
	cmpl	$0, 12(%rdi)
	jne	1f
	mov	(%rdi), %eax
	mov	4(%rdi), %ecx
	cpuid
	mov	%eax, 16(%rdi)
	mov	%ebx, 20(%rdi)
	mov	%ecx, 24(%rdi)
	mov	%edx, 28(%rdi)
	add	$32, %rdi
	jmp	shim_ask
1:	out	%eax, $PSB_PORT_SHIM
	hlt

	.balign 64
/* LSTAR: an unpatched `syscall` arrives here at CPL 0 with RCX and R11 set by the CPU. Also reachable by a jump at
 * CPL 3, which means no more than a system call with an odd return address. */
shim_raw:
	out	%eax, $PSB_PORT_RAW
	hlt
	.balign 32
shim_cpuid_table:				/* the monitor writes it */
shim_end:
	.section .note.GNU-stack,"",@progbits
