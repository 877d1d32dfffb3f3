"""The metrics keep Prometheus' rules, and the README has each of them."""

import re
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest
from prometheus_client.parser import text_string_to_metric_families

from polygon_live.compared import StoreCompared, compared
from polygon_live.gap import Cause
from polygon_live.histogram import Spread
from polygon_live.inforce import Refusal
from polygon_live.metrics import FAMILIES, MOST_SYMBOLS, PREFIX, Family, render, table
from polygon_live.room import RoomSnapshot
from polygon_live.status import GapsSnapshot, RejectsSnapshot, RetentionSnapshot, State, WatcherSnapshot
from tests.promtool import promtool
from tests.test_status import CONFIGURATION, FEED, LIMITS, NOW, SINK, VALIDATOR, WELL, closed, with_feed

README = Path(__file__).parent.parent / "README.md"
DELAY = Spread(bounds=(0.1, 1.0), counts=(5, 3, 2), total=12.5, p50=0.1, p95=1.0, p99=1.0)
DISCONNECT: Cause = "disconnect"
COMPARED = StoreCompared(
    name="nats",
    up_to_ms=NOW - 60_000,
    behind_seconds=12.0,
    one_in=4.0,
    whole_share=0.1,
    compared=20,
    skipped=60,
    differences=(),
    cannot=None,
    worked_ms=NOW,
)
FULL = attrs.evolve(
    WELL,
    feed=attrs.evolve(FEED, endings={"cut": 2, "close_1001": 1}),
    limits=attrs.evolve(LIMITS, violations={"https://api.example/v3/quotes": 2}),
    validator=attrs.evolve(VALIDATOR, ignored={"MinuteAggregate": 4}, events=17, delay=DELAY),
    rejects=RejectsSnapshot({"validate": {"crossed": 3}}, (), 1),
    gaps=GapsSnapshot(("EURUSD",), {DISCONNECT: {"open": 1, "filled": 4}}, NOW - 60_000),
    filler=attrs.evolve(WELL.filler, ended={"filled": 4}),
    sinks=(attrs.evolve(SINK, delay=DELAY, batches=DELAY),),
    verification=compared([COMPARED], 0.02),
    journal=attrs.evolve(WELL.journal, room=RoomSnapshot(free_bytes=10**9, seconds_until_full=3600.0)),
    retention=RetentionSnapshot(
        verified=True,
        detail="ok",
        about={"verified_ms": NOW},
        last_run_ms=NOW,
        oldest_row_ms=NOW - 3_600_000,
        table_bytes=10**6,
    ),
    configuration=attrs.evolve(
        CONFIGURATION,
        hub=attrs.evolve(
            CONFIGURATION.hub,
            fetched_ms=NOW,
            refused=1,
            last_refusal=Refusal(NOW, "hub", "3", "ann", "abc", ("symbols: empty",)),
        ),
    ),
)
"""A state in which every family has a value."""


