"""Networks and pods of podman as root, under runc and pysandbox."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from engines_podman import IMAGE, Podman, rootful, wait_for
from room import MakeRoom, need_programs

SERVER = "mkdir /www; echo page of $0 >/www/index.html; exec httpd -f -p 80 -h /www"


@pytest.fixture(scope="module")
def podmans(make_room: MakeRoom, pysandbox: str, busybox_tar: Path) -> Iterator[dict[str, Podman]]:
    need_programs("podman", "runc", "iptables", "slirp4netns", "python3")
    yield from rootful(make_room("podman-network"), pysandbox, {IMAGE: busybox_tar})


def fetch(podman: Podman, address: str, port: int) -> str:
    """A page, from the room's side, as soon as there is one."""
    code = f"import urllib.request as r; print(r.urlopen('http://{address}:{port}/', timeout=5).read().decode(), end='')"
    command = ["/usr/bin/python3", "-c", code]
    wait_for(lambda: podman.room.run(*command, check=False).returncode == 0, f"a page of {address}:{port}")
    return podman.room.run(*command).stdout


def request(host: str) -> str:
    """A shell command for busybox in a container (whose static wget knows no names)."""
    return f"printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {host} 80 | tail -1"


def test_published_ports(podman: Podman, box: str) -> None:
    podman("run", "-d", "--name", box, "-p", "18085:80", "-p", "127.0.0.1:18086:80", IMAGE, "sh", "-c", SERVER, "web")
    assert sorted(podman("port", box).splitlines()) == ["80/tcp -> 0.0.0.0:18085", "80/tcp -> 127.0.0.1:18086"]
    from room import ADDRESS

    assert fetch(podman, ADDRESS, 18085) == "page of web\n"
    assert fetch(podman, "127.0.0.1", 18086) == "page of web\n"
    address = podman.inspect(box, "NetworkSettings.IPAddress")
    assert fetch(podman, address, 80) == "page of web\n"


def test_two_containers_of_a_network(podman: Podman, box: str) -> None:
    """Addresses, and names through the engine's own DNS server."""
    network = podman.name("net")
    podman("network", "create", "--subnet", "10.44.0.0/24", network)
    try:
        podman("run", "-d", "--name", box, "--network", network, "--network-alias", "web", IMAGE, "sh", "-c", SERVER, "web")
        address = json.loads(podman("inspect", box))[0]["NetworkSettings"]["Networks"][network]["IPAddress"]
        client = ["run", "--rm", "--sig-proxy=false", "--network", network, IMAGE]
        wait_for(lambda: podman.call(*client, "sh", "-c", request(address)).stdout == "page of web\n", "the page")
        assert podman(*client, "sh", "-c", "ip -o -4 addr show eth0").split()[3].startswith("10.44.0.")
        assert podman(*client, "sh", "-c", "ip route").startswith("default via 10.44.0.1")
        wait_for(lambda: address in podman.call(*client, "nslookup", "web").stdout, "the name")
        assert podman(*client, "sh", "-c", request("web")) == "page of web"
    finally:
        podman.remove(box)
        podman("network", "rm", network)


def test_connect_and_disconnect(podman: Podman, box: str) -> None:
    network = podman.name("other")
    podman("network", "create", network)
    try:
        podman("run", "-d", "--name", box, "--network", "podman", IMAGE, "sleep", "100")
        podman("network", "connect", network, box)
        assert "eth1" in podman("exec", box, "ip", "-o", "link")
        podman("network", "disconnect", network, box)
        assert "eth1" not in podman("exec", box, "ip", "-o", "link")
    finally:
        podman.remove(box)
        podman("network", "rm", network)


def test_network_of_another_container(podman: Podman, box: str) -> None:
    podman("run", "-d", "--name", box, IMAGE, "sh", "-c", SERVER, "first")
    join = ["run", "--rm", "--sig-proxy=false", "--network", f"container:{box}", IMAGE]
    wait_for(lambda: podman.call(*join, "sh", "-c", request("127.0.0.1")).stdout == "page of first\n", "the page")
    assert ":80 " in podman(*join, "netstat", "-tln")


