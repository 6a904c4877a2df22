"""The command line: global options, then a verb, then its own.

A verb is a module of this package with `ARGUMENTS` (an `Arguments`) and `main(call) -> int`; it parses, calls one
function, prints. Only the module of the verb that was asked for is imported: start time is part of the product
(argparse alone would double it).
"""

from __future__ import annotations

import os
import sys

from pysandbox.oci.errors import Error, UsageError
from pysandbox.runtime.cli.arguments import Arguments, Flag, Values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Verb(Protocol):
        ARGUMENTS: Arguments

        def main(self, call: Call) -> int: ...


PROGRAM = "pysandbox"
# Verb -> (module, what it does). The module's name differs where Python would mind.
VERBS = {
    "run": ("run", "create and run a container"),
    "create": ("create", "create a container, whose program waits for start"),
    "start": ("start", "run the program of a created container"),
    "exec": ("exec", "run a further program in a running container"),
    "do": ("do", "run a program of this host in a sandbox, without a bundle"),
    "spec": ("spec", "create a new specification file"),
    "state": ("state", "output the state of a container"),
    "list": ("list", "list containers with the given root"),
    "kill": ("kill", "send a signal to a container's init process"),
    "delete": ("delete", "delete what a stopped container still holds"),
    "ps": ("ps", "show the processes of a container"),
    "pause": ("pause", "suspend all processes of a container"),
    "resume": ("resume", "resume all processes of a paused container"),
    "update": ("update", "change the resource limits of a container"),
    "events": ("events", "show what a container uses, and when memory ran out"),
    "checkpoint": ("checkpoint", "not supported"),
    "restore": ("restore", "not supported"),
    "features": ("features", "say what this runtime can do"),
    "trace": ("trace", "show what containers' programs asked of the kernel"),
    "rewrite": ("rewrite", "analyse the system call sites of an ELF file"),
    "install": ("install", "make an engine know this runtime, or take that back"),
    "doctor": ("doctor", "say what this host offers and what is missing"),
}

GLOBAL = Arguments(
    usage="[global options] VERB [options] [arguments]",
    flags=(
        Flag("--root", "DIR", "directory for container state (default: /run/pysandbox, or below $XDG_RUNTIME_DIR)"),
        Flag("--log", "FILE", "file to append errors and warnings to (default: standard error)"),
        Flag("--log-format", "FORMAT", "text or json", default="text"),
        Flag("--debug", "", "say more in the log"),
        Flag("--systemd-cgroup", "", "use systemd for cgroups (cgroupsPath is then SLICE:PREFIX:NAME)"),
        Flag("--cgroup-manager", "MANAGER", "cgroupfs, systemd or disabled", default="cgroupfs"),
        Flag("--rootless", "MODE", "ignore cgroup permission errors: true, false or auto", default="auto"),
        Flag("--criu", "PATH", "accepted and ignored, as by runc"),
        Flag("--version -v", "", "print the version"),
        Flag("--help -h", "", "show help"),
    ),
    leading=True,
)


class Call:
    """One invocation: global values, the verb's values and arguments, and where messages go."""

    def __init__(self, options: Values, values: Values, arguments: list[str], log: Log) -> None:
        self.options = options
        self.values = values
        self.arguments = arguments
        self.log = log

    @property
    def root(self) -> str:
        root = self.options["--root"]
        if root:
            return os.path.abspath(root)
        from pysandbox.oci.state import default_root

        return default_root()

    @property
    def cgroup_manager(self) -> str:
        """`--cgroup-manager` and `--systemd-cgroup`, which is its short form for systemd."""
        return "systemd" if self.options["--systemd-cgroup"] else self.options["--cgroup-manager"]

    def warn(self, message: str) -> None:
        self.log.write("warning", message)

    @property
    def debug(self) -> Callable[[str], None] | None:
        """Where to tell of single steps; None without `--debug`."""
        return self.log.debug if self.log.debug_on else None


