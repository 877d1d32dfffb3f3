"""What whole weeks cost a collector: nothing, if the calendar is right; a holiday, next to nothing."""

from collections import Counter

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from polygon_live.standin.rest import MARKET_FAULTS
from tests.weeks import Cost, Stretch, Week, week

HOST = "rest.example"


def days(first: int, last: int, month: str, opens: str, closes: str) -> list[Stretch]:
    """From each of these days to the next."""
    return [(f"{month}-{day:02} {opens}", f"{month}-{day + 1:02} {closes}") for day in range(first, last + 1)]


WEEKS = {
    "march": (  # New York's clocks go forward on Sunday the 8th, before the market opens
        "2026-03-06 18:00",
        [("2026-03-06 18:00", "2026-03-06 22:00"), ("2026-03-08 21:00", "2026-03-13 21:00")],
        [("2026-03-06 18:00", "2026-03-06 22:00"), *days(8, 12, "2026-03", "22:00", "21:00")],
        "2026-03-14 00:00",
    ),
    "november": (  # and back on Sunday the 1st
        "2026-10-30 18:00",
        [("2026-10-30 18:00", "2026-10-30 21:00"), ("2026-11-01 22:00", "2026-11-06 22:00")],
        [("2026-10-30 18:00", "2026-10-30 21:00"), *days(1, 5, "2026-11", "23:00", "22:00")],
        "2026-11-07 00:00",
    ),
}


@pytest.mark.parametrize("name", WEEKS)
async def test_a_week_with_its_weekend_and_the_metals_breaks_costs_nothing(
    autojump_clock: MockClock, name: str
) -> None:
    starts, currencies, metals, ends = WEEKS[name]
    async with week(starts) as (one, cost), trio.open_nursery() as nursery:
        nursery.start_soon(one.trade, {"EURUSD": currencies, "USDJPY": currencies, "XAUUSD": metals})
        nursery.start_soon(one.look)
        await one.until(ends)
        nursery.cancel_scope.cancel()
    assert cost == Cost(dials=1)
    assert one.unhealthy == []
    assert len(one.world.ticks) > 14_000


CHRISTMAS = "2025-12-24 12:00"
TRADED = [("2025-12-24 12:00", "2025-12-24 22:00"), ("2025-12-25 23:00", "2025-12-26 22:00")]


async def christmas(one: Week) -> None:
    """By the calendar the market is open from the 24th, 22:00, to the 26th, but for the metals' break: for 25 h."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.trade, dict.fromkeys(("EURUSD", "USDJPY", "XAUUSD"), TRADED))
        nursery.start_soon(one.look)
        await one.until("2025-12-27 00:00")
        nursery.cancel_scope.cancel()


async def test_a_christmas_that_polygon_calls_closed_is_one_reconnect_and_no_alarm(autojump_clock: MockClock) -> None:
    async with week(CHRISTMAS) as (one, cost):
        one.rest.standin.fx = "closed"
        await christmas(one)
    assert cost == Cost(dials=2, silences=1, asked=300, interruptions=Counter(disconnect=1))
    assert one.unhealthy == []
    assert one.notes == {"open by the calendar, and Polygon says closed: a holiday?"}


@pytest.mark.parametrize(
    ("fault", "asked", "said"),
    [
        ("not-authorized", 50, "the plan does not include these data (403, 'You are not"),
        ("away", 0, "the line failed: nobody listens"),
    ],
)
async def test_a_christmas_of_which_polygon_cant_be_asked_is_a_reconnect_an_hour_and_no_alarm(
    autojump_clock: MockClock, fault: str, asked: int, said: str
) -> None:
    async with week(CHRISTMAS) as (one, cost):
        one.rest.standin.fault = MARKET_FAULTS.get(fault)
        if fault == "away":
            one.rest.unreachable.add("rest.example")
        await christmas(one)
    assert cost == Cost(dials=26, silences=1, asked=asked, interruptions=Counter(disconnect=25))
    assert one.unhealthy == []
    (note,) = one.notes
    assert note.startswith(
        f"open by the calendar, and Polygon can't be asked (Polygon's REST service at {HOST}: {said}"
    )


async def test_a_market_that_polygon_calls_open_and_that_is_mute_is_one_alarm(autojump_clock: MockClock) -> None:
    async with week(CHRISTMAS) as (one, cost):
        await christmas(one)
    assert cost == Cost(dials=101, silences=1, alarms=1, asked=299, interruptions=Counter(disconnect=100))
    first, verdict = one.unhealthy[0]
    assert first - 10 * 3600 < 400
    assert verdict.reasons == (
        "no ticks at all for 6 min, though the market is open, as Polygon says too, and after a new connection",
    )
    assert one.notes == set()


async def test_a_market_that_opens_with_slow_first_ticks_costs_nothing(autojump_clock: MockClock) -> None:
    async with week("2026-06-07 20:00", ("EURUSD",)) as (one, cost), trio.open_nursery() as nursery:
        nursery.start_soon(one.look)
        for seconds in (3600 + 240, 200, 140, 90, 200, 60, 30, 280):
            await trio.sleep(seconds)
            one.polygon.send([one.world.quote("EURUSD")])
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert cost == Cost(dials=1)
    assert one.unhealthy == []
    assert len(one.world.ticks) == 8


async def test_one_mute_symbol_goes_from_a_note_to_an_alarm_once_each(autojump_clock: MockClock) -> None:
    async with week("2026-06-02 08:00") as (one, cost), trio.open_nursery() as nursery:
        hours = ("2026-06-02 08:00", "2026-06-02 13:00")
        silent = ("2026-06-02 08:00", "2026-06-02 10:00")
        nursery.start_soon(one.trade, {"EURUSD": [hours], "USDJPY": [silent], "XAUUSD": [hours]}, 5)
        stages = []
        for at in ("09:59", "10:00", "10:02", "10:12", "10:18", "12:00"):
            await one.until(f"2026-06-02 {at}")
            await trio.sleep(30)
            stages.append(one.world.feed.snapshot().stages)
        nursery.cancel_scope.cancel()
    assert stages[0] == {}
    assert [s.get("USDJPY") for s in stages[1:]] == ["quiet", "resubscribed", "reconnected", "silent", "silent"]
    assert all(s.keys() <= {"USDJPY"} for s in stages)
    assert cost == Cost(dials=2, notes=1, resubscribed=1, alarms=1, interruptions=Counter(mute=3, disconnect=1))
