"""Where a collector runs as a process: three stores, a stand-in Polygon on a socket, and quotes without end."""

import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from itertools import count, islice
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from polygon_live.config import NatsAccess, Secret
from polygon_live.embedded import Broker, EmbeddedServer, Nats, Postgres
from polygon_live.engines.nats import create_stream
from polygon_live.model import FOURTEEN_SYMBOLS, canonical_symbol, pair_of
from polygon_live.standin import StandIn
from polygon_live.wire import Quote
from tests import reading
from tests.collecting import Running, collector, environment
from tests.comparing import COLLECTOR
from tests.engines.kafka import Kafka

STORES: Final = ("timescale", "nats", "kafka")


@attrs.define
class Place:
    """Three stores and the environment of a collector on them."""

    postgres: Postgres
    nats: Nats
    broker: Broker | Kafka
    base: Mapping[str, str]
    log_path: Path

    def server(self, name: str) -> EmbeddedServer:
        return {"timescale": self.postgres, "nats": self.nats, "kafka": self.broker}[name]

    @asynccontextmanager
    async def collecting(self, standin: StandIn, **more: str) -> AsyncIterator[Running]:
        """A stand-in on a socket and a collector that is subscribed to it."""
        async with standin.listening() as ws_url, self.collector(ws_url, **more) as running:
            with trio.fail_after(60):
                await standin.subscribed(len(standin.connections) + 1, len(FOURTEEN_SYMBOLS))
            yield running

    def collector(self, ws_url: str, **more: str) -> Any:
        env = environment(
            self.base, ws_url=ws_url, dsn=self.postgres.dsn, nats_url=self.nats.url, broker=self.broker.address
        )
        return collector(env | more, self.log_path)

    @property
    def journal_dir(self) -> Path:
        """Of the collector that has the default name."""
        return Path(self.base["HOME"]) / "data" / "journal" / COLLECTOR

    def journal(self) -> list[dict[str, Any]]:
        """What was accepted. No collector may run."""
        return reading.in_journal(self.journal_dir)

    def ledger(self) -> list[dict[str, Any]]:
        """The gaps."""
        return reading.in_ledger(self.journal_dir)

    def rows(self) -> list[dict[str, Any]]:
        return reading.in_database(self.postgres.dsn)

    def records(self) -> list[Any]:
        return reading.in_archive(self.broker.address)


class Flow:
    """Quotes of now without end, all symbols in turn, each other than the one before."""

    def __init__(self, standin: StandIn) -> None:
        self.standin = standin
        self.quotes: list[Quote] = []
        """That were sent."""
        self._next = self._make()

    @property
    def sent(self) -> int:
        return len(self.quotes)

    @property
    def latest(self) -> dict[str, tuple[int, float]]:
        """Time and bid of each symbol's last one."""
        return {canonical_symbol(quote.p): (quote.t, quote.b) for quote in self.quotes[-14:]}

    def _make(self) -> Iterator[Quote]:
        for n in count():
            bid = 1.1 + n % 89 / 1e5
            yield Quote(pair_of(FOURTEEN_SYMBOLS[n % 14]), round(bid + 0.0001, 5), bid, now_ms(), 48)

    def send(self, number: int) -> None:
        quotes = list(islice(self._next, number))
        self.standin.send(quotes)
        self.quotes += quotes

    async def run(self, per_second: int = 500) -> None:
        """For ever, in frames of twenty."""
        while True:
            self.send(20)
            await trio.sleep(20 / per_second)


async def with_stream(place: Place) -> None:
    """From now on a stream keeps the ticks."""
    await create_stream(NatsAccess((Secret(place.nats.url),)))


def now_ms() -> int:
    return time.time_ns() // 1_000_000
