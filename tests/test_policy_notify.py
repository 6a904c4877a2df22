"""SCMP_ACT_NOTIFY: one agent, written for the kernel's listeners, decides calls of containers of pysandbox and of runc."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from verb_lab import Config, Runtime, missing, reap, wait_for

pytestmark = [pytest.mark.kvm, pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]

RECV, SEND, ID_VALID, ADDFD = 0xC0502100, 0xC0182101, 0x40082102, 0x40182103
CONTINUE = 1
GONE = (errno.ENOENT, errno.ENOTCONN)  # ours says the second some seconds after the container's end
MKDIR, CHMOD, CHDIR, OPENAT, NANOSLEEP, PTRACE = 83, 90, 80, 257, 35, 101


class Call:
    """One notification: struct seccomp_notif."""

    def __init__(self, listener: int, packed: bytes) -> None:
        self.listener = listener
        self.id, self.pid, self.flags, self.nr, self.arch, self.ip, *self.args = struct.unpack("<QIIiIQ6Q", packed)

    def text(self, number: int) -> str:
        with open(f"/proc/{self.pid}/mem", "rb") as memory:
            place = self.args[number]
            memory.seek(place)
            return memory.read(4096 - place % 4096).partition(b"\0")[0].decode()  # the next page may not be there

    def valid(self) -> bool:
        try:
            fcntl.ioctl(self.listener, ID_VALID, struct.pack("<Q", self.id))
        except OSError as failed:
            if failed.errno not in GONE:
                raise
            return False
        return True

    def answer(self, value: int = 0, error: int = 0, flags: int = 0) -> None:
        fcntl.ioctl(self.listener, SEND, struct.pack("<QqiI", self.id, value, -error, flags))

    def add(self, fd: int, flags: int = 0, new_flags: int = 0, at: int = 0) -> int:
        return fcntl.ioctl(self.listener, ADDFD, bytearray(struct.pack("<QIIII", self.id, flags, fd, at, new_flags)))


class Agent:
    """Listens at `path`. `decide` answers each call, in a thread of its listener; `messages` are what runtimes told. Descriptors
    are closed by the threads that use them, so that none works with a number that means something else by then."""

    def __init__(self, path: Path, decide: Callable[[Call], None]) -> None:
        self.decide = decide
        self.messages: list[dict[str, Any]] = []
        self.calls: list[int] = []
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(str(path))
        self.sock.listen()
        self.path = path
        self.stop, self.stopped = os.pipe()
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.sock.accept()
            except OSError:
                return  # shut down
            with connection:
                data, fds, _, _ = socket.recv_fds(connection, 65536, 4)
            assert len(fds) == 1
            self.messages.append(json.loads(data))
            self.threads.append(threading.Thread(target=self._serve, args=(fds[0],), daemon=True))
            self.threads[-1].start()

    def _serve(self, listener: int) -> None:
        poll = select.poll()
        poll.register(listener, select.POLLIN)
        poll.register(self.stop, select.POLLIN)
        while True:
            events = dict(poll.poll())
            if self.stop in events:
                break
            if events[listener] != select.POLLIN:
                poll.unregister(listener)  # nobody is left to ask; the descriptor may still be looked at
                continue
            notif = bytearray(80)
            try:
                fcntl.ioctl(listener, RECV, notif)
            except FileNotFoundError:
                continue  # was interrupted between poll and this
            call = Call(listener, bytes(notif))
            self.calls.append(call.nr)
            self.decide(call)
        os.close(listener)

    def close(self) -> None:
        """Afterwards the listeners are closed."""
        if self.stopped < 0:
            return
        self.sock.shutdown(socket.SHUT_RDWR)
        self.threads[0].join()
        self.sock.close()
        os.close(self.stopped)
        for thread in self.threads[1:]:
            thread.join()
        os.close(self.stop)
        self.stopped = -1


def asks(agent: Path, *names: str, **more: Any) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        rule = {"names": list(names), "action": "SCMP_ACT_NOTIFY"}
        profile = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": [rule]}
        config["linux"]["seccomp"] = {**profile, "listenerPath": str(agent), **more}
        config["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"})

    return change


def output(runtime: Runtime, decide: Callable[[Call], None], script: str, *names: str) -> tuple[str, list[int]]:
    """Of a container with an agent; and which calls it was asked about."""
    agent = Agent(runtime.bundle / "agent", decide)
    runtime.configure(script, asks(agent.path, *names))
    done = runtime.call("run", "-b", str(runtime.bundle), runtime.id)
    agent.close()
    assert runtime.left_over() == []
    return done.stdout + done.stderr, agent.calls


def test_answers(pair: list[Runtime]) -> None:
    """Errors, results and leave to go on; the agent finds the arguments in the program's memory."""

    def decide(call: Call) -> None:
        assert call.arch == 0xC000003E
        assert call.valid()
        if call.nr == MKDIR and call.text(0) == "/tmp/refused":
            call.answer(error=errno.ENOMEDIUM)
        elif call.nr == CHMOD:
            assert (call.text(0), call.args[1]) == ("/tmp/file", 0o751)
            call.answer(0)
        else:
            call.answer(flags=CONTINUE)
        assert not call.valid()

    script = """
        exec 2>&1
        mkdir /tmp/refused; echo $?; mkdir /tmp/made && ls /tmp
        touch /tmp/file; chmod 751 /tmp/file; echo $?; stat -c %a /tmp/file
        """
    seen = [output(runtime, decide, script, "mkdir", "chmod") for runtime in pair]
    assert seen[0] == seen[1]
    assert "No medium found\n1\nmade\n0\n644\n" in seen[0][0]


