"""How often Polygon may be asked for anything: one bucket of turns for all that it could count.

At most ``floor(rate)`` turns in any one second, all of them at once if there were none for a second; a rate below one
is one turn every ``1/rate`` seconds. Rules of this file's state:

- A turn that was used is out for a while, one that is held is out until it is used: what is done later than its turn
  came counts from when it is done.
- More turns than there are at once (a connection takes three) are had together, as soon as none is out; those who come
  after them wait for as long as one by one would have taken.
- Nobody is handed a turn. Who waits looks for himself each time something has changed, so who is cancelled has nothing
  to give back.
- The urgent go first, a connection before the past. One of the others is passed by at most ``PASSED_MOST`` of them.
"""

import math
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

import attrs
import structlog
import trio

from polygon_live.status import LimitsSnapshot

PASSED_MOST: Final = 10
"""Enough for three connections, one after the other."""

log = structlog.get_logger()


@attrs.frozen(eq=False)
class _Waiter:
    count: int


class Turns:
    """``per_second`` is above zero; ``wall_ms`` is Unix time in milliseconds."""

    def __init__(self, per_second: float, *, wall_ms: Callable[[], int]) -> None:
        self._per_second = per_second
        self._wall_ms = wall_ms
        self._used: deque[float] = deque()
        """When; in the future for what was more than there are at once. The last one is always among them, for a lower
        rate may come."""
        self._held = 0
        self._taken = 0
        self._urgent: deque[_Waiter] = deque()
        self._patient: deque[_Waiter] = deque()
        self._passed = 0
        self._changed = trio.lowlevel.ParkingLot()
        self._violations: Counter[str] = Counter()
        self._said: str | None = None
        self._said_ms: int | None = None

    async def turn(self, count: int = 1, *, urgent: bool = False) -> None:
        """Wait for so many turns, to be used now."""
        held = await self.hold(count, urgent=urgent)
        for _ in range(count):
            held.use()

    async def hold(self, count: int = 1, *, urgent: bool = False) -> "Held":
        """Wait for so many turns, to be used one after the other, or given back."""
        queue = self._urgent if urgent else self._patient
        mine = _Waiter(count)
        queue.append(mine)
        try:
            await trio.lowlevel.checkpoint()
            while (due := self._due(mine)) > trio.current_time():
                with trio.CancelScope(deadline=due):
                    await self._changed.park()
            self._passed = self._passed + 1 if urgent and self._patient else 0
            self._held += count
        finally:
            queue.remove(mine)
            self._changed.unpark_all()
        return Held(self, count)

    def change(self, per_second: float) -> None:
        """Another rate from now on, also for who is waiting. What was used before counts by the new one."""
        now = trio.current_time()
        self._per_second = per_second
        self._used = deque(min(used, now) for used in self._used)
        self._changed.unpark_all()

    def violation(self, endpoint: str, said: str) -> None:
        """Polygon says that it was too much, or not for us."""
        self._violations[endpoint] += 1
        self._said, self._said_ms = f"{endpoint}: {said}", self._wall_ms()
        log.warning(
            "Polygon refused what was asked of it",
            endpoint=endpoint,
            polygon_says=said,
            times=self._violations[endpoint],
            rate_limit_per_second=self._per_second,
        )

    def snapshot(self) -> LimitsSnapshot:
        """As of now."""
        return LimitsSnapshot(
            per_second=self._per_second,
            burst=self._burst,
            taken=self._taken,
            waiting=len(self._urgent) + len(self._patient),
            violations=dict(self._violations),
            last_violation=self._said,
            last_violation_ms=self._said_ms,
        )

    @property
    def _burst(self) -> int:
        return max(1, math.floor(self._per_second))

    @property
    def _out_seconds(self) -> float:
        """How long a turn that was used is out. Not less than a second for 5.5 either: that would let ten into one."""
        return max(1.0, 1 / self._per_second)

    def _first(self) -> _Waiter:
        if self._urgent and not (self._patient and self._passed >= PASSED_MOST):
            return self._urgent[0]
        return self._patient[0]

    def _due(self, waiter: _Waiter) -> float:
        """When this one may go, as far as is known now; who has to wait for another to do something waits for that."""
        if self._first() is not waiter:
            return math.inf
        now, seconds = trio.current_time(), self._out_seconds
        out = [used for used in self._used if used + seconds > now]
        lacking = min(waiter.count, self._burst) - (self._burst - self._held - len(out))
        if lacking <= 0:
            return now
        return out[lacking - 1] + seconds if lacking <= len(out) else math.inf

    def _use(self) -> None:
        now, seconds = trio.current_time(), self._out_seconds
        while len(self._used) > 1 and self._used[0] + seconds <= now:
            self._used.popleft()
        ahead = self._used[-self._burst] + seconds if len(self._used) >= self._burst else now
        self._used.append(max(now, ahead))
        self._taken += 1
        self._back(1)

    def _back(self, count: int) -> None:
        self._held -= count
        self._changed.unpark_all()


class Held:
    """Turns that were waited for. ``left``: not used yet."""

    def __init__(self, turns: Turns, count: int) -> None:
        self._turns = turns
        self.left = count

    def use(self) -> None:
        """One of them is used now."""
        self.left -= 1
        self._turns._use()  # noqa: SLF001  # the other half of one idea

    def give_back(self) -> None:
        """Those that are left are not needed."""
        left, self.left = self.left, 0
        self._turns._back(left)  # noqa: SLF001
