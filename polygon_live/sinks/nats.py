"""The sink for those who need it now: subjects ``ticks.SYMBOL``, and ``ticks.SYMBOL.late`` for what is old already."""

from collections.abc import Callable, Collection
from typing import ClassVar

from polygon_live.config import NatsAccess
from polygon_live.engines.nats import Message, NatsClient
from polygon_live.model import Batch
from polygon_live.sink import StoreFacts, Written


class NatsSink:
    """Publishes each batch and waits until the server, or the stream that keeps the ticks, has all of it."""

    name = "nats"

    CONNECT_SECONDS: ClassVar = 5.0
    PUBLISH_SECONDS: ClassVar = 10.0

    def __init__(
        self, access: NatsAccess, collector: str, *, live_max_age_seconds: float, now_ms: Callable[[], int]
    ) -> None:
        """``now_ms`` gives Unix milliseconds."""
        self._collector = collector
        self._live_ms = live_max_age_seconds * 1000
        self._now_ms = now_ms
        self._client = NatsClient(
            access,
            f"polygon-live/{collector}",
            connect_seconds=self.CONNECT_SECONDS,
            publish_seconds=self.PUBLISH_SECONDS,
        )

    async def open(self) -> None:
        """Raises StoreUnavailable, StoreMisconfigured."""
        await self._client.connect()

    async def write(self, batch: Batch) -> Written:
        """Raises StoreUnavailable, StoreMisconfigured."""
        live_from = self._now_ms() - self._live_ms
        messages = [
            Message(
                f"ticks.{tick.symbol}" if tick.timestamp_ms >= live_from else f"ticks.{tick.symbol}.late",
                payload,
                f"{self._collector}:{tick.seq}",
                tick.symbol,
            )
            for tick, payload in zip(batch.ticks, batch.payloads, strict=True)
        ]
        await self._client.publish(messages)
        return Written(len(batch))

    async def held(self, batch: Batch) -> Collection[int]:
        """Nothing is certain: core NATS keeps nothing, and a stream removes repeats by itself."""
        del batch
        return frozenset()

    async def check(self) -> None:
        """Raises StoreUnavailable, StoreMisconfigured."""
        await self._client.publish([])

    async def aclose(self) -> None:
        """Never waits for the server."""
        self._client.close()

    def facts(self) -> StoreFacts:
        """As found when last connected."""
        return self._client.facts
