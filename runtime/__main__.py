"""`python -m pysandbox.runtime`, and what the installed script calls."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> int:
    from pysandbox.runtime.cli import run_command

    return run_command(sys.argv[1:])


def leave() -> NoReturn:
    """Runs the command and ends the process, without taking the interpreter apart: that takes as long as setting it up did."""
    status = main()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):  # closed by the caller, on a full disk, or its reader has left
            status = status or 1
    os._exit(status)


if __name__ == "__main__":
    sys.exit(main())
