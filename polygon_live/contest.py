"""Whether another holder of a store's cursor is alive: told by its heartbeat alone, for no clocks are compared."""

from collections.abc import Hashable


class Contest:
    """Watches another's cursor. ``now`` is the time of our own loop, in seconds."""

    def __init__(self, seconds: float) -> None:
        """Who has not moved for so long is dead."""
        self._seconds = seconds
        self._mark: Hashable = None
        self._since: float | None = None
        self.moved = False
        """The other has been seen to move: it lives, or did just now."""

    def is_dead(self, mark: Hashable, now: float) -> bool:
        """Take note of what the cursor looks like; whether that has not changed for long enough."""
        if self._since is None or mark != self._mark:
            self.moved = self._since is not None
            self._mark, self._since = mark, now
        return now - self._since >= self._seconds

    def lose_sight(self) -> None:
        """The store could not be asked, so the other could not move there either: the time begins anew."""
        self._since = None
        self.moved = False
