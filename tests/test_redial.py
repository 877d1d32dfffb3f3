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
