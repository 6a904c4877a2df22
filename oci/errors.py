"""The one exception tree. An error is a value with context; it is rendered once, at the edge.

A message is a single line, complete without its type name. Engines choose their own exit codes by searching
it, so wording that Docker and Podman look for (`no such file or directory`, `permission denied`,
`executable file not found in $PATH`, `container not running`, `does not exist`) is spelled as runc spells it.
"""

from __future__ import annotations

import errno as _errno


class Error(Exception):
    """What pysandbox reports to its user.

    `message`: one line. `errno`: the host's error number if one is behind it. `status`: exit status of the
    runtime's own process (1, as runc does, unless something better is known).
    """

    def __init__(self, message: str, *, errno: int | None = None, status: int = 1) -> None:
        self.message = one_line(message)
        self.errno = errno
        self.status = status
        super().__init__(self.message)

    @property
    def errno_name(self) -> str | None:
        """`ENOENT` for 2 and so on; None without an error number."""
        if self.errno is None:
            return None
        return _errno.errorcode.get(self.errno, str(self.errno))

    def as_dict(self) -> dict[str, object]:
        """For `--log-format json` and `--json`: kind, message, and errno where there is one."""
        out: dict[str, object] = {"kind": type(self).__name__, "message": self.message}
        if self.errno is not None:
            out["errno"] = self.errno_name
        return out


class UsageError(Error):
    """The command line is wrong."""


class ContainerIdError(UsageError):
    """A container id with characters or a length that cannot be used."""


class BundleError(Error):
    """The bundle directory or its config.json cannot be read."""


class ConfigError(Error):
    """config.json (or process.json, or resources) was read, and what it says is not acceptable.

    `pointer`: JSON pointer (RFC 6901) of the place, "" for the document itself, None where no place applies.
    `document`: the name of the file as the user knows it.
    """

    def __init__(
        self,
        message: str,
        *,
        pointer: str | None = None,
        document: str = "config.json",
        errno: int | None = _errno.EINVAL,
        status: int = 1,
    ) -> None:
        self.pointer = pointer
        self.document = document
        where = document if not pointer else f"{document}: {pointer}"
        super().__init__(f"{where}: {message}", errno=errno, status=status)


class StateError(Error):
    """The state directory cannot be used: unreadable, damaged, full, locked."""


class ContainerNotFound(StateError):
    """No container has this id."""

    def __init__(self, container_id: str) -> None:
        super().__init__(f"container {container_id!r} does not exist", errno=_errno.ENOENT)


class ContainerExists(StateError):
    """The id is in use."""

    def __init__(self, container_id: str) -> None:
        super().__init__(f"container with id exists: {container_id}", errno=_errno.EEXIST)


class StatusError(StateError):
    """The container exists, but its status does not allow this verb."""


class ResourceError(Error):
    """The host refused something the container needs: a mount, a namespace, a cgroup, a device."""


class LaunchError(Error):
    """The container process could not be started."""


class UnsupportedError(Error):
    """Correct input asks for something that pysandbox, or this host, does not offer."""


def one_line(text: str) -> str:
    """`text` with control characters escaped: a name out of a hostile bundle must not forge a log line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def host_reason(errno: int | None) -> str:
    """The system's words for an error number, spelled as Go (and so runc) spells them."""
    if errno is None:
        return "unknown error"
    import os

    text = os.strerror(errno)
    # Go's table is lower case throughout, except where glibc starts with an abbreviation ("RFS ...").
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def from_os_error(what: str, error: OSError, kind: type[Error] = ResourceError) -> Error:
    """An `OSError` met while doing `what` ("mount /proc", "open /x"), as one of ours: `what: reason`.

    `kind` is a class whose constructor has `Error`'s signature.
    """
    return kind(f"{what}: {host_reason(error.errno)}", errno=error.errno)
