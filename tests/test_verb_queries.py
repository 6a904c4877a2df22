"""ps, list, state, spec, run and what callers hand over: output formats and flags, compared with runc's."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from verb_lab import Config, Runtime, missing, reap

pytestmark = [pytest.mark.kvm, pytest.mark.root, pytest.mark.skipif(bool(missing()), reason=missing() or "-")]


def alike(runtime: Runtime, text: str) -> str:
    """Without what must differ between two containers."""
    for mine, name in ((runtime.id, "ID"), (str(runtime.bundle), "BUNDLE"), (str(runtime.pid), "PID")):
        text = text.replace(mine, name)
    return re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,9}Z", "TIME", text)


def running(runtime: Runtime) -> None:
    runtime.configure(["sleep", "1000"])
    assert runtime.create() == 0, runtime.last_error()
    assert runtime.call("start", runtime.id).returncode == 0


def test_ps(pair: list[Runtime]) -> None:
    """Host pids, as an array and through the host's ps with any of its options."""
    seen = []
    for runtime in pair:
        running(runtime)
        for options in (["--format", "json"], ["-f", "json"], ["--format=json"]):
            assert json.loads(runtime.call("ps", *options, runtime.id).stdout) == [runtime.pid]
        table = runtime.call("ps", runtime.id).stdout
        assert table.splitlines()[0].split() == "UID PID PPID C STIME TTY TIME CMD".split()
        assert [line.split()[1] for line in table.splitlines()[1:]] == [str(runtime.pid)]
        chosen = runtime.call("ps", runtime.id, "-o", "pid,comm").stdout
        wrong = runtime.call("ps", runtime.id, "-o", "comm")
        bad = runtime.call("ps", "--format", "yaml", runtime.id)
        seen.append(
            (
                len(table.splitlines()),
                [line.split() for line in alike(runtime, chosen).splitlines()],  # as wide as the longest number
                wrong.returncode,
                bad.returncode,
                "invalid format option" in bad.stderr,
                runtime.call("ps", "nobody").returncode,
            )
        )
    assert seen[0] == seen[1]


def test_ps_without_a_path(pair: list[Runtime]) -> None:
    runtime = pair[0]
    running(runtime)
    assert str(runtime.pid) in runtime.call("ps", runtime.id, env={"PSB_PLAN_DIR": runtime.env["PSB_PLAN_DIR"]}).stdout


def test_list(pair: list[Runtime]) -> None:
    seen = []
    for runtime in pair:
        empty = [runtime.call("list", *options).stdout for options in ((), ("--format", "json"), ("-q",))]
        running(runtime)
        table = runtime.call("list").stdout
        assert table.splitlines()[1].split()[0] == runtime.id
        assert len(table.splitlines()[0].split("   ")) > 1
        json_text = runtime.call("list", "-f", "json").stdout
        quiet = runtime.call("list", "--quiet").stdout
        bad = runtime.call("list", "--format", "yaml")
        columns = re.sub(r" +", " ", alike(runtime, table))
        seen.append((empty, columns, alike(runtime, json_text), alike(runtime, quiet), bad.returncode))
    assert seen[0] == seen[1]


def test_list_columns_line_up(pair: list[Runtime]) -> None:
    """Byte for byte, with an id of the same length and the same root."""
    runtime, runc = pair
    runc.id = f"{runc.id[:-5]}-xxxxxxxxx"[: len(runtime.id)].ljust(len(runtime.id), "x")
    lines = []
    for one in pair:
        running(one)
        lines.append(one.call("list").stdout.splitlines())
    starts = [[match.start() for match in re.finditer(r"\S+", text[0])] for text in lines]
    # The bundle's path has another length, and with it what comes behind.
    assert starts[0][:4] == starts[1][:4]


def test_spec(pair: list[Runtime], tmp_path: Path) -> None:
    seen = []
    for runtime in pair:
        place = tmp_path / f"spec-{runtime.name}"
        place.mkdir()
        first = runtime.call("spec", "--bundle", str(place)).returncode
        assert json.loads((place / "config.json").read_text())["process"]["args"] == ["sh"]
        again = runtime.call("spec", "-b", str(place))
        (place / "config.json").unlink()
        rootless = runtime.call("spec", "--rootless", cwd=place).returncode
        config = json.loads((place / "config.json").read_text())
        seen.append(
            (
                first,
                again.returncode,
                rootless,
                sorted(ns["type"] for ns in config["linux"]["namespaces"]),
                config["linux"].get("uidMappings"),
                [m["destination"] for m in config["mounts"]],
            )
        )
    assert seen[0] == seen[1]


