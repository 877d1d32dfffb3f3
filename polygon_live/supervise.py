"""Keep a background task running: a fault in one is told and counted, and never costs the others anything."""

import random
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
import trio

from polygon_live.backoff import backoff
from polygon_live.status import WatcherSnapshot

FIRST_WAIT_SECONDS: Final = 1.0
MOST_WAIT_SECONDS: Final = 60.0

log = structlog.get_logger()


class Watcher:
    """One task under supervision. ``run`` may return (then it is done) or fail (then it is started anew, later)."""

    def __init__(self, name: str, run: Callable[[], Awaitable[None]], rng: random.Random) -> None:
        self.name = name
        self._run = run
        self._rng = rng
        self._running = True
        self._restarts = 0
        self._error: str | None = None

    async def keep_running(self) -> None:
        """Until ``run`` returns. Waits longer after each failure; a run of a minute starts the waits afresh."""
        waits = backoff(FIRST_WAIT_SECONDS, MOST_WAIT_SECONDS, self._rng)
        while True:
            started = trio.current_time()
            self._running = True
            try:
                await self._run()
            except Exception as why:
                log.exception("background task failed, starting it anew", task=self.name)
                self._error = f"{type(why).__name__}: {why}"
                self._restarts += 1
                self._running = False
                if trio.current_time() - started > MOST_WAIT_SECONDS:
                    waits = backoff(FIRST_WAIT_SECONDS, MOST_WAIT_SECONDS, self._rng)
                await trio.sleep(next(waits))
            else:
                return

    def snapshot(self) -> WatcherSnapshot:
        """As of now."""
        return WatcherSnapshot(self.name, running=self._running, restarts=self._restarts, last_error=self._error)
