"""`python -m pysandbox.runtime`, and what the installed script calls."""

from __future__ import annotations

import sys


def main() -> int:
    from pysandbox.runtime.cli import run_command

    return run_command(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
