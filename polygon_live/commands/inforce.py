"""What is in force: in the collector that runs, or else what a start would find. Nothing is changed by looking."""

import shutil
import tempfile
from pathlib import Path

import attrs
import click
import msgspec

from polygon_live.asking import address_of, ask
from polygon_live.config import Settings
from polygon_live.daemon import steered
from polygon_live.errors import CollectorAway, CollectorError
from polygon_live.inforce import ConfigurationSnapshot


@attrs.frozen
class Found:
    """``address`` is the running collector's; None: there is none, and this is what a start would find."""

    address: str | None
    configuration: ConfigurationSnapshot


async def find(settings: Settings) -> Found:
    """Ask the running collector; where there is none, say so on standard error, and ask the Hub.

    Raises CollectorError if something is there that can't be asked.
    """
    try:
        answer = await ask(settings.http, "/state", having="configuration")
    except CollectorAway as why:
        click.echo(f"{why}. What follows is what a start would find", err=True)
        return Found(None, await at_a_start(settings))
    try:
        told = msgspec.convert(answer["configuration"], ConfigurationSnapshot)
    except msgspec.ValidationError as why:
        msg = f"the collector at {address_of(settings.http)} is of another version: {why} in its configuration"
        raise CollectorError(msg) from None
    return Found(address_of(settings.http), told)


async def at_a_start(settings: Settings) -> ConfigurationSnapshot:
    """By the way that a start goes, but with a copy of the last good copy: that one is the collector's to write."""
    with tempfile.TemporaryDirectory() as folder:
        aside = attrs.evolve(settings, data_dir=Path(folder))
        aside.last_good_file.parent.mkdir()
        try:
            shutil.copyfile(settings.last_good_file, aside.last_good_file)
        except FileNotFoundError:
            pass
        except OSError as why:
            click.echo(f"the last good copy can't be read: {why.strerror} ({why.filename})", err=True)
        steering = await steered(aside)
        return attrs.evolve(steering.snapshot(), unheard=None)
