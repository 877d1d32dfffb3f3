"""How long to wait before dialling Polygon again: decided here, slept in feed.py.

Polygon counts one connection an account. A collector that comes back too fast after ``max_connections`` evicts the
other instance, is evicted by it, and so on, once a second, for ever; and one that resets its backoff at
``auth_success`` never notices, because the excess connection does authenticate. So the backoff is reset only by ten
seconds of streaming.
"""

import random
from collections import deque
from collections.abc import Iterator
from typing import Final

from polygon_live.backoff import backoff
from polygon_live.errors import FeedError, LoginRefused, TooManyConnections

STABLE_SECONDS: Final = 10.0
REFUSED_SECONDS: Final = 300.0
COOL_DOWN_SECONDS: Final = 60.0
GIVE_WAY_SECONDS: Final = 900.0
GIVE_WAY_AT: Final = 3
GIVE_WAY_WINDOW_SECONDS: Final = 600.0
MOST_SECONDS: Final = 60.0


class Redial:
    """Remembers recent failures. ``first`` is the delay after the first one, in seconds."""

    def __init__(self, first: float, rng: random.Random) -> None:
        self._first = first
        self._rng = rng
        self._delays = self._fresh()
        self._evictions: deque[float] = deque()

    def after(self, error: FeedError, *, streamed: float, now: float) -> float:
        """Seconds to wait after ``error`` on a connection that streamed for ``streamed`` seconds."""
        if streamed >= STABLE_SECONDS:
            self._delays = self._fresh()
        if isinstance(error, LoginRefused):
            return REFUSED_SECONDS
        if isinstance(error, TooManyConnections):
            self._evictions.append(now)
            while now - self._evictions[0] > GIVE_WAY_WINDOW_SECONDS:
                self._evictions.popleft()
            return GIVE_WAY_SECONDS if len(self._evictions) >= GIVE_WAY_AT else COOL_DOWN_SECONDS
        return next(self._delays)

    def _fresh(self) -> Iterator[float]:
        return backoff(self._first, max(MOST_SECONDS, self._first), self._rng)
