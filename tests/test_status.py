"""Health is a pure function: for each kind of evidence the verdict and its words."""

from typing import Any

import attrs
import pytest

from polygon_live.compared import Difference, StoreCompared, compared
from polygon_live.health import AT_MOST_ONCE, EXACTLY_ONCE, Health, guarantee, health
from polygon_live.inforce import NO_HUB, ConfigurationSnapshot
from polygon_live.model import Tick
from polygon_live.room import RoomSnapshot
from polygon_live.status import (
    NO_FEED,
    FeedSnapshot,
    FillerSnapshot,
    GapsSnapshot,
    Hush,
    JournalSnapshot,
    LimitsSnapshot,
    RejectsSnapshot,
    RetentionSnapshot,
    SinkSnapshot,
    Stage,
    State,
    SymbolSnapshot,
    ValidatorSnapshot,
    WatcherSnapshot,
)

NOW = 1_700_000_600_000
STARTED = NOW - 600_000

FEED = FeedSnapshot(
    state="streaming",
    address="wss://example/forex",
    connected_since_ms=STARTED,
    connections=1,
    endings={},
    last_error=None,
    last_error_ms=None,
    needs_operator=False,
    retry_at_ms=None,
    acknowledged=("EURUSD",),
    silent=(),
    refusals=(),
    added=(),
    added_silent=(),
    frames=10,
    characters=1000,
    dropped_frames=0,
    last_dropped_ms=None,
    waiting_characters=0,
)
TICK = Tick("EURUSD", 1.1, 1.2, 1.15, 0.1, NOW - 500, NOW - 500, 48, "polygon_websocket", "quote", 7, NOW - 400)
VALIDATOR = ValidatorSnapshot(
    accepted=10,
    ignored={},
    last_seq=7,
    last_accepted_ms=NOW - 400,
    skew_ms=100.0,
    symbols=(SymbolSnapshot("EURUSD", 10, 0, 0, 0, 0, opened_ms=STARTED - 3_600_000, last=TICK),),
)
SINK = SinkSnapshot(
    name="nats",
    connected=True,
    behind_seconds=0.0,
    waiting_ticks=0,
    seconds_until_loss=86_400.0,
    delivered=10,
    expired=0,
    set_aside=0,
    set_aside_ever=0,
    last_set_aside_ms=None,
    lost=0,
    last_lost_ms=None,
    fell_behind=0,
    retries=0,
    cursor=7,
    last_delivered_ms=NOW - 300,
    last_error=None,
    last_error_ms=None,
    failing=False,
    needs_operator=False,
    about={},
    complaints=(),
)
JOURNAL = JournalSnapshot(
    id="0a1b",
    folder="/data/journal",
    bytes=1000,
    most_bytes=10_000,
    segments=1,
    oldest_ms=STARTED,
    tail=7,
    mark=1000,
    bytes_per_second=10.0,
    sync_seconds=1.0,
    failing=None,
    unjournaled_ticks=0,
    given_up_ticks=0,
    last_given_up_ms=None,
    unwritten_gaps=0,
    corrupt=(),
    damaged=(),
)
CONFIGURATION = ConfigurationSnapshot(1, "0123456789ab", STARTED, {}, {}, (), NO_HUB, None)
LIMITS = LimitsSnapshot(5.0, 5, 3, 0, {}, None, None)
WELL = State(
    at_ms=NOW,
    started_ms=STARTED,
    version="0",
    collector="c",
    simulated=False,
    stopping=False,
    configuration=CONFIGURATION,
    limits=LIMITS,
    feed=FEED,
    validator=VALIDATOR,
    rejects=RejectsSnapshot({}, (), 0),
    journal=JOURNAL,
    gaps=GapsSnapshot(lasting=(), counts={}),
    filler=FillerSnapshot(None, None, None, 0, None, None, {}, 0, 0, 0),
    sinks=(SINK,),
    retention=RetentionSnapshot(verified=True, detail="ok", about={}),
    watchers=(WatcherSnapshot("web", running=True, restarts=0, last_error=None),),
)


def with_feed(**changes: Any) -> State:
    return attrs.evolve(WELL, feed=attrs.evolve(FEED, **changes))


def with_sink(**changes: Any) -> State:
    return attrs.evolve(WELL, sinks=(attrs.evolve(SINK, **changes),))


def with_journal(**changes: Any) -> State:
    return attrs.evolve(WELL, journal=attrs.evolve(JOURNAL, **changes))


def with_validator(**changes: Any) -> State:
    return attrs.evolve(WELL, validator=attrs.evolve(VALIDATOR, **changes))


def closed(state: State) -> State:
    symbols = tuple(attrs.evolve(s, opened_ms=None) for s in state.validator.symbols)
    return attrs.evolve(state, validator=attrs.evolve(state.validator, symbols=symbols))


