/* Start of a monitor: from the kernel's initial stack and the start record to the first instruction of the guest. */
#include <elf.h>
#include "confine.h"
#include "peer.h"
#include "proc.h"
#include "seccomp.h"
#include "shim_offsets.h"
#include "syscalls/handlers.h"

#define PR_SET_NAME 15
#define PR_SET_DUMPABLE 4
#define PR_SET_NO_NEW_PRIVS 38
#define ARCH_SET_FS 0x1002

static struct proc first_proc;
static struct mm first_mm;
static struct vm first_vm;

/* R_X86_64_RELATIVE entries are the only kind a freestanding static PIE has. */
static void relocate(const u64 base, const Elf64_Dyn *dyn)
{
	u64 rela = 0, size = 0;
	for (; dyn->d_tag; dyn++) {
		if (dyn->d_tag == DT_RELA)
			rela = base + dyn->d_un.d_ptr;
		else if (dyn->d_tag == DT_RELASZ)
			size = dyn->d_un.d_val;
	}
	for (const Elf64_Rela *r = (const Elf64_Rela *)rela; size; size -= sizeof *r, r++)
		*(u64 *)(base + r->r_offset) = base + (u64)r->r_addend;
}

static u32 parse_number(const char *s)
{
	u32 n = 0;
	while (*s >= '0' && *s <= '9')
		n = n * 10 + (u32)(*s++ - '0');
	return n;
}

/* Takes the start record out of its socket and checks what the monitor relies on. */
static struct psb_start *read_start_record(int fd)
{
	struct psb_start *s = host_alloc(START_MAX);
	if (!s)
		fatal("no memory");
	long got = host_call(__NR_recvfrom, fd, s, START_MAX, 0, 0, 0);
	if (IS_ERR(got))
		fatal("start record: error %d", (int)-got);
	u64 size = (u64)got;
	if (size < sizeof *s || s->magic != PSB_START_MAGIC || s->version != PSB_ABI_VERSION || s->size != size || s->path_off >= size ||
	    s->execfn_off >= size || ((const char *)s)[size - 1] != 0 || s->fds_off % 8 || s->nfds % 64 || s->fds_off + (u64)s->nfds / 8 > size ||
	    s->filters_off % 8 || s->filters_off + (u64)s->filters_len > size ||
	    (s->facts_len && (s->facts_len < offsetof(struct host_facts, kvm) || s->facts_off % 8 || s->facts_off + (u64)s->facts_len > size)))
		fatal("start record: malformed");
	return s;
}

static bool find_vdso(struct proc *p, u64 vdso)
{
	static char buf[8192];
	long fd = host_call(__NR_openat, p->proc_fd, "self/maps", 02000000, 0);
	if (IS_ERR(fd))
		return false;
	u64 have = 0;
	struct vdso_layout *l = vdso_facts();
	for (;;) {
		long got = host_call(__NR_read, fd, buf + have, sizeof buf - 1 - have);
		if (got <= 0)
			break;
		have += (u64)got;
		buf[have] = 0;
		char *line = buf, *nl;
		while ((nl = strchr(line, '\n')) && *nl) {
			*nl = 0;
			u64 range[2] = {0, 0};
			int which = 0;
			for (char *c = line; *c && *c != ' '; c++) {
				if (*c == '-')
					which = 1;
				else
					range[which] = range[which] << 4 | (u64)(*c <= '9' ? *c - '0' : *c - 'a' + 10);
			}
			char *name = strrchr(line, '[');
			if (name && (!strncmp(name, "[vvar", 5) || !strcmp(name, "[vdso]")) && l->n < ARRAY_LEN(l->part)) {
				l->part[l->n].offset = (i64)(range[0] - vdso);
				l->part[l->n++].len = range[1] - range[0];
			}
			line = nl + 1;
		}
		have -= (u64)(line - buf);
		memmove(buf, line, have);
	}
	host_call(__NR_close, fd);
	return l->n;
}

/* Moves the kernel's vDSO and its data pages below the guest limit, keeping their distance. */
static void move_vdso(struct proc *p, u64 vdso)
{
	const struct vdso_layout *l = vdso_facts();
	if (!vdso || (!l->n && !find_vdso(p, vdso)))
		return;
	i64 low = l->part[0].offset;
	u64 span = (u64)(l->part[l->n - 1].offset - low) + l->part[l->n - 1].len;
	struct mm *mm = p->mm;
	if (span > 31 * PAGE)
		return;
	u64 to = mm->shim - 31 * PAGE;
	for (u32 i = 0; i < l->n; i++) {
		u64 dst = to + (u64)(l->part[i].offset - low), len = l->part[i].len;
		/* MREMAP_MAYMOVE | MREMAP_FIXED */
		if (IS_ERR(host_call(__NR_mremap, vdso + (u64)l->part[i].offset, len, len, 3, dst)))
			return;
		u32 prot = l->part[i].offset ? PROT_READ : PROT_READ | PROT_EXEC;
		if (mm_insert(mm, (struct region){.start = dst, .end = dst + len, .prot = (u8)prot}))
			fatal("vDSO: no room");
	}
	mm->vdso = to - (u64)low;
}

