"""What outlasts every collector: Polygon's clock and quotes, three stores, the disk, and the record of the truth.

``complaints`` (of the record) is every promise that was broken, in words.
"""

import hashlib
import random
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs
import trio

from polygon_live.gap import Gap
from polygon_live.journal import Ledger
from polygon_live.standin import Script
from polygon_live.wire import Quote
from tests.simulation.disk import Disk
from tests.simulation.log import Log
from tests.simulation.plan import DiskKind, End, Plan, number_of, quote
from tests.simulation.record import Record
from tests.simulation.store import Store
from tests.simulation.stream import Stream
from tests.simulation.table import Table

SLACK_SECONDS: Final = 1.5
"""The keeper looks once a second."""
PACES: Final = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.001, 0.001, 0.003, 0.03)
RELIEF_SECONDS: Final = 5.0
"""Until what had to wait for the disk is on it."""


class World:
    """One run's."""

    def __init__(self, plan: Plan, folder: Path, *, keep_trace: bool = False) -> None:
        self.plan = plan
        self.record = Record()
        self.record.trouble = float("inf") if plan.disk else 0.0
        self.trace: list[str] = []
        self.life = 0
        """The number of the collector that lives, or is about to."""
        self.disk = Disk(folder / "0")
        self.before = 0.0
        """Seconds that had passed when this life began."""
        self.running = False
        self.table = Table(self, plan.stores["timescale"], plan.seed)
        self.log = Log(self, plan.stores["kafka"], plan.seed)
        self.stream = Stream(self, plan.stores["nats"], plan.seed)
        self.stores: tuple[Store, ...] = (self.table, self.log, self.stream)
        self.frames = deque(plan.frames)
        """What Polygon has still to send."""
        self.scripts: deque[Script] = deque(plan.scripts)
        """How the next connections are met, in whichever life."""
        self.ledger: list[Gap] = []
        """What the ledgers of all folders say in the end."""
        self.quarantine: set[tuple[str, int]] = set()
        self.fresh_at = 0.0
        """When the last folder was lost, and with it what was known."""
        self.ends: list[float] = []
        """When a life ended."""
        self.dumb_ends: list[float] = []
        """When a life ended while its disk took nothing: what it knew then is known to nobody."""
        self.steps = 0
        self.stopped_at = float("inf")
        """When the last collector was asked to stop."""
        self._died_at = 0.0
        self._fresh = False
        self._window: float | None = None
        self._rng = random.Random(f"world {plan.seed}")
        self._keep_trace = keep_trace
        self._digest = hashlib.blake2b(digest_size=16)
        self._folder = folder
        self._numbers = max((number_of(q.b) for f in plan.frames for q in f.quotes), default=0)

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self.before + (trio.current_time() if self.running else 0.0)

    @property
    def calm(self) -> bool:
        """Nothing goes wrong any more."""
        return self.now >= self.plan.seconds

    def true_ms(self) -> int:
        """Polygon's clock."""
        return self.plan.starts_ms + round(self.now * 1000)

    def wall_ms(self) -> int:
        """The collector's clock; in the end somebody sets it right."""
        now = self.now
        return self.true_ms() + (0 if self.calm else sum(step.by_ms for step in self.plan.clock if step.at <= now))

    def disk_trouble(self, kind: DiskKind) -> float:
        """For how many seconds more there is that trouble."""
        now = self.now
        ends = [min(t.ends, self.plan.seconds) for t in self.plan.disk if t.kind == kind and t.begins <= now]
        return max(0.0, max(ends, default=0.0) - now)

    def pace(self) -> float:
        """For how many seconds a piece of the journal's work waits, and the others go on."""
        return self._rng.choice(PACES)

    @property
    def disk_suffers(self) -> bool:
        """There is trouble, or was until a moment ago."""
        return any(t.begins <= self.now <= t.ends + RELIEF_SECONDS for t in self.plan.disk)

    def chance(self) -> float:
        """A draw between 0 and 1."""
        return self._rng.random()

    def next_quotes(self) -> tuple[Quote, ...]:
        """One more of each symbol, of now."""
        quotes = []
        for symbol in self.plan.symbols:
            self._numbers += 1
            quotes.append(quote(symbol, self._numbers, self.true_ms(), 48))
        return tuple(quotes)

    def broken(self, what: str) -> None:
        """A promise was broken."""
        self.record.complaints.append(f"{what} (at {self.now:.3f} s, life {self.life})")
        self.happened(f"BROKEN {what}")

    def happened(self, what: str) -> None:
        """For the trace, which tells one run from another."""
        line = f"{self.life} {self.now:.6f} {self.steps} {what}"
        self._digest.update(line.encode())
        if self._keep_trace:
            self.trace.append(line)

    @property
    def digest(self) -> str:
        """One name for everything that happened."""
        return self._digest.hexdigest()

    def reopened(self, tail: int) -> int:
        """The folder of this life was opened, and this is the journal's last ``seq``; how many ticks are gone."""
        if self._fresh:
            self._fresh = False
            return self.record.forget()
        return self.record.reopened(tail, self._died_at, self._window)

    def after(self, end: End) -> None:
        """The life is over, and the folder for the next one is made."""
        into = self._folder / str(self.life + 1)
        self._died_at = self.now
        self.ends.append(self.now)
        if self.disk_suffers:
            self.dumb_ends.append(self.now)
        self._window = self.plan.sync_seconds + SLACK_SECONDS if end.how == "power" else None
        if end.fresh:
            self.read_ledger()
            self.ledger = [attrs.evolve(gap, to_ms=gap.to_ms or self.true_ms()) for gap in self.ledger]
            self.fresh_at = self.now + end.down
            self._fresh = True
            self.disk = Disk(into)
        elif end.how == "power":
            self.disk = self.disk.cut(into, self._rng, self.plan.torn)
        else:
            self.disk = self.disk.killed(into)
        if end.spoils and (spoilt := self.disk.spoil(self._rng)):
            self.record.spoil(*spoilt)
            self.happened(f"spoilt: {spoilt[0]}..{spoilt[1]}")

    def read_ledger(self) -> None:
        """Take over what this folder's ledger says."""
        ledger = Ledger.open(self.disk.folder, sync=lambda _: None)
        self.ledger += ledger.gaps()
        self.quarantine.update((aside.sink, aside.seq) for aside in ledger.quarantine())
        ledger.close()

    def held(self) -> Sequence[Store]:
        """The stores at the end of time."""
        for store in self.stores:
            store.settle_all()
        return self.stores
