"""What the pumps tell of their stores, and where it is entered: the numbers, the ledger, the quarantine."""

from collections.abc import Callable, Sequence

import attrs
import structlog

from polygon_live.entries import taken_over
from polygon_live.gap import Gap
from polygon_live.journal import Hole
from polygon_live.keeper import RESERVED_AHEAD, Keeper
from polygon_live.model import Reject
from polygon_live.mutex import Mutex
from polygon_live.recovery import Recovery
from polygon_live.rejects import RejectBook
from polygon_live.sink import Opened, Sink
from polygon_live.validate import Validator

log = structlog.get_logger()


@attrs.frozen(kw_only=True)
class PumpBooks:
    """The pipeline's. ``numbering`` is held by whoever numbers ticks."""

    _keeper: Keeper
    _validator: Validator
    _recovery: Recovery
    _rejects: RejectBook
    _numbering: Mutex
    _beginning: int
    """Of the journal: nothing before it is anybody's business."""
    _cursor_of: Callable[[Sink], int]
    _wall_ms: Callable[[], int]

    async def opened(self, sink: Sink, opened: Opened, *, behind: bool) -> None:
        """A store's word about its cursor. Numbers must be above it, whoever wrote it."""
        del behind
        cursor = opened.cursor or 0
        if not opened.certain:
            message = "the store has no cursor, and others' ticks hide its end: what is remembered of it holds"
            log.warning(message, store=sink.name, has_at_least=cursor)
        async with self._numbering:  # not between a reservation and the numbers that it is for
            numbered = self._validator.last_seq
            # A dead one may have used numbers that this store had not got yet.
            self._validator.go_on_after(cursor if opened.took_over is None else cursor + RESERVED_AHEAD)
        gaps: list[Gap] = []
        if opened.took_over is not None:
            log.warning("a dead collector's place was taken over", store=sink.name, of=opened.took_over)
            ours = self._cursor_of(sink)
            passed = max(ours, self._beginning) + 1, min(cursor, numbered)
            gaps.append(taken_over(sink.name, opened.took_over, passed, self._wall_ms()))
        elif sink.keeps_cursor:
            gaps = await self._recovery.heard(sink, cursor)
        if gaps:
            await self._keeper.note(gaps)

    async def lost(self, store: str, holes: Sequence[Hole]) -> None:
        """Not in the journal any more. The ledger may tell of it: since it was given up, or since an earlier try."""
        gaps = [hole.gap(store, self._wall_ms()) for hole in await self._keeper.entries.untold(store, holes)]
        log.error("ticks can't be given to this store", store=store, holes=[attrs.astuple(hole) for hole in holes])
        if gaps:
            await self._keeper.note(gaps)

    async def set_aside(self, reject: Reject, payload: bytes) -> None:
        """Into the quarantine, and the book of rejects."""
        await self._keeper.entries.set_aside(self._rejects.blanked(reject), payload)
        self._rejects.enter([reject])

    def set_aside_ever(self, store: str) -> int:
        """As of a moment ago."""
        return self._keeper.entries.set_aside_counts.get(store, 0)

    def pending(self, after: int) -> tuple[int, float | None]:
        """As the keeper says."""
        return self._keeper.pending(after)