class Log:
    """`--log` and `--log-format`. One line a message; the file is opened for the first one."""

    def __init__(self, path: str, style: str, debug: bool) -> None:
        self.path = path
        self.style = style
        self.debug_on = debug

    def write(self, level: str, message: str) -> None:
        """A message below an error goes to the log only; with no log, to standard error."""
        if not self.path and (level == "debug" or self.style == "json"):
            _print_error(self._line(level, message))
            return
        if not self.path:
            _print_error(f"{PROGRAM}: {level}: {message}" if level != "error" else f"{PROGRAM}: {message}")
            return
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            try:
                os.write(fd, (self._line(level, message) + "\n").encode("utf-8", "backslashreplace"))
            finally:
                os.close(fd)
        except OSError as error:
            _print_error(f"{PROGRAM}: cannot write to log {self.path}: {error.strerror}")
        if level == "error":
            _print_error(f"{PROGRAM}: {message}")

    def debug(self, message: str) -> None:
        if self.debug_on:
            self.write("debug", message)

    def _line(self, level: str, message: str) -> str:
        import time

        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self.style == "json":
            from pysandbox.oci import jsontext

            return jsontext.dump({"level": level, "msg": message, "time": stamp}).strip()
        quoted = '"' + message.replace("\\", "\\\\").replace('"', '\\"') + '"'
        return f"time={quoted_time(stamp)} level={level} msg={quoted}"


def quoted_time(stamp: str) -> str:
    return f'"{stamp}"'


def _print_error(line: str) -> None:
    try:
        os.write(2, (line + "\n").encode("utf-8", "backslashreplace"))
    except OSError:
        pass  # no standard error: the log and the exit status have to do


def run_command(argv: list[str]) -> int:
    """Runs one command line (without the program's name); the exit status."""
    log = Log("", "text", False)
    try:
        options, rest = GLOBAL.parse(argv)
        log = _open_log(options)
        if options["--version"]:
            _print_version()
            return 0
        if options["--help"] or not rest or rest[0] in ("help", "h"):
            print_help()
            return 0
        if rest[0] not in VERBS and rest[1:2] in (["-h"], ["--help"]):
            raise UsageError(f"No help topic for '{rest[0]}'", status=3)
        return _run_verb(options, rest[0], rest[1:], log)
    except Error as error:
        log.write("error", error.message)
        return error.status
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output left (`pysandbox list | head -1`): not an error worth a line.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except OSError as error:
        if log.debug_on:
            raise
        what = f"{error.filename}: " if error.filename else ""
        log.write("error", f"{what}{error.strerror or error}")
        return 1


def _open_log(options: Values) -> Log:
    style = options["--log-format"]
    log = Log(options["--log"], style, bool(options["--debug"]))
    if style not in ("text", "json"):
        log.style = "text"
        log.write("error", f"invalid log-format: {style}")
        raise SystemExit(1)
    if options["--rootless"] not in ("auto", "true", "false"):
        raise UsageError(f"--rootless: {options['--rootless']!r} is not true, false or auto")
    if options["--cgroup-manager"] not in ("cgroupfs", "systemd", "disabled"):
        raise UsageError(f"unknown cgroup manager specified {options['--cgroup-manager']}")
    return log


def _run_verb(options: Values, name: str, argv: list[str], log: Log) -> int:
    if name not in VERBS:
        raise UsageError(f"no such verb: {name!r} (see {PROGRAM} --help)")
    verb: Verb = __import__(f"{__name__}.{VERBS[name][0]}", fromlist=("main",))  # importlib itself would be one more to import
    if verb.ARGUMENTS.passed_on:
        return verb.main(Call(options, Values(), argv, log))
    values, arguments = verb.ARGUMENTS.parse(argv)
    if values.get("--help"):
        sys.stdout.write(verb.ARGUMENTS.help(f"{called()} {name}", VERBS[name][1]))
        return 0
    verb.ARGUMENTS.check_count(arguments, f"{PROGRAM} {name}")
    return verb.main(Call(options, values, arguments, log))


def called() -> str:
    """The name in help and version: a link by which the command stands in for another (`runc`) shows the link's."""
    name = os.path.basename(sys.argv[0])
    return PROGRAM if not name or name.endswith(".py") else name


def _print_version() -> None:
    from pysandbox.runtime import SPEC_VERSION, __version__

    sys.stdout.write(f"{called()} version {__version__}\ncommit: v{__version__}\nspec: {SPEC_VERSION}\n")


def print_help() -> None:
    about = "Open Container Initiative runtime whose programs never execute a system call of the host"
    text = GLOBAL.help(called(), about)
    width = max(map(len, VERBS))
    verbs = "".join(f"   {name.ljust(width)}  {about}\n" for name, (_, about) in VERBS.items())
    sys.stdout.write(f"{text}\nVERBS:\n{verbs}")
