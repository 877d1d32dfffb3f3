"""What the stores hold, read by clients that share nothing with the collector's own."""

import gc
import json
import sqlite3
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import trio
from kafka import KafkaConsumer, TopicPartition  # type: ignore[attr-defined,unused-ignore]
from psycopg.rows import dict_row

TOPIC = "tick_archive"


def in_database(dsn: str) -> list[dict[str, Any]]:
    """Every row of market_ticks, in ``seq`` order; none if there is no such table."""
    with psycopg.connect(dsn, row_factory=dict_row) as connection:
        if connection.execute("select to_regclass('market_ticks') as t").fetchone() == {"t": None}:
            return []
        return connection.execute("select * from market_ticks order by seq").fetchall()


def in_journal(folder: Path) -> list[dict[str, Any]]:
    """Every tick of a journal that no collector has open, in ``seq`` order."""
    ticks: list[dict[str, Any]] = []
    for segment in sorted(folder.glob("journal-*.db")):
        with closing(sqlite3.connect(segment)) as connection:
            for (payloads,) in connection.execute("select payloads from batches order by last"):
                ticks += [json.loads(line) for line in payloads.split(b"\n")]
    return ticks


def in_ledger(folder: Path) -> list[dict[str, Any]]:
    """Every entry of the gap ledger."""
    with closing(sqlite3.connect(folder / "ledger.db")) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("select * from gaps order by id")]


def in_archive(brokers: str, topic: str = TOPIC) -> list[Any]:
    """Every committed record of the topic, in the order of each partition."""
    return [record for found in portions(brokers, topic) for record in found]


def portions(brokers: str, topic: str = TOPIC) -> Iterator[list[Any]]:
    """The same, without all of it in memory."""
    try:
        yield from _portions(brokers, topic)
    finally:
        with warnings.catch_warnings():  # on a busy machine the client leaves a socket to the garbage collector
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


def _portions(brokers: str, topic: str) -> Iterator[list[Any]]:
    with _consumer(brokers, "read_uncommitted") as consumer:  # an answered commit may not have left its marks yet
        partitions = [TopicPartition(topic, n) for n in sorted(consumer.partitions_for_topic(topic) or ())]
        ends = consumer.end_offsets(partitions)
    with _consumer(brokers, "read_committed") as consumer:
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        while any(consumer.position(p) < ends[p] for p in partitions):
            yield from consumer.poll(timeout_ms=200).values()


@contextmanager
def _consumer(brokers: str, isolation: str) -> Iterator[KafkaConsumer]:
    consumer = KafkaConsumer(
        bootstrap_servers=brokers.split(","),
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        isolation_level=isolation,
    )
    try:
        yield consumer
    finally:
        consumer.close()


class Listener:
    """A core NATS subscriber, straight on the protocol."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []
        """Subject and tick, as they came."""

    async def listen(self, stream: trio.SocketStream, *, task_status: trio.TaskStatus[None]) -> None:
        await stream.send_all(b'CONNECT {"verbose":false,"headers":true}\r\nSUB ticks.> 1\r\nPING\r\n')
        data = b""
        while more := await stream.receive_some(2**16):
            data += more
            while b"\r\n" in data:
                line, rest = data.split(b"\r\n", 1)
                words = line.split()
                if words[0] in {b"MSG", b"HMSG"}:
                    size = int(words[-1])
                    if len(rest) < size + 2:
                        break
                    headers = int(words[-2]) if words[0] == b"HMSG" else 0
                    self.heard.append((words[1].decode(), json.loads(rest[headers:size])))
                    rest = rest[size + 2 :]
                elif words[0] == b"PING":
                    await stream.send_all(b"PONG\r\n")
                elif words[0] == b"PONG":
                    task_status.started()
                data = rest


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[Listener]:
    """Everything on ``ticks.>`` from now to the end of the block, or to the end of the server."""
    listener = Listener()
    parts = urlsplit(url)
    async with (
        await trio.open_tcp_stream(parts.hostname or "", parts.port or 4222) as stream,
        trio.open_nursery() as nursery,  # inside: who reads is gone before the stream is closed
    ):
        await nursery.start(listener.listen, stream)
        yield listener
        nursery.cancel_scope.cancel()
