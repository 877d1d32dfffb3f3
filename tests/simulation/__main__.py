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
"""Seeds that a process takes together, at most."""
PARTS = 50
"""So many are to be seen on their way, if there are enough seeds."""
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
    with Progress() as progress:
        progress.wait(f"seed {seed}")
        verdict = simulate(seed, keep_trace=True)
    click.echo("\n".join([verdict.story, *verdict.trace]))
    _tell(verdict)
    return bool(verdict.broken)


def _many(first: int, count: int, *, stop: bool) -> int:
    began, failed, accepted = time.monotonic(), [], 0
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        # Its processes are forked here, and who is forked while a thread draws may inherit a lock that nobody releases.
        verdicts = pool.map(
            simulate, range(first, first + count), chunksize=1 if stop else max(1, min(AT_ONCE, count // PARTS))
        )
        with Progress() as progress:
            progress.show("seeds", 0, count)
            for number, verdict in enumerate(verdicts, start=1):
                accepted += verdict.accepted
                progress.show("seeds", number, count)
                if not verdict.broken:
                    continue
                failed.append(verdict.seed)
                with progress.hidden():
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
