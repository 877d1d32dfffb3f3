"""``polygon-live tail [SYMBOL…]``: ticks as they come, from NATS."""

import os
import random
import sys
from collections.abc import Sequence
from typing import Final

import attrs
import click
import msgspec
import trio

from polygon_live import logs
from polygon_live.backoff import backoff
from polygon_live.commands.signals import ended_by_signal
from polygon_live.commands.symbols import Symbol
from polygon_live.commands.tables import clean
from polygon_live.commands.times import instant
from polygon_live.config import Settings, settings_from
from polygon_live.daemon import wall_ms
from polygon_live.engines.nats import Heard, Subscriber
from polygon_live.errors import StoreError
from polygon_live.model import UNREADABLE, Tick

FIRST_WAIT_SECONDS: Final = 1.0
MOST_WAIT_SECONDS: Final = 10.0
NAME: Final = "polygon-live tail"

_tick: Final = msgspec.json.Decoder(Tick)


@attrs.define
class Tail:
    """What is wanted, and how much of it is still to come."""

    subjects: tuple[str, ...]
    as_json: bool
    left: int | None
    """None: without end."""

    def show(self, messages: Sequence[Heard]) -> None:
        """A line each, all in one go."""
        lines = [line for message in messages if (line := self._line(message)) is not None][: self.left]
        if lines:
            click.echo("\n".join(lines))
        if self.left is not None:
            self.left -= len(lines)

    def _line(self, message: Heard) -> str | None:
        try:
            tick = _tick.decode(message.payload)
            at = instant(tick.timestamp_ms)
        except (*UNREADABLE, OverflowError):  # somebody else's
            return None
        if self.as_json:
            return message.payload.decode(errors="replace")
        age = wall_ms() - tick.timestamp_ms
        marks = " ".join(mark for mark, so in (("late", tick.late), ("suspect", tick.suspect)) if so)
        line = f"{at}  {tick.symbol:<6}  {tick.bid:<11.10g} {tick.ask:<11.10g}"
        return clean(f"{line} {tick.spread:<9.6g} {age:>6} ms  {tick.source} {tick.event_type} {marks}".rstrip())


@click.command(epilog="Ends with Ctrl-C. Exit codes: 0, 2 usage, 78 the configuration can't be used.")
@click.argument("symbols", nargs=-1, type=Symbol())
@click.option("--late", is_flag=True, help="Also what comes late: catching up, backfill, replay.")
@click.option("--count", type=click.IntRange(min=1), help="End after so many ticks.")
@click.option("--json", "as_json", is_flag=True, help="The ticks as they are on NATS, one a line.")
def tail(*, symbols: Sequence[str], late: bool, count: int | None, as_json: bool) -> None:
    """Print ticks as they come: time (UTC), symbol, bid, ask, spread in price units, age, and where it is from.

    SYMBOLS not given: all. A lost connection is made again, with a word on standard error.
    """
    settings = settings_from(os.environ, {"nats"})
    logs.configure("error", settings.log_format, settings.secrets())
    names = tuple(dict.fromkeys(symbols)) or ("*",)
    endings = ("", ".late") if late else ("",)
    wanted = Tail(tuple(f"ticks.{name}{ending}" for name in names for ending in endings), as_json, count)
    try:
        trio.run(_tail, settings, wanted)
    except* BrokenPipeError:  # whoever reads has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


async def _tail(settings: Settings, wanted: Tail) -> None:
    async with ended_by_signal():
        waits = backoff(FIRST_WAIT_SECONDS, MOST_WAIT_SECONDS, random.Random())
        while True:
            try:
                await _follow(settings, wanted)
            except StoreError as why:
                click.echo(f"{why}; trying again", err=True)
            if wanted.left == 0:
                return
            await trio.sleep(next(waits))


async def _follow(settings: Settings, wanted: Tail) -> None:
    """Until there were enough. Raises StoreError when the connection ends."""
    subscriber = Subscriber(settings.nats, wanted.subjects, NAME)
    missed = 0
    try:
        await subscriber.connect()
        while wanted.left != 0:
            wanted.show(await subscriber.heard())
            if subscriber.missed > missed:
                click.echo(f"{subscriber.missed - missed} ticks came too fast to be shown", err=True)
                missed = subscriber.missed
    finally:
        subscriber.close()
