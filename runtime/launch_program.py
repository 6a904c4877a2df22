"""Finding the container's program and judging whether it can run, in the container's own view and with its user's
rights.

The wording of the errors is part of the contract: engines choose their exit status (126, 127) by it.
"""

from __future__ import annotations

import errno
import os
import stat

from pysandbox.oci.errors import LaunchError, host_reason

_MAX_INTERPRETERS = 5  # as BINPRM_MAX_RECURSION: deeper chains are ELOOP
_HEADER = 256  # bytes the kernel looks at for a `#!` line (BINPRM_BUF_SIZE)


def find_program(name: str, env: dict[str, str]) -> str:
    """The path to execute for args[0]: as it is when it holds a slash, else through PATH of `env`."""
    if "/" in name:
        reason = _not_executable(name)
        if reason:
            raise LaunchError(f"exec: {_quote(name)}: {_describe(name, reason)}", errno=reason)
        return name
    if name:
        for directory in env.get("PATH", "").split(":"):
            path = os.path.join(directory or ".", name)
            if not _not_executable(path):
                return path
    raise LaunchError(f"exec: {_quote(name)}: executable file not found in $PATH", errno=errno.ENOENT)


def _quote(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _describe(path: str, reason: int) -> str:
    text = host_reason(reason)
    if reason == errno.EISDIR:
        # runc's words depend on its compiler: both are searched for, the second by older clients.
        return f"{text}: {host_reason(errno.EACCES)}"
    return f"stat {path}: {text}" if reason in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG) else text


def _not_executable(path: str) -> int:
    """0, or the error number why this is no program."""
    try:
        found = os.stat(path)
    except OSError as error:
        return error.errno or errno.ENOENT
    except ValueError:
        return errno.EINVAL
    if stat.S_ISDIR(found.st_mode):
        return errno.EISDIR
    if not stat.S_ISREG(found.st_mode) or not os.access(path, os.X_OK, effective_ids=True):
        return errno.EACCES
    return 0


def check_format(path: str) -> None:
    """Follows `#!` lines and checks the ELF header as the kernel's loader would: an error here is one line from the
    runtime instead of a container that dies without a word."""
    program = path
    for _ in range(_MAX_INTERPRETERS + 1):
        try:
            fd = os.open(program, os.O_RDONLY | os.O_CLOEXEC)
        except PermissionError:
            return  # executable but not readable: the monitor has its say
        except OSError as error:
            # Only an interpreter can be missing here; exec(2) reports that on the script.
            raise LaunchError(f"exec {path}: {host_reason(error.errno)}", errno=error.errno) from None
        try:
            head = os.read(fd, _HEADER)
            if not head.startswith(b"#!"):
                _check_elf(path, fd, head)
                return
        finally:
            os.close(fd)
        words = head[2:].split(b"\n", 1)[0].strip(b" \t").split(None, 1)
        if not words:
            raise _bad_format(path)
        program = os.fsdecode(words[0])
        reason = _not_executable(program)
        if reason:
            raise LaunchError(f"exec {path}: {host_reason(reason)}", errno=reason)
    raise LaunchError(f"exec {path}: {host_reason(errno.ELOOP)}", errno=errno.ELOOP)


def _bad_format(path: str) -> LaunchError:
    return LaunchError(f"exec {path}: exec format error", errno=errno.ENOEXEC)


def _check_elf(path: str, fd: int, head: bytes) -> None:
    """64-bit little-endian x86-64, an executable or a PIE, all segments inside the file, an interpreter that exists.

    The kernel starts a truncated file and lets it die by SIGBUS or SIGSEGV; a reason is more use.
    """
    from _struct import unpack_from

    if len(head) < 64 or head[:6] != b"\x7fELF\x02\x01":
        raise _bad_format(path)
    kind, machine = unpack_from("<HH", head, 16)
    offset, entry_size, count = unpack_from("<Q", head, 32)[0], *unpack_from("<HH", head, 54)
    if kind not in (2, 3) or machine != 62 or entry_size != 56 or not 0 < count <= 65536 // 56:
        raise _bad_format(path)
    table = os.pread(fd, count * 56, offset)
    if len(table) < count * 56:
        raise _bad_format(path)
    file_size = os.fstat(fd).st_size
    segments = [unpack_from("<IIQQQQ", table, number * 56) for number in range(count)]
    if any(kind == 1 and place + size > file_size for kind, _, place, _, _, size in segments):  # PT_LOAD
        raise _bad_format(path)
    for segment, _, file_offset, _, _, size in segments:
        if segment != 3:  # PT_INTERP
            continue
        if not 2 <= size <= 4096:
            raise _bad_format(path)
        name = os.pread(fd, size, file_offset)
        if len(name) < size or name[-1:] != b"\0":
            raise _bad_format(path)
        interpreter = os.fsdecode(name[:-1].split(b"\0", 1)[0])
        reason = _not_executable(interpreter)
        if reason:
            raise LaunchError(f"exec {path}: {host_reason(reason)}", errno=reason)
        with open(interpreter, "rb") as other:
            if other.read(6) != b"\x7fELF\x02\x01":
                raise LaunchError(f"exec {path}: interpreter {interpreter}: exec format error", errno=errno.ELIBBAD)
        return
