"""What ``check`` makes of its evidence: the pure part."""

from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest

from polygon_live.check import Item, holding
from polygon_live.check.arrived import kafka, nats, symbols, table
from polygon_live.check.flow import Flow, Side, newest_of
from polygon_live.check.kept import retention
from polygon_live.check.market import Market
from polygon_live.check.running import collector, connection, hub, limits
from polygon_live.engines.postgres import Looked, Pieces, Row
from polygon_live.engines.postgres.looking import SymbolRows
from polygon_live.engines.postgres.policies import RetentionPolicy
from polygon_live.engines.postgres.storage import TableName
from polygon_live.inforce import NO_HUB, Refusal
from polygon_live.status import RetentionSnapshot, State
from tests.test_status import CONFIGURATION, NOW, SINK, WELL, with_feed

HOUR_MS = 3_600_000
OPEN = Market({"EURUSD": NOW - HOUR_MS, "XAUUSD": NOW - HOUR_MS})
CLOSED = Market({"EURUSD": None, "XAUUSD": None})
CLOCK = datetime(2026, 6, 2, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
PARTITIONS = Pieces(
    called="partitions",
    edition="PostgreSQL, native partitions",
    count=98,
    too_long=(),
    past=(),
    covered=True,
    oldest_row=CLOCK - 73 * HOUR,
    has_policies=False,
    policy=None,
)
POLICY = RetentionPolicy(1000, 72 * HOUR, HOUR / 4, True, CLOCK - HOUR / 4, "Success", CLOCK - HOUR / 4, 0, CLOCK)
CHUNKS = attrs.evolve(PARTITIONS, called="chunks", edition="TimescaleDB", has_policies=True, policy=POLICY)


def looked(pieces: Pieces = PARTITIONS, **newest_ms: int) -> Looked:
    rows = tuple(SymbolRows(symbol, 7, at) for symbol, at in newest_ms.items())
    return Looked(TableName(1, "public", "market_ticks"), CLOCK, rows, pieces, (), 7)


def test_what_was_fetched_and_what_the_run_before_wrote_is_nothing_that_comes_while_we_look_on() -> None:
    assert newest_of(attrs.evolve(WELL, validator=attrs.evolve(WELL.validator, last_seq=WELL.journal.tail + 5))) == (
        WELL.journal.tail + 5
    )
    assert newest_of(attrs.evolve(WELL, validator=attrs.evolve(WELL.validator, last_seq=None))) == WELL.journal.tail
    before = attrs.evolve(WELL.validator, last_seq=WELL.journal.tail - 5)
    assert newest_of(attrs.evolve(WELL, validator=before)) == WELL.journal.tail


@pytest.mark.parametrize(
    "foreign", [b"\xff", b"[" * 5000, b'{"seq":1,"symbol":"\xff","timestamp_ms":1}', b'{"x":' * 5000, b"9" * 5000]
)
def test_what_is_no_tick_is_passed_over_by_who_looks_on(foreign: bytes) -> None:
    seen = Side()
    seen.take(foreign)
    assert seen.rows == {}


def side(*seqs: int, why: str | None = None) -> Side:
    return Side({seq: Row(seq, "EURUSD", NOW) for seq in seqs}, why=why)


def told(item: Item) -> tuple[str, str]:
    return item.status, item.evidence


@pytest.mark.parametrize(
    ("status", "good"), [("holds", True), ("not applicable", True), ("fails", False), ("skipped", False)]
)
def test_what_could_not_be_tested_is_not_known_to_hold(status: Any, good: bool) -> None:
    assert holding([Item("a", "holds", ""), Item("b", status, "")]) is good


def test_ticks_are_due_when_a_market_has_been_open_for_a_minute() -> None:
    fresh, old = looked(EURUSD=NOW - 1000), looked(EURUSD=NOW - 61_000)
    assert table(fresh, None, OPEN, NOW).status == "holds"
    assert table(old, None, OPEN, NOW).status == "fails"
    assert table(looked(), None, OPEN, NOW).status == "fails"
    assert table(old, None, CLOSED, NOW).status == "not applicable"
    assert table(old, None, Market({"EURUSD": NOW - 59_000}), NOW).status == "not applicable"
    assert told(table(None, "no way", OPEN, NOW)) == ("fails", "no way")
    assert told(table(None, None, OPEN, NOW)) == ("fails", "there is no table market_ticks")


def test_a_symbol_is_missed_in_its_own_hours_only() -> None:
    both, one = looked(EURUSD=NOW, XAUUSD=NOW - 299_000), looked(EURUSD=NOW, XAUUSD=NOW - 301_000)
    assert symbols(both, None, OPEN, NOW).status == "holds"
    assert told(symbols(one, None, OPEN, NOW)) == (
        "fails",
        "missing: XAUUSD (the last one 301 s ago, due within 300 s); 1 of 2 had ticks in the time in which each is due",
    )
    metals_closed = Market({"EURUSD": NOW - HOUR_MS, "XAUUSD": None})
    assert told(symbols(one, None, metals_closed, NOW)) == (
        "holds",
        "1 of 1 had ticks in the time in which each is due; of 1 no ticks are due: XAUUSD is closed",
    )
    just_opened = Market({"EURUSD": NOW - HOUR_MS, "XAUUSD": NOW - 299_000})
    assert told(symbols(one, None, just_opened, NOW)) == (
        "holds",
        "1 of 1 had ticks in the time in which each is due; 1 opened just now",
    )
    assert symbols(one, None, CLOSED, NOW).status == "not applicable"
    assert symbols(None, "no way", OPEN, NOW).status == "skipped"


def test_a_symbol_is_missed_as_soon_as_the_collector_itself_would_do_something() -> None:
    (symbol,) = WELL.validator.symbols
    known = attrs.evolve(symbol, usual_seconds=5.0, expected_seconds=20.0)
    state = attrs.evolve(WELL, validator=attrs.evolve(WELL.validator, symbols=(known,)))
    market = Market.of_running(state, ["EURUSD"])
    assert symbols(looked(EURUSD=NOW - 79_000), None, market, NOW).status == "holds"
    assert told(symbols(looked(EURUSD=NOW - 81_000), None, market, NOW)) == (
        "fails",
        "missing: EURUSD (the last one 81 s ago, due within 80 s); 0 of 1 had ticks in the time in which each is due",
    )
    holiday = attrs.evolve(state, feed=attrs.evolve(state.feed, hush="quiet"))
    assert symbols(looked(), None, Market.of_running(holiday, ["EURUSD"]), NOW).status == "not applicable"


def test_of_all_pairs_nobody_knows_which_there_should_be() -> None:
    everything = Market({"EURUSD": NOW - HOUR_MS}, all_pairs=True)
    assert symbols(looked(EURCZK=NOW), None, everything, NOW).status == "holds"
    assert symbols(looked(EURCZK=NOW - 301_000), None, everything, NOW).status == "fails"
    assert symbols(looked(), None, Market({"EURUSD": None}, all_pairs=True), NOW).status == "not applicable"


def test_a_weekend_by_the_calendar() -> None:
    saturday = round(datetime(2026, 6, 6, 12, tzinfo=UTC).timestamp() * 1000)
    assert Market.by_calendar(("EURUSD", "XAUUSD"), saturday).closed == ("EURUSD", "XAUUSD")
    assert Market.by_calendar(("*",), saturday) == Market({"EURUSD": None}, all_pairs=True)
    metals_break = round(datetime(2026, 6, 2, 21, 30, tzinfo=UTC).timestamp() * 1000)
    assert Market.by_calendar(("EURUSD", "XAUUSD"), metals_break).closed == ("XAUUSD",)


def test_each_store_is_held_against_the_table() -> None:
    flow = Flow(5, 3.0, side(6, 7), nats=side(4, 6, 7), kafka=side(6))
    item = nats(flow, OPEN, NOW)
    assert told(item) == (
        "holds",
        "a subscriber of ticks.> heard 2 in 3 s, among them all 2 that the table got",
    )
    item = kafka(flow, OPEN, None, NOW)
    assert item.status == "fails"
    assert item.evidence.startswith("1 of 2 ticks that the table got did not come: the first of them seq 7, EURUSD")
    otherwise = Flow(5, 3.0, side(6), nats=Side({6: Row(6, "XAUUSD", NOW)}))
    assert nats(otherwise, OPEN, NOW).status == "fails"


def test_where_the_table_has_nothing() -> None:
    assert nats(Flow(5, 3.0, nats=side(6)), OPEN, NOW).status == "holds"
    assert nats(Flow(5, 3.0, nats=side(4)), OPEN, NOW).status == "fails"
    assert nats(Flow(5, 3.0), CLOSED, NOW).status == "not applicable"
    assert nats(Flow(None, 3.0), OPEN, NOW).status == "skipped"
    assert nats(Flow(None, 3.0, nats=side(4)), OPEN, NOW).status == "holds"
    assert nats(Flow(5, 3.0, nats=side(why="gone")), CLOSED, NOW).status == "fails"


def test_a_topic_that_is_no_archive_is_told() -> None:
    worse = attrs.evolve(WELL, sinks=(attrs.evolve(SINK, name="kafka", complaints=("retention.ms is 7 days",)),))
    flow = Flow(5, 3.0, side(6), kafka=side(6))
    assert kafka(flow, OPEN, WELL, NOW).status == "holds"
    item = kafka(flow, OPEN, worse, NOW)
    assert item.status == "fails"
    assert item.evidence.startswith("retention.ms is 7 days; tick_archive has 1, committed")


def verified(verified: bool = True) -> State:
    return attrs.evolve(WELL, retention=RetentionSnapshot(verified, "verified last at noon", {}))


@pytest.mark.parametrize(
    ("pieces", "state", "says"),
    [
        (PARTITIONS, verified(), None),
        (PARTITIONS, None, "no collector was asked"),
        (PARTITIONS, verified(verified=False), "the collector has not verified it"),
        (attrs.evolve(PARTITIONS, oldest_row=CLOCK - 75 * HOUR), verified(), "75 h old, over 74 h"),
        (attrs.evolve(PARTITIONS, past=("old_1",)), verified(), "old_1 should be gone"),
        (attrs.evolve(PARTITIONS, too_long=("whole_day",)), verified(), "there are longer ones: whole_day"),
        (attrs.evolve(PARTITIONS, covered=False), verified(), "no partition to go to"),
        (CHUNKS, None, None),
        (attrs.evolve(CHUNKS, policy=None), verified(), "the table has no retention policy"),
        (attrs.evolve(CHUNKS, policy=attrs.evolve(POLICY, scheduled=False)), verified(), "and it is paused"),
        (attrs.evolve(CHUNKS, policy=attrs.evolve(POLICY, after=HOUR)), verified(), "not what it should be"),
        (attrs.evolve(CHUNKS, policy=attrs.evolve(POLICY, after=100 * HOUR)), verified(), "to have three days"),
        (attrs.evolve(CHUNKS, policy=attrs.evolve(POLICY, last_run=None)), verified(), None),
        (attrs.evolve(CHUNKS, policy=attrs.evolve(POLICY, last_run=None)), None, "nobody is known to drop"),
    ],
)
def test_three_days(pieces: Pieces, state: State | None, says: str | None) -> None:
    item = retention(looked(pieces), state)
    assert item.status == ("fails" if says else "holds")
    assert (says or "h old") in item.evidence
    assert bool(item.todo) is bool(says)


def test_a_connection_is_stable_for_an_hour_or_seldom_interrupted() -> None:
    def judged(before: State, after: State, *, market_open: bool = True) -> str:
        return connection(before, after, market_open=market_open).status

    young = with_feed(connected_since_ms=NOW - 60_000, endings={"cut": 3})
    often = with_feed(connected_since_ms=NOW - 60_000, endings={"cut": 3, "silent": 1})
    long_ago = with_feed(connected_since_ms=NOW - HOUR_MS, endings={"cut": 40})
    assert judged(WELL, WELL) == judged(young, young) == judged(long_ago, long_ago) == "holds"
    assert judged(often, often) == "fails"
    assert judged(WELL, young) == "fails"
    away = with_feed(state="waiting", connected_since_ms=None)
    assert judged(away, away) == "fails"
    assert judged(away, away, market_open=False) == "not applicable"
    refused = with_feed(state="waiting", connected_since_ms=None, needs_operator=True, last_error="wrong key")
    assert judged(refused, refused, market_open=False) == "fails"


def test_violations_count_for_an_hour() -> None:
    def seen(ago_ms: int) -> State:
        found = attrs.evolve(WELL.limits, violations={"rest": 1}, last_violation="429", last_violation_ms=NOW - ago_ms)
        return attrs.evolve(WELL, limits=found)

    assert limits(WELL).status == "holds"
    assert limits(seen(60_000)).status == "fails"
    assert limits(seen(HOUR_MS + 1)).status == "holds"
    assert limits(None).status == "skipped"


def test_the_hub() -> None:
    def having(**changes: Any) -> str:
        there = attrs.evolve(NO_HUB, url="http://hub:7000", source="hub", fetched_ms=NOW, **changes)
        return hub(attrs.evolve(CONFIGURATION, hub=there), running=True).status

    assert hub(CONFIGURATION, running=True).status == "not applicable"
    assert having() == "holds"
    assert having(last_error="no answer") == "fails"
    assert having(last_refusal=Refusal(NOW, "hub", None, None, "0", ("symbols is empty",))) == "fails"


def test_the_collector_itself() -> None:
    assert collector(WELL, None).status == "holds"
    assert told(collector(None, "no collector answers")) == ("fails", "no collector answers")
    assert collector(None, "no collector answers").todo.startswith("start it,")
    assert "start it anew if it hangs" in collector(None, "it gave no answer", away=False).todo
    item = collector(with_feed(state="waiting", last_error="the connection was cut"), None)
    assert item.status == "fails"
    assert "not streaming (waiting)" in item.evidence
