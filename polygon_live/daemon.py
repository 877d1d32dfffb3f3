"""The composition root: reads as the diagram.

::

     feed ══frames══► judge ══batches══► pump ─► timescale        ══  bounded channel, closed by its sender
                        ║                pump ─► nats
                        ║                pump ─► kafka
                        ╚═ rejects
     beside the pipeline: signals · retention · rejects writer · status server

Two nurseries, one inside the other: the pipeline empties itself from left to right when the feed ends, and the
watchers around it live until it has. A stop cancels the feed only; channels then close one after the other, each pump
writes what it holds, and the pipeline's deadline is the grace period. A second signal, if it is no echo of the first,
ends it outright.
"""

import math
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Final

import structlog
import trio

from polygon_live import __version__, wire
from polygon_live.calendar import Sessions, open_since
from polygon_live.channels import open_weighted_channel
from polygon_live.config import Operational, Settings
from polygon_live.dial import Dial, dial_websocket
from polygon_live.errors import PolygonLiveError
from polygon_live.feed import Feed
from polygon_live.model import Batch, encode
from polygon_live.pump import Pump
from polygon_live.rejects import RejectBook
from polygon_live.retention import Retention
from polygon_live.sink import Sink
from polygon_live.sinks.kafka import KafkaSink
from polygon_live.sinks.nats import NatsSink
from polygon_live.sinks.timescale import TimescaleSink
from polygon_live.status import State
from polygon_live.supervise import Watcher
from polygon_live.validate import Validator
from polygon_live.web import listen, serve_status

JUDGED_AT_ONCE: Final = 256 * 1024
"""Characters of frames, about 3,000 ticks: some 10 ms in which nothing else runs."""
ECHO_SECONDS: Final = 1.0
"""A service manager signals every process of a service, and `just` passes SIGTERM on: that is one wish, not two."""

log = structlog.get_logger()


class InternalFault(PolygonLiveError):
    """A bug in feed or validator ended the collector, after a drain."""


def wall_ms() -> int:
    """Unix time in milliseconds, this machine's clock."""
    return time.time_ns() // 1_000_000


def ending_signals() -> list[signal.Signals]:
    """What asks for an end. A closed terminal does too, unless who started us has that ignored, as `nohup` does."""
    heeds_terminal = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if heeds_terminal else [])]


