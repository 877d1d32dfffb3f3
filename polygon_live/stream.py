"""The validated stream in one's own Trio program: nothing is kept, and nothing is served.

::

    dial ─► feed ══frames══► judge ──► buffer ──► async for tick in …       ══  bounded channel, closed by its sender

The block's end stops the feed, whatever ended it; the rest empties itself. Feed and judge are shielded from the
program's cancellation, so that Polygon is always told goodbye: it keeps the account's only slot taken for a while after
a connection that just vanished. That takes at most the two seconds of a goodbye that is not answered.
"""

import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

from polygon_live.buffer import TickBuffer
from polygon_live.calendar import Sessions
from polygon_live.config import Settings
from polygon_live.dial import Dial
from polygon_live.errors import InternalFault, reasons
from polygon_live.feed import Feed
from polygon_live.frames import open_frames, parted
from polygon_live.limits import Turns
from polygon_live.model import Interruption
from polygon_live.operational import Operational
from polygon_live.validate import Validator

JUDGED_AT_ONCE: Final = 64 * 1024
"""Characters of frames, about 700 ticks: some 3 ms in which nothing else of the program runs."""


class Stream:
    """Feed and validator, and the ticks that they give. ``wall_ms`` gives Unix milliseconds.

    Ticks are numbered from the clock's microseconds on: their ``seq`` rises, and is no number of a collector.
    """

    def __init__(
        self,
        settings: Settings,
        operational: Operational,
        ticks: TickBuffer,
        *,
        dial: Dial,
        sessions: Sessions,
        wall_ms: Callable[[], int],
        rng: random.Random,
    ) -> None:
        self._ticks = ticks
        self._validator = Validator(
            operational.symbols, operational.limits, now_ms=wall_ms, first_seq=wall_ms() * 1000 + 1
        )
        frames_in, self._frames = open_frames(settings.frames_max_bytes)
        self._feed = Feed(
            urls=settings.ws_urls,
            key=settings.api_key,
            symbols=operational.symbols,
            reconnect_delay=operational.websocket_reconnect_delay,
            turns=Turns(operational.rate_limit_per_second, wall_ms=wall_ms),
            frames=frames_in,
            heard=self._validator.heard,
            usual=self._validator.usual,
            wall_ms=wall_ms,
            rng=rng,
            dial=dial,
            sessions=sessions,
        )
        self._fault: BaseException | None = None
        self.rejected: Counter[str] = Counter()
        """How many events were no ticks, for each reason."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Around the program that reads the ticks. Raises InternalFault if a bug ended the stream."""
        fault: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._run)
                try:
                    yield
                finally:
                    self._feed.stop()
        except BaseExceptionGroup as group:  # that there is a nursery is nobody's business
            if len(group.exceptions) > 1:
                raise
            fault = group.exceptions[0]
        if fault is not None:
            raise fault  # with the cause that it has

    async def _run(self) -> None:
        try:
            with trio.CancelScope(shield=True):
                async with self._frames, trio.open_nursery() as nursery:
                    nursery.start_soon(self._essential, self._feed.run)
                    nursery.start_soon(self._essential, self._judge)
        finally:
            self._ticks.close()
        if self._fault is not None:
            raise InternalFault(f"{type(self._fault).__name__}: {self._fault}") from self._fault

    async def _essential(self, run: Callable[[], Awaitable[None]]) -> None:
        """Without this task there is no stream: its fault ends it, with a goodbye."""
        try:
            await run()
        except Exception as why:  # noqa: BLE001  # told when the rest has ended
            self._fault = self._fault or next(reasons(why))
            self._feed.stop()

    async def _judge(self) -> None:
        """Frames in, ticks out. Whatever arrived while the last frames were judged is judged next."""
        while True:
            try:
                heard = await self._frames.receive_some(JUDGED_AT_ONCE)
            except trio.EndOfChannel:
                return
            for some in parted(heard):
                if isinstance(some, Interruption):
                    continue
                ticks, refused = self._validator.judge(some, trio.current_time())
                self.rejected.update(reject.reason for reject in refused)
                if not self._ticks.put(ticks):
                    self._feed.stop()
