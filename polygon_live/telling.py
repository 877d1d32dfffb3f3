"""Whom a pump tells what does not go the usual way."""

from collections.abc import Sequence
from typing import Protocol

from polygon_live.journal import Hole
from polygon_live.model import Reject
from polygon_live.sink import Opened, Sink


class Books(Protocol):
    """The pipeline's."""

    async def opened(self, sink: Sink, opened: Opened, *, behind: bool) -> None:
        """The store was opened, for the first time or again. ``behind``: its cursor has gone back."""

    async def lost(self, store: str, holes: Sequence[Hole]) -> None:
        """Accepted once, and not to be had for this store any more."""

    async def set_aside(self, reject: Reject, payload: bytes) -> None:
        """A tick that the store refuses: kept before the cursor passes it."""

    def set_aside_ever(self, store: str) -> int:
        """How many ticks of this store were kept so, in all runs."""

    def pending(self, after: int) -> tuple[int, float | None]:
        """How many ticks the journal holds behind this ``seq``, and in how many seconds, at the present rate, the
        first of them would have to make room; None: not in sight.
        """
