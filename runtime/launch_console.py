"""The container's terminal: made inside its devpts by the container process, its master handed out."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from pysandbox.oci import rootfs
from pysandbox.oci.errors import LaunchError, from_os_error
from pysandbox.runtime import launch_channel, native

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.oci.places import Places
    from pysandbox.oci.spec import Process
    from pysandbox.runtime.launch_channel import Channel

_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441
_TIOCSCTTY = 0x540E
_TIOCSWINSZ = 0x5414
_TIOCGWINSZ = 0x5413
_DEVPTS_SUPER_MAGIC = 0x1CD1


def open_terminal(places: Places, process: Process, channel: Channel, *, console: bool = True) -> int:
    """Makes a terminal in the container's devpts, puts it at /dev/console if asked, and sends the master; the slave."""
    try:
        master = _open_master(places)
    except OSError as error:
        raise from_os_error("allocate terminal: open /dev/pts/ptmx", error, LaunchError) from None
    try:
        fcntl.ioctl(master, _TIOCSPTLCK, bytes(4))
        # By ioctl, not by name: what /dev/pts/N is, the image may have decided.
        slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        if process.console_size is not None:
            set_size(slave, process.console_size.height, process.console_size.width)
        os.fchown(slave, process.user.uid, -1)
        if console:
            target = _console(places)
            tree = native.open_tree(slave, "", native.OPEN_TREE_CLONE | native.AT_EMPTY_PATH)
            native.move_mount(tree, target)
            os.close(tree)
            os.close(target)
    except OSError as error:
        raise from_os_error("allocate terminal", error, LaunchError) from None
    channel.send(launch_channel.TERMINAL, fds=(master,))
    os.close(master)
    return slave


def _open_master(places: Places) -> int:
    """A new terminal's master. In a devpts the name can only be what it says; elsewhere it could be any device, and
    opening one can do things.
    """
    directory = places.open("/dev/pts", os.O_PATH | os.O_DIRECTORY)
    try:
        if native.statfs_type(directory) != _DEVPTS_SUPER_MAGIC:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        resolve = native.RESOLVE_BENEATH | native.RESOLVE_NO_XDEV | native.RESOLVE_NO_SYMLINKS
        return native.openat2(directory, "ptmx", os.O_RDWR | os.O_NOCTTY, 0, resolve)
    finally:
        os.close(directory)


def _console(places: Places) -> int:
    """/dev/console in the container, made when missing. No link: it would have the terminal mounted over something else."""
    directory = rootfs.ensure_dir(*places.find("/dev"))
    try:
        try:
            os.close(os.open("console", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644, dir_fd=directory))
        except FileExistsError:
            pass
        fd = os.open("console", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    finally:
        os.close(directory)
    if stat.S_ISLNK(os.fstat(fd).st_mode):
        os.close(fd)
        raise LaunchError("allocate terminal: /dev/console in the container is a symbolic link")
    return fd


def take_terminal(slave: int) -> None:
    """Makes it the controlling terminal and the standard streams of the calling session leader."""
    try:
        fcntl.ioctl(slave, _TIOCSCTTY, 0)
        for fd in (0, 1, 2):
            os.dup2(slave, fd, inheritable=True)
        if slave > 2:
            os.close(slave)
    except OSError as error:
        raise from_os_error("take terminal", error, LaunchError) from None


def set_size(fd: int, rows: int, columns: int) -> None:
    from _struct import pack

    fcntl.ioctl(fd, _TIOCSWINSZ, pack("HHHH", rows, columns, 0, 0))


def copy_size(source: int, target: int) -> None:
    """`source` may be no terminal: then nothing happens."""
    try:
        fcntl.ioctl(target, _TIOCSWINSZ, fcntl.ioctl(source, _TIOCGWINSZ, bytes(8)))
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL):
            raise


def send_master(path: str, master: int) -> None:
    """--console-socket: the master goes to whoever listens there."""
    try:
        send_descriptor(path, b"/dev/ptmx", master)
    except OSError as error:
        raise from_os_error(f"send terminal to {path}", error, LaunchError) from None


