"""What a sink is: it opens and says how far its store is, writes a batch, gives signs of life, and closes.

Retrying, backoff, order, counting, the search for a poison tick and reading from the journal belong to the pump, which
is the same for all three. A sink raises only the StoreErrors of ``errors.py`` (and lets cancellation through).

A store's **cursor** is the last ``seq`` of this collector that it holds durably. It moves in the same transaction as
the ticks, where the engine has transactions, and it says whose it is: ``Identity``.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, Protocol

import attrs

from polygon_live.model import Batch

MOST_HELD: Final = 100_000
"""Ticks that are copied back after a power cut: far more than come between two fsyncs."""


@attrs.frozen
class Identity:
    """Whose cursor it is."""

    collector: str
    """The name of the ``seq`` series, and of the cursor."""
    journal: str
    """The journal's random id. Who comes with another one is somebody else of this name, or has lost his journal."""
    host: str
    """For people."""


@attrs.frozen
class Opened:
    """What was found when a store was opened."""

    cursor: int | None
    """The last ``seq`` that it holds; None: it has none, and nothing of this collector, or keeps no cursors."""
    took_over: str | None = None
    """Whose cursor, of another journal, was dead and is ours now, in words."""
    certain: bool = True
    """False: its cursor was lost, and what was found instead is the least; it may hold more."""

    def after(self, remembered: int, *, new: bool) -> int:
        """Where to go on. ``remembered`` is its cursor as the collector knows it, or, if the store is ``new``, where
        the journal begins.
        """
        if new:
            return remembered if self.cursor is None else self.cursor
        held = self.cursor or 0
        return held if self.certain else max(held, remembered)


@attrs.frozen
class Written:
    """What became of a batch that the store took."""

    delivered: int
    """Ticks that the store now holds durably by its own rules."""
    expired: int = 0
    """Ticks that the store keeps no longer (older than its retention): passed over, no error."""


@attrs.frozen
class StoreFacts:
    """What was found out about a store when it was opened or looked at since."""

    about: Mapping[str, str | int | float | bool | None] = attrs.field(factory=dict)
    """For /state: server version, edition, servers known, retention, …; never an address with a secret in it."""
    complaints: tuple[str, ...] = ()
    """Standing faults that somebody should mend though delivery goes on; each is a reason in /health."""


class Sink(Protocol):
    """One store. All methods are called by one task, never at the same time."""

    name: str
    keeps_cursor: ClassVar[bool]
    """Whether the store itself remembers how far it is. If not, the collector does, a moment behind."""

    @property
    def pause_seconds(self) -> float:
        """From the beginning of one write to that of the next, unless thousands of ticks wait: for a store where a
        write costs the same be it of one tick or of a hundred, and whose readers don't look by the millisecond.
        """

    @property
    def few_pause_seconds(self) -> float:
        """The same while only a few ticks wait."""

    async def open(self) -> Opened:
        """Connect, make the store ready (set up, verified), end what is left of the connection before, and then read
        the cursor: what it says holds, whatever was unclear before. Called again after every error but RowsRefused. Has
        its own time limit.

        Raises StoreUnavailable, StoreMisconfigured, StoreContested.
        """

    async def write(self, batch: Batch) -> Written:
        """Write the batch and move the cursor to its last ``seq``, both or nothing; return when the store has answered
        for all of it. Has its own time limit.

        Raises StoreUnavailable (what was written is not known), StoreMisconfigured, StoreContested, RowsRefused
        (nothing was written).
        """

    async def check(self) -> None:
        """Ask the store for a sign of life and give one: called while there is nothing to write. Has its own limit.

        Raises StoreUnavailable, StoreMisconfigured, StoreContested.
        """

    async def held_after(self, seq: int) -> Sequence[bytes]:
        """The JSON of the ticks of this collector that the store holds with a ``seq`` above this one and not above
        its cursor, in ``seq`` order: asked after a power cut, when the store has more than the journal. A store that
        can't tell has none.

        Raises StoreUnavailable, also if there are more than ``MOST_HELD``: a journal that is a day old is no power cut,
        and a day does not fit into memory. Raises StoreMisconfigured.
        """

    async def aclose(self) -> None:
        """Let go of the connection. Never waits for a server that does not answer."""

    def facts(self) -> StoreFacts:
        """What is known now; touches nothing."""
