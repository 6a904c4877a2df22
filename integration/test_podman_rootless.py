"""podman of an ordinary user, who may use /dev/kvm by his group: under runc and pysandbox."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines_podman import IMAGE, PAUSE, Podman, configure, import_image, prepare, wait_for
from room import ADDRESS, TOP, MakeRoom, Room, need_programs

UID, SUBORDINATE, KVM = 54321, 300000, 54399
HOME = "/run/home"
RUN = f"/run/user/{UID}"
# The user, with ids for his containers, and devices as udev makes them: /dev/kvm for a group, /dev/fuse and tun for all.
SETUP = f"""
echo 'engineer:x:{UID}:{UID}::{HOME}:/bin/sh' >>/etc/passwd
echo 'other:x:{UID + 1}:{UID + 1}::{HOME}:/bin/sh' >>/etc/passwd
printf 'engineer:x:{UID}:\\nother:x:{UID + 1}:\\nkvm-users:x:{KVM}:engineer\\n' >>/etc/group
for f in subuid subgid; do printf 'engineer:{SUBORDINATE}:65536\\nother:400000:65536\\n' >>/etc/$f; done
mkdir -p {HOME} {RUN} /run/user/{UID + 1} /run/devices
chmod 700 {RUN} /run/user/{UID + 1}
chown {UID}:{UID} {HOME} {RUN}
chown {UID + 1}:{UID + 1} /run/user/{UID + 1}
device() {{ mknod /run/devices/$1 c $2 $3; chmod $4 /run/devices/$1; }}
device kvm 10 232 660; chgrp {KVM} /run/devices/kvm; mount --bind /run/devices/kvm /dev/kvm
device fuse 10 229 666; mount --bind /run/devices/fuse /dev/fuse
device tun 10 200 666; mount --bind /run/devices/tun /dev/net/tun
"""
SERVER = "mkdir /www; echo page of $0 >/www/index.html; exec httpd -f -p 80 -h /www"


def user_words(uid: int, home: str, run: str) -> list[str]:
    become = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--init-groups", "--inh-caps=-all"]
    return [*become, "env", "-C", home, f"HOME={home}", f"XDG_RUNTIME_DIR={run}"]


@pytest.fixture(scope="module")
def room(make_room: MakeRoom, pysandbox: str, busybox_tar: Path) -> Iterator[Room]:
    need_programs("podman", "runc", "crun", "newuidmap", "slirp4netns", "setpriv", "fuse-overlayfs")
    if any(not place.stat().st_mode & 0o001 for place in TOP.parents):
        pytest.skip(f"{TOP} cannot be entered by an ordinary user")
    room = make_room("podman-rootless")
    prepare(room)
    room.run("sh", "-ec", SETUP)
    source = room.scratch / "source"
    configure(source, pysandbox, RUN)
    # Into the room's /run, which is its own: the user cannot enter pytest's directories.
    for line in (source / "storage.conf", source / "containers.conf"):
        line.write_text(line.read_text().replace(str(source), f"{HOME}/podman"))
    shutil.copy(busybox_tar, source / "busybox.tar")
    room.run("sh", "-ec", f"cp -r {source} {HOME}/podman; chown -R {UID}:{UID} {HOME}; chmod 755 {HOME}")
    yield room
    listing = f"ls {RUN}/pysandbox {RUN}/pysandbox/@pending"
    left = room.run("sh", "-c", f"{listing} | grep -vE '^(/run/.*|@pending|traces|)$'", check=False)
    assert not left.stdout
    # podman keeps one process of each user, which holds his namespaces.
    wait_for(lambda: len(room.children()) <= 2, "the end of all other processes")


@pytest.fixture(scope="module")
def podmans(room: Room) -> dict[str, Podman]:
    env = {
        "CONTAINERS_CONF": f"{HOME}/podman/containers.conf",
        "CONTAINERS_STORAGE_CONF": f"{HOME}/podman/storage.conf",
        "CONTAINERS_REGISTRIES_CONF": f"{HOME}/podman/registries.conf",
    }
    user = user_words(UID, HOME, RUN)
    podmans = {runtime: Podman(room, env, runtime, user) for runtime in ("runc", "crun", "pysandbox")}
    import_image(podmans["runc"], Path(f"{HOME}/podman/busybox.tar"), IMAGE)
    import_image(podmans["runc"], Path(f"{HOME}/podman/busybox.tar"), PAUSE, '["/bin/sleep","1000000"]')
    return podmans


RUNS = [
    ("", "id; cat /proc/self/uid_map /proc/self/gid_map; stat -c %u:%g /etc /proc /dev/null", 0),
    ("", "exit 42", 42),
    ("", "touch /x; echo $?; cat /proc/self/cgroup", 0),
    ("", "grep Cap /proc/self/status; ulimit -n; hostname | wc -c", 0),
    ("--network none", "mount | grep -v ' / ' | sort; ls -l /dev | cut -c1-34", 0),
    ("--network none", "ip link; ls /sys/class/net", 0),
    ("--network host", "ip -o link | cut -d' ' -f2", 0),
    ("", "ip -o -4 addr show tap0; ip route", 0),
    ("-u 1000:1000", "id; touch /x", 1),
    ("-u nobody --cap-add NET_ADMIN", "id; grep Cap /proc/self/status", 0),
    ("--read-only --tmpfs /t", "touch /t/x /tmp/x; touch /x", 1),
    ("--cap-drop ALL", "grep Cap /proc/self/status; chown 1 /etc/group", 1),
    ("--userns keep-id", "id; cat /proc/self/uid_map", 0),
    ("--userns keep-id -v VOLUME:/v", "stat -c %U /v; touch /v/made && stat -c %u /v/made; rm /v/made", 0),
    ("--userns nomap", "id; cat /proc/self/uid_map", 0),
    ("--userns auto:size=500", "id; cut -c1-11 /proc/self/uid_map", 0),
    ("--uidmap 0:1:1000", "id; cat /proc/self/uid_map", 0),
    ("-v VOLUME:/v", "stat -c %u /v; cat /v/file; touch /v/made && rm /v/made", 0),
    ("-v VOLUME:/v:ro", "touch /v/made", 1),
    ("-v vol-RUNTIME:/n", "touch /n/x; ls /n", 0),
    ("--security-opt no-new-privileges --security-opt unmask=ALL", "grep NoNew /proc/self/status; ls /sys/firmware", 0),
    (
        "--privileged",
        "mkdir -p /mnt; unshare -m sh -c 'mount -t tmpfs none /mnt && touch /mnt/x && ls /mnt'; ls /mnt; unshare -u hostname x",
        0,
    ),
    ("--privileged", "grep Cap /proc/self/status; mount | grep -c ' /proc/'", 1),
    ("--device /dev/fuse", "ls -l /dev/fuse | cut -c1-10; : <>/dev/fuse && echo opened", 0),
    ("--uts host --pid host --network none", "hostname; ps -o args | grep -c '[r]oom_init'", 0),
    ("--sysctl net.core.somaxconn=77", "cat /proc/sys/net/core/somaxconn", 0),
    ("--shm-size 5m --hostname hn --add-host q:1.2.3.4", "hostname; df -k /dev/shm | tail -1; grep 1.2.3.4 /etc/hosts", 0),
    ("--init", "ps -o pid,args | sed -n 2p", 0),
    ("--memory 64m", "true", 0),
]


@pytest.mark.parametrize(("options", "script", "status"), RUNS, ids=[f"{row[0]} {row[1][:20]}".strip() for row in RUNS])
def test_run(podmans: dict[str, Podman], options: str, script: str, status: int) -> None:
    volume = f"mkdir -p {HOME}/volume; echo x >{HOME}/volume/file; chown -R {UID}:{UID} {HOME}/volume"
    podmans["runc"].room.run("sh", "-ec", volume)
    seen = []
    for runtime in ("runc", "pysandbox"):
        words = options.replace("VOLUME", f"{HOME}/volume").replace("RUNTIME", runtime).split()
        done = podmans[runtime].call("run", "--rm", "--sig-proxy=false", *words, IMAGE, "sh", "-c", script)
        seen.append((done.returncode, done.stdout, done.stderr))
    assert seen[1][:2] == seen[0][:2], seen
    assert seen[0][0] == status, seen[0]


def test_groups_are_kept(podmans: dict[str, Podman]) -> None:
    """By an annotation of crun's."""
    run = ["run", "--rm", "--sig-proxy=false", "--network", "none", "--group-add", "keep-groups", IMAGE, "id", "-G"]
    assert podmans["pysandbox"](*run) == podmans["crun"](*run) == "0 65534"


