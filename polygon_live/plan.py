"""What has to be done to get from one configuration to the next."""

from collections.abc import Mapping

import attrs

from polygon_live.document import SYMBOLS, document, flat
from polygon_live.operational import ALL_PAIRS, Operational


@attrs.frozen
class Plan:
    """Taking ``unsubscribe`` from the old subscriptions and adding ``subscribe`` gives the new ones."""

    subscribe: tuple[str, ...]
    """Symbols, or ``ALL_PAIRS``, in the new order."""
    unsubscribe: tuple[str, ...]
    """Likewise, in the old order."""
    changed: Mapping[str, tuple[object, object]]
    """Every other value that changes, by dotted name: the old one and the new one."""

    @property
    def going(self) -> tuple[str, ...]:
        """Symbols that will not be collected any more. ``ALL_PAIRS``: all but those that are subscribed instead."""
        return () if ALL_PAIRS in self.subscribe else self.unsubscribe


def plan(old: Operational, new: Operational) -> Plan:
    """How to get from old to new. Nothing in it: they collect the same, in the same way."""
    before, after = flat(document(old)), flat(document(new))
    had, wanted = set(old.symbols), set(new.symbols)
    return Plan(
        subscribe=tuple(s for s in new.symbols if s not in had),
        unsubscribe=tuple(s for s in old.symbols if s not in wanted),
        changed={
            name: (before[name], value) for name, value in after.items() if name != SYMBOLS and before[name] != value
        },
    )
