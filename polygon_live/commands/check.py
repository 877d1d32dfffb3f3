"""``polygon-live check``: whether everything holds that must, each with its evidence and what to do."""

import os
import sys
from typing import Any, Final

import attrs
import click
import trio

from polygon_live import logs
from polygon_live.check import Examination, Item, examine, holding
from polygon_live.commands import REFUSED
from polygon_live.commands.inforce import at_a_start
from polygon_live.commands.number import Number
from polygon_live.commands.progress import Progress
from polygon_live.commands.signals import ended_by_signal
from polygon_live.commands.tables import say, show
from polygon_live.commands.times import instant
from polygon_live.config import OTHER_SIDES, Settings, settings_from
from polygon_live.daemon import wall_ms
from polygon_live.model import encode

NOT_HOLDING: Final = 1
STORES: Final = tuple(side for side in OTHER_SIDES if side != "polygon")
STYLES: Final = {"fails": "bold red", "skipped": "yellow"}


@click.command(
    epilog="Exit codes: 0 all holds that applies here, 1 something does not, or could not be tested, 2 usage, "
    "77 Polygon refuses the login (--dial), 78 the configuration can't be used."
)
@click.option(
    "--seconds",
    type=Number(min=1, max=600),
    default=5.0,
    show_default=True,
    help="How long ticks are looked on. Where they are due and none comes, up to 30 s longer.",
)
@click.option(
    "--dial",
    is_flag=True,
    help="Also log in at Polygon, and leave. Not while a collector lives: a second login evicts it.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def check(*, seconds: float, dial: bool, as_json: bool) -> None:
    """Test everything that must hold, on the system that these settings name, and say what to do where it does not.

    Ticks are followed into the three stores, retention is looked at in the database itself, and the running collector
    (POLYGON_LIVE_HTTP_HOST and _HTTP_PORT) is asked for the rest. Nothing is changed.
    """
    settings = settings_from(os.environ, OTHER_SIDES if dial else STORES)
    logs.configure("error", settings.log_format, settings.secrets())  # what there is to say is said here
    found = trio.run(_examine, settings, seconds, dial)
    if found is None:
        raise click.ClickException("interrupted: nothing is known")
    good = holding(found.items)
    if as_json:
        click.echo(encode(_facts(found, holds=good)))
    else:
        _say(found, holds=good)
    if found.refused:
        sys.exit(REFUSED)
    if not good:
        sys.exit(NOT_HOLDING)


async def _examine(settings: Settings, seconds: float, dial: bool) -> Examination | None:  # noqa: FBT001  # trio.run takes no names
    with Progress() as progress:
        async with ended_by_signal():
            return await examine(
                settings, seconds=seconds, dial=dial, now_ms=wall_ms, at_a_start=at_a_start, doing=progress.wait
            )
    return None


def _say(found: Examination, *, holds: bool) -> None:
    show(("ITEM", "STATUS", "EVIDENCE"), [(item.name, item.status.upper(), item.evidence) for item in found.items])
    _say_symbols(found.items)
    for item in found.items:
        if item.status in STYLES:
            say(f"{item.status.upper()}: {item.name}: {item.todo or item.evidence}", STYLES[item.status])
    if holds:
        say(f"all holds for {found.collector}", "bold green")


def _say_symbols(items: tuple[Item, ...]) -> None:
    rows: Any = next((item.facts["last_hour"] for item in items if "last_hour" in item.facts), {})
    show(
        ("SYMBOL", "LAST HOUR", "NEWEST (UTC)"),
        [(symbol, f"{row['ticks']:,}", instant(row["newest_ms"])) for symbol, row in rows.items()],
    )


def _facts(found: Examination, *, holds: bool) -> dict[str, object]:
    return {
        "holds": holds,
        "at_ms": found.at_ms,
        "collector": found.collector,
        "refused_by_polygon": found.refused,
        "items": [attrs.asdict(item, recurse=False) for item in found.items],
    }
