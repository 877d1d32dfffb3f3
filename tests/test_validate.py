import csv
import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polygon_live.calendar import always_open
from polygon_live.model import FOURTEEN_SYMBOLS, Reject, Tick, canonical_symbol, encode
from polygon_live.operational import Limits
from polygon_live.validate import Validator
from polygon_live.wire import Frame, Quote, Undecodable
from polygon_live.wire import encode as encode_wire

NOW = 1_577_916_000_000
HOUR = 3_600_000


class Judge:
    """A validator with a clock set by hand."""

    def __init__(self, symbols: Sequence[str] = ("EURUSD", "XAUUSD")) -> None:
        self.now_ms = NOW
        self.validator = Validator(symbols, Limits(), now_ms=lambda: self.now_ms, first_seq=1000)
        self.heard = 0.0

    def text(self, *frames: str | bytes) -> tuple[list[Tick], list[Reject]]:
        self.heard += 1
        return self.validator.judge([Frame(f, self.now_ms) for f in frames], self.heard)

    def quotes(self, *quotes: Quote) -> tuple[list[Tick], list[Reject]]:
        return self.text(encode_wire(quotes))

    def reason(self, quote: Quote) -> str | None:
        ticks, rejects = self.quotes(quote)
        assert len(ticks) + len(rejects) == 1
        return rejects[0].reason if rejects else None


def quote(
    bid: float = 1.1212, ask: float = 1.12172, t: int = NOW, p: str = "EUR/USD", x: int | str | None = 48
) -> Quote:
    return Quote(p, ask, bid, t, x)


def test_a_tick_carries_the_numbers_as_they_came_and_the_rest_derived() -> None:
    judge = Judge()
    (tick,), rejects = judge.quotes(quote())
    assert not rejects
    assert json.loads(encode(tick)) == {
        "symbol": "EURUSD",
        "bid": 1.1212,
        "ask": 1.12172,
        "mid": 1.12146,
        "spread": 0.00052,
        "timestamp_ms": NOW,
        "timestamp": NOW,
        "exchange": 48,
        "source": "polygon_websocket",
        "event_type": "quote",
        "seq": 1000,
        "received_ms": NOW,
    }


def test_mid_is_not_1_1214999999999997() -> None:
    (tick,), _ = Judge().quotes(quote(1.1214, 1.1216))
    assert encode(tick).count(b'"mid":1.1215,') == 1


def test_integers_strings_and_missing_exchanges_are_taken() -> None:
    judge = Judge()
    frame = json.dumps([{"ev": "C", "p": "XAU/USD", "a": 1831, "b": 1830, "t": NOW, "x": "44"}])
    (tick,), _ = judge.text(frame)
    assert (tick.bid, tick.ask, tick.exchange) == (1830.0, 1831.0, 44)
    (tick,), _ = judge.quotes(quote(x=None))
    assert b'"exchange":null' in encode(tick)


@pytest.mark.parametrize("form", ["EURUSD", "EUR/USD", "EUR-USD", "C:EURUSD", "C:EUR/USD", "C.EUR/USD", "eur/usd"])
def test_every_form_of_a_pair_is_one_symbol(form: str) -> None:
    assert canonical_symbol(form) == "EURUSD"
    (tick,), _ = Judge().quotes(quote(p=form))
    assert tick.symbol == "EURUSD"


