"""Events in words: arguments as strace shows them, results, socket addresses, and the JSON object of the interface."""

from __future__ import annotations

from errno import errorcode

from pysandbox.runtime import abi
from pysandbox.runtime.policy.explainer import VERDICTS
from pysandbox.runtime.syscall_names import name_of
from pysandbox.runtime.trace import flags
from pysandbox.runtime.trace.reader import Event, Item, text_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DOORS = ("jump", "trap", "raw")
KINDS = {
    abi.REC_CALL: "call",
    abi.REC_MAP: "map",
    abi.REC_EXEC: "exec",
    abi.REC_SIGNAL: "signal",
    abi.REC_EXIT: "exit",
    abi.REC_FORK: "fork",
    abi.REC_RET: "return",
}
AT_FDCWD = -100
MAX_SHOWN = 32  # bytes of a buffer in the text form
# Results that are addresses.
_ADDRESS_RESULT = frozenset(["mmap", "mremap", "brk", "shmat"])
# Not in errno(3): what a system call returns inside the kernel and never to a program.
_INTERNAL = {512: "ERESTARTSYS", 513: "ERESTARTNOINTR", 514: "ERESTARTNOHAND", 516: "ERESTART_RESTARTBLOCK"}

_FAULTS = (4, 5, 7, 8, 11)  # SIGILL SIGTRAP SIGBUS SIGFPE SIGSEGV: si_addr says where

_signatures: dict[str, list[str]] = {}


def signature(name: str) -> list[str] | None:
    """Kinds of a call's arguments (see `signatures`), None for a call that is not known."""
    if not _signatures:
        from pysandbox.runtime.trace.signatures import TABLE

        for line in TABLE.split("\n"):
            call, *kinds = line.split() or [""]
            _signatures[call] = kinds
    return _signatures.get(name)


def call_name(number: int) -> str:
    return name_of(number) or f"syscall_{number:#x}"


def errno_of(ret: int) -> str | None:
    """`ENOENT` for -2; None for a result that is no error."""
    if not -4096 < ret < 0:
        return None
    return errorcode.get(-ret) or _INTERNAL.get(-ret) or f"E{-ret}"


def signed(value: int, bits: int = 32) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _table(event: Event, name: str, index: int) -> flags.Enum | flags.Bits | None:
    table = flags.BY_CALL.get(name, {}).get(index)
    if table is None and name in ("getsockopt", "setsockopt") and index == 2 and event.args[1] == 1:
        return flags.SOCKET_OPTION
    return table


def quoted(item: Item, limit: int | None = None) -> str:
    """A string or bytes item, in quotes, with `...` when it is not all there was."""
    data = item.data if limit is None else item.data[:limit]
    out = text_of(data.replace(b"\\", b"\\\\").replace(b'"', b'\\"'))
    return f'"{out}"' + ("..." if item.full_len > len(data) else "")


def socket_address(raw: bytes) -> dict[str, Any]:
    """A `struct sockaddr` in parts; what is too short or not known is shown as hexadecimal bytes."""
    if len(raw) < 2:
        return {"raw": raw.hex()}
    family = int.from_bytes(raw[:2], "little")
    out: dict[str, Any] = {"family": flags.FAMILY.name(family)}
    if family == 1:
        path = raw[2:]
        if path.startswith(b"\0") and len(path) > 1:
            out["path"] = "@" + text_of(path[1:])
        elif path:
            out["path"] = text_of(path.split(b"\0", 1)[0])
    elif family == 2 and len(raw) >= 8:
        out["port"] = int.from_bytes(raw[2:4], "big")
        out["address"] = ".".join(str(byte) for byte in raw[4:8])
    elif family == 10 and len(raw) >= 24:
        from ipaddress import IPv6Address

        out["port"] = int.from_bytes(raw[2:4], "big")
        out["address"] = str(IPv6Address(raw[8:24]))
        if len(raw) >= 28 and any(raw[24:28]):
            out["scope"] = int.from_bytes(raw[24:28], "little")
    elif family == 16 and len(raw) >= 12:
        out["pid"] = int.from_bytes(raw[4:8], "little")
        out["groups"] = int.from_bytes(raw[8:12], "little")
    elif family == 40 and len(raw) >= 12:
        out["port"] = int.from_bytes(raw[4:8], "little")
        out["cid"] = int.from_bytes(raw[8:12], "little")
    else:
        out["raw"] = raw[2:].hex()
    return out


