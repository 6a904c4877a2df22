"""As much of D-Bus as a conversation with systemd takes: messages, authentication, calls, one signal.

https://dbus.freedesktop.org/doc/dbus-specification.html. Values are Python's: int for y n q i u x t, bool for b, float
for d, str for s o g, list for arrays, tuple for structures and dictionary entries, `Variant` for v.
"""

from __future__ import annotations

import os
from struct import calcsize, pack, unpack_from

from pysandbox.oci._struct import Struct
from pysandbox.oci.errors import Error, ResourceError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket
    from typing import Any

CALL, RETURN, ERROR, SIGNAL = 1, 2, 3, 4
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SENDER, _SIGNATURE = range(1, 9)
_FIELD_TYPES = {
    _PATH: "o", _INTERFACE: "s", _MEMBER: "s", _ERROR_NAME: "s", _REPLY_SERIAL: "u", _DESTINATION: "s", _SENDER: "s",
    _SIGNATURE: "g",
}  # fmt: skip
_FIXED = {"y": "B", "b": "I", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d", "h": "I"}
_ALIGN = {
    "y": 1, "g": 1, "v": 1, "n": 2, "q": 2, "b": 4, "i": 4, "u": 4, "s": 4, "o": 4, "a": 4, "h": 4, "x": 8, "t": 8,
    "d": 8, "(": 8, "{": 8,
}  # fmt: skip
_MAX_MESSAGE = 1 << 20  # replies here are some hundred bytes; the protocol would allow 128 MiB


class Variant(Struct):
    """A value that brings its type along."""

    signature: str
    value: Any


class BusError(Error):
    """An error reply. `name` as `org.freedesktop.systemd1.UnitExists`."""

    def __init__(self, name: str, message: str) -> None:
        self.name = name
        super().__init__(message or name)


class Message(Struct):
    """A message as received; `fields` by the numbers of the specification's header fields."""

    kind: int
    serial: int
    fields: dict[int, Any]
    body: tuple[Any, ...]

    @property
    def member(self) -> str:
        return str(self.fields.get(_MEMBER, ""))


# --- marshalling ------------------------------------------------------------------------------------------------------


def split(signature: str) -> list[str]:
    """The complete types a signature consists of: "a(ss)su" -> ["a(ss)", "s", "u"]. `ValueError`."""
    out = []
    while signature:
        end = _one(signature)
        out.append(signature[:end])
        signature = signature[end:]
    return out


def _one(signature: str, depth: int = 0) -> int:
    """Length of the first complete type."""
    if not signature or depth > 32:
        raise ValueError("bad D-Bus signature")
    first = signature[0]
    if first == "a":
        return 1 + _one(signature[1:], depth + 1)
    if first in "({":
        end, close = 1, ")" if first == "(" else "}"
        while signature[end : end + 1] != close:
            end += _one(signature[end:], depth + 1)
        return end + 1
    if first in _ALIGN:
        return 1
    raise ValueError("bad D-Bus signature")


def _pad(out: bytearray, alignment: int) -> None:
    out.extend(bytes(-len(out) % alignment))


def marshal(signature: str, values: tuple[Any, ...]) -> bytes:
    """Little-endian, starting at a multiple of 8."""
    out = bytearray()
    for kind, value in zip(split(signature), values, strict=True):
        _put(out, kind, value)
    return bytes(out)


def _put(out: bytearray, kind: str, value: Any) -> None:
    first = kind[0]
    _pad(out, _ALIGN[first])
    if first in _FIXED:
        out.extend(pack("<" + _FIXED[first], value))
    elif first in "so":
        data = value.encode()
        out.extend(pack("<I", len(data)) + data + b"\0")
    elif first == "g":
        out.extend(bytes([len(value)]) + value.encode() + b"\0")
    elif first == "v":
        _put(out, "g", value.signature)
        _put(out, value.signature, value.value)
    elif first == "a":
        at = len(out)
        out.extend(bytes(4))
        # Padding before the first element does not count, and is there for an empty array, too.
        _pad(out, _ALIGN[kind[1]])
        start = len(out)
        for item in value:
            _put(out, kind[1:], item)
        out[at : at + 4] = pack("<I", len(out) - start)
    else:
        for part, item in zip(split(kind[1:-1]), value, strict=True):
            _put(out, part, item)


class _Reader:
    """Takes values off a message. `ValueError` for what is none (struct.error is made one by `unmarshal`)."""

    def __init__(self, data: bytes, order: str) -> None:
        self.data, self.order, self.at = data, order, 0

    def _bytes(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise ValueError("D-Bus message ends early")
        out = self.data[self.at : self.at + count]
        self.at += count
        return out

    def take(self, kind: str) -> Any:
        first = kind[0]
        self.at += -self.at % _ALIGN[first]
        if first in _FIXED:
            form = self.order + _FIXED[first]
            (value,) = unpack_from(form, self._bytes(calcsize(form)))
            return bool(value) if first == "b" else value
        if first in "so":
            text = self._bytes(self.take("u")).decode("utf-8", "replace")
            self._bytes(1)
            return text
        if first == "g":
            text = self._bytes(self.take("y")).decode("ascii", "replace")
            self._bytes(1)
            return text
        if first == "v":
            signature = self.take("g")
            if len(split(signature)) != 1:
                raise ValueError("bad D-Bus signature")
            return Variant(signature=signature, value=self.take(signature))
        if first == "a":
            length = self.take("u")
            self.at += -self.at % _ALIGN[kind[1]]
            end = self.at + length
            if end > len(self.data):
                raise ValueError("D-Bus message ends early")
            items = []
            while self.at < end:
                items.append(self.take(kind[1:]))
            return items
        return tuple([self.take(part) for part in split(kind[1:-1])])


def unmarshal(signature: str, data: bytes, order: str = "<") -> tuple[Any, ...]:
    """The inverse of `marshal`. `ValueError`."""
    reader = _Reader(data, order)
    return tuple([reader.take(kind) for kind in split(signature)])


def message(kind: int, serial: int, fields: dict[int, Any], signature: str = "", values: tuple[Any, ...] = ()) -> bytes:
    """A whole message."""
    body = marshal(signature, values)
    if signature:
        fields = {**fields, _SIGNATURE: signature}
    header = [(number, Variant(signature=_FIELD_TYPES[number], value=value)) for number, value in fields.items()]
    out = bytearray(marshal("yyyyuua(yv)", (ord("l"), kind, 0, 1, len(body), serial, header)))
    _pad(out, 8)
    return bytes(out) + body


# --- a connection -----------------------------------------------------------------------------------------------------


class Bus:
    """A connection to a message bus, or to systemd itself (`direct`), which needs no introduction."""

    def __init__(self, path: str, *, direct: bool = False, timeout: float = 30.0) -> None:
        """`OSError` if nobody listens there; `ResourceError` if it is no bus."""
        from socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM, socket

        self._serial = 0
        self._signals: list[Message] = []
        self._socket: socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        try:
            self._socket.settimeout(timeout)
            self._socket.connect(path)
            self._authenticate()
            if not direct:
                self.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello")
        except BaseException:
            self._socket.close()
            raise
        self.direct = direct

    def close(self) -> None:
        self._socket.close()

    def _authenticate(self) -> None:
        """EXTERNAL: the kernel has told the other side who we are."""
        uid = str(os.geteuid()).encode().hex().encode()
        self._socket.sendall(b"\0AUTH EXTERNAL " + uid + b"\r\n")
        answer = b""
        while not answer.endswith(b"\r\n"):
            chunk = self._socket.recv(1)
            if not chunk or len(answer) > 4096:
                break
            answer += chunk
        if not answer.startswith(b"OK "):
            raise ResourceError("D-Bus refused the authentication")
        self._socket.sendall(b"BEGIN\r\n")

    def call(
        self, destination: str, path: str, interface: str, member: str, signature: str = "", *values: Any
    ) -> tuple[Any, ...]:
        """A method call and its answer. `BusError` for an error reply, `ResourceError` if the bus goes away."""
        self._serial += 1
        serial = self._serial
        fields = {_PATH: path, _DESTINATION: destination, _INTERFACE: interface, _MEMBER: member}
        self._socket.sendall(message(CALL, serial, fields, signature, values))
        while True:
            answer = self._receive()
            if answer.kind == SIGNAL:
                self._signals.append(answer)
            elif answer.fields.get(_REPLY_SERIAL) == serial:
                if answer.kind == ERROR:
                    text = answer.body[0] if answer.body and isinstance(answer.body[0], str) else ""
                    raise BusError(str(answer.fields.get(_ERROR_NAME, "")), text)
                return answer.body

    def next_signal(self) -> Message:
        """Signals come in order; those that arrived during a call first. `ResourceError`."""
        if self._signals:
            return self._signals.pop(0)
        while True:
            answer = self._receive()
            if answer.kind == SIGNAL:
                return answer

    def _receive(self) -> Message:
        head = self._exactly(16)
        order = {ord("l"): "<", ord("B"): ">"}.get(head[0])
        if order is None:
            raise ResourceError("D-Bus: not a message")
        body_length, serial, fields_length = unpack_from(order + "III", head, 4)
        if body_length + fields_length > _MAX_MESSAGE:
            raise ResourceError("D-Bus: message too long")
        rest = self._exactly(fields_length + -fields_length % 8 + body_length)
        try:
            reader = _Reader(head + rest[:fields_length], order)
            reader.at = 12
            fields = {number: variant.value for number, variant in reader.take("a(yv)")}
            body = unmarshal(str(fields.get(_SIGNATURE, "")), rest[len(rest) - body_length :], order)
        except (ValueError, LookupError):
            raise ResourceError("D-Bus: message that cannot be read") from None
        return Message(kind=head[1], serial=serial, fields=fields, body=body)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            try:
                chunk = self._socket.recv(count - len(data))
            except TimeoutError:
                raise ResourceError("D-Bus: no answer in time") from None
            if not chunk:
                raise ResourceError("D-Bus: connection closed")
            data += chunk
        return data
