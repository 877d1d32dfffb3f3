"""The segments of a folder: which there are, and each open file of them. What is damaged is set aside, not fatal."""

from collections.abc import Generator
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from polygon_live.blocks import Listed
from polygon_live.errors import JournalError
from polygon_live.journal.database import Damaged, Sync, remove, set_aside, translated
from polygon_live.journal.holes import Hole
from polygon_live.journal.segment import Extent, Segment, Stored

MOST_READERS: Final = 4
"""Sealed segments that are kept open: three stores may each be somewhere else."""


class Shelf:
    """``extents`` is replaced, never changed: another thread may read it at any time."""

    def __init__(self, folder: Path, sync: Sync) -> None:
        self._folder = folder
        self._sync = sync
        self._readers: dict[Path, Segment] = {}
        self._active: Segment | None = None
        self._loose: list[Path] = []
        """Retired, and not known to be durable."""
        self.extents: tuple[Extent, ...] = ()

    def load(self) -> list[int]:
        """Find what is there, migrate it, seal what a crash left, set aside what is damaged. Returns the first numbers
        of damaged segments. Raises JournalError.
        """
        damaged, extents = [], []
        for path in sorted(self._folder.glob("journal-*.db")):
            try:
                extent = self._settled(path)
            except Damaged:
                damaged.append(_number(path))
                set_aside(path)
            else:
                if extent is None:  # a crash before its first batch
                    remove(path)
                else:
                    extents.append(extent)
        self.extents = tuple(extents)
        return damaged

    def _settled(self, path: Path) -> Extent | None:
        with closing(Segment.open(path, sync=self._sync)) as segment:
            segment.seal()
            return segment.extent

    @property
    def active(self) -> Segment | None:
        """The one that is being appended to."""
        return self._active

    def oldest_sealed(self) -> Extent | None:
        """What may be removed next."""
        sealed = self.extents[:-1] if self._active and self._active.extent else self.extents
        return sealed[0] if sealed else None

    def unheard_of(self, seq: int, tail: int) -> Hole | None:
        """The numbers up to this one that no batch names, not even as what was accepted before it: if a store has the
        tick of this number, a power cut took it and its neighbours from here. ``from_ms`` and ``to_ms`` are when that
        was, as far as the batches around it tell. ``tail`` is the last number that is known.

        Numbers jump from run to run only, and each run begins a segment.
        """
        before: Extent | None = None
        for extent in self.extents:
            if extent.after < seq < extent.first:
                return _lost(extent.after, seq, before, extent)
            before = extent
        return _lost(tail, seq, before, None) if seq > tail else None

    def begin(self, first: int) -> Segment:
        """A new active segment, for batches from this number on. Raises JournalError."""
        self.retire()
        path = self._folder / f"journal-{first:020}.db"
        try:
            self._active = Segment.open(path, sync=self._sync)
        except JournalError:
            with suppress(JournalError):
                remove(path)  # a full disk would leave one of these for each attempt
            raise
        return self._active

    def appended(self) -> None:
        """The active segment has more than before."""
        if self._active and (extent := self._active.extent):
            before = self.extents[:-1] if self.extents and self.extents[-1].path == extent.path else self.extents
            self.extents = (*before, extent)

    def retire(self) -> None:
        """Seal the active segment. If that can't be done it stays as it is: it is found unsealed at the next start, and
        until then ``sync`` asks for its durability.
        """
        segment, self._active = self._active, None
        if segment is None:
            return
        self._loose.append(segment.path)
        try:
            with closing(segment):
                segment.seal()
            if segment.extent is None:
                remove(segment.path)
            self._loose.remove(segment.path)
        except JournalError:
            return
        if segment.extent is not None:
            self.extents = (*self.extents[:-1], segment.extent)

    def sync(self) -> None:
        """Older ones first. Raises JournalError."""
        while self._loose:
            with translated(self._loose[0], "made durable"):
                self._sync(self._loose[0])
            self._loose.pop(0)
        if self._active:
            self._active.sync()

    def drop(self, extent: Extent) -> None:
        """Remove a sealed segment. Raises JournalError."""
        self._forget_reader(extent.path)
        remove(extent.path)
        self.extents = tuple(e for e in self.extents if e.path != extent.path)

    def stored(self, after: int) -> Generator[Stored | Extent, None, None]:
        """The rows of all segments with a ``seq`` above this one; the extent of a file where it can't be read on. Close
        it. Raises JournalError.
        """
        for extent in self.extents:
            if extent.last > after:
                try:
                    with closing(self._reader(extent.path).stored(after)) as rows:
                        yield from rows
                except Damaged:
                    self._forget_reader(extent.path)
                    yield extent

    def listed(self, after: int, most: int) -> list[Listed]:
        """The rows of the first file that has some behind this ``seq``, at most so many. Raises JournalError."""
        for extent in self.extents:
            if extent.last > after:
                try:
                    if found := self._reader(extent.path).listed(after, most):
                        return found
                except Damaged:
                    self._forget_reader(extent.path)
        return []

    def _reader(self, path: Path) -> Segment:
        if self._active and self._active.path == path:
            return self._active
        if not path.exists():
            raise Damaged(f"{path} is gone: somebody removed it")
        segment = self._readers.pop(path, None) or Segment.open(path, sync=self._sync)
        self._readers[path] = segment  # the latest used is the last
        if len(self._readers) > MOST_READERS:
            self._forget_reader(next(iter(self._readers)))
        return segment

    def _forget_reader(self, path: Path) -> None:
        if reader := self._readers.pop(path, None):
            reader.close()

    def close(self) -> None:
        """Seal and let go of everything. Raises JournalError if what was appended is not durable."""
        self.retire()
        for path in list(self._readers):
            self._forget_reader(path)
        self.sync()


def _lost(after: int, last: int, before: Extent | None, behind: Extent | None) -> Hole:
    from_ms = None if before is None else before.newest_ms
    to_ms = None if behind is None else max(behind.written_from_ms, from_ms or 0)
    return Hole(after + 1, last, "unjournaled", None, from_ms, to_ms)


def _number(path: Path) -> int:
    try:
        return int(path.stem.removeprefix("journal-"))
    except ValueError:
        raise JournalError(f"{path} is no segment's name; move the file out of the journal's folder") from None
