"""The composition root: builds the parts, runs the pipeline inside the watchers, stops both.

::

     pipeline: feed ══frames══► judge ─► journal ─► backlogs ══► pumps ─► timescale, nats, kafka
     beside it: signals · journal keeper · gap filler · mirror of gaps · verification · retention · rejects writer ·
                status server

Two nurseries, one inside the other: the pipeline empties itself from left to right when the feed ends, and the
watchers around it live until it has. A stop cancels the feed only; channels then close one after the other, each pump
writes what it holds, and the pipeline's deadline is the grace period. A second signal, if it is no echo of the first,
ends it outright. What was not delivered then is in the journal.
"""

import math
import random
import signal
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Final

import attrs
import structlog
import trio

from polygon_live import __version__
from polygon_live.backfill import Filler
from polygon_live.blanking import blanker
from polygon_live.calendar import Sessions, Stretches, open_since, open_stretches
from polygon_live.calling import InThread
from polygon_live.config import Settings
from polygon_live.dial import Dial, dial_websocket
from polygon_live.engines.kafka import ArchiveHolder
from polygon_live.engines.nats import listen as listen_on_nats
from polygon_live.engines.postgres import TableHolder
from polygon_live.errors import JournalError
from polygon_live.journal import Journal
from polygon_live.limits import Turns
from polygon_live.mirror import Mirror
from polygon_live.operational import Operational
from polygon_live.page import Board
from polygon_live.pipeline import Pipeline, Upstream
from polygon_live.rejects import RejectBook
from polygon_live.rest import Rest
from polygon_live.retention import Retention
from polygon_live.sink import Identity, Sink
from polygon_live.sinks.kafka import KafkaSink
from polygon_live.sinks.nats import NatsSink
from polygon_live.sinks.timescale import TimescaleSink
from polygon_live.status import State, blanked
from polygon_live.steering import ANNOUNCED_AT, Steering
from polygon_live.supervise import Watcher
from polygon_live.verification import Verification
from polygon_live.web import listen, serve_status

LOOK_SECONDS: Final = 0.5
"""How often it is looked whether the one thing that there is to do is done."""
ALONE_GRACE_SECONDS: Final = 60.0
"""Who fills a gap by hand waits for the stores."""
LEFT_SECONDS: Final = 1.5
"""How often it is said, while the collector ends, what is not written yet."""
ECHO_SECONDS: Final = 1.0
"""A service manager signals every process of a service, and `just` passes SIGTERM on: that is one wish, not two."""

log = structlog.get_logger()


def wall_ms() -> int:
    """Unix time in milliseconds, this machine's clock."""
    return time.time_ns() // 1_000_000


def ending_signals() -> list[signal.Signals]:
    """What asks for an end. A closed terminal does too, unless who started us has that ignored, as `nohup` does."""
    heeds_terminal = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT, *([signal.SIGHUP] if heeds_terminal else [])]


