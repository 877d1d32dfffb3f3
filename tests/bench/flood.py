"""What a flood on the status server costs a tick: from the stand-in's socket, through the whole collector, to a NATS
subscriber; without a flood and with one, at two rates.

``python -m tests.bench.flood [seconds]``: the collector as a process on PostgreSQL, NATS and the demo's broker. Before
that, what each page costs to make. Ratios within one run hold, absolute figures do not.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from statistics import quantiles
from typing import Any, Final

import trio

from polygon_live.commands.progress import Progress
from polygon_live.embedded import Broker, Nats, Postgres
from polygon_live.model import FOURTEEN_SYMBOLS, canonical_symbol
from polygon_live.standin import StandIn
from polygon_live.web.pages import PAGES
from tests.collecting import KEY, ROOT, Running
from tests.lively import THOUSAND, Lively
from tests.place import Flow, Place
from tests.waiting import in_thread, until

RATES: Final = ((100, 1), (1000, 5))
"""Ticks a second, ticks a frame."""
SECONDS: Final = 5.0
ROUNDS: Final = 4
"""Without and with the flood in turn: what else the machine does falls on both."""
SETTLE_SECONDS: Final = 2.0
LOOKS: Final = 20


def page_costs() -> None:
    """Of making each page, without the request."""
    print(f"{'page':<16}{'14 symbols':>12}{'2,000 symbols':>16}   µs")  # noqa: T201
    two_thousand = (*THOUSAND, *(f"Z{symbol}" for symbol in THOUSAND))
    states = [Lively(symbols, share=1).read() for symbols in (FOURTEEN_SYMBOLS, two_thousand)]
    for path, (view, _) in PAGES.items():
        costs = [1e6 * min(_timed(partial(view, state)) for _ in range(LOOKS)) for state in states]
        print(f"{path:<16}{costs[0]:>12,.0f}{costs[1]:>16,.0f}")  # noqa: T201


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class Delays:
    """Milliseconds from the stand-in's sending of a tick to its arrival at a subscriber."""

    def __init__(self, standin: StandIn, nats_url: str) -> None:
        self._flow = Flow(standin)
        self._port = int(nats_url.rpartition(":")[2])
        self._sent: dict[tuple[str, int, float], float] = {}
        self.of: list[float] = []

    async def send(self, per_second: int, a_frame: int, seconds: float) -> None:
        begun = trio.current_time()
        n = 0
        while (due := begun + n * a_frame / per_second) < begun + seconds:
            await trio.sleep_until(due)
            first = self._flow.sent
            now = time.perf_counter()
            self._flow.send(a_frame)
            for quote in self._flow.quotes[first:]:
                self._sent[canonical_symbol(quote.p), quote.t, quote.b] = now
            n += 1

    async def subscribe(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Plain NATS, so that next to nothing is added."""
        stream = await trio.open_tcp_stream("127.0.0.1", self._port)
        async with stream:
            await stream.send_all(b'CONNECT {"verbose":false}\r\nSUB ticks.> 1\r\nPING\r\n')
            task_status.started()
            told = bytearray()
            while part := await stream.receive_some(2**18):
                now = time.perf_counter()
                told += part
                while b"\r\n" in told:
                    line, _, rest = told.partition(b"\r\n")
                    if not line.startswith(b"MSG "):
                        if line == b"PING":
                            await stream.send_all(b"PONG\r\n")
                        told = rest
                        continue
                    size = int(line.rsplit(b" ", 1)[1])
                    if len(rest) < size + 2:
                        break
                    self._came(json.loads(rest[:size]), now)
                    told = rest[size + 2 :]

    def _came(self, tick: dict[str, Any], now: float) -> None:
        sent = self._sent.pop((tick["symbol"], tick["timestamp_ms"], tick["bid"]), None)
        if sent is not None:
            self.of.append(1000 * (now - sent))

    async def measure(self, per_second: int, a_frame: int, seconds: float) -> list[float]:
        """After a while in which it settles."""
        await self.send(per_second, a_frame, SETTLE_SECONDS)
        self.of.clear()
        await self.send(per_second, a_frame, seconds)
        await until(lambda: not self._sent)  # all of them came
        return list(self.of)


@asynccontextmanager
async def flooded(running: Running, answered: Counter[str]) -> AsyncIterator[None]:
    """``answered``: gathers what was."""
    port = (await running.get("/health/live")).url.port
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "tests.bench.flooding", str(port)], stdout=subprocess.PIPE, cwd=ROOT
    )
    try:
        yield
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            assert process.stdout is not None
            text = b"".join([part async for part in process.stdout]).decode()
        lines = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
        slowest = round(max((line.pop("probe_ms") for line in lines), default=0))
        answered["slowest probe, ms"] = max(answered["slowest probe, ms"], slowest)
        for line in lines:
            answered.update(line)


def row(name: str, delays: list[float]) -> list[float]:
    cut = quantiles(delays, n=1000)
    figures = [cut[499], cut[949], cut[989], cut[998], max(delays)]
    print(f"{name:<28}" + "".join(f"{figure:>9.1f}" for figure in figures), flush=True)  # noqa: T201
    return figures


async def main(seconds: float) -> None:
    page_costs()
    with Progress() as progress, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        servers = postgres, nats, broker = (
            Postgres(folder / "postgres"),
            Nats(folder / "nats"),
            Broker(folder / "broker"),
        )
        try:
            for server in servers:
                progress.wait(f"starting {server.name}")
                await in_thread(server.start)
            place = Place(postgres, nats, broker, {**os.environ, "HOME": name}, folder / "log")
            await measure(place, seconds, progress)
        finally:
            for server in servers:
                server.kill()


async def measure(place: Place, seconds: float, progress: Progress) -> None:
    standin = StandIn(key=KEY)
    async with place.collecting(standin) as running, trio.open_nursery() as nursery:
        delays = Delays(standin, place.nats.url)
        await nursery.start(delays.subscribe)
        with progress.hidden():
            print(f"{'ms from sending to NATS':<28}{'p50':>9}{'p95':>9}{'p99':>9}{'p99.9':>9}{'max':>9}")  # noqa: T201
        for per_second, a_frame in RATES:
            progress.wait(f"{per_second} ticks a second")
            without, during, answered = [], [], Counter[str]()
            for _ in range(ROUNDS):
                without += await delays.measure(per_second, a_frame, seconds)
                async with flooded(running, answered):
                    during += await delays.measure(per_second, a_frame, seconds)
            with progress.hidden():
                quiet = row(f"{per_second}/s, quiet", without)
                loud = row(f"{per_second}/s, flooded", during)
                ratios = [b / a for a, b in zip(quiet, loud, strict=True)]
                print(f"{'ratio':<28}" + "".join(f"{ratio:>9.2f}" for ratio in ratios))  # noqa: T201
                print(f"    answered: {dict(answered)}", flush=True)  # noqa: T201
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS)