@pytest.mark.parametrize(
    "form", ["", "EUR", "EUR/US", "EURUSDX", "EUR//USD", "X:BTCUSD", "EUR/USD\n", "ΕUR/USD", "ſAB/USD"]
)
def test_what_is_no_pair_is_refused(form: str) -> None:
    with pytest.raises(ValueError, match="is not a currency pair"):
        canonical_symbol(form)
    assert Judge().reason(quote(p=form)) == "unknown_pair"


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        (quote(0.0, 1.1), "price_zero"),
        (quote(1.1, 0.0), "price_zero"),
        (quote(-1.1, 1.1), "price_negative"),
        (quote(1.1, -1.1), "price_negative"),
        (quote(1.12, 1.11), "crossed"),
        (quote(1.0, 1.2), "spread"),
        (quote(1e-300, 1e-300), "price_absurd"),
        (quote(1e300, 1.5e300), "price_absurd"),
        (quote(p="GBP/USD"), "unknown_pair"),
        (quote(t=NOW // 1000), "timestamp_unit"),
        (quote(t=NOW * 1000), "timestamp_unit"),
        (quote(t=NOW * 1_000_000), "timestamp_unit"),
        (quote(t=10**40), "timestamp_unit"),
        (quote(t=0), "timestamp_unit"),
        (quote(t=-NOW), "timestamp_unit"),
        (quote(t=NOW + HOUR + 1), "timestamp_future"),
        (quote(t=NOW - 72 * HOUR - 1), "timestamp_old"),
        (quote(x="abc"), "bad_field"),
        (quote(x=10**30), "bad_field"),
        (quote(x=-1), "bad_field"),
    ],
)
def test_each_fault_has_its_reason(odd: Quote, reason: str) -> None:
    judge = Judge()
    ticks, (told,) = judge.quotes(odd)
    assert not ticks
    assert told.reason == reason
    assert told.stage == "validate"
    assert json.loads(told.raw)["p"] == odd.p
    assert judge.reason(quote()) is None, "its neighbours are not touched"


def test_the_evidence_is_the_event_as_it_came() -> None:
    odd = f'{{"ev": "C", "p": "EUR/USD", "x": "48", "a": 1.10, "b": NaN, "t": {NOW}, "i": [1, 2]}}'
    crossed = f'{{"ev":"C","p":"EUR/USD","a":1,"b":2,"t":{NOW}}}'
    _, rejects = Judge().text(f"[{odd}, {crossed},{crossed} ]", f"[{crossed}]")
    assert [r.raw for r in rejects] == [odd, crossed, crossed, crossed]


@pytest.mark.parametrize(
    "element",
    [
        '{"ev":"C","p":"\\ud800","a":1,"b":1,"t":1}',
        f'{{"ev":"C","p":"EUR/USD","a":1,"b":1,"t":{NOW},"x":"\\ud800"}}',
        '{"ev":"\\ud800"}',
        '{"ev":"\\u0000"}',
        f'{{"ev":"{"A" * 100_000}"}}',
        f'{{"ev":"C","p":"EUR/USD","a":1,"b":1,"t":{"1" * 4000}}}',
    ],
    ids=lambda element: element[:20],
)
def test_what_is_said_of_a_reject_fits_anywhere(element: str) -> None:
    _, (told,) = Judge().text(f"[{element}]")
    encode(told)
    assert "\0" not in told.detail + told.raw
    assert len(told.detail) <= 300


@pytest.mark.parametrize("price", ["NaN", "Infinity", "-Infinity"])
def test_prices_that_are_no_numbers(price: str) -> None:
    frame = f'[{{"ev":"C","p":"EUR/USD","x":48,"a":{price},"b":1.1,"t":{NOW}}}]'
    ticks, (told,) = Judge().text(frame)
    assert (ticks, told.reason) == ([], "price_not_finite")


@pytest.mark.parametrize(
    "fine",
    [
        quote(1.1, 1.1),  # locked
        quote(1.05, 1.15),  # 909 bps: a crash is a market
        quote(t=NOW + HOUR),
        quote(t=NOW - 72 * HOUR),
    ],
)
def test_the_unusual_is_let_through(fine: Quote) -> None:
    assert Judge().reason(fine) is None


def test_an_exact_repeat_is_rejected_and_anything_else_is_not() -> None:
    judge = Judge()
    assert judge.reason(quote()) is None
    assert judge.reason(quote()) == "repeat"
    assert judge.reason(quote(x=47)) is None, "another exchange"
    assert judge.reason(quote(x=47, t=NOW + 1)) is None, "another time"
    assert judge.reason(quote()) is None, "not the tick before"
    assert judge.reason(quote(p="EURUSD", x="48")) == "repeat", "in other words"


