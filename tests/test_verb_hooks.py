"""Hooks of all six kinds: order, namespaces, input, environment, time limits, failures. Compared with runc where runc does
what the specification says; it runs poststart hooks in `create` and loses errors of startContainer hooks.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from verb_lab import Config, Runtime, missing, reap, wait_for

pytestmark = [pytest.mark.kvm, pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]

RUNTIME_KINDS = ("prestart", "createRuntime", "poststart", "poststop")
SCRIPT = """#!/bin/sh
kind=$1
{
  echo "[$kind] $*"
  echo "cwd=$(pwd)"
  echo "env=$(env | grep -v '^_=\\|^PWD=\\|^OLDPWD=\\|^SHLVL=' | sort | tr '\\n' ' ')"
  echo "fds=$(ls /proc/self/fd | tr '\\n' ' ')"
  for n in mnt net pid uts ipc; do echo "$n=$(readlink /proc/self/ns/$n)"; done
  cat
  echo
} >>OUT 2>&1
echo to-stdout; echo to-stderr >&2
exit $2
"""


@pytest.fixture
def pair(pair: list[Runtime]) -> list[Runtime]:
    for runtime in pair:
        script = runtime.bundle / "hook"
        script.write_text(SCRIPT.replace("OUT", str(runtime.bundle / "hooks.out")))
        script.chmod(0o755)
    return pair


def hook(runtime: Runtime, kind: str, status: int = 0, **more: Any) -> dict[str, Any]:
    return {"path": str(runtime.bundle / "hook"), "args": ["hook", kind, str(status)], **more}


def inside(script: str, **more: Any) -> dict[str, Any]:
    return {"path": "/bin/sh", "args": ["sh", "-c", script], **more}


def configure(runtime: Runtime, hooks: dict[str, Any], args: list[str] | None = None, **more: Any) -> None:
    def change(config: Config) -> None:
        config["hooks"] = hooks
        config.update(more)

    runtime.configure(args or ["sleep", "1000"], change)


def told(runtime: Runtime) -> str:
    """What the hooks wrote, without what must differ between two containers."""
    path = runtime.bundle / "hooks.out"
    text = path.read_text() if path.exists() else ""
    path.unlink(missing_ok=True)
    return text


def ran(text: str) -> list[str]:
    """The kinds whose hooks ran, in their order."""
    return re.findall(r"^\[(\w+)\]", text, re.M)


def alike(runtime: Runtime, text: str) -> str:
    text = text.replace(runtime.id, "ID").replace(str(runtime.bundle), "BUNDLE").replace(str(runtime.rootfs), "ROOTFS")
    return re.sub(r'"pid":\d\d+', '"pid":PID', re.sub(r"\[\d{6,}\]", "[NS]", text))


def namespaces(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(mnt|net|pid|uts|ipc)=(.*)$", text, re.M))


def test_create_hooks_as_runc_runs_them(pair: list[Runtime]) -> None:
    """prestart and createRuntime outside, createContainer inside, poststop at the end: input, place, environment."""
    seen = []
    for runtime in pair:
        kinds = {kind: [hook(runtime, kind)] for kind in ("prestart", "createRuntime", "createContainer", "poststop")}
        kinds["prestart"].append(hook(runtime, "prestart", env=["A=b", "PATH=/bin:/usr/bin"]))
        configure(runtime, kinds, annotations={"x": "y"})
        assert runtime.create() == 0, runtime.last_error()
        text = told(runtime)
        parts = text.split("[")
        outside, within = namespaces(text[: text.index("[createContainer]")]), namespaces(text[text.index("[createContainer]") :])
        assert all(outside[kind] == os.readlink(f"/proc/self/ns/{kind}") for kind in outside)
        assert all(within[kind] == os.readlink(f"/proc/{runtime.pid}/ns/{kind}") for kind in within)
        assert f'"pid":{runtime.pid}' in text
        os.kill(runtime.pid, 9)
        reap(runtime.pid)
        assert runtime.call("delete", runtime.id, cwd=runtime.bundle).returncode == 0  # as engines do
        assert len(parts) > 4
        # runc leaves descriptors of its own open in createContainer hooks.
        seen.append(re.sub(r"fds=.*\n| PSB_PLAN_DIR=\S*", "", alike(runtime, text + told(runtime))))
    # The name of the pipe or file behind standard input is nobody's business; all else is the same.
    assert seen[0] == seen[1]
    assert seen[0].count('"annotations":{"x":"y"}') == 5


def test_no_descriptor_reaches_a_hook(pair: list[Runtime], tmp_path: Path) -> None:
    """Neither the runtime's own nor those an engine left open."""
    runtime = pair[0]
    leak = os.open(tmp_path, os.O_RDONLY)
    configure(runtime, {kind: [hook(runtime, kind)] for kind in (*RUNTIME_KINDS, "createContainer")})
    assert runtime.create(pass_fds=(leak,)) == 0
    assert runtime.call("start", runtime.id, pass_fds=(leak,)).returncode == 0
    assert runtime.call("delete", "--force", runtime.id, pass_fds=(leak,)).returncode == 0
    os.close(leak)
    listed = re.findall(r"fds=(.*)", told(runtime))
    assert len(listed) == 5
    assert set(listed) == {"0 1 2 3 "}  # 3 is the listing itself


