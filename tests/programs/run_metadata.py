"""Metadata calls on ordinary paths, links, and the special files that programs look at: the same everywhere."""

import ctypes
import errno
import os
import stat
import sys


def tell(name, function, *args, **kwargs):
    try:
        result = function(*args, **kwargs)
    except OSError as error:
        result = errno.errorcode[error.errno]
    print(name, result)


libc = ctypes.CDLL(None, use_errno=True)


def raw(name, *args):
    if getattr(libc, name)(*args) < 0:
        raise OSError(ctypes.get_errno(), name)
    return "done"


os.chdir("/tmp")
with open("file", "w") as f:
    f.write("text")
os.symlink("file", "link")
os.symlink("nothing", "dangling")
os.symlink("loop", "loop")
os.mkdir("dir")
os.symlink("../tmp/dir", "dirlink")
PATHS = ("file", "link", "dangling", "loop", "dir", "dirlink", "dirlink/", "file/", "dir/../link", "", "/", "x" * 300, "link/x")
for path in PATHS:
    shown = path if len(path) < 40 else "long"
    for mode in (os.F_OK, os.R_OK, os.W_OK, os.X_OK):
        tell(f"access {shown} {mode}", os.access, path, mode)
    tell(f"access nofollow {shown}", os.access, path, os.F_OK, follow_symlinks=False)
    tell(f"access effective {shown}", os.access, path, os.W_OK, effective_ids=True)
    tell(f"stat {shown}", lambda p=path: stat.filemode(os.stat(p).st_mode))
    tell(f"lstat {shown}", lambda p=path: stat.filemode(os.lstat(p).st_mode))
    tell(f"statvfs {shown}", lambda p=path: os.statvfs(p).f_bsize)
    tell(f"set {shown}", os.setxattr, path, "user.a", b"1")
    tell(f"get {shown}", os.getxattr, path, "user.a")
    tell(f"list {shown}", lambda p=path: "user.a" in os.listxattr(p))
    tell(f"get nofollow {shown}", os.getxattr, path, "user.a", follow_symlinks=False)
    tell(f"remove {shown}", os.removexattr, path, "user.a")
watch = libc.inotify_init1(os.O_NONBLOCK)
for path in ("file", "link", "dir", "dirlink", "dangling"):
    tell(f"watch {path}", raw, "inotify_add_watch", watch, path.encode(), 0x2 | 0x4)
    tell(f"watch nofollow {path}", raw, "inotify_add_watch", watch, path.encode(), 0x2 | 0x4 | 0x02000000)
    tell(f"watch directory {path}", raw, "inotify_add_watch", watch, path.encode(), 0x4 | 0x01000000)
os.chmod("link", 0o640)
print("events", len(os.read(watch, 4096)) // 16)
for path in ("self/exe", "self/fd/0", "self/cwd", "self/root", "self/status", "1/stat"):
    path = f"/proc/{path}"
    tell(f"stat {path}", lambda p=path: stat.S_IFMT(os.stat(p).st_mode))
    tell(f"lstat {path}", lambda p=path: stat.S_IFMT(os.lstat(p).st_mode))
    tell(f"access {path}", os.access, path, os.R_OK)
tell("same program", lambda: os.path.samefile("/proc/self/exe", sys.executable))
tell("same directory", lambda: os.path.samefile("/proc/self/cwd", "."))
r, w = os.pipe()
tell("pipe", lambda: os.stat(f"/proc/self/fd/{r}").st_ino == os.fstat(r).st_ino)
tell("closed", os.stat, "/proc/self/fd/77")
os.close(w)
with open("gone", "w") as f:
    os.unlink("gone")
    tell("unlinked", lambda: os.stat(f"/proc/self/fd/{f.fileno()}").st_nlink)
    tell("unlinked statvfs", lambda: os.statvfs(f"/proc/self/fd/{f.fileno()}").f_bsize)
    tell("unlinked chmod", os.chmod, f"/proc/self/fd/{f.fileno()}", 0o600)
tell("umount flags", raw, "umount2", b"/tmp", 256)
tell("umount nothing", raw, "umount2", b"/nothing", 0)
tell("umount", raw, "umount2", b"/tmp", 0)
tell("hostname", raw, "sethostname", b"x", 1)
tell("pivot", raw, "pivot_root", b"/", b"/tmp")
