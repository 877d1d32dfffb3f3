"""What the journal costs the pipeline: from frames to three stores that take everything at once, with it and without.

Frames come from memory, so neither the websocket nor a real store hides the cost. Ratios hold, absolute figures do not.
"""

import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import ClassVar, Final

import trio

from polygon_live import logs, wire
from polygon_live.calendar import all_of_it, always_open
from polygon_live.calling import InThread
from polygon_live.commands.progress import Progress
from polygon_live.config import Secret
from polygon_live.dial import dial_websocket
from polygon_live.journal import Journal
from polygon_live.limits import Turns
from polygon_live.model import FOURTEEN_SYMBOLS, Batch, pair_of
from polygon_live.operational import Operational
from polygon_live.pipeline import Pipeline, Upstream
from polygon_live.sink import Opened, StoreFacts, Written

TICKS: Final = 100_000
EVENTS: Final = (1, 20)
"""A frame."""
AHEAD: Final = 2000
"""Ticks that may wait to be judged: as a busy feed leaves them."""
ROUNDS: Final = 3
"""The best of them counts: other work on the machine only ever adds."""


class Taking:
    """A store that takes everything at once."""

    keeps_cursor: ClassVar[bool] = True

    def __init__(self, name: str) -> None:
        self.name = name
        self.taken = 0
        self.cursor: int | None = None

    async def open(self) -> Opened:
        await trio.lowlevel.checkpoint()
        return Opened(self.cursor)

    async def write(self, batch: Batch) -> Written:
        await trio.lowlevel.checkpoint()
        self.taken += len(batch)
        self.cursor = batch.last
        return Written(len(batch))

    async def check(self) -> None:
        await trio.lowlevel.checkpoint()

    async def held_after(self, seq: int) -> Sequence[bytes]:
        await trio.lowlevel.checkpoint()
        return ()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()

    def facts(self) -> StoreFacts:
        return StoreFacts()


class Unjournaled(Journal):
    """Keeps nothing."""

    def append(self, batch: Batch) -> None:
        self.tail = batch.last


async def _nothing(work: Callable[[], object]) -> object:
    return work()


class Directly:
    """No thread to go to, for there is nothing to do there."""

    busy = False
    __call__ = staticmethod(_nothing)


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


async def passed(kind: type[Journal], call: object, events: int, folder: Path) -> float:
    """Ticks a second from the first frame to the last tick in the last store."""
    journal = kind.open(folder, most_bytes=4 << 30, keep_ms=86_400_000, now_ms=wall_ms)
    sinks = [Taking("first"), Taking("second"), Taking("third")]
    upstream = Upstream(
        urls=("ws://nowhere",),
        key=Secret("none"),
        dial=dial_websocket,
        frames_max_bytes=2**26,
        turns=Turns(5.0, wall_ms=wall_ms),
    )
    pipeline = Pipeline(
        journal=journal,
        call=call,  # type: ignore[arg-type]
        sinks=sinks,
        operational=Operational(),
        upstream=upstream,
        sessions=always_open,
        stretches=all_of_it,
        wall_ms=wall_ms,
        rng=random.Random(1),
        queue_ticks=20_000,
        sync_seconds=1.0,
    )
    assert pipeline.feed is not None
    frames = pipeline.feed._standing.intake.channel
    async with trio.open_nursery() as nursery:
        for run in (pipeline._judge, pipeline.keeper.run, *(pump.run for pump in pipeline.pumps)):
            nursery.start_soon(run)
        sent, began = 0, time.perf_counter()
        while sent < TICKS:
            now = wall_ms()
            quotes = [
                wire.Quote(pair_of(FOURTEEN_SYMBOLS[n % 14]), 1.2, 1.1 + n % 97 / 1e5, now, 48)
                for n in range(sent, sent + events)
            ]
            frames.offer(wire.Frame(wire.encode(quotes), now))
            sent += events
            while sent - sinks[0].taken > AHEAD:
                await trio.lowlevel.checkpoint()
        while min(sink.taken for sink in sinks) < sent:
            await trio.lowlevel.checkpoint()
        took = time.perf_counter() - began
        nursery.cancel_scope.cancel()
    journal.close()
    return sent / took


def main(place: str | None) -> None:
    logs.configure("warning", "console", ())
    print("events a frame   with journal   without   ratio")  # noqa: T201
    kinds = ((Journal, InThread), (Unjournaled, Directly))
    done, total = count(1), len(EVENTS) * len(kinds) * ROUNDS
    with Progress() as progress:
        progress.show("measurements", 0, total)
        for events in EVENTS:
            best: dict[type[Journal], float] = {}
            for kind, call in kinds * ROUNDS:
                with tempfile.TemporaryDirectory(dir=place) as folder:
                    speed = trio.run(passed, kind, call(), events, Path(folder))
                best[kind] = max(best.get(kind, 0.0), speed)
                progress.show("measurements", next(done), total)
            with_it, without = best[Journal], best[Unjournaled]
            with progress.hidden():
                print(f"{events:>14}   {with_it:>12,.0f}   {without:>7,.0f}   {with_it / without:>5.2f}")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