def test_exec(podman: Podman, box: str) -> None:
    podman("run", "-d", "--name", box, "--network", "none", "-e", "FROM=run", IMAGE, "sleep", "600")
    assert podman("exec", box, "sh", "-c", "echo $FROM; id -u; cat /proc/self/uid_map").splitlines()[:2] == ["run", "0"]
    assert podman.call("exec", box, "sh", "-c", "exit 42").returncode == 42
    assert podman("exec", "-u", "1000", "-w", "/tmp", box, "sh", "-c", "id -u; pwd") == "1000\n/tmp"
    assert podman("exec", "-i", box, "cat", input="through the pipe\n") == "through the pipe"
    done = podman.call("exec", box, "nosuch")
    assert done.returncode == 127
    assert "executable file not found in $PATH" in done.stderr
    podman("exec", "-d", box, "sh", "-c", "echo x >/detached")
    wait_for(lambda: podman.call("exec", box, "cat", "/detached").stdout == "x\n", "what the detached program writes")
    terminal = podman.terminal("exec", "-it", box, "sh")
    terminal.expect("# ")
    terminal.send("tty; exit 7\n")
    terminal.expect("/dev/pts/")
    assert terminal.finish() == 7


def test_exec_with_mapped_ids(podman: Podman, box: str) -> None:
    """A user namespace below podman's own."""
    podman("run", "-d", "--name", box, "--network", "none", "--userns", "keep-id", IMAGE, "sleep", "600")
    assert podman("exec", box, "id", "-u") == str(UID)
    assert podman("exec", "-u", "0", box, "sh", "-c", "id -u; touch /etc/x && echo ok") == "0\nok"


