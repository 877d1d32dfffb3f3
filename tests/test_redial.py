import random
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from polygon_live.backoff import backoff
from polygon_live.errors import FeedDropped, LoginRefused, TooManyConnections
from polygon_live.redial import Redial

CUT = FeedDropped("cut")


@given(st.floats(0.1, 300), st.integers())
def test_delays_double_within_the_upper_half_up_to_the_bound(first: float, seed: int) -> None:
    most = max(60.0, first)
    delays = list(islice(backoff(first, most, random.Random(seed)), 12))
    for n, delay in enumerate(delays):
        bound = min(most, first * 2**n)
        assert bound / 2 <= delay <= bound


class Upper(random.Random):
    """Always the upper end of the range: exact delays."""

    def uniform(self, a: float, b: float) -> float:
        return max(a, b)


def delays(redial: Redial, *streamed: float) -> list[float]:
    return [redial.after(CUT, streamed=s, now=0) for s in streamed]


def test_only_ten_seconds_of_streaming_reset_the_backoff() -> None:
    redial = Redial(5.0, Upper())
    assert delays(redial, 0, 0, 9.9, 0, 0, 0) == [5, 10, 20, 40, 60, 60]
    assert delays(redial, 10.0, 0) == [5, 10]


def test_a_first_delay_above_a_minute_is_the_bound() -> None:
    assert delays(Redial(90.0, Upper()), 0, 0, 0) == [90, 90, 90]


def test_a_refused_login_is_never_retried_hot_and_does_not_count_as_a_drop() -> None:
    redial = Redial(5.0, Upper())
    assert redial.after(LoginRefused("no", reason="wrong_key"), streamed=0, now=0) == 300
    assert delays(redial, 0) == [5]


def test_another_instance_is_given_way() -> None:
    redial = Redial(5.0, Upper())
    evicted = TooManyConnections("evicted")
    assert [redial.after(evicted, streamed=s, now=n) for s, n in ((0, 0), (20, 90), (20, 200))] == [60, 60, 900]
    assert redial.after(evicted, streamed=20, now=601 + 200) == 60  # those before have left the ten minutes


def test_another_delay_acts_on_the_wait_that_has_begun_and_keeps_its_place() -> None:
    redial = Redial(5.0, Upper())
    assert delays(redial, 0, 0, 0) == [5, 10, 20]
    redial.change(1.0)
    assert redial.seconds == 4
    redial.change(90.0)
    assert redial.seconds == 90
    redial.change(2.0)
    assert delays(redial, 0, 0) == [16, 32]


@given(st.floats(0.1, 300), st.integers(0, 200), st.integers())
def test_waits_are_drawn_from_the_upper_half(first: float, failures: int, seed: int) -> None:
    redial = Redial(first, random.Random(seed))
    for n in range(failures):
        bound = min(max(60.0, first), first * 2.0**n)
        seconds = redial.after(CUT, streamed=0, now=0)
        assert bound / 2 <= seconds <= bound
        assert redial.seconds == seconds, "the same however often it is asked for"


def test_what_is_no_matter_of_the_delay_is_not_changed_by_it() -> None:
    redial = Redial(5.0, Upper())
    redial.after(LoginRefused("no", reason="wrong_key"), streamed=0, now=0)
    redial.change(1.0)
    assert redial.seconds == 300
    redial.after(TooManyConnections("evicted"), streamed=0, now=0)
    redial.change(2.0)
    assert redial.seconds == 60
