"""`pysandbox trace VERB TARGET`: show and stats. TARGET is a container id, a trace directory or a trace file."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper

from pysandbox.oci.errors import Error, StateError, UsageError, from_os_error
from pysandbox.runtime import abi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import TextIO

    from pysandbox.runtime.trace.reader import Event, Trace

NAME = "trace.psb"
USAGE = """\
usage: pysandbox trace show TARGET [--json] [--pid PID] [--syscall NAME[,NAME]] [--denied] [--no-text-maps]
       pysandbox trace stats TARGET [--json]"""


class _Options:
    """The parsed command line."""

    __slots__ = ("calls", "denied", "json", "maps", "pids", "target", "verb")

    def __init__(self, argv: Sequence[str]) -> None:
        self.json = self.denied = False
        self.maps = True
        self.pids: set[int] = set()
        self.calls: set[str] = set()
        words: list[str] = []
        rest = list(argv)
        while rest:
            word = rest.pop(0)
            word, has_value, value = word.partition("=") if word.startswith("--") else (word, "", "")
            if word in ("--pid", "--syscall"):
                if not has_value:
                    if not rest:
                        raise UsageError(f"trace: {word} needs a value")
                    value = rest.pop(0)
                self._filter(word, value)
            elif has_value:
                raise UsageError(f"trace: unknown option or unwanted value: {word}={value}")
            elif word == "--json":
                self.json = True
            elif word == "--denied":
                self.denied = True
            elif word == "--no-text-maps":
                self.maps = False
            elif word.startswith("-") and word != "-":
                raise UsageError(f"trace: unknown option {word}")
            else:
                words.append(word)
        if len(words) != 2:
            raise UsageError("trace: a verb (show, stats) and a target (container id or file) are needed")
        self.verb, self.target = words
        if self.verb not in VERBS:
            raise UsageError(f"trace: unknown verb {self.verb!r}")

    def _filter(self, word: str, value: str) -> None:
        if word == "--pid":
            for part in value.split(","):
                if not part.isdecimal():
                    raise UsageError(f"trace: --pid: {part!r} is not a process number")
                self.pids.add(int(part))
            return
        from pysandbox.runtime.syscall_names import number_of

        for part in value.split(","):
            if number_of(part) is None:
                raise UsageError(f"trace: --syscall: unknown system call {part!r}")
            self.calls.add(part)

    def wants(self, event: Event) -> bool:
        from pysandbox.runtime.trace.decode import call_name, denied

        if self.pids and event.pid not in self.pids and event.tid not in self.pids:
            return False
        if self.denied and not denied(event):
            return False
        if self.calls and (event.kind not in (abi.REC_CALL, abi.REC_RET) or call_name(event.nr) not in self.calls):
            return False
        return self.maps or event.kind != abi.REC_MAP


def resolve(target: str, root: str) -> str:
    """The trace file that TARGET means: a container id below `root`, or a path. `Error` when there is none."""
    import errno

    if "/" not in target and "\0" not in target and target not in ("", ".", ".."):
        for directory in (os.path.join(root, "traces", target), _annotated_directory(root, target)):
            place = os.path.join(directory, NAME)
            if directory and _exists(place):
                return place
    if os.path.isdir(target):
        return os.path.join(target, NAME)
    if os.path.exists(target):
        return target
    if "/" in target:
        raise Error(f"trace {target}: no such file or directory", errno=errno.ENOENT)
    raise Error(f"no trace of container {target!r}: it never ran with a trace, or the trace was let go", errno=errno.ENOENT)


def _exists(path: str) -> bool:
    """Unlike `os.path.exists`, does not take a directory that we may not look into for an empty one."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise from_os_error(f"trace {path}", error, Error) from None
    return True


def _annotated_directory(root: str, container_id: str) -> str:
    """Where a container that still has a state was told to write its trace, "" if nowhere in particular."""
    from pysandbox.oci.state import Store

    try:
        return Store(root).load(container_id).annotations.get("dev.pysandbox.trace.dir", "")
    except (StateError, UsageError):
        return ""  # no such container, which leaves it to the caller to say what there is


def show(options: _Options, trace: Trace, out: TextIO) -> None:
    from pysandbox.runtime.trace.decode import as_json, as_text

    if options.json:
        from json import JSONEncoder

        # Escaped by JSON's rules where the output's encoding would have to be escaped by Python's.
        unicode = (out.encoding or "utf-8").lower().replace("-", "") == "utf8"
        encode = JSONEncoder(separators=(",", ":"), ensure_ascii=not unicode).encode
        lines: Iterator[str] = (encode(as_json(event)) for event in trace.events() if options.wants(event))
    else:
        lines = (as_text(event) for event in trace.events() if options.wants(event))
    for line in lines:
        out.write(line + "\n")


def stats(options: _Options, trace: Trace, out: TextIO) -> None:
    from pysandbox.runtime.trace.stats import collect, render

    collected = collect(trace)
    if options.json:
        from json import dumps

        out.write(dumps(collected, indent=2) + "\n")
    else:
        out.write(render(collected))


VERBS = {"show": show, "stats": stats}


def main(argv: Sequence[str], root: str) -> int:
    """Runs the verb; exit status. Errors are `Error`s for the caller to print."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if argv else 1
    options = _Options(argv)
    from pysandbox.runtime.trace.reader import Trace

    if isinstance(sys.stdout, TextIOWrapper):
        # Names of files come in any language, terminals do not.
        sys.stdout.reconfigure(errors="backslashreplace")
    with Trace(resolve(options.target, root)) as trace:
        try:
            VERBS[options.verb](options, trace, sys.stdout)
            sys.stdout.flush()
        except BrokenPipeError:
            # The reader of the pipe has seen enough. Python would complain once more when it closes stdout.
            os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)
            return 0
        for problem in trace.problems:
            print(f"pysandbox: trace: {problem}", file=sys.stderr)
        if trace.lost:
            print(f"pysandbox: trace: {trace.lost} records did not fit into the ring", file=sys.stderr)
    return 0
