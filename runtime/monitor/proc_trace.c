/* What the trace tells of processes besides their calls: starts, executable mappings, forks, ends. */
#include "proc.h"
#include "syscalls/handlers.h"

/* The host procfs' thread-self names the caller as the host sees it: "PID/task/TID". */
void proc_read_host_pid(struct proc *p, const struct vault *v)
{
	char link[64];
	long n = v->fd[PSB_FD_HOST_SELF] < 0 ? -1 : host_call(__NR_readlinkat, v->fd[PSB_FD_HOST_SELF], "", link, sizeof link - 1);
	int pid = 0;
	for (long i = 0; i < n && link[i] >= '0' && link[i] <= '9'; i++)
		pid = pid * 10 + link[i] - '0';
	p->host_pid = pid;
}

static void record(struct proc *p, u32 tid, u8 kind, const u64 args[6], const char *path)
{
	const struct trace_item item = {.data = path, .len = path ? (u32)strlen(path) : 0, .type = PSB_ITEM_STRING, .arg = 255};
	const struct trace_event ev = {.kind = kind, .flags = PSB_REC_DONE, .tid = tid, .args = args, .items = &item, .nitems = path != NULL};
	trace_write(&p->tracer, &ev, NULL);
}

/* A descriptor for the tracer when it has to grow or map the file: from the vault, gone again after use. */
static int open_trace_file(void *ctx)
{
	struct vault v;
	long r = vault_open(((struct proc *)ctx)->vault_fd, &v);
	if (r)
		return (int)r;
	vault_close(&v, 1u << PSB_FD_TRACE);
	return v.fd[PSB_FD_TRACE];
}

void proc_trace_start(struct proc *p, const struct vault *v, const struct psb_start *start)
{
	long r = tracer_attach(&p->tracer, v->fd[PSB_FD_TRACE], start, open_trace_file, p);
	if (r)
		fatal("trace: error %d", (int)-r);
	proc_read_host_pid(p, v);
}

static void identify(struct proc *p)
{
	char comm[16] = "";
	host_call(__NR_prctl, 16 /* PR_GET_NAME */, comm, 0, 0, 0);
	tracer_identify(&p->tracer, (u32)p->pid, (u32)p->host_pid, comm);
}

void proc_trace_exec(struct proc *p, struct thread *t, u64 entry)
{
	identify(p);
	const u64 args[6] = {entry};
	record(p, (u32)t->tid, PSB_REC_EXEC, args, p->exe_path);
}

void proc_trace_fork(struct proc *p, int parent, u64 flags)
{
	tracer_init_child(&p->tracer);
	p->tracer.open_ctx = p;
	identify(p);
	const u64 args[6] = {(u64)parent, flags};
	record(p, (u32)p->pid, PSB_REC_FORK, args, NULL);
}

/* Readers turn call sites into file and offset with these; the image's place in the plan store leads them from a trampoline to its site. */
void proc_trace_map(struct proc *p, int tid, u64 addr, u64 len, int fd, u64 offset)
{
	u64 st[18];
	char link[32], path[512];
	if (p->trace_mode == PSB_TRACE_OFF || host_call(__NR_fstat, fd, st))
		return;
	fd_link(link, fd);
	long n = host_call(__NR_readlinkat, p->proc_fd, link, path, sizeof path - 1);
	path[n > 0 ? n : 0] = 0;
	lock_acquire(&p->mm->lock);
	const struct region *g = mm_find(p->mm, addr);
	u64 image = g && g->flags & REGION_IMAGE && g->file ? p->mm->file[g->file - 1].store_off : 0;
	lock_release(&p->mm->lock);
	const u64 args[6] = {addr, len, offset, st[0], st[1], image};
	record(p, (u32)tid, PSB_REC_MAP, args, path);
}

void proc_trace_exit(struct proc *p, struct thread *t, u64 status)
{
	const u64 args[6] = {status};
	record(p, (u32)t->tid, PSB_REC_EXIT, args, NULL);
	trace_close(&p->tracer);
}
