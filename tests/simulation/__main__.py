"""Seeds by the hundred: ``python -m tests.simulation SEEDS=200 FROM=1000``, or ``200 1000``; ``FIRST=1`` stops at the
first that fails. ``SEED=17``: this one, with its story and everything that happened. Ends with 1 if a promise was
broken.
"""

import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import click

from polygon_live.commands.progress import Progress
from tests.simulation.run import Verdict, simulate

AT_ONCE = 16
"""Seeds that a process takes together."""
USAGE = "SEEDS=200, SEEDS=200 FROM=1000, or SEED=17 to see one again"
NAMES = ("SEEDS", "FROM")


def main(arguments: list[str]) -> int:
    """The exit code."""
    named = [a if "=" in a else f"{name}={a}" for a, name in zip(arguments, NAMES, strict=False)]
    wanted = {name: int(number) for name, _, number in (a.partition("=") for a in named) if number.isdecimal()}
    if len(wanted) < len(arguments) or wanted.keys() - {*NAMES, "SEED", "FIRST"}:
        click.echo(f"what is {' '.join(arguments)}? {USAGE}", err=True)
        return 2
    if "SEED" in wanted:
        return _one(wanted["SEED"])
    return _many(wanted.get("FROM", 0), wanted.get("SEEDS", 200), stop=bool(wanted.get("FIRST")))


def _one(seed: int) -> int:
    verdict = simulate(seed, keep_trace=True)
    click.echo("\n".join([verdict.story, *verdict.trace]))
    _tell(verdict)
    return bool(verdict.broken)


def _many(first: int, count: int, *, stop: bool) -> int:
    began, failed, accepted = time.monotonic(), [], 0
    with ProcessPoolExecutor(os.cpu_count()) as pool, Progress() as progress:
        verdicts = pool.map(simulate, range(first, first + count), chunksize=1 if stop else AT_ONCE)
        for number, verdict in enumerate(verdicts, start=1):
            accepted += verdict.accepted
            progress.show("seeds", number, count)
            if verdict.broken:
                failed.append(verdict.seed)
                click.echo(verdict.story)
                _tell(verdict)
                if stop:
                    pool.shutdown(wait=False, cancel_futures=True)
                    break
    seconds = time.monotonic() - began
    click.echo(f"{count} seeds from {first}, {accepted} ticks, {seconds:.0f} s: {len(failed)} broke a promise")
    for seed in failed:
        click.echo(f"  ops/just sim SEED={seed}")
    return bool(failed)


def _tell(verdict: Verdict) -> None:
    for promise in verdict.broken:
        click.echo(f"BROKEN  {promise}")
    click.echo(f"seed {verdict.seed}: {verdict.steps} steps, {verdict.accepted} ticks, {verdict.digest}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
