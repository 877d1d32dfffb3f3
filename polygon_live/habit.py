"""How long a symbol is used to be silent, learnt from its own ticks: what is odd for one is usual for another.

Ticks come in bursts, at rates that change with the hour, so neither their mean nor a variance tells much of the pauses
between them. What is kept is the longest pause lately: it fades by half every ``FADES_SECONDS``, and a longer one takes
its place at once. A silence is odd beyond ``ODD`` times that. Two numbers a symbol, and nothing to do for a tick that
comes within ``SHORT_MS`` of the one before: such a pause is too short to matter.

Pauses are measured between Polygon's timestamps: a stall of our own lengthens none. One in which nobody listened is
none of the symbol's, and neither is one of ``MUTE_SECONDS``: there the market was closed, or the symbol mute, and the
habit is learnt anew from there. It is also not trusted in the first part of a trading day: at 17:00 in New York pauses
become several times as long within minutes.

Calibrated on the real ticks that there are: 6 h of EURUSD (New Year's Day 2020, 9,500 ticks, pauses of up to 86 s) and
35 min of USDJPY (New Year's Day 2013, 1,000 ticks, up to 156 s) have no silence that is called odd; expected was a tick
within 57 to 300 s, 108 s in the median for EURUSD. With ``ODD`` 2.5 or 2 there would be two in its 6 h, with 1.5 five.
On made-up days, in bursts, at rates that change fourfold, there is less than one a day.
"""

import math
from typing import Final

MUTE_SECONDS: Final = 300.0
"""Silent for so long is mute, whatever the symbol's habit. The longest silence in the real files is 156 s."""
LEAST_SECONDS: Final = 10.0
"""Shorter silences are never odd."""
ODD: Final = 3.0
MUTE: Final = 4.0
"""So many times what is expected is a silence worth subscribing anew, which may cost a tick."""
MUTE_AT_LEAST_SECONDS: Final = 60.0
FADES_SECONDS: Final = 1800.0
LEARNING_SECONDS: Final = 1200.0
"""A habit is not trusted before it was learnt for so long."""
SHORT_MS: Final = round(1000 * LEAST_SECONDS / ODD)
"""Pauses shorter than this change nothing."""


class Habit:
    """Of one symbol. All times are Unix milliseconds."""

    __slots__ = ("_at_ms", "_longest", "_missed_ms", "_since_ms")

    def __init__(self) -> None:
        self._since_ms = 0
        self._longest = 0.0
        """Seconds, as it was at ``_at_ms``."""
        self._at_ms = 0
        self._missed_ms = -1

    def paused(self, from_ms: int, to_ms: int) -> None:
        """No tick came between these two; those shorter than ``SHORT_MS`` need not be told."""
        pause = (to_ms - from_ms) / 1000
        if pause >= MUTE_SECONDS:
            self._since_ms, self._longest, self._at_ms = to_ms, 0.0, to_ms
        elif from_ms != self._missed_ms and pause > self._faded(to_ms):
            self._longest, self._at_ms = pause, to_ms

    def missed(self, last_ms: int) -> None:
        """Nobody listened after the tick of this time: the pause that begins with it is none."""
        self._missed_ms = last_ms

    def usual(self, now_ms: int, begun_ms: int) -> float | None:
        """The longest pause lately, in seconds; None: not learnt yet. ``begun_ms`` is when the trading day began."""
        if now_ms - max(self._since_ms, begun_ms) < LEARNING_SECONDS * 1000:
            return None
        return max(self._faded(now_ms), SHORT_MS / 1000)

    def _faded(self, now_ms: int) -> float:
        return self._longest * math.exp2(-max(0, now_ms - self._at_ms) / 1000 / FADES_SECONDS)


def expected_within(usual: float | None) -> float:
    """Seconds within which a tick is expected of a symbol with this longest pause lately."""
    return MUTE_SECONDS if usual is None else min(MUTE_SECONDS, max(LEAST_SECONDS, ODD * usual))


def mute_after(expected: float) -> float:
    """Seconds of silence after which something is done for a symbol of which a tick is expected within so many."""
    return min(MUTE_SECONDS, max(MUTE_AT_LEAST_SECONDS, MUTE * expected))
