"""What the three scripted stores share: trouble by the clock, what happens later, and the duties of who uses a sink.

A store is the server: it outlives the collectors. A client is one collector's sink on it; when its collector is dead
its hands pass through everything, and what it had sent to the server is in the server's hands.
"""

import random
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from typing import ClassVar, Final, NoReturn, Protocol

import msgspec
import trio

from polygon_live.errors import RowsRefused, StoreMisconfigured, StoreUnavailable
from polygon_live.model import Batch, Tick
from polygon_live.sink import Identity, Opened, StoreFacts, Written
from tests.simulation.plan import StorePlan

WATCH_SECONDS: Final = 30.0
"""A cursor of another journal must stand still for so long."""
OPEN_SECONDS: Final = 15.0
WRITE_SECONDS: Final = 10.0


class Gone(BaseException):
    """What a dead collector still tries to do. Nobody catches it, and nobody is to."""


class World(Protocol):
    """Where stores live."""

    @property
    def now(self) -> float:
        """Seconds since the beginning, whoever lives."""

    def wall_ms(self) -> int:
        """The collector's clock."""

    def broken(self, what: str) -> None:
        """A promise was broken."""

    def happened(self, what: str) -> None:
        """For the trace."""


class Life(Protocol):
    """One collector, from its start to its stop or death."""

    number: int
    alive: bool


class Store:
    """The server's side of it."""

    name: ClassVar[str]

    def __init__(self, world: World, plan: StorePlan, seed: int) -> None:
        self.world = world
        self.plan = plan
        self.rng = random.Random(f"{seed} {self.name}")
        self.expired: set[int] = set()
        """Passed over for their age."""
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        if plan.backup is not None:
            self.at(plan.backup.taken, self.back_up)
            self.at(plan.backup.restored, self.restore)

    def at(self, moment: float, do: Callable[[], None]) -> None:
        """Let it happen at this moment, whatever becomes of the client."""
        self._count += 1
        heappush(self._later, (moment, self._count, do))

    def settle(self) -> None:
        """Everything that is due by now happens. Called before anybody sees the store."""
        while self._later and self._later[0][0] <= self.world.now:
            heappop(self._later)[2]()

    def settle_all(self) -> None:
        """The end of time."""
        while self._later:
            heappop(self._later)[2]()

    def trouble(self) -> str | None:
        """What is wrong with it now."""
        now = self.world.now
        return next((t.kind for t in self.plan.troubles if t.begins <= now < t.ends), None)

    def poison(self, tick: Tick) -> bool:
        """Whether it refuses this tick, whenever it is asked: it depends on nothing but the content."""
        return tick.exchange in self.plan.poison

    def refuses(self, payload: bytes) -> bool:
        """Whether it may have refused this tick."""
        tick = msgspec.json.decode(payload, type=Tick)
        return self.poison(tick) or any(trouble.kind == "refusing" for trouble in self.plan.troubles)

    def too_old(self, tick: Tick) -> bool:
        """Older than what it keeps."""
        return tick.timestamp_ms < self.world.wall_ms() - self.plan.keep_ms

    def back_up(self) -> None:
        """Remember everything."""

    def restore(self) -> None:
        """Become what was remembered; every connection is lost."""

    def died(self, life: Life) -> None:
        """A collector is gone: what it had sent meets its fate."""

    def held(self) -> Sequence[tuple[int, bytes]]:
        """What a reader finds, in the order of the store: the ``seq`` and the JSON."""
        raise NotImplementedError


