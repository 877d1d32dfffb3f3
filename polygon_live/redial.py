"""How long to wait before dialling Polygon again: decided here, slept in feed.py.

Polygon counts one connection an account. A collector that comes back too fast after ``max_connections`` evicts the
other instance, is evicted by it, and so on, once a second, for ever; and one that resets its backoff at
``auth_success`` never notices, because the excess connection does authenticate. So the backoff is reset only by ten
seconds of streaming.
"""

import random
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from polygon_live.errors import FeedError, LoginRefused, TooManyConnections

STABLE_SECONDS: Final = 10.0
REFUSED_SECONDS: Final = 300.0
COOL_DOWN_SECONDS: Final = 60.0
GIVE_WAY_SECONDS: Final = 900.0
GIVE_WAY_AT: Final = 3
GIVE_WAY_WINDOW_SECONDS: Final = 600.0
MOST_SECONDS: Final = 60.0
MOST_DOUBLINGS: Final = 32
"""Enough for any delay that is worth its name."""


class Redial:
    """Remembers recent failures. ``first`` is the delay after the first one, in seconds: it doubles with each, up to a
    minute (or up to itself, if it is more), and a wait is drawn from the upper half of what it has come to.
    """

    def __init__(self, first: float, rng: random.Random) -> None:
        self._first = first
        self._rng = rng
        self._doubled = 0
        self._evictions: deque[float] = deque()
        self._seconds: Callable[[], float] = lambda: 0.0

    @property
    def seconds(self) -> float:
        """How long to wait after the last failure, by the delay that is in force now."""
        return self._seconds()

    def change(self, first: float) -> None:
        """Another delay from now on, also for a wait that has begun."""
        self._first = first

    def after(self, error: FeedError, *, streamed: float, now: float) -> float:
        """Seconds to wait after ``error`` on a connection that streamed for ``streamed`` seconds."""
        if streamed >= STABLE_SECONDS:
            self._doubled = 0
        if isinstance(error, LoginRefused):
            self._seconds = lambda: REFUSED_SECONDS
        elif isinstance(error, TooManyConnections):
            self._evictions.append(now)
            while now - self._evictions[0] > GIVE_WAY_WINDOW_SECONDS:
                self._evictions.popleft()
            given_way = len(self._evictions) >= GIVE_WAY_AT
            self._seconds = lambda: GIVE_WAY_SECONDS if given_way else COOL_DOWN_SECONDS
        else:
            self._seconds = partial(self._delay, self._doubled, self._rng.uniform(0.5, 1.0))
            self._doubled += 1
        return self.seconds

    def _delay(self, doubled: int, part: float) -> float:
        most = max(MOST_SECONDS, self._first)
        return part * min(most, self._first * 2.0 ** min(doubled, MOST_DOUBLINGS))
