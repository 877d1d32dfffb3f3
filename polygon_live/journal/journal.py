"""Every accepted batch, in order, before any store has it.

The rules of the state:

- The list of rows says what follows a ``seq``. Each row names the last ``seq`` accepted before it; a stretch up to
  there that no row has is a hole. A run that begins names the tail, so its jump in numbers is none.
- ``append`` commits without fsync; ``sync`` makes durable what was appended, older segments before younger.
- A segment that failed once is not written again: the next append begins another.
- What is removed, up to where, and who lacks it then, is in the ledger before the file goes.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final, Self

import attrs

from polygon_live.blocks import Listed
from polygon_live.errors import JournalError
from polygon_live.gap import Gap
from polygon_live.journal.database import Sync, make_durable, translated
from polygon_live.journal.facts import GivenUp, JournalFacts, Newest, Portion
from polygon_live.journal.holes import Hole, between, joined
from polygon_live.journal.ledger import Ledger
from polygon_live.journal.lock import Lock
from polygon_live.journal.segment import Extent, Stored, possible
from polygon_live.journal.shelf import Shelf
from polygon_live.model import EVENT_QUOTE, Batch
from polygon_live.room import free_bytes

SEGMENT_BYTES: Final = 64 << 20
SEGMENT_MS: Final = 3_600_000
LEAST_FREE_BYTES: Final = 64 << 20
"""With less room on the disk a collector had better not start."""
MOST_TOLD: Final = 1000
"""Corrupt stretches that are remembered for the snapshot."""


class Journal:
    """One run's hold on the folder. Called by one thread at a time; ``snapshot`` and ``pending`` by any at any time."""

    def __init__(
        self,
        folder: Path,
        ledger: Ledger,
        shelf: Shelf,
        lock: Lock,
        *,
        most_bytes: int,
        keep_ms: int,
        now_ms: Callable[[], int],
        segment_bytes: int,
        segment_ms: int,
    ) -> None:
        self.ledger = ledger
        self.id = ledger.journal_id
        self.tail = 0
        self._folder = folder
        self._shelf = shelf
        self._lock = lock
        self._most_bytes = most_bytes
        self._keep_ms = keep_ms
        self._now_ms = now_ms
        self._segment_bytes = segment_bytes
        self._segment_ms = segment_ms
        self._removed_to = 0
        self._known: list[Hole] = []
        self._free_bytes = _free(folder)
        self._corrupt: tuple[Hole, ...] = ()
        self._damaged: tuple[str, ...] = ()

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        most_bytes: int,
        keep_ms: int,
        now_ms: Callable[[], int],
        sync: Sync = make_durable,
        segment_bytes: int | None = None,
        segment_ms: int = SEGMENT_MS,
    ) -> Self:
        """Take the lock and find out what is there. ``most_bytes`` bounds the segments together, ``keep_ms`` is how
        long they are kept though every store has them. A file is full at ``segment_bytes`` (64 MiB, or an eighth of
        ``most_bytes``) or after ``segment_ms``.

        Raises JournalHeld, JournalError.
        """
        make_folder(folder)
        with ExitStack() as undo:
            lock = Lock.take(folder, now_ms())
            undo.callback(lock.release)
            _check_room(folder, min(LEAST_FREE_BYTES, most_bytes))
            ledger = Ledger.open_or_replace(folder, sync=sync)
            undo.callback(ledger.close)
            self = cls(
                folder,
                ledger,
                Shelf(folder, sync),
                lock,
                most_bytes=most_bytes,
                keep_ms=keep_ms,
                now_ms=now_ms,
                segment_bytes=segment_bytes or min(SEGMENT_BYTES, most_bytes // 8),
                segment_ms=segment_ms,
            )
            undo.callback(self._shelf.close)
            self._load()
            undo.pop_all()
        return self

    def _load(self) -> None:
        damaged = self._shelf.load()
        extents = self._shelf.extents
        new_ledger = bool(extents) and self.ledger.mark == 0  # because the old one was damaged or removed
        if new_ledger:
            self.ledger.recover(mark=extents[-1].last, removed_to=extents[0].after)
        self._removed_to = self.ledger.removed_to
        for extent in extents:
            if extent.last <= self._removed_to:  # power was lost before its removal was durable
                self._shelf.drop(extent)
        for number in damaged:
            before = [e.last for e in self._shelf.extents if e.first < number]
            behind = [e.after for e in self._shelf.extents if e.first > number]
            # Nobody knows where a damaged last file ends, but no number in it is above the mark.
            last = behind[0] if behind else max(self.ledger.mark, number)
            hole = Hole(max([*before, self._removed_to]) + 1, last, "corrupt")
            if hole.first <= hole.last:
                self.ledger.enter_gone(hole)
        self._damaged = tuple(sorted(p.name for p in self._folder.glob("*.db.damaged*") if p.suffix[:4] != "-wal"))
        self._known = self.ledger.gone()
        self.tail = max(self._removed_to, *(h.last for h in self._known), *(e.last for e in self._shelf.extents), 0)
        self._bring_newest_up_to_date(only_youngest=new_ledger)

    def _bring_newest_up_to_date(self, *, only_youngest: bool) -> None:
        """The ledger's list of newest ticks is written down now and then; the rest is in the batches since."""
        newest = self.ledger.newest()
        start = max((tick.seq for tick in newest.values()), default=0)
        if only_youngest:  # a journal of days is not read to start a collector
            start = self._shelf.extents[-1].after
        since: dict[str, Newest] = {}
        with closing(self._shelf.stored(start)) as rows:
            for row in rows:
                batch = row.batch() if isinstance(row, Stored) else None
                for tick in batch.ticks if batch else ():
                    known = since.get(tick.symbol) or newest.get(tick.symbol)
                    heard = tick.event_type == EVENT_QUOTE  # what was fetched later says nothing of that
                    if heard and (known is None or tick.timestamp_ms >= known.timestamp_ms):
                        since[tick.symbol] = Newest(tick.timestamp_ms, tick.seq)
        if since:
            self.ledger.remember({}, since)

    # What the keeper does

    def reserve(self, seq: int) -> None:
        """Numbers up to and including this one may be used when it returns, whatever happens to the power."""
        self.ledger.reserve(seq)

    def append(self, batch: Batch) -> None:
        """Committed when it returns; not durable yet. A batch's ``after`` is the ``seq`` accepted before it, for the
        first of a run ``tail``; its numbers are above ``tail``.

        Raises JournalError: it is not in the journal, and the next append begins a new segment.
        """
        if not self.tail <= batch.after < batch.first:
            raise ValueError(f"a batch of {batch.first} after {batch.after} does not follow {self.tail}")
        now_ms = self._now_ms()
        segment = self._shelf.active
        if segment is None or self._full(segment.extent, now_ms):
            segment = self._shelf.begin(batch.first)
        try:
            segment.append(batch, now_ms)
        except JournalError:
            self._shelf.retire()
            raise
        self.tail = batch.last
        self._shelf.appended()

    def _full(self, extent: Extent | None, now_ms: int) -> bool:
        return extent is not None and (
            extent.bytes >= self._segment_bytes or now_ms - extent.written_from_ms >= self._segment_ms
        )

    def sync(self) -> None:
        """Everything appended so far is durable when it returns. Raises JournalError; then the next append begins a new
        segment: what Linux could not write, it does not try again.
        """
        try:
            self._shelf.sync()
        except JournalError:
            self._shelf.retire()
            raise

    def trim(self, cursors: Mapping[str, int]) -> Sequence[GivenUp]:
        """Remove what is older than ``keep_ms`` and behind all cursors; then the oldest until ``most_bytes`` are kept.
        Returns what some store did not have yet, in order; the ledger has it too. Raises JournalError.
        """
        now_ms = self._now_ms()
        given_up: list[GivenUp] = []
        passed = min(cursors.values(), default=self.tail)
        while oldest := self._shelf.oldest_sealed():
            lacking = [GivenUp(sink, oldest.missing(seq)) for sink, seq in cursors.items() if seq < oldest.last]
            over = sum(e.bytes for e in self._shelf.extents) > self._most_bytes
            if not over and (oldest.last > passed or now_ms - oldest.written_to_ms <= self._keep_ms):
                break
            try:
                self._drop(oldest, [entry.hole.gap(entry.sink, now_ms) for entry in lacking])
            except JournalError:
                if given_up:
                    break  # those must be told; this fault will come again
                raise
            given_up += lacking
        self._free_bytes = _free(self._folder)
        return given_up

    def _drop(self, extent: Extent, gaps: Sequence[Gap]) -> None:
        hole = extent.missing(0)
        try:
            self.ledger.enter_gone(hole, gaps)
            self._shelf.drop(extent)
        except JournalError:  # on a full disk the ledger needs the room of what goes
            self._shelf.drop(extent)
            self.ledger.enter_gone(hole, gaps)
        self._known = self.ledger.gone()
        self._removed_to = max(self._removed_to, extent.last)

    # What the pumps do

    @property
    def beginning(self) -> int:
        """Where to read from to get all that is there: the ``seq`` before the oldest batch."""
        extents = self._shelf.extents
        return extents[0].first - 1 if extents else self.tail

    def read(self, after: int, most: int) -> Portion | None:
        """What follows this ``seq``: holes, then rows joined to about ``most`` ticks, up to the next hole. None:
        nothing follows. Raises JournalError.
        """
        if after >= self.tail:
            return None
        position, count = after, 0
        holes: list[Hole] = []
        bad: list[Stored | Extent] = []
        parts: list[Batch] = []
        with closing(self._shelf.stored(after)) as rows:
            for row in rows:
                batch = row.batch() if isinstance(row, Stored) else None
                if batch is None or batch.after > position:
                    if parts:
                        break
                    if batch is None:
                        bad.append(row)
                        continue
                    holes += self._between(position + 1, batch.after, bad)
                bad = []
                parts.append(batch.beyond(position) if batch.first <= position else batch)
                position = batch.last
                count += len(parts[-1])
                if count >= most:
                    break
        if not parts:
            holes += self._between(position + 1, self.tail, bad)
            position = self.tail
        return Portion(Batch.joined(parts) if parts else None, tuple(holes), position)

    def listed(self, after: int, most: int) -> list[Listed]:
        """The rows behind this ``seq``, about so many, without their ticks. Raises JournalError."""
        return self._shelf.listed(after, most)

    def _between(self, first: int, last: int, bad: Sequence[Stored | Extent]) -> list[Hole]:
        """What these numbers are, which no good row has."""
        if not bad:
            return between(first, last, removed_to=self._removed_to, known=self._known)
        hole = Hole(first, last, "corrupt")
        # Is what they say of themselves possible, and in line with their neighbours? Then it is most likely true.
        if all(map(possible, bad)) and bad[0].after < first and bad[-1].last == last:
            told = [Hole(r.first, r.last, "corrupt", r.ticks, r.oldest_ms, r.newest_ms).part(first, last) for r in bad]
            hole = attrs.evolve(joined([part for part in told if part]), first=first, last=last)
        if all(hole.last != each.last for each in self._corrupt):
            self._corrupt = (*self._corrupt, hole)[-MOST_TOLD:]
        return [hole]

    # What anybody may ask at any time

    def pending(self, after: int) -> tuple[int, int]:
        """The ticks behind this ``seq``, which a store that holds it has still to get, and the bytes of all segments
        that have some of them: a segment goes or stays as a whole.
        """
        extents = [extent for extent in self._shelf.extents if extent.last > after]
        return sum(extent.behind(after) for extent in extents), sum(extent.bytes for extent in extents)

    def unheard_of(self, seq: int) -> Hole | None:
        """As the shelf says. Touches no file."""
        return self._shelf.unheard_of(seq, self.tail)

    def snapshot(self) -> JournalFacts:
        """Touches no file."""
        extents = self._shelf.extents
        sealed = extents[:-1] or extents
        return JournalFacts(
            folder=self._folder,
            id=self.id,
            bytes=sum(e.bytes for e in extents),
            most_bytes=self._most_bytes,
            free_bytes=self._free_bytes,
            segments=len(extents),
            batches=sum(e.batches for e in extents),
            ticks=sum(e.ticks for e in extents),
            bytes_per_tick=sum(e.bytes for e in sealed) / sum(e.ticks for e in sealed) if sealed else 0.0,
            oldest_ms=extents[0].written_from_ms if extents else None,
            tail=self.tail,
            removed_to=self._removed_to,
            corrupt=self._corrupt,
            damaged=self._damaged,
        )

    def close(self) -> None:
        """Seal what is open and let go of the folder. If it does not raise JournalError, all is durable."""
        with ExitStack() as last:
            last.callback(self._lock.release)
            last.callback(self.ledger.close)
            self._shelf.close()


def _free(folder: Path) -> int:
    with translated(folder, "looked at"):
        return free_bytes(folder)


def make_folder(folder: Path) -> None:
    """If it is not there. Raises JournalError."""
    with translated(folder, "used as the journal's folder"):
        if folder.exists() and not folder.is_dir():
            raise JournalError(f"{folder} is no folder, and the journal needs one; move it away or choose another name")
        folder.mkdir(parents=True, exist_ok=True)


def _check_room(folder: Path, needed: int) -> None:
    if (free := _free(folder)) < needed:
        raise JournalError(
            f"the disk of the journal's folder {folder} has {free >> 20} MiB left, and {needed >> 20} MiB are needed "
            f"to start; make room, or choose another folder"
        )
