"""Event loop: tasks, timers, subprocesses, sockets of every local kind, signals, threads."""

import asyncio
import os
import signal
import sys


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.readline():
        writer.write(data.upper())
        await writer.drain()
    writer.close()


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> int:
    for _ in range(20):
        writer.write(f"client {number}\n".encode())
        assert await reader.readline() == f"CLIENT {number}\n".encode()
    writer.close()
    await writer.wait_closed()
    return number


async def main() -> None:
    print("gather", await asyncio.gather(*(asyncio.sleep(0.01 * (5 - n), n) for n in range(5))))
    try:
        await asyncio.wait_for(asyncio.sleep(10), 0.05)
    except TimeoutError:
        print("timeout")
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    clients = [talk(*await asyncio.open_connection("127.0.0.1", port), n) for n in range(10)]
    print("tcp", await asyncio.gather(*clients))
    server.close()
    server = await asyncio.start_unix_server(echo, "/tmp/echo.socket")
    clients = [talk(*await asyncio.open_unix_connection("/tmp/echo.socket"), n) for n in range(5)]
    print("unix", await asyncio.gather(*clients))
    server.close()
    code = "import sys; data = sys.stdin.read(); print(len(data)); sys.exit(5)"
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdin=pipe, stdout=pipe)
    print("child", await child.communicate(b"y" * 200_000), child.returncode)
    children = [await asyncio.create_subprocess_shell(f"exit {n}") for n in range(8)]
    print("children", await asyncio.gather(*(child.wait() for child in children)))
    got = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, got.set)
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.wait_for(got.wait(), 10)
    print("signal")
    print("thread", await asyncio.to_thread(sum, range(1000)))


asyncio.run(main())
