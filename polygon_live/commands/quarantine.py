"""``polygon-live quarantine``: ticks that a store refused, from the ledger itself, be a collector running or not."""

import os
from collections.abc import Sequence
from contextlib import closing
from typing import Final

import click

from polygon_live.commands.progress import Progress
from polygon_live.commands.tables import aligned, in_one_line, print_lines
from polygon_live.commands.times import instant
from polygon_live.config import journal_dir_from
from polygon_live.journal import Aside, Ledger
from polygon_live.model import encode

LATEST: Final = 50
SINKS: Final = ("timescale", "nats", "kafka")
_HEAD: Final = ("SINK", "SEQ", "SYMBOL", "WHEN (UTC)", "WHY")


@click.command()
@click.option("--sink", type=click.Choice(SINKS), help="Only what this store refused.")
@click.option("--limit", default=LATEST, show_default=True, type=click.IntRange(1), help="Of the latest, so many.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line; its tick is the bytes as a string.")
def quarantine(sink: str | None, limit: int, *, as_json: bool) -> None:
    """Ticks that a store refused for their content: which, when, why in its own words, and the tick as it was given.

    The latest are the last. The other stores have them. The latest 100,000 are kept, whichever run set them aside.
    Reads the ledger of POLYGON_LIVE_COLLECTOR_ID in POLYGON_LIVE_DATA_DIR, whether a collector is running or not; exit
    code 74 if there is none.
    """
    with closing(Ledger.open_existing(journal_dir_from(os.environ))) as ledger, Progress() as progress:
        progress.wait("reading the ledger")
        found = ledger.quarantine(sink, limit)[::-1]
        counts = ledger.set_aside_counts()
        lines = [encode(aside.shown()).decode() for aside in found] if as_json else _table(found)
    print_lines(lines)
    ever = {name: count for name, count in sorted(counts.items()) if sink in {None, name}}
    if len(found) < sum(ever.values()):
        told = ", ".join(f"{name} {count}" for name, count in ever.items())
        click.echo(f"these are the latest {len(found)}; ever set aside: {told}; --limit shows more", err=True)


def _table(found: Sequence[Aside]) -> list[str]:
    """A row for each, and below it the tick: both are long."""
    if not found:
        return ["no tick was set aside"]
    head, *rows = aligned([_HEAD, *map(_row, found)])
    ticks = [aside.payload.decode(errors="backslashreplace") for aside in found]
    return [head, *(line for row, tick in zip(rows, ticks, strict=True) for line in (row, f"    {tick}"))]


def _row(aside: Aside) -> tuple[str, ...]:
    return aside.sink, str(aside.seq), aside.symbol, instant(aside.at_ms), in_one_line(aside.why)
