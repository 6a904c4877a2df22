/* The flat shim inside the monitor; mapped read-only at a random place of every guest. */
	.section .rodata
	.globl	shim_image, shim_image_end
	.hidden	shim_image, shim_image_end
	.balign	64
shim_image:
	.incbin	SHIM_IMAGE
shim_image_end:
	.section .note.GNU-stack,"",@progbits
