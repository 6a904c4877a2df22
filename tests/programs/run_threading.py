"""Threads: locks, conditions, queues, thread-local data, many short threads."""

import queue
import threading
from concurrent.futures import ThreadPoolExecutor

total = 0
lock = threading.Lock()


def add() -> None:
    global total
    for _ in range(2000):
        with lock:
            total += 1


threads = [threading.Thread(target=add) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("total", total)

work: "queue.Queue[int | None]" = queue.Queue(maxsize=3)
results: list[int] = []


def consume() -> None:
    while (item := work.get()) is not None:
        with lock:
            results.append(item * item)


consumers = [threading.Thread(target=consume) for _ in range(4)]
for thread in consumers:
    thread.start()
for number in range(200):
    work.put(number)
for _ in consumers:
    work.put(None)
for thread in consumers:
    thread.join()
print("queue", sum(results), len(results))

barrier, local, seen = threading.Barrier(6), threading.local(), []


def meet(number: int) -> None:
    local.number = number
    barrier.wait()
    seen.append(local.number)


for number in range(6):
    threading.Thread(target=meet, args=(number,)).start()
for thread in threading.enumerate():
    if thread is not threading.main_thread():
        thread.join()
print("barrier", sorted(seen))
event = threading.Event()
print("timeout", event.wait(0.05))
threading.Timer(0.05, event.set).start()
print("event", event.wait(10))
with ThreadPoolExecutor(16) as pool:
    print("pool", sum(pool.map(lambda n: n % 7, range(1000))))
for _ in range(100):
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
print("end", threading.active_count())
