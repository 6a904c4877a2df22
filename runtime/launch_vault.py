"""What a monitor is started with: sealed memfds, the vault and the start record (`shim/abi.h`, "How a monitor is
started").
"""

from __future__ import annotations

import errno
import fcntl
import os
from _socket import AF_UNIX, SCM_RIGHTS, SOCK_CLOEXEC, SOCK_DGRAM, SOL_SOCKET, socketpair

from pysandbox.oci.errors import LaunchError, from_os_error
from pysandbox.runtime import abi

_MFD_EXEC = 0x10
_SEAL_ALL = 0x1 | 0x2 | 0x4 | 0x8  # SEAL, SHRINK, GROW, WRITE
_MONITOR_FD = 1064
_PAGE = 4096
_POOL_SIZE = 16 << 20
_FACTS = "facts."


def sealed_memfd(name: str, content: bytes) -> int:
    """A memfd with this content that nobody can change any more; close-on-exec."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    _fill(fd, content)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEAL_ALL)
    return fd


def _fill(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def _monitor_path() -> str:
    return os.environ.get("PSB_MONITOR") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "psb-monitor")


def monitor_memfd() -> int:
    """The monitor binary, copied once per container: whatever a container does to it through /proc/PID/exe, the
    installed file and other containers' copies are out of reach (and a sealed memfd cannot be written anyway)."""
    path = _monitor_path()
    try:
        source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise LaunchError(f"monitor binary {path} is missing: the installation is not complete") from None
    except OSError as error:
        raise from_os_error(f"open monitor binary {path}", error, LaunchError) from None
    try:
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        try:
            fd = os.memfd_create("pysandbox", flags | _MFD_EXEC)
        except OSError:
            fd = os.memfd_create("pysandbox", flags)  # Linux before 6.3: always executable
        size = os.fstat(source).st_size
        while size > 0:
            copied = os.sendfile(fd, source, None, size)
            if not copied:
                raise LaunchError(f"monitor binary {path} is truncated")
            size -= copied
    finally:
        os.close(source)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEAL_ALL)
    return fd


CONTROL = "monitors"


def control_file(directory: int) -> int:
    """struct psb_ctl with its records, shared and writable by the container's monitors: a file of the state directory, so
    that those of `exec` find it."""
    try:
        fd = os.open(CONTROL, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory)
        _fill(fd, abi.Ctl.pack(version=abi.CTL_VERSION, ncpus=len(os.sched_getaffinity(0))))
        os.ftruncate(fd, _PAGE + abi.CTL_RECORDS * abi.CTL_RECORD)
    except OSError as error:
        raise from_os_error(f"make {CONTROL} in the state directory", error, LaunchError) from None
    return fd


def open_control(directory: str) -> int:
    """What `control_file` has made in this state directory."""
    path = os.path.join(directory, CONTROL)
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise from_os_error(f"open {path}", error, LaunchError) from None