def test_order_and_status(pair: list[Runtime]) -> None:
    """The whole life, with the status each kind is told."""
    runtime = pair[0]
    configure(runtime, {kind: [hook(runtime, kind), hook(runtime, kind + "2")] for kind in (*RUNTIME_KINDS, "createContainer")})
    assert runtime.create() == 0
    text = told(runtime)
    assert ran(text) == [
        "prestart", "prestart2", "createRuntime", "createRuntime2", "createContainer", "createContainer2"
    ]  # fmt: skip
    assert re.findall(r'"status":"(\w+)"', text) == ["creating"] * 6
    assert runtime.call("start", runtime.id).returncode == 0
    text = told(runtime)
    assert ran(text) == ["poststart", "poststart2"]
    assert re.findall(r'"status":"(\w+)"', text) == ["running"] * 2
    os.kill(runtime.pid, 9)
    reap(runtime.pid)
    assert runtime.call("delete", runtime.id).returncode == 0
    text = told(runtime)
    assert ran(text) == ["poststop", "poststop2"]
    assert re.findall(r'"status":"(\w+)"', text) == ["stopped"] * 2
    assert '"pid"' not in text
    assert runtime.left_over() == []


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
def test_failure_in_create(pair: list[Runtime], kind: str) -> None:
    """The error, with the hook's output; the hooks behind it do not run, those of poststop do; nothing is left."""
    seen = []
    for runtime in pair:
        hooks = {k: [hook(runtime, k)] for k in ("prestart", "createRuntime", "createContainer", "poststop")}
        hooks[kind] = [hook(runtime, kind, 3), hook(runtime, "never")]
        configure(runtime, hooks)
        status = runtime.create()
        kinds = ran(told(runtime))
        error = runtime.last_error()
        assert "hook #0: " in error
        assert "exit status 3, stdout: to-stdout" in error
        assert "stderr: to-stderr" in error
        seen.append((status, kinds, runtime.left_over(), runtime.call("state", runtime.id).returncode))
    assert seen[0] == seen[1]


def test_failure_of_poststop_is_a_warning(pair: list[Runtime]) -> None:
    for runtime in pair[:1]:
        configure(runtime, {"poststop": [hook(runtime, "poststop", 3), hook(runtime, "second")]})
        assert runtime.create() == 0
        assert runtime.call("delete", runtime.id).returncode == 0
        assert ran(told(runtime)) == ["poststop", "second"]
        lines = [json.loads(line) for line in runtime.log.read_text().splitlines()]
        assert lines[-1]["level"] == "warning"
        assert "poststop hook #0: error running hook: exit status 3" in lines[-1]["msg"]
        assert runtime.left_over() == []


@pytest.mark.parametrize("kind", ["poststart", "startContainer"])
def test_failure_in_start(pair: list[Runtime], kind: str) -> None:
    """The container ends and goes, poststop hooks run, `start` says why (specification 1.2; runc only kills it)."""
    runtime = pair[0]
    failing = hook(runtime, kind, 3) if kind == "poststart" else inside("echo to-stdout; echo to-stderr >&2; exit 3")
    configure(runtime, {kind: [failing], "poststop": [hook(runtime, "poststop")]}, ["sh", "-c", "echo ran; sleep 1000"])
    assert runtime.create() == 0
    done = runtime.call("start", runtime.id)
    assert done.returncode == 1
    words = "error running hook: exit status 3, stdout: to-stdout, stderr: to-stderr"
    assert f"error running {kind} hook #0: {words}" in runtime.last_error()
    assert reap(runtime.pid) == -9
    assert ran(told(runtime)) == (["poststart", "poststop"] if kind == "poststart" else ["poststop"])
    assert runtime.left_over() == []
    if kind == "startContainer":
        assert runtime.out == ""  # the program never ran