def test_all_well_is_healthy_without_a_word() -> None:
    assert health(WELL) == Health(healthy=True, reasons=(), notes=())


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (with_feed(state="waiting", last_error="the connection was cut"), "not streaming (waiting)"),
        (with_feed(state="waiting", last_error="wrong key", needs_operator=True), "Polygon: wrong key"),
        (with_feed(silent=("EURUSD",), refusals=("not authorized",)), "no ticks for EURUSD in market hours"),
        (with_feed(silent=("EURUSD",), refusals=("not authorized",)), "'not authorized'"),
        (with_feed(dropped_frames=3, last_dropped_ms=NOW - 1000), "3 frames were dropped"),
        (with_validator(last_accepted_ms=NOW - 361_000), "no tick was accepted for 361 s"),
        (with_validator(last_accepted_ms=None), "no tick was accepted for 600 s"),
        (
            with_validator(symbols=(attrs.evolve(VALIDATOR.symbols[0], refused_in_a_row=20),)),
            "EURUSD: its last 20 events were all rejected",
        ),
        (with_validator(skew_ms=6000.0), "arrive 6.0 s after their timestamps"),
        (with_validator(skew_ms=-6000.0), "arrive 6.0 s before their timestamps"),
        (with_sink(behind_seconds=10.5, last_error="refused", waiting_ticks=4), "nats is down: 10 s behind with 4"),
        (with_sink(lost=5, last_lost_ms=NOW - 1000), "nats lacks 5 ticks that the journal could not give it"),
        (with_sink(behind_seconds=11.0, seconds_until_loss=600.0), "nats must be back within 10 min"),
        (
            with_journal(failing="disk full", unjournaled_ticks=9),
            "at most once: 9 ticks went to the stores unjournaled",
        ),
        (with_journal(given_up_ticks=9, last_given_up_ms=NOW - 1000), "gave up 9 ticks that a store still needed"),
        (with_sink(set_aside=5, last_set_aside_ms=NOW - 1000), "nats has refused 5 ticks"),
        (with_sink(complaints=("the topic keeps seven days only",)), "nats: the topic keeps seven days only"),
        (attrs.evolve(WELL, retention=RetentionSnapshot(verified=False, detail="why", about={})), "unverified: why"),
        (
            attrs.evolve(WELL, watchers=(WatcherSnapshot("web", running=False, restarts=3, last_error="OSError: x"),)),
            "the web task is failing: OSError: x",
        ),
        (attrs.evolve(WELL, stopping=True), "stopping"),
    ],
)
def test_each_fault_makes_it_unhealthy_and_is_named(state: State, says: str) -> None:
    verdict = health(state)
    assert not verdict.healthy
    assert says in "\n".join(verdict.reasons)


def test_the_guarantee_is_the_journals() -> None:
    assert guarantee(WELL) == EXACTLY_ONCE
    assert guarantee(with_journal(failing="disk full")) == AT_MOST_ONCE


def test_a_run_that_only_fills_gaps_needs_no_feed() -> None:
    assert health(attrs.evolve(WELL, feed=NO_FEED)).healthy


def test_a_closed_market_silences_the_feeds_alarms_and_no_others() -> None:
    quiet = closed(with_feed(state="waiting", last_error="cut"))
    assert health(quiet) == Health(healthy=True, reasons=(), notes=("the market is closed: no ticks are expected",))
    assert not health(closed(with_feed(state="waiting", last_error="wrong key", needs_operator=True))).healthy
    assert not health(closed(with_sink(behind_seconds=11.0))).healthy
    assert health(closed(with_validator(skew_ms=6000.0))).healthy, "that was at the close, two days ago"
    refused = attrs.evolve(VALIDATOR.symbols[0], refused_in_a_row=20)
    assert health(closed(with_validator(symbols=(refused,)))).healthy, "so was that"


def test_a_wrong_clock_is_told_though_by_that_clock_the_market_is_closed() -> None:
    reasons, notes = attrs.astuple(health(closed(with_validator(skew_ms=86_400_000.0, last_quote_ms=NOW - 1000))))[1:]
    assert reasons == ("ticks arrive 86400.0 s after their timestamps: the feed is slow or this clock is ahead",)
    assert notes == ()
    assert health(closed(with_validator(skew_ms=86_400_000.0, last_quote_ms=NOW - 61_000))).healthy
    assert health(closed(with_validator(skew_ms=86_400_000.0, last_quote_ms=NOW + 3_600_000))).healthy


def test_the_reason_of_an_earlier_outage_is_not_the_reason_of_this_one() -> None:
    for failing in (True, False):
        state = with_sink(behind_seconds=11.0, last_error="refused", last_error_ms=NOW - 20_000, failing=failing)
        (reason,) = health(state).reasons
        assert reason.endswith("; refused") is failing


