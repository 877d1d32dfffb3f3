"""How the journal's work is run, one piece at a time: in a worker thread; in the simulation directly."""

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeVar

import outcome
import trio

from polygon_live.errors import JournalError, PolygonLiveError

T = TypeVar("T")


class Call(Protocol):
    """Runs a piece of the journal's work."""

    async def __call__(self, work: Callable[[], T], /) -> T:
        """Whatever it returns or raises."""


class CountedCall(Call, Protocol):
    """The same, and tells how it goes."""

    @property
    def busy(self) -> bool:
        """Whether a piece of work is under way, be it that nobody waits for it any more."""

    @property
    def done(self) -> int:
        """How many pieces have come to their end: as long as it does not rise, the one under way is the same."""


class InThread:
    """One thread at a time. Who stops waiting leaves it to its work; the next has to wait for that. ``unable`` is
    raised if the system has no thread to give: what the caller knows to live with.

    ``trio.to_thread`` does the same at twice the price, 60 µs instead of 30: a context, a limiter and a thread's name
    for each piece of work, of which there are hundreds a second.
    """

    def __init__(self, unable: type[PolygonLiveError] = JournalError) -> None:
        self._unable = unable
        self._one = trio.Semaphore(1)
        self.done = 0
        """How many pieces have come to their end."""

    async def __call__(self, work: Callable[[], T], /) -> T:
        """In a worker thread."""
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            self._one.acquire_nowait()  # a wait for what is free would be a turn of the loop, and 60 µs
        except trio.WouldBlock:
            await self._one.acquire()
        token = trio.lowlevel.current_trio_token()
        waiting: list[trio.lowlevel.Task] = [trio.lowlevel.current_task()]

        def counted() -> T:
            try:
                return work()
            finally:
                self.done += 1

        def tell(result: outcome.Outcome[T]) -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(end, result)

        def end(result: outcome.Outcome[T]) -> None:
            self._one.release()
            if waiting:
                trio.lowlevel.reschedule(waiting.pop(), result)

        def leave(_: object) -> trio.lowlevel.Abort:
            waiting.clear()
            return trio.lowlevel.Abort.SUCCEEDED

        try:
            trio.lowlevel.start_thread_soon(counted, tell)
        except RuntimeError as why:
            self._one.release()
            message = f"the system gives no thread ({why}): raise the limit on its tasks, or make room in its memory"
            raise self._unable(message) from None
        result: T = await trio.lowlevel.wait_task_rescheduled(leave)
        return result

    @property
    def busy(self) -> bool:
        """Whether the thread is at work."""
        return self._one.value == 0