def pool_memfd(memory_limit: int) -> int:
    """The text pool (struct psb_pool), shared and written by the container's monitors; its size is fixed. What is copied there
    counts as the container's memory: at most a sixteenth of `memory_limit` (bytes; 0: no limit)."""
    fd = os.memfd_create("pysandbox-pool", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    size = min(memory_limit // 16, _POOL_SIZE) if memory_limit else _POOL_SIZE
    _fill(fd, abi.Pool.pack(magic=abi.POOL_MAGIC, version=abi.ABI_VERSION, next=abi.POOL_HEAD))
    os.truncate(fd, max(size // _PAGE, 1) * _PAGE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0x1 | 0x2 | 0x4)
    return fd


def open_facts() -> int:
    """The file of facts about this host (struct psb_facts) for this boot, this KVM and this monitor, made when missing; -1 where
    it cannot be had. Whoever starts a monitor without facts has it leave them there."""
    from pysandbox.runtime.rewriter.store import Store

    try:
        with open("/proc/sys/kernel/random/boot_id", "rb", 0) as file:
            boot = file.read(36).decode()
        binary = os.stat(_monitor_path())
        kvm = os.stat("/sys/devices/virtual/misc/kvm").st_ino  # another one when the module is loaded again
        identity = hash((kvm, binary.st_dev, binary.st_ino, binary.st_size, binary.st_mtime_ns))  # numbers: no random seed
        directory = Store().path
        name = f"{_FACTS}{boot}.{identity & (1 << 64) - 1:016x}"
        fd = os.open(f"{directory}/{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return -1
    try:
        if os.fstat(fd).st_size < abi.FACTS_SIZE:
            _new_facts(fd, directory, name)
        return fd
    except OSError:
        os.close(fd)
        return -1


def _new_facts(fd: int, directory: str, name: str) -> None:
    """Only ever grows the file, because monitors map it."""
    fcntl.flock(fd, fcntl.LOCK_EX)
    if os.fstat(fd).st_size < abi.FACTS_SIZE:
        empty = abi.Facts.pack(magic=abi.FACTS_MAGIC).ljust(abi.FACTS_SIZE, b"\0")
        if os.pwrite(fd, empty, 0) < len(empty):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for other in os.listdir(directory):
            if other.startswith(_FACTS) and other != name:
                os.unlink(f"{directory}/{other}")
    fcntl.flock(fd, fcntl.LOCK_UN)


def read_facts(fd: int) -> bytes:
    """What a monitor has left there; nothing when none has yet."""
    data = os.pread(fd, abi.FACTS_SIZE, 0)
    head = abi.Facts.unpack(data)
    return data[abi.Facts.SIZE : abi.Facts.SIZE + head.len] if head.magic == abi.FACTS_MAGIC else b""


def make_vault(roles: dict[int, int]) -> int:
    """The vault's open end, close-on-exec. `roles`: PSB_FD_* -> descriptor; the caller's descriptors stay open."""
    writer, reader = socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
    message = abi.Vault.pack(magic=abi.VAULT_MAGIC, version=abi.ABI_VERSION, nfds=len(roles), role=tuple(roles))
    fds = b"".join(fd.to_bytes(4, "little") for fd in roles.values())
    writer.sendmsg([message], [(SOL_SOCKET, SCM_RIGHTS, fds)])
    writer.close()
    return reader.detach()


def start_record(
    *,
    path: str,
    execfn: str,
    fds: list[int],
    dispatch: int,
    trace: int,
    pin: int,
    stack_limit: int,
    nofile: tuple[int, int],
    wait_fd: int = 0,
    no_new_privs: bool = False,
    facts: bytes = b"",
    facts_fd: int = 0,
) -> int:
    """Socket that holds the struct psb_start of a container's first program. `stack_limit`: soft, bytes; `nofile`: soft
    and hard; `wait_fd`: descriptor to wait on, 0 for none; `no_new_privs`: what the program is told; `facts`: about this host,
    as a monitor has left them; `facts_fd`: where to leave them, 0 for nowhere."""
    strings = os.fsencode(path) + b"\0" + os.fsencode(execfn) + b"\0"
    path_off = abi.Start.SIZE
    fds_off = path_off + len(strings) + (-len(strings)) % 8
    words = max(fds, default=0) // 64 + 1
    facts_off = fds_off + 8 * words
    size = facts_off + len(facts) + 1
    head = abi.Start.pack(
        magic=abi.START_MAGIC,
        version=abi.ABI_VERSION,
        size=size,
        dispatch=dispatch,
        trace=trace,
        pin=pin,
        is_exec=0,
        exe_fd=-1,
        interp_fd=-1,
        path_off=path_off,
        execfn_off=path_off + len(os.fsencode(path)) + 1,
        stack_limit=stack_limit,
        trace_chunk=0xFFFFFFFF,
        nfds=64 * words,
        fds_off=fds_off,
        wait_fd=wait_fd,
        nofile_soft=nofile[0],
        nofile_hard=nofile[1],
        no_new_privs=no_new_privs,
        facts_off=facts_off,
        facts_len=len(facts),
        facts_fd=facts_fd,
    )
    published = sum(1 << fd for fd in set(fds))
    body = strings.ljust(fds_off - path_off, b"\0") + published.to_bytes(8 * words, "little") + facts + b"\0"
    writer, reader = socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
    writer.send(head + body)
    writer.close()
    return reader.detach()


def monitor_number(limit: int, first_free: int) -> int:
    """The number N for monitor, vault, start record, start socket and facts (N to N+4): out of the program's way, below its soft
    RLIMIT_NOFILE where there is room, and modest, since the size of the descriptor table is part of every fork."""
    return max(first_free, 64, min(_MONITOR_FD, limit - 5))


def place(number: int, *descriptors: int) -> None:
    """Puts monitor, vault, start record and what the record speaks of at their numbers, inheritable."""
    end = number + len(descriptors)
    # An engine may have leaked so many that some of these stand where others have to go.
    safe = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, end) if number <= fd < end else fd for fd in descriptors]
    for offset, fd in enumerate(safe):
        os.dup2(fd, number + offset, inheritable=True)
