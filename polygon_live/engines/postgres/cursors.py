"""The table ``tick_cursors``: how far each collector's ticks have come, and in whose hands its cursor is.

One row a collector. Rules:

- Every change is a compare-and-set on the row as its changer left it, or saw it: who finds it otherwise has been
  overtaken, and commits nothing. So a transaction that its collector has given up, and that goes on all the same, can't
  double anything.
- ``beat`` rises with every change: it is how others see that the holder lives.
- ``backend_pid`` and ``backend_start`` name the server's process that may hold an open transaction of the holder's. Who
  comes after him ends it first, so that it can't be in the way either.
- ``seq`` is null as long as there is nothing of this collector.
- ``updated_at`` is for people.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Final

import attrs

from polygon_live.engines.postgres.connection import Backend, Connection
from polygon_live.engines.postgres.unchanged import Unchanged
from polygon_live.errors import StoreContested, StoreUnavailable
from polygon_live.sink import Identity

_ADVICE: Final = (
    "if it should, stop this collector; if not, stop that one; or give one another POLYGON_LIVE_COLLECTOR_ID"
)
_MOVE: Final = (
    "update tick_cursors set seq = %s, beat = beat + 1, updated_at = now() "
    "where collector = %s and journal_id = %s and seq is not distinct from %s"
)


@attrs.frozen
class Mark:
    """A cursor as it was seen."""

    journal: str
    seq: int | None
    host: str
    beat: int
    backend: Backend | None
    updated: datetime

    @property
    def holder(self) -> str:
        """For people."""
        return f"host {self.host} (journal {self.journal})"

    def is_others(self, identity: Identity, *, claimed: bool) -> bool:
        """Whether it is of another journal, or, since this run has ``claimed`` it, of a copy of ours on another host.
        Before that the host tells nothing: a container has another name in each run.
        """
        return self.journal != identity.journal or (claimed and self.host != identity.host)


def look(connection: Connection, collector: str) -> Mark | None:
    """The collector's cursor; None if there is none, or not even the table."""
    if connection.execute("select to_regclass('tick_cursors') is null").fetchone() == (True,):
        return None
    asked = """
        select journal_id, seq, host, beat, backend_pid, backend_start, updated_at
        from tick_cursors where collector = %s"""
    row = connection.execute(asked, [collector]).fetchone()
    if row is None:
        return None
    journal, seq, host, beat, pid, started, updated = row
    return Mark(journal, seq, host, beat, Backend(pid, started) if pid and started else None, updated)


def contested(identity: Identity, mark: Mark, what: str) -> StoreContested:
    """The error that says so; ``what`` completes the sentence."""
    copy = " with a copy of this one's data folder" if mark.journal == identity.journal else ""
    begin = f"the cursor of {identity.collector} in tick_cursors belongs to another collector of this name{copy}, on "
    return StoreContested(f"{begin}{mark.holder}, {what}")


def claim(
    connection: Connection,
    identity: Identity,
    backend: Backend | None,
    *,
    dead: Mark | None,
    highest: Callable[[Connection], int | None],
    unchanged: Unchanged,
) -> "Cursor":
    """Enter ``backend``, our own, as the holder's, and read how far the ticks have come.

    ``dead`` is the cursor of another that may be taken over as it is there. Where there is no cursor, it is made, after
    the ``highest`` ``seq`` that the table holds. Where the table is not ``unchanged`` any more, it will not move.

    Raises StoreContested, StoreUnavailable, psycopg.Error.
    """
    pid, started = (backend.pid, backend.started) if backend else (None, None)
    ours = [identity.journal, identity.host, pid, started]
    mark = look(connection, identity.collector)
    if mark is None:
        seq = highest(connection)
        done = connection.execute(
            "insert into tick_cursors (journal_id, host, backend_pid, backend_start, collector, seq, beat) "
            "values (%s, %s, %s, %s, %s, %s, 1) on conflict do nothing",
            [*ours, identity.collector, seq],
        )
    else:
        seq = mark.seq
        if mark != dead and (dead or mark.journal != identity.journal):
            raise contested(identity, mark, f"which lives: it has just moved; {_ADVICE}")
        done = connection.execute(
            "update tick_cursors set journal_id = %s, host = %s, backend_pid = %s, backend_start = %s, "
            "beat = beat + 1, updated_at = now() "
            "where collector = %s and seq is not distinct from %s and journal_id = %s and beat = %s",
            [*ours, identity.collector, seq, mark.journal, mark.beat],
        )
    if done.rowcount != 1:
        message = f"the cursor of {identity.collector} in tick_cursors was moved while it was being claimed"
        raise StoreUnavailable(f"{message}: it is read again")
    return Cursor(identity, seq, unchanged)


class Cursor:
    """Our own cursor, as one connection moves it."""

    def __init__(self, identity: Identity, seq: int | None, unchanged: Unchanged) -> None:
        self._identity = identity
        self._unchanged = unchanged
        self._held, self._seen = unchanged.held(_MOVE), unchanged.seen(_MOVE)
        self.seq = seq
        """The last one that is known to be committed. Who commits a move says so here."""

    def move(self, connection: Connection, to: int | None) -> None:
        """To be called first in the transaction of the ticks; from then until its end nobody else can move it,
        nor change the table's columns.

        Raises StoreContested or StoreUnavailable if the row is not as we left it, or a column not as we found it; then
        the transaction must not commit.
        """
        self._set(connection, self._held, to)

    def beat(self, connection: Connection) -> None:
        """A sign of life, where nothing has to be written. Raises like ``move``.

        Who locks the table is not waited for, once the server's process knows its columns.
        """
        self._set(connection, self._seen, self.seq)

    def _set(self, connection: Connection, statement: bytes, to: int | None) -> None:
        ours = [self._identity.collector, self._identity.journal]
        moved = connection.execute(statement, [to, *ours, self.seq])
        if moved.rowcount != 1:
            raise self._overtaken(look(connection, self._identity.collector))
        self._unchanged.verify(moved.pgresult)

    def _overtaken(self, mark: Mark | None) -> StoreContested | StoreUnavailable:
        if mark and mark.is_others(self._identity, claimed=True):
            return contested(self._identity, mark, f"which has taken it over; {_ADVICE}")
        found = f"at {mark.seq}" if mark else "gone"
        return StoreUnavailable(
            f"the cursor of {self._identity.collector} in tick_cursors is {found}, and was left at {self.seq}: "
            "nothing was written, and it is read again"
        )


def watched(identity: Identity, mark: Mark, *, lives: bool, seconds: float) -> StoreContested:
    """The error of who waits whether another, the holder of this cursor, is dead."""
    if lives:
        return contested(identity, mark, f"which lives: its cursor moves; {_ADVICE}")
    return contested(identity, mark, f"and is taken over when it has not moved for {seconds:g} s; {_ADVICE}")