def test_many_processes_ask_at_once(pair: list[Runtime]) -> None:
    script = "for i in $(seq 40); do mkdir /tmp/$i & done; wait; ls /tmp | wc -l"
    seen = [output(runtime, lambda call: call.answer(flags=CONTINUE), script, "mkdir") for runtime in pair]
    assert seen[0] == seen[1] == ("40\n", [MKDIR] * 40)


def go_on(call: Call) -> None:
    try:
        call.answer(flags=CONTINUE)
    except FileNotFoundError:
        pass  # a signal, such as that of a child's end, has interrupted the call: it is made again, and asked about


def test_calls_that_make_processes_go_on(pair: list[Runtime]) -> None:
    for runtime in pair:
        names = ("execve", "openat", "read", "close", "clone", "fork", "vfork", "mmap", "exit_group")
        text, calls = output(runtime, go_on, "cat /etc/passwd | grep -c root", *names)
        assert text == "1\n", runtime.name
        assert OPENAT in calls


def test_descriptors_from_the_agent(pair: list[Runtime], tmp_path: Path) -> None:
    """ADDFD, with the answer apart and in one."""
    (tmp_path / "gift").write_text("from the agent\n")

    def decide(call: Call) -> None:
        name = call.text(1)
        if not name.startswith("/gift"):
            call.answer(flags=CONTINUE)
            return
        fd = os.open(tmp_path / "gift", os.O_RDONLY)
        if name == "/gift1":
            call.answer(call.add(fd))
        else:
            assert call.add(fd, flags=2, new_flags=os.O_CLOEXEC) > 2  # SECCOMP_ADDFD_FLAG_SEND
            assert not call.valid()
        os.close(fd)

    seen = [output(runtime, decide, "cat /gift1; cat /gift2 -; echo $?", "openat", "open")[0] for runtime in pair]
    assert seen[0] == seen[1] == "from the agent\nfrom the agent\n0\n"