def test_start_container_hook_is_a_guest(pair: list[Runtime]) -> None:
    """It sees the container and no more, its calls are in the container's trace and decided by its policy."""
    seen = []
    for runtime in pair:
        rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
        profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
        script = "{ cat; echo; id -u; pwd; hostname; echo $A; mkdir /t/x || echo refused; } >/dev/shm/hook 2>/dev/null"

        def change(config: Config, profile: Any = profile, script: str = script) -> None:
            config["linux"]["seccomp"] = profile
            config["process"]["user"] = {"uid": 12, "gid": 13}
            config["hooks"] = {"startContainer": [inside(script), inside("echo second >>/dev/shm/hook", env=["A=b"])]}

        runtime.configure("cat /dev/shm/hook; echo program", change)
        assert runtime.create() == 0, runtime.last_error()
        assert not Path(f"/proc/{runtime.pid}/root/dev/shm/hook").exists()
        assert runtime.call("start", runtime.id).returncode == 0, runtime.last_error()
        assert reap(runtime.pid) == 0
        seen.append(alike(runtime, runtime.out))
    assert seen[0] == seen[1]
    assert "refused" in seen[0]
    assert '"status":"created","pid":1,' in seen[0]
    runtime = pair[0]
    shown = subprocess.run(runtime.argv("trace", "show", runtime.id), env=runtime.env, capture_output=True, text=True, check=True)
    assert "/dev/shm/hook" in shown.stdout


def test_time_limit(pair: list[Runtime]) -> None:
    seen = []
    for runtime in pair:
        slow = {"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}
        configure(runtime, {"createRuntime": [slow], "poststop": [hook(runtime, "poststop")]})
        started = time.monotonic()
        status = runtime.create()
        assert time.monotonic() - started < 100
        assert "hook ran past specified timeout of 1.0s" in runtime.last_error()
        seen.append((status, ran(told(runtime)), runtime.left_over()))
    assert seen[0] == seen[1]


def test_time_limit_in_the_container(pair: list[Runtime]) -> None:
    runtime = pair[0]
    configure(runtime, {"startContainer": [{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]})
    assert runtime.create() == 0
    assert runtime.call("start", runtime.id).returncode == 1
    assert "hook ran past specified timeout of 1.0s" in runtime.last_error()
    assert reap(runtime.pid) == -9
    assert runtime.left_over() == []


@pytest.mark.parametrize("path", ["/nothing", "/etc", "/etc/passwd"])
@pytest.mark.parametrize("kind", ["prestart", "createContainer", "startContainer"])
def test_program_that_is_none(pair: list[Runtime], kind: str, path: str) -> None:
    runtime = pair[0]
    configure(runtime, {kind: [{"path": path}]})
    failed = runtime.create() if kind != "startContainer" else (runtime.create(), runtime.call("start", runtime.id).returncode)[1]
    assert failed == 1
    assert f"error running {kind} hook #0: " in runtime.last_error()
    assert path in runtime.last_error()
    assert (
        "no such file" in runtime.last_error()
        or "permission denied" in runtime.last_error()
        or "directory" in runtime.last_error()
    )
    if kind == "startContainer":
        reap(runtime.pid)
    assert runtime.left_over() == []


@pytest.mark.parametrize("kind", ["prestart", "startContainer"])
def test_hook_killed_by_a_signal(pair: list[Runtime], kind: str) -> None:
    """The signal is named as engines name it."""
    runtime = pair[0]
    for signal, words in (("KILL", "signal: killed"), ("SYS", "signal: bad system call"), ("TERM", "signal: terminated")):
        configure(runtime, {kind: [{"path": "/bin/sh", "args": ["sh", "-c", f"ulimit -c 0; kill -{signal} $$"]}]})
        if runtime.create() == 0:
            assert runtime.call("start", runtime.id).returncode == 1
        assert f"error running {kind} hook #0: error running hook: {words}" in runtime.last_error()
        runtime.clean()


def test_relative_path_is_refused(pair: list[Runtime]) -> None:
    runtime = pair[0]
    configure(runtime, {"prestart": [{"path": "bin/true"}]})
    assert runtime.create() == 1
    assert "/hooks/prestart/0/path" in runtime.last_error()


def test_hook_may_call_the_runtime(pair: list[Runtime]) -> None:
    """Verbs that need no lock work in the hooks of create, all in poststart."""
    runtime = pair[0]
    state = " ".join(runtime.argv("state", runtime.id))
    listing = " ".join(runtime.argv("list", "-q"))
    signal = " ".join(runtime.argv("kill", runtime.id, "0"))
    end = " ".join(runtime.argv("delete", "--force", runtime.id))
    hooks = {
        "createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", f"{state} >{runtime.bundle}/s1 && {listing} && {signal}"]}],
        "poststart": [{"path": "/bin/sh", "args": ["sh", "-c", f"{state} >{runtime.bundle}/s2 && {end}"]}],
    }
    configure(runtime, hooks)
    assert runtime.create() == 0, runtime.last_error()
    assert runtime.call("start", runtime.id).returncode == 0, runtime.last_error()
    assert json.loads((runtime.bundle / "s1").read_text())["status"] == "creating"
    assert json.loads((runtime.bundle / "s2").read_text())["status"] == "running"
    assert reap(runtime.pid) == -9
    assert runtime.left_over() == []


