"""The peers, and what each finds ready: a database, a topic and a program with its environment."""

import json
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import attrs
import psycopg
from psycopg import sql

from polygon_live.config import KafkaAccess
from polygon_live.engines.kafka.access import administration
from tests import reading
from tests.bench.sender import ROOT
from tests.place import STORES, Place

COLLECTOR: Final = "polygon-live"
ROWS: Final = """
select replace(symbol, '-', ''), round(extract(epoch from {time}) * 1000)::bigint, bid::float8 from {table}
"""
QUOTES: Final = """
create table quotes (time timestamptz not null, symbol text not null, bid double precision not null,
                     ask double precision not null, exchange integer);
create index on quotes (symbol, time desc)
"""
TICKER: Final = """
create table ticker (id serial primary key, timestamp timestamp, receipt_timestamp timestamp, exchange varchar(32),
                     symbol varchar(32), bid numeric(64, 32), ask numeric(64, 32))
"""
"""cryptofeed's own, as its repository has it."""
MESSAGE: Final = b"MSG quotes."
Key = tuple[str, int, float]
"""Symbol, time in ms, bid."""


@attrs.frozen
class Peer:
    """A program to compare with."""

    name: str
    module: str
    stores: Sequence[str]
    """Where it delivers to."""
    ticks: Mapping[int, int]
    """How many it gets, by events a frame: it is busy with them for some seconds, less than the 20 after which a
    client that is far behind misses the answer to its ping."""
    tables: str = QUOTES
    """What is made in its database first."""


PEERS: Final = (
    Peer("official client, nothing done", "official_nothing", (), {20: 400_000, 1: 100_000}),
    Peer("official client, a row at a time", "official_insert", ("timescale",), {20: 2_000, 1: 2_000}),
    Peer("official client, a frame at a time", "official_executemany", ("timescale",), {20: 20_000, 1: 2_000}),
    Peer("cryptofeed's backends", "cryptofeed_backends", ("timescale", "kafka"), {20: 6_000, 1: 4_000}, TICKER),
    Peer("plain asyncio", "plain_asyncio", STORES, {20: 60_000, 1: 40_000}),
)


@attrs.define
class Stage:
    """One peer's."""

    place: Place
    peer: Peer
    python: Path

    @classmethod
    def prepared(cls, place: Place, peer: Peer, python: Path) -> "Stage":
        """Raises what the servers raise."""
        stage = cls(place, peer, python)
        with psycopg.connect(place.postgres.dsn, autocommit=True) as admin:
            admin.execute(sql.SQL("create database {}").format(sql.Identifier(peer.module)))
        with psycopg.connect(stage._dsn) as connection:
            connection.execute(peer.tables)
        with administration(KafkaAccess((place.broker.address,)), name="bench") as admin:
            wanted = {"num_partitions": 6, "replication_factor": 1}
            admin.create_topics({peer.module: wanted}, wait_for_metadata=True)
        return stage

    @property
    def _dsn(self) -> str:
        return self.place.postgres.dsn_of(self.peer.module)

    def start(self, url: str) -> subprocess.Popen[bytes]:
        """Its process, for a Polygon at this address; what it says goes to a file of its name."""
        env = {
            **self.place.base,
            "FEED": urlsplit(url).netloc,
            "DSN": self._dsn,
            "NATS": self.place.nats.url,
            "KAFKA": self.place.broker.address,
            "TOPIC": self.peer.module,
        }
        program = ROOT / "tests" / "bench" / "peers" / f"{self.peer.module}.py"
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                [self.python, program],
                env=env,
                cwd=self.log_path.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def log_path(self) -> Path:
        return self.place.log_path.with_name(f"{self.peer.module}.log")

    def rows(self) -> list[Key]:
        """What its table holds."""
        table, time = ("quotes", "time") if self.peer.tables is QUOTES else ("ticker", "timestamp")
        asked = sql.SQL(ROWS).format(table=sql.Identifier(table), time=sql.Identifier(time))
        with psycopg.connect(self._dsn) as connection:
            return list(connection.execute(asked))

    def records(self) -> list[Key]:
        """What its topic holds."""
        found = []
        for record in reading.in_archive(self.place.broker.address, self.peer.module):
            tick: dict[str, Any] = json.loads(record.value)
            ms = tick["timestamp_ms"] if "timestamp_ms" in tick else round(tick["timestamp"] * 1000)
            found.append((tick["symbol"].replace("-", ""), ms, tick["bid"]))
        return found


class Ear:
    """Counts what the peers publish on NATS."""

    def __init__(self) -> None:
        self.heard = 0


@contextmanager
def listening(url: str) -> Iterator[Ear]:
    """From now to the end of the block."""
    ear, parts = Ear(), urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port or 0)) as connection:
        connection.sendall(b'CONNECT {"verbose":false}\r\nSUB quotes.> 1\r\nPING\r\n')
        while not connection.recv(2**16).endswith(b"PONG\r\n"):
            pass

        def hear() -> None:
            tail = b""
            while more := connection.recv(2**20):
                if b"PING\r\n" in more:
                    connection.sendall(b"PONG\r\n")
                data = tail + more
                ear.heard += data.count(MESSAGE)
                tail = data[1 - len(MESSAGE) :]

        thread = threading.Thread(target=hear, daemon=True)
        thread.start()
        yield ear
        connection.shutdown(socket.SHUT_RDWR)
        thread.join()
