"""The watcher of the three days: makes partitions ahead, drops what is older, and looks whether that is so.

Between the runs it looks at the disk that the table is on, where that can be seen from here.

It runs at the start and then at every half and full hour of the clock, a moment after: a partition's hour is over at
the full hour, so what is left is then at most 73 hours old; half an hour more where a policy has the first turn. Each
run has a connection of its own, for a moment, and never the writer's; it does the whole set-up again, so that a table
that was dropped, or a partition, is there again.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import ClassVar, Final, Never

import structlog
import trio

from polygon_live.config import Secret
from polygon_live.engines.postgres import Upkeep, connected, insert_rejects, instant, keep_three_days
from polygon_live.errors import StoreError
from polygon_live.model import Reject
from polygon_live.room import Room, free_bytes
from polygon_live.status import RetentionSnapshot

log = structlog.get_logger()

_HALF_HOUR_MS: Final = 30 * 60 * 1000
_WHO: Final = "end it (select pid, query, xact_start from pg_stat_activity)"


class Retention:
    """Keeps the table at three days. ``now_ms`` gives Unix milliseconds."""

    RUN_SECONDS: ClassVar = 120.0
    """The set-up's minute, and as long again for dropping many partitions after an outage."""
    SETTLE_SECONDS: ClassVar = 2.0
    """After the full hour: the database's clock may be behind ours a little, and what is too old must be so by both."""
    AGAIN_SECONDS: ClassVar = 60.0
    """After a run that failed or had to leave something."""
    GOOD_FOR_MS: ClassVar = 70 * 60 * 1000
    """A verification holds for two runs and a bit: one that meets a restarting server is no alarm."""

    ROOM_SECONDS: ClassVar = 30.0
    """How often the disk is looked at."""

    def __init__(self, dsn: Secret, collector: str, *, now_ms: Callable[[], int]) -> None:
        self._dsn = dsn
        self._collector = collector
        self._now_ms = now_ms
        self._last: Upkeep | None = None
        self._last_ms: int | None = None
        self._verified_ms: int | None = None
        self._next_ms: int | None = None
        self._wrong: str | None = "it has not run yet"
        self._dropped = 0
        self._failures = 0
        self._last_failure: str | None = None
        self._last_failure_ms: int | None = None
        self._room = Room()

    async def run(self) -> None:
        """For ever."""
        while True:
            seconds = await self.once()
            self._next_ms = self._now_ms() + round(seconds * 1000)
            with trio.move_on_after(seconds):
                await self.watch_room()

    async def watch_room(self) -> Never:
        """For ever: look at the free space of the table's disk, and say when it will be full."""
        while True:
            free = None
            if self._last is not None and (folder := self._last.folder) is not None:
                with suppress(OSError):  # it is gone: the next run looks again where it is
                    free = await trio.to_thread.run_sync(free_bytes, folder, abandon_on_cancel=True)
            if (left := self._room.see(trio.current_time(), free)) is not None and free is not None:
                log.warning(
                    "the disk of the table is filling up: make room before it is full",
                    free_mib=free >> 20,
                    full_in_minutes=round(left / 60, 1),
                )
            await trio.sleep(self.ROOM_SECONDS)

    async def once(self) -> float:
        """One run; how many seconds to wait until the next."""
        now_ms = self._now_ms()
        try:
            async with connected(self._dsn, f"polygon-live/{self._collector}/retention") as session:
                work = "keep the three days"
                found = await session.run(self.RUN_SECONDS, work, lambda c: keep_three_days(c, instant(now_ms)))
        except StoreError as why:
            self._last_ms = now_ms
            self._fault(str(why))
            return self.AGAIN_SECONDS
        if found.kept.note and (self._last is None or found.kept.note != self._last.kept.note):
            log.info("how ticks expire", note=found.kept.note)
        self._last, self._last_ms = found, now_ms
        self._dropped += len(found.kept.dropped)
        if found.kept.dropped:
            log.info("old ticks dropped", what=found.kept.called, names=found.kept.dropped)
        if found.kept.overdue:
            overdue = ", ".join(found.kept.overdue)
            self._fault(f"{overdue} can't be dropped while somebody holds the table in an open transaction: {_WHO}")
            return self.AGAIN_SECONDS
        if found.kept.wrong:
            self._fault(found.kept.wrong)
            return self.AGAIN_SECONDS
        self._wrong = None
        self._verified_ms = now_ms
        return (_HALF_HOUR_MS - now_ms % _HALF_HOUR_MS) / 1000 + self.SETTLE_SECONDS

    async def save_rejects(self, rejects: Sequence[Reject]) -> None:
        """Add these to the table of rejects, which the first run or the sink makes. Raises StoreError."""
        await insert_rejects(self._dsn, self._collector, rejects)

    def _fault(self, why: str) -> None:
        if why != self._wrong:
            log.warning("retention failed, trying again", why=why)
        self._wrong = why
        self._failures += 1
        self._last_failure, self._last_failure_ms = why, self._now_ms()

    def snapshot(self) -> RetentionSnapshot:
        """As of now."""
        good = self._verified_ms is not None and self._now_ms() - self._verified_ms <= self.GOOD_FOR_MS
        kept = self._last.kept if self._last else None
        return RetentionSnapshot(
            verified=good,
            detail=self._detail(),
            about=self._about(),
            last_run_ms=self._last_ms,
            failures=self._failures,
            last_failure=self._last_failure,
            last_failure_ms=self._last_failure_ms,
            failing=self._wrong is not None and self._last_ms is not None,
            oldest_row_ms=round(kept.oldest_row.timestamp() * 1000) if kept and kept.oldest_row else None,
            table_bytes=kept.bytes if kept else None,
            room=self._room.snapshot(),
        )

    def _detail(self) -> str:
        since = "never" if self._verified_ms is None else f"last at {instant(self._verified_ms):%Y-%m-%d %H:%M} UTC"
        if self._wrong is not None or self._last is None:
            return f"verified {since}: {self._wrong}"
        kept = self._last.kept
        oldest = f"from {kept.oldest:%Y-%m-%d %H:%M} UTC" if kept.oldest else "without a beginning"
        note = f"; {kept.note}" if kept.note else ""
        return f"verified {since}: {kept.count} {kept.called}, the oldest {oldest}, none overdue{note}"

    def _about(self) -> Mapping[str, str | int | float | bool | None]:
        times = {"last_run_ms": self._last_ms, "next_run_ms": self._next_ms, "verified_ms": self._verified_ms}
        if self._last is None:
            return times
        kept = self._last.kept
        return {
            **times,
            kept.called: kept.count,
            f"{kept.called}_over_an_hour": kept.long,
            "oldest": kept.oldest.isoformat() if kept.oldest else None,
            "oldest_row": kept.oldest_row.isoformat() if kept.oldest_row else None,
            "dropped": self._dropped,
            "database_clock_ahead_seconds": self._last.ahead.total_seconds(),
            **kept.about,
        }
