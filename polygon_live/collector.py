"""The collector in one's own program: all of it, or its validated stream alone."""

import os
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

import trio

from polygon_live import logs
from polygon_live.buffer import Overflow, TickBuffer
from polygon_live.calendar import open_since
from polygon_live.config import Settings, settings_from
from polygon_live.daemon import Collector, steered, wall_ms
from polygon_live.dial import dial_websocket
from polygon_live.errors import ConfigurationError, NotUnderTrio, PolygonLiveError, reasons
from polygon_live.model import Tick
from polygon_live.operational import Operational
from polygon_live.reading import read
from polygon_live.stream import Stream


class PolygonLiveCollector:
    """Ticks of Polygon.io's forex and metals feed, under Trio.

    ::

        await PolygonLiveCollector().connect_websocket(symbols=["EURUSD", "XAUUSD"])     # into the three stores

        async with PolygonLiveCollector(symbols=["EURUSD"]) as collector:                # into this program alone
            async for tick in collector.ticks():
                print(tick.symbol, tick.bid, tick.ask)

    Settings come from the environment, and are read when one of the two begins: ``connect_websocket`` needs all that
    ``polygon-live run`` does, ``ticks`` the key (``POLYGON_API_KEY``) alone. ``symbols`` in any form in use, or
    ``["*"]`` for all that Polygon has; without them, those that would be collected anyway. Polygon allows an account
    one connection: not both at once, nor either beside a running collector.
    """

    def __init__(
        self,
        *,
        symbols: Sequence[str] | None = None,
        overflow: Overflow = "drop_oldest",
        buffer_ticks: int = 10_000,
    ) -> None:
        """``buffer_ticks`` may wait for who reads ``ticks()``. Then ``overflow`` says what becomes of the next one:
        ``drop_oldest`` counts in ``dropped`` and logs once until there is room again; ``fail`` ends the stream, and
        StreamOverflow is raised behind the last tick that fitted.

        Raises ConfigurationError (symbols), ValueError.
        """
        self._symbols = symbols_of(symbols)
        self._buffer_of = (buffer_ticks, overflow)
        self._buffer = TickBuffer(*self._buffer_of)
        self._stream: Stream | None = None
        self._block = AsyncExitStack()

    # Into the three stores ------------------------------------------------------------------------------------------

    async def connect_websocket(self, symbols: Sequence[str] | None = None) -> None:
        """``polygon-live run``, status server included, until cancelled or, in the main thread, SIGTERM or SIGINT.

        ``symbols`` hold for this run, whatever Central Hub says; its other settings are heeded. Both ends are in order:
        what was accepted is delivered within the grace period (``POLYGON_LIVE_GRACE_SECONDS``), and what was not stays
        in the journal. A second signal ends it at once.

        Raises ConfigurationError, with everything that is wrong, before anything is begun; JournalError; InternalFault
        if a bug ended it; NotUnderTrio.
        """
        _check_trio()
        if self._stream is not None:
            raise trio.BusyResourceError("its ticks are being read: Polygon allows an account one connection")
        chosen = symbols_of(symbols) or self._symbols
        settings = settings_from(os.environ)
        _log_as(settings)
        await _run(Collector(settings, await steered(settings, symbols=chosen)))

    # Into this program alone ----------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Connect, and again whenever the connection ends. Raises ConfigurationError, NotUnderTrio."""
        _check_trio()
        if self._stream is not None:
            raise trio.BusyResourceError("its ticks are being read already")
        settings = settings_from(os.environ, needed=("polygon",))
        _log_as(settings)
        self._buffer = TickBuffer(*self._buffer_of)
        stream = Stream(
            settings,
            Operational(symbols=self._symbols) if self._symbols else Operational(),
            self._buffer,
            dial=dial_websocket,
            sessions=open_since,
            wall_ms=wall_ms,
            rng=random.Random(),
        )
        await self._block.enter_async_context(stream.running())
        self._stream = stream
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, why: BaseException | None, where: TracebackType | None
    ) -> bool | None:
        """Say goodbye to Polygon. Raises InternalFault if a bug ended the stream."""
        try:
            return await self._block.__aexit__(kind, why, where)
        finally:
            self._stream = None

    def ticks(self) -> AsyncIterator[Tick]:
        """Accepted ticks as they come, for ever; of several readers, each tick goes to one. May be left and taken up
        again. Raises StreamOverflow, if that is what was asked for.
        """
        if self._stream is None:
            raise PolygonLiveError("ticks are there inside of `async with collector:` only")
        return self._buffer

    @property
    def dropped(self) -> int:
        """How many ticks were dropped unread since the block began, or in the last one."""
        return self._buffer.dropped

    @property
    def rejected(self) -> Mapping[str, int]:
        """How many events were refused as ticks since the block began, for each reason."""
        return {} if self._stream is None else dict(self._stream.rejected)


def symbols_of(symbols: Sequence[str] | None) -> tuple[str, ...] | None:
    """Each once, in the one form that is used inside. Raises ConfigurationError."""
    if symbols is None:
        return None
    found = read({"operational": {"symbols": symbols if isinstance(symbols, str) else list(symbols)}})
    if found.operational is None:
        raise ConfigurationError(*(fault.removeprefix("operational.") for fault in found.faults))
    return found.operational.symbols


def _check_trio() -> None:
    if not trio.lowlevel.in_trio_run():
        raise NotUnderTrio(
            "polygon-live runs on Trio, and this is another event loop: call trio.run(main) instead of "
            "asyncio.run(main), or, beside asyncio, in a thread: asyncio.to_thread(trio.run, main)"
        )


def _log_as(settings: Settings) -> None:
    logs.configure_unless_others_did(settings.log_level, settings.log_format, settings.secrets())


async def _run(collector: Collector) -> None:
    """To its end, or to that of whoever waits for it: then in order."""
    over = False

    async def stop_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            if not over and not collector.pipeline.stopping:
                collector.stop()

    fault: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_when_cancelled)
            with trio.CancelScope(shield=True):  # bounded: by the grace period, once it is stopped
                try:
                    await collector.run()
                finally:
                    over = True
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:  # that there are nurseries is nobody's business
        found = list(reasons(group))
        if len(found) > 1:
            raise
        fault = found[0]
    if fault is not None:
        raise fault  # with the cause that it has
