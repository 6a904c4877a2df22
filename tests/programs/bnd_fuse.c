/* A file system served by the program itself, whose answers are meant for the monitor. Needs /dev/fuse and the right to mount.
 *     ioctl   requests that make descriptors are answered with numbers
 *     mount   the connection's number, in the text that mount() is given, is not one of the program's */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define NS_GET_PARENT 0xb702
#define TIOCGPTPEER_REQUEST 0x5441
#define FILE_ID 2
#define TOP 1100

static int connection;
static _Atomic int answer;

static void reply(unsigned long unique, int error, const void *data, size_t len)
{
	char out[1024];
	struct fuse_out_header head = {(unsigned)(sizeof head + len), error, unique};
	memcpy(out, &head, sizeof head);
	memcpy(out + sizeof head, data, len);
	if (write(connection, out, sizeof head + len) < 0)
		exit(3);
}

static void attributes(struct fuse_attr *a, unsigned long id)
{
	*a = (struct fuse_attr){.ino = id, .mode = id == FILE_ID ? S_IFREG | 0600 : S_IFDIR | 0700, .nlink = 1, .blksize = 4096};
}

static void serve_one(const struct fuse_in_header *in)
{
	struct fuse_attr_out attr = {.attr_valid = 1};
	struct fuse_entry_out entry = {.nodeid = FILE_ID, .entry_valid = 1, .attr_valid = 1};
	struct fuse_open_out opened = {.fh = 1};
	struct fuse_ioctl_out result = {.result = answer};
	struct fuse_init_out init = {.major = FUSE_KERNEL_VERSION, .minor = 31, .max_readahead = 4096, .max_write = 4096};
	switch (in->opcode) {
	case FUSE_INIT:
		reply(in->unique, 0, &init, sizeof init);
		break;
	case FUSE_LOOKUP:
		attributes(&entry.attr, FILE_ID);
		reply(in->unique, 0, &entry, sizeof entry);
		break;
	case FUSE_GETATTR:
		attributes(&attr.attr, in->nodeid);
		reply(in->unique, 0, &attr, sizeof attr);
		break;
	case FUSE_OPEN:
		reply(in->unique, 0, &opened, sizeof opened);
		break;
	case FUSE_IOCTL:
		reply(in->unique, 0, &result, sizeof result);
		break;
	case FUSE_FLUSH:
	case FUSE_RELEASE:
		reply(in->unique, 0, NULL, 0);
		break;
	case FUSE_FORGET:
	case FUSE_INTERRUPT:
		break;
	default:
		reply(in->unique, -ENOSYS, NULL, 0);
	}
}

static void *serve(void *unused)
{
	static char in[1 << 17];
	while (read(connection, in, sizeof in) > 0)
		serve_one((const struct fuse_in_header *)in);
	return unused;
}

static int mount_it(const char *where, int fd)
{
	char options[100];
	snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0", fd);
	mkdir(where, 0700);
	return mount("served", where, "fuse", 0, options);
}

/* Numbers up to TOP that are open. */
static int count(void)
{
	int n = 0;
	for (int fd = 0; fd < TOP; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static int requests(void)
{
	pthread_t t;
	if (mount_it("/tmp/served", connection) || pthread_create(&t, NULL, serve, NULL))
		return 2;
	int fd = open("/tmp/served/file", O_RDWR), before = count(), wrong = 0;
	for (answer = 3; answer < TOP; answer++) {
		if (fcntl(answer, F_GETFD) >= 0) /* what is open stays open */
			continue;
		ioctl(fd, NS_GET_PARENT);
		ioctl(fd, TIOCGPTPEER_REQUEST, O_RDWR);
		wrong += fcntl(answer, F_GETFD) >= 0;
	}
	printf("file %d, new numbers %d, lost or won %d\n", fd >= 0, wrong, count() - before);
	for (int i = 0; i < 3; i++) { /* all is as it was for those who make descriptors */
		int copy = open("/proc/self/ns/net", O_RDONLY), user = ioctl(copy, 0xb701);
		printf("%d", copy >= 0 && user >= 0);
		close(copy);
		close(user);
	}
	puts("");
	close(fd); /* as long as there is somebody to answer */
	if (umount2("/tmp/served", 0))
		return 4;
	pthread_join(t, NULL);
	return 0;
}

static int mounts(void)
{
	int wrong = 0;
	for (int fd = 3; fd < TOP; fd++)
		if (fd != connection && mount_it("/tmp/other", fd) != -1)
			wrong++;
	printf("mounted %d, %d\n", wrong, mount_it("/tmp/other", connection));
	return umount2("/tmp/other", MNT_FORCE);
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IONBF, 0);
	connection = open("/dev/fuse", O_RDWR);
	if (argc != 2 || connection < 0)
		return 1;
	return !strcmp(argv[1], "ioctl") ? requests() : mounts();
}
