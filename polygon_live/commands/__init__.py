"""The command line: ``polygon-live run | demo | simulate | check | state | tail | gaps | quarantine | backfill |
replay | retention | config``.

Exit codes, fixed: 0 clean stop, 1 what was asked for was not done, 2 usage, 70 an internal fault, 74 the journal, 77
Polygon refuses (``check --dial``), 78 the configuration can't be used.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Final

import click

from polygon_live import __version__
from polygon_live.commands.interpreter import unsearched
from polygon_live.errors import ConfigurationError, JournalError, PolygonLiveError, reasons

INTERNAL: Final = 70
JOURNAL: Final = 74
REFUSED: Final = 77
CONFIGURATION: Final = 78


COMMANDS: Final = (
    *("run", "demo", "simulate", "check", "state", "tail"),
    *("gaps", "quarantine", "backfill", "replay", "retention", "config"),
)


class _Commands(click.Group):
    """Each in the module of its name, imported when it is asked for: who reads the ledger need not wait for the
    libraries of three stores.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are met."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """None: there is no such command."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        with unsearched():
            found: click.Command = getattr(import_module(f"{__name__}.{cmd_name}"), cmd_name)
        return found


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="polygon-live")
def cli() -> None:
    """Collect Polygon.io's live forex and metals ticks into TimescaleDB, NATS and Kafka."""


def main() -> None:
    """Run the command and end the process with the exit code that says what happened."""
    _open_what_is_closed()
    try:
        cli(prog_name="polygon-live")
    except (PolygonLiveError, ExceptionGroup) as why:
        found = list(reasons(why))
        if not all(isinstance(reason, PolygonLiveError) for reason in found):
            raise
        sys.exit(_told(found))


def _open_what_is_closed() -> None:
    """``2>&-``: what is opened next would get the number of standard error, and what is said there."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115  # for as long as the process runs


def _told(found: Sequence[BaseException]) -> int:
    """Say why, in plain words; the exit code for it."""
    for reason in found:
        if isinstance(reason, ConfigurationError):
            click.echo("polygon-live can't start:", err=True)
            for fault in reason.faults:
                click.echo(f"  - {fault}", err=True)
            return CONFIGURATION
        if isinstance(reason, JournalError):
            click.echo(f"polygon-live can't use its journal: {reason}", err=True)
            return JOURNAL
    click.echo(f"polygon-live ended: {found[0]}", err=True)
    return INTERNAL
