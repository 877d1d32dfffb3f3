"""How the journal's work is run, one piece at a time: in a worker thread; in the simulation directly."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import trio

T = TypeVar("T")


class Call(Protocol):
    """Runs a piece of the journal's work."""

    async def __call__(self, work: Callable[[], T], /) -> T:
        """Whatever it returns or raises."""

    @property
    def busy(self) -> bool:
        """Whether a piece of work is under way, be it that nobody waits for it any more."""

    @property
    def done(self) -> int:
        """How many pieces have come to their end: as long as it does not rise, the one under way is the same."""


class InThread:
    """One thread at a time. Who stops waiting leaves it to its work; the next has to wait for that."""

    def __init__(self) -> None:
        self._one = trio.CapacityLimiter(1)
        self.done = 0
        """How many pieces have come to their end."""

    async def __call__(self, work: Callable[[], T], /) -> T:
        """In a worker thread."""

        def counted() -> T:
            try:
                return work()
            finally:
                self.done += 1

        return await trio.to_thread.run_sync(counted, abandon_on_cancel=True, limiter=self._one)

    @property
    def busy(self) -> bool:
        """Whether the thread is at work."""
        return self._one.borrowed_tokens > 0