def test_terminal(podman: Podman) -> None:
    terminal = podman.terminal("run", "--rm", "-it", "--network", "none", IMAGE, "sh")
    terminal.expect("# ")
    terminal.send("tty; stty size; exit 9\n")
    terminal.expect("/dev/pts/0")
    terminal.expect("24 80")
    assert terminal.finish() == 9


def test_life(podman: Podman, box: str) -> None:
    script = "trap 'echo TERM; exit 3' TERM; echo ready; while :; do sleep 0.1; done"
    podman("run", "-d", "--name", box, IMAGE, "sh", "-c", script)
    wait_for(lambda: "ready" in podman("logs", box), "the container")
    assert "sh -c" in podman("top", box, "args")
    assert podman.inspect(box, "OCIRuntime") == podman.runtime
    podman("stop", "--time", "30", box)
    assert podman.inspect(box, "State.ExitCode") == "3"
    podman("start", box)
    podman("kill", box)
    assert podman("wait", box) == "137"
    assert podman.call("pause", box).returncode != 0  # no cgroups of his own: nothing that could be frozen


def test_files_and_images(podman: Podman, box: str) -> None:
    podman("run", "-d", "--name", box, "--network", "none", IMAGE, "sh", "-c", "echo new >/new; chown 5 /new; sleep 100")
    wait_for(lambda: "/new" in podman("diff", box), "the new file")
    podman("cp", f"{box}:/new", f"{HOME}/podman/copied")
    assert podman.room.run("cat", f"{HOME}/podman/copied").stdout == "new\n"
    image = f"localhost/commit-{podman.runtime}"
    podman("commit", "-q", box, image)
    assert podman("run", "--rm", "--sig-proxy=false", "--network", "none", image, "stat", "-c", "%u", "/new") == "5"
    podman("rmi", image)


