"""The part of Kubernetes' container runtime interface (runtime/v1/api.proto) that the tests use, and a client for it.

There is no crictl in Debian. Messages are dictionaries from field numbers to values; `Pod` and `Container` know the numbers.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines_containerd import IMAGE
from room import Room

Message = Mapping[int, Any]
POD, CONTAINER, NODE = 0, 1, 2  # NamespaceMode
CREATED, RUNNING, EXITED = 0, 1, 2  # ContainerState


def encode(message: Message) -> bytes:
    """protobuf: integers as varints, text and bytes, messages; lists are repeated fields."""
    out = b""
    for number, value in message.items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, int):
                out += _varint(number << 3) + _varint(item & (1 << 64) - 1)
            else:
                data = item if isinstance(item, bytes) else item.encode() if isinstance(item, str) else encode(item)
                out += _varint(number << 3 | 2) + _varint(len(data)) + data
    return out


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def decode(data: bytes) -> dict[int, list[Any]]:
    """Field number -> its values: integers, or bytes for everything else."""
    fields: dict[int, list[Any]] = {}
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            fields.setdefault(key >> 3, []).append(varint())
        else:
            assert key & 7 == 2, f"wire type {key & 7}"
            length = varint()
            fields.setdefault(key >> 3, []).append(data[at : at + length])
            at += length
    return fields


class Failure(Exception):
    """What the service answered instead."""


class Cri:
    """The service behind a socket in a room."""

    def __init__(self, room: Room, socket: str) -> None:
        self.room = room
        self.socket = socket

    def call(self, method: str, request: Message) -> dict[int, list[Any]]:
        script = Path(__file__).with_name("cri_call.py")
        argv = self.room.argv("/usr/bin/python3", script, self.socket, f"RuntimeService/{method}")
        done = subprocess.run(argv, input=encode(request), capture_output=True, check=False, timeout=120, env=self.room.env())
        if done.returncode:
            raise Failure(done.stderr.decode())
        return decode(done.stdout)


class Pod:
    """A sandbox, running. Each of its containers has processes of its own, unless `namespaces` says otherwise."""

    def __init__(
        self,
        cri: Cri,
        handler: str,
        name: str,
        namespaces: Message = {2: CONTAINER},  # noqa: B006 -- never changed
        ports: Mapping[int, int] | None = None,
    ) -> None:
        """`handler`: the runtime's name. `namespaces`: a NamespaceOption. `ports`: of the host -> of the pod."""
        self.cri = cri
        self.logs = cri.room.scratch / f"logs-{name}"
        self.logs.mkdir(exist_ok=True)
        self.name = name
        self.namespaces = namespaces
        self.group = f"{cri.room.cgroup}/{name}"
        self.hostname = "" if namespaces.get(1) == NODE else f"host-{name}"
        self.config: dict[int, Any] = {
            1: {1: name, 2: f"uid-{name}", 3: "default", 4: 0},
            2: self.hostname,
            3: str(self.logs),
            5: [{1: 0, 2: inside, 3: outside} for outside, inside in (ports or {}).items()],
            8: {1: self.group, 2: {1: namespaces}},
        }
        self.id = cri.call("RunPodSandbox", {1: self.config, 2: handler})[1][0].decode()

    def address(self) -> str:
        status = decode(self.cri.call("PodSandboxStatus", {1: self.id})[1][0])
        return str(decode(status[5][0])[1][0].decode())

    def remove(self) -> None:
        self.cri.call("StopPodSandbox", {1: self.id})
        self.cri.call("RemovePodSandbox", {1: self.id})


class Container:
    """A container of a pod, created. `more`: further fields of ContainerConfig; `resources`: LinuxContainerResources;
    `security`: LinuxContainerSecurityContext."""

    def __init__(
        self,
        pod: Pod,
        name: str,
        command: list[str],
        more: Message | None = None,
        resources: Message | None = None,
        security: Message | None = None,
    ) -> None:
        self.cri = pod.cri
        self.log = pod.logs / f"{name}.log"
        linux = {1: resources or {}, 2: {3: pod.namespaces, **(security or {})}}
        config = {1: {1: name}, 2: {1: IMAGE}, 3: command, 11: self.log.name, 15: linux, **(more or {})}
        self.id = self.cri.call("CreateContainer", {1: pod.id, 2: config, 3: pod.config})[1][0].decode()

    def start(self) -> None:
        self.cri.call("StartContainer", {1: self.id})

    def status(self) -> tuple[int, int]:
        """(state, exit code)"""
        fields = decode(self.cri.call("ContainerStatus", {1: self.id})[1][0])
        return fields.get(3, [CREATED])[0], fields.get(7, [0])[0]

    def exec(self, *command: str, timeout: int = 60) -> tuple[int, str, str]:
        """Exit status and both streams of a further process."""
        fields = self.cri.call("ExecSync", {1: self.id, 2: list(command), 3: timeout})
        out, err = (fields.get(number, [b""])[0].decode() for number in (1, 2))
        return fields.get(3, [0])[0], out, err

    def stop(self, timeout: int) -> None:
        """`timeout`: seconds between SIGTERM and SIGKILL."""
        self.cri.call("StopContainer", {1: self.id, 2: timeout})

    def update(self, resources: Message) -> None:
        """`resources`: a LinuxContainerResources."""
        self.cri.call("UpdateContainerResources", {1: self.id, 2: resources})

    def remove(self) -> None:
        self.cri.call("RemoveContainer", {1: self.id})

    def output(self) -> list[str]:
        """Lines of the log without their stamps: "stdout text"."""
        return [" ".join(line.split(" ", 3)[1:2] + line.split(" ", 3)[3:]) for line in self.log.read_text().splitlines()]
