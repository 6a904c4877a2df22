/* Access to guest memory that may fault. Every instruction between guest_access_begin and guest_access_end that
 * touches guest memory may raise SIGSEGV or SIGBUS; the signal handler then continues at guest_access_fixup (see
 * guest_copy_fixup). Leaf functions without stack use, so the fixup can simply return. */
	.text
	.globl	guest_access_begin, guest_access_end, guest_access_fixup
	.hidden	guest_access_begin, guest_access_end, guest_access_fixup

guest_access_begin:
/* long raw_copy(void *dst, const void *src, u64 len) */
	.globl	raw_copy
	.hidden	raw_copy
raw_copy:
	mov	%rdx, %rcx
	rep movsb
	xor	%eax, %eax
	ret

/* long raw_clear(void *dst, u64 len) */
	.globl	raw_clear
	.hidden	raw_clear
raw_clear:
	mov	%rsi, %rcx
	xor	%eax, %eax
	rep stosb
	ret

/* long raw_copy_string(char *dst, const char *src, u64 cap): length, or -ENAMETOOLONG (36) */
	.globl	raw_copy_string
	.hidden	raw_copy_string
raw_copy_string:
	xor	%eax, %eax
1:	cmp	%rdx, %rax
	jae	2f
	movzbl	(%rsi,%rax), %ecx
	mov	%cl, (%rdi,%rax)
	test	%ecx, %ecx
	jz	3f
	inc	%rax
	jmp	1b
2:	mov	$-36, %rax
3:	ret

guest_access_end:
guest_access_fixup:
	mov	$-14, %rax
	ret

	.section .note.GNU-stack,"",@progbits
