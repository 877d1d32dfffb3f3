"""``polygon-live demo``: everything on this machine, with a market that is made up.

PostgreSQL, NATS and a Kafka-compatible broker from the packages of the extra ``embedded``, a simulated Polygon on a
real socket, and the same collector as in ``run`` between them.
"""

import os
import random
import secrets
import shlex
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import attrs
import click
import structlog
import trio

from polygon_live import logs
from polygon_live.calendar import all_of_it, always_open
from polygon_live.commands.number import Number
from polygon_live.commands.progress import Progress
from polygon_live.commands.signals import ended_by_signal, not_cut_by_signal
from polygon_live.config import PREFIX, NatsAccess, Secret, Settings, data_dir_from, settings_from
from polygon_live.daemon import Collector, steered, wall_ms
from polygon_live.embedded import Broker, EmbeddedServer, Nats, Postgres, sole_owner
from polygon_live.engines.kafka import trim_topic
from polygon_live.engines.nats import Publisher, create_stream
from polygon_live.errors import ConfigurationError, StoreError
from polygon_live.standin import RestStandIn, StandIn, StandInHub
from polygon_live.standin.market import random_walk
from polygon_live.steering import SERVICE

ARCHIVE_KEEPS: Final = 20_000
TRIM_AFTER: Final = 12_000
"""The demo's broker holds everything in memory and rewrites one file every second: its archive can't be kept for
ever. A real Kafka is never trimmed."""
OURS: Final = (
    "POLYGON_API_KEY",
    *(PREFIX + n for n in ("WS_URLS", "REST_URL", "HUB_URL", "TIMESCALE_DSN", "NATS_URLS", "KAFKA_BROKERS")),
)
THEIRS: Final = tuple(PREFIX + n for n in ("KAFKA_", "NATS_CREDS", "NATS_CA", "HUB_API_KEY"))
"""What these begin with is meant for real servers, and would keep us from our own."""

ENVIRONMENT: Final = "environment"
"""In the demo's folder: for a shell to read."""
HUB_PORT: Final = 7000
USUAL_HUB: Final = f"http://127.0.0.1:{HUB_PORT}"

log = structlog.get_logger()


@click.command()
@click.option("--ticks-per-second", default=20.0, show_default=True, type=Number(0.001, 5000.0))
def demo(ticks_per_second: float) -> None:
    """Try it: a simulated Polygon, the three stores and the collector, all on this machine.

    Data stays in POLYGON_LIVE_DATA_DIR/demo and is used again by the next start. Ctrl-C ends everything in order.
    """
    trio.run(_demo, ticks_per_second)


async def _demo(ticks_per_second: float) -> None:
    key = secrets.token_hex(8)
    standin = StandIn(key=key)
    rest = RestStandIn(standin.history, key=key)
    folder = _folder()
    with sole_owner(folder):
        postgres, nats, broker = Postgres(folder / "postgres"), Nats(folder / "nats"), Broker(folder / "broker")

        def ours_with(ws_url: str, rest_url: str, hub_url: str) -> dict[str, str]:
            addresses = (key, ws_url, rest_url, hub_url, postgres.dsn, nats.url, broker.address)
            return dict(zip(OURS, addresses, strict=True))

        async with (
            not_cut_by_signal(),
            ended_by_signal(),
            standin.listening() as ws_url,
            rest.listening() as rest_url,
            AsyncExitStack() as servers,
        ):
            # What is wrong with the user's part is told before anything is started, and ports are final after.
            settings = _settings(ours_with(ws_url, rest_url, USUAL_HUB), folder)
            logs.configure(settings.log_level, settings.log_format, settings.secrets())
            await servers.enter_async_context(_running(postgres, nats, broker))
            hub_url = await servers.enter_async_context(_hub(NatsAccess((Secret(nats.url),))))
            ours = ours_with(ws_url, rest_url, hub_url)
            settings = _settings(ours, folder)
            await create_stream(settings.nats)
            collector = Collector(settings, await steered(settings), sessions=always_open, stretches=all_of_it)
            _tell_commands(ours, collector.address, folder)
            click.echo(_where_to_look(collector.address, settings, folder), err=True)
            async with trio.open_nursery() as nursery:
                made_up = random_walk(ticks_per_second, wall_ms, random.Random(), lambda: standin.pairs)
                nursery.start_soon(standin.play, made_up)
                nursery.start_soon(_trim, settings, TRIM_AFTER / ticks_per_second)
                await collector.run()
                nursery.cancel_scope.cancel()


