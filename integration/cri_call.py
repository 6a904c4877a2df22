"""One call of a container engine's CRI service: cri_call.py SOCKET SERVICE/METHOD.

The request is read from standard input, the response written to standard output, both as protobuf. Runs under the
system's Python with Debian's python3-grpcio.
"""

from __future__ import annotations

import sys

import grpc


def same(data: bytes) -> bytes:
    return data


def main() -> None:
    with grpc.insecure_channel(f"unix:{sys.argv[1]}") as channel:
        call = channel.unary_unary(f"/runtime.v1.{sys.argv[2]}", request_serializer=same, response_deserializer=same)
        try:
            sys.stdout.buffer.write(call(sys.stdin.buffer.read(), timeout=100))
        except grpc.RpcError as error:
            sys.exit(f"{error.code().name}: {error.details()}")


main()
