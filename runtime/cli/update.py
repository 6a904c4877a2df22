"""`pysandbox update`: new resource limits for a container."""

from __future__ import annotations

from pysandbox.runtime.cli.arguments import Arguments, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.oci.spec import Resources
    from pysandbox.runtime.cli import Call
    from pysandbox.runtime.cli.arguments import Values

ARGUMENTS = Arguments(
    usage="[options] CONTAINER-ID",
    flags=(
        Flag("--resources -r", "FILE", "read linux.resources as JSON from a file or, with -, standard input; "
             "the other options are then ignored"),
        Flag("--blkio-weight", "N", "block I/O weight, 10 to 1000"),
        Flag("--cpu-period", "N", "CPU period in microseconds"),
        Flag("--cpu-quota", "N", "CPU time in a period, in microseconds; -1 for no limit"),
        Flag("--cpu-burst", "N", "CPU time that may be saved up, in microseconds"),
        Flag("--cpu-share", "N", "CPU shares: weight relative to other containers"),
        Flag("--cpu-rt-period", "N", "real-time period in microseconds"),
        Flag("--cpu-rt-runtime", "N", "real-time CPU time in a period, in microseconds"),
        Flag("--cpu-idle", "N", "1: run only when nothing else does; 0: as usual"),
        Flag("--cpuset-cpus", "LIST", "CPUs to use, as 0-3,7"),
        Flag("--cpuset-mems", "LIST", "memory nodes to use"),
        Flag("--memory", "BYTES", "memory limit, as 64M; -1 for no limit"),
        Flag("--memory-reservation", "BYTES", "memory the container can count on (soft limit)"),
        Flag("--memory-swap", "BYTES", "limit for memory and swap together; -1 for no limit"),
        Flag("--kernel-memory", "BYTES", "obsolete, ignored"),
        Flag("--kernel-memory-tcp", "BYTES", "obsolete, ignored"),
        Flag("--pids-limit", "N", "how many tasks there may be; -1 for no limit"),
        Flag("--l3-cache-schema", "TEXT", "Intel RDT: L3 cache schema"),
        Flag("--mem-bw-schema", "TEXT", "Intel RDT: memory bandwidth schema"),
    ),
    count=(1, 1),
)  # fmt: skip
_SIZES = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}


def main(call: Call) -> int:
    from pysandbox.oci import cgroups, cgroups_update
    from pysandbox.oci.errors import StatusError
    from pysandbox.runtime.launch_state import open_store

    store = open_store(call.root)
    store.load(call.arguments[0])  # before standard input is waited for
    values = call.values
    resources = _from_file(values["--resources"]) if values["--resources"] else _from_flags(values, call)
    for flag, feature in (("--l3-cache-schema", "CAT: l3 cache"), ("--mem-bw-schema", "MBA: memory bandwidth")):
        if values[flag]:
            from pysandbox.oci.errors import UnsupportedError

            raise UnsupportedError(f"Intel RDT/{feature} schema is not enabled")
    with store.open(call.arguments[0]) as container:
        if container.state.status not in ("running", "created", "paused"):
            raise StatusError("container not running")
        cgroups_update.update(cgroups.of_state(container.state), resources)
    return 0


def _from_file(path: str) -> Resources:
    from pysandbox.oci import decode, jsontext, validate

    document = "standard input" if path == "-" else path
    if path == "-":
        data = jsontext.read_fd(0, document)
    else:
        # Anything that can be read: /dev/fd/63 is what a shell makes of <(command).
        import os

        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            from pysandbox.oci.errors import BundleError, from_os_error

            raise from_os_error(f"open {path}", error, BundleError) from None
        try:
            data = jsontext.read_fd(fd, document)
        finally:
            os.close(fd)
    raw = jsontext.parse(data, document)
    validate.resources(raw, document)
    return decode.resources(raw)


def _from_flags(values: Values, call: Call) -> Resources:
    """0, as everywhere, leaves a limit alone."""
    from pysandbox.oci.spec import CPU, BlockIO, Memory, Resources

    for flag in ("--kernel-memory", "--kernel-memory-tcp"):
        if values[flag]:
            call.warn(f"Setting {flag} is ignored and will be removed")
    return Resources(
        block_io=BlockIO(weight=_number(values, "--blkio-weight")) if values["--blkio-weight"] else None,
        cpu=CPU(
            cpus=values["--cpuset-cpus"],
            mems=values["--cpuset-mems"],
            period=_number(values, "--cpu-period"),
            quota=_number(values, "--cpu-quota", signed=True),
            burst=_number(values, "--cpu-burst"),
            shares=_number(values, "--cpu-share"),
            realtime_period=_number(values, "--cpu-rt-period"),
            realtime_runtime=_number(values, "--cpu-rt-runtime", signed=True),
            idle=_number(values, "--cpu-idle", signed=True),
        ),
        memory=Memory(
            limit=_size(values, "--memory"),
            reservation=_size(values, "--memory-reservation"),
            swap=_size(values, "--memory-swap"),
        ),
        pids_limit=_number(values, "--pids-limit", signed=True),
    )


def _number(values: Values, flag: str, *, signed: bool = False) -> int | None:
    """None when not given. `UsageError`."""
    text = values[flag]
    if not text:
        return None
    digits = text.removeprefix("-") if signed else text
    if not (digits.isascii() and digits.isdigit()) or int(digits) >= 1 << (63 if signed else 64):
        from pysandbox.oci.errors import UsageError

        raise UsageError(f"invalid value for {flag[2:]}: {text!r} is not a number")
    return int(text)


def _size(values: Values, flag: str) -> int | None:
    """Bytes in `64M`, `1.5g`, `10KiB`, `10 mb`; -1 is itself. `UsageError`."""
    text = values[flag]
    if not text:
        return None
    if text == "-1":
        return -1
    count = len(text) - len(text.lstrip("0123456789."))
    number, unit = text[:count], text[count:].removeprefix(" ").lower()
    for suffix in ("ib", "b"):
        unit = unit.removesuffix(suffix)
    try:
        size = int(float(number) * (1 << _SIZES[unit])) if "." in number else int(number) << _SIZES[unit]
    except (KeyError, ValueError):
        size = -1
    if not 0 <= size < 1 << 63:
        from pysandbox.oci.errors import UsageError

        raise UsageError(f"invalid value for {flag[2:]}: invalid size: '{text}'")
    return size
