"""``polygon-live demo``: everything on this machine, with a market that is made up.

PostgreSQL, NATS and a Kafka-compatible broker from the packages of the extra ``embedded``, a simulated Polygon on a
real socket, and the same collector as in ``run`` between them.
"""

import os
import random
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import attrs
import click
import structlog
import trio

from polygon_live import logs
from polygon_live.calendar import all_of_it, always_open
from polygon_live.commands.signals import ended_by_signal
from polygon_live.config import PREFIX, Operational, Settings, data_dir_from, settings_from
from polygon_live.daemon import Collector
from polygon_live.embedded import Broker, EmbeddedServer, Nats, Postgres, sole_owner
from polygon_live.engines.kafka import trim_topic
from polygon_live.engines.nats import create_stream
from polygon_live.errors import ConfigurationError, StoreError
from polygon_live.standin import RestStandIn, StandIn
from polygon_live.standin.market import random_walk

ARCHIVE_KEEPS: Final = 20_000
TRIM_AFTER: Final = 12_000
"""The demo's broker holds everything in memory and rewrites one file every second: its archive can't be kept for
ever. A real Kafka is never trimmed."""
OURS: Final = (
    "POLYGON_API_KEY",
    *(PREFIX + n for n in ("WS_URLS", "REST_URL", "TIMESCALE_DSN", "NATS_URLS", "KAFKA_BROKERS")),
)
THEIRS: Final = tuple(PREFIX + n for n in ("KAFKA_", "NATS_CREDS", "NATS_CA"))
"""What these begin with is meant for real servers, and would keep us from our own."""

log = structlog.get_logger()


@click.command()
@click.option("--ticks-per-second", default=20.0, show_default=True, type=click.FloatRange(0.001, 5000.0))
def demo(ticks_per_second: float) -> None:
    """Try it: a simulated Polygon, the three stores and the collector, all on this machine.

    Data stays in POLYGON_LIVE_DATA_DIR/demo and is used again by the next start. Ctrl-C ends everything in order.
    """
    trio.run(_demo, ticks_per_second)


async def _demo(ticks_per_second: float) -> None:
    key = secrets.token_hex(8)
    standin = StandIn(key=key)
    folder = _folder()
    with sole_owner(folder):
        postgres, nats, broker = Postgres(folder / "postgres"), Nats(folder / "nats"), Broker(folder / "broker")

        def settings_on(ws_url: str, rest_url: str) -> Settings:
            addresses = (key, ws_url, rest_url, postgres.dsn, nats.url, broker.address)
            return _settings(dict(zip(OURS, addresses, strict=True)), folder)

        rest = RestStandIn(standin.history, key=key)
        async with (
            ended_by_signal(),
            standin.listening() as ws_url,
            rest.listening() as rest_url,
            AsyncExitStack() as servers,
        ):
            settings = settings_on(
                ws_url, rest_url
            )  # what is wrong with the user's part is told before anything is started
            logs.configure(settings.log_level, settings.log_format, settings.secrets())
            await servers.enter_async_context(_running(postgres, nats, broker))
            settings = settings_on(ws_url, rest_url)  # now the ports are final
            collector = Collector(settings, Operational(), sessions=always_open, stretches=all_of_it)
            await create_stream(settings.nats)
            click.echo(_where_to_look(collector.address, settings, folder), err=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(standin.play, random_walk(ticks_per_second, _now_ms, random.Random()))
                nursery.start_soon(_trim, settings, TRIM_AFTER / ticks_per_second)
                await collector.run()
                nursery.cancel_scope.cancel()


def _folder() -> Path:
    """Where the data is, made if need be. Raises ConfigurationError if it can't be used."""
    folder = data_dir_from(os.environ) / "demo"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as why:
        reason = os.strerror(why.errno) if why.errno else why
        raise ConfigurationError(
            f"the data folder {folder} can't be used: {reason}. Name another in {PREFIX}DATA_DIR"
        ) from why


def _where_to_look(status: str, settings: Settings, folder: Path) -> str:
    return f"""SIMULATED: none of these prices is real.
  status    {status}/health  /state  /symbols  /rejects  /metrics
  database  {settings.timescale_dsn.reveal()}  table market_ticks
  NATS      {settings.nats.urls[0].reveal()}  subjects ticks.EURUSD …, all of them ticks.>
  Kafka     {settings.kafka.brokers[0]}  topic tick_archive (here only about the last {ARCHIVE_KEEPS:,} ticks)
  data      {folder}, used again by the next start
Ctrl-C ends everything in order."""


def _settings(ours: Mapping[str, str], folder: Path) -> Settings:
    """What the user's environment says of everything but the key, the addresses, and how to be let in there."""
    theirs = {n: v for n, v in os.environ.items() if n.removesuffix("_FILE") not in OURS}
    theirs = {n: v for n, v in theirs.items() if not n.startswith(THEIRS)}
    return attrs.evolve(settings_from({**theirs, **ours}), data_dir=folder, simulated=True)


@asynccontextmanager
async def _running(*servers: EmbeddedServer) -> AsyncIterator[None]:
    """Start them all at once; end them one after the other, whatever happened."""
    try:
        async with trio.open_nursery() as nursery:
            for server in servers:
                nursery.start_soon(trio.to_thread.run_sync, server.start)
        yield
    finally:
        with trio.CancelScope(shield=True):
            for server in servers:
                await trio.to_thread.run_sync(server.stop)


async def _trim(settings: Settings, every_seconds: float) -> None:
    while True:
        try:
            await trim_topic(settings.kafka, ARCHIVE_KEEPS)
        except StoreError as why:
            log.warning("the demo's archive was not trimmed", why=str(why))
        await trio.sleep(every_seconds)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
