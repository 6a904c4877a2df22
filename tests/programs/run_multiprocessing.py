"""Process pools, pipes, queues, shared memory, semaphores; start method is the argument."""

import multiprocessing as mp
import sys
from multiprocessing import shared_memory


def square(number: int) -> int:
    return number * number


def fill(name: str, start: int) -> None:
    block = shared_memory.SharedMemory(name)
    block.buf[start : start + 10] = bytes(range(start, start + 10))
    block.close()


def count(value, lock, times: int) -> None:
    for _ in range(times):
        with lock:
            value.value += 1


def answer(connection) -> None:
    while (text := connection.recv()) is not None:
        connection.send(text[::-1])
    raise SystemExit(4)


def produce(queue, number: int) -> None:
    queue.put(bytes([number]) * 50_000)


if __name__ == "__main__":
    mp.set_start_method(sys.argv[1])
    with mp.Pool(3) as pool:
        print("pool", pool.map(square, range(50))[-5:])
    value, lock = mp.Value("i", 0, lock=False), mp.Lock()
    children = [mp.Process(target=count, args=(value, lock, 300)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    print("value", value.value, [child.exitcode for child in children])
    ours, theirs = mp.Pipe()
    child = mp.Process(target=answer, args=(theirs,))
    child.start()
    for text in ("hello", "x" * 100_000):
        ours.send(text)
        print("pipe", ours.recv()[:10])
    ours.send(None)
    child.join()
    print("exit", child.exitcode)
    queue = mp.Queue()
    children = [mp.Process(target=produce, args=(queue, number)) for number in range(3)]
    for child in children:
        child.start()
    print("queue", sorted((len(item), item[0]) for item in (queue.get() for _ in children)))
    for child in children:
        child.join()
    block = shared_memory.SharedMemory(create=True, size=4096)
    child = mp.Process(target=fill, args=(block.name, 20))
    child.start()
    child.join()
    print("shared", bytes(block.buf[18:32]))
    block.close()
    block.unlink()
    child = mp.Process(target=input)
    child.start()
    child.terminate()
    child.join()
    print("terminated", child.exitcode)
