"""A table with a cursor that moves by compare-and-set in the transaction that brings the rows.

Modelled: transactions that commit after their client has given up or died (a zombie), answers that are lost, a
successor that ends its predecessor's connection first (and one that can't: a pooler stands between), a backup restored,
a cursor in the hands of another journal.
"""

from collections.abc import Sequence
from typing import ClassVar

import attrs

from polygon_live.errors import StoreContested, StoreUnavailable
from polygon_live.model import Batch
from polygon_live.sink import Identity, Opened, Written
from tests.simulation.plan import StorePlan
from tests.simulation.store import WATCH_SECONDS, WRITE_SECONDS, Client, Life, Store, World


@attrs.frozen
class Cursor:
    """The row. ``beats`` rises with every sign of life."""

    seq: int
    journal: str
    host: str
    beats: int


@attrs.define(eq=False)
class Transaction:
    """Begun, and neither committed nor rolled back. ``session`` is the connection it runs on."""

    session: int
    journal: str
    expected: int | None
    batch: Batch


class Table(Store):
    """market_ticks and the cursors' table."""

    name = "timescale"

    def __init__(self, world: World, plan: StorePlan, seed: int) -> None:
        super().__init__(world, plan, seed)
        self.cursor: Cursor | None = None
        self.rows: list[tuple[int, bytes]] = []
        self.seqs: set[int] = set()
        self.session = 0
        self.ended: set[int] = set()
        """Connections that the server has ended."""
        self.in_flight: dict[int, tuple[Life, Transaction]] = {}
        self._saved: tuple[Cursor | None, list[tuple[int, bytes]]] = (None, [])
        for rival in plan.rivals:
            moment = rival.begins
            while moment < rival.ends:
                self.at(moment, self.rival_beats)
                moment += 10.0

    def connect(self, life: Life) -> int:
        """A new session; the one before it is ended, if the server can be asked to."""
        del life
        if self.plan.terminates:
            self.ended.add(self.session)
        self.session += 1
        return self.session

    def commit(self, tx: Transaction) -> bool:
        """By compare-and-set. The unique index has the last word."""
        if tx.session in self.ended:
            return False
        if not self.compare(tx):
            return False
        batch = tx.batch
        self.cursor = Cursor(batch.last, tx.journal, "host", self.cursor.beats + 1 if self.cursor else 1)
        for tick, payload in zip(batch.ticks, batch.payloads, strict=True):
            if self.too_old(tick):
                self.expired.add(tick.seq)
                continue
            if tick.seq in self.seqs:
                self.world.broken(f"{self.name}: {tick.seq} would be there twice")
                continue
            self.seqs.add(tick.seq)
            self.rows.append((tick.seq, payload))
        return True

    def compare(self, tx: Transaction) -> bool:
        """Whether the cursor is what the transaction expects it to be."""
        if self.cursor is None:
            return tx.expected is None
        return self.cursor.seq == tx.expected and self.cursor.journal == tx.journal

    def fate(self, tx: Transaction) -> None:
        """Nobody waits for this transaction any more."""
        chance = self.rng.random()
        if chance < 0.3:
            self.world.happened(f"{self.name}: committed unseen: {self.commit(tx)}")
        elif chance < 0.6:
            self.at(self.world.now + self.rng.uniform(0.0, 40.0), lambda: self.zombie(tx))

    def zombie(self, tx: Transaction) -> None:
        """It commits now, if it may."""
        self.world.happened(f"{self.name}: zombie {tx.batch.first}..{tx.batch.last}: {self.commit(tx)}")

    def rival_beats(self) -> None:
        """Another collector of this name has the cursor and gives signs of life."""
        if self.cursor is not None:
            self.cursor = attrs.evolve(self.cursor, journal="rival", host="elsewhere", beats=self.cursor.beats + 1)

    def back_up(self) -> None:
        self._saved = self.cursor, list(self.rows)

    def restore(self) -> None:
        self.world.happened(f"{self.name}: restored from a backup")
        self.cursor, self.rows = self._saved
        self.seqs = {seq for seq, _ in self.rows}
        self.ended.update(range(self.session + 1))

    def died(self, life: Life) -> None:
        self.settle()
        for session, (owner, tx) in list(self.in_flight.items()):
            if owner is life:
                del self.in_flight[session]
                self.fate(tx)

    def held(self) -> Sequence[tuple[int, bytes]]:
        return self.rows


