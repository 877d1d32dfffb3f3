"""A table of ticks that is there: what it has, what is in the way of using it, what it lacks.

Adopting changes as little as possible: columns of ours that are missing are added, rows are not touched, the table's
own columns keep their types. Whatever would lose good ticks, or keep old ones for ever, is refused: everything at once,
each by its name, with what to do. Our own table passes through here too, at every connection.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final

import attrs
import structlog
from psycopg import sql

from polygon_live.engines.postgres.columns import COLUMNS, TIME, Column, writer_of
from polygon_live.engines.postgres.connection import Connection
from polygon_live.engines.postgres.storage import Storage, TableName
from polygon_live.errors import StoreMisconfigured

log = structlog.get_logger()

_READ_BY_OTHERS: Final = frozenset({"symbol", "time", "timestamp_ms", "bid", "ask"})
"""What the platform's readers use: a table without these is some other table."""
_KEY: Final = frozenset({"time", "collector", "seq"})
_ANY_CONSTANT: Final = {column.name: "" for column in COLUMNS if column.tick is None}


@attrs.frozen
class FoundColumn:
    """A column that the table has."""

    name: str
    type: str
    """``pg_type.typname``, below a domain; ``enum`` for every enumeration."""
    spelled: str
    must_be_given: bool
    """NOT NULL, and nothing fills it by itself."""
    not_null: bool
    generated: bool
    """Computed from others: nobody can write it."""
    oid: int
    """Of the type, below a domain."""
    modifier: int
    """Of the type, below a domain: its length, precision, scale; -1 if it has none."""

    @property
    def coarse(self) -> bool:
        """Whether an instant loses its milliseconds there: then a tick that the table holds is not found again."""
        digits = re.match(r"timestamp\((\d)\)", self.spelled)
        return digits is not None and int(digits[1]) < 3

    @property
    def rounds(self) -> bool:
        """Whether a price is changed by being put there. Pairs are quoted with up to five decimals."""
        scale = re.fullmatch(r"numeric\(\d+,(-?\d+)\)", self.spelled)
        return self.type == "float4" or (scale is not None and int(scale[1]) < 5)


@attrs.frozen
class FoundIndex:
    """An index of the table."""

    name: str
    unique: bool
    whole: bool
    """Valid, and over all rows."""
    columns: tuple[str | None, ...]
    """None stands for an expression."""


def adopt(connection: Connection, table: TableName, storage: Storage) -> Mapping[str, FoundColumn]:
    """Give the table the columns that it lacks; all its columns then, by name.

    Raises StoreMisconfigured that names everything in the way, psycopg.Error.
    """
    columns = columns_of(connection, table)
    faults = [*storage.faults(connection), *_column_faults(table, columns), *_key_faults(connection, table)]
    if faults:
        raise StoreMisconfigured("; ".join(faults))
    missing = [column for column in COLUMNS if column.name not in columns]
    if not missing:
        return columns
    added = ", ".join(f"add column {declared(c)}{' not null' if c.default else ''}" for c in missing)
    connection.execute(sql.SQL("alter table {} {}").format(table.quoted, sql.SQL(added)))
    log.info("columns added to the table", table=str(table), columns=[c.name for c in missing])
    return columns_of(connection, table)


def declared(column: Column) -> str:
    """Name, type and default, as in CREATE TABLE."""
    return f"{column.name} {column.type}" + (f" default {column.default}" if column.default else "")


def has_key(connection: Connection, table: TableName) -> bool:
    """Whether the database itself rules out that a tick is there twice."""
    return any(i.unique and i.whole and frozenset(i.columns) == _KEY for i in indexes(connection, table))


def differences(columns: Mapping[str, FoundColumn]) -> Sequence[str]:
    """In what the table is not as we make it, column by column; empty for our own."""
    ours = {c.name: c.type for c in COLUMNS}
    return [
        f"{name} {found.spelled}" if name in ours else f"{name} (not ours)"
        for name, found in columns.items()
        if ours.get(name) != found.spelled
    ]


