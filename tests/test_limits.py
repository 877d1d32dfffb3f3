"""The one bucket of turns, in virtual time: every time is exact."""

import math
import random
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from trio.testing import MockClock

from polygon_live.limits import PASSED_MOST, Turns


def turns(per_second: float) -> Turns:
    return Turns(per_second, wall_ms=lambda: 1_780_401_600_000)


class Queue:
    """Who asked for turns, and when he had them."""

    def __init__(self, bucket: Turns) -> None:
        self.bucket = bucket
        self.began = trio.current_time()
        self.had: list[tuple[str, float]] = []

    async def take(self, name: str, count: int = 1, *, urgent: bool = False) -> None:
        await self.bucket.turn(count, urgent=urgent)
        self.had += [(name, round(trio.current_time() - self.began, 6))] * count

    @property
    def times(self) -> list[float]:
        return [at for _name, at in self.had]

    @property
    def names(self) -> list[str]:
        return [name for name, _at in self.had]


async def in_order(nursery: trio.Nursery, *tasks: Callable[[], Awaitable[None]]) -> None:
    for task in tasks:
        nursery.start_soon(task)
        await trio.testing.wait_all_tasks_blocked()


def most_in_a_second(times: list[float], window: float = 1.0) -> int:
    return max(sum(at <= other < at + window for other in times) for at in times)


@pytest.mark.parametrize(
    ("per_second", "expected"),
    [
        (5, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2]),
        (1, [0, 1, 2, 3]),
        (0.2, [0, 5, 10, 15]),
        (2.5, [0, 0, 1, 1, 2, 2]),
    ],
)
async def test_so_many_at_once_and_each_comes_back_when_its_second_is_over(
    autojump_clock: MockClock, per_second: float, expected: list[float]
) -> None:
    queue = Queue(turns(per_second))
    for _ in expected:
        await queue.take("rest")
    assert queue.times == expected
    await trio.sleep(1000)
    queue = Queue(queue.bucket)
    for _ in expected:
        await queue.take("rest")
    assert queue.times == expected, "a rest saves up one second's turns, not more"


async def test_they_are_had_in_the_order_in_which_they_were_asked_for_the_urgent_first(
    autojump_clock: MockClock,
) -> None:
    queue = Queue(turns(1))
    async with trio.open_nursery() as nursery:
        await in_order(
            nursery,
            lambda: queue.take("first"),
            lambda: queue.take("rest 1"),
            lambda: queue.take("rest 2"),
            lambda: queue.take("dial 1", urgent=True),
            lambda: queue.take("dial 2", urgent=True),
        )
        assert queue.bucket.snapshot().waiting == 4
    assert queue.had == [("first", 0), ("dial 1", 1), ("dial 2", 2), ("rest 1", 3), ("rest 2", 4)]
    snapshot = queue.bucket.snapshot()
    assert (snapshot.taken, snapshot.waiting, snapshot.burst, snapshot.per_second) == (5, 0, 1, 1)


