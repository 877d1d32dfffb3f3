"""Between the pipeline and the real journal: a disk that fails or stalls, and the record of what was taken in.

``Call`` runs the journal's work in place of the worker thread: in the same thread, between two awaits, one piece at a
time; who stops waiting leaves it to its work.
"""

from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

import outcome
import trio

from polygon_live.errors import JournalError
from polygon_live.journal import Journal
from polygon_live.model import Batch
from tests.simulation.plan import DiskKind
from tests.simulation.record import Record
from tests.simulation.store import Gone, Life

T = TypeVar("T")

WRITES: Final = frozenset({"reserve", "trim", "remember", "set_aside", "enter", "update", "write"})


class World(Protocol):
    """Whose disk it is."""

    record: Record

    @property
    def now(self) -> float:
        """Seconds since the beginning."""

    def disk_trouble(self, kind: DiskKind) -> float:
        """For how many seconds more there is that trouble."""

    def pace(self) -> float:
        """For how many seconds a piece of its work waits when nothing is wrong with it."""

    def happened(self, what: str) -> None:
        """For the trace."""

    def chance(self) -> float:
        """A draw between 0 and 1."""


class Call:
    """As ``keeper.Call``."""

    def __init__(self, world: World, life: Life, background: trio.Nursery) -> None:
        self._world = world
        self._life = life
        self._background = background
        self._one = trio.Semaphore(1)
        self.done = 0
        """Pieces of work that have come to their end."""

    @property
    def busy(self) -> bool:
        """Whether a piece of work is under way."""
        return self._one.value == 0

    async def __call__(self, work: Callable[[], T], /) -> T:
        """Whatever it returns or raises."""
        await self._one.acquire()
        if not self._life.alive:
            raise Gone
        done = trio.Event()
        results: list[outcome.Maybe[T]] = []
        self._background.start_soon(self._work, work, results, done)  # it is done, whatever becomes of who waits
        await done.wait()
        return results[0].unwrap()

    async def _work(self, work: Callable[[], T], results: "list[outcome.Maybe[T]]", done: trio.Event) -> None:
        try:
            await trio.sleep(self._world.disk_trouble("stalls") or self._world.pace())
            results.append(outcome.capture(work))
            await trio.lowlevel.checkpoint()
        finally:
            self.done += 1
            self._one.release()
            done.set()


class Kept:
    """The real journal (or its ledger), whose writes fail while the disk does."""

    def __init__(self, real: Any, world: World, life: Life) -> None:
        self._real = real
        self._world = world
        self._life = life
        if isinstance(real, Journal):
            self.ledger = Kept(real.ledger, world, life)

    def __getattr__(self, name: str) -> Any:
        """Reads go through as they are."""
        found = getattr(self._real, name)
        if name not in WRITES:
            return found

        def writes(*args: Any, **kwargs: Any) -> Any:
            self._may_fail()
            return found(*args, **kwargs)

        return writes

    def append(self, batch: Batch) -> None:
        """A failure may be told of what was done."""
        failing = self._life.alive and self._world.disk_trouble("fails") > 0
        if failing and self._world.chance() < 0.8:
            raise JournalError("the disk is full")
        self._real.append(batch)
        if self._life.alive:
            self._world.record.accept(batch, self._world.now, journaled=True)
            self._world.happened(f"journal {batch.after} {batch.first}..{batch.last}")
        if failing:
            raise JournalError("the disk failed after the write")

    def sync(self) -> None:
        """What is on the disk then is noted."""
        self._may_fail()
        tail = self._real.tail
        self._real.sync()
        if self._life.alive:
            self._world.record.synced = max(self._world.record.synced, tail)

    def _may_fail(self) -> None:
        if self._life.alive and self._world.disk_trouble("fails"):
            raise JournalError("the disk is full")
