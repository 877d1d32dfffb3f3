"""The side table ``tick_gaps``: a copy of the gap ledger for who works in the database. Bounded, and best effort."""

from collections.abc import Sequence
from typing import Final

from polygon_live.config import Secret
from polygon_live.engines.postgres.connection import Connection, connected
from polygon_live.gap import Gap
from polygon_live.model import evidence

MOST: Final = 100_000
"""Settled entries kept of one ledger."""
SAVE_SECONDS: Final = 10.0

_MADE: Final = """
    create table tick_gaps (
        collector text not null,
        journal_id text not null,
        id bigint not null,
        symbol text not null,
        cause text not null,
        store text,
        from_time timestamp with time zone not null,
        to_time timestamp with time zone,
        state text not null,
        detail text not null,
        first_seq bigint,
        last_seq bigint,
        ticks bigint,
        filled bigint not null,
        opened_at timestamp with time zone not null,
        updated_at timestamp with time zone not null default now(),
        primary key (collector, journal_id, id))"""

_KEY: Final = ("collector", "journal_id", "id")
_TOLD: Final = (
    *("symbol", "cause", "store", "from_time", "to_time", "state", "detail"),
    *("first_seq", "last_seq", "ticks", "filled", "opened_at"),
)
_INSTANT: Final = "timestamptz 'epoch' + %s::bigint * interval '1 millisecond'"


def _save_statement() -> str:
    names = ", ".join((*_KEY, *_TOLD))
    values = ", ".join(_INSTANT if name.endswith(("_time", "_at")) else "%s" for name in (*_KEY, *_TOLD))
    new = ", ".join(f"excluded.{name}" for name in _TOLD)
    old = ", ".join(f"tick_gaps.{name}" for name in _TOLD)
    return (
        f"insert into tick_gaps ({names}) values ({values}) on conflict ({', '.join(_KEY)}) "  # noqa: S608  # constants
        f"do update set ({', '.join(_TOLD)}, updated_at) = ({new}, now()) where ({old}) is distinct from ({new})"
    )


_SAVE: Final = _save_statement()
_EXPIRE: Final = """
    delete from tick_gaps where collector = %(collector)s
    and (opened_at < now() - interval '30 days'
        or journal_id = %(journal)s and id <= (
            select max(id) from tick_gaps where collector = %(collector)s and journal_id = %(journal)s) - %(most)s)
    and (state in ('filled', 'empty', 'unfillable') and to_time is not null or journal_id <> %(journal)s or id < 0)"""
"""What lasts or waits stays, unless nobody will ever settle it: a lost ledger's, and what never came into one."""


def make_gap_table(connection: Connection) -> None:
    """Called by the set-up, inside its transaction."""
    if connection.execute("select to_regclass('tick_gaps') is null").fetchone() == (True,):
        connection.execute(_MADE)


async def save_gaps(dsn: Secret, collector: str, journal: str, gaps: Sequence[Gap], gone: Sequence[int] = ()) -> None:
    """Copy these entries of a ledger, by their ids, and remove those with the ids ``gone``; over a connection of its
    own, for gaps must not hold up ticks.

    Raises StoreError; then nothing was changed.
    """
    async with connected(dsn, f"polygon-live/{collector}/gaps") as session:
        await session.run(SAVE_SECONDS, "save gaps", lambda c: _save(c, collector, journal, gaps, gone))


def _save(connection: Connection, collector: str, journal: str, gaps: Sequence[Gap], gone: Sequence[int]) -> None:
    rows = [
        (
            collector,
            journal,
            gap.id,
            evidence(gap.symbol),
            gap.cause,
            gap.store,
            gap.from_ms,
            gap.to_ms,
            gap.state,
            evidence(gap.detail),
            gap.first_seq,
            gap.last_seq,
            gap.ticks,
            gap.filled,
            gap.opened_ms,
        )
        for gap in gaps
    ]
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(
            "delete from tick_gaps where collector = %s and journal_id = %s and id = any(%s)",
            [collector, journal, list(gone)],
        )
        if rows:
            cursor.executemany(_SAVE, rows)
        cursor.execute(_EXPIRE, {"collector": collector, "journal": journal, "most": MOST})