class TableSink(Client):
    """One collector's connection to it."""

    keeps_cursor: ClassVar[bool] = True
    pause_seconds: ClassVar[float] = 0.02
    few_pause_seconds: ClassVar[float] = 0.2
    _store: Table

    def __init__(self, table: Table, identity: Identity, life: Life) -> None:
        super().__init__(table, identity, life)
        self._session = 0
        self._cursor: int | None = None
        self._watched: tuple[str, int, float] | None = None

    async def open_(self) -> Opened:
        table = self._store
        self._session = table.connect(self.life)
        await self._passes(self._latency())
        cursor, told = table.cursor, None
        if cursor is not None and cursor.journal != self.identity.journal:
            self._watch(cursor)
            told = f"journal {cursor.journal} on {cursor.host}"
            cursor = table.cursor = attrs.evolve(cursor, journal=self.identity.journal, beats=cursor.beats + 1)
        self._watched = None
        if cursor is None:
            highest = max(table.seqs, default=None)
            self._cursor = None
            return Opened(highest, told)
        self._cursor = cursor.seq
        return Opened(cursor.seq, told)

    def _watch(self, cursor: Cursor) -> None:
        """Raises StoreContested until it has not moved for long enough."""
        now = self._store.world.now
        if self._watched is None or self._watched[:2] != (cursor.journal, cursor.beats):
            self._watched = (cursor.journal, cursor.beats, now)
        if now - self._watched[2] < WATCH_SECONDS:
            raise StoreContested(f"the cursor is in the hands of {cursor.host}: watching it")

    async def write_(self, batch: Batch) -> Written:
        table = self._store
        if self._cursor is not None and batch.first <= self._cursor:
            table.world.broken(f"{self.name} is handed {batch.first}, and its cursor is {self._cursor}")
        tx = Transaction(self._session, self.identity.journal, self._cursor, batch)
        table.in_flight[self._session] = self.life, tx
        try:
            await self._passes(self._latency())
            if table.trouble() == "unclear" and table.rng.random() < 0.5:
                await self._unclear()
        except BaseException:
            if table.in_flight.pop(self._session, None) is not None:
                table.fate(tx)
            raise
        del table.in_flight[self._session]
        old = sum(table.too_old(tick) for tick in batch.ticks)
        if not table.commit(tx):
            if table.cursor is not None and table.cursor.journal != self.identity.journal:
                raise StoreContested(f"the cursor is in the hands of {table.cursor.host}")
            raise StoreUnavailable("the cursor is not where it was: it is read again")
        self._cursor = batch.last
        return Written(len(batch) - old, expired=old)

    def stands(self) -> bool:
        return self._session not in self._store.ended

    async def _unclear(self) -> None:
        """The answer does not come."""
        if self._store.rng.random() < 0.5:
            await self._silence(WRITE_SECONDS)
        raise StoreUnavailable(f"{self.name}: the connection was lost while it wrote")

    async def check_(self) -> None:
        table = self._store
        if not self.stands():
            raise StoreUnavailable("the connection was ended by the server")
        cursor = table.cursor
        if cursor is None:
            return
        if cursor.journal != self.identity.journal:
            raise StoreContested(f"the cursor is in the hands of {cursor.host}")
        table.cursor = attrs.evolve(cursor, beats=cursor.beats + 1)

    def held_after_(self, seq: int) -> Sequence[bytes]:
        limit = self._store.cursor.seq if self._store.cursor else 0
        return [payload for at, payload in sorted(self._store.rows) if seq < at <= limit]
