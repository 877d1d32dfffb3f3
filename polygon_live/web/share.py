"""The pages' share of the loop, on which ticks travel too.

Whatever a client can make the server do is done in turns: one at a time, first come, first served, and after each the
loop is left to the ticks for ``REST`` times as long as it took. So the pages have at most a quarter of the loop, be
there one client or a hundred, and a tick meets at most one piece of work a step. What a turn took includes what the
ticks did in between, so a busy loop gives the pages less by itself.
"""

import math
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

import trio

REST: Final = 3.0
MOST_REST_SECONDS: Final = 0.25

T = TypeVar("T")


class Share:
    """The one turn that there is."""

    def __init__(self) -> None:
        # No lock: a turn is taken by one task, and given back by another.
        self._one = trio.Semaphore(1, max_value=1)
        self._free_at = -math.inf

    async def acquire(self) -> None:
        """For ``Turn``."""
        await self._one.acquire()
        try:
            await trio.sleep_until(self._free_at)
        except trio.Cancelled:
            self._one.release()
            raise

    def release(self, began: float) -> None:
        """For ``Turn``."""
        now = trio.current_time()
        self._free_at = now + min(REST * (now - began), MOST_REST_SECONDS)
        self._one.release()


class Turn:
    """Who waits for something else gives it back meanwhile."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self._began: float | None = None

    @property
    def had(self) -> bool:
        """Now."""
        return self._began is not None

    async def take(self) -> None:
        """It is not had."""
        await self._share.acquire()
        self._began = trio.current_time()

    def give(self) -> None:
        """It may have been given back before."""
        if self._began is not None:
            began, self._began = self._began, None
            self._share.release(began)


class Shared(Generic[T]):
    """One answer for all who asked before it was begun: never older than the question, however many ask.

    ``every``: seconds from one beginning to the next, at the least.
    """

    def __init__(self, make: Callable[[], Awaitable[T]], every: float = 0.0) -> None:
        self._make = make
        self._every = every
        self._one = trio.Lock()
        self._begun = -math.inf
        self._made: T | None = None

    async def get(self, asked: float) -> T:
        """``asked`` is a time of Trio's clock. Raises what making it does."""
        async with self._one:
            if self._made is None or self._begun < asked:
                await trio.sleep_until(self._begun + self._every)
                self._made = None
                self._begun = trio.current_time()
                self._made = await self._make()
            return self._made
