"""The command line: ``polygon-live run | demo | simulate``.

Exit codes, fixed: 0 clean stop, 2 usage, 70 an internal fault, 78 the configuration can't be used.
"""

import sys
from collections.abc import Callable
from typing import Final

import click

from polygon_live import __version__
from polygon_live.commands.demo import demo
from polygon_live.commands.run import run
from polygon_live.commands.simulate import simulate
from polygon_live.daemon import InternalFault
from polygon_live.embedded import ServerFailed
from polygon_live.errors import ConfigurationError

INTERNAL: Final = 70
CONFIGURATION: Final = 78


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="polygon-live")
def cli() -> None:
    """Collect Polygon.io's live forex and metals ticks into TimescaleDB, NATS and Kafka."""


cli.add_command(run)
cli.add_command(demo)
cli.add_command(simulate)


def main() -> None:
    """Run the command and end the process with the exit code that says what happened."""
    _exit(lambda: cli(prog_name="polygon-live"))


def _exit(command: Callable[[], None]) -> None:
    try:
        command()
    except ConfigurationError as why:
        click.echo("polygon-live can't start:", err=True)
        for fault in why.faults:
            click.echo(f"  - {fault}", err=True)
        sys.exit(CONFIGURATION)
    except (InternalFault, ServerFailed) as why:
        click.echo(f"polygon-live ended: {why}", err=True)
        sys.exit(INTERNAL)
