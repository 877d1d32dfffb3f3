"""A hypertable: how TimescaleDB keeps the ticks of the last three days and forgets the older ones.

A chunk is one UTC hour. It is made by the first tick that needs it, and dropped whole; chunks of more than an hour,
which an adopted table may have, go when the whole of their range is past.

- Dropping is the business of a policy (``policies``) where the edition has them. Whether it does it is judged by the
  effect alone: what a job records of itself may be wrong either way, and on a server without background workers the
  policy is there and never runs. A chunk that is past and still there when the policy has had its time is dropped by
  us, and that is said.
- Chunks older than a day are compressed where the edition can do that. A day, because so far back stores are caught up
  with after an outage. Compressed chunks take later ticks too, and refuse doubles as all others do.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, ClassVar, Final

import attrs
import psycopg
import structlog
from psycopg import sql

from polygon_live.engines.postgres import compression
from polygon_live.engines.postgres.connection import Connection
from polygon_live.engines.postgres.extension import OLDEST, Extension
from polygon_live.engines.postgres.policies import RetentionPolicy, has_policy, retention_job, settle_retention
from polygon_live.engines.postgres.storage import (
    DROP_LOCK_TIMEOUT,
    HOUR,
    KEPT,
    SET_UP_LOCK,
    About,
    Compression,
    Kept,
    Piece,
    TableName,
)

log = structlog.get_logger()

GRACE: Final = timedelta(minutes=20)
"""So long after a chunk is past the policy, which runs every quarter of an hour, may leave it. We look at the half
hours: at the full hour it is the policy's, at the half hour it is 72 h 30 min old at its end and ours."""


@attrs.frozen
class Chunk:
    """One chunk and its range: from ``start`` up to, not including, ``end``."""

    name: str
    start: datetime
    end: datetime
    compressed: bool


