"""The rule, and what it costs where the stream and the REST service disagree. ``pytest -s`` shows the figures."""

import random
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polygon_live.matching import Held, Key, Missing
from polygon_live.model import Tick, canonical_symbol
from polygon_live.operational import Limits
from polygon_live.standin import market
from polygon_live.standin.history import History, Rounding
from polygon_live.validate import Validator
from polygon_live.wire import Frame, Quote, encode

NOW = 1_780_401_600_000
CUTS = 400

quotes = st.builds(
    Quote,
    st.just("EUR/USD"),
    st.sampled_from([1.2, 1.3]),
    st.sampled_from([1.0, 1.1]),
    st.sampled_from([NOW + ms for ms in (0, 1, 999, 1000, 1001)]),
)


def keys(found: Sequence[Quote] | Sequence[Tick]) -> Counter[Key]:
    return Counter((q.t // 1000, q.b, q.a) if isinstance(q, Quote) else key(q) for q in found)


def key(tick: Tick) -> Key:
    return tick.timestamp_ms // 1000, tick.bid, tick.ask


def tell(figures: str) -> None:
    print(figures)  # noqa: T201


def missing(held: Counter[Key], offered: Sequence[Quote]) -> list[Quote]:
    rule = Missing(Held(held))
    return [quote for quote in offered if rule.lacks(quote)]


@given(st.lists(quotes), st.lists(quotes), st.randoms())
def test_what_was_cut_is_found_whatever_the_order(heard: list[Quote], cut: list[Quote], rng: random.Random) -> None:
    offered = [*heard, *cut]
    rng.shuffle(offered)
    assert keys(missing(keys(heard), offered)) == keys(cut)


@given(st.lists(quotes), st.lists(quotes))
def test_a_second_time_adds_nothing(heard: list[Quote], offered: list[Quote]) -> None:
    """Whatever the two have in common."""
    held = keys(heard)
    added = missing(held, offered)
    assert missing(held + keys(added), offered) == []
    assert not keys(offered) - (held + keys(added))
    assert not keys(added) - keys(offered)


def test_what_is_asked_of_is_left_alone() -> None:
    held = Counter({(NOW // 1000, 1.1, 1.2): 1})
    assert missing(held, [Quote("EUR/USD", 1.2, 1.1, NOW)]) == []
    assert held == {(NOW // 1000, 1.1, 1.2): 1}


def test_a_store_that_rounds_is_asked_for_what_it_made_of_the_price() -> None:
    rule = Missing(Held(Counter({(NOW // 1000, 1.12, 1.13): 1}), lambda bid, ask: (round(bid, 2), round(ask, 2))))
    assert [rule.lacks(Quote("EUR/USD", 1.1301, 1.1199, NOW)) for _ in range(2)] == [False, True]


@attrs.frozen
class Cost:
    """Of filling many cuts, in quotes."""

    cut: int
    added: int
    """That were there, or never should have been."""
    missing: int
    """That are lost still."""
    rejected: int
    """Exact repeats in the ranges that were asked for, which the validator rejects live."""

    def __str__(self) -> str:
        return f"of {self.cut} cut: {self.added / self.cut:.2%} wrongly added, {self.missing / self.cut:.2%} missing"


def measured(
    path: Path, *, rounding: Rounding = "floor", repeated: float = 0.0, absent: float = 0.0, seed: int = 1
) -> Cost:
    """The real ticks are the stream; its twin in the REST service knows seconds. Stretches of it are not heard, and
    then filled by the rule. ``repeated``: so many come twice; ``absent``: so many the service has not.
    """
    rng = random.Random(seed)
    stream = market.real_ticks(path, NOW)
    symbol, pair = canonical_symbol(stream[0].p), stream[0].p
    sent = [twin for quote in stream for twin in [quote] * (1 + (rng.random() < repeated))]
    accepted, rejects = Validator([symbol], Limits(), now_ms=lambda: NOW, first_seq=1).judge(
        [Frame(encode([quote]), NOW) for quote in sent], 0.0
    )
    assert len(accepted) == len(stream)
    assert {reject.reason for reject in rejects} <= {"repeat"}
    history = History(len(sent), rounding)
    history.add([quote for quote in sent if rng.random() >= absent])
    stamps = [tick.timestamp_ms for tick in accepted]
    twice = Counter(quote.t // 1000 for quote in sent)
    twice.subtract(tick.timestamp_ms // 1000 for tick in accepted)
    cost = Cost(0, 0, 0, 0)
    for _ in range(CUTS):
        first = rng.randrange(1, len(accepted) - 2)
        last = min(len(accepted) - 2, first + int(rng.expovariate(1 / 50)))
        cut = accepted[first : last + 1]
        from_s, to_s = stamps[first - 1] // 1000, stamps[last + 1] // 1000
        around = accepted[bisect_left(stamps, from_s * 1000) : bisect_right(stamps, to_s * 1000 + 999)]
        numbers = {tick.seq for tick in cut}
        held = Counter(key(tick) for tick in around if tick.seq not in numbers)
        found = history.of(pair, from_s * 1_000_000_000, (to_s + 1) * 1_000_000_000)
        offered = [Quote(pair, q.ask_price, q.bid_price, q.participant_timestamp // 1_000_000) for q in found]
        moved = 500 if rounding == "nearest" else 0
        wanted = Counter(((tick.timestamp_ms + moved) // 1000, tick.bid, tick.ask) for tick in cut)
        got = keys(missing(held, offered))
        cost = Cost(
            cost.cut + len(cut),
            cost.added + (got - wanted).total(),
            cost.missing + (wanted - got).total(),
            cost.rejected + sum(twice[second] for second in range(from_s, to_s + 1)),
        )
    return cost


@pytest.fixture(params=[0, 1], ids=["eurusd", "usdjpy"])
def path(request: pytest.FixtureRequest, real_ticks: tuple[Path, ...]) -> Path:
    return real_ticks[int(request.param)]


def test_where_the_two_agree_nothing_is_wrong(path: Path) -> None:
    cost = measured(path)
    tell(f"{path.stem}, floored to seconds: {cost}")
    assert (cost.added, cost.missing) == (0, 0)
    assert cost.cut > 10_000


def test_a_repeat_that_was_rejected_live_comes_back(path: Path) -> None:
    """Nobody can tell it from another quote of that second. Never more than those."""
    cost = measured(path, repeated=0.015)
    tell(f"{path.stem}, 1.5 % sent twice: {cost}")
    assert (cost.added, cost.missing) == (cost.rejected, 0)
    assert cost.rejected > 50


def test_what_the_service_lacks_stays_missing_and_no_more_is_added(path: Path) -> None:
    cost = measured(path, absent=0.01)
    tell(f"{path.stem}, 1 % absent from REST: {cost}")
    assert cost.added == 0
    assert 0 < cost.missing < 0.02 * cost.cut


def test_a_service_that_rounds_to_the_nearest_second_costs_the_edges(path: Path) -> None:
    cost = measured(path, rounding="nearest")
    tell(f"{path.stem}, rounded to the nearest second: {cost}; {CUTS} cuts")
    assert 0 < cost.added < 6 * CUTS
    assert cost.missing < 3 * CUTS
