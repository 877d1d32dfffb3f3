"""Two days of ticks for replays: written through the sinks into the table and the archive, and the command itself."""

import json
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

import attrs
import msgspec
import psycopg
import trio

from polygon_live.commands.times import spelled
from polygon_live.config import KafkaAccess, Secret
from polygon_live.model import EVENT_BACKFILL, SOURCE_REST, Batch, Tick, encode
from polygon_live.sink import Identity
from polygon_live.sinks.kafka import KafkaSink
from polygon_live.sinks.timescale import TimescaleSink
from tests.hypertables import HOUR_MS, a_tick, wall_ms
from tests.reading import in_database
from tests.test_timescale import from_csv
from tests.waiting import PATIENCE_SECONDS

FIRST_SEQ: Final = 1_700_000_000_000_000
COLLECTORS: Final = ("polygon-live-1", "second-host")


@attrs.frozen
class Days:
    """``ticks`` of each collector, in ``seq`` order."""

    ticks: Mapping[str, Sequence[Tick]]
    now_ms: int

    @property
    def all(self) -> list[tuple[str, Tick]]:
        return [(c, t) for c, ts in self.ticks.items() for t in ts]

    def within(self, from_ms: int, to_ms: int) -> list[tuple[str, Tick]]:
        return [(c, t) for c, t in self.all if from_ms <= t.timestamp_ms < to_ms]


def two_days(csvs: Sequence[Path], *, every: int = 1) -> Days:
    """Two days up to an hour ago: real ticks (``every`` so many of them), each file twice, moved in time; some made-up
    symbols beside them; some of all that is marked or missing; ticks fetched afterwards; some older than three days.
    """
    now = wall_ms()
    draw = random.Random(5)
    live: list[Tick] = []
    for days in (2, 1):
        for path in csvs:
            ticks = from_csv(path, count())[::-every][::-1]
            by = now - HOUR_MS - (days - 1) * 24 * HOUR_MS - ticks[-1].timestamp_ms
            live += [at(tick, tick.timestamp_ms + by) for tick in ticks]
    for symbol in ("XAUUSD", "NZDJPY"):
        stamps = sorted(draw.randrange(now - 49 * HOUR_MS, now - HOUR_MS) for _ in range(1500))
        live += [a_tick(n, stamp, symbol, exchange=n % 300, suspect=n % 9 == 0) for n, stamp in enumerate(stamps)]
    live.sort(key=lambda tick: tick.received_ms)
    old = [a_tick(n, now - 80 * HOUR_MS + n, exchange=None) for n in range(40)]
    fetched = [fetched_afterwards(n, now - 30 * HOUR_MS + 900 * n, received_ms=now) for n in range(300)]
    other = [a_tick(n, now - 40 * HOUR_MS + 60_000 * n, "EURUSD", bid=1.05, late=n % 5 == 0) for n in range(1000)]
    first, second = COLLECTORS
    return Days({first: numbered([*old, *live, *fetched]), second: numbered(other)}, now)


def fetched_afterwards(seq: int, at_ms: int, *, received_ms: int = 0) -> Tick:
    tick = a_tick(seq, at_ms)
    return msgspec.structs.replace(tick, source=SOURCE_REST, event_type=EVENT_BACKFILL, received_ms=received_ms)


def at(tick: Tick, unix_ms: int) -> Tick:
    """The same tick at another time."""
    received = unix_ms + tick.received_ms - tick.timestamp_ms
    return msgspec.structs.replace(tick, timestamp_ms=unix_ms, timestamp=unix_ms, received_ms=received)


def numbered(ticks: Iterable[Tick], first: int = FIRST_SEQ) -> list[Tick]:
    return [msgspec.structs.replace(tick, seq=first + n) for n, tick in enumerate(ticks)]


def batches(ticks: Sequence[Tick], most: int = 4000) -> list[Batch]:
    parts = [ticks[n : n + most] for n in range(0, len(ticks), most)]
    return [Batch(part[0].seq - 1, part, [encode(tick) for tick in part]) for part in parts]


async def fill(days: Days, *, brokers: str | None = None, dsn: str | None = None, tenant: str = "system") -> None:
    """Through the sinks."""
    for collector, ticks in days.ticks.items():
        async with collecting(collector, days.now_ms, brokers=brokers, dsn=dsn, tenant=tenant) as write:
            for batch in batches(ticks):
                await write(batch)


@asynccontextmanager
async def collecting(
    collector: str, now_ms: int, *, brokers: str | None, dsn: str | None, tenant: str = "system"
) -> AsyncIterator[Callable[[Batch], Awaitable[None]]]:
    """A collector's way into the archive and the table."""
    identity = Identity(collector, "journal-1", "test")
    sinks: list[KafkaSink | TimescaleSink] = []
    if brokers:
        sinks.append(KafkaSink(KafkaAccess((brokers,)), identity))
    if dsn:
        sinks.append(TimescaleSink(Secret(dsn), identity, tenant, now_ms=lambda: now_ms))

    async def write(batch: Batch) -> None:
        for sink in sinks:
            await sink.write(batch)

    for sink in sinks:
        await sink.open()
    try:
        yield write
    finally:
        for sink in sinks:
            await sink.aclose()


