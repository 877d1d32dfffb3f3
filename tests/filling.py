"""The filler at work in virtual time: a real ledger, the stand-in's REST service, and stores that can be held up."""

import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import attrs
import trio

from polygon_live import wire
from polygon_live.backfill import Filler
from polygon_live.errors import JournalError, StoreUnavailable
from polygon_live.gap import Gap, State
from polygon_live.journal.ledger import Ledger
from polygon_live.matching import Held
from polygon_live.model import Reject, Tick, canonical_symbol
from polygon_live.operational import Limits
from polygon_live.standin.http import Answer, Asked, Fault
from polygon_live.validate import Validator
from tests.resting import RestWorld, resting

T = TypeVar("T")
NOON_S = 1_780_401_600
NOON = NOON_S * 1000
HOUR = 3_600_000


class Store:
    """Takes what was accepted, at once or when it is let."""

    def __init__(self, name: str, keeps_ms: int | None, now_ms: Callable[[], int]) -> None:
        self.name = name
        self.keeps_ms = keeps_ms
        self.window_ms = 60_000
        self.ticks: list[Tick] = []
        self.behind: list[Tick] = []
        self.held_up = False
        self.known = True
        self.away = False
        self.leaves_after: int | None = None
        """Away, and what is accepted is late, after so many questions."""
        self.asked: list[tuple[str, int, int]] = []
        self._now_ms = now_ms
        self._seq = 0

    def take(self, ticks: Sequence[Tick]) -> None:
        self.behind += ticks
        if not self.held_up:
            self.catch_up()

    def catch_up(self) -> None:
        for tick in self.behind:
            self._seq = tick.seq
            if self.keeps_ms is None or tick.timestamp_ms >= self._now_ms() - self.keeps_ms:
                self.ticks.append(tick)
        self.behind = []

    def cursor(self) -> int | None:
        return self._seq if self.known else None

    async def held(self, symbol: str, from_ms: int, until_ms: int) -> Held:
        await trio.lowlevel.checkpoint()
        self.asked.append((symbol, from_ms, until_ms))
        if self.leaves_after == len(self.asked) - 1:
            self.away = self.held_up = True
        if self.away:
            raise StoreUnavailable("it does not answer")
        return Held(
            Counter(
                (t.timestamp_ms // 1000, t.bid, t.ask)
                for t in self.ticks
                if t.symbol == symbol and from_ms <= t.timestamp_ms < until_ms
            )
        )

    def prices(self, symbol: str = "EURUSD") -> list[float]:
        return sorted(tick.bid for tick in self.ticks if tick.symbol == symbol)


@attrs.frozen
class Accepted:
    ticks: int
    rejected: int
    last_seq: int


class Filling:
    """One collector's data: it may be killed and started again."""

    def __init__(self, rest: RestWorld, folder: Path, starts_ms: int) -> None:
        self.rest = rest
        self.began = trio.current_time()
        self._starts_ms = starts_ms
        self.ledger = Ledger.open(folder)
        self.table = Store("the table", 72 * HOUR, self.now_ms)
        self.archive = Store("the archive", None, self.now_ms)
        self.validator = Validator(["EURUSD", "GBPUSD"], Limits(), now_ms=self.now_ms, first_seq=1)
        self.accepted: list[Sequence[Tick]] = []
        self.rejects: list[Reject] = []
        self.synced_seq = 0
        self.broken_journal: Exception | None = None
        self.fails_behind = 0
        """So many times what is accepted goes to the stores, and the journal fails all the same."""
        self.filler: Filler
        self.kill_at: int | None = None
        """At this step, counted from the start; each takes two, so that a kill falls before or after what it does."""
        self._steps = 0
        self._scope = trio.CancelScope()

    async def _step(self) -> None:
        self._steps += 1
        if self._steps == self.kill_at:
            self._scope.cancel()
        await trio.lowlevel.checkpoint()

    def now_ms(self) -> int:
        return self._starts_ms + round((trio.current_time() - self.began) * 1000)

    async def call(self, work: Callable[[], T], /) -> T:
        await self._step()
        done = work()
        await self._step()
        return done

    def _sync(self) -> None:
        if self.broken_journal is not None:
            raise self.broken_journal
        self.synced_seq = self.validator.last_seq

    def stream(self, *quotes: wire.Quote) -> None:
        """What is heard live."""
        ticks, _ = self.validator.judge([wire.Frame(wire.encode(quotes), self.now_ms())], 0.0)
        self._deliver(ticks)

    async def accept(self, symbol: str, quotes: Sequence[wire.Quote | wire.Undecodable], received_ms: int) -> Accepted:
        await self._step()
        ticks, rejects = self.validator.judge_backfill(symbol, quotes, received_ms)
        self.accepted.append(ticks)
        self.rejects += rejects
        self._deliver(ticks)
        await self._step()
        if self.fails_behind:
            self.fails_behind -= 1
            raise JournalError("the disk hangs")
        return Accepted(len(ticks), len(rejects), self.validator.last_seq)

    def _deliver(self, ticks: Sequence[Tick]) -> None:
        self.table.take(ticks)
        self.archive.take(ticks)

    def start(self, nursery: trio.Nursery) -> None:
        self.filler = Filler(
            rest=self.rest.rest,
            ledger=self.ledger,
            call=self.call,
            sync=self._sync,
            holders=[self.table, self.archive],
            accept=self.accept,
            last_accepted=lambda: self.validator.last_seq,
            symbols=lambda: ["EURUSD", "GBPUSD"],
            now_ms=self.now_ms,
            rng=random.Random(3),
        )
        self._scope = trio.CancelScope()

        async def run() -> None:
            with self._scope:
                await self.filler.run()

        nursery.start_soon(run)

    def enter(self, from_ms: int, to_ms: int | None, symbol: str = "EURUSD", **others: Any) -> int:
        """A gap; its id."""
        (gap,) = self.ledger.enter(
            [Gap(0, symbol, from_ms=from_ms, to_ms=to_ms, **{"cause": "disconnect"} | others)], self.now_ms()
        )
        return gap.id

    def gap(self, number: int) -> Gap:
        (gap,) = [gap for gap in self.ledger.gaps() if gap.id == number]
        return gap

    async def until(self, number: int, *states: State) -> Gap:
        """Wait for an entry to come to one of these states, or to any end."""
        while self.gap(number).state not in (states or ("filled", "empty", "unfillable")):  # noqa: ASYNC110
            await trio.sleep(0.1)
        return self.gap(number)


@asynccontextmanager
async def filling(
    folder: Path, made: Sequence[wire.Quote] = (), *, starts_ms: int = NOON + HOUR, start: bool = True, **settings: Any
) -> AsyncIterator[Filling]:
    """``made``: what the market quoted; nobody heard it yet. ``starts_ms``: now."""
    async with resting(made, **settings) as rest, trio.open_nursery() as nursery:
        world = Filling(rest, folder, starts_ms)
        try:
            if start:
                world.start(nursery)
            yield world
            nursery.cancel_scope.cancel()
        finally:
            world.ledger.close()


def quote(ms: int, bid: float, symbol: str = "EURUSD") -> wire.Quote:
    """A quote so many milliseconds after noon."""
    return wire.Quote(f"{symbol[:3]}/{symbol[3:]}", round(bid + 0.0001, 5), bid, NOON + ms, 48)


def only(pair: str, fault: Fault) -> Fault:
    """The fault, for one pair."""

    def faulty(right: Answer, asked: Asked) -> Answer:
        hit = canonical_symbol(pair) in asked.target.replace("-", "")
        return fault(right, asked) if hit else right

    return faulty
