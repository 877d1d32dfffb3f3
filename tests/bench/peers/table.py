"""What was found, as one table for people."""

from collections.abc import Sequence
from statistics import median
from typing import Final

from polygon_live.commands.tables import aligned
from tests.bench.peers.killing import Fate
from tests.bench.peers.speed import FRAMES, OURS, Held, Run

SPEED: Final = (
    "",
    "stores",
    *(f"{what}, {n} a frame" for n in FRAMES for what in ("ticks/s", "CPU µs a tick")),
    "most MiB",
    "counted in the stores",
)
KILLED: Final = ("`kill -9` after a burst", "of what it was sent", "of what passed while it was away", "doubled")


def speed(runs: Sequence[Run], held: Sequence[Held]) -> list[str]:
    """Markdown. In brackets the ratio to this collector; the median of the rounds counts."""
    names = dict.fromkeys(run.name for run in runs)
    return _markdown(SPEED, [[name, *_speeds(name, runs), _most(name, runs), _complete(name, held)] for name in names])


def killed(fates: Sequence[Fate]) -> list[str]:
    """Markdown: what was lost, in each store."""
    rows = []
    for name in dict.fromkeys(fate.name for fate in fates):
        of = [fate for fate in fates if fate.name == name]
        lost = ", ".join(f"{_lost(f.heard_lost)} in {f.store}" for f in of)
        passed = ", ".join(f"{_lost(f.passed_lost)} of {f.passed} in {f.store}" for f in of)
        rows.append([name, lost, passed, _lost(max(f.doubled for f in of))])
    return _markdown(KILLED, rows)


def _lost(number: int) -> str:
    return str(number) if number else "none"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def plain(markdown: Sequence[str]) -> list[str]:
    """The same in columns."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown]
    return aligned([row for row in rows if row[0] != "---"])


def speeds(runs: Sequence[Run], name: str, per_frame: int) -> tuple[float, float]:
    """Ticks a second, and µs of CPU for one: the median of its rounds."""
    of = [run for run in runs if (run.name, run.per_frame) == (name, per_frame)]
    return median(run.ticks / run.seconds for run in of), median(run.cpu_seconds / run.ticks * 1e6 for run in of)


def _speeds(name: str, runs: Sequence[Run]) -> list[str]:
    cells = [" ".join(next(run.stores for run in runs if run.name == name)) or "none"]
    for per_frame in FRAMES:
        (rate, cost), (our_rate, our_cost) = (speeds(runs, n, per_frame) for n in (name, OURS))
        cells += [f"{rate:,.0f} ({rate / our_rate:.2f})", f"{cost:.0f} ({cost / our_cost:.2f})"]
    return cells


def _most(name: str, runs: Sequence[Run]) -> str:
    return f"{max(run.resident_mib for run in runs if run.name == name):.0f}"


def _complete(name: str, held: Sequence[Held]) -> str:
    of = [each for each in held if each.name == name]
    missing = {store: sum(h.sent - h.counts[store] for h in of) for store in of[0].counts}
    if not missing:
        return "-"
    return ", ".join(f"{store} {-n:+}" for store, n in missing.items() if n) or "complete"