def complaints(table: TableName, columns: Mapping[str, FoundColumn], *, keyed: bool) -> tuple[str, ...]:
    """What somebody should mend, though ticks can be written."""
    found = []
    if not keyed:
        found.append(
            f"{table} has no unique index on (time, collector, seq), so the database itself does not rule out doubled "
            f"ticks: create unique index on {table} (time, collector, seq)"
        )
    rounded = [f"{name} {columns[name].spelled}" for name in ("bid", "ask") if columns[name].rounds]
    if rounded:
        found.append(f"{table} has {', '.join(rounded)}, which rounds prices: make it double precision")
    return tuple(found)


def indexes(connection: Connection, table: TableName) -> list[FoundIndex]:
    """All of the table's."""
    asked = """
        select c.relname, i.indisunique or i.indisexclusion, i.indisvalid and i.indpred is null,
               array_agg(a.attname::text order by k)
        from pg_index i
        join pg_class c on c.oid = i.indexrelid
        cross join generate_series(0, i.indnkeyatts - 1) k
        left join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[k]
        where i.indrelid = %s
        group by 1, 2, 3
        order by 1"""
    rows = connection.execute(asked, [table.oid])
    return [FoundIndex(name, unique, whole, tuple(columns)) for name, unique, whole, columns in rows]


def columns_of(connection: Connection, table: TableName) -> Mapping[str, FoundColumn]:
    """Those that the table has, by name."""
    asked = """
        select a.attname, case when b.typtype = 'e' then 'enum' else b.typname end,
               format_type(a.atttypid, a.atttypmod),
               a.attnotnull and not a.atthasdef and a.attidentity = '' and t.typdefault is null,
               a.attnotnull, a.attgenerated <> '',
               b.oid, case when t.typbasetype = 0 then a.atttypmod else t.typtypmod end
        from pg_attribute a
        join pg_type t on t.oid = a.atttypid
        join pg_type b on b.oid = coalesce(nullif(t.typbasetype, 0), t.oid)
        where a.attrelid = %s and a.attnum > 0 and not a.attisdropped
        order by a.attnum"""
    return {row[0]: FoundColumn(*row) for row in connection.execute(asked, [table.oid])}


def _column_faults(table: TableName, columns: Mapping[str, FoundColumn]) -> list[str]:
    ours = {c.name: c for c in COLUMNS}
    faults = [
        f"{table} has no column {name}, which its readers use: rename the table if it is another's, or add the column"
        for name in sorted(_READ_BY_OTHERS - columns.keys())
    ]
    for found in columns.values():
        where = f"column {found.name} of {table}"
        mine = ours.get(found.name)
        if mine is None:
            if found.must_be_given:
                faults.append(
                    f"{where} is NOT NULL without a default, and there is nothing to put in: give it a default"
                )
        elif found.generated:
            continue
        elif writer_of(mine, found.type, _ANY_CONSTANT) is None:
            faults.append(f"{where} is {found.spelled}, which can't take what belongs there: make it {mine.type}")
        elif mine is TIME and found.coarse:
            faults.append(f"{where} is {found.spelled}, which cuts off milliseconds: make it {mine.type}")
        elif mine.nullable and found.not_null:
            faults.append(f"{where} is NOT NULL, but some ticks have none: drop the NOT NULL")
    return faults


def _key_faults(connection: Connection, table: TableName) -> list[str]:
    faults = []
    for index in indexes(connection, table):
        if index.unique and not {"seq", "tick_id"}.intersection(index.columns):
            columns = ", ".join(c or "an expression" for c in index.columns)
            faults.append(
                f"the unique key {index.name} ({columns}) of {table} would refuse good ticks, for two of them can "
                "agree in everything but seq and tick_id: drop it, or add one of these to it"
            )
    return faults
