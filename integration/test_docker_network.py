"""Networks of dockerd beside runc: bridges, Docker's own DNS, published ports, shared and missing networks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from docker_lab import IMAGE, RUNTIMES, Docker
from room import ADDRESS

SERVE = "mkdir -p /www; echo a page >/www/index.html; exec httpd -f -p 80 -h /www"
GET = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc {} {} | tail -1"
# The answer for IPv6 may come before or after that for IPv4, and has nothing to say.
LOOK_UP = "nslookup {} | grep -A1 Name: | grep -v '^--'"


@pytest.fixture(params=RUNTIMES)
def network(docker: Docker, request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """(runtime, a user-defined bridge)."""
    name = f"net-{request.param}"
    docker("network", "create", "--subnet", "10.99.1.0/24", name)
    yield request.param, name
    docker("network", "rm", name)


def test_user_defined_bridge_and_dns(docker: Docker, network: tuple[str, str]) -> None:
    runtime, net = network
    options = ["--network", net, "--network-alias", "www", "--ip", "10.99.1.77"]
    with docker.container(runtime, *options, IMAGE, "sh", "-c", SERVE) as box:
        script = f"grep nameserver /etc/resolv.conf; {LOOK_UP.format(box.name)}; {LOOK_UP.format('www')}; {GET.format('www', 80)}"
        done = docker.run(runtime, "--network", net, IMAGE, "sh", "-c", f"{script}; ping -c 1 -q www | grep -c ' 0%'")
        lines = done.stdout.splitlines()
        assert lines[0] == "nameserver 127.0.0.11"
        assert [line for line in lines if line.startswith("Name:")] == [f"Name:\t{box.name}", "Name:\twww"]
        assert lines.count("Address: 10.99.1.77") == 2
        assert lines[-2:] == ["a page", "1"]
        done = box.exec("sh", "-c", LOOK_UP.format("www"))  # an exec has the same resolver
        assert "10.99.1.77" in done.stdout
        # Not reachable by name from another network.
        done = docker.run(runtime, IMAGE, "sh", "-c", "nslookup www || echo unknown", timeout=120)
        assert "10.99.1.77" not in done.stdout


def test_connecting_while_running(docker: Docker, network: tuple[str, str]) -> None:
    runtime, net = network
    show = ("sh", "-c", "ip -4 -o addr show | grep -c global; ls /sys/class/net | grep -c eth")
    with docker.container(runtime, IMAGE, "sleep", "1000") as box:
        assert box.exec(*show).stdout == "1\n1\n"
        docker("network", "connect", net, box.name)
        assert box.exec(*show).stdout == "2\n2\n"
        assert "10.99.1." in box.exec("ip", "-4", "addr", "show", "eth1").stdout
        docker("network", "disconnect", net, box.name)
        assert box.exec(*show).stdout == "1\n1\n"


def test_published_ports(docker: Docker) -> None:
    for number, runtime in enumerate(RUNTIMES):
        port = 8080 + number
        publish = ["-p", f"{port}:80", "-p", f"127.0.0.1:{port + 100}:80"]
        with docker.container(runtime, *publish, IMAGE, "sh", "-c", SERVE) as box:
            docker.wait(lambda box=box: box.exec("sh", "-c", "netstat -tln | grep -q :80").returncode == 0, "the server")
            for address, there in (("127.0.0.1", port), ("127.0.0.1", port + 100), (ADDRESS, port)):
                assert docker.room.run("busybox", "sh", "-c", GET.format(address, there)).stdout == "a page\n"
            # Another container comes to it by the host's address, and by its own.
            own = docker.inspect(box.name, "{{.NetworkSettings.IPAddress}}")
            for address, there in ((ADDRESS, port), (own, 80)):
                done = docker.run(runtime, IMAGE, "sh", "-c", GET.format(address, there))
                assert done.stdout == "a page\n", done.stderr
            done = docker.run(runtime, "--network", f"container:{box.name}", IMAGE, "sh", "-c", GET.format("127.0.0.1", 80))
            assert done.stdout == "a page\n"
            assert f"0.0.0.0:{port}" in docker("port", box.name).stdout


def test_no_network_and_the_hosts(docker: Docker) -> None:
    cut_off = f"ls /sys/class/net; ip -o addr | wc -l; ping -c 1 -w 1 {ADDRESS} >/dev/null 2>&1 || echo cut off"
    assert docker.sh(cut_off, "--network", "none").endswith("cut off\n")
    out = docker.sh("ip -o -4 addr | sed 's/ *brd.*//'; ls /sys/class/net; cat /etc/resolv.conf", "--network", "host")
    assert ADDRESS in out
    docker.same("--network", "none", "--publish", "80:80", IMAGE, "ip", "-o", "link", "show", "lo")


def test_the_programs_of_a_network(docker: Docker) -> None:
    """Raw sockets, listening, both IP versions, unix sockets, datagrams, as far as the default rights go."""
    docker.sh("ping -c 1 -q 127.0.0.1 | grep -c ' 0%'; arping -c 1 -w 1 -q -I eth0 172.17.0.1; echo $?; route -n; netstat -tln")
    docker.sh("traceroute -n -m 1 -q 1 -w 1 172.17.0.1 | tail -1 | cut -c1-14; ip route | grep default; ifconfig eth0 | grep RUN")
