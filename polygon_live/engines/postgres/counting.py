"""How many of a collector's numbers the table has, for who compares it with what was accepted. It only reads."""

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from psycopg import sql

from polygon_live.blocks import Block
from polygon_live.config import Secret
from polygon_live.engines.postgres.connection import Connection, Session, connected
from polygon_live.engines.postgres.schema import find, instant
from polygon_live.engines.postgres.storage import KEPT
from polygon_live.errors import StoreMisconfigured
from polygon_live.runs import Run

ASK_SECONDS: Final = 30.0
MARGIN: Final = timedelta(seconds=1)
"""An adopted table may keep whole seconds in ``time``."""
EDGE_MARGIN: Final = timedelta(minutes=2)
"""What is so young beyond the edge may be dropped while it is counted; and there are two clocks."""
MOST_RUNS: Final = 20_000

T = TypeVar("T")


class Counted(NamedTuple):
    """Of one block."""

    rows: int
    there: int
    """How many of its numbers."""


class TableNumbers:
    """``spent`` is told the seconds of the processor that each question took."""

    keeps_ms: Final = (KEPT - EDGE_MARGIN) // timedelta(milliseconds=1)
    """What is younger is in the table for certain."""

    def __init__(self, dsn: Secret, collector: str, spent: Callable[[float], None]) -> None:
        self._dsn = dsn
        self._collector = collector
        self._spent = spent

    async def count(self, blocks: Sequence[Block]) -> list[Counted]:
        """Of each block. Raises StoreError."""
        async with self._connected() as session:
            return [await self._ask(session, partial(self._count, block=block)) for block in blocks]

    async def runs(self, block: Block) -> tuple[Counted, list[Run]]:
        """Its numbers that are there, one by one. Raises StoreError."""
        async with self._connected() as session:
            return await self._ask(session, partial(self._runs, block=block))

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Session]:
        async with connected(self._dsn, f"polygon-live/{self._collector}/verification") as session:
            yield session

    async def _ask(self, session: Session, work: Callable[[Connection], T]) -> T:
        def measured(connection: Connection) -> T:
            began = time.thread_time()
            try:
                with _only_reading(connection):
                    return work(connection)
            finally:
                self._spent(time.thread_time() - began)

        return await session.run(ASK_SECONDS, "count ticks", measured)

    def _count(self, connection: Connection, block: Block) -> Counted:
        asked = sql.SQL("select count(*), count(distinct seq) from {}")
        statement, values = self._of(connection, block)
        ((rows, there),) = connection.execute(asked.format(statement), values)
        return Counted(rows, there)

    def _runs(self, connection: Connection, block: Block) -> tuple[Counted, list[Run]]:
        asked = sql.SQL(
            "select min(seq), max(seq) from (select seq, seq - row_number() over (order by seq) as run "
            "from (select distinct seq from {}) numbers) numbered group by run order by 1 limit %s"
        )
        statement, values = self._of(connection, block)
        found = connection.execute(asked.format(statement), [*values, MOST_RUNS + 1]).fetchall()
        if len(found) > MOST_RUNS:
            message = f"the table has only single ticks of seq {block.first} to {block.last}, too many to be listed"
            raise StoreMisconfigured(message)
        return self._count(connection, block), [(int(first), int(last)) for first, last in found]

    def _of(self, connection: Connection, block: Block) -> tuple[sql.Composed, list[Any]]:
        found = find(connection)
        if found is None or not found.types.keys() >= {"time", "collector", "seq"}:
            message = "there is no table market_ticks with the columns time, collector and seq: the collector makes it"
            raise StoreMisconfigured(message)
        kind = sql.SQL(found.types["time"])  # so that partitions of other hours are not looked at
        span = sql.SQL("time between %s::{0} and %s::{0}").format(kind)
        within = sql.SQL(" or ").join([span] * len(block.spans))
        statement = sql.SQL("{} where collector = %s and seq between %s and %s and ({})")
        times = [at for least, greatest in block.spans for at in (instant(least) - MARGIN, instant(greatest) + MARGIN)]
        return statement.format(found.table.quoted, within), [self._collector, block.first, block.last, *times]


@contextmanager
def _only_reading(connection: Connection) -> Iterator[None]:
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read, read only")
        yield
