"""Set-up of the database: make what is missing, and describe what is there for who writes and who cleans up.

Every connection goes through ``set_up``, and so does each run of the retention: it changes only what has to be changed,
so that it takes milliseconds when nothing is missing. Two who do it at once take turns, by an advisory lock that ends
with the transaction. A database that was set up by a newer version of this program is left alone.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import attrs
import psycopg
import structlog
from psycopg import sql

from polygon_live.engines.postgres import adoption, extension
from polygon_live.engines.postgres.columns import COLUMNS
from polygon_live.engines.postgres.connection import Connection, whereabouts
from polygon_live.engines.postgres.gaps import make_gap_table
from polygon_live.engines.postgres.hypertable import Hypertable, is_hypertable
from polygon_live.engines.postgres.partitions import NativePartitions
from polygon_live.engines.postgres.storage import KEPT, SET_UP_LOCK, About, Storage, TableName
from polygon_live.engines.postgres.unchanged import Unchanged
from polygon_live.errors import StoreMisconfigured

log = structlog.get_logger()

VERSION: Final = 1
AHEAD: Final = timedelta(hours=24)
"""Partitions are there so long before they are needed: so long may the retention fail and no tick is refused."""

_TICKS: Final = "market_ticks"
_SIDE_TABLES: Final[Mapping[str, str]] = {
    "tick_rejects": """
        id bigint generated always as identity primary key,
        received_at timestamp with time zone not null,
        stage text not null,
        reason text not null,
        detail text not null,
        raw text not null,
        symbol text,
        seq bigint,
        collector text not null""",
    "tick_cursors": """
        collector text primary key,
        journal_id text not null,
        seq bigint,
        host text not null,
        beat bigint not null,
        backend_pid integer,
        backend_start timestamp with time zone,
        updated_at timestamp with time zone not null default now()""",
    "polygon_live_schema": """
        version integer primary key,
        set_up_at timestamp with time zone not null default now()""",
}


@attrs.frozen
class Layout:
    """The database as found or made."""

    table: TableName
    storage: Storage
    types: Mapping[str, str]
    """The columns of ours that can be written, each with its type's name as ``columns.writer_of`` takes it."""
    unchanged: Unchanged
    """The same columns, to be asked for whether they still are so."""
    about: About
    complaints: tuple[str, ...]


@attrs.frozen
class Found:
    """The table of ticks as it is."""

    table: TableName
    types: Mapping[str, str]
    """The columns of ours that can be written, each with its type's name as ``columns.writer_of`` takes it."""
    keyed: bool
    """Whether the database itself rules out that a tick is there twice."""


def set_up(connection: Connection, now: datetime) -> Layout:
    """Make the database ready for ticks from ``KEPT`` before ``now`` to ``AHEAD`` after it.

    Raises psycopg.Error, and StoreMisconfigured for what somebody must change.
    """
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(%s)", [SET_UP_LOCK])
        # A change of the table waits for those who use it, and everybody behind waits with it: not for long.
        connection.execute("set local lock_timeout = '3s'")
        known = known_version(connection)
        table = _find(connection)
        made = table is None
        storage = _storage(connection, table) if table else _make(connection)
        table = storage.table
        columns = adoption.adopt(connection, table, storage)
        if made or known is None:
            _add_indexes(connection, table)
        for name, content in _SIDE_TABLES.items():
            if not _exists(connection, name):
                connection.execute(f"create table {name} ({content})")
        make_gap_table(connection)
        if known is None:
            connection.execute("insert into polygon_live_schema (version) values (%s)", [VERSION])
    storage.cover(connection, now - KEPT, now + AHEAD)
    keyed = adoption.has_key(connection, table)
    differences = adoption.differences(columns)
    types = _written(columns)
    return Layout(
        table=table,
        storage=storage,
        types=types,
        unchanged=Unchanged(table, {name: columns[name] for name in types}),
        about={
            **whereabouts(connection),
            "edition": storage.edition,
            **storage.about(connection),
            "table": str(table),
            "columns": f"adopted: {', '.join(differences)}" if differences else "as polygon-live makes them",
            "unique_index": keyed,
        },
        complaints=adoption.complaints(table, columns, keyed=keyed),
    )


