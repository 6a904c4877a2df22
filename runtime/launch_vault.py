"""What a monitor is started with: sealed memfds, the vault and the start record (`shim/abi.h`, "How a monitor is
started").
"""

from __future__ import annotations

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


def monitor_memfd() -> int:
    """The monitor binary, copied once per container: whatever a container does to it through /proc/PID/exe, the
    installed file and other containers' copies are out of reach (and a sealed memfd cannot be written anyway)."""
    path = os.environ.get("PSB_MONITOR") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "psb-monitor")
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
) -> int:
    """Socket that holds the struct psb_start of a container's first program. `stack_limit`: soft, bytes; `nofile`: soft
    and hard; `wait_fd`: descriptor to wait on, 0 for none; `no_new_privs`: what the program is told."""
    strings = os.fsencode(path) + b"\0" + os.fsencode(execfn) + b"\0"
    path_off = abi.Start.SIZE
    fds_off = path_off + len(strings) + (-len(strings)) % 8
    words = max(fds, default=0) // 64 + 1
    size = fds_off + 8 * words
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
    )
    published = sum(1 << fd for fd in set(fds))
    body = strings.ljust(fds_off - path_off, b"\0") + published.to_bytes(8 * words, "little")
    writer, reader = socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
    writer.send(head + body)
    writer.close()
    return reader.detach()


def monitor_number(limit: int, first_free: int) -> int:
    """The number N for monitor, vault, start record and start socket (N to N+3): out of the program's way, below its soft
    RLIMIT_NOFILE where there is room, and modest, since the size of the descriptor table is part of every fork."""
    return max(first_free, 64, min(_MONITOR_FD, limit - 4))


def place(number: int, *descriptors: int) -> None:
    """Puts monitor, vault, start record and what the record speaks of at their numbers, inheritable."""
    end = number + len(descriptors)
    # An engine may have leaked so many that some of these stand where others have to go.
    safe = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, end) if number <= fd < end else fd for fd in descriptors]
    for offset, fd in enumerate(safe):
        os.dup2(fd, number + offset, inheritable=True)
