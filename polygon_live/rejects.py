"""The book of rejects: how many for which reason, the latest with their evidence, and a way for them into the table.

What was received may repeat a secret, and what a store says too: they are blanked at the entrance, before anything is
shown or kept.

Keeping them is best effort: a reject that finds the way full is counted as unkept. The tick itself is beyond help;
what matters is that the reason is seen.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

import msgspec
import structlog
import trio

from polygon_live.blanking import blanker
from polygon_live.errors import RowsRefused, StoreError
from polygon_live.model import Reject
from polygon_live.status import RejectsSnapshot

LATEST: Final = 500
WAITING: Final = 1000
AT_ONCE: Final = 200
PAUSE_SECONDS: Final = 2.0
"""At most 100 rejects a second reach the table: a feed gone mad must not fill the disk with evidence."""
AWAY_SECONDS: Final = 10.0

log = structlog.get_logger()


class RejectBook:
    """Counts and remembers. ``save`` writes a few to the table and raises StoreError if it can't."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._blank = blanker(secrets, cut=True)
        self._counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._latest: deque[Reject] = deque(maxlen=LATEST)
        self._unkept = 0
        self._to_save, self._saving = trio.open_memory_channel[Reject](WAITING)

    def blanked(self, reject: Reject) -> Reject:
        """As it may be kept and shown."""
        return msgspec.structs.replace(reject, detail=self._blank(reject.detail), raw=self._blank(reject.raw))

    def enter(self, rejects: Iterable[Reject]) -> None:
        """Take these in. Never waits."""
        for entered in rejects:
            reject = self.blanked(entered)
            self._counts[reject.stage][reject.reason] += 1
            self._latest.append(reject)
            try:
                self._to_save.send_nowait(reject)
            except trio.WouldBlock:
                self._unkept += 1

    async def keep(self, save: Callable[[Sequence[Reject]], Awaitable[None]]) -> None:
        """Write rejects to the table, for ever. While it is away they wait, and what does not fit is counted."""
        away: str | None = None
        """What was told of the table last."""
        while True:
            some = [await self._saving.receive()]
            while len(some) < AT_ONCE:
                try:
                    some.append(self._saving.receive_nowait())
                except trio.WouldBlock:
                    break
            while some:
                try:
                    await save(some)
                except RowsRefused as why:
                    self._unkept += len(some)
                    log.warning("the table refuses rejects", count=len(some), why=str(why))
                except StoreError as why:
                    if str(why) != away:
                        log.warning("rejects wait for their table", count=len(some), why=str(why))
                    away = str(why)
                    await trio.sleep(AWAY_SECONDS)
                    continue
                except Exception:
                    self._unkept += len(some)
                    raise
                some, away = [], None
            await trio.sleep(PAUSE_SECONDS)

    def snapshot(self) -> RejectsSnapshot:
        """As of now, the latest last."""
        return RejectsSnapshot(
            counts={stage: dict(c) for stage, c in self._counts.items()},
            latest=tuple(self._latest),
            unkept=self._unkept,
        )