@asynccontextmanager
async def _hub(access: NatsAccess) -> AsyncIterator[str]:
    """A Hub that announces on this NATS, at its usual port if that can be had; its address."""
    publisher = Publisher(access, "simulated Central Hub")
    hub = StandInHub(publish=publisher.publish)
    async with AsyncExitStack() as stack:
        stack.callback(publisher.close)
        try:
            url = await stack.enter_async_context(hub.listening(port=HUB_PORT))
        except ConfigurationError:
            url = await stack.enter_async_context(hub.listening())
        yield url


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
  status    {status}/health  /state  /symbols  /rejects  /gaps  /quarantine  /metrics
  database  {settings.timescale_dsn.reveal()}  table market_ticks
  NATS      {settings.nats.urls[0].reveal()}  subjects ticks.EURUSD …, all of them ticks.>
  Kafka     {settings.kafka.brokers[0]}  topic tick_archive (here only about the last {ARCHIVE_KEEPS:,} ticks)
  Hub       {settings.hub.url}  POST /api/v1/config/{SERVICE}: what is posted is in force within a second
  data      {folder}, used again by the next start
  commands  in another terminal: . {shlex.quote(str(folder / ENVIRONMENT))}
            then polygon-live check, tail EURUSD, gaps, retention, …
Ctrl-C ends everything in order."""


def _tell_commands(ours: Mapping[str, str], status: str, folder: Path) -> None:
    """Write what the other commands need from their environment to ask this demo."""
    at = urlsplit(status)
    there = {"DATA_DIR": str(folder), "HTTP_HOST": at.hostname or "", "HTTP_PORT": str(at.port)}
    values = {**ours, **{PREFIX + name: value for name, value in there.items()}}
    here = f'PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"'
    lines = [here, *(f"{name}={shlex.quote(value)}" for name, value in values.items())]
    (folder / ENVIRONMENT).touch(mode=0o600)
    (folder / ENVIRONMENT).write_text("".join(f"export {line}\n" for line in lines), encoding="utf-8")


def _settings(ours: Mapping[str, str], folder: Path) -> Settings:
    """What the user's environment says of everything but the key, the addresses, and how to be let in there."""
    theirs = {n: v for n, v in os.environ.items() if n.removesuffix("_FILE") not in OURS}
    theirs = {n: v for n, v in theirs.items() if not n.startswith(THEIRS)}
    return attrs.evolve(settings_from({**theirs, **ours}), data_dir=folder, simulated=True)


@asynccontextmanager
async def _running(*servers: EmbeddedServer) -> AsyncIterator[None]:
    """Start them all at once; end them one after the other, whatever happened."""
    try:
        with Progress() as progress:
            await _start(servers, progress)
        yield
    finally:
        with trio.CancelScope(shield=True), Progress() as progress:
            async with AsyncExitStack() as ends:  # the others too where one fails
                for server in reversed(servers):
                    ends.push_async_callback(trio.to_thread.run_sync, server.stop)
                    ends.callback(progress.wait, f"ending {server.name}")


async def _start(servers: Sequence[EmbeddedServer], progress: Progress) -> None:
    coming = [server.name for server in servers]

    async def start(server: EmbeddedServer) -> None:
        await trio.to_thread.run_sync(server.start)
        coming.remove(server.name)
        progress.say(f"{server.name} is ready")
        if coming:
            progress.wait(f"starting {', '.join(coming)}")

    progress.wait(f"starting {', '.join(coming)}")
    async with trio.open_nursery() as nursery:
        for server in servers:
            nursery.start_soon(start, server)


async def _trim(settings: Settings, every_seconds: float) -> None:
    while True:
        try:
            await trim_topic(settings.kafka, ARCHIVE_KEEPS)
        except StoreError as why:
            log.warning("the demo's archive was not trimmed", why=str(why))
        await trio.sleep(every_seconds)
