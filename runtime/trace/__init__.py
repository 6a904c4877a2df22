"""The trace: made here, written by the monitors, read by whoever asks.

`create` makes the file; `reader` turns any bytes that claim to be a trace into calls; `decode` names what the numbers
mean; `show` and `cli` print. The layout is in `shim/abi.h`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.runtime.trace.create import create_trace_file as create_trace_file


def __getattr__(name: str) -> object:
    if name == "create_trace_file":
        from pysandbox.runtime.trace.create import create_trace_file

        return create_trace_file
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
