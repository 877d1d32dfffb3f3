"""``polygon-live gaps``: what is missing, or was, from the ledger itself, be a collector running or not."""

import os
from collections.abc import Sequence
from typing import Final, get_args

import click

from polygon_live.config import journal_dir_from
from polygon_live.gap import Gap, State, instant_text, shown
from polygon_live.journal import Ledger
from polygon_live.model import canonical_symbol, encode

LATEST: Final = 50
_HEAD: Final = ("SYMBOL", "FROM (UTC)", "TO (UTC)", "CAUSE", "STORE", "STATE", "FILLED", "MISSING", "DETAIL")


def _symbol(_context: click.Context, _parameter: click.Parameter, given: str | None) -> str | None:
    try:
        return None if given is None else canonical_symbol(given)
    except ValueError as why:
        raise click.BadParameter(str(why)) from None


@click.command()
@click.option("--symbol", callback=_symbol, help="Only this one, like EURUSD.")
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
    ledger = Ledger.open_existing(journal_dir_from(os.environ))
    try:
        found = ledger.gaps(states=states or None, symbol=symbol, latest=None if everything else LATEST + 1)
    finally:
        ledger.close()
    told = found if everything else found[-LATEST:]
    if as_json:
        for gap in told:
            click.echo(encode(shown(gap)))
    else:
        for line in _table(told):
            click.echo(line)
    if len(told) < len(found):
        click.echo(f"these are the latest {LATEST}; --all shows all", err=True)


def _table(found: Sequence[Gap]) -> list[str]:
    if not found:
        return ["no such gap is known"]
    rows = [_HEAD, *map(_row, found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(gap: Gap) -> tuple[str, ...]:
    return (
        gap.symbol,
        _instant(gap.from_ms),
        "lasts" if gap.to_ms is None else _instant(gap.to_ms),
        gap.cause,
        gap.store or "all",
        gap.state,
        str(gap.filled),
        "?" if gap.missing is None else str(gap.missing),
        " ".join(gap.detail.split()),
    )


def _instant(at_ms: int) -> str:
    return instant_text(at_ms).replace("T", " ").removesuffix("Z")