class Client:
    """One collector's sink. ``open_`` and ``write_`` are the store's own; here is what must hold for all."""

    name: str
    keeps_cursor: ClassVar[bool] = True
    pause_seconds: ClassVar[float] = 0.0
    few_pause_seconds: ClassVar[float] = 0.0

    def __init__(self, store: Store, identity: Identity, life: Life) -> None:
        self.name = store.name
        self.identity = identity
        self.life = life
        self._store = store
        self._calling: str | None = None
        self._opened = False

    async def open(self) -> Opened:
        """As the contract says."""
        self._begin("open")
        self._opened = False
        try:
            await self._reach(OPEN_SECONDS)
            opened = await self.open_()
        finally:
            self._calling = None
        self._opened = True
        self._store.world.happened(f"{self.name} opened: {opened.cursor}{' taken over' if opened.took_over else ''}")
        return opened

    async def write(self, batch: Batch) -> Written:
        """As the contract says."""
        self._begin("write")
        self._demand(self._opened, "is written to without being opened after an error")
        self._demand(len(batch) > 0, "is handed an empty batch")
        seqs = [tick.seq for tick in batch.ticks]
        self._demand(seqs == sorted(set(seqs)), f"is handed a batch out of order: {seqs}")
        self._opened = False
        try:
            await self._reach(WRITE_SECONDS)
            bad = [t.seq for t in batch.ticks if self._store.poison(t) or self._store.trouble() == "refusing"]
            if bad and self.stands():
                self._opened = True
                raise RowsRefused(f"{bad[0]} is not to be stored")
            written = await self.write_(batch)
        finally:
            self._calling = None
        self._opened = True
        self._store.world.happened(f"{self.name} wrote {batch.first}..{batch.last}")
        return written

    async def check(self) -> None:
        """As the contract says."""
        self._begin("check")
        self._demand(self._opened, "is checked without being opened after an error")
        self._opened = False
        try:
            await self._reach(WRITE_SECONDS)
            await self.check_()
        finally:
            self._calling = None
        self._opened = True

    async def held_after(self, seq: int) -> Sequence[bytes]:
        """As the contract says."""
        self._begin("held_after")
        try:
            await self._reach(WRITE_SECONDS)
            return self.held_after_(seq)
        finally:
            self._calling = None

    async def aclose(self) -> None:
        """Never waits."""
        self._opened = False
        await trio.lowlevel.checkpoint()

    def facts(self) -> StoreFacts:
        """Nothing much."""
        return StoreFacts({"kind": "scripted"})

    async def open_(self) -> Opened:
        raise NotImplementedError

    async def write_(self, batch: Batch) -> Written:
        raise NotImplementedError

    def stands(self) -> bool:
        """Whether the server still knows this connection: who was cut off is not told what is wrong with his ticks."""
        return True

    async def check_(self) -> None:
        """Nothing to do."""

    def held_after_(self, seq: int) -> Sequence[bytes]:
        """Nothing it could tell."""
        del seq
        return ()

    # What calls are made of -----------------------------------------------------------------------------------------

    def _begin(self, call: str) -> None:
        if not self.life.alive:
            raise Gone
        self._demand(self._calling is None, f"is called ({call}) while it is busy ({self._calling})")
        self._calling = call

    def _demand(self, holds: bool, what: str) -> None:
        if not holds and self.life.alive:
            self._store.world.broken(f"the sink {self.name} {what}")

    async def _passes(self, seconds: float) -> None:
        """Time. Who died meanwhile does nothing more."""
        await trio.sleep(seconds)
        if not self.life.alive:
            raise Gone
        self._store.settle()

    async def _reach(self, limit: float) -> None:
        """The way to the server."""
        await self._passes(self._latency())
        match self._store.trouble():
            case "away":
                raise StoreUnavailable(f"{self.name} can't be reached")
            case "hang":
                await self._silence(limit)
            case "misconfigured":
                raise StoreMisconfigured(f"{self.name}: the table is not there")
            case "slow":
                await self._passes(self._store.rng.uniform(0.2, 4.0))

    def _latency(self) -> float:
        rng = self._store.rng
        return 0.0 if rng.random() < 0.6 else rng.choice((0.001, 0.003, 0.05, 0.3))

    async def _silence(self, limit: float) -> NoReturn:
        await self._passes(limit)
        raise StoreUnavailable(f"{self.name} did not answer within {limit:g} s")