class Collector:
    """One run of the collector: builds the parts, connects them, runs them, stops them.

    ``steering`` has begun, and says by what configuration to start.
    ``dial``, ``sessions`` and ``stretches`` are the way to Polygon and the market's hours; a simulated market has its
    own. ``only``: the entry of the gap ledger that is all there is to do; then there is no feed, and the run ends when
    it is settled.
    Raises ConfigurationError for a port that can't be taken or an address that can't be read, JournalError for a
    journal that can't be opened.
    """

    def __init__(
        self,
        settings: Settings,
        steering: Steering,
        *,
        dial: Dial = dial_websocket,
        sessions: Sessions = open_since,
        stretches: Stretches = open_stretches,
        only: int | None = None,
    ) -> None:
        self._settings = settings
        self._blank = blanker(settings.secrets())
        self._sessions = sessions
        self._only = only
        self.steering = steering
        self._stopping = trio.Event()
        self._started_ms = wall_ms()
        rng = random.Random()
        with ExitStack() as undo:  # for who tries again in this process
            self._http = undo.enter_context(listen(settings.http))
            journal = Journal.open(
                settings.journal_dir,
                most_bytes=settings.journal_max_bytes,
                keep_ms=round(settings.journal_keep_hours * 3_600_000),
                now_ms=wall_ms,
            )
            undo.callback(journal.close)
            self._build(journal, dial, stretches, rng)
            undo.pop_all()

    def _build(self, journal: Journal, dial: Dial, stretches: Stretches, rng: random.Random) -> None:
        settings, steering, only = self._settings, self.steering, self._only
        identity = Identity(settings.collector_id, journal.id, socket.gethostname())
        call = InThread()
        self._turns = Turns(steering.operational.rate_limit_per_second, wall_ms=wall_ms)
        rest = Rest(settings.rest_url, settings.api_key, turns=self._turns, rng=rng)
        self.pipeline = Pipeline(
            journal=journal,
            call=call,
            sinks=_sinks(settings, identity),
            operational=steering.operational,
            upstream=None if only is not None else _upstream(settings, dial, self._turns, rest),
            sessions=self._sessions,
            stretches=stretches,
            wall_ms=wall_ms,
            rng=rng,
            queue_ticks=settings.sink_queue_ticks,
            sync_seconds=settings.journal_sync_ms / 1000,
            rejects=RejectBook(settings.secrets()),
        )
        self.filler = Filler(
            rest=rest,
            ledger=journal.ledger,
            call=call,
            sync=journal.sync,
            holders=[
                TableHolder(
                    settings.timescale_dsn, settings.collector_id, partial(self.pipeline.confirmed, TimescaleSink.name)
                ),
                ArchiveHolder(settings.kafka, partial(self.pipeline.confirmed, KafkaSink.name)),
            ],
            accept=self.pipeline.accept_backfill,
            last_accepted=lambda: self.pipeline.last_accepted,
            symbols=lambda: self.pipeline.collected,
            now_ms=wall_ms,
            rng=rng,
            only=only,
        )
        self._mirror = Mirror(
            settings.timescale_dsn,
            settings.collector_id,
            journal.id,
            changes=self.pipeline.keeper.changes,
            unentered=self.pipeline.keeper.unentered,
            started_ms=self._started_ms,
        )
        self.verification = Verification.on(settings, self.pipeline, wall_ms)
        self.retention = Retention(settings.timescale_dsn, settings.collector_id, now_ms=wall_ms)
        ledger = self.pipeline.keeper
        board = Board(self.state, ledger.gaps)
        announcements = partial(
            listen_on_nats, settings.nats, ANNOUNCED_AT, name=f"{settings.collector_id} configuration"
        )
        self._watchers = [
            Watcher("configuration", partial(steering.run, self._reconfigure, announcements), rng),
            Watcher("retention", self.retention.run, rng),
            Watcher("rejects writer", partial(self.pipeline.rejects.keep, self.retention.save_rejects), rng),
            Watcher("gap filler", self.filler.run, rng),
            Watcher("mirror of gaps", self._mirror.run, rng),
            Watcher("verification", self.verification.run, rng),
            Watcher("page", board.run, rng),
            Watcher("status server", partial(serve_status, self._http, settings.http, self.state, ledger, board), rng),
        ]

    @property
    def address(self) -> str:
        """Where the status server listens, as a URL."""
        host, port = self._http.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}"

    async def run(self) -> None:
        """Collect until SIGTERM, SIGINT, SIGHUP or ``stop()``. Raises InternalFault if a bug ended it, and JournalError
        if ticks were lost with it that the journal could not take.
        """
        async with trio.open_nursery() as watchers:
            await watchers.start(self._heed_signals)
            watchers.start_soon(self._tell_what_is_left)
            for watcher in self._watchers:
                watchers.start_soon(watcher.keep_running)
            if self._only is not None:
                watchers.start_soon(self._until_settled, self._only)
            log.info("collector started", version=__version__, status=self.address, simulated=self._settings.simulated)
            try:
                await self.pipeline.run()
            finally:
                self._http.close()
                lost = self._say_goodbye()
            watchers.cancel_scope.cancel()
        if lost:
            raise JournalError(
                f"it failed, and {lost} ticks that not every store had yet were in memory only; the next run fetches "
                "them from Polygon, as a gap"
            )

    def stop(self) -> None:
        """End in order, within the grace period; a second call ends at once."""
        if self.pipeline.stopping:
            log.warning("stopping at once: what no store has taken yet stays in the journal")
            self.pipeline.cut()
            return
        log.info("stopping", grace_seconds=self._settings.grace_seconds)
        self.pipeline.stop(self._settings.grace_seconds)
        self._stopping.set()

    async def _tell_what_is_left(self) -> None:
        """Who waits for the end hears what it waits for."""
        await self._stopping.wait()
        while True:
            await trio.sleep(LEFT_SECONDS)
            left = {pump.sink.name: pump.snapshot().waiting_ticks for pump in self.pipeline.pumps}
            log.info("still ending", waiting_ticks=left)

    async def _reconfigure(self, operational: Operational) -> None:
        self._turns.change(operational.rate_limit_per_second)
        await self.pipeline.reconfigure(operational)

    async def _until_settled(self, gap: int) -> None:
        """Stop when this entry of the ledger has come to its end: another process may have settled it."""
        settled = False
        while not settled:
            await trio.sleep(LOOK_SECONDS)
            with suppress(JournalError):  # the ledger may be busy, or its disk slow
                settled = await self.pipeline.keeper.is_settled(gap)
        self.stop()

    async def _heed_signals(self, *, task_status: trio.TaskStatus[None]) -> None:
        if threading.current_thread() is not threading.main_thread():
            task_status.started()  # signals are the main thread's business, and that is somebody else's
            return
        asked = -math.inf
        with trio.open_signal_receiver(*ending_signals()) as received:
            task_status.started()
            async for number in received:
                if number == signal.SIGINT or trio.current_time() - asked > ECHO_SECONDS:
                    asked = trio.current_time()
                    self.stop()

    def _say_goodbye(self) -> int:
        """How many ticks some store will never get."""
        lost = 0
        for pump in self.pipeline.pumps:
            left = pump.snapshot()
            kept = self.pipeline.keeper.pending(left.cursor)[0]
            if kept:
                log.warning(
                    "ticks wait in the journal for the next run", store=left.name, ticks=kept, why=left.last_error
                )
            if left.waiting_ticks > kept:
                lost = max(lost, left.waiting_ticks - kept)
                log.error(
                    "ticks are lost with this process: they were in memory only, for the journal failed",
                    store=left.name,
                    ticks=left.waiting_ticks - kept,
                    why=left.last_error,
                )
        log.info("collector stopped", accepted=self.pipeline.validator.accepted)
        return lost

    def state(self) -> State:
        """Everything, now."""
        pipeline, blank = self.pipeline, self._blank
        return State(
            at_ms=wall_ms(),
            started_ms=self._started_ms,
            version=__version__,
            collector=self._settings.collector_id,
            simulated=self._settings.simulated,
            stopping=pipeline.stopping,
            configuration=self.steering.snapshot(),
            limits=self._turns.snapshot(),
            feed=blanked(pipeline.feed_snapshot(), blank),
            validator=pipeline.validator.snapshot(self._sessions),
            rejects=pipeline.rejects.snapshot(),
            journal=pipeline.keeper.snapshot(),
            gaps=pipeline.gaps(),
            filler=blanked(self.filler.snapshot(), blank),
            sinks=tuple(blanked(pump.snapshot(), blank) for pump in pipeline.pumps),
            retention=self.retention.snapshot(),
            verification=self.verification.snapshot(),
            watchers=tuple(blanked(w.snapshot(), blank) for w in (*pipeline.watchers, *self._watchers)),
        )