def test_a_decimal_shift_is_rejected_and_a_new_price_is_believed_at_the_third_tick() -> None:
    judge = Judge()
    assert judge.reason(quote()) is None
    assert judge.reason(quote(11.212, 11.2172)) == "price_factor"
    assert judge.reason(quote(1.1213, 1.1217)) is None
    reasons = [judge.reason(quote(11.212, 11.2172 + n / 1000)) for n in range(5)]
    assert reasons == ["price_factor", "price_factor", None, None, None]
    ticks, _ = judge.quotes(quote(11.212, 11.2172))
    assert not ticks[0].suspect


def test_shifts_that_do_not_agree_with_each_other_never_become_the_price() -> None:
    judge = Judge()
    assert judge.reason(quote()) is None
    for n in range(1, 7):
        assert judge.reason(quote(11.212 * 3**n, 11.2172 * 3**n)) == "price_factor"


def test_the_tick_that_reanchors_is_marked_suspect() -> None:
    judge = Judge()
    judge.quotes(quote())
    judge.quotes(quote(11.212, 11.2172), quote(11.212, 11.2173))
    (tick,), _ = judge.quotes(quote(11.212, 11.2174))
    assert tick.suspect


def test_a_jump_is_delivered_and_marked() -> None:
    judge = Judge()
    judge.quotes(quote(1.1, 1.1))
    (calm, jump), _ = judge.quotes(quote(1.1 * 1.0049, 1.1 * 1.0049), quote(1.1 * 1.0101, 1.1 * 1.0101))
    assert (calm.suspect, jump.suspect) == (False, True)
    assert b'"suspect":true' in encode(jump)
    assert b"suspect" not in encode(calm)


def test_a_late_tick_is_delivered_and_marked_and_is_no_reference() -> None:
    judge = Judge()
    judge.quotes(quote(t=NOW + 10))
    (late,), _ = judge.quotes(quote(1.2, 1.2, t=NOW + 9))
    assert late.late
    (fine,), _ = judge.quotes(quote(t=NOW + 10, x=1))
    assert not fine.late, "as new as the newest"
    assert not fine.suspect, "judged by the newest tick, not by the late one"


def test_one_timestamp_far_ahead_makes_two_ticks_late_and_no_more() -> None:
    judge = Judge()
    judge.quotes(quote(1.1, 1.1, t=NOW + 50 * 60_000))
    marks = []
    for n in range(5):
        judge.now_ms += 1000
        price = 1.1 + n / 100  # a market that moves on must not be measured against that tick
        (tick,), _ = judge.quotes(quote(price, price, t=judge.now_ms))
        marks.append((tick.late, tick.suspect))
    assert marks == [(True, False), (True, True), (False, True), (False, True), (False, True)]
    (calm,), _ = judge.quotes(quote(1.14, 1.1401, t=judge.now_ms))
    assert not calm.suspect


def test_a_wrong_price_with_a_wrong_hour_does_not_become_the_measure() -> None:
    judge = Judge()
    judge.quotes(quote(11.2, 11.2, t=NOW + 50 * 60_000))
    reasons = [judge.reason(quote(1.12, 1.12 + n / 1e5, t=NOW + n)) for n in range(20)]
    assert reasons[8:] == [None] * 12


def test_a_burst_of_old_ticks_is_late_to_the_last() -> None:
    judge = Judge()
    judge.quotes(quote())
    ticks, _ = judge.quotes(*(quote(t=NOW - 60_000 + n) for n in range(20)))
    assert all(tick.late for tick in ticks)


@pytest.mark.parametrize("off", [-2 * HOUR, 100 * HOUR])
def test_a_clock_so_wrong_that_everything_is_rejected_is_seen_as_skew(off: int) -> None:
    judge = Judge()
    judge.now_ms = NOW + off
    ticks, rejects = judge.quotes(*(quote(t=NOW + n) for n in range(9)))
    assert (ticks, len(rejects)) == ([], 9)
    found = judge.validator.snapshot(always_open)
    assert found.skew_ms == pytest.approx(off, abs=10)
    assert found.last_quote_ms is not None


