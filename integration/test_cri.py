"""containerd as Kubernetes uses it: the runtime is a handler, chosen for a pod; containers join the pod's namespaces."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cri import CREATED, EXITED, NODE, POD, RUNNING, Container, Cri, Failure, Pod
from engines_containerd import PAUSE, Containerd
from room import MakeRoom, need_programs

NETWORK = {
    "cniVersion": "0.4.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "cni-pods",
            "isGateway": True,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.77.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}
SERVER = "mkdir /www; echo page of $0 >/www/index.html; exec httpd -f -p 80 -h /www"


@pytest.fixture(scope="module")
def containerd(make_room: MakeRoom, pysandbox: str, runc: str, busybox_tar: Path) -> Iterator[Containerd]:
    need_programs("containerd", "ctr", "iptables")
    room = make_room("cri")
    packages = {"containernetworking-plugins": "/usr/lib/cni/bridge", "python3-grpcio": "/usr/lib/python3/dist-packages/grpc"}
    for package, path in packages.items():
        if not Path(path).exists():
            pytest.skip(f"not installed: {package} (hack/system-packages engines)")
    (room.scratch / "cni").mkdir()
    (room.scratch / "cni/10-pods.conflist").write_text(json.dumps(NETWORK))
    daemon = Containerd(room, {"runc": runc, "pysandbox": pysandbox})
    daemon.import_image(busybox_tar, namespace="k8s.io")
    daemon.import_image(busybox_tar, PAUSE, "k8s.io", "/bin/sleep 1000000")
    yield daemon
    left = room.run("ls", "/run/containerd/runc/k8s.io", check=False).stdout.split()
    daemon.stop()
    assert not [name for name in left if name not in ("traces", "@pending")]
    wait_for(lambda: not room.children(), "the end of all processes")


@pytest.fixture(scope="module")
def cri(containerd: Containerd) -> Cri:
    return Cri(containerd.room, containerd.socket)


@pytest.fixture(params=["runc", "pysandbox"])
def handler(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pod(cri: Cri, handler: str) -> Iterator[Pod]:
    pod = Pod(cri, handler, f"pod-{handler}")
    yield pod
    pod.remove()


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def test_life(pod: Pod) -> None:
    script = "trap 'echo TERM; exit 3' TERM; echo out; echo err >&2; while :; do sleep 0.1; done"
    container = Container(pod, "life", ["sh", "-c", script])
    assert container.status() == (CREATED, 0)
    container.start()
    assert container.status()[0] == RUNNING
    wait_for(lambda: len(container.output()) == 2, "the output")
    container.stop(30)
    assert container.status() == (EXITED, 3)
    assert sorted(container.output()) == ["stderr err", "stdout TERM", "stdout out"]
    container.remove()
    with pytest.raises(Failure, match="NOT_FOUND"):
        container.status()


def test_stop_of_what_ignores_it(pod: Pod) -> None:
    container = Container(pod, "stubborn", ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"])
    container.start()
    container.stop(1)
    assert container.status() == (EXITED, 137)


def test_exec(pod: Pod) -> None:
    container = Container(pod, "exec", ["sleep", "1000"], {6: [{1: "FROM", 2: "config"}]})
    container.start()
    assert container.exec("sh", "-c", "echo $FROM; echo err >&2; exit 7") == (7, "config\n", "err\n")
    assert container.exec("cat", "/proc/1/comm") == (0, "sleep\n", "")
    with pytest.raises(Failure, match="executable file not found"):
        container.exec("nosuch")
    before = time.monotonic()
    with pytest.raises(Failure, match="timeout 1s exceeded"):
        container.exec("sleep", "100", timeout=1)
    assert time.monotonic() - before < 30
    assert container.exec("sh", "-c", "ps -o args | grep -c '[s]leep 100$'")[1] == "0\n"


def test_namespaces_are_the_pods(pod: Pod) -> None:
    """Network, IPC and UTS are; each container has its own processes."""
    names = ("net", "ipc", "uts", "pid", "mnt")
    script = "hostname; for n in " + " ".join(names) + "; do readlink /proc/self/ns/$n; done"
    seen = []
    for name in ("one", "two"):
        container = Container(pod, name, ["sleep", "1000"])
        container.start()
        status, out, err = container.exec("sh", "-c", script)
        assert (status, err) == (0, "")
        seen.append(out.splitlines())
    assert seen[0][0] == seen[1][0] == pod.hostname
    same = [one == two for one, two in zip(seen[0][1:], seen[1][1:], strict=True)]
    assert same == [True, True, True, False, False]


def test_processes_of_a_pod(cri: Cri, handler: str) -> None:
    """With a pid namespace of the pod, the pod's own first process is 1 in all containers."""
    pod = Pod(cri, handler, f"shared-{handler}", {1: POD, 2: POD, 3: POD})
    try:
        container = Container(pod, "sees", ["sleep", "1000"])
        container.start()
        processes = container.exec("ps", "-o", "pid,args")[1]
        assert "1 /bin/sleep 1000000" in processes
        assert "sleep 1000\n" in processes
        container.stop(0)
        assert container.status() == (EXITED, 137)
    finally:
        pod.remove()