def test_run_detached_and_keep(pair: list[Runtime]) -> None:
    seen = []
    for runtime in pair:
        runtime.configure("exit 3")
        done = runtime.call("run", "--bundle", str(runtime.bundle), "--keep", runtime.id)
        kept = runtime.call("state", runtime.id)
        results: list[object] = [
            done.returncode,
            json.loads(kept.stdout)["status"],
            runtime.call("delete", runtime.id).returncode,
        ]
        done = runtime.call("run", "-b", str(runtime.bundle), "--no-subreaper", "--no-new-keyring", runtime.id)
        results += [done.returncode, runtime.call("state", runtime.id).returncode]
        runtime.configure(["sleep", "1000"])
        pid_file = runtime.bundle / "init.pid"
        null = subprocess.DEVNULL
        done = runtime.call(
            "run", "-b", str(runtime.bundle), "-d", "--pid-file", str(pid_file), runtime.id, stdout=null, stderr=null
        )
        results += [done.returncode, runtime.state()["status"], runtime.state()["pid"] == runtime.pid]
        os.kill(runtime.pid, signal.SIGKILL)
        results += [reap(runtime.pid)]
        seen.append(results)
    assert seen[0] == seen[1] == [3, "stopped", 0, 3, 1, 0, "running", True, -9]


def test_no_pivot(pair: list[Runtime]) -> None:
    """--no-pivot: the root is moved over /, for a host that runs from its initramfs; exec finds it, too."""
    seen = []
    for runtime in pair:
        runtime.configure("ls /; sleep 1000")
        assert runtime.create("--no-pivot") == 0, runtime.last_error()
        assert runtime.call("start", runtime.id).returncode == 0
        done = runtime.call("exec", runtime.id, "ls", "/")
        seen.append((done.returncode, done.stdout))
    assert seen[0] == seen[1]


def test_other_configuration_file(pair: list[Runtime]) -> None:
    """crun's `--config`: for create and run."""
    runtime = pair[0]
    runtime.configure("echo other; exit 6")
    other = runtime.bundle / "other.json"
    (runtime.bundle / "config.json").rename(other)
    done = runtime.call("run", "--config", str(other), "--bundle", str(runtime.bundle), runtime.id)
    assert (done.returncode, done.stdout) == (6, "other\n")
    assert runtime.create("--config", str(other)) == 0
    assert runtime.call("start", runtime.id).returncode == 0
    assert reap(runtime.pid) == 6
    assert runtime.call("exec", runtime.id, "true").returncode == 255
    assert runtime.call("run", "--config", "/nothing.json", "--bundle", str(runtime.bundle), "x").returncode == 1
    assert "no such file or directory" in runtime.last_error()


@pytest.mark.parametrize("verb", ["checkpoint", "restore"])
def test_not_supported(pair: list[Runtime], verb: str) -> None:
    """One line, status 1; `--help` as well, which is how podman asks whether there is such a verb."""
    runtime = pair[0]
    for arguments in ([runtime.id], ["--image-path", "/x", "--work-path", "/y", "--leave-running", runtime.id], ["--help"]):
        done = runtime.call(verb, *arguments)
        assert done.returncode == 1
        assert f"{verb} is not supported" in done.stderr
        assert done.stderr.count("\n") == 1