async def steered(
    settings: Settings, *, defaults: Operational | None = None, symbols: Sequence[str] | None = None
) -> Steering:
    """By Central Hub, if there is one: its word, or its last good one, or the defaults."""
    steering = Steering(
        settings.hub,
        copy=settings.last_good_file,
        wall_ms=wall_ms,
        rng=random.Random(),
        defaults=defaults,
        symbols=symbols,
    )
    await steering.begin()
    return steering


async def fill_alone(settings: Settings, gap: int) -> None:
    """Without a collector: fill this entry of the ledger, and whichever is older, and deliver it to all stores.

    Raises JournalHeld if a collector runs, JournalError, InternalFault.
    """
    quiet = attrs.evolve(settings.http, host="127.0.0.1", port=0)
    settings = attrs.evolve(settings, http=quiet, grace_seconds=max(settings.grace_seconds, ALONE_GRACE_SECONDS))
    await Collector(settings, await steered(settings), only=gap).run()


def _upstream(settings: Settings, dial: Dial, turns: Turns, rest: Rest) -> Upstream:
    return Upstream(
        urls=settings.ws_urls,
        key=settings.api_key,
        dial=dial,
        turns=turns,
        frames_max_bytes=settings.frames_max_bytes,
        market=rest.market,
    )


def _sinks(settings: Settings, identity: Identity) -> list[Sink]:
    live_max_age = settings.nats_live_max_age_seconds
    return [
        TimescaleSink(settings.timescale_dsn, identity, settings.tenant_id, now_ms=wall_ms),
        NatsSink(settings.nats, identity.collector, live_max_age_seconds=live_max_age, now_ms=wall_ms),
        KafkaSink(settings.kafka, identity),
    ]
