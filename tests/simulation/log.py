"""A log with transactions: what is appended is seen when its transaction is committed, and the cursor is an offset that
is committed with it. Whoever opens fences his predecessor: its transaction is ended, and what it still had in its
socket is refused.

Modelled: commits whose answer is lost, commits that arrive later (before or after somebody was fenced), a client that
dies at any point of it, an offset in the hands of another journal.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

import attrs

from polygon_live.errors import StoreContested, StoreUnavailable
from polygon_live.model import Batch
from polygon_live.sink import Identity, Opened, Written
from tests.simulation.plan import StorePlan
from tests.simulation.store import WATCH_SECONDS, WRITE_SECONDS, Client, Life, Store, World
from tests.simulation.table import Cursor


@attrs.define(eq=False)
class Transaction:
    """``pending`` until it is one of the others; ``decided``: to be committed, though not yet told to readers."""

    epoch: int
    cursor: Cursor
    state: Literal["pending", "decided", "committed", "aborted"] = "pending"
    asked: bool = False
    """Its producer has sent the commit."""


class Log(Store):
    """tick_archive with its coordinator."""

    name = "kafka"

    def __init__(self, world: World, plan: StorePlan, seed: int) -> None:
        super().__init__(world, plan, seed)
        self.records: list[tuple[str, int, bytes, Transaction]] = []
        self.offset: Cursor | None = None
        self.epoch = 0
        self.pending: Transaction | None = None
        self._saved: tuple[Cursor | None, list[tuple[str, int, bytes, Transaction]]] = (None, [])
        for rival in plan.rivals:
            moment = rival.begins
            while moment < rival.ends:
                self.at(moment, self.rival_beats)
                moment += 10.0

    def fence(self) -> int:
        """``init_transactions``: what was decided is done, what was not is undone, and nobody older may do anything."""
        if self.pending is not None:
            self.finish(self.pending, commit=self.pending.state == "decided")
        self.epoch += 1
        return self.epoch

    def begin(self, epoch: int, cursor: Cursor) -> Transaction:
        if epoch != self.epoch:
            raise StoreContested("fenced: another producer of this name has opened the log")
        if self.pending is not None:
            self.world.broken(f"{self.name}: a transaction is begun while another is not over")
        self.pending = Transaction(epoch, cursor)
        return self.pending

    def append(self, tx: Transaction, batch: Batch) -> None:
        for tick, payload in zip(batch.ticks, batch.payloads, strict=True):
            self.records.append((tick.symbol, tick.seq, payload, tx))

    def decide(self, tx: Transaction) -> bool:
        """The commit has reached the coordinator. From the fenced, or for what is over, it is refused."""
        if tx.epoch != self.epoch or tx.state != "pending":
            return False
        tx.state = "decided"
        return True

    def finish(self, tx: Transaction, *, commit: bool) -> None:
        tx.state = "committed" if commit else "aborted"
        if commit:
            self.offset = tx.cursor
        self.pending = None

    def zombie(self, tx: Transaction) -> None:
        """A commit that was in a socket for a while."""
        done = self.decide(tx)
        self.world.happened(f"{self.name}: a late commit of {tx.cursor.seq}: {done}")
        if done:
            self.finish(tx, commit=True)

    def fate(self, tx: Transaction) -> None:
        """Nobody waits for its commit any more, which may be on the way."""
        chance = self.rng.random()
        if chance < 0.25:
            self.zombie(tx)
        elif chance < 0.4:
            self.decide(tx)
        elif chance < 0.7:
            self.at(self.world.now + self.rng.uniform(0.0, 40.0), lambda: self.zombie(tx))

    def rival_beats(self) -> None:
        if self.offset is not None:
            self.fence()
            self.offset = attrs.evolve(self.offset, journal="rival", host="elsewhere", beats=self.offset.beats + 1)

    def back_up(self) -> None:
        self._saved = self.offset, [r for r in self.records if r[3].state == "committed"]

    def restore(self) -> None:
        self.world.happened(f"{self.name}: restored from a backup")
        self.fence()
        self.offset, self.records = self._saved

    def died(self, life: Life) -> None:
        """Its sockets close; what was sent is the broker's."""
        del life
        self.settle()
        if self.pending is not None and self.pending.asked and self.pending.state == "pending":
            self.fate(self.pending)

    def settle_all(self) -> None:
        super().settle_all()
        self.fence()

    def held(self) -> Sequence[tuple[int, bytes]]:
        return [(seq, payload) for _, seq, payload, tx in self.records if tx.state == "committed"]


