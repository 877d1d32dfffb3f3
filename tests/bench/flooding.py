"""The clients of ``flood``, in a process of their own with the least priority: they stand for other machines.

``python -m tests.bench.flooding PORT`` until killed. It prints, as JSON, what was answered in each second.
"""

import json
import os
import socket
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import count
from typing import Final

import trio

FAST: Final = 50
SLOW: Final = 50
FOLLOWERS: Final = 8
PAGES: Final = ("/state", "/symbols", "/metrics")
AGAIN_SECONDS: Final = 0.01

answered: Counter[str] = Counter()


def request(page: str) -> bytes:
    return f"GET {page} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


async def connection(port: int, room: int | None = None) -> trio.SocketStream:
    sock = trio.socket.socket()
    if room is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    await sock.connect(("127.0.0.1", port))
    return trio.SocketStream(sock)


async def answer(stream: trio.SocketStream) -> str:
    """Read one, which says how long it is; its status."""
    told = b""
    while b"\r\n\r\n" not in told:
        part = await stream.receive_some()
        if not part:
            raise trio.BrokenResourceError
        told += part
    head, _, body = bytes(told).partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    left = int(next(line for line in lines if line.startswith("content-length:")).split(":")[1]) - len(body)
    while left > 0:
        part = await stream.receive_some()
        if not part:
            raise trio.BrokenResourceError
        left -= len(part)
    return lines[0].split(" ")[1]


async def fast(port: int, first: int) -> None:
    """One request after the other; every fifth client on a new connection each time."""
    async with await connection(port) as stream:
        for n in count(first):
            await stream.send_all(request(PAGES[n % len(PAGES)]))
            answered[await answer(stream)] += 1
            if first % 5 == 0:
                break


async def slow(port: int) -> None:
    """Asks for more than it ever takes."""
    async with await connection(port, 4096) as stream:
        await stream.send_all(request("/symbols") * 30)
        while True:
            await trio.sleep(0.1)
            if not await stream.receive_some(100):
                break


async def follower(port: int) -> None:
    async with await connection(port) as stream:
        await stream.send_all(request("/stream"))
        while await stream.receive_some():
            pass


async def again(client: Callable[[], Awaitable[None]]) -> None:
    """Whoever is thrown out comes back."""
    while True:
        try:
            await client()
        except OSError:
            answered["refused"] += 1
        except trio.BrokenResourceError:
            answered["cut"] += 1
        await trio.sleep(AGAIN_SECONDS)


async def probe(port: int) -> None:
    """How long a probe waits for its answer, on a connection of its own."""
    while True:
        begun = trio.current_time()
        with trio.move_on_after(10):
            async with await connection(port) as stream:
                await stream.send_all(request("/health/live"))
                await answer(stream)
        print(json.dumps({"probe_ms": round(1000 * (trio.current_time() - begun), 1), **answered}), flush=True)  # noqa: T201
        answered.clear()
        await trio.sleep(1)


async def main(port: int) -> None:
    os.nice(19)
    async with trio.open_nursery() as nursery:
        for n in range(FAST):
            nursery.start_soon(again, partial(fast, port, n))
        for _ in range(SLOW):
            nursery.start_soon(again, partial(slow, port))
        for _ in range(FOLLOWERS):
            nursery.start_soon(again, partial(follower, port))
        nursery.start_soon(again, partial(probe, port))


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
