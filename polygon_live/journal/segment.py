"""One file of the journal: batches in ``seq`` order, each a row with its checksum.

While it is written it is in WAL mode and nobody else has it open; when it is full it is sealed: one plain file that
says in one row what is in it, so that opening a journal of many files need not read them.
"""

import struct
import zlib
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from polygon_live.blocks import Listed
from polygon_live.journal.database import Database, Format, Sync
from polygon_live.journal.holes import Hole
from polygon_live.model import Batch

FORMAT: Final = Format(
    "segment",
    0x504C4A53,  # PLJS
    steps=(
        (
            """CREATE TABLE batches (
                last INTEGER PRIMARY KEY,
                after INTEGER NOT NULL,
                first INTEGER NOT NULL,
                ticks INTEGER NOT NULL,
                oldest_ms INTEGER NOT NULL,
                newest_ms INTEGER NOT NULL,
                written_ms INTEGER NOT NULL,
                crc INTEGER NOT NULL,
                payloads BLOB NOT NULL)""",
            """CREATE TABLE sealed (
                one INTEGER PRIMARY KEY CHECK (one = 1),
                after INTEGER, first INTEGER, last INTEGER, batches INTEGER, ticks INTEGER,
                oldest_ms INTEGER, newest_ms INTEGER, written_from_ms INTEGER, written_to_ms INTEGER)""",
        ),
    ),
)
_HEAD: Final = struct.Struct("<7q")
_INSERT: Final = "INSERT INTO batches VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SEALED: Final = (
    "SELECT after, first, last, batches, ticks, oldest_ms, newest_ms, written_from_ms, written_to_ms FROM sealed"
)
_LISTED: Final = """SELECT first, last, ticks, oldest_ms, newest_ms, written_ms FROM batches
    WHERE last > ?
    AND (typeof(first), typeof(ticks), typeof(oldest_ms), typeof(newest_ms), typeof(written_ms))
        = ('integer', 'integer', 'integer', 'integer', 'integer')
    AND first <= last AND ticks BETWEEN 1 AND last - first + 1 AND oldest_ms <= newest_ms
    ORDER BY last LIMIT ?"""
"""Without damaged rows that say of themselves what can't be."""
_COUNTED: Final = """SELECT
    (SELECT after FROM batches ORDER BY last LIMIT 1), (SELECT first FROM batches ORDER BY last LIMIT 1),
    max(last), count(*), sum(ticks), min(oldest_ms), max(newest_ms), min(written_ms), max(written_ms)
    FROM batches HAVING count(*) > 0"""


class Extent(msgspec.Struct, frozen=True):
    """What a segment holds. Frozen: it is read from other threads."""

    path: Path
    bytes: int
    after: int
    first: int
    last: int
    batches: int
    ticks: int
    oldest_ms: int
    """Of Polygon's timestamps, as ``newest_ms``."""
    newest_ms: int
    written_from_ms: int
    """The collector's clock at the first append, and at the last."""
    written_to_ms: int

    def behind(self, seq: int) -> int:
        """How many ticks have a higher ``seq``: exact, as a segment's numbers follow each other."""
        return max(0, min(self.ticks, self.last - seq))

    def missing(self, cursor: int) -> Hole:
        """What a store with this cursor lacks when it is removed."""
        first = max(cursor + 1, self.first)
        return Hole(first, self.last, "given_up", self.behind(cursor), self.oldest_ms, self.newest_ms)


