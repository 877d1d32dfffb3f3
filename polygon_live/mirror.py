"""The watcher that copies the gap ledger into the database, where analysts look: best effort, and never in ticks' way.

It asks the ledger for what changed since the last copy, so a database that was away is told all of it on its return;
and once at each start, everything. What the ledger could not take yet (its disk is full) is copied too, under numbers
below zero, and taken out again when it is in the ledger: after a crash the copy is all that is known of it.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import attrs
import structlog
import trio

from polygon_live.config import Secret
from polygon_live.engines.postgres import save_gaps
from polygon_live.errors import JournalError, RowsRefused, StoreError
from polygon_live.gap import Gap

AT_ONCE: Final = 500
PAUSE_SECONDS: Final = 1.0
AWAY_SECONDS: Final = 10.0

log = structlog.get_logger()


class Mirror:
    """``changes`` gives the ledger's entries that changed after a change's number, at most so many, in that order;
    ``unentered`` what waits for the ledger; ``journal`` is the ledger's id, ``started_ms`` Unix milliseconds.
    """

    def __init__(
        self,
        dsn: Secret,
        collector: str,
        journal: str,
        *,
        changes: Callable[[int, int], Awaitable[Sequence[Gap]]],
        unentered: Callable[[], Sequence[Gap]],
        started_ms: int,
    ) -> None:
        self._dsn = dsn
        self._collector = collector
        self._journal = journal
        self._changes = changes
        self._unentered = unentered
        self._first_unentered = -1000 * started_ms
        self._copied = 0
        self._shown: list[Gap] = []
        self._wrong: str | None = None

    async def run(self) -> None:
        """For ever."""
        while True:
            seconds = await self.once()
            await trio.sleep(seconds)

    async def once(self) -> float:
        """Copy what changed; how many seconds to wait until the next time."""
        changed = await self._changed()
        waiting = [attrs.evolve(gap, id=self._first_unentered - n) for n, gap in enumerate(self._unentered())]
        if not changed and waiting == self._shown:
            return PAUSE_SECONDS
        gone = [gap.id for gap in self._shown[len(waiting) :]]
        try:
            await self._save([*changed, *waiting], gone)
        except StoreError as why:
            self._complain("gaps wait for their table", str(why))
            return AWAY_SECONDS
        self._wrong = None
        self._shown = waiting
        if changed:
            self._copied = changed[-1].changed
        return 0.0 if len(changed) == AT_ONCE else PAUSE_SECONDS

    async def _changed(self) -> Sequence[Gap]:
        try:
            return await self._changes(self._copied, AT_ONCE)
        except JournalError as why:
            self._complain("the gap ledger can't be read", str(why))
            return ()

    async def _save(self, gaps: Sequence[Gap], gone: Sequence[int]) -> None:
        """One that the table refuses must not keep the others from it."""
        try:
            await save_gaps(self._dsn, self._collector, self._journal, gaps, gone)
        except RowsRefused as why:
            if len(gaps) == 1:
                log.warning("the table refuses a gap", gap=attrs.asdict(gaps[0]), why=str(why))
                return
            for gap in gaps:
                await self._save([gap], gone)

    def _complain(self, what: str, why: str) -> None:
        if why != self._wrong:
            log.warning(what, why=why)
        self._wrong = why
