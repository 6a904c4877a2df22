"""What `run` and `create` have in common: flags and how they become options of a launch."""

from __future__ import annotations

from pysandbox.runtime.cli.arguments import Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.runtime.cli import Call
    from pysandbox.runtime.launch_plan import Options

FLAGS = (
    Flag("--bundle -b", "DIR", "root of the bundle (default: current directory)"),
    Flag("--config -f", "FILE", "configuration, instead of config.json in the bundle"),
    Flag("--console-socket", "PATH", "AF_UNIX socket that receives the master of the container's terminal"),
    Flag("--pidfd-socket", "PATH", "AF_UNIX socket that receives a pidfd of the container"),
    Flag("--pid-file", "FILE", "file to write the host's pid of the container to"),
    Flag("--no-pivot", "", "do not use pivot_root (for hosts that run from a ramdisk)"),
    Flag("--no-new-keyring", "", "keep the caller's session keyring"),
    Flag("--preserve-fds", "N", "pass N additional descriptors (3 and up) to the container"),
)


def options_of(call: Call, *, detach: bool, keep: bool = False, no_subreaper: bool = False) -> Options:
    """Of the flags that both know, and what the verb itself decides."""
    import os

    from pysandbox.oci.state import check_id
    from pysandbox.runtime.activation import listen_fds
    from pysandbox.runtime.launch_plan import Options

    values = call.values
    check_id(call.arguments[0])
    return Options(
        id=call.arguments[0],
        root=call.root,
        pid_file=os.path.abspath(values["--pid-file"]) if values["--pid-file"] else "",
        console_socket=os.path.abspath(values["--console-socket"]) if values["--console-socket"] else "",
        pidfd_socket=os.path.abspath(values["--pidfd-socket"]) if values["--pidfd-socket"] else "",
        preserve_fds=values.number("--preserve-fds"),
        listen_fds=listen_fds(),
        no_pivot=bool(values["--no-pivot"]),
        no_new_keyring=bool(values["--no-new-keyring"]),
        cgroup_manager=call.cgroup_manager,
        detach=detach,
        keep=keep,
        no_subreaper=no_subreaper,
        debug=call.debug,
    )
