"""The sink for those who need it now: subjects ``ticks.SYMBOL``, and ``ticks.SYMBOL.late`` for what is old already."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import ClassVar, Final

import trio

from polygon_live.config import NatsAccess
from polygon_live.engines.nats import Message, NatsClient
from polygon_live.model import SOURCE_REST, Batch
from polygon_live.sink import Opened, StoreFacts, Written


class _Subjects(dict[str, bytes]):
    """Of each symbol, made once."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self._form = form

    def __missing__(self, symbol: str) -> bytes:
        subject = self[symbol] = self._form.format(symbol).encode()
        return subject


_LIVE: Final = _Subjects("ticks.{}")
_LATE: Final = _Subjects("ticks.{}.late")


class NatsSink:
    """Publishes each batch and waits until the server, or the stream that keeps the ticks, has all of it.

    A server that dies takes along what it has not passed on to the others of its cluster, though it answered for it. So
    where no stream keeps the ticks, those that it answered for shortly before its last sign of life are handed over
    once more to the next server. A stream's acknowledgement is final.
    """

    name = "nats"
    keeps_cursor: ClassVar = False
    pause_seconds: ClassVar = 0.0
    few_pause_seconds: ClassVar = 0.0

    CONNECT_SECONDS: ClassVar = 5.0
    PUBLISH_SECONDS: ClassVar = 10.0
    DOUBT_SECONDS: ClassVar = 1.0
    """It takes milliseconds to pass them on."""

    def __init__(
        self, access: NatsAccess, collector: str, *, live_max_age_seconds: float, now_ms: Callable[[], int]
    ) -> None:
        """``now_ms`` gives Unix milliseconds."""
        self._collector = collector.encode()
        self._live_ms = live_max_age_seconds * 1000
        self._now_ms = now_ms
        self._client = NatsClient(
            access,
            f"polygon-live/{collector}",
            connect_seconds=self.CONNECT_SECONDS,
            publish_seconds=self.PUBLISH_SECONDS,
        )
        self._doubtful: deque[tuple[float, Batch]] = deque()
        """Answered for by the server, when, and within ``DOUBT_SECONDS`` of its last sign of life."""

    async def open(self) -> Opened:
        """Raises StoreUnavailable, StoreMisconfigured."""
        await self._client.connect()
        if self._doubtful:
            await self._publish(Batch.joined([batch for _, batch in self._doubtful]))
            self._doubtful.clear()  # once more, not for ever: a server may take a batch and drop each connection
        return Opened(cursor=None)

    async def write(self, batch: Batch) -> Written:
        """Raises StoreUnavailable, StoreMisconfigured."""
        await self._publish(batch)
        self._answered(batch)
        return Written(len(batch))

    async def _publish(self, batch: Batch) -> None:
        # What was fetched is behind what came live, however young it is.
        live_from, collector = self._now_ms() - self._live_ms, self._collector
        messages = [
            Message(
                (_LIVE if tick.timestamp_ms >= live_from and tick.source != SOURCE_REST else _LATE)[tick.symbol],
                payload,
                tick.symbol,
                collector,
                tick.seq,
            )
            for tick, payload in zip(batch.ticks, batch.payloads, strict=True)
        ]
        await self._client.publish(messages)

    def _answered(self, batch: Batch | None = None) -> None:
        """The server has given a sign of life, perhaps for a batch."""
        now = trio.current_time()
        if batch is not None and not self._client.keeps:
            self._doubtful.append((now, batch))
        while self._doubtful and self._doubtful[0][0] < now - self.DOUBT_SECONDS:
            self._doubtful.popleft()

    async def held_after(self, seq: int) -> Sequence[bytes]:
        """Core NATS keeps nothing, and a stream is nobody's archive."""
        del seq
        return ()

    async def check(self) -> None:
        """Raises StoreUnavailable, StoreMisconfigured."""
        await self._client.publish([])
        self._answered()

    async def aclose(self) -> None:
        """Never waits for the server."""
        self._client.close()

    def facts(self) -> StoreFacts:
        """As found when last connected."""
        return self._client.facts