@attrs.frozen
class Hypertable:
    """The way of keeping ticks with TimescaleDB."""

    called: ClassVar = "chunks"
    table: TableName
    extension: Extension

    @property
    def edition(self) -> str:
        """Version and licence."""
        return self.extension.edition

    def make(self, connection: Connection) -> None:
        """Make the empty table a hypertable."""
        statement = "select {}(%s::oid::regclass, 'time', chunk_time_interval => %s, create_default_indexes => false)"
        function = self.extension.function("create_hypertable")
        connection.execute(sql.SQL(statement).format(function), [self.table.oid, HOUR])

    def about(self, connection: Connection) -> About:
        """What is compressed."""
        return compression.about(connection, self.table, self.extension)

    def faults(self, connection: Connection) -> list[str]:
        """Why it can't be used."""
        if self.extension.too_old:
            wanted = ".".join(map(str, OLDEST))
            return [f"TimescaleDB {self.extension.version} is too old: version {wanted} or newer is needed"]
        cut_by = self._asked(connection, "dimensions", "column_name", "dimension_number = 1").fetchone()
        if cut_by != ("time",):
            return [f"{self.table} is a hypertable, but not by the column time: make it so, or rename it"]
        return []

    def cover(self, connection: Connection, first: datetime, last: datetime) -> None:
        """New chunks will hold an hour, and be compressed later: the ticks make them themselves."""
        del first, last
        with connection.transaction():
            connection.execute("select pg_advisory_xact_lock(%s)", [SET_UP_LOCK])
            connection.execute("set local lock_timeout = '3s'")
            found = self._asked(connection, "dimensions", "time_interval", "dimension_number = 1").fetchone()
            if found and found[0] > HOUR:
                statement = sql.SQL("select {}(%s::oid::regclass, %s)")
                function = self.extension.function("set_chunk_time_interval")
                connection.execute(statement.format(function), [self.table.oid, HOUR])
                log.info("new chunks hold an hour", table=str(self.table), before=str(found[0]))
            if self.extension.community and not has_policy(connection, self.table, "policy_compression"):
                compression.enable(connection, self.table, self.extension)

    def chunks(self, connection: Connection) -> list[Chunk]:
        """All of them that have a beginning and an end, in the order of time."""
        rows = self._asked(
            connection,
            "chunks",
            "chunk_name, range_start, range_end, is_compressed",
            "isfinite(range_start) and isfinite(range_end)",
        )
        return sorted((Chunk(*row) for row in rows), key=lambda chunk: (chunk.start, chunk.name))

    def expire(self, connection: Connection, edge: datetime) -> Kept:
        """See that the policy is there; drop what it leaves; look what is there then."""
        policy, problem = None, None
        if self.extension.community:
            policy, problem = settle_retention(connection, self.table, self.extension)
        if policy and policy.drop_after > KEPT:
            return self._look(connection, policy, wrong=policy.keeps_longer(self.table))
        limit = edge - GRACE if policy and policy.runs else edge
        dropped = self.drop(connection, limit)
        note = policy.failure if policy else None
        if why := problem or self._our_part(policy, dropped):
            note = f"what is past is dropped by the collector: {why}"
        return self._look(connection, policy, limit, dropped, note, policy.too_early(edge) if policy else None)

    def _our_part(self, policy: RetentionPolicy | None, dropped: tuple[str, ...]) -> str | None:
        """Why we drop; None where the policy does it."""
        if policy is None:
            return "this edition has no policies"
        if not policy.runs:
            return policy.silence
        return f"{policy.name} ran and left {', '.join(dropped)}" if dropped else None

    def _look(
        self,
        connection: Connection,
        policy: RetentionPolicy | None,
        limit: datetime | None = None,
        dropped: tuple[str, ...] = (),
        note: str | None = None,
        wrong: str | None = None,
    ) -> Kept:
        left = self.chunks(connection)
        oldest_row, _ = self.rows(connection)
        return Kept(
            called=self.called,
            dropped=dropped,
            overdue=tuple(chunk.name for chunk in _before(limit, left)) if limit else (),
            count=len(left),
            long=sum(chunk.end - chunk.start > HOUR for chunk in left),
            oldest=left[0].start if left else None,
            oldest_row=oldest_row,
            bytes=sum(piece.bytes for piece in self.pieces(connection)),
            about={
                "chunks_compressed": sum(chunk.compressed for chunk in left),
                **(policy.about("policy") if policy else {"policy": None}),
            },
            note=note,
            wrong=wrong,
        )

    def drop(self, connection: Connection, limit: datetime) -> tuple[str, ...]:
        """One hour after the other: each in a transaction of its own."""
        kind = self._asked(connection, "dimensions", "column_type::text", "dimension_number = 1").fetchone()
        statement = sql.SQL("select {}(%s::oid::regclass, older_than => %s::{})").format(
            self.extension.function("drop_chunks"), sql.SQL(kind[0] if kind else "timestamptz")
        )
        dropped: list[str] = []
        for end in sorted({chunk.end for chunk in _before(limit, self.chunks(connection))}):
            try:
                with connection.transaction():
                    connection.execute("select set_config('lock_timeout', %s, true)", [DROP_LOCK_TIMEOUT])
                    rows = connection.execute(statement, [self.table.oid, end]).fetchall()
            except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
                break  # whoever reads this one reads the next ones too
            dropped += (name.rpartition(".")[2].strip('"') for (name,) in rows)
        return tuple(dropped)

    def pieces(self, connection: Connection) -> list[Piece]:
        """All of them, with their sizes."""
        stats = (
            sql.SQL("select chunk_schema, chunk_name, before_compression_total_bytes from {}(%(oid)s::oid::regclass)")
            if self.extension.community
            else sql.SQL("select null::name, null::name, null::bigint where false")
        )
        asked = sql.SQL("""
            select c.chunk_name, nullif(c.range_start, '-infinity'), nullif(c.range_end, 'infinity'),
                   coalesce(s.total_bytes, 0), c.is_compressed, k.bytes
            from timescaledb_information.chunks c
            left join {sizes}(%(oid)s::oid::regclass) s using (chunk_schema, chunk_name)
            left join ({stats}) k (chunk_schema, chunk_name, bytes) using (chunk_schema, chunk_name)
            where (c.hypertable_schema, c.hypertable_name) = (%(schema)s, %(name)s)
            order by c.range_start, c.chunk_name""").format(
            sizes=self.extension.function("chunks_detailed_size"),
            stats=stats.format(self.extension.function("chunk_compression_stats")),
        )
        named = {"oid": self.table.oid, "schema": self.table.schema, "name": self.table.name}
        return [Piece(*row) for row in connection.execute(asked, named)]

    def rows(self, connection: Connection) -> tuple[datetime | None, datetime | None]:
        """The oldest and the newest."""
        asked = "select time from {table} where isfinite(time) order by time {order} limit 1"
        found = [
            connection.execute(sql.SQL(asked).format(table=self.table.quoted, order=sql.SQL(order))).fetchone()
            for order in ("asc", "desc")
        ]
        oldest, newest = (row[0] if row else None for row in found)
        return oldest, newest

    def kept_longer(self, connection: Connection) -> str | None:
        """That the policy is somebody's who wants more."""
        policy = retention_job(connection, self.table) if self.extension.community else None
        return policy.keeps_longer(self.table) if policy and policy.after > KEPT else None

    def settings(self, connection: Connection) -> About:
        """Both policies."""
        policy = retention_job(connection, self.table) if self.extension.community else None
        without = "not in this edition" if not self.extension.community else "none"
        dropping = (
            policy.about("policy") if policy else {"policy": f"{without}: a running collector drops what is past"}
        )
        return {**dropping, **compression.settings(connection, self.table, self.extension)}

    def compression(self, connection: Connection) -> Compression | None:
        """Where the edition has it."""
        return compression.compression(connection, self.table, self.extension)

    def _asked(
        self, connection: Connection, view: str, columns: str, only: str = "true"
    ) -> "psycopg.Cursor[tuple[Any, ...]]":
        """What TimescaleDB tells of this table in one of its views."""
        asked = f"select {columns} from timescaledb_information.{view} where {only} and "  # noqa: S608  # ours
        return connection.execute(
            f"{asked} (hypertable_schema, hypertable_name) = (%s, %s)", [self.table.schema, self.table.name]
        )


def is_hypertable(connection: Connection, table: TableName) -> bool:
    """Whether TimescaleDB, which is in this database, keeps this table."""
    asked = "select from timescaledb_information.hypertables where (hypertable_schema, hypertable_name) = (%s, %s)"
    return connection.execute(asked, [table.schema, table.name]).rowcount > 0


def _before(limit: datetime, chunks: Iterable[Chunk]) -> list[Chunk]:
    return [chunk for chunk in chunks if chunk.end <= limit]
