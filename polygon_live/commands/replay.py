"""``polygon-live replay``: what the archive holds of a span of time, once more into the table or onto NATS."""

import os
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any, Final, Literal

import attrs
import click
import trio

from polygon_live import logs
from polygon_live.commands.ledgers import Ledgers
from polygon_live.commands.progress import Progress
from polygon_live.commands.signals import ended_by_signal
from polygon_live.commands.symbols import Symbol
from polygon_live.commands.times import Instant, check_span, spelled
from polygon_live.config import Settings, settings_from
from polygon_live.daemon import wall_ms
from polygon_live.engines.kafka import Archive
from polygon_live.errors import StoreError
from polygon_live.gap import Gap
from polygon_live.model import encode
from polygon_live.replay import LATE_MS, Choice, Subjects, Table, Tally, count, into_nats, into_table
from polygon_live.spool import NoRoom

INCOMPLETE: Final = 1
Into = Literal["timescale", "nats"]


class Speed(click.ParamType[float]):
    """How many times faster than time itself; infinite for ``max``."""

    name = "SPEED"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Refuses what is no speed."""
        if isinstance(value, float):
            return value
        if value == "max":
            return float("inf")
        try:
            speed = float(value.removesuffix("x"))
        except ValueError:
            speed = 0.0
        if not 0 < speed < float("inf") or not value.endswith("x"):
            self.fail(f"{value!r} is no speed: write max, or a number and x, like 1x, 10x or 0.5x", param, ctx)
        return speed


@attrs.frozen
class Asked:
    """What the command line says."""

    into: Into
    choice: Choice
    speed: float
    dry_run: bool


@attrs.define
class Report:
    """What is said at the end."""

    tally: Tally = attrs.Factory(Tally)
    complete: bool = False
    why: str = "it was interrupted"
    """It is not complete."""
    notes: list[str] = attrs.Factory(list)
    gaps: Sequence[Gap] = ()
    """Of the ledger: what has become of them."""
    began: float = attrs.Factory(time.monotonic)


@click.command(
    epilog="Times are ISO 8601, in UTC unless they have a zone: 2025-01-31, 2025-01-31T07:30, "
    "2025-01-31T07:30:15+02:00. Exit codes: 0 done, 1 incomplete (run it again: the table gets nothing twice), "
    "2 usage, 78 the configuration can't be used."
)
@click.option("--from", "from_ms", required=True, type=Instant(), help="The first time that is taken.")
@click.option("--to", "to_ms", required=True, type=Instant(), help="The first time that is not.")
@click.option("--symbol", "symbols", multiple=True, type=Symbol(), help="May be repeated. Not given: all.")
@click.option("--into", required=True, type=click.Choice(["timescale", "nats"]), help="The store to write to.")
@click.option(
    "--speed",
    type=Speed(),
    help="Onto NATS: 1x keeps the ticks' own pace, 10x is ten times as fast, max (as if not given) as fast as it goes.",
)
@click.option("--dry-run", is_flag=True, help="Read, say what would be written, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON.")
def replay(
    *, from_ms: int, to_ms: int, symbols: Sequence[str], into: Into, speed: float | None, dry_run: bool, as_json: bool
) -> None:
    """Read a span of time from the archive (Kafka) and write it once more.

    Into timescale: what the table lacks, within the three days that it keeps, and nothing that the running collector
    is bringing itself. Onto nats: under ticks.SYMBOL.late, in the order of time. A stream that keeps the ticks drops
    those that it was given within its duplicate window, and takes all others once more.
    """
    check_span(from_ms, to_ms, wall_ms())
    if speed is not None and into == "timescale":
        raise click.UsageError("--speed is for --into nats: the table gets the ticks as fast as it takes them")
    asked = Asked(into, Choice(from_ms, to_ms, frozenset(symbols)), speed or float("inf"), dry_run)
    settings = settings_from(os.environ, {"kafka"} if dry_run and into == "nats" else {"kafka", into})
    logs.configure("warning", settings.log_format, settings.secrets())
    report = trio.run(_replay, settings, asked)
    click.echo(encode(_facts(asked, report)) if as_json else _summary(asked, report))
    for note in report.notes:
        click.echo(note, err=True)
    if not report.complete:
        sys.exit(INCOMPLETE)


async def _replay(settings: Settings, asked: Asked) -> Report:
    report = Report()
    with Progress() as progress, closing(Ledgers(settings, asked.into, asked.choice)) as ledgers:
        async with ended_by_signal():
            try:
                await _carry_out(settings, asked, report, progress, ledgers)
                report.complete = not report.tally.refused
                report.why = f"refused were {report.tally.refused} ticks, the first {report.tally.refusal}"
            except (StoreError, NoRoom) as why:
                report.why = str(why)
        if report.complete and not asked.dry_run:
            report.gaps = ledgers.mend()
    report.notes += ledgers.notes
    if not report.complete:
        report.notes.append(_left(asked, report))
    return report


async def _carry_out(settings: Settings, asked: Asked, report: Report, progress: Progress, ledgers: Ledgers) -> None:
    choice, tally, show = asked.choice, report.tally, progress.show
    progress.wait("asking Kafka for the archive")
    archive = Archive(settings.kafka, since_ms=max(0, choice.from_ms))
    if ledgers.wanting:
        ledgers.archive_cursor = await archive.cursor_of(settings.collector_id)
    async with archive:
        if asked.into == "timescale":
            table = Table(settings.timescale_dsn, settings.tenant_id, now_ms=wall_ms, rehearsal=asked.dry_run)
            with closing(table):
                await into_table(archive, choice, table, tally, show, ledgers.see)
        elif asked.dry_run:
            await count(archive, choice, tally, show)
        else:
            with closing(Subjects(settings.nats)) as subjects:
                await into_nats(archive, choice, subjects, tally, show, ledgers.see, speed=asked.speed)
                report.notes += subjects.notes()


def _left(asked: Asked, report: Report) -> str:
    """What was done, and what to do."""
    begin = f"the replay is not complete: {report.why}"
    if asked.dry_run:
        return f"{begin}; nothing was written: give the same command once more"
    if asked.into == "timescale":
        unknown = f" (whether {report.tally.in_hand} more were is not known)" if report.tally.in_hand else ""
        return f"{begin}; what was written{unknown} stays, and the same command does the rest"
    reached = report.tally.reached_ms
    if reached is None:
        return f"{begin}; nothing was published"
    return (
        f"{begin}; everything before {spelled(reached)} was published: go on with --from {spelled(reached - LATE_MS)}, "
        f"which repeats up to {LATE_MS // 1000} s"
    )


def _summary(asked: Asked, report: Report) -> str:
    tally, done = report.tally, "would be written" if asked.dry_run else "written"
    counts = [f"{tally.written} {done}"]
    if asked.into == "timescale":
        counts += [
            f"{tally.there} already there",
            f"{tally.expired} expired (older than the table keeps)",
            f"{tally.above_cursor} above the cursor (the collector brings them itself)",
        ]
    counts += [f"{tally.refused} refused"] if tally.refused else []
    span = f"{spelled(asked.choice.from_ms)} to {spelled(asked.choice.to_ms)} into {asked.into}"
    foreign = f" ({tally.foreign} of them no ticks of a collector)" if tally.foreign else ""
    gaps = "".join(f"; gap {gap.id} ({gap.cause}) is {gap.state}" for gap in report.gaps)
    return f"{span}: {tally.read} records read{foreign}, {tally.in_range} in range: {', '.join(counts)}{gaps}"


def _facts(asked: Asked, report: Report) -> dict[str, Any]:
    return {
        "into": asked.into,
        "from_ms": asked.choice.from_ms,
        "to_ms": asked.choice.to_ms,
        "symbols": sorted(asked.choice.symbols),
        "dry_run": asked.dry_run,
        "complete": report.complete,
        "why": None if report.complete else report.why,
        **attrs.asdict(report.tally),
        "gaps": [{"id": gap.id, "state": gap.state, "filled": gap.filled} for gap in report.gaps],
        "seconds": round(time.monotonic() - report.began, 3),
    }
