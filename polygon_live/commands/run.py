"""``polygon-live run``: the collector against the real world. It never simulates and never embeds."""

import os

import click
import trio

from polygon_live import logs
from polygon_live.commands.core import keep_to_one_core
from polygon_live.commands.interpreter import settle
from polygon_live.commands.signals import ended_by_signal
from polygon_live.config import settings_from
from polygon_live.daemon import Collector, steered


@click.command()
def run() -> None:
    """Collect until SIGTERM or Ctrl-C. A missing key or address ends with exit code 78 and is named."""
    settings = settings_from(os.environ)
    logs.configure(settings.log_level, settings.log_format, settings.secrets())

    async def collect() -> None:
        async with ended_by_signal():  # the Hub may take its time
            collector = Collector(settings, await steered(settings))
            settle()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep_to_one_core)
                await collector.run()
                nursery.cancel_scope.cancel()

    trio.run(collect)
