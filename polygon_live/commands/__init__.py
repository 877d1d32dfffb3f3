"""The command line: ``polygon-live run | demo | simulate | gaps | backfill | replay``.

Exit codes, fixed: 0 clean stop, 1 what was asked for was not done, 2 usage, 70 an internal fault, 74 the journal, 78
the configuration can't be used.
"""

import sys
from collections.abc import Iterator, Sequence
from typing import Final

import click

from polygon_live import __version__
from polygon_live.commands.backfill import backfill
from polygon_live.commands.demo import demo
from polygon_live.commands.gaps import gaps
from polygon_live.commands.replay import replay
from polygon_live.commands.run import run
from polygon_live.commands.simulate import simulate
from polygon_live.errors import ConfigurationError, JournalError, PolygonLiveError

INTERNAL: Final = 70
JOURNAL: Final = 74
CONFIGURATION: Final = 78


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="polygon-live")
def cli() -> None:
    """Collect Polygon.io's live forex and metals ticks into TimescaleDB, NATS and Kafka."""


cli.add_command(run)
cli.add_command(demo)
cli.add_command(simulate)
cli.add_command(gaps)
cli.add_command(backfill)
cli.add_command(replay)


def main() -> None:
    """Run the command and end the process with the exit code that says what happened."""
    try:
        cli(prog_name="polygon-live")
    except (PolygonLiveError, ExceptionGroup) as why:
        reasons = list(_reasons(why))
        if not all(isinstance(reason, PolygonLiveError) for reason in reasons):
            raise
        sys.exit(_told(reasons))


def _told(reasons: Sequence[BaseException]) -> int:
    """Say why, in plain words; the exit code for it."""
    for reason in reasons:
        if isinstance(reason, ConfigurationError):
            click.echo("polygon-live can't start:", err=True)
            for fault in reason.faults:
                click.echo(f"  - {fault}", err=True)
            return CONFIGURATION
        if isinstance(reason, JournalError):
            click.echo(f"polygon-live can't use its journal: {reason}", err=True)
            return JOURNAL
    click.echo(f"polygon-live ended: {reasons[0]}", err=True)
    return INTERNAL


def _reasons(why: BaseException) -> Iterator[BaseException]:
    """Trio's nurseries group even a single error."""
    if isinstance(why, BaseExceptionGroup):
        for inner in why.exceptions:
            yield from _reasons(inner)
    else:
        yield why
