"""Each store's write path, as the pumps use it, against what the same bytes cost if somebody has made them ready.

The limits: binary COPY of ready blocks, a transaction each, into the same table; a ready block of messages on NATS'
socket, and the PONG that answers for it; librdkafka's producer without transactions, if confluent-kafka is installed.
"""

import importlib.util
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Final
from urllib.parse import urlsplit

import psycopg

from polygon_live.config import settings_from
from polygon_live.model import Batch
from polygon_live.sink import Identity, Sink
from polygon_live.sinks.kafka import KafkaSink
from polygon_live.sinks.nats import NatsSink
from polygon_live.sinks.timescale import TimescaleSink
from tests.bench.load import emptied
from tests.bench.macro import Bench
from tests.bench.report import Figure
from tests.collecting import environment
from tests.place import Place
from tests.waiting import in_thread

SIZES: Final = (20, 500, 5000)
TICKS: Final = 40_000
"""Of one measurement at the default of ten seconds, in batches of 500 and more; of 20 a tenth."""
NAME: Final = "bench-writing"

Batches = Callable[[int, int], Iterator[Batch]]


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def stores(bench: Bench, batches: Batches) -> None:
    """Ticks a second of each, and of its limit."""
    place = await bench.stores()
    await in_thread(partial(emptied, place))
    access = settings_from(
        environment(
            place.base,
            ws_url="ws://nowhere",
            dsn=place.postgres.dsn,
            nats_url=place.nats.url,
            broker=place.broker.address,
        )
    )
    identity = Identity(NAME, NAME, "here")
    first = now_ms() * 1000
    for sink, limit in (
        (TimescaleSink(access.timescale_dsn, identity, access.tenant_id, now_ms=now_ms), _copied),
        (NatsSink(access.nats, NAME, live_max_age_seconds=access.nats_live_max_age_seconds, now_ms=now_ms), _published),
        (KafkaSink(access.kafka, identity), _produced),
    ):
        await sink.open()
        for size in SIZES:
            bench.doing(f"{sink.name}, batches of {size}")
            ticks = max(size, round(TICKS * min(1.0, bench.seconds / 10) * min(1.0, size / 200)) // size * size)
            ready = list(islice(batches(size, first), ticks // size))
            first = ready[-1].last + 1
            ours = await _timed(sink, ready)
            name = f"{sink.name}, batches of {size}"
            bench.tell(Figure("micro", f"{name}: the write path", ours, "ticks/s", "higher"))
            if limit is not _produced or importlib.util.find_spec("confluent_kafka"):
                most = await in_thread(partial(limit, place, ready))
                bench.tell(
                    Figure("micro", f"{name}: the limit", most, "ticks/s", "higher", f"reached {ours / most:.0%}")
                )
        await sink.aclose()


async def _timed(sink: Sink, ready: Sequence[Batch]) -> float:
    begun = time.perf_counter()
    for batch in ready:
        await sink.write(batch)
    return sum(map(len, ready)) / (time.perf_counter() - begun)


def _rate(ready: Sequence[Batch], begun: float) -> float:
    return sum(map(len, ready)) / (time.perf_counter() - begun)


def _copied(place: Place, ready: Sequence[Batch]) -> float:
    """The rows that the sink has written, once more."""
    out = "copy (select * from market_ticks where seq between {} and {} order by seq) to stdout (format binary)"
    blocks = []
    with psycopg.connect(place.postgres.dsn, autocommit=True) as connection, connection.cursor() as cursor:
        for batch in ready:
            with cursor.copy(out.format(batch.first, batch.last).encode()) as copy:
                blocks.append(b"".join(copy))
        cursor.execute("truncate market_ticks")
        begun = time.perf_counter()
        for block in blocks:
            with cursor.copy("copy market_ticks from stdin (format binary)") as copy:
                copy.write(block)
        return _rate(ready, begun)


def _published(place: Place, ready: Sequence[Batch]) -> float:
    blocks = [
        b"".join(
            b"PUB ticks.%s %d\r\n%s\r\n" % (tick.symbol.encode(), len(payload), payload)
            for tick, payload in zip(batch.ticks, batch.payloads, strict=True)
        )
        + b"PING\r\n"
        for batch in ready
    ]
    parts = urlsplit(place.nats.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0)) as connection:
        lines = connection.makefile("rb")
        connection.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
        while lines.readline() != b"PONG\r\n":
            pass
        begun = time.perf_counter()
        for block in blocks:
            connection.sendall(block)
            while lines.readline() != b"PONG\r\n":
                pass
        return _rate(ready, begun)


def _produced(place: Place, ready: Sequence[Batch]) -> float:
    from confluent_kafka import Producer  # noqa: PLC0415  # it may not be there

    producer = Producer({"bootstrap.servers": place.broker.address, "acks": "all", "queue.buffering.max.kbytes": 2**20})
    begun = 0.0
    for batch in (ready[0], *ready):  # once before, to be connected
        for tick, payload in zip(batch.ticks, batch.payloads, strict=True):
            producer.produce("tick_archive", payload, tick.symbol, timestamp=tick.timestamp_ms)
        producer.flush()
        begun = begun or time.perf_counter()
    return _rate(ready, begun)