def test_a_market_that_has_just_opened_is_given_time_for_its_first_tick() -> None:
    def opened(seconds: int) -> State:
        (symbol,) = VALIDATOR.symbols
        thin = attrs.evolve(symbol, symbol="XAUUSD", opened_ms=NOW)
        return with_validator(
            last_accepted_ms=NOW - 48 * 3_600_000,
            symbols=(attrs.evolve(symbol, opened_ms=NOW - seconds * 1000), thin),
        )

    state = attrs.evolve(opened(360), feed=attrs.evolve(FEED, connected_since_ms=NOW - 3 * 86_400_000))
    assert health(state).healthy
    late = attrs.evolve(state, validator=opened(361).validator)
    assert "no tick was accepted for 361 s" in health(late).reasons[0]


@pytest.mark.parametrize(
    ("hush", "said", "reasons", "notes"),
    [
        ("odd", "", (), ("no ticks at all for 90 s, though the market should be open: a new connection is tried",)),
        (
            "quiet",
            "closed",
            (),
            ("no ticks at all for 90 s: open by the calendar, and Polygon says closed: a holiday?",),
        ),
        (
            "quiet",
            "403",
            (),
            ("no ticks at all for 90 s: open by the calendar, and Polygon can't be asked (403): a holiday?",),
        ),
        (
            "alarm",
            "open",
            ("no ticks at all for 90 s, though the market is open, as Polygon says too, and after a new connection",),
            (),
        ),
    ],
)
def test_a_silence_of_everything_is_judged_as_the_feed_judges_it(
    hush: Hush, said: str, reasons: tuple[str, ...], notes: tuple[str, ...]
) -> None:
    feed = attrs.evolve(FEED, hush=hush, market_said=said, silent=("EURUSD",))
    state = attrs.evolve(with_validator(last_accepted_ms=NOW - 90_000), feed=feed)
    assert health(state) == Health(not reasons, reasons, notes)
    again = attrs.evolve(state, feed=attrs.evolve(feed, state="waiting", last_error="sends no quotes"))
    assert health(again) == health(state), "a connection that is made anew for it changes nothing"
    assert health(closed(state)).healthy


def test_no_tick_is_accepted_for_longer_than_is_usual() -> None:
    def after(seconds: float, usual: float | None, expected: float) -> Health:
        symbol = attrs.evolve(VALIDATOR.symbols[0], usual_seconds=usual, expected_seconds=expected)
        return health(with_validator(last_accepted_ms=NOW - round(seconds * 1000), symbols=(symbol,)))

    assert after(360, None, 300).healthy
    assert after(361, None, 300).reasons == ("connected, but no tick was accepted for 361 s though the market is open",)
    assert after(159, 33, 99).healthy
    assert not after(160, 33, 99).healthy


def test_a_quiet_symbol_is_a_note_with_what_is_usual() -> None:
    symbols = [attrs.evolve(VALIDATOR.symbols[0], symbol=f"EUR{n:03}", usual_seconds=12.3) for n in range(7)]
    stages: dict[str, Stage] = {s.symbol: "quiet" for s in symbols}
    stages["EUR006"] = "silent"
    feed = attrs.evolve(FEED, stages=stages)
    state = attrs.evolve(with_validator(symbols=tuple(symbols)), feed=feed)
    verdict = health(attrs.evolve(state, at_ms=NOW + 40_600))
    assert verdict.healthy
    assert verdict.notes[0] == "EUR000 is silent for 41 s, lately never for more than 12 s"
    assert verdict.notes[5:] == ("1 more symbols are unusually quiet: see /symbols",)


def test_many_silent_symbols_are_no_alarm_while_polygon_calls_the_market_closed() -> None:
    feed = attrs.evolve(FEED, silent=("EURUSD",), stages={"EURUSD": "silent"})
    assert not health(attrs.evolve(WELL, feed=feed)).healthy
    verdict = health(attrs.evolve(WELL, feed=attrs.evolve(feed, market_said="closed")))
    assert verdict.healthy
    assert verdict.notes == ("no ticks for EURUSD: open by the calendar, and Polygon says closed: a holiday?",)


def test_late_is_worth_a_note_and_an_old_loss_stays_one() -> None:
    assert health(with_sink(behind_seconds=2.5)).notes == ("nats is late: 2.5 s behind",)
    old = health(with_sink(lost=5, last_lost_ms=NOW - 600_001))
    assert old.healthy
    assert old.notes == ("nats lacks 5 ticks since the start: see /gaps",)
    assert health(with_journal(given_up_ticks=9, last_given_up_ms=NOW - 600_001)).healthy
    assert health(with_sink(seconds_until_loss=600.0)).healthy, "it is not away"
    assert health(with_sink(set_aside=5, last_set_aside_ms=NOW - 600_001)).healthy


