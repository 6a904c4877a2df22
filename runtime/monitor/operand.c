/* The memory operand of the instruction at RIP: for faults of which KVM reports no address (older kernels, software MMUs).
 * Covers one-byte, 0F, 0F 38, 0F 3A and VEX encodings with ModRM, and the string instructions; what it does not know is 0. */
#include "proc.h"

struct cursor {
	const u8 *at, *end;
};

static u8 next(struct cursor *c)
{
	return c->at < c->end ? *c->at++ : 0;
}

static u64 reg(const struct kvm_regs *r, u32 n)
{
	const u64 v[16] = {r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi, r->r8, r->r9, r->r10, r->r11, r->r12, r->r13, r->r14, r->r15};
	return v[n & 15];
}

/* Bytes of immediate behind the operand, which RIP-relative addressing counts: enough for the common encodings. */
static u32 immediate(u8 map, u8 op, u8 modrm, bool wide16)
{
	u32 full = wide16 ? 2 : 4;
	if (map == 1)
		return op == 0x80 || op == 0x83 || op == 0xc0 || op == 0xc1 || op == 0xc6 || op == 0x6b ? 1
		       : op == 0x81 || op == 0xc7 || op == 0x69				       ? full
		       : op == 0xf6 && !(modrm & 0x30)				       ? 1
		       : op == 0xf7 && !(modrm & 0x30)				       ? full
											       : 0;
	return map == 3 || (map == 0x0f && (op == 0x70 || op == 0xc2 || op == 0xc4 || op == 0xc5 || op == 0xc6 || op == 0xba || op == 0xa4 || op == 0xac));
}

static i32 displacement(struct cursor *c, u32 bytes)
{
	u32 v = 0;
	for (u32 i = 0; i < bytes; i++)
		v |= (u32)next(c) << (8 * i);
	return bytes == 1 ? (int8_t)v : (i32)v;
}

u64 operand_address(struct thread *t)
{
	const struct kvm_regs *r = &t->run->s.regs.regs;
	u8 code[15] = {0};
	u32 got = 15;
	while (got && copy_from_guest(code, gptr_of(r->rip), got))
		got--;
	struct cursor c = {code, code + got};
	u64 segment = 0;
	u8 rex = 0, map = 1, op;
	bool wide16 = false;
	for (;;) {
		op = next(&c);
		if (op == 0x64)
			segment = vcpu_get_fs(t);
		else if (op == 0x65)
			segment = vcpu_get_gs(t);
		else if (op == 0x66)
			wide16 = true;
		else if (op != 0x67 && op != 0xf0 && op != 0xf2 && op != 0xf3 && op != 0x2e && op != 0x36 && op != 0x3e && op != 0x26)
			break;
	}
	if ((op & 0xf0) == 0x40) {
		rex = op;
		op = next(&c);
	}
	if (op == 0xc4 || op == 0xc5) { /* VEX */
		u8 b = next(&c);
		rex = (u8)((b & 0x80 ? 0 : 4) | 0x40);
		map = 0x0f;
		if (op == 0xc4) {
			rex |= (u8)((b & 0x40 ? 0 : 2) | (b & 0x20 ? 0 : 1));
			map = (b & 31) == 3 ? 3 : 0x0f;
			next(&c);
		}
		op = next(&c);
	} else if (op == 0x0f) {
		map = 0x0f;
		op = next(&c);
		if (op == 0x38 || op == 0x3a) {
			map = op == 0x3a ? 3 : 2;
			op = next(&c);
		}
	}
	if (map == 1) {
		if (op == 0xa4 || op == 0xa5 || op == 0xa6 || op == 0xa7) { /* movs, cmps: whichever side does not answer */
			u8 byte;
			return copy_from_guest(&byte, gptr_of(r->rsi), 1) ? r->rsi : r->rdi;
		}
		if (op == 0xaa || op == 0xab || op == 0xae || op == 0xaf)
			return r->rdi;
		if (op == 0xac || op == 0xad)
			return r->rsi;
		if ((op & 0xf0) == 0x50 || op == 0xc3 || op == 0xe8) /* push, pop, ret, call */
			return r->rsp;
	}
	u8 modrm = next(&c), mod = modrm >> 6, rm = modrm & 7;
	if (mod == 3)
		return 0;
	u64 base = 0;
	if (rm == 4) {
		u8 sib = next(&c);
		u32 index = (u32)(sib >> 3 & 7) | (rex & 2 ? 8u : 0), b = (u32)(sib & 7) | (rex & 1 ? 8u : 0);
		if (index != 4)
			base += reg(r, index) << (sib >> 6);
		if ((sib & 7) == 5 && mod == 0)
			base += (u64)(i64)displacement(&c, 4);
		else
			base += reg(r, b);
	} else if (rm == 5 && mod == 0) {
		i32 d = displacement(&c, 4);
		return segment + r->rip + (u64)(c.at - code) + immediate(map, op, modrm, wide16) + (u64)(i64)d;
	} else {
		base = reg(r, rm | (rex & 1 ? 8u : 0));
	}
	if (mod)
		base += (u64)(i64)displacement(&c, mod == 1 ? 1 : 4);
	return segment + base;
}
