"""The sink that is a database: the table ``market_ticks``, three days of ticks for queries."""

from collections.abc import Callable, Sequence
from typing import ClassVar, TypeVar

import trio

from polygon_live.config import Secret
from polygon_live.contest import Contest
from polygon_live.engines.postgres import (
    Connection,
    Cursor,
    Layout,
    Mark,
    Session,
    TickTable,
    claim,
    instant,
    known_version,
    look,
    set_up,
    watched,
)
from polygon_live.errors import RowsRefused, StoreContested, StoreMisconfigured, StoreUnavailable
from polygon_live.model import Batch
from polygon_live.sink import Identity, Opened, StoreFacts, Written

T = TypeVar("T")


class TimescaleSink:
    """Writes each batch in one transaction over one dedicated connection, and moves its cursor in the same."""

    name = "timescale"
    keeps_cursor: ClassVar = True
    pause_seconds: ClassVar = 0.02
    """A transaction costs 1.5 ms of CPU over both threads."""
    few_pause_seconds: ClassVar = 0.2

    SET_UP_SECONDS: ClassVar = 60.0
    """The first set-up of an adopted table may build two indexes, each at most 25 s (``statement_timeout``)."""
    SEARCH_SECONDS: ClassVar = 900.0
    """Where there is no cursor, all ticks there are read, once; each piece may take 50 s (``HIGHEST_TIMEOUT``).
    """
    WRITE_SECONDS: ClassVar = 30.0
    """Batches take milliseconds. A server that is busy with a checkpoint on a slow disk may take seconds; one that
    takes longer than the 25 s after which it gives up by itself does not answer any more."""
    WATCH_SECONDS: ClassVar = 30.0
    """A cursor of another that has not moved for so long is nobody's: its holder would have moved it at least every
    10 s."""

    def __init__(self, dsn: Secret, identity: Identity, tenant: str, *, now_ms: Callable[[], int]) -> None:
        """``now_ms`` gives Unix milliseconds: ticks older than three days by it are passed over."""
        self._identity = identity
        self._tenant = tenant
        self._now_ms = now_ms
        self._session = Session(dsn, f"polygon-live/{identity.collector}")
        self._contest = Contest(self.WATCH_SECONDS)
        self._layout: Layout | None = None
        self._ready: tuple[TickTable, Cursor] | None = None
        self._claimed = False
        """The cursor, in this run."""
        self._heir_of: Mark | None = None
        """Whose cursor we took, or may have: the answer to the claim may be lost."""

    async def open(self) -> Opened:
        """Connect, end what is left of the connection before, make the table ready, and claim the cursor.

        Raises StoreUnavailable, StoreMisconfigured, StoreContested.
        """
        self._ready = None
        try:
            return await self._open()
        except StoreContested:
            self._heir_of = None
            self._session.drop()
            raise
        except BaseException:
            self._contest.lose_sight()
            raise

    async def _open(self) -> Opened:
        session = self._session
        await session.connect()
        mark = await self._ask(self.WRITE_SECONDS, "read its cursor", self._look)
        dead = self._dead(mark)
        if mark and mark.backend:
            left = mark.backend
            await self._ask(self.WRITE_SECONDS, "end what was left", lambda c: session.end(c, left))
        now = instant(self._now_ms())
        layout = await self._ask(self.SET_UP_SECONDS, "set up its tables", lambda c: set_up(c, now))
        table = TickTable(layout, collector=self._identity.collector, tenant=self._tenant)
        self._heir_of = dead or self._heir_of
        cursor = await self._ask(
            self.WRITE_SECONDS if mark else self.SEARCH_SECONDS,
            "claim its cursor",
            lambda c: claim(
                c, self._identity, session.backend, dead=dead, highest=table.highest, unchanged=layout.unchanged
            ),
        )
        took_over, self._heir_of = self._heir_of, None
        self._contest.lose_sight()
        self._claimed = True
        self._layout = layout
        self._ready = table, cursor
        return Opened(cursor.seq, self._inherited(took_over) if took_over else None)

    def _look(self, connection: Connection) -> Mark | None:
        known_version(connection)
        return look(connection, self._identity.collector)

    def _dead(self, mark: Mark | None) -> Mark | None:
        """The cursor if it is another's and nobody moves it. Raises StoreContested if that is not known, or not so."""
        if mark is None or not mark.is_others(self._identity, claimed=self._claimed):
            return None
        if self._contest.is_dead((mark.journal, mark.beat), trio.current_time()):
            return mark
        raise watched(self._identity, mark, lives=self._contest.moved, seconds=self.WATCH_SECONDS)

    def _inherited(self, dead: Mark) -> str:
        last = f"{dead.updated:%Y-%m-%d %H:%M:%S} UTC by the database's clock"
        return f"the cursor of {dead.holder}, not moved in {self.WATCH_SECONDS:g} s: last seen at {last}"

    async def _ask(self, seconds: float, doing: str, work: Callable[[Connection], T]) -> T:
        """Where no tick is written, what is refused is not a tick."""
        try:
            return await self._session.run(seconds, doing, work)
        except RowsRefused as why:
            message = f"PostgreSQL can't {doing}: {why}"
            raise StoreMisconfigured(message) from None

    async def write(self, batch: Batch) -> Written:
        """Raises StoreUnavailable, StoreMisconfigured, StoreContested, RowsRefused."""
        table, cursor = self._opened()
        return await self._session.run(
            self.WRITE_SECONDS, "write a batch", lambda c: table.write(c, cursor, batch.ticks, self._now_ms)
        )

    async def check(self) -> None:
        """Raises StoreUnavailable, StoreMisconfigured, StoreContested."""
        _, cursor = self._opened()
        await self._ask(self.WRITE_SECONDS, "give a sign of life", cursor.beat)

    async def held_after(self, seq: int) -> Sequence[bytes]:
        """Raises StoreUnavailable, StoreMisconfigured."""
        table, cursor = self._opened()
        last = cursor.seq
        if last is None or last <= seq:
            return []
        return await self._ask(self.WRITE_SECONDS, "read ticks", lambda c: table.between(c, seq, last))

    async def aclose(self) -> None:
        """Never waits."""
        self._ready = None
        self._session.drop()

    def facts(self) -> StoreFacts:
        """As found when last opened."""
        if self._layout is None:
            return StoreFacts()
        return StoreFacts(
            about={**self._layout.about, "lost_connections_ended": self._session.ended},
            complaints=self._layout.complaints,
        )

    def _opened(self) -> tuple[TickTable, Cursor]:
        if self._ready is None:
            message = "the connection to PostgreSQL is not open"
            raise StoreUnavailable(message)
        return self._ready
