"""A memory channel whose bound is a weight (bytes, ticks), not a number of items.

Nobody upstream ever waits for somebody downstream: what does not fit is refused at once, and the sender counts it.
"""

import math
from collections.abc import Sized
from typing import Generic, TypeVar

import trio

T = TypeVar("T", bound=Sized)


class _Level:
    """What both ends share: ``held`` rises on sending and falls on receiving."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0


class WeightedSender(trio.abc.AsyncResource, Generic[T]):
    """The sending end. Closing it is the message that nothing more will come."""

    def __init__(self, channel: trio.MemorySendChannel[T], level: _Level) -> None:
        self._channel = channel
        self._level = level

    def offer(self, item: T, *, spare: int = 0) -> bool:
        """Put the item in if there is room for its ``len()``, and for ``spare`` more; False if not. An empty channel
        takes any item, and what weighs nothing always finds room.

        Raises trio.BrokenResourceError when the receiver is gone.
        """
        level = self._level
        weight = len(item)
        if weight and level.held and level.held + weight > level.limit - spare:
            return False
        self._channel.send_nowait(item)
        level.held += weight
        return True

    @property
    def held(self) -> int:
        """The weight that waits in the channel now."""
        return self._level.held

    @property
    def limit(self) -> int:
        """The weight that it may hold."""
        return self._level.limit

    async def aclose(self) -> None:
        """Close this end; the receiver sees the rest, then the end."""
        await self._channel.aclose()


class WeightedReceiver(trio.abc.AsyncResource, Generic[T]):
    """The receiving end."""

    def __init__(self, channel: trio.MemoryReceiveChannel[T], level: _Level) -> None:
        self._channel = channel
        self._level = level

    async def receive_some(self, most: int) -> list[T]:
        """Wait for one item, then take what else is there, up to a weight of about ``most`` (at least one item).

        Raises trio.EndOfChannel when the sender closed and all is taken.
        """
        item = await self._channel.receive()
        self._level.held -= len(item)
        return [item, *self.receive_nowait(most - len(item))]

    def receive_nowait(self, most: int) -> list[T]:
        """What is there, up to a weight of about ``most``."""
        items: list[T] = []
        weight = 0
        while weight < most:
            try:
                item = self._channel.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                break
            items.append(item)
            weight += len(item)
        self._level.held -= weight
        return items

    async def aclose(self) -> None:
        """Close this end."""
        await self._channel.aclose()


def open_weighted_channel(limit: int, of: type[T] | None = None) -> tuple[WeightedSender[T], WeightedReceiver[T]]:
    """A channel that holds items of type ``of`` up to a total ``len()`` of ``limit``."""
    del of  # names the type, for the reader and the type checker, where nothing else does
    send, receive = trio.open_memory_channel[T](math.inf)
    level = _Level(limit)
    return WeightedSender(send, level), WeightedReceiver(receive, level)
