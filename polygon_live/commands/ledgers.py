"""The gap ledger beside a replay: read before, and closed in it what the replay has filled."""

from collections.abc import Sequence

from polygon_live.config import Settings
from polygon_live.errors import JournalError
from polygon_live.gap import Gap
from polygon_live.journal import Ledger
from polygon_live.journal.ledger import is_there
from polygon_live.mending import Mending
from polygon_live.replay import Choice, Chosen


class Ledgers:
    """The ledger in the data folder, if a collector has run there; else this does nothing. What goes wrong with it is a
    note, and no reason not to replay.
    """

    def __init__(self, settings: Settings, store: str, choice: Choice) -> None:
        self._collector = settings.collector_id
        self._store = store
        self._ledger: Ledger | None = None
        self.notes: list[str] = []
        self.archive_cursor: int | None = None
        """Up to this ``seq`` the archive had everything before it was read."""
        folder = settings.journal_dir
        gaps: Sequence[Gap] = ()
        try:
            if not choice.symbols and is_there(folder):
                self._ledger = Ledger.open_existing(folder)
                gaps = self._ledger.gaps(states=["open"], store=store)
        except JournalError as why:
            self._note(why)
        self._mending = Mending(gaps, store=store, from_ms=choice.from_ms, to_ms=choice.to_ms)

    @property
    def wanting(self) -> bool:
        """Whether there is a gap that the replay may fill."""
        return bool(self._mending)

    def see(self, ticks: Sequence[Chosen]) -> None:
        """What is replayed."""
        if self._mending:
            self._mending.see([t.tick for t in ticks if t.collector == self._collector])

    def mend(self) -> list[Gap]:
        """After a complete replay: the gaps as they are now."""
        if self._ledger is None:
            return []
        try:
            still = {gap.id for gap in self._ledger.gaps(states=["open"], store=self._store)}
            found = self._mending.results(self.archive_cursor)
            return [self._ledger.update(gap) for gap in found if gap.id in still]
        except JournalError as why:
            self._note(why)
            return []

    def close(self) -> None:
        """Let go of it."""
        if self._ledger is not None:
            self._ledger.close()

    def _note(self, why: JournalError) -> None:
        self.notes.append(f"the ledger of gaps is left as it is: {why}")
