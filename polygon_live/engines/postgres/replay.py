"""Ticks from the archive into the table: what it lacks of them, once each, beside whoever else is writing.

- A block is copied into a table of the session's own (staging), what the table holds already is taken out there, and
  the rest is inserted, in one transaction. So a replay that was ended anywhere is made whole by the next.
- A tick above its collector's cursor is left out: the collector itself is bringing it, and would find it there. What is
  not above it the collector never writes again, and the cursor moves in the transaction that brings the ticks. A
  collector without a cursor has not begun: it can't begin while a block of its ticks is being written.
- Replays take turns, block by block: that makes comparing safe where the table has no unique index to rely on.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import attrs
import psycopg
from psycopg import sql

from polygon_live.engines.postgres.columns import COLUMNS, ColumnWriter, writer_of
from polygon_live.engines.postgres.connection import Connection
from polygon_live.engines.postgres.copying import copy_in
from polygon_live.engines.postgres.schema import find, instant, set_up
from polygon_live.engines.postgres.storage import KEPT
from polygon_live.errors import StoreMisconfigured
from polygon_live.model import Tick

_TRIES: Final = 3
_KEPT_MS: Final = KEPT // timedelta(milliseconds=1)
_ONE_REPLAY_LOCK: Final = int.from_bytes(b"polyrepl", "big")
_KEY: Final = ("time", "collector", "seq")


@attrs.frozen
class Put:
    """What became of a block of ticks."""

    written: int = 0
    """In a rehearsal: that would be."""
    there: int = 0
    """The table held them already."""
    expired: int = 0
    """Older than what the table keeps."""
    above: int = 0
    """Above their collector's cursor."""


class ReplayTable:
    """The table of ticks as a replay writes to it, over one connection. ``rehearsal``: it only looks."""

    def __init__(self, connection: Connection, tenant: str, now: datetime, *, rehearsal: bool) -> None:
        """Raises psycopg.Error, StoreMisconfigured."""
        self._tenant = tenant
        self._writers: dict[str, list[ColumnWriter]] = {}
        self._layout = None if rehearsal else set_up(connection, now)
        found = find(connection)
        if found is None or not found.types.keys() >= set(_KEY):  # only in a rehearsal: then it holds none of them
            self._table = None
            return
        self._table = found.table
        self._types = {name: found.types[name] for name in _KEY} if rehearsal else found.types
        columns = self._columns(*self._types)
        connection.execute(sql.SQL("drop table if exists pg_temp.replayed_ticks"))
        stage = "create temporary table replayed_ticks on commit delete rows as select {} from {} with no data"
        connection.execute(sql.SQL(stage).format(columns, self._table.quoted))
        self._copy = sql.SQL("copy pg_temp.replayed_ticks ({}) from stdin (format binary)").format(columns)
        # Without the index no conflict can be named. None arises: replays take turns, and nobody else writes these.
        once = sql.SQL("on conflict ({}) do nothing" if found.keyed else "").format(self._columns(*_KEY))
        self._insert = sql.SQL("insert into {0} ({1}) select {1} from pg_temp.replayed_ticks {2}").format(
            self._table.quoted, columns, once
        )

    def put(self, connection: Connection, ticks: Mapping[str, Sequence[Tick]], now_ms: Callable[[], int]) -> Put:
        """The ticks of each collector: all that the table lacks, or none.

        Raises RowsRefused, StoreMisconfigured, psycopg.Error.
        """
        for _ in range(_TRIES):
            edge_ms = now_ms() - _KEPT_MS
            kept = {c: [t for t in ts if t.timestamp_ms >= edge_ms] for c, ts in ticks.items()}
            try:
                with connection.transaction():
                    put = self._put(connection, {c: ts for c, ts in kept.items() if ts})
            except psycopg.errors.CheckViolation as why:
                if self._layout is None or why.diag.constraint_name:
                    raise
                # This is no constraint: a partition is missing, as in ``ticks``.
                first, last = _span(kept)
                self._layout.storage.cover(connection, first, last)
                unplaced = why
            else:
                return attrs.evolve(put, expired=_count(ticks) - _count(kept))
        message = f"{self._table} has a partition for these ticks that does not take them: {unplaced}"
        raise StoreMisconfigured(message)

    def _put(self, connection: Connection, ticks: Mapping[str, Sequence[Tick]]) -> Put:
        cursors = self._cursors(connection, ticks)
        # By seq, for the archive of an older collector may have one twice.
        below = {c: {t.seq: t for t in ts if t.seq <= cursors.get(c, t.seq)} for c, ts in ticks.items()}
        staged = {c: list(ts.values()) for c, ts in below.items() if ts}
        above = sum(t.seq > cursors.get(c, t.seq) for c, ts in ticks.items() for t in ts)
        written = self._fill(connection, staged) if staged else 0
        return Put(written=written, there=_count(ticks) - above - written, above=above)

    def _cursors(self, connection: Connection, collectors: Iterable[str]) -> Mapping[str, int]:
        if connection.execute("select to_regclass('tick_cursors')").fetchone() == (None,):
            return {}
        asked = "select collector, coalesce(seq, 0) from tick_cursors where collector = any(%s)"
        names = list(collectors)
        cursors: dict[str, int] = dict(connection.execute(asked, [names]).fetchall())
        if len(cursors) < len(names) and self._layout is not None:
            connection.execute("lock table tick_cursors in share mode")
            cursors = dict(connection.execute(asked, [names]).fetchall())
        return cursors

    def _fill(self, connection: Connection, ticks: Mapping[str, Sequence[Tick]]) -> int:
        """How many of them it lacked."""
        if self._table is None:
            return _count(ticks)
        if self._layout is not None:
            connection.execute("select pg_advisory_xact_lock(%s)", [_ONE_REPLAY_LOCK])
        for collector, ones in ticks.items():
            self._stage(connection, collector, ones)
        connection.execute("analyze pg_temp.replayed_ticks")
        held = sql.SQL(
            "delete from pg_temp.replayed_ticks s using {} t where t.time = s.time and t.collector = s.collector "
            "and t.seq = s.seq and t.time between %s and %s"
        )
        there = connection.execute(held.format(self._table.quoted), _span(ticks)).rowcount
        lacking = _count(ticks) - there
        if self._layout is not None and lacking:
            written = connection.execute(self._insert).rowcount
            if written != lacking:
                message = (
                    f"{self._table} took {written} of {lacking} ticks and says nothing of the others: a trigger on it "
                    "keeps them out; change it, or remove it"
                )
                raise StoreMisconfigured(message)
        return lacking

    def _stage(self, connection: Connection, collector: str, ticks: Sequence[Tick]) -> None:
        if collector not in self._writers:
            constants = {"collector": collector, "tenant_id": self._tenant}
            found = (writer_of(c, self._types[c.name], constants) for c in COLUMNS if c.name in self._types)
            self._writers[collector] = [writer for writer in found if writer]
        copy_in(connection, self._copy, self._writers[collector], ticks)

    @staticmethod
    def _columns(*names: str) -> sql.Composed:
        return sql.SQL(", ").join(map(sql.Identifier, names))


def _count(ticks: Mapping[str, Sequence[Tick]]) -> int:
    return sum(map(len, ticks.values()))


def _span(ticks: Mapping[str, Sequence[Tick]]) -> tuple[datetime, datetime]:
    stamps = [t.timestamp_ms for ts in ticks.values() for t in ts]
    return instant(min(stamps)), instant(max(stamps))