def test_descriptors_at_numbers_of_the_agents_choice(pair: list[Runtime], tmp_path: Path) -> None:
    """SECCOMP_ADDFD_FLAG_SETFD: free numbers and used ones, kept over execve or not, the answer apart and in one; bad numbers."""
    (tmp_path / "gift").write_text("from the agent\n")

    def decide(call: Call) -> None:
        name = call.text(0 if call.nr == CHDIR else 1)
        if not name.startswith("/gift"):
            call.answer(flags=CONTINUE)
            return
        fd = os.open(tmp_path / "gift", os.O_RDONLY)
        number = int(name.rpartition("/")[2])
        if name.startswith("/gift/bad/"):
            with pytest.raises(OSError, match=r"\[Errno 9\]"):
                call.add(fd, flags=1, at=number)
            with pytest.raises(OSError, match=r"\[Errno 22\]"):
                call.add(fd, at=7)
            call.answer(0)
        elif call.nr == CHDIR:
            assert call.add(fd, flags=1, at=number, new_flags=os.O_CLOEXEC if number == 7 else 0) == number
            call.answer(0)
        else:
            assert call.add(fd, flags=3, at=number) == number
        os.close(fd)

    script = """
        exec 2>/tmp/err 5</etc/passwd
        cd /gift/4; cat <&4; cd /gift/5; cat <&5; cd /gift/5; cat <&5; cd /gift/0; cat; exec 8</gift/9; cat <&8; cat <&9
        cd /gift/7; ls -l /proc/self/fd >/tmp/l; grep -c gift /tmp/l; read line <&7; echo $line
        ls -l /proc/$$/fd >/tmp/l; grep -c gift /tmp/l
        cd /gift/bad/1024; cd /gift/bad/4294967295; cd /gift/bad/2147483648
        ls /proc/$$/fd >/tmp/l; cat /tmp/l; grep -c 'bad f' /tmp/err
        """
    seen = [output(runtime, decide, script, "openat", "open", "chdir")[0] for runtime in pair]
    assert seen[0] == seen[1]
    assert seen[0].count("from the agent\n") == 6


def test_what_the_agent_is_told(pair: list[Runtime]) -> None:
    told = []
    for runtime in pair:
        agent = Agent(runtime.bundle / "agent", lambda call: call.answer(flags=CONTINUE))
        runtime.configure(["sleep", "1000"], asks(agent.path, "mkdir", listenerMetadata="x y"))
        assert runtime.create() == 0, runtime.last_error()
        assert runtime.call("start", runtime.id).returncode == 0
        done = runtime.call("exec", "--pid-file", str(runtime.bundle / "pid"), runtime.id, "mkdir", "/tmp/x")
        assert done.returncode == 0, runtime.last_error()
        first, second = agent.messages
        assert first["pid"] == first["state"]["pid"] == runtime.pid
        assert second["pid"] == int((runtime.bundle / "pid").read_text())
        assert agent.calls == [MKDIR]
        for message in (first, second):
            assert message["state"]["bundle"] == str(runtime.bundle)
        told.append([(m["fds"], m["metadata"], m["state"]["id"] == runtime.id, m["state"]["status"]) for m in agent.messages])
        runtime.clean()
        agent.close()
    assert told[0] == told[1]


def test_agent_that_goes_away(pair: list[Runtime]) -> None:
    """Calls answer ENOSYS then, also those it was asked about before."""
    seen = []
    for runtime in pair:
        asked: list[Call] = []
        agent = Agent(runtime.bundle / "agent", asked.append)
        runtime.configure("mkdir /tmp/1; mkdir /tmp/2; echo end", asks(agent.path, "mkdir"))
        assert runtime.create() == 0, runtime.last_error()
        assert runtime.call("start", runtime.id).returncode == 0
        wait_for(lambda asked=asked: asked, "the question")  # type: ignore[misc]
        agent.close()
        assert reap(runtime.pid) == 0
        seen.append(runtime.err.count("Function not implemented"))
    assert seen == [2, 2]


def test_interrupted_calls_are_forgotten(pair: list[Runtime]) -> None:
    for runtime in pair:
        asked: list[Call] = []
        agent = Agent(runtime.bundle / "agent", asked.append)
        runtime.configure("mkdir /tmp/1 & sleep 0.5; kill -9 $!; wait; echo end", asks(agent.path, "mkdir"))
        assert runtime.create() == 0, runtime.last_error()
        assert runtime.call("start", runtime.id).returncode == 0
        wait_for(lambda asked=asked: asked, "the question")  # type: ignore[misc]
        assert asked[0].valid()
        assert reap(runtime.pid) == 0
        wait_for(lambda asked=asked: not asked[0].valid(), "the end of the call")  # type: ignore[misc]
        with pytest.raises(OSError, match=r"\[Errno (2|107)\]"):
            asked[0].answer(0)
        assert runtime.out == "end\n"
        agent.close()


