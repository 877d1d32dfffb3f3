"""``polygon-live retention``: what the table holds of the three days, and by hand what the database or the collector
would do later. Nothing is asked of a collector, and one that runs is not in the way.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

import attrs
import click
import trio

from polygon_live import logs
from polygon_live.commands.progress import Progress
from polygon_live.commands.signals import ended_by_signal
from polygon_live.commands.tables import in_one_line, say, show
from polygon_live.config import Settings, settings_from
from polygon_live.daemon import wall_ms
from polygon_live.engines.postgres import (
    COMPRESS_SECONDS,
    KEPT,
    Piece,
    Session,
    Survey,
    compress_by_hand,
    connected,
    drop_by_hand,
    instant,
    survey,
)
from polygon_live.errors import StoreError
from polygon_live.model import encode
from polygon_live.room import free_bytes

INCOMPLETE: Final = 1
LOOK_SECONDS: Final = 60.0
DROP_SECONDS: Final = 120.0
_WHO: Final = "end it (select pid, query, xact_start from pg_stat_activity), and do this again"


@attrs.define
class Report:
    """What was found and done."""

    found: Survey | None = None
    """After what was done."""
    free: int | None = None
    dropped: Sequence[str] = ()
    compressed: list[str] = attrs.Factory(list)
    undone: list[str] = attrs.Factory(list)
    """What was asked for and was not done, and why."""


@click.command(
    epilog="Exit codes: 0 done, 1 not (all) done, or the table can't be looked at, 2 usage, 78 the configuration can't "
    "be used."
)
@click.option("--now", is_flag=True, help="Drop what is past and compress what is due, now.")
@click.option("--dry-run", is_flag=True, help="With --now: only say what would be done. It is the same without --now.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def retention(*, now: bool, dry_run: bool, as_json: bool) -> None:
    """The three days of market_ticks: what it holds, chunk by chunk (or partition by partition), how the last cleaning
    went, and what is due.

    --now does by hand what is due. Nothing younger than three days is ever dropped, by this machine's clock and by the
    database's, and nothing at all where a policy of the database keeps longer. A running collector goes on meanwhile.
    """
    settings = settings_from(os.environ, {"timescale"})
    logs.configure("warning", settings.log_format, settings.secrets())
    report = trio.run(_retention, settings, now and not dry_run)
    if as_json:
        click.echo(encode(_facts(report)))
    elif report.found is not None:
        _tell(report, report.found)
    for why in report.undone:
        click.echo(f"not done: {in_one_line(why)}", err=True)
    if report.undone:
        sys.exit(INCOMPLETE)


async def _retention(settings: Settings, act: bool) -> Report:  # noqa: FBT001  # trio.run takes no keywords
    report = Report(undone=["it was interrupted"])
    with Progress() as progress:
        async with ended_by_signal():
            undone: list[str] = []
            try:
                name = f"polygon-live/{settings.collector_id}/by hand"
                async with connected(settings.timescale_dsn, name) as session:
                    progress.wait("looking at the table")
                    report.found = await _look(session)
                    if act:
                        undone = await _act(session, report, report.found, progress)
            except StoreError as why:
                undone.append(str(why))
            report.undone = undone
    if report.found is not None and report.found.folder is not None:
        with suppress(OSError):
            report.free = free_bytes(report.found.folder)
    return report


async def _look(session: Session) -> Survey:
    return await session.run(LOOK_SECONDS, "look at the table", lambda c: survey(c, instant(wall_ms())))


async def _act(session: Session, report: Report, found: Survey, progress: Progress) -> list[str]:
    """What could not be done, and why. Raises StoreError."""
    undone: list[str] = []
    if found.due and found.kept_longer:
        undone.append(found.kept_longer)
    elif found.due:
        progress.wait("dropping what is past")
        work = "drop what is past"
        report.dropped = await session.run(DROP_SECONDS, work, lambda c: drop_by_hand(c, instant(wall_ms())))
    for done, name in enumerate(found.to_compress):
        progress.show("compressing", done, len(found.to_compress))
        try:
            await session.run(COMPRESS_SECONDS, f"compress {name}", partial(compress_by_hand, name=name))
        except StoreError as why:
            undone.append(f"{name} is not compressed, nor what comes after it: {why}")
            await session.connect()
            break
        report.compressed.append(name)
    progress.wait("looking at the table")
    report.found = await _look(session)
    left = ", ".join(name for name in report.found.due if name in found.due)
    if left and not found.kept_longer:
        undone.append(f"{left} can't be dropped while somebody holds the table in an open transaction: {_WHO}")
    return undone


def _tell(report: Report, found: Survey) -> None:
    """For people."""
    where = found.whereabouts
    say(
        f"{found.table}: {found.edition}; {where['server']} at {where['address']}, database {where['database']}", "bold"
    )
    total = sum(piece.bytes for piece in found.pieces)
    say(f"{len(found.pieces)} {found.called}, {_size(total)} with indexes; {_rows(found)}")
    if report.free is not None:
        say(f"free on its disk: {_size(report.free)}")
    for name, value in found.settings.items():
        if value is not None:
            say(f"{name.replace('_', ' ')}: {in_one_line(str(value))}")
    if abs(found.ahead) > timedelta(seconds=5):
        way = "ahead of" if found.ahead > timedelta() else "behind"
        say(f"the database's clock is {abs(found.ahead)} {way} this machine's", "yellow")
    ahead = [p for p in found.pieces if p.start and p.start > found.edge + KEPT]
    show(
        (found.called.upper(), "FROM (UTC)", "TO (UTC)", "SIZE", "BEFORE", "STATE"),
        [_row(piece, found) for piece in found.pieces if piece not in ahead],
    )
    if ahead:
        say(f"and {len(ahead)} {found.called} for the hours to come, until {_minute(ahead[-1].end)}")
    _tell_what_is_due(report, found)


def _tell_what_is_due(report: Report, found: Survey) -> None:
    if report.dropped:
        say(f"dropped: {', '.join(report.dropped)}", "green")
    if report.compressed:
        say(f"compressed: {', '.join(report.compressed)}", "green")
    if found.kept_longer:
        say(found.kept_longer, "yellow")
    sizes = {piece.name: piece.bytes for piece in found.pieces}
    if found.due and not found.kept_longer:
        size = _size(sum(sizes[name] for name in found.due))
        say(f"past, would be dropped: {', '.join(found.due)}; {size}", "yellow")
    if found.to_compress:
        size = _size(sum(sizes[name] for name in found.to_compress))
        say(f"would be compressed: {', '.join(found.to_compress)}; {size}", "yellow")
    if not found.to_compress and (not found.due or found.kept_longer):
        say("nothing is due", "green")


def _rows(found: Survey) -> str:
    if found.oldest_row is None:
        return "no rows"
    hours = (found.edge + KEPT - found.oldest_row) / timedelta(hours=1)
    return f"rows from {_minute(found.oldest_row)}, {hours:.1f} h ago, to {_minute(found.newest_row)}"


def _row(piece: Piece, found: Survey) -> tuple[str, ...]:
    states = ["compressed"] if piece.compressed else []
    if piece.name in found.due:
        states.append("past" if not found.kept_longer else "past, kept by its policy")
    elif piece.name in found.to_compress:
        states.append("to compress")
    before = "" if piece.bytes_before is None else _size(piece.bytes_before)
    times = (_minute(piece.start), _minute(piece.end))
    return (piece.name, *times, _size(piece.bytes), before, ", ".join(states))


def _minute(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M}"


def _size(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 2**10:.0f} KiB"


def _facts(report: Report) -> Mapping[str, Any]:
    """For machines."""
    found = report.found
    facts: dict[str, Any] = {} if found is None else attrs.asdict(found)
    if found is not None:
        facts.pop("folder")
        facts["database_clock_ahead_seconds"] = facts.pop("ahead").total_seconds()
        facts["bytes"] = sum(piece.bytes for piece in found.pieces)
        facts["free_bytes"] = report.free
    return {
        **facts,
        "dropped": report.dropped,
        "compressed": report.compressed,
        "complete": not report.undone,
        "undone": report.undone,
    }