def samples(state: State) -> Mapping[tuple[str, ...], float]:
    """By name and the labels' values, in the order of the labels' names."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(render(state).decode())
        for sample in family.samples
    }


def test_prometheus_itself_finds_no_fault() -> None:
    promtool("check", "metrics", stdin=render(FULL))
    promtool("check", "metrics", stdin=render(WELL))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_each_name_follows_the_rules(family: Family) -> None:
    assert re.fullmatch(r"polygon_live(_[a-z]+)+", family.exposed)
    assert family.exposed.endswith("_total") == (family.kind == "counter")
    assert not re.search(
        r"_(ms|milliseconds|minutes|hours|kb|mb|gauge|counter|histogram|count|sum|bucket)(_|$)", family.name
    )
    assert not family.name.endswith("_info") or "Always 1" in family.text
    assert family.name.endswith("_timestamp_seconds") == family.text.startswith(
        ("When", "Since when", "Polygon's time")
    )
    assert family.kind != "histogram" or family.name.endswith(("_seconds", "_ticks"))
    assert family.text.endswith(".")
    assert "|" not in family.text
    assert all(re.fullmatch("[a-z]+", label) for label in family.labels)
    assert "le" not in family.labels


def test_names_and_sentences_are_each_used_once() -> None:
    assert len({name for family in FAMILIES for name in family.samples}) == sum(len(f.samples) for f in FAMILIES)
    assert len({family.text for family in FAMILIES}) == len(FAMILIES)


def test_what_is_exposed_is_what_is_listed_with_its_labels() -> None:
    exposed = {
        sample.name: frozenset(sample.labels) - {"le"}
        for family in text_string_to_metric_families(render(FULL).decode())
        for sample in family.samples
        if sample.name.startswith(PREFIX)
    }
    assert exposed == {name: frozenset(family.labels) for family in FAMILIES for name in family.samples}


def test_the_usual_figures_of_a_process_are_there_too() -> None:
    assert samples(WELL)["process_resident_memory_bytes",] > 1e6


def test_the_values_are_the_snapshots() -> None:
    found = samples(FULL)
    expected = {
        ("events_received_total",): 17,
        ("events_ignored_total", "MinuteAggregate"): 4,
        ("ticks_accepted_total",): 10,
        ("symbol_ticks_accepted_total", "EURUSD"): 10,
        ("symbol_last_tick_timestamp_seconds", "EURUSD"): (NOW - 500) / 1000,
        ("rejects_total", "crossed", "validate"): 3,
        ("feed_reconnects_total", "cut"): 2,
        ("rate_limit_violations_total", "https://api.example/v3/quotes"): 2,
        ("sink_ticks_delivered_total", "nats"): 10,
        ("sink_until_loss_seconds", "nats"): 86_400,
        ("gaps", "disconnect", "filled"): 4,
        ("gaps_unsettled_timestamp_seconds",): (NOW - 60_000) / 1000,
        ("configuration_refusal_standing",): 1,
        ("market_open",): 1,
        ("clock_skew_seconds",): 0.1,
        ("retention_verified_timestamp_seconds",): NOW / 1000,
        ("verification_timestamp_seconds", "nats"): (NOW - 60_000) / 1000,
        ("verification_sampled_ratio", "nats"): 0.25,
        ("verification_core_ratio",): 0.02,
    }
    assert {key: found[PREFIX + key[0], *key[1:]] for key in expected} == expected


def test_a_histogram_is_cumulative() -> None:
    found = samples(FULL)
    name = PREFIX + "sink_delay_seconds"
    assert [found[f"{name}_bucket", le, "nats"] for le in ("0.1", "1.0", "+Inf")] == [5, 8, 10]
    assert (found[f"{name}_count", "nats"], found[f"{name}_sum", "nats"]) == (10, 12.5)


def test_nothing_is_said_of_what_is_not_known() -> None:
    state = attrs.evolve(WELL, validator=attrs.evolve(VALIDATOR, skew_ms=None, last_accepted_ms=None))
    names = {key[0] for key in samples(state)}
    for name in (
        "clock_skew_seconds",
        "last_tick_received_timestamp_seconds",
        "hub_answered_timestamp_seconds",
        "gaps_unsettled_timestamp_seconds",
        "retention_verified_timestamp_seconds",
    ):
        assert PREFIX + name not in names


def test_a_symbol_is_silent_only_where_it_should_tick() -> None:
    silent = with_feed(silent=("EURUSD", "USDJPY"))
    for state, count in (
        (silent, 1),
        (closed(silent), 0),
        (with_feed(silent=("EURUSD",), market_said="closed"), 0),
        (with_feed(silent=("EURUSD",), market_said="open"), 1),
    ):
        assert samples(state)[PREFIX + "feed_symbols_silent",] == count


def test_of_all_pairs_only_the_first_have_series_of_their_own() -> None:
    (one,) = VALIDATOR.symbols
    many = tuple(attrs.evolve(one, symbol=f"S{n:05}") for n in range(1750))
    found = samples(attrs.evolve(WELL, validator=attrs.evolve(VALIDATOR, symbols=many)))
    named = {key[1] for key in found if key[0] == PREFIX + "symbol_ticks_accepted_total"}
    assert named == {symbol.symbol for symbol in many[:MOST_SYMBOLS]}
    assert found[PREFIX + "symbols_without_series",] == 1750 - MOST_SYMBOLS
    assert len(found) < 1000


def test_a_task_that_waits_for_a_new_start_is_seen() -> None:
    state = attrs.evolve(WELL, watchers=(WatcherSnapshot("retention", running=False, restarts=3, last_error="x"),))
    found = samples(state)
    assert found[PREFIX + "task_running", "retention"] == 0
    assert found[PREFIX + "task_restarts_total", "retention"] == 3


def test_the_readme_has_the_table() -> None:
    assert table() in README.read_text(), f"README.md's table of metrics is not this one:\n{table()}"
