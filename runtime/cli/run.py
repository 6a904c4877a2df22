"""`pysandbox run`: create and start a container, and wait for it unless detached."""

from __future__ import annotations

from pysandbox.runtime.cli.arguments import Arguments, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.runtime.cli import Call

ARGUMENTS = Arguments(
    usage="[options] CONTAINER-ID",
    flags=(
        Flag("--bundle -b", "DIR", "root of the bundle (default: current directory)"),
        Flag("--console-socket", "PATH", "AF_UNIX socket that receives the master of the container's terminal"),
        Flag("--detach -d", "", "return when the program runs"),
        Flag("--keep", "", "do not delete the container after it has ended"),
        Flag("--pid-file", "FILE", "file to write the host's pid of the container to"),
        Flag("--no-subreaper", "", "accepted for compatibility: the launcher needs no subreaper"),
        Flag("--no-pivot", "", "do not use pivot_root (for hosts that run from a ramdisk)"),
        Flag("--no-new-keyring", "", "keep the caller's session keyring"),
        Flag("--preserve-fds", "N", "pass N additional descriptors (3 and up) to the container"),
    ),
    count=(1, 1),
)


def main(call: Call) -> int:
    import os

    from pysandbox.oci.bundle import load_bundle
    from pysandbox.oci.state import check_id
    from pysandbox.runtime import launch, launch_plan

    values = call.values
    check_id(call.arguments[0])
    options = launch_plan.Options(
        id=call.arguments[0],
        root=call.root,
        detach=bool(values["--detach"]),
        pid_file=os.path.abspath(values["--pid-file"]) if values["--pid-file"] else "",
        console_socket=os.path.abspath(values["--console-socket"]) if values["--console-socket"] else "",
        preserve_fds=values.number("--preserve-fds"),
        no_pivot=bool(values["--no-pivot"]),
        no_new_keyring=bool(values["--no-new-keyring"]),
        no_subreaper=bool(values["--no-subreaper"]),
        keep=bool(values["--keep"]),
        systemd_cgroup=bool(call.options["--systemd-cgroup"]),
    )
    return launch.run(load_bundle(values["--bundle"] or "."), options, call.warn)