def test_poll(pair: list[Runtime]) -> None:
    """Readable with a question, hung up when nobody is left to ask."""
    for runtime in pair:
        with socket.socket(socket.AF_UNIX) as sock:
            path = runtime.bundle / "agent"
            sock.bind(str(path))
            sock.listen()
            runtime.configure("sleep 0.3; mkdir /tmp/1; echo $?", asks(path, "mkdir"))
            assert runtime.create() == 0, runtime.last_error()
            connection, _ = sock.accept()
            with connection:
                _, fds, _, _ = socket.recv_fds(connection, 65536, 4)
        poll = select.poll()
        poll.register(fds[0], select.POLLIN)
        assert poll.poll(0) == []
        assert runtime.call("start", runtime.id).returncode == 0
        assert poll.poll(10000) == [(fds[0], select.POLLIN)]
        notif = bytearray(80)
        fcntl.ioctl(fds[0], RECV, notif)
        assert poll.poll(0) == []
        Call(fds[0], bytes(notif)).answer(error=errno.EBADMSG)
        assert reap(runtime.pid) == 0
        assert poll.poll(10000) == [(fds[0], select.POLLHUP)]
        assert runtime.out == "1\n"
        os.close(fds[0])


@pytest.mark.parametrize("kind", ["nothing", "file", "nobody"])
def test_no_agent(pair: list[Runtime], kind: str) -> None:
    for runtime in pair:
        path = runtime.bundle / "agent"
        if kind == "file":
            path.write_text("")
        elif kind == "nobody":
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(str(path))
        runtime.configure(["true"], asks(path, "mkdir"))
        assert runtime.create() == 1
        assert "failed to connect with seccomp agent" in runtime.last_error()
        if runtime.ours:
            assert runtime.left_over() == []


def test_without_a_rule_nobody_is_asked(pair: list[Runtime]) -> None:
    """listenerPath alone means nothing."""
    runtime = pair[0]
    change = asks(Path("/nonexistent"), "mkdir")

    def allow(config: Config) -> None:
        change(config)
        config["linux"]["seccomp"]["syscalls"][0]["action"] = "SCMP_ACT_ALLOW"

    runtime.configure(["true"], allow)
    assert runtime.call("run", "-b", str(runtime.bundle), runtime.id).returncode == 0


def test_no_agent_can_allow_what_is_refused(pair: list[Runtime]) -> None:
    """CONTINUE leads back into the monitor, not past it; the trace tells of the question."""
    runtime = pair[0]
    script = "cat /proc/self/mem; mkdir /tmp/x && echo made"
    text, _ = output(runtime, lambda call: call.answer(flags=CONTINUE), script, "openat", "open", "mkdir")
    assert "can't open '/proc/self/mem': Permission denied" in text
    assert "made\n" in text
    shown = runtime.call("trace", "show", runtime.id, "--json").stdout
    records = [json.loads(line) for line in shown.splitlines()]
    made = next(record for record in records if record["name"] == "mkdir")
    assert (made["verdict"], made["ret"]) == ("notify", 0)


def test_no_descriptor_of_the_caller_is_kept(pair: list[Runtime]) -> None:
    """Whoever waits for the end of a pipe that the runtime has inherited is not kept waiting."""
    runtime = pair[0]
    agent = Agent(runtime.bundle / "agent", lambda call: call.answer(flags=CONTINUE))
    runtime.configure(["sleep", "1000"], asks(agent.path, "mkdir"))
    reader, writer = os.pipe()
    assert runtime.create(pass_fds=(writer,)) == 0, runtime.last_error()
    os.close(writer)
    assert select.select([reader], [], [], 20)[0]
    assert os.read(reader, 1) == b""
    os.close(reader)
    assert runtime.state()["status"] == "created"
    runtime.clean()
    agent.close()


def test_nothing_stays(pair: list[Runtime]) -> None:
    """The process between ends soon after the container, whatever the agent does."""
    runtime = pair[0]

    def helpers() -> list[str]:
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                text = entry.read_bytes().decode(errors="replace")
            except OSError:
                continue
            if "pysandbox.runtime.notify import main" in text and str(Path(runtime.command[0]).parent.parent) in text:
                found.append(entry.parent.name)
        return found

    before = helpers()
    agent = Agent(runtime.bundle / "agent", lambda call: call.answer(flags=CONTINUE))
    runtime.configure(["mkdir", "/tmp/x"], asks(agent.path, "mkdir"))
    assert runtime.call("run", "-b", str(runtime.bundle), runtime.id).returncode == 0
    time.sleep(0.1)
    wait_for(lambda: set(helpers()) <= set(before), "the end of the process between")
    agent.close()