def test_a_start_is_given_time_but_is_not_called_healthy() -> None:
    young = attrs.evolve(with_feed(state="logging in"), started_ms=NOW - 3000)
    assert health(young).reasons == ("not streaming yet: logging in",)
    assert health(attrs.evolve(young, started_ms=NOW - 31_000)).reasons != health(young).reasons


@pytest.mark.parametrize(
    ("seconds", "state"), [(0.0, "good"), (2.0, "good"), (2.1, "late"), (10.0, "late"), (10.1, "down")]
)
def test_the_state_of_a_sink(seconds: float, state: str) -> None:
    assert attrs.evolve(SINK, behind_seconds=seconds).state == state


def test_files_that_were_set_aside_are_worth_knowing() -> None:
    state = attrs.evolve(WELL, journal=attrs.evolve(JOURNAL, damaged=("ledger.db.damaged",)))
    assert health(state).healthy
    assert any("ledger.db.damaged" in note for note in health(state).notes)


MiB = 2**20


@pytest.mark.parametrize(
    ("left", "said"),
    [(30.0, "full in less than a minute"), (3000.0, "full in 50 min"), (3600.0, "full in 60 min"), (40_000.0, "11 h")],
)
def test_a_disk_that_fills_is_told_before_it_is_full(left: float, said: str) -> None:
    room = RoomSnapshot(free_bytes=512 * MiB, seconds_until_full=left)
    journal = health(attrs.evolve(WELL, journal=attrs.evolve(JOURNAL, room=room)))
    table = health(attrs.evolve(WELL, retention=attrs.evolve(WELL.retention, room=room)))
    for verdict, disk in (
        (journal, "the disk of the journal's folder /data/journal"),
        (table, "the disk of the table"),
    ):
        assert verdict.healthy == (left >= 3600)
        (sentence,) = verdict.notes if verdict.healthy else verdict.reasons
        assert sentence.startswith(disk)
        assert "has 512 MiB left" in sentence
        assert said in sentence


def test_a_disk_that_is_smaller_than_what_the_journal_may_take_is_noted() -> None:
    journal = attrs.evolve(JOURNAL, bytes=MiB, most_bytes=101 * MiB, room=RoomSnapshot(99 * MiB, None))
    verdict = health(attrs.evolve(WELL, journal=journal))
    assert verdict.healthy
    (note,) = verdict.notes
    assert note.startswith("the journal may grow by 100 MiB, and its disk has 99 MiB left: make room, or set ")
    assert note.endswith(" POLYGON_LIVE_JOURNAL_MAX_BYTES lower")
    journal = attrs.evolve(journal, room=RoomSnapshot(100 * MiB, None))
    assert health(attrs.evolve(WELL, journal=journal)).notes == ()


def test_a_run_of_the_retention_that_failed_is_noted_while_the_last_verification_holds() -> None:
    retention = attrs.evolve(WELL.retention, failing=True, failures=1, last_failure="no answer")
    verdict = health(attrs.evolve(WELL, retention=retention))
    assert verdict.healthy
    assert verdict.notes == ("the retention's last run failed, it tries again: no answer",)


DIFFERENCE = Difference(
    store="timescale",
    first=101,
    last=10_100,
    accepted=10_000,
    missing=3,
    doubled=0,
    from_ms=NOW - 90_000,
    to_ms=NOW - 80_000,
    symbols=("EURUSD",),
    found_ms=NOW - 700_000,
    seen_ms=NOW,
)


def test_what_a_store_lacks_is_a_fault_until_it_is_mended_if_it_can_be() -> None:
    table = DIFFERENCE.in_words("c")
    archive = attrs.evolve(DIFFERENCE, store="kafka").in_words("c")
    fresh = attrs.evolve(archive, found_ms=NOW - 1000)
    store = StoreCompared(
        name="timescale",
        up_to_ms=NOW,
        behind_seconds=0.0,
        one_in=1.0,
        whole_share=0.0,
        compared=1,
        skipped=0,
        differences=(table, archive, fresh),
        cannot=None,
        worked_ms=NOW,
    )
    found = health(attrs.evolve(WELL, verification=compared([store], 0.0)))
    assert [reason.split(" of ")[0] for reason in found.reasons] == ["timescale lacks 3", "kafka lacks 3"]
    assert found.reasons[0] == (
        "timescale lacks 3 of 10000 ticks that were accepted (seq 101 to 10100), from 2023-11-14T22:21:50.000Z to "
        "2023-11-14T22:22:00.000Z; to mend it: polygon-live replay --from 2023-11-14T22:21:50.000Z "
        "--to 2023-11-14T22:22:00.000Z --into timescale"
    )
    assert "polygon-live backfill --symbol EURUSD --from 2023-11-14T22:21:50.000Z" in found.reasons[1]
    assert len(found.notes) == 1