def activated(runtime: Runtime, verb: list[str], extra: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Calls with a listening socket at descriptor 3, as systemd does; `extra`: a file at 4."""
    name = runtime.bundle / "activated.sock"
    code = (
        "import os, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); os.dup2(s.fileno(), 9); os.dup2(9, 3); os.close(9)\n"
        "if sys.argv[2]: os.dup2(os.open(sys.argv[2], os.O_RDONLY), 8); os.dup2(8, 4); os.close(8)\n"
        "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n"
        "os.execvp(sys.argv[3], sys.argv[3:])"
    )
    argv = ["/usr/bin/python3", "-c", code, str(name), str(extra or ""), *runtime.argv(*verb)]
    done = subprocess.run(
        argv, env=runtime.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60
    )
    name.unlink(missing_ok=True)
    return done


def test_socket_activation(pair: list[Runtime], tmp_path: Path) -> None:
    """LISTEN_FDS: the sockets come first, those of --preserve-fds behind them, and the program is told."""
    (tmp_path / "file").write_text("preserved")
    script = (
        "echo $LISTEN_FDS $LISTEN_PID; readlink /proc/self/fd/3 | sed 's/[0-9]*//g'; cat <&4; [ -e /proc/self/fd/5 ] || echo none"
    )
    seen = []
    for runtime in pair:
        runtime.configure(script)
        done = activated(runtime, ["run", "--bundle", str(runtime.bundle), "--preserve-fds", "1", runtime.id], tmp_path / "file")
        seen.append((done.returncode, done.stdout))
    assert seen[0] == seen[1]
    assert seen[0][1].startswith("1 1\nsocket:[]\npreserved")


def test_foreign_activation_is_ignored(pair: list[Runtime]) -> None:
    """Variables meant for another process."""
    seen = []
    for runtime in pair:
        runtime.configure("echo -$LISTEN_FDS-; ls /proc/self/fd | wc -l")
        env = {**runtime.env, "LISTEN_FDS": "5", "LISTEN_PID": "1"}
        done = runtime.call("run", "--bundle", str(runtime.bundle), runtime.id, env=env)
        seen.append((done.returncode, done.stdout))
    assert seen[0] == seen[1]


def test_log_lines(pair: list[Runtime]) -> None:
    """The form engines parse: level, msg, an RFC 3339 time; the file is appended to."""
    for runtime in pair:
        runtime.configure(["/nothing"])
        runtime.log.write_text('{"level":"info","msg":"before","time":"2020-01-01T00:00:00Z"}\n')
        assert runtime.create() == 1
        assert runtime.call("state", "nobody").returncode == 1
        lines = [json.loads(line) for line in runtime.log.read_text().splitlines()]
        assert lines[0]["msg"] == "before"
        assert {line["level"] for line in lines[1:]} == {"error"}
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", line["time"]) for line in lines)
        assert 'exec: "/nothing": stat /nothing: no such file or directory' in lines[1]["msg"]


def test_helpers_hold_no_stream_of_the_caller(pair: list[Runtime]) -> None:
    """When create of a terminal container returns, nobody has the runtime's own output open: engines read to its end."""
    runtime = pair[0]
    runtime.configure(["sleep", "1000"], lambda config: config["process"].update(terminal=True))
    path = str(runtime.bundle / "c.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        listener.settimeout(60)
        argv = runtime.argv(
            "create",
            "--bundle",
            str(runtime.bundle),
            "--pid-file",
            str(runtime.bundle / "init.pid"),
            "--console-socket",
            path,
            runtime.id,
        )
        done = subprocess.run(argv, env=runtime.env, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        connection, _ = listener.accept()
        connection.close()


def test_signals_the_launcher_ignores_are_default(pair: list[Runtime]) -> None:
    """Python ignores SIGPIPE and SIGXFSZ, and callers may block others: the program starts clean.

    Not compared: what the tests' own caller ignores. SIGHUP stays as it was, runc does the same (nohup); signals 32 and 33 are
    the C library's."""
    seen = []
    not_compared = 1 << signal.SIGHUP - 1 | 1 << 31 | 1 << 32
    for runtime in pair:
        runtime.configure(["grep", "-E", "SigBlk|SigIgn", "/proc/self/status"])
        argv = runtime.argv("run", "--bundle", str(runtime.bundle), runtime.id)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1, signal.SIGTERM))
        done = subprocess.run(
            argv, env=runtime.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60
        )
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        seen.append([(name, int(mask, 16) & ~not_compared) for name, mask in map(str.split, done.stdout.splitlines())])
    assert seen[0] == [("SigBlk:", 0), ("SigIgn:", 0)]


def test_flags_in_both_forms(pair: list[Runtime]) -> None:
    """`--opt v` and `--opt=v`, global flags before the verb."""
    for runtime in pair:
        runtime.configure("exit 2")
        argv = [
            *runtime.command,
            f"--root={runtime.root}",
            "--log-format",
            "json",
            f"--log={runtime.log}",
            "run",
            f"--bundle={runtime.bundle}",
            "--no-pivot=false",
            runtime.id,
        ]
        done = subprocess.run(argv, env=runtime.env, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60)
        assert done.returncode == 2, runtime.name


def test_oom_score_of_the_caller_is_kept(pair: list[Runtime]) -> None:
    """An engine's shim has one; a container without oomScoreAdj inherits it, one with a value has that."""

    def with_score(config: Config) -> None:
        config["process"]["oomScoreAdj"] = 77

    seen = []
    for runtime in pair:
        results = []
        for change in (None, with_score):
            runtime.configure(["cat", "/proc/self/oom_score_adj"], change)
            argv = " ".join(runtime.argv("run", "--bundle", str(runtime.bundle), runtime.id))
            done = subprocess.run(
                ["sh", "-c", f"echo 5 >/proc/self/oom_score_adj; exec {argv}"],
                env=runtime.env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            results.append(done.stdout)
        seen.append(results)
    assert seen[0] == seen[1] == ["5\n", "77\n"]
