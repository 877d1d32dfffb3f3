"""``just bench-compare A B``: two runs, figure by figure, as ratios B/A."""

import sys
from pathlib import Path
from typing import Final

from polygon_live.document import flat
from tests.bench.report import WIDTH, Figure, number, read, say

NOTABLE: Final = 1.1
"""Runs on one machine differ by less now and then; by more, something has changed, or the machine was busy."""


def compared(before: Figure, after: Figure) -> str:
    """One line: both values, their ratio, and whether that is for the better."""
    values = f"{number(before.value):>11} {number(after.value):>11} {before.unit:<8}"
    told = f"{before.part:<10} {before.name:<{WIDTH}} {values}"
    if not before.value or not after.value:
        return told
    ratio = after.value / before.value
    gain = ratio if before.better == "higher" else 1 / ratio
    verdict = "better" if gain > NOTABLE else "WORSE" if gain < 1 / NOTABLE else ""
    return f"{told} {ratio:>6.2f} {verdict}"


def main(one: str, other: str) -> None:
    (was, before), (now, after) = read(Path(one)), read(Path(other))
    ours, theirs = flat(was), flat(now)
    for key in ours | theirs:
        if ours.get(key) != theirs.get(key):
            say(f"other conditions: {key}: {ours.get(key)} and {theirs.get(key)}")
    found = {(figure.part, figure.name): figure for figure in after}
    shared = [(figure, found[figure.part, figure.name]) for figure in before if (figure.part, figure.name) in found]
    if not shared:
        raise SystemExit(f"{one} and {other} have no figure in common")
    say(f"{'part':<10} {'figure':<{WIDTH}} {'A':>11} {'B':>11} {'':<8} {'B/A':>6}")
    for pair in shared:
        say(compared(*pair))


if __name__ == "__main__":
    main(*sys.argv[1:])
