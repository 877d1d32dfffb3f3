"""The sink that is a database: the table ``market_ticks``, three days of ticks for queries."""

from collections.abc import Callable, Collection
from typing import ClassVar

from polygon_live.config import Secret
from polygon_live.engines.postgres import Layout, Session, TickTable, instant, set_up
from polygon_live.errors import RowsRefused, StoreMisconfigured, StoreUnavailable
from polygon_live.model import Batch
from polygon_live.sink import StoreFacts, Written


class TimescaleSink:
    """Writes each batch in one transaction over one dedicated connection."""

    name = "timescale"

    SET_UP_SECONDS: ClassVar = 60.0
    """The first set-up of an adopted table may build two indexes, each at most 25 s (``statement_timeout``)."""
    WRITE_SECONDS: ClassVar = 30.0
    """Batches take milliseconds. A server that is busy with a checkpoint on a slow disk may take seconds; one that
    takes longer than the 25 s after which it gives up by itself does not answer any more."""

    def __init__(self, dsn: Secret, collector: str, tenant: str, *, now_ms: Callable[[], int]) -> None:
        """``now_ms`` gives Unix milliseconds: ticks older than three days by it are passed over."""
        self._collector = collector
        self._tenant = tenant
        self._now_ms = now_ms
        self._session = Session(dsn, f"polygon-live/{collector}")
        self._layout: Layout | None = None
        self._table: TickTable | None = None

    async def open(self) -> None:
        """Connect, and make the table ready. Raises StoreUnavailable, StoreMisconfigured."""
        self._table = None
        await self._session.connect()
        now = instant(self._now_ms())
        try:
            layout = await self._session.run(self.SET_UP_SECONDS, "set up its tables", lambda c: set_up(c, now))
        except RowsRefused as why:  # no tick was refused here, but a row of the set-up's own
            message = f"the database can't be set up: {why}"
            raise StoreMisconfigured(message) from None
        self._layout = layout
        self._table = TickTable(layout, collector=self._collector, tenant=self._tenant)

    async def write(self, batch: Batch) -> Written:
        """Raises StoreUnavailable, StoreMisconfigured, AlreadyHeld, RowsRefused."""
        table = self._open_table()
        return await self._session.run(
            self.WRITE_SECONDS, "write a batch", lambda c: table.write(c, batch.ticks, self._now_ms)
        )

    async def held(self, batch: Batch) -> Collection[int]:
        """Raises StoreUnavailable, StoreMisconfigured."""
        table = self._open_table()
        return await self._session.run(self.WRITE_SECONDS, "look for a batch", lambda c: table.held(c, batch.ticks))

    async def check(self) -> None:
        """Raises StoreUnavailable, StoreMisconfigured."""
        await self._session.run(self.WRITE_SECONDS, "give a sign of life", lambda c: c.execute("select"))

    async def aclose(self) -> None:
        """Never waits."""
        self._session.drop()

    def facts(self) -> StoreFacts:
        """As found when last opened."""
        if self._layout is None:
            return StoreFacts()
        return StoreFacts(
            about={**self._layout.about, "lost_connections_ended": self._session.ended},
            complaints=self._layout.complaints,
        )

    def _open_table(self) -> TickTable:
        if self._table is None:
            message = "the connection to PostgreSQL is not open"
            raise StoreUnavailable(message)
        return self._table
