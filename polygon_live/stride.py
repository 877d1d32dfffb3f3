"""How many ticks a store is handed at once, by how it did with the last ones: what it was not done with in time is not
tried again at the same size for ever.
"""

from typing import Final

LEAST_TICKS: Final = 50
"""With a tenth of a second for each of them, a store is still done in time."""


class Stride:
    """Half of what the store did not answer for; then up to twice what it did, and never more than at the beginning."""

    def __init__(self, most: int) -> None:
        self._limit = self.most = most
        """``most``: how many ticks at once, now."""

    def failed(self, ticks: int) -> None:
        """So many were handed over, and no answer came."""
        self.most = max(LEAST_TICKS, ticks // 2)

    def done(self, ticks: int) -> None:
        """The store has answered for so many."""
        self.most = min(self._limit, max(self.most, 2 * ticks))
