"""What the database has, for who may change nothing: each look is one read-only transaction.

Retention is looked at on the engine itself, not in what a collector says of it: the pieces that the table is cut into,
the oldest row, and the policy where the edition has them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

import attrs
from psycopg import sql

from polygon_live.config import Secret
from polygon_live.engines.postgres.connection import Connection, connected
from polygon_live.engines.postgres.extension import installed
from polygon_live.engines.postgres.hypertable import Hypertable, is_hypertable
from polygon_live.engines.postgres.partitions import NativePartitions, uncovered
from polygon_live.engines.postgres.policies import RetentionPolicy, retention_job
from polygon_live.engines.postgres.schema import find
from polygon_live.engines.postgres.storage import HOUR, KEPT, TableName

SECONDS: Final = 30.0
BOUND: Final = KEPT + 2 * HOUR
"""No row is older: an hour goes when all of it is three days old, at the next look, which is within the hour."""
MOST_ROWS: Final = 20_000


class Row(NamedTuple):
    """Of one tick, what can be compared with what other stores have: the rest may be kept in types of the table's."""

    seq: int
    symbol: str
    timestamp_ms: int


@attrs.frozen
class SymbolRows:
    """Of one symbol, within the time that was looked at."""

    symbol: str
    ticks: int
    newest_ms: int


@attrs.frozen
class Pieces:
    """How the table keeps three days."""

    called: str
    """chunks or partitions."""
    edition: str
    count: int
    too_long: tuple[str, ...]
    """What gives new ticks a place for more than an hour, in words."""
    past: tuple[str, ...]
    """Those that should be gone."""
    covered: bool
    """Whether ticks of now and of the next hour have a place."""
    oldest_row: datetime | None
    has_policies: bool
    """Whether the edition can drop by itself."""
    policy: RetentionPolicy | None


@attrs.frozen
class Mark:
    """Of a collector, in the database: when it gave its last sign of life."""

    collector: str
    host: str
    seconds_ago: float


@attrs.frozen
class Looked:
    """What was found."""

    table: TableName
    clock: datetime
    """The database's."""
    symbols: tuple[SymbolRows, ...]
    pieces: Pieces
    marks: tuple[Mark, ...]
    last_seq: int | None
    """The collector's cursor."""


async def look_at(dsn: Secret, collector: str, *, span: timedelta) -> Looked | None:
    """What the table has of this collector's last ticks, and how it keeps three days; None if there is no table.

    Raises StoreError.
    """
    async with connected(dsn, f"polygon-live/{collector}/check") as session:
        return await session.run(SECONDS, "look at the table", lambda c: _look(c, collector, span))


async def rows_after(dsn: Secret, collector: str, seq: int, *, span: timedelta) -> Sequence[Row]:
    """The collector's ticks of this span of time above ``seq``, in that order, at most ``MOST_ROWS``.

    Raises StoreError.
    """
    async with connected(dsn, f"polygon-live/{collector}/check") as session:
        return await session.run(SECONDS, "read the table's end", lambda c: _rows(c, collector, seq, span))


@contextmanager
def _only_reading(connection: Connection) -> Iterator[None]:
    with connection.transaction():
        connection.execute("set transaction isolation level repeatable read, read only")
        yield


def _look(connection: Connection, collector: str, span: timedelta) -> Looked | None:
    with _only_reading(connection):
        found = find(connection)
        if found is None:
            return None
        table = found.table
        clock: datetime = _one(connection, "select clock_timestamp()")
        asked = sql.SQL(
            "select symbol, count(*), max(timestamp_ms) from {} where time > %s and collector = %s "
            "group by symbol order by symbol"
        )
        ours = "collector" in found.types
        rows = connection.execute(asked.format(table.quoted), [clock - span, collector]).fetchall() if ours else []
        marks = _marks(connection)
        cursor = "select max(seq) from tick_cursors where collector = %s"
        return Looked(
            table=table,
            clock=clock,
            symbols=tuple(SymbolRows(*row) for row in rows),
            pieces=_pieces(connection, table, clock),
            marks=marks,
            last_seq=_one(connection, cursor, collector) if marks else None,
        )


def _rows(connection: Connection, collector: str, seq: int, span: timedelta) -> Sequence[Row]:
    with _only_reading(connection):
        found = find(connection)
        if found is None:
            return ()
        asked = sql.SQL(
            "select seq, symbol, timestamp_ms from {} "
            "where time > clock_timestamp() - %s and collector = %s and seq > %s order by seq limit %s"
        )
        rows = connection.execute(asked.format(found.table.quoted), [span, collector, seq, MOST_ROWS])
        return [Row(*row) for row in rows]


def _pieces(connection: Connection, table: TableName, clock: datetime) -> Pieces:
    first = sql.SQL("select time from {} order by time limit 1").format(table.quoted)
    row = connection.execute(first).fetchone()
    oldest = row[0] if row else None
    timescaledb = installed(connection)
    if timescaledb is None or not is_hypertable(connection, table):
        there = NativePartitions(table).partitions(connection)
        missing = uncovered([(p.start, p.end) for p in there], clock, clock + HOUR)
        return Pieces(
            called="partitions",
            edition=NativePartitions.edition,
            count=len(there),
            too_long=tuple(p.table.name for p in there if p.end > clock and p.end - p.start > HOUR),
            past=tuple(p.table.name for p in there if p.end <= clock - BOUND),
            covered=not missing,
            oldest_row=oldest,
            has_policies=False,
            policy=None,
        )
    chunks = Hypertable(table, timescaledb).chunks(connection)
    interval = """
        select time_interval from timescaledb_information.dimensions
        where dimension_number = 1 and (hypertable_schema, hypertable_name) = (%s, %s)"""
    length: timedelta = _one(connection, interval, table.schema, table.name)
    return Pieces(
        called="chunks",
        edition=timescaledb.edition,
        count=len(chunks),
        too_long=(f"new chunks, of {length}",) if length > HOUR else (),
        past=tuple(chunk.name for chunk in chunks if chunk.end <= clock - BOUND),
        covered=True,  # each tick makes its own
        oldest_row=oldest,
        has_policies=timescaledb.community,
        policy=retention_job(connection, table) if timescaledb.community else None,
    )


def _marks(connection: Connection) -> tuple[Mark, ...]:
    if _one(connection, "select to_regclass('tick_cursors') is null"):
        return ()
    asked = "select collector, host, extract(epoch from clock_timestamp() - updated_at)::float8 from tick_cursors"
    return tuple(Mark(*row) for row in connection.execute(asked))


def _one(connection: Connection, statement: str, *values: Any) -> Any:
    row = connection.execute(statement.encode(), values).fetchone()
    return row[0] if row else None
