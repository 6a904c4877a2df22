/* ioctl of sockets whose argument holds another pointer: routes and the questions of ethtool. Both are copied, and the kernel
 * gets copies only. */
#include "../linux_abi.h"
#include "handlers.h"

#define IFNAMSIZ 16

/* struct rtentry of IPv4 names a device by pointer; struct in6_rtmsg is shorter and has none. What stands in its place there lies
 * behind its end. */
long ioctl_route(struct thread *t, struct call *c, const u64 *a)
{
	enum { SIZE = 120, DEVICE = 88 };
	u8 entry[SIZE];
	char name[IFNAMSIZ] = {0};
	u64 device;
	if (copy_from_guest(entry, gptr_of(a[2]), SIZE))
		return -EFAULT;
	memcpy(&device, entry + DEVICE, 8);
	if (device) {
		/* As much as the kernel takes. It looks at the name only after the caller's rights: EFAULT is its to say. */
		device = copy_from_guest(name, gptr_of(device), IFNAMSIZ - 1) ? ~0ul : (u64)name;
		memcpy(entry + DEVICE, &device, 8);
	}
	return call_host(t, c, __NR_ioctl, a[0], a[1], (u64)entry, 0, 0, 0);
}

/* Commands of ethtool that read or write one structure of fixed size. */
static const struct ethtool_row {
	u8 command, size;
} ethtool_rows[] = {
	{0x01, 44}, /* ETHTOOL_GSET */
	{0x03, 196}, /* GDRVINFO */
	{0x07, 8}, /* GMSGLVL */
	{0x0a, 8}, /* GLINK */
	{0x0e, 92}, /* GCOALESCE */
	{0x10, 36}, /* GRINGPARAM */
	{0x14, 8}, {0x15, 8}, /* GRXCSUM, SRXCSUM: what sets something needs CAP_NET_ADMIN */
	{0x16, 8}, {0x17, 8}, /* GTXCSUM */
	{0x18, 8}, {0x19, 8}, /* GSG */
	{0x1e, 8}, {0x1f, 8}, /* GTSO */
	{0x21, 8}, {0x22, 8}, /* GUFO */
	{0x23, 8}, {0x24, 8}, /* GGSO */
	{0x25, 8}, {0x26, 8}, /* GFLAGS */
	{0x2b, 8}, {0x2c, 8}, /* GGRO */
	{0x3c, 36}, /* GCHANNELS */
};

#define ETHTOOL_GLINKSETTINGS 0x4c
#define LINK_HEAD 48 /* struct ethtool_link_settings without its three bit masks */
#define LINK_WORDS 15 /* offset of the number of words of each mask, signed */

static u64 ethtool_size(u32 command, const u8 *head)
{
	for (u32 i = 0; i < ARRAY_LEN(ethtool_rows); i++)
		if (ethtool_rows[i].command == command)
			return ethtool_rows[i].size;
	if (command != ETHTOOL_GLINKSETTINGS || head[LINK_WORDS] > 127)
		return 0;
	return LINK_HEAD + 12ul * head[LINK_WORDS];
}

/* struct ifreq: a name and a pointer to the command's structure, which begins with the command. */
long ioctl_ethtool(struct thread *t, struct call *c, const u64 *a)
{
	u8 request[40], head[LINK_WORDS + 1] = {0};
	u64 data;
	u32 command;
	if (copy_from_guest(request, gptr_of(a[2]), sizeof request))
		return -EFAULT;
	memcpy(&data, request + IFNAMSIZ, 8);
	if (copy_from_guest(&command, gptr_of(data), sizeof command))
		return -EFAULT;
	if (command == ETHTOOL_GLINKSETTINGS && copy_from_guest(head, gptr_of(data), sizeof head))
		return -EFAULT;
	u64 size = ethtool_size(command, head);
	if (!size)
		return refuse(t, -EOPNOTSUPP); /* as from a device that does not know it */
	u8 *copy = marshal_alloc(t, size);
	if (!copy)
		return -ENOMEM;
	if (copy_from_guest(copy, gptr_of(data), size))
		return -EFAULT;
	/* The sizes were found for these. */
	memcpy(copy, &command, sizeof command);
	if (command == ETHTOOL_GLINKSETTINGS)
		copy[LINK_WORDS] = head[LINK_WORDS];
	u64 place = (u64)copy;
	memcpy(request + IFNAMSIZ, &place, 8);
	long r = call_host(t, c, __NR_ioctl, a[0], a[1], (u64)request, 0, 0, 0);
	/* Where the kernel counts more words than were asked for, it says how many and writes the head only. */
	if (!r && command == ETHTOOL_GLINKSETTINGS && (copy[LINK_WORDS] == 0 || copy[LINK_WORDS] > 127))
		size = LINK_HEAD;
	if (!r && copy_to_guest(gptr_of(data), copy, size))
		return -EFAULT;
	return r;
}