def test_who_loses_quotes_to_a_wrong_clock_is_told_once_though_it_be_one() -> None:
    judge = Judge()

    def told(*quotes: Quote) -> Sequence[str] | None:
        judge.quotes(*quotes)
        found = judge.validator.untimely()
        return None if found is None else found.symbols

    def wrong(p: str = "EUR/USD") -> Quote:
        return quote(t=NOW + 2 * HOUR, p=p)

    for _ in range(2):
        judge.quotes(quote())
        assert told(wrong(), wrong()) is None
        assert told(wrong()) == ("EURUSD",)
        assert told(wrong(), wrong(), wrong()) is None
        assert told(msgspec.structs.replace(wrong("XAU/USD"), b=1830, a=1831)) == ("XAUUSD",)
        assert told(wrong(), msgspec.structs.replace(wrong("XAU/USD"), b=1830, a=1831)) is None
        judge.now_ms += 1
        assert told(quote(t=judge.now_ms)) is None


def test_a_slow_feed_is_an_alarm_and_no_reason_to_reject() -> None:
    judge = Judge()
    ticks, rejects = judge.quotes(*(quote(1.1, 1.1 + n / 1e4, t=NOW - 90_000 + n) for n in range(1, 9)))
    assert (len(ticks), rejects) == (8, [])
    assert judge.validator.snapshot(always_open).skew_ms == pytest.approx(90_000, abs=10)


def test_rejects_in_a_row_are_counted_until_a_tick_is_accepted_and_repeats_are_none() -> None:
    judge = Judge()

    def refused() -> int:
        return judge.validator.snapshot(always_open).symbols[0].refused_in_a_row

    judge.quotes(quote(), *[quote(t=NOW * 1000)] * 30, quote(), quote())
    assert refused() == 30
    judge.quotes(quote(t=NOW + 1))
    assert refused() == 0


@pytest.mark.parametrize("bad", ["{}", "0", '{"ev":"C"}', '{"ev":"C","p":"EUR/USD","b":NaN}'])
def test_of_a_frame_full_of_rubbish_a_thousand_are_told_one_by_one_and_what_is_good_arrives(bad: str) -> None:
    judge = Judge()
    good = encode_wire([quote()])[1:-1]
    ticks, rejects = judge.text(f"[{','.join([bad] * 2500)},{good},{','.join([bad] * 500)}]")
    assert [t.symbol for t in ticks] == ["EURUSD"]
    assert len(rejects) == 1001
    assert rejects[-1].reason == "bad_frame"
    assert rejects[-1].raw.startswith(f"[{bad},{bad},{bad}")
    assert rejects[-1].detail == "beside 1000 elements of this frame, 2000 more can't be read"


def test_numbers_increase_by_one_over_frames_and_symbols_and_skip_rejects() -> None:
    judge = Judge()
    first, _ = judge.quotes(quote(), quote(p="XAU/USD", bid=1830, ask=1831), quote(0, 0))
    second, _ = judge.quotes(quote(t=NOW + 1))
    assert [t.seq for t in first + second] == [1000, 1001, 1002]
    assert judge.validator.accepted == 3


def test_heard_counts_events_of_the_symbol_even_rejected_ones() -> None:
    judge = Judge()
    assert judge.validator.heard("EURUSD") == -math.inf
    judge.quotes(quote(0, 0))
    assert judge.validator.heard("EURUSD") == 1.0
    assert judge.validator.heard("XAUUSD") == -math.inf


def test_aggregates_and_statuses_are_no_rejects() -> None:
    judge = Judge()
    ticks, rejects = judge.text('[{"ev":"CA","pair":"EUR/USD"},{"ev":"CAS"},{"ev":"status","status":"x"}]')
    assert (ticks, rejects) == ([], [])
    assert judge.validator.snapshot(always_open).ignored == {"MinuteAggregate": 1, "SecondAggregate": 1}


def test_unknown_pairs_do_not_fill_the_memory() -> None:
    judge = Judge()
    for n in range(500):
        judge.quotes(quote(p=f"Q{n // 26 % 26 + 65:c}{n % 26 + 65:c}/USD"))
    assert not judge.validator._by_pair


