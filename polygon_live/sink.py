"""What a sink is: it opens, writes a batch, says what it holds, and closes. Nothing else.

Retrying, backoff, order, counting and the search for a poison tick belong to the pump, which is the same for all
three. A sink raises only the StoreErrors of ``errors.py`` (and lets cancellation through).
"""

from collections.abc import Collection, Mapping
from typing import Protocol

import attrs

from polygon_live.model import Batch


@attrs.frozen
class Written:
    """What became of a batch that the store took."""

    delivered: int
    """Ticks that the store now holds durably by its own rules."""
    expired: int = 0
    """Ticks that the store keeps no longer (older than its retention): passed over, no error."""


@attrs.frozen
class StoreFacts:
    """What was found out about a store when it was opened or looked at since."""

    about: Mapping[str, str | int | float | bool | None] = attrs.field(factory=dict)
    """For /state: server version, edition, servers known, retention, …; never an address with a secret in it."""
    complaints: tuple[str, ...] = ()
    """Standing faults that somebody should mend though delivery goes on; each is a reason in /health."""


class Sink(Protocol):
    """One store. All methods are called by one task, never at the same time."""

    name: str

    async def open(self) -> None:
        """Connect and make the store ready (set up, verified). Called again after every error that is not RowsRefused
        or AlreadyHeld: it must drop whatever is left of the connection before. Has its own time limit.

        Raises StoreUnavailable, StoreMisconfigured.
        """

    async def write(self, batch: Batch) -> Written:
        """Write the batch; return when the store has answered for all of it. Has its own time limit.

        Raises StoreUnavailable (what was written is not known), StoreMisconfigured, AlreadyHeld, RowsRefused.
        """

    async def held(self, batch: Batch) -> Collection[int]:
        """The ``seq`` of those ticks of the batch that the store certainly holds: asked after an unclear outcome,
        before anything is sent again.
        """

    async def check(self) -> None:
        """Ask the store for a sign of life: called while there is nothing to write. Has its own time limit.

        Raises StoreUnavailable, StoreMisconfigured.
        """

    async def aclose(self) -> None:
        """Let go of the connection. Never waits for a server that does not answer."""

    def facts(self) -> StoreFacts:
        """What is known now; touches nothing."""
