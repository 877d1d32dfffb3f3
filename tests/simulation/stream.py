"""A subject that keeps no cursors: at least once. With a stream over it, repeats are removed in a window of time.

Modelled: a connection that is lost after some of the messages, answers that are lost.
"""

from collections.abc import Sequence
from typing import ClassVar, Final

from polygon_live.errors import StoreUnavailable
from polygon_live.model import Batch
from polygon_live.sink import Opened, Written
from tests.simulation.plan import StorePlan
from tests.simulation.store import WRITE_SECONDS, Client, Store, World

WINDOW_SECONDS: Final = 120.0


class Stream(Store):
    """ticks.>"""

    name = "nats"

    def __init__(self, world: World, plan: StorePlan, seed: int) -> None:
        super().__init__(world, plan, seed)
        self.messages: list[tuple[int, bytes]] = []
        self.ids: dict[int, float] = {}
        self.repeats = 0

    def publish(self, batch: Batch) -> None:
        now = self.world.now
        for tick, payload in zip(batch.ticks, batch.payloads, strict=True):
            known = self.ids.get(tick.seq)
            self.repeats += known is not None
            if self.plan.keeps and known is not None and now - known < WINDOW_SECONDS:
                continue
            self.ids[tick.seq] = now
            self.messages.append((tick.seq, payload))

    def held(self) -> Sequence[tuple[int, bytes]]:
        return self.messages


class StreamSink(Client):
    """One collector's connection."""

    keeps_cursor: ClassVar[bool] = False
    _store: Stream

    async def open_(self) -> Opened:
        await self._passes(self._latency())
        return Opened(None)

    async def write_(self, batch: Batch) -> Written:
        stream = self._store
        arrives = batch
        if stream.trouble() == "unclear" and stream.rng.random() < 0.5:
            arrives = batch.beyond(-1)
            for _ in range(stream.rng.randrange(4)):
                arrives = arrives.halves()[0] if len(arrives) > 1 else arrives
            if stream.rng.random() < 0.8:
                stream.publish(arrives)
            if stream.rng.random() < 0.3:
                await self._silence(WRITE_SECONDS)
            raise StoreUnavailable(f"{self.name}: the connection was lost before the flush was answered")
        # Sent is not received: a client that dies before the flush may have sent nothing.
        first, rest = batch.halves() if len(batch) > 1 else (batch, None)
        await self._passes(self._latency())
        stream.publish(first)
        await self._passes(self._latency())
        if rest is not None:
            stream.publish(rest)
        await self._passes(self._latency())
        return Written(len(batch))
