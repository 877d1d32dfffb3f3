"""Native partitions: how plain PostgreSQL keeps the ticks of the last three days and forgets the older ones.

A partition is one UTC hour, named by it (``market_ticks_20250131_07``). They are made ahead of time and dropped whole.

- Making one must never wait for a reader: a table is made beside and attached, which needs no more than a SHARE UPDATE
  EXCLUSIVE lock on the parent. CREATE TABLE … PARTITION OF would wait for every open transaction that has read the
  table, a forgotten notebook included, and with it everybody behind.
- Dropping one needs the parent for itself alone, for a moment. It waits a quarter of a second for that and then leaves
  it for the next time, so that a copy is never held up longer. (DETACH … CONCURRENTLY waits for the same transactions,
  can be left half done, and would not spare the DROP.)
- Partitions that others made are respected: an hour, or the part of it, that they cover is not made again, and they go
  when the whole of their range is past.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import count
from typing import ClassVar, Final

import attrs
import psycopg
from psycopg import sql

from polygon_live.engines.postgres.connection import Connection
from polygon_live.engines.postgres.extension import Extension
from polygon_live.engines.postgres.storage import (
    DROP_LOCK_TIMEOUT,
    HOUR,
    SET_UP_LOCK,
    About,
    Compression,
    Kept,
    Piece,
    TableName,
)

_AT_ONCE: Final = 24
"""Partitions made in one transaction: each takes six entries in the server's lock table, which may be a small one."""
_BEGINNING: Final = datetime.min.replace(tzinfo=UTC)
_END: Final = datetime.max.replace(tzinfo=UTC)
_BOUNDS: Final = re.compile(r"FOR VALUES FROM \((.*)\) TO \((.*)\)")


@attrs.frozen
class Partition:
    """One partition and its range: from ``start`` up to, not including, ``end``."""

    table: TableName
    start: datetime
    end: datetime