def argument(event: Event, name: str, index: int, kind: str) -> str:
    """One argument as text."""
    value = event.args[index]
    item = event.item(index)
    if item is not None:
        return _item_text(item)
    table = _table(event, name, index)
    if table is not None:
        # Flags of 32 bits may come with anything in the upper half; the kernel does not look there.
        wide = name in ("mount", "clone", "mmap") and kind != "d"
        return table.name(value if wide else value & 0xFFFFFFFF)
    if kind == "atfd" and signed(value) == AT_FDCWD:
        return "AT_FDCWD"
    if kind in ("d", "fd", "atfd"):
        return str(signed(value, 64 if _is_wide(name, index) else 32))
    if kind == "u":
        return str(value)
    if kind == "sig":
        return flags.SIGNAL.name(value & 0xFFFFFFFF)
    render = flags.special(kind)
    if render is not None:
        return render(value & 0xFFFFFFFF)
    if kind in ("p", "path", "str"):
        return hex(value) if value else "NULL"
    return hex(value) if value else "0"


def _is_wide(name: str, index: int) -> bool:
    """Offsets: signed, 64 bits."""
    return (name, index) in (("lseek", 1), ("pread64", 3), ("pwrite64", 3), ("mmap", 5), ("ftruncate", 1)) or name in (
        "truncate",
        "fallocate",
        "fadvise64",
        "readahead",
        "preadv",
        "pwritev",
        "preadv2",
        "pwritev2",
        "sync_file_range",
    )


def _item_text(item: Item) -> str:
    if item.kind == abi.ITEM_SOCKADDR:
        return "{" + ", ".join(f"{key}={value}" for key, value in socket_address(item.data).items()) + "}"
    if item.kind == abi.ITEM_STRV:
        parts = item.data.split(b"\0")
        if parts and not parts[-1]:
            parts.pop()
        shown = ", ".join(quoted(Item(abi.ITEM_STRING, None, part, len(part))) for part in parts)
        return f"[{shown}" + (", ...]" if item.full_len > len(item.data) else "]")
    if item.kind == abi.ITEM_BYTES:
        return quoted(item, MAX_SHOWN)
    return quoted(item)


def arguments(event: Event) -> list[str]:
    """All arguments of a call, as text."""
    name = call_name(event.nr)
    kinds = signature(name)
    if kinds is None:
        last = max((i for i in range(6) if event.args[i]), default=-1)
        kinds = ["x"] * (last + 1)
    if name in ("open", "openat"):
        place = kinds.index("mode")
        if not event.args[place - 1] & 0x400040:  # without O_CREAT and O_TMPFILE there is no mode
            kinds = kinds[:place]
    return [argument(event, name, index, kind) for index, kind in enumerate(kinds)]


def result(event: Event) -> str:
    """The result as text: `3`, `0x7f0000000000`, `-1 ENOENT (No such file or directory)`, `?`."""
    if not event.done:
        return "?" if event.noreturn else "? (unfinished)"
    name = errno_of(event.ret)
    if name is None:
        if call_name(event.nr) in _ADDRESS_RESULT and event.ret:
            return hex(event.ret & 0xFFFFFFFFFFFFFFFF)
        return str(event.ret)
    if -event.ret in _INTERNAL:
        return f"? {name} (to be restarted)"
    from os import strerror

    return f"-1 {name} ({strerror(-event.ret)})"


def iso_time(ns: int) -> str:
    """ISO 8601, UTC, nanoseconds."""
    import time

    seconds, rest = divmod(ns, 1000000000)
    try:
        parts = time.gmtime(seconds)
    except (OverflowError, ValueError, OSError):
        return str(ns)
    return f"{parts[0]:04}-{parts[1]:02}-{parts[2]:02}T{parts[3]:02}:{parts[4]:02}:{parts[5]:02}.{rest:09}Z"


def denied(event: Event) -> bool:
    """A call that policy or monitor refused. ENOSYS for a call that nobody offers is no refusal: every start has one."""
    return event.kind == abi.REC_CALL and event.verdict not in (
        abi.VERDICT_ALLOW,
        abi.VERDICT_LOG,
        abi.VERDICT_UNSUPPORTED,
    )


def verdict_name(event: Event) -> str:
    return VERDICTS[event.verdict] if event.verdict < len(VERDICTS) else f"unknown-{event.verdict}"


def door_name(event: Event) -> str:
    return DOORS[event.door] if event.door < len(DOORS) else f"unknown-{event.door}"


def decoded(event: Event) -> dict[str, Any]:
    """What is known of a call's arguments by name: `path`, `address`, `flags`, or `arg0` to `arg5`."""
    out: dict[str, Any] = {}
    name = call_name(event.nr)
    kinds = signature(name) or []
    for index in range(6):
        item = event.item(index)
        table = _table(event, name, index)
        kind = kinds[index] if index < len(kinds) else ""
        if item is not None:
            key = {"path": "path", "str": "name"}.get(kind, f"arg{index}")
            if item.kind == abi.ITEM_SOCKADDR:
                key = "address"
            if key in out:
                key = f"{key}{index}"
            out[key] = _item_value(item)
            if item.full_len > len(item.data):
                out[f"{key}_length"] = item.full_len
        elif table is not None:
            key = "flags" if isinstance(table, flags.Bits) and "flags" not in out else f"arg{index}"
            out[key] = argument(event, name, index, kind)
        elif kind == "sig":
            out["signal"] = argument(event, name, index, kind)
        elif kind == "atfd" and signed(event.args[index]) == AT_FDCWD:
            out[f"arg{index}"] = "AT_FDCWD"
    return out


