"""A pump on its own, for tests of stores: what it tells is noted down."""

import random
from collections.abc import Callable, Sequence

import attrs
import trio

from polygon_live.backlog import Backlog
from polygon_live.journal import Hole, Journal, Portion
from polygon_live.model import Reject
from polygon_live.pump import Pump
from polygon_live.sink import Opened, Sink


@attrs.define
class Desk:
    """What the pump tells. Without a journal everything has to fit into memory."""

    journal: Journal | None = None
    opens: list[bool] = attrs.Factory(list)
    """For each time whether the store was found to have fallen behind."""
    holes: list[Hole] = attrs.Factory(list)
    aside: list[Reject] = attrs.Factory(list)

    async def opened(self, sink: Sink, opened: Opened, *, behind: bool) -> None:
        await trio.lowlevel.checkpoint()
        self.opens.append(behind)

    async def lost(self, store: str, holes: Sequence[Hole]) -> None:
        await trio.lowlevel.checkpoint()
        self.holes += holes

    async def set_aside(self, reject: Reject, payload: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.aside.append(reject)

    def set_aside_ever(self, store: str) -> int:
        return sum(reject.stage == store for reject in self.aside)

    def pending(self, after: int) -> tuple[int, float | None]:
        return (self.journal.pending(after)[0] if self.journal else 0), None

    async def read(self, after: int, most: int) -> Portion | None:
        await trio.lowlevel.checkpoint()
        assert self.journal is not None, "what is not in memory is lost here"
        return self.journal.read(after, most)


def pump_on(
    sink: Sink,
    desk: Desk,
    *,
    wall_ms: Callable[[], int],
    rng: random.Random,
    limit: int = 10**6,
    cursor: int | None = None,
) -> Pump:
    """A pump with room for ``limit`` ticks; offer batches to its backlog."""
    beginning, head = (desk.journal.beginning, desk.journal.tail) if desk.journal else (0, 0)
    backlog = Backlog(limit, desk.read, beginning=beginning, head=head)
    return Pump(sink, backlog, cursor=cursor, books=desk, wall_ms=wall_ms, rng=rng)