def test_namespaces_of_another_container(podman: Podman, box: str) -> None:
    podman("run", "-d", "--name", box, "--ipc", "shareable", IMAGE, "sh", "-c", "echo x >/dev/shm/x; sleep 100")
    wait_for(lambda: podman.call("exec", box, "cat", "/dev/shm/x").stdout == "x\n", "the file")
    options = [f"--{kind}=container:{box}" for kind in ("pid", "ipc", "uts")]
    script = "ps -o pid,args | grep '[s]leep'; cat /dev/shm/x; hostname"
    lines = podman("run", "--rm", "--sig-proxy=false", *options, IMAGE, "sh", "-c", script).splitlines()
    assert any("sleep 100" in line for line in lines[:-2])
    assert lines[-2] == "x"
    assert podman("exec", box, "sh", "-c", "ps -o args | grep -c '[s]leep 100'") >= "1"


def test_slirp(podman: Podman) -> None:
    show = ["ip", "-o", "-4", "addr", "show", "tap0"]
    output = podman("run", "--rm", "--sig-proxy=false", "--network", "slirp4netns", IMAGE, *show)
    assert "10.0.2.100/24" in output


def test_pod(podman: Podman) -> None:
    """The first process of a pod is its own container; the others join its namespaces."""
    pod, web, other = podman.name("pod"), podman.name("web"), podman.name("other")
    podman("pod", "create", "--name", pod, "--infra-command", "/bin/sleep 1000", "-p", "18090:80", "--share", "net,ipc,uts,pid")
    try:
        podman("run", "-d", "--pod", pod, "--name", web, IMAGE, "sh", "-c", SERVER, "pod")
        assert fetch(podman, "127.0.0.1", 18090) == "page of pod\n"
        podman("run", "-d", "--pod", pod, "--name", other, IMAGE, "sleep", "100")
        assert podman("exec", other, "sh", "-c", request("127.0.0.1")) == "page of pod"
        assert podman("exec", other, "hostname") == pod
        processes = podman("exec", other, "ps", "-o", "pid,args")
        assert "httpd -f" in processes
        assert "1 /bin/sleep 1000" in processes
        script = "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done"
        namespaces = [podman("exec", container, "sh", "-c", script) for container in (web, other)]
        assert namespaces[0] == namespaces[1]
        assert podman("pod", "ps", "--filter", f"name={pod}", "--format", "{{.Status}} {{.NumberOfContainers}}") == "Running 3"
        assert len(podman("pod", "top", pod).splitlines()) >= 4
        assert len(podman("pod", "stats", "--no-stream", "--format", "{{.Name}}", pod).splitlines()) == 4  # with a heading
        podman("pod", "pause", pod)
        assert podman.inspect(web, "State.Status") == "paused"
        podman("pod", "unpause", pod)
        podman("pod", "restart", pod)
        assert fetch(podman, "127.0.0.1", 18090) == "page of pod\n"
        podman("pod", "stop", "--time", "1", pod)
        assert podman.inspect(web, "State.Status") == "exited"
        podman("pod", "start", pod)
        assert fetch(podman, "127.0.0.1", 18090) == "page of pod\n"
        podman("pod", "kill", pod)
    finally:
        podman("pod", "rm", "--force", "--time", "0", pod)


def test_kube(podman: Podman) -> None:
    """A pod as YAML and back."""
    pod, web = podman.name("kube"), podman.name("kubeweb")
    podman("pod", "create", "--name", pod, "--infra-command", "/bin/sleep 1000")
    path = podman.room.scratch / f"{pod}.yaml"
    try:
        podman("run", "-d", "--pod", pod, "--name", web, "-e", "A=b", "--memory", "50m", IMAGE, "sleep", "1000")
        path.write_text(podman("kube", "generate", pod))
        podman("pod", "rm", "--force", "--time", "0", pod)
        podman("kube", "play", str(path))
        name = f"{pod}-{web}"
        script = "echo $A; cat /sys/fs/cgroup/memory/memory.limit_in_bytes"
        assert podman("exec", name, "sh", "-c", script).split() == ["b", str(50 << 20)]
        assert podman.inspect(name, "OCIRuntime") == podman.runtime
        podman("kube", "down", str(path))
    finally:
        podman("pod", "rm", "--force", "--ignore", "--time", "0", pod)
