from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polygon_live.calendar import all_of_it, always_open, open_since, open_stretches

NEW_YORK = ZoneInfo("America/New_York")
HOUR_MS = 3_600_000


def is_open(symbol: str, at_ms: int) -> bool:
    return open_since(symbol, at_ms) is not None


def ny(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=NEW_YORK).timestamp() * 1000)


# 2026-03-08 and 2026-11-01 are the Sundays on which New York's clocks change.
@pytest.mark.parametrize(
    ("at", "currencies", "metals"),
    [
        ("2026-06-05T16:59:59", True, True),
        ("2026-06-05T17:00:00", False, False),
        ("2026-06-06T12:00:00", False, False),
        ("2026-06-07T16:59:59", False, False),
        ("2026-06-07T17:00:00", True, False),
        ("2026-06-07T17:59:59", True, False),
        ("2026-06-07T18:00:00", True, True),
        ("2026-06-08T16:59:59", True, True),
        ("2026-06-08T17:00:00", True, False),
        ("2026-06-08T18:00:00", True, True),
        ("2026-03-08T16:59:59", False, False),
        ("2026-03-08T17:00:00", True, False),
        ("2026-11-01T16:59:59", False, False),
        ("2026-11-01T17:00:00", True, False),
        ("2026-12-25T12:00:00", True, True),  # a Friday and a holiday: no list of those exists
    ],
)
def test_week(at: str, currencies: bool, metals: bool) -> None:
    assert is_open("EURUSD", ny(at)) is currencies
    assert is_open("XAUUSD", ny(at)) is metals
    assert is_open("XAGUSD", ny(at)) is metals


def test_utc_moves_with_daylight_saving() -> None:
    winter = round(datetime.fromisoformat("2026-03-06T21:30:00Z").timestamp() * 1000)
    summer = round(datetime.fromisoformat("2026-03-13T21:30:00Z").timestamp() * 1000)
    assert is_open("EURUSD", winter)  # 16:30 in New York
    assert not is_open("EURUSD", summer)  # 17:30


@pytest.mark.parametrize(
    ("symbol", "at", "began"),
    [
        ("EURUSD", "2026-06-07T17:00:00", "2026-06-07T17:00:00"),
        ("EURUSD", "2026-06-12T16:59:59", "2026-06-07T17:00:00"),
        ("XAUUSD", "2026-06-09T16:00:00", "2026-06-08T18:00:00"),
        ("XAUUSD", "2026-06-09T18:00:00", "2026-06-09T18:00:00"),
        ("EURUSD", "2026-11-02T12:00:00", "2026-11-01T17:00:00"),
        ("XAUUSD", "2026-03-09T09:00:00", "2026-03-08T18:00:00"),
    ],
)
def test_session_start(symbol: str, at: str, began: str) -> None:
    assert open_since(symbol, ny(at)) == ny(began)


@given(st.integers(0, 4_000_000_000_000), st.sampled_from(["EURUSD", "XAUUSD"]))
def test_open_since_is_the_start_of_the_session_it_is_in(at_ms: int, symbol: str) -> None:
    began = open_since(symbol, at_ms)
    if began is None:
        return
    assert began <= at_ms
    assert open_since(symbol, began) == began
    assert open_since(symbol, began - 1) is None
    assert at_ms - began < (120 if symbol == "EURUSD" else 23) * HOUR_MS + HOUR_MS


def test_a_simulated_market_never_closes() -> None:
    assert always_open("XAUUSD", ny("2026-06-06T12:00:00")) is not None
    assert all_of_it("XAUUSD", ny("2026-06-06T12:00:00"), ny("2026-06-07T12:00:00")) == [
        (ny("2026-06-06T12:00:00"), ny("2026-06-07T12:00:00"))
    ]


def test_a_year_of_stretches_is_the_weeks_of_currencies_and_the_days_of_metals() -> None:
    begin, end = ny("2026-01-01T00:00:00"), ny("2027-01-01T00:00:00")
    weeks = open_stretches("EURUSD", begin, end)
    days = open_stretches("XAUUSD", begin, end)
    hours = [(b - a) / HOUR_MS for a, b in weeks]
    assert (hours[0], hours[-1]) == (24 + 17, 4 * 24 + 7)
    assert hours[1:-1] == [120.0] * 51, "New York's clocks change while the market is closed"
    assert [(b - a) / HOUR_MS for a, b in days] == [17.0, *[23.0] * (1 + 51 * 5 + 4), 6.0]


@pytest.mark.parametrize("symbol", ["EURUSD", "XAUUSD"])
@pytest.mark.parametrize(
    ("at", "utc"),
    [("2026-03-06", "22:00"), ("2026-03-13", "21:00"), ("2026-10-30", "21:00"), ("2026-11-06", "22:00")],
)
def test_the_week_ends_at_another_hour_of_utc_after_each_change(symbol: str, at: str, utc: str) -> None:
    noon = ny(f"{at}T12:00:00")
    (stretch,) = open_stretches(symbol, noon, noon + 24 * HOUR_MS)
    assert stretch == (noon, round(datetime.fromisoformat(f"{at}T{utc}:00Z").timestamp() * 1000))


MOMENTS = st.integers(0, 4_000_000_000_000)


@settings(deadline=None)
@given(MOMENTS, st.integers(0, 21 * 24 * HOUR_MS), st.data(), st.sampled_from(["EURUSD", "XAUUSD"]))
def test_stretches_hold_just_the_open_moments(begin: int, length: int, data: st.DataObject, symbol: str) -> None:
    end = begin + length
    stretches = open_stretches(symbol, begin, end)
    edges = [at for stretch in stretches for at in stretch]
    assert edges == sorted(edges)
    assert len(set(stretches)) == len(stretches)
    around = [at + n for at in edges for n in (-1, 0, 1) if begin <= at + n <= end]
    for at in [*around, begin, end, data.draw(st.integers(begin, end))]:
        inside = any(a <= at <= b for a, b in stretches)
        ends_there = any(at == b for _a, b in stretches)  # where a session ends, the market is closed already
        assert inside == is_open(symbol, at) or ends_there