/* The hidden pages of every guest: shim text and slots. */
static void map_shim(struct mm *mm)
{
	u64 size = VCPU_MAX * PSB_SLOT_SIZE;
	long a = host_call(__NR_mmap, mm->shim, PAGE, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	long b = host_call(__NR_mmap, mm->slots, size, 3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (IS_ERR(a) || IS_ERR(b))
		fatal("shim: no memory");
	memcpy((void *)mm->shim, shim_image, (size_t)(shim_image_end - shim_image));
	cpuid_fill_shim(mm);
	host_call(__NR_mprotect, mm->shim, PAGE, 1);
	if (mm_insert(mm, (struct region){.start = mm->shim, .end = mm->shim + PAGE, .prot = PROT_READ | PROT_EXEC, .flags = REGION_HIDDEN}) ||
	    mm_insert(mm, (struct region){.start = mm->slots, .end = mm->slots + size, .prot = PROT_READ | PROT_WRITE, .flags = REGION_HIDDEN}))
		fatal("shim: no room");
}

long proc_make_vm(struct proc *p)
{
	struct vault v;
	long r = vault_open(p->vault_fd, &v);
	if (r)
		return r;
	r = vm_create(p->vm, v.fd[PSB_FD_KVM]);
	proc_read_host_pid(p, &v);
	peer_start(p, &v);
	vault_close(&v, 0);
	if (!r) {
		int fd = fd_move_high(p, p->vm->fd, true);
		if (fd < 0)
			return fd;
		p->vm->fd = fd;
	}
	return r;
}

/* The task's name is the program's, as execve sets it; the first program's from its path. */
static void set_comm(const char *path)
{
	const char *slash = strrchr(path, '/');
	host_call(__NR_prctl, PR_SET_NAME, slash ? slash + 1 : path, 0, 0, 0);
}

static u64 find_aux(const u64 *auxv, u64 type)
{
	for (; auxv[0]; auxv += 2)
		if (auxv[0] == type)
			return auxv[1];
	return 0;
}

static _Noreturn void end_by_signal(int signo)
{
	u64 mask = 0;
	struct sigaction_k act = {0}; /* SIG_DFL */
	host_call(__NR_rt_sigaction, signo, &act, 0, sizeof mask);
	host_call(__NR_rt_sigprocmask, 2 /* SIG_SETMASK */, &mask, 0, sizeof mask);
	host_call(__NR_tgkill, host_call(__NR_getpid), host_call(__NR_gettid), signo);
	for (;;)
		host_call(__NR_exit_group, 128 + signo);
}

static void identify(int fd, u64 *dev, u64 *ino)
{
	u64 st[18];
	if (!host_call(__NR_fstat, fd, st)) {
		*dev = st[0];
		*ino = st[1];
	}
}

_Noreturn void monitor_entry(u64 *sp, u64 base, const Elf64_Dyn *dyn);
_Noreturn void monitor_entry(u64 *sp, u64 base, const Elf64_Dyn *dyn)
{
	relocate(base, dyn);
	u64 argc = sp[0];
	char **argv = (char **)(sp + 1);
	char **envp = argv + argc + 1;
	u64 *auxv = (u64 *)envp;
	while (*auxv++)
		;
	struct proc *p = &first_proc;
	struct thread *t = thread_first(p);
	for (char **e = envp; *e; e++) /* the kernel has put them one behind the other */
		p->environ_len = (u64)(*e - *envp) + strlen(*e) + 1;
	p->environ = *envp;
	host_call(__NR_arch_prctl, ARCH_SET_FS, t);
	host_call(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
	host_call(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);

	const char *execfn = (const char *)find_aux(auxv, AT_EXECFN);
	if (!execfn || strncmp(execfn, "/dev/fd/", 8))
		fatal("this program is started by pysandbox only");
	int self_fd = (int)parse_number(execfn + 8), start_fd = self_fd + 2;
	p->vault_fd = self_fd + 1;
	p->pid = (int)host_call(__NR_getpid);
	t->tid = (int)host_call(__NR_gettid);
	identify(self_fd, &p->monitor_dev, &p->monitor_ino);
	host_call(__NR_fcntl, p->vault_fd, F_SETFD, 1);
	struct psb_start *start = read_start_record(start_fd);
	fd_keep_neighbours(p); /* in place of what stood there */
	if (start->end_signal)
		end_by_signal((int)start->end_signal);
	fd_drop_closed((u64 *)((char *)start + start->fds_off), start->nfds);
	if (!start->is_exec) /* a guest's execve has inherited it */
		confine();
	if (start->wait_fd)
		release_wait((int)start->wait_fd, self_fd);
	struct vault v;
	long r = vault_open(p->vault_fd, &v);
	if (r)
		fatal("vault: error %d", (int)-r);

	bool known = facts_take(p, start);
	p->vm = &first_vm;
	p->mm = &first_mm;
	p->dispatch = start->dispatch;
	p->trace_mode = start->trace;
	p->pin = start->pin;
	p->no_new_privs = start->no_new_privs;
	if (!seccomp_restore(t, (const u8 *)start + start->filters_off, start->filters_len))
		fatal("the program's filters: no memory");
	p->stack_limit = start->stack_limit;
	p->nofile[0] = start->nofile_soft;
	p->nofile[1] = start->nofile_hard;
	r = vm_init_system(p->vm, pool_size(v.fd[PSB_FD_POOL]));
	if (!r) {
		pool_open(p->vm, v.fd[PSB_FD_POOL]);
		r = vm_create(p->vm, v.fd[PSB_FD_KVM]);
	}
	if (r)
		fatal("cannot create a KVM virtual machine: error %d", (int)-r);
	r = mm_init(p->mm, p->vm, start->stack_limit);
	if (r)
		fatal("address space: error %d", (int)-r);
	p->mm->users = 1;
	u64 policy_stat[18];
	if (v.fd[PSB_FD_POLICY] < 0 || host_call(__NR_fstat, v.fd[PSB_FD_POLICY], policy_stat))
		fatal("policy: missing");
	long blob = host_call(__NR_mmap, 0, policy_stat[6], 1, MAP_PRIVATE, v.fd[PSB_FD_POLICY], 0);
	if (IS_ERR(blob) || policy_check((const void *)blob, policy_stat[6]))
		fatal("policy: malformed");
	p->policy = (const struct psb_policy *)blob;
	procfs_start(p, &v);
	proc_trace_start(p, &v, start);
	plan_open(p, v.fd[PSB_FD_PLAN_INDEX], v.fd[PSB_FD_PLAN_STORE], v.fd[PSB_FD_PLANNER]);
	vault_close(&v, 1u << PSB_FD_PROC | 1u << PSB_FD_PLAN_STORE | 1u << PSB_FD_PLANNER | 1u << PSB_FD_NOTIFY | 1u << PSB_FD_CTL);
	fd_start(p, (const u64 *)((const char *)start + start->fds_off), start->nfds);
	p->proc_fd = fd_move_high(p, v.fd[PSB_FD_PROC], true);
	p->vm->fd = fd_move_high(p, p->vm->fd, true);

	const char *path = (const char *)start + start->path_off;
	p->store_fd = v.fd[PSB_FD_PLAN_STORE] < 0 ? -1 : fd_move_high(p, v.fd[PSB_FD_PLAN_STORE], true);
	p->planner_fd = v.fd[PSB_FD_PLANNER] < 0 ? -1 : fd_move_high(p, v.fd[PSB_FD_PLANNER], true);
	p->notify_fd = v.fd[PSB_FD_NOTIFY] < 0 ? -1 : fd_move_high(p, v.fd[PSB_FD_NOTIFY], true);
	struct program *prog = host_alloc(sizeof *prog);
	if (!prog)
		fatal("no memory");
	char **gargv = argv;
	const char *gexecfn = (const char *)start + start->execfn_off;
	if (start->is_exec) {
		prog->exe_fd = start->exe_fd;
		prog->interp_fd = start->interp_fd;
	} else {
		r = exec_first(t, prog, path, &argc, &gargv);
		if (r)
			fatal("exec %s: error %d", path, (int)-r);
		path = prog->path;
	}
	host_call(__NR_fcntl, prog->exe_fd, F_SETFD, 1);
	identify(prog->exe_fd, &p->exe_dev, &p->exe_ino);
	memcpy(p->exe_path, path, strnlen(path, sizeof p->exe_path - 1));
	p->dumpable = 1;
	peer_start(p, &v);
	vault_close(&v, 0xffff & ~(1u << PSB_FD_CTL));
	set_comm(gexecfn);
	map_shim(p->mm);
	p->vm->stub_va = p->mm->shim + SHIM_RAW;
	move_vdso(p, find_aux(auxv, AT_SYSINFO_EHDR));
	t->slot = (volatile struct psb_slot *)p->mm->slots;
	t->slot->cpuid = p->mm->shim + SHIM_CPUID;
	r = vcpu_attach(p->vm, t);
	if (r)
		fatal("cannot create a virtual CPU: error %d", (int)-r);
	if (!known) {
		cpuid_ask(t);
		facts_leave(p, start);
	}
	if (start->facts_fd)
		host_call(__NR_close, start->facts_fd);
	struct image img;
	r = load_program(p, prog->exe_fd, prog->interp_fd, &img);
	if (r) /* the point of no return is passed: as the kernel does */
		signal_die(t, 11);
	host_call(__NR_close, prog->exe_fd);
	if (prog->interp_fd >= 0)
		host_call(__NR_close, prog->interp_fd);
	u64 rsp = build_stack(p, &img, argc, gargv, envp, gexecfn, auxv);
	host_free(prog, sizeof *prog);
	proc_trace_exec(p, t, img.entry);
	signal_start(p, t, start);
	peer_tell_status(p);
	peer_open(p);
	t->slot->entry = trap_entry(p); /* the server changes it when it runs */
	ring_start(p);
	vcpu_set_user(t, img.entry, rsp, 0);
	release_done();
	thread_run(t);
}
