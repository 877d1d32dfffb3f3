"""``just bench-peers``: this collector beside what others would use, in one run: how much, at what cost, what is lost.

The peers' packages are fetched once into an environment of their own in the user's cache. Needs java for Kafka. Ratios
hold, absolute figures do not; the CPU that a tick costs is the steadier figure on a machine that does other work too.
"""

import argparse
import json
import sys
import tempfile
from functools import partial
from pathlib import Path

import attrs
import trio

from polygon_live import logs
from polygon_live.commands.progress import Progress
from polygon_live.embedded import NotInstalled
from tests.bench import machine
from tests.bench.peers import environment, killing, speed, table
from tests.bench.peers.killing import Fate
from tests.bench.peers.speed import Held, Run
from tests.bench.report import say


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="just bench-peers", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="the median of them counts; %(default)s")
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="that this collector is measured each time; %(default)s"
    )
    parser.add_argument("--share", type=float, default=1.0, help="of the ticks that the peers get; %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every run there")
    asked = parser.parse_args(arguments)
    logs.configure("warning", "console", ())
    facts = machine.facts()
    with Progress() as progress:
        progress.wait("making the peers' environment")
        try:
            python = environment.python()
        except NotInstalled as why:
            sys.exit(str(why))
        with _folder() as name:
            measure = partial(speed.measure, rounds=asked.rounds, seconds=asked.seconds, share=asked.share)
            runs, held = trio.run(partial(measure, Path(name), python, doing=progress.wait))
        with _folder() as name:
            fates = trio.run(killing.kill_each, Path(name), python, asked.seconds, progress.wait)
        with progress.hidden():
            for lines in (table.speed(runs, held), table.killed(fates)):
                say("\n".join([*(table.plain(lines) if sys.stdout.isatty() else lines), ""]))
    if asked.json:
        _write(asked.json, facts, runs, held, fates)


def _folder() -> "tempfile.TemporaryDirectory[str]":
    made = tempfile.TemporaryDirectory(prefix="peers-")
    Path(made.name).chmod(0o755)  # PostgreSQL runs under another account
    return made


def _write(path: Path, facts: dict[str, object], runs: list[Run], held: list[Held], fates: list[Fate]) -> None:
    content = {
        "machine": facts,
        "peers": environment.REQUIREMENTS.read_text().split(),
        **{name: list(map(attrs.asdict, found)) for name, found in (("runs", runs), ("held", held), ("fates", fates))},
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
