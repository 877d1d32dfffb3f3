"""What must be known after a restart and is no tick: the journal's id, which numbers may be in use, how far each store
is, what was not received (gaps), what a store refused (quarantine), which segments are gone.

``ledger.db`` in the journal's folder. The collector writes it and, now and then, another process (``backfill``); so
each change is one short transaction. What must outlive a power cut says that it is durable.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import EllipsisType
from typing import Any, Final, Self

import attrs

from polygon_live.errors import JournalError
from polygon_live.gap import UNSETTLED, Cause, Gap, State
from polygon_live.journal.database import Damaged, Database, Format, Sync, make_durable, set_aside, translated
from polygon_live.journal.facts import Aside, Newest
from polygon_live.journal.holes import MOST_KNOWN, Hole

FORMAT: Final = Format(
    "ledger",
    0x504C4C47,  # PLLG
    steps=(
        (
            """CREATE TABLE meta (
                one INTEGER PRIMARY KEY CHECK (one = 1),
                journal_id TEXT NOT NULL,
                mark INTEGER NOT NULL,
                removed_to INTEGER NOT NULL,
                changed INTEGER NOT NULL)""",
            "INSERT INTO meta VALUES (1, lower(hex(randomblob(8))), 0, 0, 0)",
            "CREATE TABLE cursors (sink TEXT PRIMARY KEY, seq INTEGER NOT NULL)",
            "CREATE TABLE newest (symbol TEXT PRIMARY KEY, timestamp_ms INTEGER NOT NULL, seq INTEGER NOT NULL)",
            """CREATE TABLE gone (
                first INTEGER PRIMARY KEY, last INTEGER NOT NULL, cause TEXT NOT NULL,
                ticks INTEGER, from_ms INTEGER, to_ms INTEGER)""",
            """CREATE TABLE gaps (
                id INTEGER PRIMARY KEY AUTOINCREMENT, symbol TEXT NOT NULL, cause TEXT NOT NULL,
                from_ms INTEGER NOT NULL, to_ms INTEGER, store TEXT, state TEXT NOT NULL, detail TEXT NOT NULL,
                first_seq INTEGER, last_seq INTEGER, ticks INTEGER, filled INTEGER NOT NULL,
                opened_ms INTEGER NOT NULL, changed INTEGER NOT NULL)""",
            "CREATE UNIQUE INDEX gaps_changed ON gaps (changed)",
            "CREATE INDEX gaps_state ON gaps (state, cause)",
            "CREATE INDEX gaps_age ON gaps (state, opened_ms)",
            """CREATE TABLE asides (
                id INTEGER PRIMARY KEY AUTOINCREMENT, sink TEXT NOT NULL, seq INTEGER NOT NULL, symbol TEXT NOT NULL,
                why TEXT NOT NULL, payload BLOB NOT NULL, at_ms INTEGER NOT NULL, UNIQUE (sink, seq))""",
            "CREATE TABLE aside_counts (sink TEXT PRIMARY KEY, ticks INTEGER NOT NULL)",
        ),
    ),
)
MOST_CLOSED: Final = 100_000
CLOSED_KEPT_MS: Final = 30 * 24 * 3600 * 1000
MOST_ASIDE: Final = 100_000
_VERIFIED: Final = "verified "
"""Kept among the cursors, under names of their own: so an older version of the program can open this ledger."""

_GAP: Final = ", ".join(field.name for field in attrs.fields(Gap))
_CLOSED: Final = "state IN ('filled', 'empty', 'unfillable')"


class Ledger:
    """Synchronous; used by one thread at a time, but for ``mark``. All methods raise JournalError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._mark: int
        ((self.journal_id, self._mark),) = database.execute("SELECT journal_id, mark FROM meta")

    @classmethod
    def open(cls, folder: Path, *, sync: Sync = make_durable, form: Format = FORMAT) -> Self:
        """For who holds the lock: a missing one is made, an older one migrated."""
        database = Database.open(path_in(folder), form, sync=sync)
        try:
            database.check()
            database.sync()
            return cls(database)
        except BaseException:
            database.close()
            raise

    @classmethod
    def open_or_replace(cls, folder: Path, *, sync: Sync) -> Self:
        """A damaged one is set aside: without gaps and cursors the collector can work, without starting it can't."""
        try:
            return cls.open(folder, sync=sync)
        except Damaged:
            set_aside(path_in(folder))
            return cls.open(folder, sync=sync)

    @classmethod
    def open_existing(cls, folder: Path, *, sync: Sync = make_durable, form: Format = FORMAT) -> Self:
        """For a second process. Raises JournalError if no collector has made one yet."""
        if not is_there(folder):
            raise JournalError(f"no collector has run here: {path_in(folder)} is missing; name the collector's folder")
        database = Database.open(path_in(folder), form, sync=sync, make=False)
        try:
            return cls(database)
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    # Numbers

    @property
    def mark(self) -> int:
        """Numbers up to here may be in use. Changed by who holds the lock, and by nobody else. May be asked from any
        thread at any time: it touches no file, which would wait for a write that hangs.
        """
        return self._mark

    def reserve(self, seq: int) -> None:
        """Numbers up to this one may be used when it returns: no run after this one will start at or below it."""
        ((mark,),) = self._database.execute("UPDATE meta SET mark = max(mark, ?) RETURNING mark", (seq,))
        self._database.sync()
        self._mark = int(mark)

    def recover(self, *, mark: int, removed_to: int) -> None:
        """What the segments tell a new ledger. Durable."""
        self._database.execute("UPDATE meta SET mark = ?, removed_to = ?", (mark, removed_to))
        self._database.sync()
        self._mark = mark

    # Cursors and newest ticks

    def cursors(self) -> dict[str, int]:
        """How far each store was when that was last written down."""
        return {name: seq for name, seq in self._cursors().items() if not name.startswith(_VERIFIED)}

    def verified(self) -> dict[str, int]:
        """Up to which number what a store holds was compared, when that was last written down."""
        found = self._cursors().items()
        return {name.removeprefix(_VERIFIED): seq for name, seq in found if name.startswith(_VERIFIED)}

    def _cursors(self) -> dict[str, int]:
        return dict(self._database.execute("SELECT sink, seq FROM cursors"))

    def newest(self) -> dict[str, Newest]:
        """By symbol, as last written down."""
        rows = self._database.execute("SELECT symbol, timestamp_ms, seq FROM newest")
        return {symbol: Newest(timestamp_ms, seq) for symbol, timestamp_ms, seq in rows}

    def remember(self, cursors: Mapping[str, int], newest: Mapping[str, Newest]) -> None:
        """Write down both, those that are given. Not durable: a power cut may bring back an earlier state."""
        with self._database.transaction():
            for sink, seq in cursors.items():
                self._database.execute("INSERT OR REPLACE INTO cursors VALUES (?, ?)", (sink, seq))
            for symbol, tick in newest.items():
                row = (symbol, tick.timestamp_ms, tick.seq)
                self._database.execute("INSERT OR REPLACE INTO newest VALUES (?, ?, ?)", row)

    def remember_verified(self, marks: Mapping[str, int]) -> None:
        """By store. Not durable, likewise: then some is compared once more."""
        self.remember({_VERIFIED + store: seq for store, seq in marks.items()}, {})

    def forget(self, symbols: Iterable[str]) -> None:
        """When these ticked last. Not durable, likewise."""
        with self._database.transaction():
            for symbol in symbols:
                self._database.execute("DELETE FROM newest WHERE symbol = ?", (symbol,))

    # Segments that are gone

    @property
    def removed_to(self) -> int:
        """Segments up to this ``seq`` were removed."""
        ((seq,),) = self._database.execute("SELECT removed_to FROM meta")
        return int(seq)

    def gone(self) -> list[Hole]:
        """What was in removed and damaged segments, in order."""
        return [Hole(*row) for row in self._database.execute("SELECT * FROM gone ORDER BY first")]

    def enter_gone(self, hole: Hole, gaps: Sequence[Gap] = ()) -> None:
        """Before a file goes, and what stores will lack by it: who were killed between the two would tell nobody.
        Idempotent, durable.
        """
        with self._database.transaction():
            self._database.execute("INSERT OR REPLACE INTO gone VALUES (?, ?, ?, ?, ?, ?)", attrs.astuple(hole))
            if hole.cause == "given_up":
                self._database.execute("UPDATE meta SET removed_to = max(removed_to, ?)", (hole.last,))
            for gap in gaps:
                which = gap.store, gap.cause, gap.last_seq
                if not self._database.execute("SELECT 1 FROM gaps WHERE (store, cause, last_seq) = (?, ?, ?)", which):
                    self._enter(gap, gap.opened_ms)
            self._database.execute(
                "DELETE FROM gone WHERE first <= (SELECT first FROM gone ORDER BY first DESC LIMIT 1 OFFSET ?)",
                (MOST_KNOWN,),
            )
        self._database.sync()

    # Quarantine

    def set_aside(self, aside: Aside) -> None:
        """Keep a tick that a store refuses; a second time changes nothing. Durable."""
        with self._database.transaction():
            entered = self._database.execute(
                "INSERT INTO asides (sink, seq, symbol, why, payload, at_ms) VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT DO NOTHING RETURNING id",
                attrs.astuple(aside),
            )
            for (id_,) in entered:
                self._database.execute(
                    "INSERT INTO aside_counts VALUES (?, 1) ON CONFLICT (sink) DO UPDATE SET ticks = ticks + 1",
                    (aside.sink,),
                )
                self._database.execute("DELETE FROM asides WHERE id <= ?", (id_ - MOST_ASIDE,))
        self._database.sync()

    def set_aside_counts(self) -> dict[str, int]:
        """By sink: all that ever were, though only the latest ``MOST_ASIDE`` are kept."""
        return dict(self._database.execute("SELECT sink, ticks FROM aside_counts"))

    def quarantine(self, sink: str | None = None, limit: int = 1000) -> list[Aside]:
        """The latest, newest first."""
        rows = self._database.execute(
            "SELECT sink, seq, symbol, why, payload, at_ms FROM asides WHERE ?1 IS NULL OR sink = ?1 "
            "ORDER BY id DESC LIMIT ?2",
            (sink, limit),
        )
        return [Aside(*row) for row in rows]

    def set_aside_between(self, sink: str, first: int, last: int) -> list[int]:
        """Which of these numbers."""
        asked = "SELECT seq FROM asides WHERE sink = ? AND seq BETWEEN ? AND ? ORDER BY seq"
        return [seq for (seq,) in self._database.execute(asked, (sink, first, last))]

    # Gaps

    def enter(self, gaps: Sequence[Gap], now_ms: int) -> list[Gap]:
        """New entries, with ``id``, ``opened_ms`` and ``changed`` as they are now. Durable."""
        return self.write([attrs.evolve(gap, id=0) for gap in gaps], now_ms)

    def update(self, gap: Gap) -> Gap:
        """Write an entry as it is now, by its ``id``; returned with its new ``changed``. Durable."""
        (new,) = self.write([gap], gap.opened_ms)
        return new

    def write(self, gaps: Sequence[Gap], now_ms: int) -> list[Gap]:
        """Enter those without an ``id`` and update the others: all of them, or none. Durable."""
        with self._database.transaction():
            written = [self._update(gap) if gap.id else self._enter(gap, now_ms) for gap in gaps]
            if not all(gap.id for gap in gaps):
                self._forget(now_ms)
        self._database.sync()
        return written

    def _enter(self, gap: Gap, now_ms: int) -> Gap:
        new = attrs.evolve(gap, opened_ms=now_ms, changed=self._change())
        names = _GAP.removeprefix("id, ")
        values = attrs.astuple(new)[1:]
        ((id_,),) = self._database.execute(
            f"INSERT INTO gaps ({names}) VALUES ({_marks(values)}) RETURNING id",  # noqa: S608  # names of fields
            values,
        )
        return attrs.evolve(new, id=id_)

    def _update(self, gap: Gap) -> Gap:
        new = attrs.evolve(gap, changed=self._change())
        values = attrs.astuple(new)
        if not self._database.execute(
            f"UPDATE gaps SET ({_GAP}) = ({_marks(values)}) WHERE id = ? RETURNING id",  # noqa: S608  # names of fields
            (*values, gap.id),
        ):
            raise JournalError(f"the ledger has no gap {gap.id}: it was closed long ago, or is another ledger's")
        return new

    def gaps(
        self,
        *,
        states: Sequence[State] | None = None,
        symbol: str | None = None,
        store: str | EllipsisType | None = ...,
        after_change: int = 0,
        limit: int | None = None,
        latest: int | None = None,
    ) -> list[Gap]:
        """Entries in the order of their latest change: the first ``limit`` of them, or the last ``latest``.
        ``store=None``: those of the feed; not given: all.
        """
        wanted, values = ["changed > ?"], [after_change]  # type: list[str], list[Any]
        if states is not None:
            # The plus keeps SQLite from sorting all of a state for the sake of its latest.
            wanted.append(f"{'' if latest is None else '+'}state IN ({_marks(states)})")
            values.extend(states)
        if symbol is not None:
            wanted.append("symbol = ?")
            values.append(symbol)
        if store is not ...:
            wanted.append("store IS ?")
            values.append(store)
        order, most = ("changed", limit) if latest is None else ("changed DESC", latest)
        rows = self._database.execute(
            f"SELECT {_GAP} FROM gaps WHERE {' AND '.join(wanted)} ORDER BY {order} LIMIT ?",  # noqa: S608  # the above
            (*values, -1 if most is None else most),
        )
        found = [Gap(*row) for row in rows]
        return found if latest is None else found[::-1]

    def gap_counts(self) -> dict[tuple[Cause, State], int]:
        """How many entries there are."""
        rows = self._database.execute("SELECT cause, state, count(*) FROM gaps GROUP BY state, cause")
        return {(cause, state): number for cause, state, number in rows}

    def unsettled_since_ms(self) -> int | None:
        """Since when there is something to be done about the oldest entry that is neither filled nor given up: it was
        made, and has ended. One that lasts can't be filled yet.
        """
        wanted = f"state IN ({_marks(UNSETTLED)}) AND to_ms IS NOT NULL"
        ((since_ms,),) = self._database.execute(
            f"SELECT min(max(opened_ms, to_ms)) FROM gaps WHERE {wanted}",  # noqa: S608  # question marks
            UNSETTLED,
        )
        return None if since_ms is None else int(since_ms)

    def _change(self) -> int:
        ((changed,),) = self._database.execute("UPDATE meta SET changed = changed + 1 RETURNING changed")
        return int(changed)

    def _forget(self, now_ms: int) -> None:
        """Closed entries that are old or too many."""
        self._database.execute(
            f"DELETE FROM gaps WHERE {_CLOSED} AND opened_ms < ?",  # noqa: S608  # a constant
            (now_ms - CLOSED_KEPT_MS,),
        )
        self._database.execute(
            f"DELETE FROM gaps WHERE {_CLOSED} AND id <= (SELECT max(id) FROM gaps) - ?",  # noqa: S608  # a constant
            (MOST_CLOSED,),
        )


def path_in(folder: Path) -> Path:
    """Of the ledger in a journal's folder."""
    return folder / "ledger.db"


def is_there(folder: Path) -> bool:
    """Whether a collector has made one in this folder. Raises JournalError: one may not look into it."""
    with translated(path_in(folder), "looked for"):
        return path_in(folder).exists()


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))
