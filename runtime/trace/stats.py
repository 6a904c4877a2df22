"""Counts over a whole trace."""

from __future__ import annotations

from pysandbox.runtime import abi
from pysandbox.runtime.trace.decode import call_name, door_name, errno_of, iso_time, verdict_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pysandbox.runtime.trace.reader import Trace


def collect(trace: Trace) -> dict[str, Any]:
    """`calls` by name with count, errors and mean time (ns, None without a clock), and totals by door, verdict, process."""
    calls: dict[str, list[int]] = {}  # count, errors, finished, ticks
    doors: dict[str, int] = {}
    verdicts: dict[str, int] = {}
    processes: set[tuple[int, int]] = set()
    signals = records = 0
    first = last = None
    for event in trace.events():
        records += 1
        processes.add((event.pid, event.start_time))
        if event.time_ns is not None:
            first = event.time_ns if first is None else first
            last = event.time_ns
        if event.kind == abi.REC_SIGNAL:
            signals += 1
        if event.kind != abi.REC_CALL:
            continue
        entry = calls.setdefault(call_name(event.nr), [0, 0, 0, 0])
        entry[0] += 1
        if event.done:
            entry[1] += errno_of(event.ret) is not None
            entry[2] += 1
            entry[3] += max(0, event.tsc_end - event.tsc)
        doors[door_name(event)] = doors.get(door_name(event), 0) + 1
        verdicts[verdict_name(event)] = verdicts.get(verdict_name(event), 0) + 1
    base = trace.header.tsc0
    start = trace.time_ns(base)
    return {
        "id": trace.container_id,
        "mode": "full" if trace.header.mode == abi.TRACE_FULL else "ring",
        "records": records,
        "lost": trace.lost,
        "processes": len(processes),
        "signals": signals,
        "first": None if first is None else iso_time(first),
        "last": None if last is None else iso_time(last),
        "doors": doors,
        "verdicts": verdicts,
        "calls": {
            name: {
                "count": count,
                "errors": errors,
                "mean_ns": _mean(trace, base, start, finished, ticks),
            }
            for name, (count, errors, finished, ticks) in sorted(calls.items(), key=lambda entry: -entry[1][0])
        },
    }


def _mean(trace: Trace, base: int, start: int | None, finished: int, ticks: int) -> int | None:
    end = trace.time_ns(base + ticks)
    return None if start is None or end is None or not finished else (end - start) // finished


def render(stats: dict[str, Any]) -> str:
    """The same as a table."""
    out = [
        f"container {stats['id']}, mode {stats['mode']}",
        f"{stats['records']} records of {stats['processes']} processes, {stats['lost']} lost, {stats['signals']} signals",
        "doors    " + (", ".join(f"{name} {count}" for name, count in stats["doors"].items()) or "-"),
        "verdicts " + (", ".join(f"{name} {count}" for name, count in stats["verdicts"].items()) or "-"),
        "",
        f"{'calls':>10} {'errors':>8} {'mean us':>10}  name",
    ]
    for name, row in stats["calls"].items():
        mean = "-" if row["mean_ns"] is None else f"{row['mean_ns'] / 1000:.2f}"
        out.append(f"{row['count']:>10} {row['errors']:>8} {mean:>10}  {name}")
    return "\n".join(out) + "\n"