def test_build(podman: Podman) -> None:
    text = f'FROM {IMAGE}\nRUN id -u >/id && chown 7 /id\nRUN cat /id; cat /proc/self/uid_map\nCMD ["stat", "-c", "%u", "/id"]\n'
    podman.room.run(*podman.user, "sh", "-c", "mkdir -p context; cat >context/Containerfile", input=text)
    image = podman("build", "-q", "--no-cache", f"{HOME}/context").split()[-1]
    assert podman("run", "--rm", "--sig-proxy=false", "--network", "none", image) == "7"


def test_published_port(podman: Podman, box: str) -> None:
    podman("run", "-d", "--name", box, "-p", "18095:80", IMAGE, "sh", "-c", SERVER, "web")
    code = f"import urllib.request as r; print(r.urlopen('http://{ADDRESS}:18095/', timeout=5).read().decode(), end='')"
    command = ["/usr/bin/python3", "-c", code]
    wait_for(lambda: podman.room.run(*command, check=False).returncode == 0, "the page")
    assert podman.room.run(*command).stdout == "page of web\n"


def test_pod(podman: Podman) -> None:
    pod, web = podman.name("pod"), podman.name("web")
    podman("pod", "create", "--name", pod, "--infra-command", "/bin/sleep 1000", "--share", "net,ipc,uts,pid")
    try:
        podman("run", "-d", "--pod", pod, "--name", web, IMAGE, "sh", "-c", SERVER, "pod")
        request = "printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | nc -w 5 127.0.0.1 80 | tail -1"
        join = ["run", "--rm", "--sig-proxy=false", "--pod", pod, IMAGE, "sh", "-c"]
        wait_for(lambda: podman.call(*join, request).stdout == "page of pod\n", "the page")
        assert podman(*join, "hostname; ps -o args | grep -c '[s]leep 1000'") == f"{pod}\n1"
        podman("pod", "stop", "--time", "1", pod)
        assert podman.inspect(web, "State.Status") == "exited"
    finally:
        podman("pod", "rm", "--force", "--time", "0", pod)


def test_many_at_once(podman: Podman) -> None:
    command = " ".join(podman.argv("run", "--rm", "--sig-proxy=false", "--network", "none", IMAGE))
    done = podman.room.run("sh", "-c", f"for i in 1 2 3 4 5 6; do {command} echo number $i & done; wait")
    assert sorted(done.stdout.splitlines()) == sorted(f"number {i}" for i in range(1, 7)), done.stderr


def test_kvm_refused(room: Room, pysandbox: str) -> None:
    """A user who is not in the group reads which one to join, from podman and from doctor."""
    run = f"/run/user/{UID + 1}"
    user = user_words(UID + 1, run, run)
    root = f"mkdir {run}/root; tar -C {run}/root -xf {HOME}/podman/busybox.tar 2>/dev/null; true"
    room.run(*user, "sh", "-c", root)
    podman = Podman(room, {}, pysandbox, user)
    done = podman.call("run", "--rm", "--network", "none", "--rootfs", f"{run}/root", "true")
    mend = "run as root or join the kvm-users group (usermod -aG kvm-users USER, then log in again)"
    assert done.returncode == 126
    assert "pysandbox: /dev/kvm is refused (permission denied): run as root or join the group that owns it" in done.stderr
    assert mend in room.run(*user, pysandbox, "doctor", check=False).stdout


def test_installed(room: Room, pysandbox: str) -> None:
    """What `pysandbox install podman` writes for a user is all that podman needs."""
    user = user_words(UID, HOME, RUN)
    podman = Podman(room, {}, "pysandbox", user)
    room.run(*user, pysandbox, "install", "podman")
    try:
        import_image(podman, Path(f"{HOME}/podman/busybox.tar"), IMAGE)
        assert podman("run", "--rm", "--sig-proxy=false", "--network", "none", IMAGE, "echo", "hi") == "hi"
    finally:
        podman("rmi", "--force", IMAGE)
        room.run(*user, pysandbox, "install", "podman", "--undo")
    assert podman.call("info").returncode != 0
