"""User namespaces: making one with its id mappings, and becoming its root (config-linux.md, "User namespace mappings").

A namespace is made by a child that only waits while its mappings are written; a descriptor keeps it alive after that.
"""

from __future__ import annotations

import os

from pysandbox.oci.errors import LaunchError, ResourceError, UnsupportedError, from_os_error
from pysandbox.runtime import native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from pysandbox.oci.spec import IDMapping

_CAP_SETGID, _CAP_SETUID = 6, 7


def in_user_namespace() -> bool:
    """Whether the caller's user namespace is not the host's."""
    try:
        with open("/proc/self/uid_map") as lines:
            return lines.read().split() != ["0", "0", "4294967295"]
    except OSError:
        return False


def is_users_own() -> bool:
    """Whether what the caller keeps belongs in a user's own directories: not root, or root of a user namespace on behalf
    of a user, as engines without root are. runc's rule: root of a system container has no $XDG_RUNTIME_DIR, or its $USER
    says root."""
    if os.geteuid() != 0:
        return True
    environ = os.environ
    return environ.get("XDG_RUNTIME_DIR", "").startswith("/") and environ.get("USER") != "root" and in_user_namespace()


def new_user_namespace(uids: Sequence[IDMapping], gids: Sequence[IDMapping]) -> int:
    """Descriptor of a user namespace with these mappings. `ResourceError`, `UnsupportedError`."""
    told, tell = os.pipe()
    waits, release = os.pipe()
    try:
        pid = os.fork()
        if pid == 0:
            _hold_namespace(tell, waits, release)
        try:
            os.close(tell)
            tell = -1
            failure = os.read(told, 1)
            if failure != b"\0":
                number = failure[0] if failure else 0
                raise from_os_error("unshare user namespace", OSError(number or 1, ""))
            write_mappings(pid, uids, gids)
            try:
                return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise from_os_error("open user namespace", error) from None
        finally:
            os.close(release)
            release = -1
            os.waitpid(pid, 0)
    finally:
        for fd in (told, tell, waits, release):
            if fd >= 0:
                os.close(fd)


def _hold_namespace(tell: int, waits: int, release: int) -> NoReturn:
    """The child of `new_user_namespace`: ends when the other end of `waits` does, be it by the launcher's death."""
    try:
        os.close(release)
        try:
            native.unshare(native.CLONE_NEWUSER)
        except OSError as error:
            os.write(tell, bytes((error.errno or 1,)))
        else:
            os.write(tell, b"\0")
            os.read(waits, 1)
    finally:
        os._exit(0)


def write_mappings(pid: int, uids: Sequence[IDMapping], gids: Sequence[IDMapping]) -> None:
    """user_namespaces(7): one write each. Without the capability for it, newuidmap(1) and newgidmap(1) do what
    /etc/subuid and /etc/subgid allow."""
    effective = native.capget()[0]
    for name, mappings, capability in (("uid", uids, _CAP_SETUID), ("gid", gids, _CAP_SETGID)):
        text = "".join(f"{m.container_id} {m.host_id} {m.size}\n" for m in mappings)
        if not effective >> capability & 1:
            own = os.geteuid() if name == "uid" else os.getegid()
            if [(m.host_id, m.size) for m in mappings] != [(own, 1)]:
                _mapping_tool(f"new{name}map", pid, mappings)
                continue
            if name == "gid":
                # Who maps only himself could drop groups that are there to deny him something.
                _write(f"/proc/{pid}/setgroups", "deny")
        _write(f"/proc/{pid}/{name}_map", text)


def _write(path: str, text: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise from_os_error(f"write {os.path.basename(path)} of the user namespace", error) from None


def _mapping_tool(name: str, pid: int, mappings: Sequence[IDMapping]) -> None:
    import subprocess

    arguments = [str(number) for m in mappings for number in (m.container_id, m.host_id, m.size)]
    path = "/usr/sbin:/usr/bin:/sbin:/bin"
    try:
        done = subprocess.run([name, str(pid), *arguments], capture_output=True, text=True, check=False, env={"PATH": path})
    except FileNotFoundError:
        raise UnsupportedError(
            f"user namespace: mapping ids of other users needs root or {name} (Debian package uidmap), which is not installed"
        ) from None
    if done.returncode:
        raise ResourceError(f"user namespace: {done.stderr.strip() or name + ' failed'}")


def become_root() -> None:
    """uid 0 of the namespace: what is made from now on is its root's."""
    try:
        os.setresuid(0, 0, 0)
    except OSError as error:
        raise from_os_error("become root of the user namespace (is id 0 mapped?)", error, LaunchError) from None


def become_root_group() -> None:
    try:
        os.setresgid(0, 0, 0)
        try:
            os.setgroups(())
        except PermissionError:
            pass  # "deny" in setgroups: see write_mappings
    except OSError as error:
        raise from_os_error("become root group of the user namespace (is id 0 mapped?)", error, LaunchError) from None