numbers = st.floats() | st.integers(-10, 10) | st.floats(1.0, 1.3) | st.just(1.1)
times = st.integers() | st.integers(NOW - 1000, NOW + 1000) | st.just(NOW)
anything = st.builds(
    lambda p, a, b, t, x: {"ev": "C", "p": p, "a": a, "b": b, "t": t, "x": x},
    st.sampled_from(["EUR/USD", "XAU/USD", "eurusd"]) | st.text(),
    numbers,
    numbers,
    times,
    st.none() | st.integers() | st.text(),
)


@given(st.lists(anything, max_size=30))
def test_every_event_is_either_a_tick_or_a_reject_and_every_tick_is_sound(events: list[Any]) -> None:
    judge = Judge()
    ticks, rejects = judge.text(json.dumps(events))
    assert len(ticks) + len(rejects) == len(events)
    assert [t.seq for t in ticks] == list(range(1000, 1000 + len(ticks)))
    for tick in ticks:
        assert 0 < tick.bid <= tick.ask < math.inf
        assert tick.symbol in {"EURUSD", "XAUUSD"}
        assert tick.bid <= tick.mid + 1e-9 <= tick.ask + 2e-9
        assert NOW - 72 * HOUR <= tick.timestamp_ms <= NOW + HOUR
        json.loads(encode(tick))
    for reject in rejects:
        reject.raw.encode()
        assert "\0" not in reject.raw


USUAL: Final[Mapping[str, Sequence[Any]]] = {
    "p": ("EUR/USD", "XAU/USD"),
    "a": (1.1, 1.10001, 1.1002),
    "b": (1.1, 1.09999),
    "t": (0, 1, 2, -1),
    "x": (48, 1),
}
ODD: Final[Mapping[str, Sequence[Any]]] = {
    "p": ("ABC/DEF", "nothing"),
    "a": (1.2, 3.3, 3.300001, 0.36, 11.0, 1e12, 1e13, 0.0, -1.1, math.nan, math.inf),
    "b": (0.99, 0.9000001, 3.29, 0.36, 11.0, 1e-8, 1e-9, 0.0, -1.1, math.nan, -math.inf),
    "t": (HOUR, HOUR + 1, -72 * HOUR, -72 * HOUR - 1, -NOW, NOW * 1000),
    "x": (0, 999_999_999, 1_000_000_000, -1, "48", "x", None),
}


@pytest.mark.parametrize("seed", range(10))
def test_in_one_expression_as_test_by_test(seed: int) -> None:
    """What the usual way takes, the thorough one takes too, and the same is left behind."""
    draw = random.Random(seed)
    usual, thorough = Judge(), Judge()
    thorough.validator._is_usual = lambda *_: False  # type: ignore[method-assign]
    for _ in range(1000):
        event = {name: draw.choice(values) for name, values in USUAL.items()}
        for name in draw.sample(sorted(ODD), draw.choice((0, 0, 1, 2))):
            event[name] = draw.choice(ODD[name])
        text = json.dumps([{"ev": "C", **event, "t": NOW + event["t"]}])
        assert usual.text(text) == thorough.text(text)
    assert usual.validator.snapshot(always_open) == thorough.validator.snapshot(always_open)


def test_hours_of_market_with_a_seed_are_all_accepted() -> None:
    """A walk with holiday-sized spreads, as wide as the real files and wider."""
    rng = random.Random(7)
    judge = Judge(FOURTEEN_SYMBOLS)
    mid, t, seen = 1.1, NOW, 0
    for _ in range(5000):
        mid *= 1 + rng.gauss(0, 0.3e-4)
        t += rng.randrange(1, 4000)
        half = mid * rng.choice([0.1e-4, 0.3e-4, 6e-4]) / 2
        judge.now_ms = t
        seen += len(judge.quotes(quote(round(mid - half, 5), round(mid + half, 5), t))[0])
    assert seen == 5000


