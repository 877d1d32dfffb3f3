"""The whole pipeline in virtual time: a stand-in Polygon in memory, a real journal called directly, scripted stores."""

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import trio
import trio.testing

from polygon_live.calendar import Sessions, all_of_it, always_open
from polygon_live.config import Secret
from polygon_live.dial import Dial
from polygon_live.gap import Gap
from polygon_live.journal import Journal, Ledger
from polygon_live.limits import Turns
from polygon_live.model import pair_of
from polygon_live.operational import Operational
from polygon_live.pipeline import Pipeline, Upstream
from polygon_live.standin import StandIn
from polygon_live.wire import Quote
from tests.feeding import KEY, PRICES, TUESDAY_MS, URL
from tests.test_pump import Forgetful, ScriptedSink

T = TypeVar("T")


class Directly:
    """Runs the journal's work at once. ``pause``: how long each piece takes, in virtual time, before it is done."""

    busy = False
    done = 0

    def __init__(self) -> None:
        self.pause = 0.0

    async def __call__(self, work: Callable[[], T], /) -> T:
        await trio.sleep(self.pause)
        return work()


class World:
    """A place where one run follows another: what is on the disk and in the stores stays."""

    def __init__(
        self, folder: Path, *, sessions: Sessions = always_open, symbols: Sequence[str] = tuple(PRICES)
    ) -> None:
        self.folder = folder
        self.sessions = sessions
        self.symbols = tuple(symbols)
        self.standin = StandIn(key=KEY)
        self.sinks: list[ScriptedSink] = [
            ScriptedSink(name="first"),
            ScriptedSink(name="second"),
            Forgetful(name="third"),
        ]
        self.call = Directly()
        self._began = trio.current_time()
        self.wrong_ms = 0
        """By so much the collector's clock is ahead."""
        self.pipeline: Pipeline

    def wall_ms(self) -> int:
        return self.true_ms() + self.wrong_ms

    def true_ms(self) -> int:
        return TUESDAY_MS + round((trio.current_time() - self._began) * 1000)

    def journal(self, most_bytes: int = 2**30) -> Journal:
        return Journal.open(self.folder, most_bytes=most_bytes, keep_ms=86_400_000, now_ms=self.wall_ms)

    def make(self, journal: Journal, dial: Dial | None) -> Pipeline:
        upstream = None
        if dial is not None:
            turns = Turns(5.0, wall_ms=self.wall_ms)
            upstream = Upstream(urls=(URL,), key=Secret(KEY), dial=dial, frames_max_bytes=2**20, turns=turns)
        self.pipeline = Pipeline(
            journal=journal,
            call=self.call,
            sinks=self.sinks,
            operational=Operational(symbols=self.symbols),
            upstream=upstream,
            sessions=self.sessions,
            stretches=all_of_it,
            wall_ms=self.wall_ms,
            rng=random.Random(1),
            queue_ticks=1000,
            sync_seconds=1.0,
        )
        return self.pipeline

    @asynccontextmanager
    async def running(self, *, most_bytes: int = 2**30) -> AsyncIterator[Pipeline]:
        """A run, subscribed; at the end of the block it is stopped in order."""
        async with self.standin.in_memory() as dial, trio.open_nursery() as nursery:
            pipeline = self.make(self.journal(most_bytes), dial)
            nursery.start_soon(pipeline.run)
            await self.standin.subscribed(len(self.standin.connections) + 1, len(self.symbols))
            await trio.testing.wait_all_tasks_blocked()
            yield pipeline
            await trio.testing.wait_all_tasks_blocked()
            pipeline.stop(5)

    async def tick(self, *symbols: str, bid: float | None = None) -> None:
        """A quote of each of these symbols (all, if none is named), of now, and what follows from it."""
        self.standin.send([self.quote(symbol, bid) for symbol in symbols or self.symbols])
        await trio.sleep(0.1)
        await trio.testing.wait_all_tasks_blocked()

    def quote(self, symbol: str, bid: float | None = None) -> Quote:
        bid = bid or PRICES.get(symbol, 1.2)
        return Quote(pair_of(symbol), round(bid * 1.0001, 5), bid, self.true_ms(), 48)

    def ledger(self) -> Sequence[Gap]:
        ledger = Ledger.open_existing(self.folder)
        try:
            return ledger.gaps()
        finally:
            ledger.close()