def test_namespaces_of_the_host(cri: Cri, handler: str) -> None:
    pod = Pod(cri, handler, f"host-{handler}", {1: NODE, 2: NODE, 3: NODE})
    try:
        container = Container(pod, "host", ["sleep", "1000"])
        container.start()
        script = "for n in net ipc pid; do readlink /proc/self/ns/$n; done"
        assert container.exec("sh", "-c", script)[1] == cri.room.run("sh", "-c", script).stdout
        assert "room_init" in container.exec("ps", "-o", "args")[1]
    finally:
        pod.remove()


def test_network(cri: Cri, handler: str) -> None:
    """The pod's address, and a published port."""
    pod = Pod(cri, handler, f"net-{handler}", ports={18091: 80})
    other = Pod(cri, handler, f"net2-{handler}")
    try:
        web = Container(pod, "web", ["sh", "-c", SERVER, "web"])
        client = Container(other, "client", ["sleep", "1000"])
        web.start()
        client.start()
        request = f"printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {pod.address()} 80 | tail -1"
        wait_for(lambda: client.exec("sh", "-c", request)[1] == "page of web\n", "the page, from another pod")
        from room import ADDRESS

        code = f"import urllib.request as r; print(r.urlopen('http://{ADDRESS}:18091/', timeout=5).read().decode(), end='')"
        assert cri.room.run("/usr/bin/python3", "-c", code).stdout == "page of web\n"
        assert client.exec("ip", "-o", "-4", "addr", "show", "eth0")[1].split()[3] == f"{other.address()}/24"
    finally:
        pod.remove()
        other.remove()


def test_resources(pod: Pod) -> None:
    limits = {1: 100000, 2: 50000, 3: 512, 4: 64 << 20, 5: 500}
    container = Container(pod, "limits", ["sleep", "1000"], resources=limits)
    container.start()
    group = f"/sys/fs/cgroup/memory{pod.group}/{container.id}"
    assert Path(group, "memory.limit_in_bytes").read_text() == f"{64 << 20}\n"
    assert container.exec("cat", "/sys/fs/cgroup/memory/memory.limit_in_bytes")[1] == f"{64 << 20}\n"
    assert container.exec("cat", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us")[1] == "50000\n"
    assert container.exec("cat", "/proc/1/oom_score_adj")[1] == "500\n"
    container.update({2: 70000, 4: 96 << 20})
    assert Path(group, "memory.limit_in_bytes").read_text() == f"{96 << 20}\n"
    assert container.exec("cat", "/sys/fs/cgroup/cpu/cpu.cfs_quota_us")[1] == "70000\n"


def test_security(cri: Cri, pod: Pod) -> None:
    """User, capabilities, a read-only root, no new privileges, masked paths, the default seccomp profile, volumes."""
    volume = cri.room.scratch / "cri-volume"
    volume.mkdir(exist_ok=True)
    (volume / "file").write_text("content\n")
    context = {1: {1: ["NET_ADMIN"], 2: ["CHOWN"]}, 5: {1: 1000}, 12: {1: 2000}, 7: 1, 11: 1, 13: ["/proc/uptime"], 15: {1: 0}}
    mounts = [{1: "/v", 2: str(volume), 3: 1}, {1: "/w", 2: str(volume)}]
    container = Container(pod, "secure", ["sleep", "1000"], {7: mounts}, security=context)
    container.start()
    script = "id -u; id -g; grep -E 'CapBnd|NoNew' /proc/self/status; touch /x /v/x; cat /v/file /proc/uptime; unshare -m true"
    status, out, _ = container.exec("sh", "-c", script)
    assert status != 0
    lines = out.splitlines()
    assert lines[:2] == ["1000", "2000"]
    bounding = int(lines[2].split()[1], 16)
    assert bounding >> 12 & 1  # NET_ADMIN
    assert not bounding & 1  # CHOWN
    assert lines[3:] == ["NoNewPrivs:\t1", "content"]


def test_errors(pod: Pod) -> None:
    container = Container(pod, "bad", ["nosuch"])
    with pytest.raises(Failure, match=r'exec: "nosuch": executable file not found in \$PATH'):
        container.start()
    container.remove()


def test_unknown_handler(cri: Cri) -> None:
    with pytest.raises(Failure, match="no runtime for"):
        Pod(cri, "nosuch", "unknown")


def test_daemon_restart(containerd: Containerd, pod: Pod) -> None:
    container = Container(pod, "stays", ["sleep", "1000"])
    container.start()
    containerd.stop()
    containerd.begin()
    assert container.status()[0] == RUNNING
    assert container.exec("echo", "hi") == (0, "hi\n", "")
