"""The gap book: which symbol nobody listened to, from its last tick before to its first tick after.

Synchronous and without IO: entries go out, and who runs the book enters them into the ledger. Rules of its state:

- An entry lasts from an interruption to the next tick of its symbol; a symbol whose entry lasts gets no second one,
  however often it is interrupted meanwhile.
- A symbol that never ticked has no entry: nothing is known to be missing.
- Only a tick that is not older than the entry's beginning ends it. One that comes late proves that somebody listens
  again, and not since when.
- A timestamp far ahead of the clock is doubted in the direction that misses nothing: an entry begins no later than that
  tick came, and ends no earlier than it says.
- What lay in closed hours is cut out when the entry ends: the market's calendar is no news before.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import attrs

from polygon_live.calendar import Stretches, open_stretches
from polygon_live.gap import Gap
from polygon_live.model import Interruption, Tick

AHEAD_MS: Final = 5000
"""A timestamp so far ahead of the collector's clock is doubted."""
CAUSES: Final = frozenset({"disconnect", "mute", "downtime", "overflow", "clock"})
"""Of the entries that the book begins and ends."""
MARKET_CLOSED: Final = "the market was closed"


class GapBook:
    """``newest`` is each symbol's newest accepted timestamp (Unix ms), ``lasting`` the ledger's entries without an end,
    ``stretches`` the market's hours.
    """

    def __init__(
        self, newest: Mapping[str, int], lasting: Iterable[Gap], stretches: Stretches = open_stretches
    ) -> None:
        self._before = dict(newest)
        self._ticks: dict[str, Tick] = {}
        self._lasting = [gap for gap in lasting if gap.to_ms is None and gap.cause in CAUSES and gap.store is None]
        self._stretches = stretches

    @property
    def lasting(self) -> Sequence[Gap]:
        """Entries without an end."""
        return tuple(self._lasting)

    @property
    def known(self) -> Collection[str]:
        """The symbols that ever ticked."""
        return self._before.keys() | self._ticks.keys()

    def interrupted(self, interruption: Interruption, symbols: Iterable[str], now_ms: int) -> list[Gap]:
        """The entries that begin now. ``symbols`` is all that are collected: meant if the interruption names none.

        Who entered them tells so with ``entered``.
        """
        lasting = {gap.symbol for gap in self._lasting}
        meant = symbols if interruption.symbols is None else interruption.symbols
        new = [
            Gap(0, symbol, interruption.cause, from_ms, None, detail=interruption.detail, opened_ms=now_ms)
            for symbol in meant
            if symbol not in lasting and (from_ms := self._last_of(symbol, now_ms)) is not None
        ]
        self._lasting += new
        return new

    def entered(self, gaps: Iterable[Gap]) -> None:
        """What the ledger made of entries that last, with their ids."""
        known = {(gap.symbol, gap.from_ms): gap for gap in gaps}
        self._lasting = [gap if gap.id else known.get((gap.symbol, gap.from_ms), gap) for gap in self._lasting]

    def accepted(self, ticks: Sequence[Tick]) -> list[Gap]:
        """Take in live ticks in ``seq`` order. What ends by them: entries without an id are to be entered into the
        ledger, and then, not before, those with one to be updated; else a crash in between would lose the new ones.
        """
        newest = {tick.symbol: tick for tick in ticks if not tick.late}
        self._ticks.update(newest)
        if not self._lasting:
            return []
        ended, lasting = [], []
        for gap in self._lasting:
            ticked = (t for t in ticks if t.symbol == gap.symbol and t.timestamp_ms >= gap.from_ms)
            tick = next(ticked, None) if gap.symbol in newest else None
            if tick is None:
                lasting.append(gap)
            else:
                ended += self._open_parts(attrs.evolve(gap, to_ms=tick.timestamp_ms, last_seq=tick.seq))
        self._lasting = lasting
        return ended

    def regained(self, ticks: Sequence[Tick]) -> None:
        """Take in live ticks that a power cut had taken. They end nothing: an entry that began among them began where
        nobody knows any more, and what follows it lies behind them all.
        """
        self._ticks.update({tick.symbol: tick for tick in ticks if not tick.late})

    def overtaken(self, seqs: Mapping[str, int]) -> list[Gap]:
        """What a run that was cut off left untrue, put right. An entry ends because its symbol had ticked when a kill
        came, and the tick could not be told any more; or it begins earlier, because a power cut took the tick that it
        begins with, and others before that. ``seqs``: of each symbol's newest tick. At the beginning of a run.
        """
        changed, lasting = [], []
        for gap in self._lasting:
            newest = self._before.get(gap.symbol, gap.from_ms)
            if newest > gap.from_ms:
                changed += self._open_parts(attrs.evolve(gap, to_ms=newest, last_seq=seqs[gap.symbol]))
            elif newest < gap.from_ms:
                lasting.append(attrs.evolve(gap, from_ms=newest))
                changed.append(lasting[-1])
            else:
                lasting.append(gap)
        self._lasting = lasting
        return changed

    def no_longer(self, collected: Collection[str], now_ms: int) -> list[Gap]:
        """Entries that end now because their symbol is not among those that are collected: no tick will end them.

        When it ticked last is forgotten: from then until it is collected again nothing is missing.
        """
        left = [gap for gap in self._lasting if gap.symbol not in collected]
        self._lasting = [gap for gap in self._lasting if gap.symbol in collected]
        self._before = {symbol: at for symbol, at in self._before.items() if symbol in collected}
        self._ticks = {symbol: tick for symbol, tick in self._ticks.items() if symbol in collected}
        why = "the symbol is no longer collected"
        return [
            attrs.evolve(
                gap,
                to_ms=max(now_ms, gap.from_ms),
                state="unfillable",
                detail=f"{gap.detail}; {why}" if gap.detail else why,
            )
            for gap in left
        ]

    def _last_of(self, symbol: str, now_ms: int) -> int | None:
        tick = self._ticks.get(symbol)
        if tick is None:
            newest = self._before.get(symbol)
            return newest if newest is None or newest <= now_ms + AHEAD_MS else now_ms
        return tick.timestamp_ms if tick.timestamp_ms <= tick.received_ms + AHEAD_MS else tick.received_ms

    def _open_parts(self, gap: Gap) -> list[Gap]:
        """An entry for each stretch of open market in this one."""
        assert gap.to_ms is not None  # noqa: S101  # it has just ended
        parts = self._stretches(gap.symbol, gap.from_ms, gap.to_ms)
        if not parts:
            return [attrs.evolve(gap, state="empty", detail=MARKET_CLOSED)]
        (from_ms, to_ms), *others = parts
        return [
            attrs.evolve(gap, from_ms=from_ms, to_ms=to_ms),
            *(attrs.evolve(gap, id=0, from_ms=begins, to_ms=ends) for begins, ends in others),
        ]
