"""``polygon-live simulate``: a stand-in Polygon on a port, for trying a collector without a key."""

import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import click
import trio

from polygon_live import logs, values
from polygon_live.commands.number import Number
from polygon_live.commands.progress import Progress
from polygon_live.commands.signals import ended_by_signal
from polygon_live.daemon import wall_ms
from polygon_live.model import pair_of
from polygon_live.standin import RestStandIn, StandIn
from polygon_live.standin.faults import ENDINGS, bad_frames, odd_frames
from polygon_live.standin.market import EXCHANGE, INSTRUMENTS, Step, random_walk, real_ticks, replay
from polygon_live.wire import Quote

KEY: Final = "made-up-key"


def _good_quote() -> Quote:
    instrument = INSTRUMENTS[0]
    price = instrument.price
    return Quote(pair_of(instrument.symbol), round(price + instrument.spread, 5), price, wall_ms(), EXCHANGE)


def _frames() -> Mapping[str, str | bytes]:
    good = _good_quote()
    return {**bad_frames(good), **odd_frames(good)}


def _host(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    try:
        return values.host(value)
    except ValueError as why:
        raise click.BadParameter(f"{value!r}: {why}") from None


FAULTS: Final = sorted([*ENDINGS, *_frames()])


@click.command(epilog=f"Faults: {', '.join(FAULTS)}.")
@click.option("--host", default="127.0.0.1", show_default=True, callback=_host)
@click.option("--port", default=8765, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option(
    "--rest-port",
    type=click.IntRange(0, 65535),
    help="For past quotes, those that nobody heard among them; not given: the one above --port.",
)
@click.option("--key", default=KEY, show_default=True, help="The key to accept. Any made-up word; never a real key.")
@click.option("--ticks-per-second", default=20.0, show_default=True, type=Number(min=0.001))
@click.option(
    "--replay",
    "file",
    type=click.Path(path_type=Path),
    help="Send the ticks of a CSV (timestamp_ms,pair,bid,ask) once, moved in time so that the last is now, "
    "as soon as a client has subscribed.",
)
@click.option("--fault", "faults", multiple=True, type=click.Choice(FAULTS), metavar="NAME", help="May be repeated.")
@click.option("--every", default=30.0, show_default=True, type=Number(min=0.1), help="Seconds between faults.")
def simulate(
    *,
    host: str,
    port: int,
    rest_port: int | None,
    key: str,
    ticks_per_second: float,
    file: Path | None,
    faults: Sequence[str],
    every: float,
) -> None:
    """A simulated Polygon: all fourteen symbols on a random walk, and any other pair of known currencies as soon as it
    is subscribed to, in a market that never closes.

    Point a collector at it with POLYGON_LIVE_WS_URLS, POLYGON_LIVE_REST_URL and POLYGON_API_KEY.
    """
    logs.configure("info", "auto", ())
    if file:
        real_ticks(file, wall_ms())  # what is wrong with it is told at once, not when somebody subscribes
    standin = StandIn(key=key)
    if rest_port is None:
        rest_port = port + 1 if 0 < port < 65535 else 0

    async def serve() -> None:
        rest = RestStandIn(standin.history, key=key)
        async with ended_by_signal(), standin.listening(host, port) as url, rest.listening(host, rest_port) as past:
            click.echo(f"SIMULATED market at {url}, past quotes at {past}, key {key!r}. Ctrl-C ends it.", err=True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_carry_out, standin, faults, every)
                if file:
                    await standin.subscribed()
                    quotes = real_ticks(file, wall_ms())
                    with Progress() as progress:
                        await standin.play(_counted(replay(quotes, ticks_per_second), len(quotes), progress))
                    click.echo(f"all {len(quotes)} ticks were sent; the market is silent from now on", err=True)
                else:
                    made_up = random_walk(ticks_per_second, wall_ms, random.Random(), lambda: standin.pairs)
                    await standin.play(made_up)

    trio.run(serve)


def _counted(steps: Iterable[Step], total: int, progress: Progress) -> Iterator[Step]:
    sent = 0
    for quotes, seconds in steps:
        sent += len(quotes)
        progress.show("ticks sent", sent, total)
        yield quotes, seconds


async def _carry_out(standin: StandIn, faults: Sequence[str], every: float) -> None:
    for name in itertools.cycle(faults):
        await trio.sleep(every)
        for connection in standin.connections:
            if connection.open and connection.acknowledged:
                click.echo(f"fault: {name}", err=True)
                if name in ENDINGS:
                    ENDINGS[name](connection)
                else:
                    connection.send(_frames()[name])
    await trio.sleep_forever()
