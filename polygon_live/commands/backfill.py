"""``polygon-live backfill``: have a stretch of time fetched from Polygon, by the running collector or without one."""

import os
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

import click
import trio

from polygon_live import logs
from polygon_live.commands.progress import Progress
from polygon_live.commands.signals import ended_by_signal
from polygon_live.commands.symbols import Symbol
from polygon_live.commands.times import Instant, check_span, spelled
from polygon_live.config import Settings, journal_dir_from, settings_from
from polygon_live.daemon import fill_alone, wall_ms
from polygon_live.errors import JournalHeld
from polygon_live.fillwords import progress_ms
from polygon_live.gap import SETTLED, Gap
from polygon_live.journal import Ledger
from polygon_live.journal.journal import make_folder
from polygon_live.journal.ledger import is_there
from polygon_live.journal.lock import Lock, holder

UNFILLED: Final = 1
LOOK_SECONDS: Final = 0.5
ALIVE_SECONDS: Final = 5.0
"""How often it is looked whether the collector still runs."""
MS_DIGITS: Final = 13
"""From 2001 to 2286."""


class Time(Instant):
    """As it is said on the command line, or in Unix milliseconds, as logs and tables have it."""

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Refuses what can't be read."""
        if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) > 8:  # fewer is a date
            if len(value) != MS_DIGITS:
                self.fail(f"{value!r} are not Unix milliseconds, which have {MS_DIGITS} digits", param, ctx)
            return int(value)
        return super().convert(value, param, ctx)


@click.command(
    epilog="Times are ISO 8601, in UTC unless they have a zone, or Unix milliseconds: 2025-01-31T07:30, "
    "2025-01-31T07:30:15+02:00, 1738308600000. Exit codes: 0 filled, or there was nothing to fill; 1 not filled; "
    "2 usage; 74 the journal; 78 the configuration can't be used."
)
@click.option("--symbol", required=True, type=Symbol(), help="Like EURUSD.")
@click.option("--from", "from_ms", required=True, type=Time(), help="From this time,")
@click.option("--to", "to_ms", required=True, type=Time(), help="to this time; both seconds are wholly looked at.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Whether to wait until it is done.")
def backfill(*, symbol: str, from_ms: int, to_ms: int, wait: bool) -> None:
    """Fetch a stretch of a symbol's past from Polygon, and deliver what the table (or the archive, where the table
    keeps it no longer) has not got. A second time adds nothing.

    A collector that runs does it, and this command waits and shows how far it is; Ctrl-C ends the waiting only. Where
    none runs, it is done here, with the collector's settings.
    """
    check_span(from_ms, to_ms, wall_ms())
    if to_ms > wall_ms():
        raise click.UsageError(f"--to is {spelled(to_ms)}, which is in the future: it is {spelled(wall_ms())}")
    folder = journal_dir_from(os.environ)
    alone = not _is_held(folder)
    # Before anything is entered: without them nothing can be filled here.
    settings = settings_from(os.environ) if alone and wait else None
    gap = _enter(folder, Gap(0, symbol, "manual", from_ms, to_ms))
    if not wait:
        when = "a collector runs here" if alone else "its turn comes"
        click.echo(f"entered as gap {gap.id}: it is filled when {when}; see polygon-live gaps --symbol {symbol}")
        return
    if settings is not None:
        logs.configure("warning", settings.log_format, settings.secrets())
    watch = Watch(folder, gap)
    trio.run(_settle, watch, settings)
    click.echo(watch.told())
    if watch.gap.state not in {"filled", "empty"}:
        sys.exit(UNFILLED)


def _enter(folder: Path, gap: Gap) -> Gap:
    """In the ledger, which the first one makes."""
    if not is_there(folder):
        make_folder(folder)
        lock = Lock.take(folder, wall_ms())
        try:
            Ledger.open(folder).close()
        finally:
            lock.release()
    with closing(Ledger.open_existing(folder)) as ledger:
        (entered,) = ledger.enter([gap], wall_ms())
    return entered


def _is_held(folder: Path) -> bool:
    """Whether a collector has this journal."""
    return holder(folder) is not None


class Watch:
    """What becomes of an entry, for who looks on."""

    def __init__(self, folder: Path, gap: Gap) -> None:
        self.folder = folder
        self.gap = gap
        self.left: str | None = None
        """Why nobody looks any more, though it is not settled."""

    async def settled(self, progress: Progress) -> None:
        """Show how far it is, until it is done or there is nobody left to do it."""
        gap, since = self.gap, trio.current_time()
        total_s = max(1, ((gap.to_ms or gap.from_ms) - gap.from_ms) // 1000)
        progress.wait(f"{gap.symbol}: waiting for its turn")
        while self.gap.state not in SETTLED:
            await trio.sleep(LOOK_SECONDS)
            self.look(progress)
            reached = progress_ms(self.gap)
            if reached is not None:
                progress.show(f"{gap.symbol} seconds", min(total_s, (reached - gap.from_ms) // 1000), total_s)
            if trio.current_time() - since > ALIVE_SECONDS:
                since = trio.current_time()
                if not _is_held(self.folder):
                    self.look(progress)
                    self.left = "the collector has ended"
                    return

    def look(self, progress: Progress) -> None:
        """See what has become of it."""
        with closing(Ledger.open_existing(self.folder)) as ledger:
            changes = ledger.gaps(symbol=self.gap.symbol, after_change=self.gap.changed)
        for changed in changes:
            if changed.id == self.gap.id:
                if changed.state == "open" and changed.detail not in {"", self.gap.detail}:
                    with progress.hidden():
                        click.echo(changed.detail, err=True)
                self.gap = changed

    def told(self) -> str:
        """The end, in a line."""
        gap = self.gap
        span = f"{gap.symbol} {spelled(gap.from_ms)} to {spelled(gap.to_ms or gap.from_ms)}"
        if gap.state in SETTLED:
            return f"{span}: {gap.state}, {gap.filled} ticks delivered ({gap.detail})"
        entry = f"gap {gap.id} stays open, and is filled when a collector runs here"
        return f"{span}: {self.left or 'interrupted'}; {entry}; {gap.filled} ticks delivered so far"


async def _settle(watch: Watch, settings: Settings | None) -> None:
    with Progress() as progress:
        async with ended_by_signal(), trio.open_nursery() as nursery:
            if settings is not None:
                nursery.start_soon(_fill, settings, watch, nursery.cancel_scope)
            await watch.settled(progress)
            progress.wait("delivering to the stores")  # who filled it here waits for them
        watch.look(progress)


async def _fill(settings: Settings, watch: Watch, watching: trio.CancelScope) -> None:
    """Here; and then there is nothing more to be seen. A collector that was started just now does it instead."""
    with suppress(JournalHeld):
        await fill_alone(settings, watch.gap.id)
        watching.cancel()
