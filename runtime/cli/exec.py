"""`pysandbox exec`: a further process in a running container."""

from __future__ import annotations

from pysandbox.runtime.cli.arguments import Arguments, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.runtime.cli import Call

ARGUMENTS = Arguments(
    usage="[options] CONTAINER-ID PROGRAM [ARGUMENTS]   or   --process FILE CONTAINER-ID",
    flags=(
        Flag("--console-socket", "PATH", "AF_UNIX socket that receives the master of the process' terminal"),
        Flag("--cwd", "DIR", "working directory in the container"),
        Flag("--env -e", "NAME=VALUE", "set an environment variable (may be repeated)", many=True),
        Flag("--tty -t", "", "allocate a terminal"),
        Flag("--user -u", "UID[:GID]", "user"),
        Flag("--additional-gids -g", "GID", "further group (may be repeated)", many=True),
        Flag("--process -p", "FILE", "process.json"),
        Flag("--detach -d", "", "return when the program runs"),
        Flag("--pidfd-socket", "PATH", "AF_UNIX socket that receives a pidfd of the process"),
        Flag("--pid-file", "FILE", "file to write the host's pid of the process to"),
        Flag("--process-label", "LABEL", "SELinux label of the process"),
        Flag("--apparmor", "PROFILE", "AppArmor profile of the process"),
        Flag("--no-new-privs", "", "accepted: processes never gain privileges"),
        Flag("--cap -c", "CAPABILITY", "a further capability (may be repeated)", many=True),
        Flag("--preserve-fds", "N", "pass N additional descriptors (3 and up) to the process"),
        Flag("--cgroup", "[CONTROLLER:]PATH", "an existing group below the container's (may be repeated)", many=True),
        Flag("--ignore-paused", "", "allow exec in a paused container"),
    ),
    count=(1, None),
    leading=True,
)
FAILED = 255
"""Exit status when the program could not be started, so that it can be told from the program's own 1."""


def main(call: Call) -> int:
    import os

    from pysandbox.runtime import launch_early

    launch_early.begin()
    from pysandbox.oci.errors import Error
    from pysandbox.runtime import enter
    from pysandbox.runtime.activation import listen_fds
    from pysandbox.runtime.enter_process import Wishes

    values = call.values
    try:
        options = enter.Options(
            id=call.arguments[0],
            root=call.root,
            detach=bool(values["--detach"]),
            pid_file=os.path.abspath(values["--pid-file"]) if values["--pid-file"] else "",
            console_socket=os.path.abspath(values["--console-socket"]) if values["--console-socket"] else "",
            pidfd_socket=os.path.abspath(values["--pidfd-socket"]) if values["--pidfd-socket"] else "",
            preserve_fds=values.number("--preserve-fds"),
            listen_fds=listen_fds(),
            ignore_paused=bool(values["--ignore-paused"]),
            cgroup=tuple(values.all("--cgroup")),
            debug=call.debug,
        )
        wishes = Wishes(
            args=tuple(call.arguments[1:]),
            process=values["--process"],
            cwd=values["--cwd"],
            env=tuple(values.all("--env")),
            tty=bool(values["--tty"]),
            user=values["--user"],
            additional_gids=tuple(values.all("--additional-gids")),
            caps=tuple(values.all("--cap")),
            apparmor=values["--apparmor"],
            process_label=values["--process-label"],
            no_new_privs=bool(values["--no-new-privs"]),
        )
        return enter.run(options, wishes, call.warn)
    except Error as error:
        raise Error(f"exec failed: {error.message}", errno=error.errno, status=FAILED) from None