def rows_of(dsn: str) -> list[dict[str, Any]]:
    """Every column of every row, in one order; but for a key that the database makes up itself."""
    rows = in_database(dsn)
    for row in rows:
        row.pop("tick_id", None)
    return sorted(rows, key=lambda row: (row["collector"], row["seq"]))


def drop_between(dsn: str, from_ms: int, to_ms: int) -> int:
    """Rows."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        gone = "delete from market_ticks where timestamp_ms >= %s and timestamp_ms < %s"
        return connection.execute(gone, [from_ms, to_ms]).rowcount


def drop_partitions(dsn: str, from_ms: int, to_ms: int) -> int:
    """Native ones that lie within."""
    asked = """
        select inhrelid::regclass::text, extract(epoch from (regexp_match(
            pg_get_expr(c.relpartbound, c.oid), 'FROM \\(''(.*?)''\\)'))[1]::timestamptz) * 1000
        from pg_inherits join pg_class c on c.oid = inhrelid where inhparent = 'market_ticks'::regclass"""
    with psycopg.connect(dsn, autocommit=True) as connection:
        names = [name for name, start in connection.execute(asked) if from_ms <= start <= to_ms - HOUR_MS]
        for name in names:
            connection.execute(f"drop table {name}".encode())
    return len(names)


def command(*arguments: str, patch: str = "") -> list[str]:
    """The command, in a process of its own; ``patch`` is done before."""
    code = f"import polygon_live.replay as replay\n{patch}\nfrom polygon_live.commands import main\nmain()"
    return [sys.executable, "-W", "error::ResourceWarning", "-c", code, "replay", *arguments]


async def replay(env: Mapping[str, str], *arguments: str, patch: str = "") -> subprocess.CompletedProcess[bytes]:
    """To its end."""
    return await trio.run_process(
        command(*arguments, patch=patch), env=env, capture_stdout=True, capture_stderr=True, check=False
    )


async def replayed(env: Mapping[str, str], *arguments: str, patch: str = "") -> dict[str, Any]:
    """What it says when all is well."""
    done = await replay(env, *arguments, "--json", patch=patch)
    assert done.returncode == 0, done.stderr.decode()
    summary = json.loads(done.stdout)
    assert summary["complete"] is True
    return dict(summary)


@attrs.define
class Process:
    """The command while it runs. ``told`` (standard output) and ``noted`` are there when it has ended."""

    process: trio.Process
    told: str = ""
    noted: str = ""

    @property
    def code(self) -> int | None:
        return self.process.returncode

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    async def end(self) -> None:
        """Wait for that."""
        with trio.fail_after(PATIENCE_SECONDS):
            await self.process.wait()
            self.told, self.noted = await _rest(self.process.stdout), await _rest(self.process.stderr)


@asynccontextmanager
async def replaying(env: Mapping[str, str], *arguments: str, patch: str = "") -> AsyncIterator[Process]:
    """The command runs; it is killed at the end of the block if it has not ended."""
    process = await trio.lowlevel.open_process(
        command(*arguments, patch=patch),
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    running = Process(process)
    try:
        yield running
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    await stream.aclose()


async def _rest(stream: trio.abc.ReceiveStream | None) -> str:
    assert stream is not None
    return b"".join([some async for some in stream]).decode()


@attrs.frozen
class Ruined:
    """Archive and table had everything; the table lost a day."""

    days: Days
    dsn: str
    env: Mapping[str, str]
    before: Sequence[Mapping[str, Any]]
    lost: int

    @property
    def asked(self) -> list[str]:
        """For the command: that day."""
        return [*span(*middle(self.days)), "--into", "timescale"]

    def rows(self) -> list[dict[str, Any]]:
        return rows_of(self.dsn)

    def count(self) -> int:
        with psycopg.connect(self.dsn) as connection:
            ((count,),) = connection.execute("select count(*) from market_ticks")
        return int(count)


async def ruined(days: Days, dsn: str, brokers: str, base: Mapping[str, str]) -> Ruined:
    await fill(days, brokers=brokers, dsn=dsn)
    before = rows_of(dsn)
    lost = drop_between(dsn, *middle(days))
    env = environment(base, KAFKA_BROKERS=brokers, TIMESCALE_DSN=dsn)
    return Ruined(days, dsn, env, before, lost)


def environment(base: Mapping[str, str], **settings: str) -> dict[str, str]:
    return {**base, **{f"POLYGON_LIVE_{name}": value for name, value in settings.items()}}


def span(from_ms: int, to_ms: int) -> list[str]:
    return ["--from", spelled(from_ms), "--to", spelled(to_ms)]


def middle(days: Days) -> tuple[int, int]:
    """A day of the two: 24 hours, in which both collectors wrote, and something was fetched afterwards."""
    return days.now_ms - 44 * HOUR_MS, days.now_ms - 20 * HOUR_MS
