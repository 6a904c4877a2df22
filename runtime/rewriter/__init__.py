"""The rewriter: finds the `syscall` instructions of an ELF and makes the patched image that guests map instead.

    elf.py        what the trusted side reads of an ELF (standard library only)
    functions.py  where functions begin and end: symbols, .eh_frame, Go's pclntab
    movable.py    the instructions that may be moved into a trampoline
    analysis.py   which byte pairs are instructions, which door each site gets, which number it issues
    confine.py    analysis in a process that can do nothing but compute
    image.py      checks a site table and builds the image of shim/abi.h
    store.py      images on disk, by content; identities of files already seen
    closure.py    what a program will load, resolved inside its root
    plans.py      `ensure_plans`: everything planned before a container starts
    planner.py    `serve`: plans what is mapped later
    cli.py        the verb `rewrite`

Importing the package imports nothing of this; `ensure_plans` on known files imports neither lief nor capstone.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in typing, whose import costs more than all that a start with known plans does here
if TYPE_CHECKING:
    from typing import Any

    from .analysis import Report, analyse
    from .cli import rewrite_report
    from .image import build_image
    from .plans import PlanSet, ensure_plans
    from .store import Store

__all__ = ["PlanSet", "Report", "Store", "analyse", "build_image", "ensure_plans", "rewrite_report"]

_HOME = {
    "PlanSet": "plans",
    "ensure_plans": "plans",
    "Report": "analysis",
    "analyse": "analysis",
    "Store": "store",
    "build_image": "image",
    "rewrite_report": "cli",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("." + _HOME[name], __name__), name)
