"""How often something may be done: turns at even distances."""

import trio


class Turns:
    """At most so many a second, evenly spaced, in the order in which they were asked for; no burst after a rest."""

    def __init__(self, per_second: float) -> None:
        self._apart = 1 / per_second
        self._next = -float("inf")

    async def turn(self) -> None:
        """Wait for the next turn. One that is waited for in vain (cancelled) is not given to another."""
        mine = max(self._next, trio.current_time())
        self._next = mine + self._apart
        await trio.sleep_until(mine)