def _item_value(item: Item) -> Any:
    if item.kind == abi.ITEM_SOCKADDR:
        return socket_address(item.data)
    if item.kind == abi.ITEM_STRV:
        parts = item.data.split(b"\0")
        return [text_of(part) for part in (parts[:-1] if parts and not parts[-1] else parts)]
    return text_of(item.data)


def _handler(address: int) -> str:
    return {0: "SIG_DFL", 1: "SIG_IGN"}.get(address) or hex(address)


def _other_decoded(event: Event) -> dict[str, Any]:
    path = text_of(event.items[0].data) if event.items else None
    a = event.args
    if event.kind == abi.REC_MAP:
        return {"path": path, "address": hex(a[0]), "length": a[1], "offset": a[2], "dev": a[3], "ino": a[4]}
    if event.kind == abi.REC_EXEC:
        return {"path": path, "entry": hex(a[0])}
    if event.kind == abi.REC_SIGNAL:
        code = signed(a[1])
        fault = code > 0 and a[0] in _FAULTS
        cause: dict[str, Any] = {"address": hex(a[2])} if fault else {"sender": signed(a[2])}
        return {"signal": flags.SIGNAL.name(a[0]), "code": code, **cause, "handler": _handler(a[3])}
    if event.kind == abi.REC_EXIT:
        status = a[0] & 0xFFFF
        if status & 0x7F:
            return {"signal": flags.SIGNAL.name(status & 0x7F), "core": bool(status & 0x80)}
        return {"status": status >> 8}
    if event.kind == abi.REC_FORK:
        return {"parent": a[0], "flags": flags.CLONE_WITH_SIGNAL.name(a[1])}
    return {}


def as_json(event: Event) -> dict[str, Any]:
    """The object of `trace show --json`. Events that are no calls have `kind` other than `call`, and null where a
    field means nothing."""
    call = event.kind in (abi.REC_CALL, abi.REC_RET)
    where = event.object
    return {
        "seq": event.seq,
        "kind": KINDS.get(event.kind, f"unknown-{event.kind}"),
        "tsc": event.tsc,
        "time": None if event.time_ns is None else iso_time(event.time_ns),
        "pid": event.pid,
        "tid": event.tid,
        "host_pid": event.host_pid,
        "comm": event.comm,
        "nr": event.nr if call else None,
        "name": call_name(event.nr) if call else None,
        "args": list(event.args),
        "decoded": decoded(event) if event.kind == abi.REC_CALL else _other_decoded(event),
        "ret": event.ret if call and event.done else None,
        "errno": errno_of(event.ret) if call and event.done else None,
        "verdict": verdict_name(event) if call else None,
        "rule": event.rule or None,
        "door": door_name(event) if call else None,
        "site": hex(event.site) if event.site else None,
        "object": None if where is None else {"file": where[0], "offset": where[1]},
    }


def as_text(event: Event) -> str:
    """One line, as strace -f writes it; verdict, rule and door where they are not the usual."""
    who = f"[pid {event.tid}] "
    if event.kind == abi.REC_RET:
        return f"{who}<... {call_name(event.nr)} resumed>) = {result(event)}"
    if event.kind != abi.REC_CALL:
        return who + _other_text(event)
    line = f"{who}{call_name(event.nr)}({', '.join(arguments(event))}) = {result(event)}"
    notes = []
    if event.verdict != abi.VERDICT_ALLOW:
        by = " by its own filter" if event.rule == abi.RULE_OWN else f" by rule {event.rule}" if event.rule else ""
        notes.append(verdict_name(event) + by)
    if event.door == abi.DOOR_RAW:
        notes.append("raw")
    return f"{line} <{', '.join(notes)}>" if notes else line


def _other_text(event: Event) -> str:
    known = _other_decoded(event)
    if event.kind == abi.REC_SIGNAL:
        cause = f"si_addr={known['address']}" if "address" in known else f"si_pid={known['sender']}"
        return f"--- {known['signal']} {{si_code={known['code']}, {cause}}} ---"
    if event.kind == abi.REC_EXIT:
        if "signal" in known:
            return f"+++ killed by {known['signal']} +++"
        return f"+++ exited with {known['status']} +++"
    if event.kind == abi.REC_EXEC:
        return f"+++ program {known['path']} +++"
    if event.kind == abi.REC_MAP:
        end = event.args[0] + event.args[1]
        return f"+++ text {event.args[0]:#x}-{end:#x} of {known['path']} at {known['offset']:#x} +++"
    if event.kind == abi.REC_FORK:
        return f"+++ forked by {known['parent']} ({known['flags']}) +++"
    return f"+++ record of kind {event.kind} +++"