class Collector:
    """One run of the collector: builds the parts, connects them, runs them, stops them.

    ``dial`` and ``sessions`` are the way to Polygon and the market's hours; a simulation hands in its own.
    Raises ConfigurationError if the HTTP port can't be taken.
    """

    def __init__(
        self,
        settings: Settings,
        operational: Operational,
        *,
        dial: Dial = dial_websocket,
        sessions: Sessions = open_since,
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._started_ms = wall_ms()
        self._stopping = False
        self._fault: Exception | None = None
        self._drain = trio.CancelScope()
        rng = random.Random()

        self.rejects = RejectBook()
        self.validator = Validator(
            operational.symbols, operational.limits, now_ms=wall_ms, first_seq=time.time_ns() // 1000
        )
        frames_in, self._frames = open_weighted_channel(settings.frames_max_bytes, wire.Frame)
        self.feed = Feed(
            urls=settings.ws_urls,
            key=settings.api_key,
            symbols=operational.symbols,
            reconnect_delay=operational.websocket_reconnect_delay,
            frames=frames_in,
            heard=self.validator.heard,
            wall_ms=wall_ms,
            rng=rng,
            dial=dial,
            sessions=sessions,
        )
        self.pumps: list[Pump] = []
        for sink in _sinks(settings):
            queue, batches = open_weighted_channel(settings.sink_queue_ticks, Batch)
            self.pumps.append(Pump(sink, batches, queue, rejects=self.rejects, wall_ms=wall_ms, rng=rng))
        self.retention = Retention(settings.timescale_dsn, settings.collector_id, now_ms=wall_ms)

        self._http = listen(settings.http)
        token = settings.http.token.reveal() if settings.http.token else None
        self._pump_watchers = [Watcher(f"{pump.sink.name} pump", pump.run, rng) for pump in self.pumps]
        self._watchers = [
            Watcher("retention", self.retention.run, rng),
            Watcher("rejects writer", partial(self.rejects.keep, self.retention.save_rejects), rng),
            Watcher("status server", partial(serve_status, self._http, self.state, token), rng),
        ]

    @property
    def address(self) -> str:
        """Where the status server listens, as a URL."""
        host, port = self._http.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    async def run(self) -> None:
        """Collect until SIGTERM, SIGINT, SIGHUP or ``stop()``. Raises InternalFault if a bug ended it."""
        async with trio.open_nursery() as watchers:
            await watchers.start(self._heed_signals)
            for watcher in self._watchers:
                watchers.start_soon(watcher.keep_running)
            log.info("collector started", version=__version__, status=self.address, simulated=self._settings.simulated)
            with self._drain:
                async with trio.open_nursery() as pipeline:
                    pipeline.start_soon(self._essential, self.feed.run)
                    pipeline.start_soon(self._essential, self._judge)
                    for watcher in self._pump_watchers:
                        pipeline.start_soon(watcher.keep_running)
            watchers.cancel_scope.cancel()
        self._http.close()
        self._say_goodbye()
        if self._fault is not None:
            raise InternalFault(f"{type(self._fault).__name__}: {self._fault}") from self._fault

    def stop(self) -> None:
        """End in order, within the grace period; a second call ends at once."""
        if self._stopping:
            log.warning("stopping at once: ticks that no store has taken yet are lost")
            self._drain.cancel()
            return
        log.info("stopping", grace_seconds=self._settings.grace_seconds)
        self._stopping = True
        self._drain.deadline = trio.current_time() + self._settings.grace_seconds
        self.feed.stop()

    async def _heed_signals(self, *, task_status: trio.TaskStatus[None]) -> None:
        asked = -math.inf
        with trio.open_signal_receiver(*ending_signals()) as received:
            task_status.started()
            async for number in received:
                if number == signal.SIGINT or trio.current_time() - asked > ECHO_SECONDS:
                    asked = trio.current_time()
                    self.stop()

    async def _essential(self, run: Callable[[], Awaitable[None]]) -> None:
        """Without this task there is no collector: its fault ends the process, but what was accepted is delivered."""
        try:
            await run()
        except Exception as why:
            log.exception("internal fault, the collector ends after delivering what it holds")
            self._fault = self._fault or why
            if not self._stopping:
                self.stop()

    async def _judge(self) -> None:
        """Frames in, batches out. Whatever arrived while the last frames were judged is judged next."""
        async with AsyncExitStack() as closing:
            await closing.enter_async_context(self._frames)
            for pump in self.pumps:
                await closing.enter_async_context(pump.queue)
            while True:
                try:
                    frames = await self._frames.receive_some(JUDGED_AT_ONCE)
                except trio.EndOfChannel:
                    return
                after = self.validator.last_seq
                ticks, refused = self.validator.judge(frames, trio.current_time())
                self.rejects.enter(refused)
                if ticks:
                    batch = Batch(after, ticks, [encode(tick) for tick in ticks])
                    for pump in self.pumps:
                        pump.offer(batch)

    def _say_goodbye(self) -> None:
        for pump in self.pumps:
            left = pump.snapshot()
            if left.waiting_ticks:
                log.error("ticks were not delivered", store=left.name, ticks=left.waiting_ticks, why=left.last_error)
        log.info("collector stopped", accepted=self.validator.accepted)

    def state(self) -> State:
        """Everything, now."""
        now_ms = wall_ms()
        return State(
            at_ms=now_ms,
            started_ms=self._started_ms,
            version=__version__,
            collector=self._settings.collector_id,
            simulated=self._settings.simulated,
            stopping=self._stopping,
            feed=self.feed.snapshot(),
            validator=self.validator.snapshot(self._sessions),
            rejects=self.rejects.snapshot(),
            sinks=tuple(pump.snapshot() for pump in self.pumps),
            retention=self.retention.snapshot(),
            watchers=tuple(w.snapshot() for w in (*self._pump_watchers, *self._watchers)),
        )


def _sinks(settings: Settings) -> list[Sink]:
    collector = settings.collector_id
    return [
        TimescaleSink(settings.timescale_dsn, collector, settings.tenant_id, now_ms=wall_ms),
        NatsSink(settings.nats, collector, live_max_age_seconds=settings.nats_live_max_age_seconds, now_ms=wall_ms),
        KafkaSink(settings.kafka, collector),
    ]