async def test_nobody_is_passed_by_for_ever(autojump_clock: MockClock) -> None:
    queue = Queue(turns(2))

    async def never_enough() -> None:
        while True:
            await queue.take("urgent", urgent=True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(never_enough)
        nursery.start_soon(never_enough)
        await trio.sleep(10.5)
        for n in range(4):
            await queue.take(f"rest {n}")
        nursery.cancel_scope.cancel()
    places = [n for n, name in enumerate(queue.names) if name.startswith("rest")]
    assert all(b - a == PASSED_MOST + 1 for a, b in pairwise(places))
    assert most_in_a_second(queue.times) == 2


async def test_turns_that_are_held_count_from_when_they_are_used(autojump_clock: MockClock) -> None:
    """A slow dial: what comes after it must not fall into one second with what others did meanwhile."""
    bucket = turns(5)
    queue = Queue(bucket)
    held = await bucket.hold(3, urgent=True)
    held.use()
    async with trio.open_nursery() as nursery:

        async def keep_asking() -> None:
            while True:
                await queue.take("rest")

        nursery.start_soon(keep_asking)
        await trio.sleep(4.5)
        held.use()
        held.use()
        queue.had += [("login", 4.5)] * 2
        await trio.sleep(5.2)
        nursery.cancel_scope.cancel()
    assert most_in_a_second(sorted(queue.times)) == 5
    assert queue.times.count(3) == 3, "two are held"
    assert queue.times.count(8.5) == 2


async def test_turns_that_are_given_back_are_there_at_once(autojump_clock: MockClock) -> None:
    bucket = turns(3)
    queue = Queue(bucket)
    held = await bucket.hold(3, urgent=True)
    held.use()
    async with trio.open_nursery() as nursery:
        await in_order(nursery, lambda: queue.take("rest"), lambda: queue.take("rest"), lambda: queue.take("rest"))
        assert queue.had == []
        await trio.sleep(0.25)
        held.give_back()
        held.give_back()
    assert queue.times == [0.25, 0.25, 1]


@pytest.mark.parametrize(("per_second", "next_at"), [(0.2, 15.0), (1, 3.0), (2, 1.0), (3, 1.0), (5, 0.0)])
async def test_a_connection_has_its_turns_together_and_who_comes_after_it_pays_for_them(
    autojump_clock: MockClock, per_second: float, next_at: float
) -> None:
    queue = Queue(turns(per_second))
    await queue.take("connection", 3, urgent=True)
    await queue.take("rest")
    assert queue.times == [0, 0, 0, next_at]
    await trio.sleep(60)
    await queue.take("late")
    assert queue.times[-1] == next_at + 60


async def test_more_turns_than_there_are_wait_until_none_is_out(autojump_clock: MockClock) -> None:
    queue = Queue(turns(2))
    await queue.take("rest")
    await trio.sleep(0.5)
    await queue.take("connection", 3, urgent=True)
    assert queue.times == [0, 1, 1, 1]


async def test_another_rate_acts_on_who_is_waiting(autojump_clock: MockClock) -> None:
    queue = Queue(turns(0.01))
    await queue.take("first")
    async with trio.open_nursery() as nursery:
        await in_order(nursery, *[lambda: queue.take("rest")] * 6)
        await trio.sleep(10)
        queue.bucket.change(4)
    assert queue.times == [0, 10, 10, 10, 10, 11, 11]
    queue.bucket.change(0.5)
    await queue.take("slow")
    await queue.take("slow")
    assert queue.times[-2:] == [13, 15], "what was used before counts"


async def test_a_debt_does_not_outlive_the_rate_that_made_it(autojump_clock: MockClock) -> None:
    queue = Queue(turns(0.1))
    await queue.take("connection", 3, urgent=True)
    queue.bucket.change(5)
    await queue.take("rest")
    assert queue.times[-1] == 0


@pytest.mark.parametrize("urgent", [True, False])
async def test_who_is_cancelled_takes_nothing_and_holds_nobody_up(autojump_clock: MockClock, *, urgent: bool) -> None:
    queue = Queue(turns(1))
    await queue.take("first")
    async with trio.open_nursery() as nursery:
        gone = trio.CancelScope()

        async def in_vain() -> None:
            with gone:
                await queue.take("in vain", 3, urgent=urgent)

        await in_order(nursery, in_vain, lambda: queue.take("second"), lambda: queue.take("third"))
        await trio.sleep(0.9)
        gone.cancel()
    assert queue.had == [("first", 0), ("second", 1), ("third", 2)]
    assert queue.bucket.snapshot().taken == 3


async def test_cancelled_in_the_moment_of_the_turn_none_is_lost(autojump_clock: MockClock) -> None:
    queue = Queue(turns(1))
    await queue.take("first")
    with trio.move_on_after(1):
        await queue.take("perhaps")
    await queue.take("next")
    assert queue.times == [float(n) for n in range(len(queue.had))]


async def test_violations_are_counted_and_told_with_their_endpoint(autojump_clock: MockClock) -> None:
    bucket = turns(5)
    with capture_logs() as logs:
        bucket.violation("https://api.example/v3/quotes", "too many requests (429)")
        bucket.violation("https://api.example/v3/quotes", "too many requests (429)")
    assert [(entry["log_level"], entry["endpoint"], entry["times"]) for entry in logs] == [
        ("warning", "https://api.example/v3/quotes", 1),
        ("warning", "https://api.example/v3/quotes", 2),
    ]
    snapshot = bucket.snapshot()
    assert snapshot.violations == {"https://api.example/v3/quotes": 2}
    assert snapshot.last_violation == "https://api.example/v3/quotes: too many requests (429)"
    assert snapshot.last_violation_ms == 1_780_401_600_000


@given(st.integers(0, 2**32), st.integers(1, 12))
def test_never_more_than_the_rate_in_any_second(seed: int, per_second: int) -> None:
    """Whoever asks, holds, is late, is cancelled, or gives back."""
    rng = random.Random(seed)
    used: list[float] = []
    served: list[bool] = []

    async def ask(bucket: Turns) -> None:
        await trio.sleep(rng.randrange(200) / 64)
        count = rng.randint(1, min(3, per_second))
        with trio.move_on_after(rng.choice((math.inf, rng.randrange(300) / 64))) as patience:
            held = await bucket.hold(count, urgent=rng.random() < 0.5)
            for _ in range(rng.randint(0, count)):
                with trio.CancelScope(shield=True):
                    await trio.sleep(rng.choice((0, 0, 0.25, 1.5)))
                held.use()
                used.append(trio.current_time())
            held.give_back()
            served.append(True)
        if patience.cancelled_caught:
            served.append(False)

    async def everybody() -> None:
        bucket = turns(per_second)
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(ask, bucket)
        snapshot = bucket.snapshot()
        assert (snapshot.waiting, bucket._held, snapshot.taken) == (0, 0, len(used))

    trio.run(everybody, clock=MockClock(autojump_threshold=0))
    assert len(served) == 40
    if used:
        assert most_in_a_second(used) <= per_second


@given(st.integers(0, 2**32))
@settings(max_examples=30)
def test_a_changing_rate_is_never_exceeded_while_it_lasts(seed: int) -> None:
    rng = random.Random(seed)
    used: list[float] = []
    rates: list[tuple[float, int]] = []

    async def everybody() -> None:
        bucket = turns(5)
        rates.append((trio.current_time(), 5))

        async def keep_asking() -> None:
            while True:
                await bucket.turn(urgent=rng.random() < 0.5)
                used.append(trio.current_time())

        with trio.move_on_after(30):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(keep_asking)
                while True:
                    await trio.sleep(rng.randrange(1, 400) / 64)
                    rates.append((trio.current_time(), rng.randint(1, 20)))
                    bucket.change(rates[-1][1])

    trio.run(everybody, clock=MockClock(autojump_threshold=0))
    for n, at in enumerate(used):
        rate = [rate for since, rate in rates if since <= at][-1]
        changed = [since for since, _ in rates if since == at]
        if not changed:  # in the moment of a change it may have been either's
            assert sum(at - 1 < other <= at for other in used[: n + 1]) <= rate