@pytest.mark.parametrize("name", ["eurusd-2020-01-01.csv", "usdjpy-2013-01-01.csv"])
def test_of_the_real_ticks_nothing_is_rejected_late_or_suspect(name: str, shared_data: Path) -> None:
    rows = list(csv.DictReader((shared_data / name).read_text().splitlines()))
    judge = Judge(FOURTEEN_SYMBOLS)
    total = 0
    for row in rows:
        judge.now_ms = int(row["timestamp_ms"])
        ticks, rejects = judge.quotes(quote(float(row["bid"]), float(row["ask"]), judge.now_ms, row["pair"]))
        assert not rejects
        assert not ticks[0].late
        assert not ticks[0].suspect
        assert (ticks[0].bid, ticks[0].ask) == (float(row["bid"]), float(row["ask"]))
        total += len(ticks)
    assert total == len(rows) > 0


def test_quotes_of_the_past_are_judged_for_what_they_are_in_themselves() -> None:
    judge = Judge()
    judge.quotes(quote(t=NOW + 10))
    before = judge.validator.snapshot(always_open)
    old, twice, jump = quote(t=NOW - 200 * HOUR), quote(t=NOW), quote(3.3, 3.31, t=NOW)
    gone = Undecodable("bad_field", "no bid", '{"ask_price":1}')
    bad: list[Quote | Undecodable] = [
        quote(1.12, 1.11),
        quote(1.0, 1.2),
        quote(t=NOW * 1000),
        quote(x="abc"),
        quote(math.nan, 1.1),
        gone,
    ]
    ticks, rejects = judge.validator.judge_backfill("EURUSD", [old, twice, twice, *bad, jump], NOW + 7)
    assert [(t.bid, t.timestamp_ms) for t in ticks] == [(q.b, q.t) for q in (old, twice, twice, jump)]
    assert [t.seq for t in ticks] == [1001, 1002, 1003, 1004]
    assert {(t.source, t.event_type, t.late, t.suspect, t.received_ms) for t in ticks} == {
        ("polygon_rest", "quote_backfill", False, False, NOW + 7)
    }
    reasons = ["crossed", "spread", "timestamp_unit", "bad_field", "price_not_finite", "bad_field"]
    assert [r.reason for r in rejects] == reasons
    assert {r.symbol for r in rejects} == {"EURUSD"}
    assert rejects[-1].raw == gone.raw
    assert json.loads(rejects[0].raw)["a"] == 1.11
    after = judge.validator.snapshot(always_open)
    assert after.symbols == before.symbols, "nothing of the live feed has moved"
    assert judge.validator.last_seq == 1004


def test_a_quote_of_the_past_is_no_reference_and_takes_its_number_in_turn() -> None:
    judge = Judge()
    (first,), _ = judge.quotes(quote(t=NOW + 10))
    judge.validator.judge_backfill("EURUSD", [quote(3.3, 3.31, t=NOW + 20), quote(t=NOW + 11)], NOW)
    (second,), _ = judge.quotes(quote(t=NOW + 11))
    assert (first.seq, second.seq, second.late, second.suspect) == (1000, 1003, False, False)


def test_the_past_of_a_symbol_that_is_not_collected_any_more() -> None:
    (tick,), _ = Judge().validator.judge_backfill("GBPJPY", [quote(192.1, 192.2, p="GBP/JPY")], NOW)
    assert tick.symbol == "GBPJPY"


def test_events_and_the_way_from_polygon_are_counted() -> None:
    judge = Judge()
    judge.quotes(quote(t=NOW - 40), quote(t=NOW - 7), quote(bid=2.0, t=NOW - 9000), quote(t=NOW + 600))
    judge.text('[{"ev":"status","status":"connected"},{"ev":"CA"}]', "no JSON")
    snapshot = judge.validator.snapshot(always_open)
    assert snapshot.events == 7
    counted = dict(zip(snapshot.delay.bounds, snapshot.delay.counts, strict=False))
    assert {bound: count for bound, count in counted.items() if count} == {0.005: 1, 0.01: 1, 0.05: 1}
    assert snapshot.delay.total == pytest.approx(0.047)


def test_what_is_fetched_of_the_past_has_no_delay() -> None:
    judge = Judge()
    judge.validator.judge_backfill("EURUSD", [quote(t=NOW - 100 * HOUR)], NOW)
    assert sum(judge.validator.snapshot(always_open).delay.counts) == 0
