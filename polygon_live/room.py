"""When a disk will be full: told from how its free space has moved in the last minute, minutes, hour and hours.

One rate would be wrong most of the time. Over a minute it is that of the moment, be it a backup that is being copied;
over hours it tells nothing of what began just now; and space that is let go of in pieces, as the journal's segments and
the table's hours are, rises in steps between slow falls. So each span gives its own answer, and is believed as far as
it has seen: who has watched for ten minutes may speak of the next forty, not of tomorrow. The soonest is the answer.
"""

import os
from collections import deque
from pathlib import Path
from typing import Final

import attrs

SPANS_SECONDS: Final = (60.0, 600.0, 3600.0, 21_600.0)
SAMPLES: Final = 60
"""Kept of each span."""
AHEAD: Final = 4.0
"""So many times what was seen is believed of the time to come: at most a day."""
LEAST_SECONDS: Final = 10.0
"""Less says nothing."""
REARMED_SECONDS: Final = 600.0
"""A disk that was not filling for so long is warned of anew."""


@attrs.frozen
class RoomSnapshot:
    """The free space of a disk."""

    free_bytes: int | None
    """None: it can't be seen from here."""
    seconds_until_full: float | None
    """At the rate of the last minutes to hours; None: it is not filling, or not so that it would be full in a day."""


UNSEEN: Final = RoomSnapshot(free_bytes=None, seconds_until_full=None)


class Room:
    """The free space of one disk, as seen by whoever calls ``see``. Times are in seconds, on any one clock."""

    def __init__(self) -> None:
        self._spans = [_Span(seconds) for seconds in SPANS_SECONDS]
        self._free: int | None = None
        self._at = 0.0
        self._warned_at: float | None = None

    def see(self, at: float, free: int | None) -> float | None:
        """``free`` bytes at this time; None: it can't be seen, and what was seen is forgotten.

        Seconds until the disk is full if that should be said now: when it begins to fill, not at every look.
        """
        if free is None or at < self._at:  # a clock that was set back makes every rate a wrong one
            self._spans = [_Span(seconds) for seconds in SPANS_SECONDS]
        self._free, self._at = free, at
        if free is None:
            return None
        for span in self._spans:
            span.add(at, free)
        left = self.seconds_until_full()
        if left is None:
            return None
        new = self._warned_at is None or not 0 <= at - self._warned_at < REARMED_SECONDS
        self._warned_at = at
        return left if new else None

    def seconds_until_full(self) -> float | None:
        """From the last look on; None: it does not fill, or so slowly that it can't be told yet."""
        if self._free is None:
            return None
        if self._free <= 0:
            return 0.0
        told = [left for span in self._spans if (left := span.seconds_until_full(self._at, self._free)) is not None]
        return min(told, default=None)

    def snapshot(self) -> RoomSnapshot:
        """As of the last look."""
        left = self.seconds_until_full()
        return RoomSnapshot(free_bytes=self._free, seconds_until_full=None if left is None else round(left, 1))


@attrs.define
class _Span:
    """What was seen in the last ``seconds``, thinned out."""

    seconds: float
    seen: deque[tuple[float, int]] = attrs.Factory(deque)

    def add(self, at: float, free: int) -> None:
        while self.seen and at - self.seen[0][0] > self.seconds:
            self.seen.popleft()
        if not self.seen or at - self.seen[-1][0] >= self.seconds / SAMPLES:
            self.seen.append((at, free))

    def seconds_until_full(self, at: float, free: int) -> float | None:
        since, was = self.seen[0]
        if at - since < LEAST_SECONDS or free >= was:
            return None
        left = free * (at - since) / (was - free)
        return left if left <= AHEAD * (at - since) else None


def free_bytes(folder: Path) -> int:
    """What is left for such as us on this folder's disk. Raises OSError."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize
