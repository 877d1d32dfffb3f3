import pytest

from polygon_live.histogram import SLICE_SECONDS, SLICES, Histogram, quantile

BOUNDS = (1.0, 10.0, 100.0)


def test_each_value_is_in_the_first_bucket_whose_bound_it_does_not_pass() -> None:
    histogram = Histogram(BOUNDS)
    histogram.add({1: 2, 2: 1, 10: 1, 100: 3, 101: 1}, 0.0)
    spread = histogram.spread(0.0)
    assert spread.bounds == BOUNDS
    assert spread.counts == (2, 2, 3, 1)
    assert spread.total == 2 + 2 + 10 + 300 + 101


def test_values_are_scaled_and_what_a_wrong_clock_makes_negative_counts_as_nothing() -> None:
    histogram = Histogram((0.005, 0.5))
    histogram.add({-3000: 1, 5: 1, 400: 2}, 0.0, scale=0.001)
    spread = histogram.spread(0.0)
    assert spread.counts == (2, 2, 0)
    assert spread.total == pytest.approx(0.805)


@pytest.mark.parametrize(
    ("q", "counts", "value"),
    [
        (0.5, [0, 0, 0, 0], None),
        (0.5, [2, 0, 0, 0], 0.5),
        (0.5, [1, 0, 1, 0], 1.0),
        (0.75, [0, 4, 0, 0], 7.75),
        (0.99, [0, 0, 100, 0], 99.1),
        (0.99, [1, 0, 0, 99], 100.0),
    ],
)
def test_a_quantile_is_what_prometheus_would_say(q: float, counts: list[int], value: float | None) -> None:
    assert quantile(q, BOUNDS, counts) == (value if value is None else pytest.approx(value))


def test_percentiles_are_of_the_last_minutes_and_counts_of_all_time() -> None:
    histogram = Histogram(BOUNDS)
    assert histogram.spread(0.0).p99 is None
    histogram.add({100: 1000}, 1.0)
    assert histogram.spread(1.0).p50 == pytest.approx(55.0)
    for minute in range(1, SLICES + 1):
        histogram.add({1: 10}, minute * SLICE_SECONDS + 1)
    spread = histogram.spread(SLICES * SLICE_SECONDS + 1)
    assert spread.counts == (50, 0, 1000, 0)
    assert spread.p99 == pytest.approx(0.99)
    later = histogram.spread((2 * SLICES + 1) * SLICE_SECONDS)
    assert later.counts == spread.counts


def test_minutes_without_a_value_pass_too() -> None:
    histogram = Histogram(BOUNDS)
    histogram.add({5: 1}, 0.0)
    for minute in range(1, 2 * SLICES):
        spread = histogram.spread(minute * SLICE_SECONDS)
    assert (spread.counts, spread.p50) == ((0, 1, 0, 0), None)


def test_a_clock_that_is_set_back_costs_nothing() -> None:
    histogram = Histogram(BOUNDS)
    histogram.add({5: 1}, 1000.0)
    histogram.add({5: 1}, 10.0)
    assert histogram.spread(10.0).counts == (0, 2, 0, 0)
    assert histogram.spread(10.0).p50 == pytest.approx(5.5)