class LogSink(Client):
    """One collector's producer."""

    keeps_cursor: ClassVar[bool] = True
    pause_seconds: ClassVar[float] = 0.1
    few_pause_seconds: ClassVar[float] = 0.5
    _store: Log

    def __init__(self, log: Log, identity: Identity, life: Life) -> None:
        super().__init__(log, identity, life)
        self._epoch = 0
        self._watched: tuple[str, int, float] | None = None

    async def open_(self) -> Opened:
        log = self._store
        told = None
        if log.offset is not None and log.offset.journal != self.identity.journal:
            self._watch(log.offset)
            told = f"journal {log.offset.journal} on {log.offset.host}"
        self._watched = None
        self._epoch = log.fence()
        if told and log.offset is not None:
            log.offset = attrs.evolve(log.offset, journal=self.identity.journal, beats=log.offset.beats + 1)
        await self._passes(self._latency())
        if log.offset is not None:
            return Opened(log.offset.seq, told)
        return Opened(max((seq for seq, _ in log.held()), default=None), told)

    def _watch(self, cursor: Cursor) -> None:
        now = self._store.world.now
        if self._watched is None or self._watched[:2] != (cursor.journal, cursor.beats):
            self._watched = (cursor.journal, cursor.beats, now)
        if now - self._watched[2] < WATCH_SECONDS:
            raise StoreContested(f"the cursor is in the hands of {cursor.host}: watching it")

    async def write_(self, batch: Batch) -> Written:
        log = self._store
        if log.offset is not None and self._epoch == log.epoch and batch.first <= log.offset.seq:
            log.world.broken(f"{self.name} is handed {batch.first}, and its cursor is {log.offset.seq}")
        beats = log.offset.beats + 1 if log.offset else 1
        tx = log.begin(self._epoch, Cursor(batch.last, self.identity.journal, "host", beats))
        part = batch
        if len(batch) > 1 and log.trouble() == "unclear" and log.rng.random() < 0.3:
            part = batch.halves()[0]
        log.append(tx, part)
        await self._passes(self._latency())
        if len(part) < len(batch):
            raise StoreUnavailable(f"{self.name}: {len(batch) - len(part)} records were not acknowledged")
        tx.asked = True
        try:
            await self._passes(self._latency())
            if log.trouble() == "unclear" and log.rng.random() < 0.5:
                if log.rng.random() < 0.5:
                    await self._silence(WRITE_SECONDS)
                raise StoreUnavailable(f"{self.name}: whether the transaction was committed is not known")  # noqa: TRY301
        except BaseException:
            if self.life.alive:
                log.fate(tx)
            raise
        if not log.decide(tx):
            raise StoreContested("fenced: another producer of this name has opened the log")
        log.finish(tx, commit=True)
        return Written(len(batch))

    def stands(self) -> bool:
        return self._epoch == self._store.epoch

    async def check_(self) -> None:
        log = self._store
        if not self.stands():
            raise StoreContested("fenced: another producer of this name has opened the log")
        if log.offset is not None:
            log.offset = attrs.evolve(log.offset, beats=log.offset.beats + 1)

    def held_after_(self, seq: int) -> Sequence[bytes]:
        limit = self._store.offset.seq if self._store.offset else 0
        return [payload for at, payload in sorted(self._store.held()) if seq < at <= limit]
