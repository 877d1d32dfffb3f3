"""What comes out: figures, as a table for people and as JSON for ``just bench-compare``."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import attrs

WIDTH: Final = 62


@attrs.frozen
class Figure:
    """One measured number."""

    part: str
    """The part of the bench that makes it: ``just bench PART``."""
    name: str
    """What it is; with ``part`` the key by which two runs are compared."""
    value: float
    unit: str
    better: Literal["higher", "lower"]
    goal: str = ""
    """In words, if there is one."""
    more: Mapping[str, Any] = attrs.field(factory=dict)
    """What belongs to it: for the JSON, and for whoever asks why."""


def number(value: float) -> str:
    if value != value:  # noqa: PLR0124  # not a number: nothing was measured
        return "-"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def line(figure: Figure) -> str:
    told = f"{number(figure.value):>11} {figure.unit:<12} {figure.goal:<22}"
    return f"{figure.part:<10} {figure.name:<{WIDTH}} {told} {'just bench ' + figure.part}"


HEAD: Final = f"{'part':<10} {'figure':<{WIDTH}} {'':>11} {'':<12} {'goal':<22} made by"


def written(path: Path, facts: Mapping[str, Any], figures: Sequence[Figure]) -> None:
    content = {"machine": facts, "figures": [attrs.asdict(figure) for figure in figures]}
    path.write_text(json.dumps(content, indent=1) + "\n")


def read(path: Path) -> tuple[dict[str, Any], list[Figure]]:
    """Raises SystemExit if it is no such file."""
    try:
        content = json.loads(path.read_text())
        return content["machine"], [Figure(**figure) for figure in content["figures"]]
    except (OSError, ValueError, KeyError, TypeError) as why:
        raise SystemExit(f"{path} is no file that `just bench --json` has written: {why!r}") from None


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