@attrs.frozen
class NativePartitions:
    """The way of keeping ticks on a PostgreSQL without TimescaleDB, or in a table that was made without it."""

    edition: ClassVar = "PostgreSQL, native partitions"
    called: ClassVar = "partitions"
    table: TableName
    timescaledb: Extension | None = None
    """The one that is in the database all the same."""
    without: str = "not used: this table is natively partitioned"
    """Why TimescaleDB does not keep the table."""

    def about(self, connection: Connection) -> About:
        """What of TimescaleDB."""
        del connection
        return {"timescaledb": self.without}

    def faults(self, connection: Connection) -> list[str]:
        """Why the table can't be kept in this way; empty if it can."""
        asked = """
            select c.relkind, p.partstrat, p.partnatts, a.attname, p.partdefid::regclass::text
            from pg_class c
            left join pg_partitioned_table p on p.partrelid = c.oid
            left join pg_attribute a on a.attrelid = c.oid and a.attnum = p.partattrs[0]
            where c.oid = %s"""
        for kind, strategy, keys, key, default in connection.execute(asked, [self.table.oid]):
            if kind != "p":
                return [f"{self.table} is not partitioned, so old ticks could not be dropped: {self._mend()}"]
            if (strategy, keys, key) != ("r", 1, "time"):
                return [f"{self.table} is not partitioned by range of the column time alone: make it so, or rename it"]
            if default is not None and default != "-":
                fault = "ticks in it would never expire, and would be in the way of their hour's partition"
                mend = f"alter table {self.table} detach partition {default}"
                return [f"{self.table} has the default partition {default}: {fault}: {mend}"]
        return []

    def _mend(self) -> str:
        """Not done unasked: it moves every row while nobody can read or write, for as long as that takes."""
        if self.timescaledb is None:
            return "rename it, let polygon-live make a partitioned one, and move the rows that are still needed into it"
        call = f"{self.timescaledb.schema}.create_hypertable('{self.table}', 'time', chunk_time_interval => interval"
        return f"make it a hypertable (select {call} '1 hour', migrate_data => true)), or rename it"

    def partitions(self, connection: Connection) -> list[Partition]:
        """All of them, in the order of time."""
        asked = """
            select c.oid, n.nspname, c.relname, pg_get_expr(c.relpartbound, c.oid)
            from pg_inherits i
            join pg_class c on c.oid = i.inhrelid
            join pg_namespace n on n.oid = c.relnamespace
            where i.inhparent = %s and not i.inhdetachpending"""
        found = []
        for oid, schema, name, bounds in connection.execute(asked, [self.table.oid]):
            if match := _BOUNDS.fullmatch(bounds):
                start, end = _instant(match[1], _BEGINNING), _instant(match[2], _END)
                found.append(Partition(TableName(oid, schema, name), start, end))
        return sorted(found, key=lambda p: p.start)

    def cover(self, connection: Connection, first: datetime, last: datetime) -> None:
        """See to it that every instant of the hours from ``first``'s to ``last``'s has a partition."""
        while True:
            with connection.transaction():
                connection.execute("select pg_advisory_xact_lock(%s)", [SET_UP_LOCK])
                there = [(p.start, p.end) for p in self.partitions(connection)]
                missing = uncovered(there, first, last)
                for start, end in missing[:_AT_ONCE]:
                    self._make(connection, start, end)
            if len(missing) <= _AT_ONCE:
                return

    def _make(self, connection: Connection, start: datetime, end: datetime) -> None:
        whole_hour = start.replace(minute=0, second=0, microsecond=0) == start
        suffix = start.strftime("_%Y%m%d_%H" if whole_hour else "_%Y%m%d_%H%M%S")
        name = sql.Identifier(self.table.schema, _free(connection, self.table.schema, self.table.name + suffix))
        make = (
            "create table {} (like {} including defaults including constraints including generated including storage)"
        )
        connection.execute(sql.SQL(make).format(name, self.table.quoted))
        attach = sql.SQL("alter table {} attach partition {} for values from ({}) to ({})")
        connection.execute(attach.format(self.table.quoted, name, str(start), str(end)))

    def expire(self, connection: Connection, edge: datetime) -> Kept:
        """Drop the partitions whose whole range is before ``edge``, then look what is there."""
        dropped = self.drop(connection, edge)
        left = self.partitions(connection)
        return Kept(
            called=self.called,
            dropped=dropped,
            overdue=tuple(p.table.name for p in _before(edge, left)),
            count=len(left),
            long=sum(p.end - p.start > HOUR for p in left),
            oldest=left[0].start if left and left[0].start > _BEGINNING else None,
            oldest_row=self.rows(connection)[0],
            bytes=sum(piece.bytes for piece in self.pieces(connection)),
        )

    def drop(self, connection: Connection, edge: datetime) -> tuple[str, ...]:
        """Those whose whole range is before ``edge``; the names of those that are gone."""
        dropped = []
        for partition in _before(edge, self.partitions(connection)):
            try:
                with connection.transaction():
                    connection.execute("select set_config('lock_timeout', %s, true)", [DROP_LOCK_TIMEOUT])
                    connection.execute(sql.SQL("drop table if exists {}").format(partition.table.quoted))
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
                break  # the next one would need the same lock
            dropped.append(partition.table.name)
        return tuple(dropped)

    def pieces(self, connection: Connection) -> list[Piece]:
        """All of them, with their sizes."""
        found = self.partitions(connection)
        asked = "select oid, pg_total_relation_size(oid) from unnest(%s::oid[]) oid"
        sizes: dict[int, int | None] = dict(connection.execute(asked, [[p.table.oid for p in found]]).fetchall())
        return [
            Piece(
                name=p.table.name,
                start=p.start if p.start > _BEGINNING else None,
                end=p.end if p.end < _END else None,
                bytes=sizes[p.table.oid] or 0,  # None: it was dropped this moment
            )
            for p in found
        ]

    def rows(self, connection: Connection) -> tuple[datetime | None, datetime | None]:
        """Partition by partition from both ends: an adopted table may lack the index that would give it in one go."""
        found = self.partitions(connection)
        return self._first(connection, found, "min"), self._first(connection, found[::-1], "max")

    def _first(self, connection: Connection, partitions: Iterable[Partition], which: str) -> datetime | None:
        for partition in partitions:
            asked = sql.SQL("select {}(time) from {} where isfinite(time)")
            try:
                row = connection.execute(asked.format(sql.Identifier(which), partition.table.quoted)).fetchone()
            except psycopg.errors.UndefinedTable:  # dropped this moment
                continue
            if row and row[0] is not None:
                found: datetime = row[0]
                return found
        return None

    def kept_longer(self, connection: Connection) -> str | None:
        """Nobody else drops here."""
        del connection
        return None

    def settings(self, connection: Connection) -> About:
        """What there is ahead shows when the collector was last at it."""
        found = self.partitions(connection)
        ahead = f"{found[-1].end:%Y-%m-%d %H:%M} UTC" if found and found[-1].end < _END else None
        return {
            "policy": "none: a running collector drops what is past at every half and full hour",
            "partitions_made_until": ahead,
            "compression": "none: PostgreSQL has none for tables",
        }

    def compression(self, connection: Connection) -> Compression | None:
        """PostgreSQL has none for tables."""
        del connection
        return None


def uncovered(
    ranges: Iterable[tuple[datetime, datetime]], first: datetime, last: datetime
) -> list[tuple[datetime, datetime]]:
    """What of the whole hours from ``first``'s to ``last``'s no range covers, cut at the hours."""
    at, end = _hour(first), _hour(last) + HOUR
    pieces = []
    for start, stop in [*sorted(ranges), (end, end)]:
        while at < min(start, end):
            until = min(_hour(at) + HOUR, start)
            pieces.append((at, until))
            at = until
        at = max(at, stop)
    return pieces


def _free(connection: Connection, schema: str, name: str) -> str:
    """This name, or one like it if a partition that somebody has detached, and keeps, still bears it."""
    taken = "select relname from pg_class where relnamespace = %s::regnamespace and starts_with(relname, %s)"
    names = {row[0] for row in connection.execute(taken, [schema, name])}
    return next(free for n in count(1) if (free := name if n == 1 else f"{name}_{n}") not in names)


def _before(edge: datetime, partitions: Iterable[Partition]) -> list[Partition]:
    return [p for p in partitions if p.end <= edge]


def _hour(instant: datetime) -> datetime:
    return instant.replace(minute=0, second=0, microsecond=0)


def _instant(bound: str, otherwise: datetime) -> datetime:
    """A bound as PostgreSQL prints it in ISO style and UTC; ``otherwise`` for what lies outside of the calendar."""
    try:
        found = datetime.fromisoformat(bound.strip("'"))
    except ValueError:  # MINVALUE, MAXVALUE, infinity, a year BC
        return otherwise
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found
