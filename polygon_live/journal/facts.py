"""What the journal answers."""

from pathlib import Path
from typing import Any

import attrs

from polygon_live.gap import instant_text
from polygon_live.journal.holes import Hole
from polygon_live.model import Batch


@attrs.frozen
class Portion:
    """What follows a ``seq``."""

    batch: Batch | None
    """Rows joined to about as many ticks as were asked for. None: only holes follow."""
    holes: tuple[Hole, ...]
    """Between the ``seq`` and the batch."""
    last: int
    """A reader may move its cursor here."""


@attrs.frozen
class GivenUp:
    """Removed although a store did not have it yet."""

    sink: str
    hole: Hole


@attrs.frozen
class JournalFacts:
    """What the journal is and has. Bytes are those of its segments on the disk."""

    folder: Path
    id: str
    bytes: int
    most_bytes: int
    free_bytes: int
    """Left on its disk when it was last trimmed."""
    segments: int
    batches: int
    ticks: int
    bytes_per_tick: float
    """Of the disk, where small batches take more than large ones. As in sealed segments, if there are any: the log of
    the one that is written to is larger than what will be left of it.
    """
    oldest_ms: int | None
    """When the oldest batch was written, by the collector's clock; None: the journal is empty."""
    tail: int
    removed_to: int
    """The last ``seq`` that was removed; 0: none was."""
    corrupt: tuple[Hole, ...]
    """Batches that could not be read, each once: found by reading, so the list may grow."""
    damaged: tuple[str, ...]
    """Files that were set aside at this or an earlier start and are still there."""


@attrs.frozen
class Newest:
    """A symbol's newest accepted tick, by Polygon's timestamp."""

    timestamp_ms: int
    seq: int


@attrs.frozen
class Aside:
    """A tick that a store refused."""

    sink: str
    seq: int
    symbol: str
    why: str
    """The engine's own words."""
    payload: bytes
    """The tick as the store was given it: UTF-8 JSON."""
    at_ms: int
    """When, the collector's clock."""

    def shown(self) -> dict[str, Any]:
        """As programs outside read it. The tick is its very text: it may be what is wrong with it."""
        return {
            "sink": self.sink,
            "seq": self.seq,
            "symbol": self.symbol,
            "at": instant_text(self.at_ms),
            "why": self.why,
            "tick": self.payload.decode(errors="backslashreplace"),
            "at_ms": self.at_ms,
        }
