"""The pipeline over three real stores in this process, fed by hand, and what is told of comparing them."""

import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import msgspec
import psycopg
import trio

from polygon_live.budget import Budget
from polygon_live.calendar import all_of_it, always_open
from polygon_live.calling import InThread
from polygon_live.compared import Difference, StoreCompared
from polygon_live.config import Settings, settings_from
from polygon_live.daemon import _sinks
from polygon_live.embedded import Broker, Nats
from polygon_live.journal import Journal
from polygon_live.model import Batch, Tick, encode
from polygon_live.operational import Operational
from polygon_live.pipeline import Pipeline
from polygon_live.sink import Identity
from polygon_live.verification import Verification
from tests.collecting import KEY
from tests.engines.kafka import Kafka
from tests.hypertables import a_tick
from tests.waiting import until

COLLECTOR: Final = "polygon-live-1"
SYMBOLS: Final = ("EURUSD", "XAUUSD", "USDJPY")


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Quick(Verification):
    LOOK_SECONDS = 0.02
    AGAIN_SECONDS = 0.1
    DOUBT_SECONDS = 0.05


@attrs.define
class Rig:
    """Three stores, and runs of a collector on them, one after the other."""

    dsn: str
    nats: Nats
    broker: Broker | Kafka
    folder: Path
    base: Mapping[str, str]
    now_ms: Callable[[], int] = wall_ms
    pipeline: Pipeline = attrs.field(init=False)
    verification: Verification = attrs.field(init=False)

    @property
    def env(self) -> dict[str, str]:
        return {
            **self.base,
            "POLYGON_API_KEY": KEY,
            "POLYGON_LIVE_TIMESCALE_DSN": self.dsn,
            "POLYGON_LIVE_NATS_URLS": self.nats.url,
            "POLYGON_LIVE_KAFKA_BROKERS": self.broker.address,
            "POLYGON_LIVE_DATA_DIR": str(self.folder),
        }

    @property
    def settings(self) -> Settings:
        return settings_from(self.env)

    @asynccontextmanager
    async def running(self, *, verifying: bool = True, budget: Budget | None = None) -> AsyncIterator[Pipeline]:
        """A run; at the end of the block it is stopped in order, and the verification at once."""
        settings = self.settings
        journal = Journal.open(settings.journal_dir, most_bytes=2**30, keep_ms=86_400_000, now_ms=self.now_ms)
        self.pipeline = Pipeline(
            journal=journal,
            call=InThread(),
            sinks=_sinks(settings, Identity(COLLECTOR, journal.id, "here")),
            operational=Operational(symbols=SYMBOLS),
            upstream=None,
            sessions=always_open,
            stretches=all_of_it,
            wall_ms=self.now_ms,
            rng=random.Random(1),
            queue_ticks=100_000,
            sync_seconds=1.0,
        )
        self.verification = Quick.on(settings, self.pipeline, self.now_ms)
        if budget is not None:
            self.verification._budget = budget
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.pipeline.run)
            async with trio.open_nursery() as beside:
                if verifying:
                    beside.start_soon(self.verification.run)
                await self.pipeline._begun.wait()
                yield self.pipeline
                beside.cancel_scope.cancel()
            self.pipeline.stop(10)

    async def accept(self, stamps: Sequence[int], *, close: bool = True) -> list[Tick]:
        """Ticks of these times, in one batch; ``close`` ends their block."""
        first = self.pipeline.validator.last_seq + 1
        ticks = [
            msgspec.structs.replace(a_tick(first + n, at, SYMBOLS[n % 3]), received_ms=self.now_ms())
            for n, at in enumerate(stamps)
        ]
        self.pipeline.validator.last_seq += len(ticks)
        async with self.pipeline._accepting:
            batch = Batch(self.pipeline.last_accepted, ticks, [encode(tick) for tick in ticks])
            await self.pipeline._journal_and_offer(batch)
        if close:
            self.pipeline.blocks.close()
        return ticks

    async def flow(self, count: int, *, close: bool = True) -> list[Tick]:
        """So many of now."""
        now = self.now_ms()
        return await self.accept([now - count + n for n in range(count)], close=close)

    def told(self, name: str) -> StoreCompared:
        return next(store for store in self.verification.snapshot().stores if store.name == name)

    async def delivered(self) -> None:
        """Wait until every store has what was accepted."""
        await until(lambda: all(pump.cursor == self.pipeline.last_accepted for pump in self.pipeline.pumps))

    async def verified(self, *names: str) -> None:
        """Wait until these stores (all, if none is named) are compared with all that is in a closed block."""
        last = self.pipeline.last_accepted
        wanted = [s for s in self.verification._stores if not names or s.name in names]
        await until(lambda: all(store.position >= last for store in wanted))

    async def differs(self, name: str) -> Difference:
        await until(lambda: self.told(name).differences)
        return self.told(name).differences[0]

    async def agrees(self, name: str) -> None:
        await until(lambda: not self.told(name).differences)

    def do(self, statement: str, *values: Any) -> int:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            return connection.execute(statement.encode(), values).rowcount
