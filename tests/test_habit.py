"""What is expected of a symbol, on real ticks where they are at hand, else on made-up ones."""

import csv
import random
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from polygon_live.habit import (
    FADES_SECONDS,
    LEARNING_SECONDS,
    LEAST_SECONDS,
    MUTE_SECONDS,
    SHORT_MS,
    Habit,
    expected_within,
    mute_after,
)

DATA = Path(__file__).parents[2] / "shared" / "data"
START_MS = 1_780_401_600_000
DAY_SECONDS = 86_400


def after(habit: Habit, seconds: float) -> float:
    """What is expected so many seconds after the start."""
    return expected_within(habit.usual(START_MS + round(seconds * 1000), 0))


def learn(habit: Habit, *seconds: float) -> None:
    """Ticks at these times."""
    for a, b in pairwise(seconds):
        habit.paused(START_MS + round(a * 1000), START_MS + round(b * 1000))


def odd(times_ms: Sequence[int]) -> tuple[list[float], list[float]]:
    """Replay: the silences that would have been noted, and what was expected each time."""
    habit = Habit()
    habit.paused(0, times_ms[0])
    noted, expected = [], []
    for before, at in pairwise(times_ms):
        expected.append(expected_within(habit.usual(at, 0)))
        if at - before > 1000 * expected_within(habit.usual(before, 0)):
            noted.append((at - before) / 1000)
        if at - before >= SHORT_MS:
            habit.paused(before, at)
    return noted, expected


@pytest.mark.parametrize("name", ["eurusd-2020-01-01", "usdjpy-2013-01-01"])
@pytest.mark.skipif(not DATA.exists(), reason="the real ticks are not at hand")
def test_real_ticks_of_a_new_years_day_have_no_odd_silence(name: str) -> None:
    with (DATA / f"{name}.csv").open() as file:
        times = [int(row["timestamp_ms"]) for row in csv.DictReader(file)]
    noted, expected = odd(times)
    assert noted == []
    learnt = [e for e in expected if e < MUTE_SECONDS]
    assert learnt
    assert min(learnt) > 50


def bursts(rng: random.Random, rate: float, seconds: int) -> Iterator[int]:
    """A day whose rate is four times as high at its height as at its end, in bursts: half of the ticks come within
    0.2 s of the one before, as they do in the real files.
    """
    at = 0.0
    while at < seconds:
        now = rate * (1 + 3 * (1 - abs(2 * at / seconds - 1))) / 4
        at += 0.1 if rng.random() < 0.5 else rng.expovariate(now / 2)
        yield START_MS + round(at * 1000)


@pytest.mark.parametrize("rate", [4.0, 1.0, 0.2])
def test_a_day_has_hardly_a_false_note_whatever_the_rate(rate: float) -> None:
    days = 5
    noted = [odd(list(bursts(random.Random(seed), rate, DAY_SECONDS)))[0] for seed in range(days)]
    assert sum(map(len, noted)) <= days, f"at most one a day: {noted}"


def test_a_busy_symbol_is_odd_soon_and_a_thin_one_late() -> None:
    busy, thin = Habit(), Habit()
    learn(busy, 0, 4, 8, 12)
    learn(thin, 0, 30, 60, 90)
    assert after(busy, LEARNING_SECONDS) < 12
    assert 50 < after(thin, LEARNING_SECONDS) < 90


def test_what_is_not_learnt_is_expected_within_the_time_for_mute() -> None:
    habit = Habit()
    habit.paused(0, START_MS)
    assert after(habit, LEARNING_SECONDS - 1) == MUTE_SECONDS
    assert after(habit, LEARNING_SECONDS) == pytest.approx(LEAST_SECONDS, abs=0.01)
    begun_ms = START_MS + 3_600_000
    assert habit.usual(begun_ms + 1000, begun_ms) is None, "a trading day has begun"


def test_the_longest_pause_fades_and_a_longer_one_takes_its_place() -> None:
    habit = Habit()
    learn(habit, 0, 40)
    assert after(habit, 40 + FADES_SECONDS) == pytest.approx(60)
    learn(habit, 2000, 2010)
    assert after(habit, 40 + FADES_SECONDS) == pytest.approx(60), "a shorter one changes nothing"
    learn(habit, 2100, 2150)
    assert after(habit, 2150) == pytest.approx(150)
    learn(habit, 2200, 2400)
    assert after(habit, 2400) == MUTE_SECONDS, "never beyond"


def test_a_pause_in_which_nobody_listened_is_none() -> None:
    habit = Habit()
    learn(habit, 0, 10)
    habit.missed(START_MS + 20_000)
    learn(habit, 20, 120)
    assert after(habit, LEARNING_SECONDS) < 30
    learn(habit, 120, 140)
    assert after(habit, LEARNING_SECONDS) > 30


def test_after_a_closed_market_the_habit_is_learnt_anew() -> None:
    habit = Habit()
    learn(habit, 0, 60)
    learn(habit, 4000, 4000 + MUTE_SECONDS)
    assert after(habit, 4000 + MUTE_SECONDS) == MUTE_SECONDS
    assert after(habit, 4000 + MUTE_SECONDS + LEARNING_SECONDS) == pytest.approx(LEAST_SECONDS, abs=0.01)


@pytest.mark.parametrize(("expected", "seconds"), [(10, 60), (20, 80), (70, 280), (100, 300), (300, 300)])
def test_it_takes_longer_until_something_is_done(expected: float, seconds: float) -> None:
    assert mute_after(expected) == seconds