class Stored(msgspec.Struct, frozen=True):
    """One row."""

    last: int
    after: int
    first: int
    ticks: int
    oldest_ms: int
    newest_ms: int
    written_ms: int
    crc: int
    payloads: bytes

    @classmethod
    def of(cls, batch: Batch, now_ms: int) -> Self:
        """The row of a batch."""
        times = [tick.timestamp_ms for tick in batch.ticks]
        payloads = b"\n".join(batch.payloads)
        head = (batch.last, batch.after, batch.first, len(times), min(times), max(times), now_ms)
        return cls(*head, _checksum(head, payloads), payloads)

    def batch(self) -> Batch | None:
        """None if it is not what was written."""
        head = (self.last, self.after, self.first, self.ticks, self.oldest_ms, self.newest_ms, self.written_ms)
        try:
            if self.crc != _checksum(head, self.payloads):
                return None
            batch = Batch.of_payloads(self.after, self.payloads.split(b"\n"))
        except (msgspec.MsgspecError, TypeError, struct.error):  # a damaged row may hold anything
            return None
        return batch if (batch.first, batch.last) == (self.first, self.last) else None


def possible(told: Stored | Extent) -> bool:
    """Whether what a damaged row says of itself could be: it may hold anything, not only numbers."""
    numbers = (told.last, told.after, told.first, told.ticks, told.oldest_ms, told.newest_ms)
    return (
        all(isinstance(number, int) for number in numbers)
        and told.after < told.first <= told.last
        and 0 < told.ticks <= told.last - told.first + 1
        and told.oldest_ms <= told.newest_ms
    )


def _checksum(head: tuple[int, ...], payloads: bytes) -> int:
    return zlib.crc32(payloads, zlib.crc32(_HEAD.pack(*head)))


class Segment:
    """One open file."""

    def __init__(self, database: Database, extent: Extent | None, *, sealed: bool) -> None:
        self._database = database
        self.sealed = sealed
        self.extent = extent
        """None: nothing is in it."""

    @property
    def path(self) -> Path:
        """The file."""
        return self._database.path

    @classmethod
    def open(cls, path: Path, *, sync: Sync, form: Format = FORMAT) -> Self:
        """A missing file is made, an older one migrated. Raises JournalError; Damaged."""
        database = Database.open(path, form, sync=sync, alone=True)
        try:
            sealed = database.execute(_SEALED)
            rows = sealed or database.execute(_COUNTED)
            extent = Extent(path, database.size(), *rows[0]) if rows else None
            return cls(database, extent, sealed=bool(sealed) and not database.logged)
        except BaseException:
            database.close()
            raise

    def append(self, batch: Batch, now_ms: int) -> None:
        """Committed when it returns. Raises JournalError."""
        row = Stored.of(batch, now_ms)
        self._database.execute(_INSERT, msgspec.structs.astuple(row))
        size = self._database.size()
        was = self.extent
        self.extent = Extent(
            self.path,
            size,
            was.after if was else row.after,
            was.first if was else row.first,
            row.last,
            (was.batches if was else 0) + 1,
            (was.ticks if was else 0) + row.ticks,
            min(was.oldest_ms, row.oldest_ms) if was else row.oldest_ms,
            max(was.newest_ms, row.newest_ms) if was else row.newest_ms,
            was.written_from_ms if was else now_ms,
            now_ms,
        )

    def stored(self, after: int) -> Generator[Stored, None, None]:
        """The rows with a ``seq`` above this one, in order. Close it. Raises JournalError; Damaged."""
        with closing(self._rows(after)) as rows:
            for row in rows:
                yield Stored(*row)

    def listed(self, after: int, most: int) -> list[Listed]:
        """So many of them, without their ticks. Raises JournalError; Damaged."""
        return [Listed(*row) for row in self._database.execute(_LISTED, (after, most))]

    def _rows(self, after: int) -> Any:
        return self._database.rows("SELECT * FROM batches WHERE last > ? ORDER BY last", (after,))

    def sync(self) -> None:
        """What was appended is durable. Raises JournalError."""
        self._database.sync()

    def seal(self) -> None:
        """Nothing will be appended any more; durable. Raises JournalError: it can be read all the same."""
        if self.extent is None or self.sealed:
            return
        row = msgspec.structs.astuple(self.extent)[2:]
        self._database.execute("INSERT OR REPLACE INTO sealed VALUES (1, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        self._database.seal()
        self._database.sync()
        self.sealed = True
        self.extent = msgspec.structs.replace(self.extent, bytes=self._database.size())

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()