def test_hook_that_leaves_a_process(pair: list[Runtime]) -> None:
    """Nobody waits for what a hook started in the background, even though it keeps its standard streams."""
    runtime = pair[0]
    configure(runtime, {"prestart": [{"path": "/bin/sh", "args": ["sh", "-c", f"sleep 1000 & echo $! >{runtime.bundle}/pid"]}]})
    assert runtime.create() == 0
    pid = int((runtime.bundle / "pid").read_text())
    os.kill(pid, 9)
    reap(pid)


def test_run_has_them_all(pair: list[Runtime]) -> None:
    """In the foreground and detached."""
    runtime = pair[0]
    hooks = {kind: [hook(runtime, kind)] for kind in (*RUNTIME_KINDS, "createContainer")}
    hooks["startContainer"] = [inside("echo hook >/dev/shm/x")]
    configure(runtime, hooks, ["sh", "-c", "cat /dev/shm/x; exit 4"])
    done = runtime.call("run", "--bundle", str(runtime.bundle), runtime.id)
    assert (done.returncode, done.stdout) == (4, "hook\n")
    assert ran(told(runtime)) == ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]
    configure(runtime, {**hooks, "poststart": [hook(runtime, "poststart", 1)]})
    done = runtime.call("run", "--bundle", str(runtime.bundle), runtime.id)
    assert done.returncode == 1
    assert "poststart hook #0" in done.stderr
    assert runtime.left_over() == []
    told(runtime)
    configure(runtime, hooks)
    null = subprocess.DEVNULL
    assert runtime.call("run", "--detach", "--bundle", str(runtime.bundle), runtime.id, stdout=null, stderr=null).returncode == 0
    assert runtime.state()["status"] == "running"
    assert runtime.call("delete", "--force", runtime.id).returncode == 0
    assert ran(told(runtime))[-2:] == ["poststart", "poststop"]


def test_runtime_killed_in_a_hook(pair: list[Runtime]) -> None:
    """SIGKILL of create while a hook runs: the hook goes too, and the next command takes everything back."""
    runtime = pair[0]
    sleeping = {"path": "/bin/sh", "args": ["sh", "-c", f"echo $$ >{runtime.bundle}/pid; exec sleep 1000"]}
    for kind in ("createRuntime", "createContainer"):
        configure(runtime, {kind: [sleeping]})
        argv = runtime.argv("create", "--bundle", str(runtime.bundle), runtime.id)
        null = subprocess.DEVNULL
        child = subprocess.Popen(argv, env=runtime.env, stdin=null, stdout=null, stderr=null)
        path = runtime.bundle / "pid"
        wait_for(lambda p=path: p.exists() and p.read_text().strip(), "the hook")  # type: ignore[misc]
        path.unlink()
        child.kill()
        child.wait()
        assert runtime.call("list", "-q").stdout == ""
        assert runtime.left_over() == []
