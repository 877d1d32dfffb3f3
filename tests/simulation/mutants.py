"""The simulation simulated: each of these breaks the collector (or a store's defence) in one place, in a copy, and some
seed must find it. ``python -m tests.simulation.mutants [NAME…]``. Ends with 1 if one lives.

A mutant is a piece of text that stands exactly once in a file, and what stands there instead: who changes the code is
told that the mutant has to follow.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import attrs
import click

ROOT: Final = Path(__file__).parents[2]
SEEDS: Final = 2000
"""More than any has needed."""


@attrs.frozen
class Mutant:
    """Something that somebody could do wrong."""

    name: str
    file: str
    here: str
    instead: str


MUTANTS: Final = (
    Mutant(
        "an error of a store is swallowed",
        "polygon_live/pump.py",
        "                await self._away(why, next(waits))\n                await self._open()\n            batch =",
        "                self._connected = True\n                self._cursor = batch.last\n            batch =",
    ),
    Mutant(
        "one retry is dropped",
        "polygon_live/pump.py",
        "                await self._open()\n            batch =",
        "                await self._open()\n                self._cursor = batch.last\n            batch =",
    ),
    Mutant(
        "the cursor moves before the write",
        "polygon_live/pump.py",
        "                written = await self.sink.write(part)",
        "                self._cursor = part.last\n                written = await self.sink.write(part)",
    ),
    Mutant(
        "the store's cursor is not believed after an error",
        "polygon_live/pump.py",
        "        behind = found < self._stored\n",
        "        found = max(found, self._cursor)\n        behind = found < self._stored\n",
    ),
    Mutant(
        "half of a refused batch is forgotten",
        "polygon_live/pump.py",
        "parts += reversed(part.halves())",
        "parts += part.halves()[1:]",
    ),
    Mutant(
        "a refused tick is not kept",
        "polygon_live/pump.py",
        "        await self._books.set_aside(reject, part.payloads[0])\n",
        "",
    ),
    Mutant(
        "a hole is forgotten",
        "polygon_live/pump.py",
        "        await self._books.lost(self.sink.name, holes)\n",
        "",
    ),
    Mutant(
        "a jump between batches is not noticed",
        "polygon_live/backlog.py",
        "            if self._taken and self._taken[0].after <= after:",
        "            if self._taken:",
    ),
    Mutant(
        "acknowledged before the flush: a store without a cursor is remembered as far as was accepted",
        "polygon_live/pipeline.py",
        "remembered=lambda: {p.sink.name: p.remembered for p in self.pumps if p.remembered is not None}",
        "remembered=lambda: {pump.sink.name: pump.backlog.head for pump in self.pumps}",
    ),
    Mutant(
        "the mark is ignored at the start: numbers are used again",
        "polygon_live/pipeline.py",
        "first_seq=max(ledger.mark, journal.tail, wall_ms() * 1000) + 1",
        "first_seq=max(journal.tail, wall_ms() * 1000) + 1",
    ),
    Mutant(
        "the mark is not on the disk when it is used",
        "polygon_live/journal/ledger.py",
        "        self._database.sync()\n        self._mark = int(mark)\n",
        "        self._mark = int(mark)\n",
    ),
    Mutant(
        "offered to the stores before it is in the journal",
        "polygon_live/pipeline.py",
        "        await self.keeper.append(batch)\n        self._last = batch.last\n        self.blocks.add(batch)\n"
        "        for pump in self.pumps:\n            pump.backlog.offer(batch)\n",
        "        self._last = batch.last\n        self.blocks.add(batch)\n        for pump in self.pumps:\n"
        "            pump.backlog.offer(batch)\n        await self.keeper.append(batch)\n",
    ),
    Mutant(
        "the journal is never synced",
        "polygon_live/keeper.py",
        "                await self._sync()\n            if due:",
        "            if due:",
    ),
    Mutant(
        "the newest ticks are remembered before they are on the disk",
        "polygon_live/keeper.py",
        "dict(self._remembered()), dict(self._durable)",
        "dict(self._remembered()), dict(self._newest)",
    ),
    Mutant(
        "a failed append is taken for done",
        "polygon_live/keeper.py",
        "            self._failed(what, str(why))\n            return False\n",
        "            self._failed(what, str(why))\n            return True\n",
    ),
    Mutant(
        "no gap is entered for a connection that ended",
        "polygon_live/feed.py",
        '            self._standing.intake.interrupted(Interruption("disconnect", str(why)))\n',
        "",
    ),
    Mutant(
        "no gap is entered for frames that found no room",
        "polygon_live/frames.py",
        '            self.interrupted(Interruption("overflow", "the memory for messages was full"))\n',
        "",
    ),
    Mutant(
        "no gap is entered for a symbol that went mute",
        "polygon_live/conversation.py",
        '                self._standing.intake.interrupted(Interruption("mute", why, meant))\n',
        "                del why, meant\n",
    ),
    Mutant(
        "no gap is entered for the time in which no collector ran",
        "polygon_live/pipeline.py",
        '        await self._interrupted(Interruption("downtime", "no collector ran"))\n',
        "",
    ),
    Mutant(
        "a gap never ends",
        "polygon_live/pipeline.py",
        "        if ended := self.book.accepted(ticks):\n            await self.keeper.note(ended)\n",
        "        self.book.accepted(ticks)\n",
    ),
    Mutant(
        "after a power cut nothing is asked back from the stores, and nothing is told",
        "polygon_live/recovery.py",
        "        if cursor > self._tail and not self._over.is_set():\n",
        "        cursor = min(cursor, self._tail)\n        if not self._stores:\n",
    ),
    Mutant(
        "a write does not compare the cursor (a store's defence)",
        "tests/simulation/table.py",
        "        if not self.compare(tx):\n            return False\n",
        "",
    ),
    Mutant(
        "a fenced producer's commit is taken (a store's defence)",
        "tests/simulation/log.py",
        '        if tx.epoch != self.epoch or tx.state != "pending":',
        '        if tx.state == "committed":',
    ),
)


def find(mutant: Mutant) -> str | None:
    """What the first seed that notices it says; None if none does."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as scratch:
        copy = Path(scratch)
        for part in ("polygon_live", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        file = copy / mutant.file
        text = file.read_text()
        if text.count(mutant.here) != 1:
            raise click.ClickException(f"{mutant.file} has changed: {mutant.name!r} has to follow")
        file.write_text(text.replace(mutant.here, mutant.instead))
        ran = subprocess.run(
            [sys.executable, "-P", "-m", "tests.simulation", f"SEEDS={SEEDS}", "FIRST=1"],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": scratch, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    said = [line for line in ran.stdout.splitlines() if line.startswith(("BROKEN", "seed "))]
    if ran.returncode == 0:
        return None
    broken = next((line for line in said if line.startswith("BROKEN")), None)
    if broken is None:
        raise click.ClickException(f"the run ended with {ran.returncode} and found nothing: {ran.stderr[-500:]}")
    return f"{said[-1].split(':')[0]}: {broken}"


def main(names: list[str]) -> int:
    """The exit code."""
    alive = 0
    for mutant in MUTANTS:
        if names and not any(name in mutant.name for name in names):
            continue
        began = time.monotonic()
        found = find(mutant)
        alive += found is None
        click.echo(f"{mutant.name}\n    {(found or 'LIVES')[:220]} ({time.monotonic() - began:.0f} s)")
    return bool(alive)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
