"""What the feed hands on: frames as they came, and among them, exactly where it was, each time nobody listened.

The feed never waits. What does not fit is dropped and counted, and the place of the loss is marked at once, for nothing
may come after it. Then frames are dropped until an eighth of the room is free again: a lasting overload makes few long
gaps, not a ledger full of short ones, which would slow down a collector that is too slow already.
"""

from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

import structlog

from polygon_live import wire
from polygon_live.channels import WeightedReceiver, WeightedSender, open_weighted_channel
from polygon_live.model import Interruption

Heard: TypeAlias = wire.Frame | Interruption

SPARE: Final = 8
"""The part of the room, as a divisor, that must be free after a loss."""
SAY_AGAIN_MS: Final = 60_000

log = structlog.get_logger()


def open_frames(most: int) -> tuple[WeightedSender[Heard], WeightedReceiver[Heard]]:
    """The channel from the feed to who judges, for frames of up to ``most`` characters together."""
    return open_weighted_channel(most)


def parted(heard: Iterable[Heard]) -> Iterator[Interruption | list[wire.Frame]]:
    """The same in order, with the frames between two interruptions together."""
    frames: list[wire.Frame] = []
    for item in heard:
        if isinstance(item, wire.Frame):
            frames.append(item)
            continue
        if frames:
            yield frames
            frames = []
        yield item
    if frames:
        yield frames


class Intake:
    """The feed's end of the channel, with its counts."""

    def __init__(self, channel: WeightedSender[Heard]) -> None:
        self.channel = channel
        self.count = self.characters = self.dropped = 0
        self.dropped_ms: int | None = None
        self._losing = False

    def take(self, message: str | bytes, now_ms: int) -> None:
        """Hand on one message, or drop it."""
        self.count += 1
        self.characters += len(message)
        spare = self.channel.limit // SPARE if self._losing else 0
        if self.channel.offer(wire.Frame(message, now_ms), spare=spare):
            self._losing = False
            return
        if not self._losing:
            self._losing = True
            self.interrupted(Interruption("overflow", "the memory for messages was full"))
        if self.dropped_ms is None or now_ms - self.dropped_ms > SAY_AGAIN_MS:
            log.error("memory for messages is full: they are dropped unjudged", dropped_before=self.dropped)
        self.dropped += 1
        self.dropped_ms = now_ms

    def interrupted(self, interruption: Interruption) -> None:
        """Mark the place: what was handed on before came before."""
        self.channel.offer(interruption)
