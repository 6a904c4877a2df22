"""Whole containers through the launcher, compared with runc.

A stand-in takes the monitor's place (tests/launch/standin.c): it checks everything a monitor is started with, then runs
the program natively.
"""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).resolve().parent.parent
BOX = f"box-{os.getpid()}"  # in cgroup names: two test runs at a time must not meet
Config = dict[str, Any]
Change = Callable[[Config], object]


def _missing() -> str:
    for tool in ("runc", "busybox", "gcc"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    return "" if os.path.exists("/dev/kvm") else "no /dev/kvm"


pytestmark = [pytest.mark.root, pytest.mark.skipif(bool(_missing()), reason=_missing() or "-")]


class Box:
    """A busybox bundle and a state root."""

    def __init__(self, top: Path, standin: str) -> None:
        self.bundle = top / "bundle"
        self.root = top / "state"
        self.env = {**os.environ, "PSB_MONITOR": standin, "PSB_PLAN_DIR": str(top / "plans")}
        rootfs = self.bundle / "rootfs"
        for name in ("bin", "sbin", "usr/bin", "usr/sbin", "tmp"):
            (rootfs / name).mkdir(parents=True)
        shutil.copy(shutil.which("busybox") or "", rootfs / "bin/busybox")
        for applet in (
            "sh",
            "cat",
            "ls",
            "id",
            "env",
            "pwd",
            "true",
            "sleep",
            "grep",
            "hostname",
            "tty",
            "stty",
            "ip",
            "cut",
        ):
            (rootfs / "bin" / applet).symlink_to("busybox")
        self.rootfs = rootfs

    def configure(self, script: str | list[str], change: Change | None = None) -> None:
        """`runc spec`, without a terminal, running a shell script or a program."""
        (self.bundle / "config.json").unlink(missing_ok=True)
        subprocess.run(["runc", "spec", "-b", self.bundle], check=True)
        config = json.loads((self.bundle / "config.json").read_text())
        config["process"]["terminal"] = False
        config["process"]["args"] = ["sh", "-c", script] if isinstance(script, str) else script
        if change:
            change(config)
        (self.bundle / "config.json").write_text(json.dumps(config))

    def command(self, *argv: str) -> list[str]:
        return [sys.executable, "-m", "pysandbox.runtime", "--root", str(self.root), *argv]

    def psb(self, *argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
        options.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run(
            self.command(*argv), capture_output=True, text=True, check=False, env=self.env, timeout=60, **options
        )

    def run(self, *options: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        return self.psb("run", "-b", str(self.bundle), *options, BOX, **kwargs)

    def detached(self, *options: str) -> int:
        """`run -d`; the container must not hold a pipe of ours open."""
        command = self.command("run", "-b", str(self.bundle), "-d", *options, BOX)
        null = subprocess.DEVNULL
        return subprocess.run(command, stdin=null, stdout=null, env=self.env, timeout=60, check=False).returncode

    def runc(self) -> subprocess.CompletedProcess[str]:
        # The same id: it shows in cgroup paths.
        return subprocess.run(
            ["runc", "--root", f"{self.root}-runc", "run", "-b", str(self.bundle), BOX],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )

    def nothing_left(self) -> None:
        """No state, no cgroup, no mount."""
        names = [name for name in os.listdir(self.root) if not name.startswith("@")] if self.root.exists() else []
        assert [name for name in names if name != "traces"] == []
        assert not list(Path("/sys/fs/cgroup").glob("*/" + BOX))
        assert str(self.root) not in Path("/proc/self/mountinfo").read_text()


@pytest.fixture
def box(tmp_path: Path, standin: str) -> Box:
    return Box(tmp_path, standin)


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def process(**changes: Any) -> Change:
    return lambda config: config["process"].update(changes)


def _bounding(config: Config) -> None:
    for kind in ("bounding", "permitted", "effective", "inheritable", "ambient"):
        config["process"]["capabilities"][kind] = ["CAP_KILL", "CAP_NET_RAW"]


def _resources(config: Config) -> None:
    config["linux"]["namespaces"] = [ns for ns in config["linux"]["namespaces"] if ns["type"] != "cgroup"]
    config["linux"]["resources"] = {
        "devices": [{"allow": False, "access": "rwm"}],
        "memory": {"limit": 64 << 20},
        "pids": {"limit": 50},
        "cpu": {"shares": 512, "quota": 50000, "period": 100000},
    }


def _mounts(config: Config) -> None:
    config["root"]["readonly"] = False
    config["mounts"] += [
        {"destination": "/mnt/file", "type": "bind", "source": "/etc/hostname", "options": ["bind", "ro"]},
        {
            "destination": "/mnt/dir",
            "type": "bind",
            "source": "rootfs/bin",
            "options": ["rbind", "rro", "nosuid", "rprivate"],
        },
        {"destination": "/mnt/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k", "noexec", "nodev"]},
        {"destination": "/mnt/ro", "type": "tmpfs", "source": "x", "options": ["ro", "noatime"]},
    ]


def _namespaces_shared(config: Config) -> None:
    config["linux"]["namespaces"] = [{"type": "mount"}, {"type": "uts"}]


MOUNTINFO = "cut -d' ' -f4- /proc/self/mountinfo | grep -v '/ / '"
SAME_AS_RUNC: list[tuple[str, str | list[str], Change | None]] = [
    ("status", "exit 3", None),
    ("killed", "kill -9 $$; sleep 9", lambda c: c["linux"].update(namespaces=[{"type": "mount"}, {"type": "uts"}])),
    ("identity", "id; hostname; pwd; echo $$; env", None),
    ("mounts", MOUNTINFO, None),
    ("more mounts", MOUNTINFO + "; cat /mnt/dir/../file; echo x > /mnt/file; echo x > /mnt/dir/y; ls /mnt", _mounts),
    ("devices", "ls -l /dev | cut -c1-46,59-; echo x > /dev/null", None),
    (
        "status file",
        # Signals 32 and 33 are the C library's own: where the caller ignores them, a threaded launcher's libc takes 33 back.
        "grep -E 'Cap|NoNew|Sig[BIC]|Groups|Umask' /proc/self/status"
        " | sed -E 's/^(SigIgn:[^0-9a-f]*[0-9a-f]{7})[0-9a-f]{2}/\\1xx/'",
        None,
    ),
    ("capabilities", "grep Cap /proc/self/status", _bounding),
    ("no capabilities", "grep Cap /proc/self/status", lambda c: c["process"].pop("capabilities")),
    (
        "user",
        "id; umask; echo $HOME; grep Cap /proc/self/status; ls -l /proc/self/fd/1 >/dev/null; echo x > /dev/stderr",
        process(user={"uid": 1000, "gid": 1001, "additionalGids": [5, 6], "umask": 0o27}),
    ),
    (
        "limits",
        "cat /proc/self/limits",
        process(
            rlimits=[
                {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 2**64 - 1},
                {"type": "RLIMIT_STACK", "soft": 1 << 20, "hard": 2**64 - 1},
            ]
        ),
    ),
    ("environment", ["env"], process(env=["A=1", "B=2", "A=3", "PATH=/bin", "HOME=/x"])),
    ("network", "ip a; cat /proc/net/route", None),
    (
        "sysctl",
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax; hostname",
        lambda c: (
            c["linux"].update(sysctl={"net.ipv4.ip_forward": "1", "kernel.msgmax": "9000"}),
            c.update(hostname="h2"),
        ),
    ),
    ("missing cwd is made", ["pwd"], lambda c: (c["process"].update(cwd="/new/dir"), c["root"].update(readonly=False))),
    ("cgroups", "cat /proc/self/cgroup; ls /sys/fs/cgroup", None),
    ("resources", "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes pids/pids.max cpu/cpu.shares", _resources),
    ("oom score", "cat /proc/self/oom_score_adj", process(oomScoreAdj=77)),
    ("host namespaces", "ls /sys/class/net; sleep 60 & exit 5", _namespaces_shared),
    ("script", ["/tmp/script", "a b"], None),
]


@pytest.mark.parametrize(("script", "change"), [case[1:] for case in SAME_AS_RUNC], ids=[case[0] for case in SAME_AS_RUNC])
def test_same_as_runc(box: Box, script: str | list[str], change: Change | None) -> None:
    path = box.rootfs / "tmp/script"
    path.write_text("#!/bin/sh -e\necho $0 $1\n")
    path.chmod(0o755)
    box.configure(script, change)
    theirs, ours = box.runc(), box.run()
    assert ours.stdout == theirs.stdout
    assert ours.returncode == theirs.returncode
    if script != "ls":
        assert [line for line in theirs.stderr.splitlines() if "level=warning" not in line] == ours.stderr.splitlines()
    box.nothing_left()


BAD: list[tuple[str, str | list[str], Change | None, str]] = [
    ("not in path", ["nope"], None, 'exec: "nope": executable file not found in $PATH'),
    ("not there", ["/nope"], None, 'exec: "/nope": stat /nope: no such file or directory'),
    ("directory", ["/bin"], None, 'exec: "/bin": is a directory'),
    ("not executable", ["/tmp/text"], None, 'exec: "/tmp/text": permission denied'),
    ("text", ["/tmp/exec-text"], None, "exec /tmp/exec-text: exec format error"),
    ("cwd is a file", "true", process(cwd="/bin/sh"), "mkdir /bin/sh: not a directory"),
    ("rlimit", "true", process(rlimits=[{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2**40}]), "error setting rlimit"),
    (
        "root",
        "true",
        lambda c: c["root"].update(path="nowhere"),
        "invalid rootfs: stat .*/nowhere: no such file or directory",
    ),
    (
        "mount source",
        "true",
        lambda c: c["mounts"].append({"destination": "/m", "source": "/nope", "options": ["bind"]}),
        "stat /nope: no such file or directory",
    ),
    (
        "mount option",
        "true",
        lambda c: c["mounts"].append({"destination": "/m", "type": "tmpfs", "options": ["nope=1"]}),
        "mount .* at '/m': invalid argument",
    ),
    ("inside proc", "true", lambda c: c["mounts"].append({"destination": "/proc/1", "type": "tmpfs"}), "inside /proc"),
    (
        "user namespace",
        "true",
        lambda c: (
            c["linux"]["namespaces"].append({"type": "user"}),
            c["linux"].update(
                uidMappings=[{"containerID": 1, "hostID": 0, "size": 1}],
                gidMappings=[{"containerID": 0, "hostID": 0, "size": 1}],
            ),
        ),
        "/linux/uidMappings: no mapping for the container's root",
    ),
    (
        "namespace path",
        "true",
        lambda c: c["linux"]["namespaces"].append({"type": "time", "path": "/etc/passwd"}),
        "/etc/passwd is not a namespace of type time",
    ),
    (
        "annotation",
        "true",
        lambda c: c.update(annotations={"dev.pysandbox.trace": "x"}),
        "/annotations/dev.pysandbox.trace",
    ),
    ("terminal", "true", process(terminal=True), "cannot allocate tty if pysandbox will detach"),
]


@pytest.mark.parametrize(("script", "change", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_input_is_one_line_and_leaves_nothing(box: Box, script: str | list[str], change: Change | None, message: str) -> None:
    (box.rootfs / "tmp/text").write_text("x")
    (box.rootfs / "tmp/exec-text").write_text("x")
    (box.rootfs / "tmp/exec-text").chmod(0o755)
    box.configure(script, change)
    result = box.run(*(["-d"] if "allocate tty" in message else []))
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert re.search(message.replace("$", r"\$"), result.stderr), result.stderr
    box.nothing_left()
    assert not (box.root / "traces" / BOX).exists()


def test_missing_monitor_and_kvm(box: Box) -> None:
    box.configure("true")
    box.env["PSB_MONITOR"] = str(box.root / "absent")
    result = box.run()
    assert result.returncode == 1
    assert "is missing: the installation is not complete" in result.stderr
    box.nothing_left()


def test_detached_life(box: Box, tmp_path: Path) -> None:
    box.configure(["sleep", "100"])
    pid_file = tmp_path / "pid"
    assert box.detached("--pid-file", str(pid_file)) == 0
    pid = pid_file.read_text()
    assert pid.isdigit()  # no newline: engines parse the whole file
    state = json.loads(box.psb("state", BOX).stdout)
    assert (state["status"], state["pid"], state["id"]) == ("running", int(pid), BOX)
    assert BOX in box.psb("list", "-q").stdout
    assert f"container with id exists: {BOX}" in box.run().stderr
    assert "not stopped: running" in box.psb("delete", BOX).stderr
    assert box.psb("kill", BOX, "KILL").returncode == 0
    wait_for(lambda: '"stopped"' in box.psb("state", BOX).stdout, "the end")
    assert "container not running" in box.psb("kill", BOX, "9").stderr
    assert box.psb("delete", BOX).returncode == 0
    missing = box.psb("delete", BOX)
    assert (missing.returncode, "does not exist" in missing.stderr) == (1, True)
    assert box.psb("delete", "--force", BOX).returncode == 0
    box.nothing_left()


def start(box: Box) -> tuple[subprocess.Popen[str], int]:
    """A container in the foreground that has said `up`; the launcher and the container's host pid."""
    launcher = subprocess.Popen(box.command("run", "-b", str(box.bundle), BOX), stdout=subprocess.PIPE, text=True, env=box.env)
    assert launcher.stdout is not None
    assert launcher.stdout.readline() == "up\n"
    return launcher, int(json.loads(box.psb("state", BOX).stdout)["pid"])


def test_signals_are_passed_on(box: Box) -> None:
    box.configure("trap 'echo got; exit 7' TERM; echo up; sleep 100 & wait")
    launcher, _ = start(box)
    launcher.send_signal(signal.SIGTERM)
    out, _ = launcher.communicate(timeout=20)
    assert (out, launcher.returncode) == ("got\n", 7)
    box.nothing_left()


def test_killed_launcher_takes_the_container_along(box: Box) -> None:
    box.configure("echo up; sleep 100")
    launcher, pid = start(box)
    launcher.kill()
    launcher.communicate(timeout=20)
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"), "the container's end")
    assert list(Path("/sys/fs/cgroup").glob("*/" + BOX))  # left behind ...
    assert box.psb("list", "-q").stdout == ""  # ... until the next command
    box.nothing_left()


def test_killed_at_any_moment(box: Box) -> None:
    box.configure("sleep 7654")
    for number in range(12):
        launcher = subprocess.Popen(box.command("run", "-b", str(box.bundle), BOX), env=box.env)
        time.sleep(0.01 + number * 0.012)
        launcher.kill()
        launcher.wait()
        wait_for(lambda: box.psb("list", "-q").stdout == "", "the next command to clean up")
        box.nothing_left()
    assert not [line for line in os.popen("ps -eo args").read().splitlines() if line == "sleep 7654"]


def test_terminal_by_console_socket(box: Box, tmp_path: Path) -> None:
    box.configure(
        "tty; stty size; ls -l /dev/console | cut -c1-10; exit 4",
        process(terminal=True, consoleSize={"height": 33, "width": 99}),
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        listener.listen()
        assert box.detached("--console-socket", str(tmp_path / "sock")) == 0
        connection, _ = listener.accept()
        _, fds, _, _ = socket.recv_fds(connection, 100, 1)
        connection.close()
    text = b""
    try:
        while chunk := os.read(fds[0], 1000):
            text += chunk
    except OSError:
        pass  # EIO: the container has ended
    os.close(fds[0])
    assert text.decode().split("\r\n") == ["/dev/pts/0", "33 99", "crw--w----", ""]
    box.psb("delete", "-f", BOX)
    box.nothing_left()


def test_terminal_in_the_foreground(box: Box) -> None:
    box.configure('tty; stty size; read x; echo "<$x>"; exit 4', process(terminal=True))
    master, slave = pty.openpty()
    subprocess.run(["stty", "rows", "33", "cols", "99"], stdin=slave, check=True)
    launcher = subprocess.Popen(
        box.command("run", "-b", str(box.bundle), BOX), stdin=slave, stdout=slave, stderr=slave, env=box.env
    )
    os.close(slave)  # or reading would never end should the launcher fail
    text = b""
    while b"99\r\n" not in text:
        text += os.read(master, 1000)
    os.write(master, b"typed\r")
    assert launcher.wait(timeout=20) == 4
    try:
        while chunk := os.read(master, 1000):
            text += chunk
    except OSError:
        pass
    os.close(master)
    assert text == b"/dev/pts/0\r\n33 99\r\ntyped\r\n<typed>\r\n"
    box.nothing_left()


def test_terminal_with_its_output_in_a_pipe(box: Box) -> None:
    """Lines are the program's, as with runc: no carriage returns."""
    box.configure("tty; printf 'a\\r\\nb\\n'", process(terminal=True))
    master, slave = pty.openpty()
    outputs = [
        subprocess.run(
            ["setsid", "--ctty", *command, "run", "-b", str(box.bundle), BOX],
            stdin=slave, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=box.env, check=True,
        ).stdout
        for command in (box.command(), ["runc"] if shutil.which("runc") else box.command())
    ]  # fmt: skip
    os.close(slave)
    os.close(master)
    assert outputs == [b"/dev/pts/0\na\r\nb\n"] * 2
    box.nothing_left()


def test_descriptors(box: Box) -> None:
    box.configure("ls /proc/self/fd; cat <&4; cat")
    read, write = os.pipe()
    os.write(write, b"from 4\n")
    os.close(write)
    extra = os.open("/etc/hostname", os.O_RDONLY)

    def place() -> None:
        os.dup2(read, 4)
        os.dup2(extra, 3)
        os.dup2(extra, 9)  # an engine's leak

    result = subprocess.run(
        box.command("run", "-b", str(box.bundle), "--preserve-fds", "2", BOX),
        input="from 0\n",
        stdout=subprocess.PIPE,
        text=True,
        env=box.env,
        close_fds=False,
        preexec_fn=place,
        check=False,
    )
    os.close(read)
    os.close(extra)
    # 5 is the directory that ls reads.
    assert result.stdout == "0\n1\n2\n3\n4\n5\nfrom 4\nfrom 0\n"
    box.nothing_left()


def test_start_record_says_what_annotations_say(box: Box) -> None:
    def change(config: Config) -> None:
        config["annotations"] = {
            "dev.pysandbox.trace": "off",
            "dev.pysandbox.dispatch": "exit",
            "dev.pysandbox.pin": "enforce",
        }
        config["process"]["env"].append("STANDIN_REPORT=1")

    box.configure(["true"], change)
    out = box.run().stdout
    assert out.startswith("path=/bin/busybox execfn=/bin/true dispatch=2 trace=2 pin=2 nfds=3 stack=")
    assert "n=1064 " in out
    assert not (box.root / "traces").exists()


def test_trace_outlives_the_container(box: Box, tmp_path: Path) -> None:
    box.configure("true")
    for _ in range(2):
        assert box.run().returncode == 0
    names = sorted(os.listdir(box.root / "traces" / BOX))
    assert len(names) == 2
    assert names[1] == "trace.psb"
    box.configure("true", lambda c: c.update(annotations={"dev.pysandbox.trace.dir": str(tmp_path / "elsewhere")}))
    assert box.run().returncode == 0
    assert (tmp_path / "elsewhere/trace.psb").exists()


def test_image_cannot_inject_python(box: Box) -> None:
    """After the pivot Python's module path names files of the image: none of them may ever be imported."""
    for place in {path for path in sys.path if path.startswith("/")} | {
        "/usr/lib/python3.11",
        "/usr/lib/python3.11/lib-dynload",
    }:
        inside = box.rootfs / place.lstrip("/")
        inside.mkdir(parents=True, exist_ok=True)
        for module in ("resource", "struct", "errno", "traceback", "encodings", "stat", "signal"):
            (inside / f"{module}.py").write_text("import os\nos.write(1, b'INJECTED')\n")
    box.configure(["/nope\x01"])
    result = box.run()
    assert "INJECTED" not in result.stdout + result.stderr
    assert "no such file or directory" in result.stderr
    box.configure(["true"])
    assert box.run().stdout == ""


def test_links_in_the_image_lead_nowhere(box: Box, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (box.rootfs / "link").symlink_to("../" * 20 + str(outside).lstrip("/"))
    box.configure("echo x > /link/sub/file; ls /", lambda c: c["mounts"].append({"destination": "/link/sub", "type": "tmpfs"}))
    assert box.run().returncode == 0
    assert os.listdir(outside) == []
    (box.rootfs / "proc").rmdir()
    (box.rootfs / "proc").symlink_to("/tmp")
    box.configure("true")
    assert "must be mounted on ordinary directory" in box.run().stderr
    box.nothing_left()


def test_do(box: Box, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "seen").write_text("here")
    script = (
        "import os, sys; print(open('seen').read(), os.getcwd(), os.getpid(), os.environ['ADDED'], sys.stdin.read());"
        "open('seen', 'w').write('changed'); open('real/new', 'w').write('x'); print(open('seen').read()); sys.exit(9)"
    )
    (work / "real").mkdir()
    result = subprocess.run(
        box.command("do", "--rw", str(work / "real"), "--env", "ADDED=1", "--id", "do-1", "--", "/usr/bin/python3", "-c", script),
        input="in",
        capture_output=True,
        text=True,
        cwd=work,
        env=box.env,
        check=False,
        timeout=60,
    )
    assert result.stdout == f"here {work} 1 1 in\nchanged\n", result.stderr
    assert result.returncode == 9
    assert (work / "seen").read_text() == "here"
    assert (work / "real/new").read_text() == "x"
    assert (box.root / "traces/do-1/trace.psb").exists()
    assert "executable file not found in $PATH" in box.psb("do", "no-such-program").stderr
    networks = [box.psb("do", "--net", net, "ls", "/sys/class/net").stdout.split() for net in ("none", "host")]
    assert networks == [["lo"], sorted(os.listdir("/sys/class/net"))]
    box.nothing_left()


def test_do_on_a_terminal(box: Box) -> None:
    """The program's session has a terminal of its own: Ctrl-C reaches the shell and its child alike."""
    pid, master = pty.fork()
    if pid == 0:
        command = box.command("do", "--", "sh", "-c", "trap 'exit 3' INT; tty; sleep 60; echo end")
        os.execve(command[0], command, box.env)
    output = b""
    while b"/dev/pts/" not in output:
        output += os.read(master, 4096)
    time.sleep(0.2)  # for the sleep to begin
    began = time.monotonic()
    os.write(master, b"\x03")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    assert time.monotonic() - began < 30
    os.close(master)
    box.nothing_left()
