"""`linux.seccomp` as a table for the monitor.

`compiler` turns a profile into the blob (`struct psb_policy` in `shim/abi.h`), `precedence` says which of several
conditional rules of one system call decides, `explainer` answers questions about a profile.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.runtime.policy.compiler import compile_policy as compile_policy
    from pysandbox.runtime.policy.explainer import explain as explain


def __getattr__(name: str) -> object:
    if name == "compile_policy":
        from pysandbox.runtime.policy.compiler import compile_policy

        return compile_policy
    if name == "explain":
        from pysandbox.runtime.policy.explainer import explain

        return explain
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