def send_pidfd(path: str, pid: int) -> None:
    """--pidfd-socket: a descriptor of the process goes there, which names it for good. `pid`: a child not yet waited for."""
    try:
        pidfd = os.pidfd_open(pid)
        try:
            send_descriptor(path, b"pidfd", pidfd)
        finally:
            os.close(pidfd)
    except OSError as error:
        raise from_os_error(f"send pidfd to {path}", error, LaunchError) from None


def send_descriptor(path: str, name: bytes, fd: int) -> None:
    """As runc sends one: the message is its name."""
    from _socket import AF_UNIX, SCM_RIGHTS, SOCK_CLOEXEC, SOCK_STREAM, SOL_SOCKET, socket

    sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
    try:
        sock.connect(path)
        sock.sendmsg([name], [(SOL_SOCKET, SCM_RIGHTS, fd.to_bytes(4, "little"))])
    finally:
        sock.close()


class Proxy:
    """Between the launcher's own terminal and the container's: raw mode while it lives, bytes both ways.

    Neither side may stop the other: what cannot be written now waits here, and reading pauses meanwhile.
    """

    _LIMIT = 1 << 16

    def __init__(self, master: int) -> None:
        self.master = master
        os.set_blocking(master, False)
        self._to_container = b""
        self._saved: list[object] | None = None
        self._input = True
        import termios

        # Lines end as the program ends them: what they end with on the caller's terminal is that one's matter, and where output
        # goes to a file or a pipe they stay as they are.
        modes = termios.tcgetattr(master)
        modes[1] &= ~termios.ONLCR
        termios.tcsetattr(master, termios.TCSANOW, modes)
        if os.isatty(0):
            self._saved = termios.tcgetattr(0)
            raw = termios.tcgetattr(0)
            breaks = termios.IGNBRK | termios.BRKINT | termios.PARMRK
            raw[0] &= ~(breaks | termios.ISTRIP | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON)
            raw[1] |= termios.OPOST
            raw[2] = (raw[2] & ~(termios.CSIZE | termios.PARENB)) | termios.CS8
            raw[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
            raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0
            termios.tcsetattr(0, termios.TCSANOW, raw)
            copy_size(0, master)

    def interest(self) -> dict[int, int]:
        """Descriptors to poll, with events."""
        wanted = {self.master: 0x1 | (0x4 if self._to_container else 0)}  # POLLIN, POLLOUT
        if self._input and len(self._to_container) < self._LIMIT:
            wanted[0] = 0x1
        return wanted

    def handle(self, fd: int) -> bool:
        """Moves bytes for a ready descriptor; False when the container's side has ended."""
        if fd == 0:
            try:
                data = os.read(0, 4096)
            except OSError:
                data = b""
            if data:
                self._to_container += data
            else:
                self._input = False
                if self._saved is None:
                    self._to_container += b"\x04"  # the end of a file or pipe is the end of input for the program, too
        if self._to_container:
            try:
                self._to_container = self._to_container[os.write(self.master, self._to_container) :]
            except BlockingIOError:
                pass
            except OSError:
                self._to_container = b""
        return fd != self.master or self._drain_once()

    def _drain_once(self) -> bool:
        try:
            data = os.read(self.master, self._LIMIT)
        except BlockingIOError:
            return True
        except OSError:
            return False  # EIO: all slaves are closed
        if not data:
            return False
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]
        return True

    def close(self) -> None:
        """What the container wrote last is shown, then the terminal is as it was."""
        try:
            before = -1
            while before != 0:
                before = self._waiting()
                if before and not self._drain_once():
                    break
        finally:
            if self._saved is not None:
                import termios

                termios.tcsetattr(0, termios.TCSADRAIN, self._saved)  # type: ignore[arg-type]  # typeshed wants a bare list
                self._saved = None
            os.close(self.master)

    def _waiting(self) -> int:
        try:
            return int.from_bytes(fcntl.ioctl(self.master, 0x541B, bytes(4)), "little")  # FIONREAD
        except OSError:
            return 0

    def resize(self) -> None:
        if self._saved is not None:
            copy_size(0, self.master)
