"""What one test says."""

from collections.abc import Iterable, Mapping
from typing import Literal

import attrs

Status = Literal["holds", "fails", "skipped", "not applicable"]
"""``skipped`` could not be tested, so it is not known to hold; ``not applicable`` is nothing to be tested here."""


@attrs.frozen
class Item:
    """One line of the checklist."""

    name: str
    status: Status
    evidence: str
    todo: str = ""
    """What to do; empty where there is nothing."""
    facts: Mapping[str, object] = attrs.field(factory=dict)
    """The evidence for machines."""


def holding(items: Iterable[Item]) -> bool:
    """Whether all hold that apply here."""
    return all(item.status in {"holds", "not applicable"} for item in items)


def holds(name: str, evidence: str, **facts: object) -> Item:
    """It does."""
    return Item(name, "holds", evidence, facts=facts)


def fails(name: str, evidence: str, todo: str, **facts: object) -> Item:
    """It does not."""
    return Item(name, "fails", evidence, todo, facts)


def skipped(name: str, why: str, todo: str = "") -> Item:
    """It could not be tested."""
    return Item(name, "skipped", why, todo)


def not_applicable(name: str, why: str, **facts: object) -> Item:
    """Nothing is to be tested here."""
    return Item(name, "not applicable", why, facts=facts)
