/* Process entry: the kernel's initial stack goes to monitor_main after self-relocation (static PIE, no libc). */
	.text
	.globl	_start
_start:
	xor	%ebp, %ebp
	mov	%rsp, %rdi
	lea	__ehdr_start(%rip), %rsi
	lea	_DYNAMIC(%rip), %rdx
	and	$-16, %rsp
	call	monitor_entry
	ud2

/* long clone_thread(u64 flags, void *stack_top, int *ptid, int *ctid, void *tls, void (*fn)(void *), void *arg)
 * Host clone; the child calls fn(arg) on the new stack and never returns. */
	.globl	clone_thread
	.hidden	clone_thread
clone_thread:
	mov	8(%rsp), %r11		/* arg */
	and	$-16, %rsi
	mov	%r9, -8(%rsi)		/* fn */
	mov	%r11, -16(%rsi)
	sub	$16, %rsi
	mov	%rcx, %r10
	mov	$56, %eax
	syscall
	test	%rax, %rax
	jz	1f
	ret
1:	xor	%ebp, %ebp
	pop	%rdi
	pop	%rax
	call	*%rax
	ud2

/* _Noreturn void thread_leave(_Atomic u32 *state, u32 value)
 * Marks the thread's stack free and exits without touching the stack again: from the store on, another thread may
 * take it over. All signals are blocked by the caller. */
	.globl	thread_leave
	.hidden	thread_leave
thread_leave:
	mov	%esi, (%rdi)
	xor	%edi, %edi
	mov	$60, %eax
	syscall
	ud2

	.section .note.GNU-stack,"",@progbits
