/* The two places where a signal handler meets assembly. */
	.text

/* long signal_call(_Atomic u32 *pending, long nr, const u64 arg[6])
 *
 * A host call that is not started once a signal is held. The race: a signal that arrives after the test and before the
 * call would be held, with the host mask full, while the call sleeps for ever. So the host handler looks at the interrupted
 * RIP: in [signal_call_begin, signal_call_insn] the call has not begun, or the kernel has already moved RIP back
 * in order to restart it; both continue at signal_call_end with the handler's RAX. RCX tells which: `syscall` leaves signal_call_end
 * there. RIP behind the instruction: the call is over and its result counts. Leaf without stack use, so signal_call_end may be reached from anywhere in the range. */
	.globl	signal_call, signal_call_begin, signal_call_insn, signal_call_end
	.hidden	signal_call, signal_call_begin, signal_call_insn, signal_call_end
signal_call:
	endbr64
	mov	%rdi, %rcx
	mov	%rsi, %rax
	mov	%rdx, %r11
	mov	0(%r11), %rdi
	mov	8(%r11), %rsi
	mov	16(%r11), %rdx
	mov	24(%r11), %r10
	mov	32(%r11), %r8
	mov	40(%r11), %r9
signal_call_begin:
	cmpl	$0, (%rcx)
	jne	1f
signal_call_insn:
	syscall
signal_call_end:
	ret
1:	mov	$-513, %rax		/* -ERESTARTNOINTR */
	ret

/* Return from the host handler: rt_sigreturn. */
	.globl	signal_restorer
	.hidden	signal_restorer
signal_restorer:
	mov	$15, %eax
	syscall
	ud2

	.section .note.GNU-stack,"",@progbits
