"""``polygon-live gaps``: what is missing, or was, from the ledger itself, be a collector running or not."""

import os
from collections.abc import Sequence
from contextlib import closing
from typing import Final, get_args

import click

from polygon_live.commands.progress import Progress
from polygon_live.commands.symbols import Symbol
from polygon_live.commands.tables import aligned, in_one_line, print_lines
from polygon_live.commands.times import instant
from polygon_live.config import journal_dir_from
from polygon_live.gap import Gap, State, shown
from polygon_live.journal import Ledger
from polygon_live.model import encode

LATEST: Final = 50
_HEAD: Final = ("SYMBOL", "FROM (UTC)", "TO (UTC)", "CAUSE", "STORE", "STATE", "FILLED", "MISSING", "DETAIL")


@click.command()
@click.option("--symbol", type=Symbol(), help="Only this one, like EURUSD.")
@click.option(
    "--state", "states", multiple=True, type=click.Choice(get_args(State)), help="Only these; may be repeated."
)
@click.option("--all", "everything", is_flag=True, help=f"All, not only the latest {LATEST}.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with all there is to know.")
def gaps(symbol: str | None, states: Sequence[State], *, everything: bool, as_json: bool) -> None:
    """What was not received, or did not reach a store: symbol, time, cause, and what became of it.

    The latest changes are the last lines. Reads the ledger of POLYGON_LIVE_COLLECTOR_ID in POLYGON_LIVE_DATA_DIR,
    whether a collector is running or not; exit code 74 if there is none.
    """
    with closing(Ledger.open_existing(journal_dir_from(os.environ))) as ledger, Progress() as progress:
        progress.wait("reading the ledger")
        found = ledger.gaps(states=states or None, symbol=symbol, latest=None if everything else LATEST + 1)
        told = found if everything else found[-LATEST:]
        lines = [encode(shown(gap)).decode() for gap in told] if as_json else _table(told)
    print_lines(lines)
    if len(told) < len(found):
        click.echo(f"these are the latest {LATEST}; --all shows all", err=True)


def _table(found: Sequence[Gap]) -> list[str]:
    if not found:
        return ["no such gap is known"]
    return aligned([_HEAD, *map(_row, found)])


def _row(gap: Gap) -> tuple[str, ...]:
    return (
        gap.symbol,
        instant(gap.from_ms),
        "lasts" if gap.to_ms is None else instant(gap.to_ms),
        gap.cause,
        gap.store or "all",
        gap.state,
        str(gap.filled),
        "?" if gap.missing is None else str(gap.missing),
        in_one_line(gap.detail),
    )
