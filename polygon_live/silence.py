"""Nothing comes of any symbol: a connection that went mute, or a holiday that no calendar has? What to do about it.

::

    silent ─► reconnect, once ─► still silent: ask Polygon whether the market is open
                                   ├── closed: quiet; asked again, and the connection is left alone
                                   ├── it can't be asked: quiet; the connection is made anew once an hour
                                   └── open: alarm, once; the connection is made anew every quarter of an hour

Any tick ends it. Polygon tells of all currencies together (``currencies.fx``) and nothing of the metals: its word for
the currencies is taken for both. Where the calendar says that the market is closed nobody is asked: a closed market is
silent, and if ticks come all the same they are welcome.

A connection that answers no ping is treated the same, but is made anew sooner: it may be half-open.
"""

import math
from collections.abc import Callable
from typing import Final, Literal

from polygon_live.status import Hush

IDLE_SECONDS: Final = 30.0
"""No message for so long: ask for a sign of life, which costs a ping."""
QUIET_SECONDS: Final = 900.0
"""A silent connection that may be in order is made anew at most this often."""
UNVOUCHED_SECONDS: Final = 3600.0
"""The same where nobody says that the market is closed, and nobody that it is open."""
ASK_AGAIN_SECONDS: Final = 300.0
REFUSED_AGAIN_SECONDS: Final = 1800.0
"""The same where asking again will hardly help: a wrong key, a plan without it."""
TOLD_SECONDS: Final = 3600.0
"""For so long an answer is worth something."""

Step = Literal["leave", "ask", "reconnect"]
Answer = Literal["open", "closed", "unknown"]


class Silence:
    """Lives as long as the feed. ``last_tick`` is when anything was heard of any symbol, on the clock of ``now``."""

    def __init__(self, last_tick: Callable[[], float]) -> None:
        self._last_tick = last_tick
        self._noted_at = -math.inf
        self._tried_at = -math.inf
        self._answer: Answer | None = None
        self._asked_at = self._ask_at = -math.inf
        self._alarmed = False
        self._said = ""

    @property
    def word(self) -> Hush:
        """What there is to say of it now."""
        if self._last_tick() >= self._noted_at:
            return "none"
        if self._alarmed:
            return "alarm"
        return "quiet" if self._answer in {"closed", "unknown"} else "odd"

    def said(self, now: float) -> str:
        """What Polygon said of the market within the hour, or why it can't be asked."""
        return self._said if now - self._asked_at < TOLD_SECONDS else ""

    def may_ask(self, now: float) -> bool:
        """Polygon is not asked all the time."""
        return now >= self._ask_at

    def step(self, now: float, *, alive: bool, odd: bool | None) -> Step:
        """What to do with a silent connection. ``alive``: it answers pings. ``odd``: ticks should have come by now;
        None: the market is closed.
        """
        lately = now - self._tried_at < QUIET_SECONDS
        if odd is None:
            self._noted_at = -math.inf
            return "leave" if alive or lately else "reconnect"
        if alive and not odd:
            return "leave"
        if self._last_tick() >= self._noted_at:
            self._noted_at, self._alarmed = now, False
            if self._answer != "closed":
                self._answer = None
        if now - self._asked_at >= TOLD_SECONDS:
            self._answer = None
        if self._answer is None and not alive and self._tried_at < self._noted_at:
            return "reconnect"
        if self.may_ask(now) and (lately or self._answer is not None):
            return "ask"
        if self._answer == "closed":
            return "leave" if alive or lately else "reconnect"
        if self._answer == "unknown":
            return "leave" if lately or (alive and now - self._tried_at < UNVOUCHED_SECONDS) else "reconnect"
        return "leave" if alive and lately else "reconnect"

    def asking(self, now: float) -> None:
        """Polygon is being asked."""
        self._ask_at = now + ASK_AGAIN_SECONDS

    def reconnecting(self, now: float) -> None:
        """The connection is being made anew because nothing came."""
        self._tried_at = now

    def answered(self, answer: Answer, said: str, now: float, *, again: float = ASK_AGAIN_SECONDS) -> None:
        """Polygon was asked, and may be asked again in so many seconds, less than ``TOLD_SECONDS``. It is an alarm if
        the market is open and making the connection anew did not help.
        """
        self._answer, self._said = answer, said
        self._asked_at, self._ask_at = now, now + again
        self._alarmed = answer == "open" and (self._alarmed or now - self._tried_at < QUIET_SECONDS)