def find(connection: Connection) -> Found | None:
    """The table, if there is one. Changes nothing. Raises psycopg.Error."""
    table = _find(connection)
    if table is None:
        return None
    columns = adoption.columns_of(connection, table)
    return Found(table, _written(columns), adoption.has_key(connection, table))


def storage_of_ticks(connection: Connection) -> Storage | None:
    """The way in which the table is kept, if there is one. Changes nothing.

    Raises psycopg.Error, and StoreMisconfigured if the database is a newer version's.
    """
    known_version(connection)
    table = _find(connection)
    return _storage(connection, table) if table else None


def instant(unix_ms: int) -> datetime:
    """Unix milliseconds as PostgreSQL's instants go in and out. Exact."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=unix_ms)


def _written(columns: Mapping[str, adoption.FoundColumn]) -> Mapping[str, str]:
    return {c.name: f.type for c in COLUMNS if (f := columns.get(c.name)) and not f.generated}


def known_version(connection: Connection) -> int | None:
    """The version by which the database was set up, None before the first time.

    Raises StoreMisconfigured if it is a newer one.
    """
    if not _exists(connection, "polygon_live_schema"):
        return None
    found = connection.execute("select max(version) from polygon_live_schema").fetchone()
    version: int | None = found[0] if found else None
    if version is not None and version > VERSION:
        message = (
            f"the database was set up by a newer polygon-live (schema version {version}, this one knows {VERSION}): "
            "start the newer one, or name another database"
        )
        raise StoreMisconfigured(message)
    return version


def _exists(connection: Connection, name: str) -> bool:
    """Asked first, because even CREATE … IF NOT EXISTS needs the right to create.

    By way of pg_class: to_regclass alone would believe what this connection was told before somebody else made it.
    """
    found = connection.execute("select from pg_class where oid = to_regclass(%s)", [name])
    return found.rowcount == 1


def _find(connection: Connection) -> TableName | None:
    asked = """
        select c.oid, n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where c.oid = to_regclass(%s)"""
    row = connection.execute(asked, [_TICKS]).fetchone()
    return TableName(*row) if row else None


def _make(connection: Connection) -> Storage:
    """The table, as a hypertable where TimescaleDB is or can be had."""
    timescaledb = extension.installed(connection)
    without = extension.add(connection) if timescaledb is None else None
    timescaledb = timescaledb or extension.installed(connection)
    columns = ", ".join(adoption.declared(c) + ("" if c.nullable else " not null") for c in COLUMNS)
    connection.execute(f"create table {_TICKS} ({columns}) {'' if timescaledb else 'partition by range (time)'}")
    table = _find(connection)
    assert table is not None  # noqa: S101  # made a line above, in the first schema of the search_path
    log.info("table made", table=str(table), timescaledb=timescaledb.edition if timescaledb else without)
    if timescaledb is None:
        return NativePartitions(table, without=f"not used: {without}")
    hypertable = Hypertable(table, timescaledb)
    hypertable.make(connection)
    return hypertable


def _storage(connection: Connection, table: TableName) -> Storage:
    """In which way this table keeps its three days: decided here, once for each connection.

    A table that is natively partitioned stays so when TimescaleDB comes to its database later, for that works as well.
    """
    timescaledb = extension.installed(connection)
    if timescaledb is None:
        return NativePartitions(table, without="not used: not in this database")
    if is_hypertable(connection, table):
        return Hypertable(table, timescaledb)
    return NativePartitions(table, timescaledb)


def _add_indexes(connection: Connection, table: TableName) -> None:
    """Tried once, not at every connection: on an adopted table full of rows it takes a while, and writers wait."""
    if not adoption.has_key(connection, table):
        _try_index(connection, table, "create unique index on {} (time, collector, seq)")
    if not any(index.columns[:2] == ("symbol", "time") for index in adoption.indexes(connection, table)):
        _try_index(connection, table, "create index on {} (symbol, time desc)")


def _try_index(connection: Connection, table: TableName, statement: str) -> None:
    try:
        with connection.transaction():
            connection.execute(sql.SQL(statement).format(table.quoted))
    except psycopg.Error as why:
        if connection.broken:
            raise
        log.warning(
            "index not made, going on without", statement=statement.format(table), why=" ".join(str(why).split())
        )
