"""Other symbols, another delay, another rate, while the feed is at work: against a stand-in Polygon in virtual time."""

import random
from functools import partial

import attrs
import pytest
import trio
import trio.testing
from structlog.testing import capture_logs
from trio.testing import MockClock

from polygon_live import wire
from polygon_live.calendar import open_since
from polygon_live.model import FOURTEEN_SYMBOLS, Interruption, pair_of
from polygon_live.operational import ALL_PAIRS
from polygon_live.standin import Connection, Script, StandIn
from tests.feeding import KEY, PRICES, URL, World, feeding
from tests.test_subscriptions import MANY

SATURDAY_MS = 1_780_750_000_000  # 2026-06-06 12:46 UTC
CHANGING = (*FOURTEEN_SYMBOLS[2:], "EURAUD", "EURCHF", "USDCNH", "CADJPY")


def subscribed(connection: Connection) -> set[str]:
    return {pair.replace("/", "") for pair in connection.subscribed}


def asked(connection: Connection) -> list[tuple[str, str]]:
    """Everything after the login."""
    return [(request.action, request.params) for request in connection.requests[1:]]


async def rush(world: World, seconds: float, *symbols: str) -> None:
    """Twenty quotes a second of each."""
    for n in range(round(seconds * 20)):
        bid = round(1 + n / 1e5, 5)
        world.standin.send([wire.Quote(pair_of(s), bid + 0.0001, bid, world.wall_ms(), 48) for s in symbols])
        await trio.sleep(0.05)


async def test_one_is_added_and_one_removed_and_the_connection_stays(autojump_clock: MockClock) -> None:
    async with feeding() as world, trio.open_nursery() as nursery:
        connection = await world.subscribed()
        nursery.start_soon(world.stream, 300, "EURUSD", "XAUUSD", "EURAUD")
        await world.until(10.5)
        world.want("EURUSD", "EURAUD")
        assert world.feed.snapshot().added == ("EURAUD",)
        await world.until(10.6)
        assert asked(connection)[1:] == [("subscribe", "C.EUR/AUD"), ("unsubscribe", "C.XAU/USD")]
        assert world.feed.snapshot().acknowledged == ("EURAUD", "EURUSD")
        await world.until(11.5)
        assert world.feed.snapshot().added == ()
        await world.until(299)
        assert world.quotes == {"EUR/USD": 300, "XAU/USD": 11, "EUR/AUD": 289}
        assert world.dialled == [0]
        assert world.interruptions == []
        assert world.state == "streaming"


@pytest.mark.parametrize("with_all", [False, True], ids=["lists", "lists-and-all-pairs"])
async def test_in_a_storm_of_changes_untouched_symbols_lose_nothing(
    autojump_clock: MockClock, *, with_all: bool
) -> None:
    rng = random.Random(f"storm {with_all}")
    async with feeding(StandIn(key=KEY), per_second=5.0) as world, trio.open_nursery() as nursery:
        connection = await world.subscribed()
        nursery.start_soon(partial(rush, world, 70, *PRICES, *CHANGING))
        wanted: tuple[str, ...] = ()
        for _ in range(200):
            await trio.sleep(rng.expovariate(4))
            wanted = (*PRICES, *rng.sample(CHANGING, rng.randint(0, len(CHANGING))))
            if with_all and rng.random() < 0.2:
                wanted = (ALL_PAIRS,)
            world.want(*wanted)
        wanted = (*PRICES, *CHANGING[3:9])
        world.want(*wanted)
        storm = world.now
        await world.until(71)
        assert 40 < storm < 65
        assert world.quotes["EUR/USD"] == world.quotes["XAU/USD"] == 1400
        assert sum(t.symbol == "EURUSD" for t in world.ticks) == 1400
        assert world.dialled == [0]
        assert world.interruptions == []
        assert subscribed(connection) == set(wanted)
        assert set(world.feed.snapshot().acknowledged) == set(wanted)
        assert world.feed.snapshot().added == world.feed.snapshot().added_silent == ()
        assert len(asked(connection)) > 50
        at = [0.0, *(t - world.began for t in connection.requested_at)]
        assert max(sum(a <= b < a + 1 for b in at) for a in at) <= 5


async def test_only_the_last_of_many_changes_at_once_is_sent(autojump_clock: MockClock) -> None:
    async with feeding() as world:
        connection = await world.subscribed()
        for symbol in CHANGING:
            world.want("EURUSD", symbol)
        world.want("EURUSD", "XAUUSD")
        await world.until(1)
        assert asked(connection) == [("subscribe", "C.EUR/USD,C.XAU/USD")]
        await world.stream(1, "EURUSD", "XAUUSD")
        assert world.feed.snapshot().added == (), "what was removed and came back streams on"


async def test_from_a_list_to_all_pairs_and_back(autojump_clock: MockClock) -> None:
    async with feeding() as world, trio.open_nursery() as nursery:
        connection = await world.subscribed()
        nursery.start_soon(world.stream, 1000, "EURUSD", "XAUUSD", "USDSEK")
        await world.until(10.5)
        world.want(ALL_PAIRS)
        await world.until(20.5)
        assert asked(connection)[1:] == [("subscribe", "C.*"), ("unsubscribe", "C.EUR/USD,C.XAU/USD")]
        assert world.feed.snapshot().acknowledged == (ALL_PAIRS,)
        assert world.feed.snapshot().added == ()
        await world.until(500.5)  # longer than any symbol may be mute
        world.want("EURUSD")
        await world.until(990)
        assert asked(connection)[3:] == [("subscribe", "C.EUR/USD"), ("unsubscribe", "C.*")]
        assert world.quotes["EUR/USD"] == 991
        assert world.quotes["XAU/USD"] == 501
        assert world.quotes["USD/SEK"] == 490
        assert world.dialled == [0]
        assert world.interruptions == []
        nursery.cancel_scope.cancel()


async def test_all_pairs_from_the_beginning_and_their_interruptions_name_no_symbols(autojump_clock: MockClock) -> None:
    async with feeding(symbols=(ALL_PAIRS,)) as world:
        connection = await world.standin.subscribed()
        await world.stream(20, "USDSEK")
        assert world.state == "streaming"
        connection.drop()
        await world.standin.subscribed(2)
        await world.stream(20)
        assert world.state == "streaming"
        assert asked(world.standin.latest) == [("subscribe", "C.*")]
        for _ in range(12):  # statuses are signs of life, and no ticks
            await trio.sleep(29)
            world.standin.latest.status("connected")
        assert [(i.cause, i.symbols) for i in world.interruptions] == [("disconnect", None)] * 2
        assert world.feed.snapshot().silent == ()
        assert asked(world.standin.latest) == [("subscribe", "C.*")]


async def test_all_pairs_that_are_refused_leave_the_list_as_it_is(autojump_clock: MockClock) -> None:
    standin = StandIn(key=KEY, script=Script(unauthorized=frozenset({ALL_PAIRS})))
    with capture_logs() as logs:
        async with feeding(standin) as world, trio.open_nursery() as nursery:
            await world.subscribed()
            nursery.start_soon(world.stream, 1000)
            await world.until(10.5)
            world.want(ALL_PAIRS)
            await world.until(990)
            assert world.quotes == {"EUR/USD": 991, "XAU/USD": 991}
            assert world.dialled == [0]
            assert world.feed.snapshot().added_silent == (ALL_PAIRS,)
            assert world.interruptions == [], "the list streams on"
            world.want(*PRICES)
            await world.until(999)
            assert subscribed(standin.latest) == set(PRICES)
            nursery.cancel_scope.cancel()
    endpoints = [entry["endpoint"] for entry in logs if "endpoint" in entry]
    assert endpoints == [f"{URL} subscribe"] * 2, "asked for anew, once"


@pytest.mark.parametrize(
    ("script", "acknowledged"),
    [
        (Script(unauthorized=frozenset({"EUR/AUD"})), False),
        (Script(unacknowledged=frozenset({"EUR/AUD"})), False),
        (Script(mute=frozenset({"EUR/AUD"})), True),
    ],
    ids=["refused", "never-acknowledged", "acknowledged-and-mute"],
)
async def test_an_added_symbol_that_does_not_stream_is_told_and_costs_the_others_nothing(
    autojump_clock: MockClock, script: Script, *, acknowledged: bool
) -> None:
    with capture_logs() as logs:
        async with feeding(StandIn(key=KEY, script=script)) as world, trio.open_nursery() as nursery:
            await world.subscribed()
            nursery.start_soon(world.stream, 3000, "EURUSD", "XAUUSD", "EURAUD")
            await world.until(10)
            world.want(*PRICES, "EURAUD")
            await world.until(69.9)
            assert world.feed.snapshot().added == ("EURAUD",)
            assert world.feed.snapshot().added_silent == ()
            await world.until(70.1)
            assert world.feed.snapshot().added == ()
            assert world.feed.snapshot().added_silent == ("EURAUD",)
            assert world.feed.snapshot().silent == ()
            assert world.feed.snapshot().state == "streaming"
            await world.until(1500)
            assert world.dialled == [0], "a typing error must not cost the others anything"
            assert world.quotes == {"EUR/USD": 1501, "XAU/USD": 1501}
            errors = [entry for entry in logs if entry["log_level"] == "error"]
            assert [e["symbols"] for e in errors] == [("EURAUD",)], "once"
            assert errors[0]["acknowledged"] == (["EURAUD"] if acknowledged else [])
            anew = [r for r in world.standin.latest.requests[2:] if r.action == "unsubscribe"]
            assert [r.params for r in anew] == ["C.EUR/AUD"], "asked for anew, once"
            if script.unauthorized:
                assert world.turns.snapshot().violations == {f"{URL} subscribe": 2}
            world.standin.latest.drop()
            await world.until(1600)
            assert world.feed.snapshot().added_silent == ("EURAUD",)
            world.standin.script = Script()
            world.standin.latest.drop()
            await world.until(1700)
            assert world.feed.snapshot().added_silent == world.feed.snapshot().added == ()
            assert len(world.dialled) == 3
            nursery.cancel_scope.cancel()
    assert sum(entry["log_level"] == "error" for entry in logs) == 1


async def test_what_is_removed_again_is_no_longer_told(autojump_clock: MockClock) -> None:
    standin = StandIn(key=KEY, script=Script(mute=frozenset({"EUR/AUD", "XAU/USD"})))
    async with feeding(standin) as world, trio.open_nursery() as nursery:
        await world.subscribed()
        nursery.start_soon(world.stream, 4000)
        await world.until(1000)
        assert world.feed.snapshot().silent == ("XAUUSD",)
        world.want("EURUSD", "XAUUSD", "EURAUD")
        await world.until(1100)
        assert world.feed.snapshot().added_silent == ("EURAUD",)
        world.want("EURUSD")
        snapshot = world.feed.snapshot()
        assert (snapshot.silent, snapshot.added, snapshot.added_silent) == ((), (), ())
        await world.until(3900)
        assert len(world.dialled) == 2, "the one for XAUUSD"
        nursery.cancel_scope.cancel()


async def test_one_that_is_added_while_its_market_is_closed_has_its_time_from_the_opening(
    autojump_clock: MockClock,
) -> None:
    async with feeding(StandIn(key=KEY), sessions=open_since, starts_ms=SATURDAY_MS) as world:
        await world.subscribed()
        world.want(*PRICES, "EURAUD")
        opening = ((open_since("EURUSD", SATURDAY_MS + 3 * 86_400_000) or 0) - SATURDAY_MS) / 1000
        await world.until(opening + 20)
        assert world.feed.snapshot().added == ("EURAUD",)
        await world.stream(45, "EURUSD")
        await world.until(opening + 121)
        assert world.feed.snapshot().added_silent == ("EURAUD",)
        await world.stream(1, "EURAUD")
        assert world.feed.snapshot().added_silent == ()


@pytest.mark.parametrize(
    ("state", "script", "at"),
    [
        ("dialling", Script(), 25.0),
        ("logging in", Script(login="ignore"), 3.0),
        ("subscribing", Script(acks="none"), 3.0),
        ("waiting", Script(login="time_out"), 3.0),
        ("closing", Script(), 52.0),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
async def test_a_change_in_any_state_is_what_is_asked_for_next(
    autojump_clock: MockClock, state: str, script: Script, at: float
) -> None:
    standin = StandIn(key=KEY, scripts=[script])
    async with feeding(standin) as world:
        if state == "dialling":  # its turns are somebody else's
            await world.subscribed()
            await world.stream(12)
            others = await world.turns.hold(5, urgent=True)
            standin.latest.drop()
        elif state == "closing":
            first = await world.subscribed()
            await world.stream(12)
            first.hush()
        await world.until(at)
        assert world.state == state
        world.want("EURUSD", "EURAUD", "USDJPY")
        if state == "dialling":
            others.give_back()
        await standin.until(lambda: subscribed(standin.latest) == {"EURUSD", "EURAUD", "USDJPY"})
        await trio.testing.wait_all_tasks_blocked()
        again = standin.latest
        if state == "subscribing":
            assert asked(again) == [
                ("subscribe", "C.EUR/USD,C.XAU/USD"),
                ("subscribe", "C.EUR/AUD,C.USD/JPY"),
                ("unsubscribe", "C.XAU/USD"),
            ]
        else:
            assert len(standin.connections) == 2
            assert asked(again) == [("subscribe", "C.EUR/USD,C.EUR/AUD,C.USD/JPY")]
        came = world.quotes["EUR/AUD"]
        await world.stream(12, "EURUSD", "EURAUD", "USDJPY")
        assert world.quotes["EUR/AUD"] == came + 12
        assert world.state == "streaming"


async def test_another_reconnect_delay_acts_on_a_wait_that_has_begun(autojump_clock: MockClock) -> None:
    async with feeding(reconnect_delay=600.0) as world:
        await world.subscribed()
        await world.stream(20)
        world.standin.latest.drop()
        await world.until(100)
        assert world.state == "waiting"
        assert world.feed.snapshot().retry_at_ms == world.wall_ms() + 520_000
        world.want(*PRICES, reconnect_delay=100.0)
        await world.until(100.1)
        assert world.feed.snapshot().retry_at_ms == world.wall_ms() + 19_900
        world.want(*PRICES, reconnect_delay=300.0)
        await world.until(200)
        assert world.state == "waiting"
        world.want(*PRICES, reconnect_delay=30.0)
        await world.subscribed(2)
        assert world.dialled == [0, 200]
        assert world.feed.snapshot().retry_at_ms is None


async def test_a_cool_down_is_not_shortened_by_another_delay(autojump_clock: MockClock) -> None:
    async with feeding() as world:
        await world.subscribed()
        await world.stream(20)
        world.standin.latest.evict()
        await world.until(30)
        world.want(*PRICES, reconnect_delay=1.0)
        await world.subscribed(2)
        assert world.dialled == [0, 80]
        assert list(world.turns.snapshot().violations) == [URL]


async def test_a_thousand_symbols_go_in_chunks_at_the_rate_while_reading_goes_on(autojump_clock: MockClock) -> None:
    async with feeding(per_second=2.0) as world, trio.open_nursery() as nursery:
        connection = await world.subscribed()
        nursery.start_soon(rush, world, 10, "EURUSD")
        await world.until(5)
        world.want("EURUSD", *MANY)
        await world.until(6.5)
        assert len(connection.subscribed) == 2 + 800
        assert world.state == "streaming"
        await world.until(12)
        assert subscribed(connection) == {"EURUSD", *MANY}
        assert [len(r.params.split(",")) for r in connection.requests[2:]] == [200] * 5 + [1]
        assert [round(at - world.began, 3) for at in connection.requested_at[2:]] == [5, 5, 6, 6, 7, 7]
        assert world.quotes["EUR/USD"] == 200
        assert world.dialled == [0]


async def test_a_thousand_symbols_from_the_beginning(autojump_clock: MockClock) -> None:
    async with feeding(symbols=MANY, per_second=1.0) as world:
        await world.standin.subscribed(1, 1000)
        connection = world.standin.latest
        await trio.testing.wait_all_tasks_blocked()
        assert [round(at - world.began, 3) for at in connection.requested_at] == [0, 0, 3, 4, 5, 6]
        assert world.state == "streaming"
        assert len(world.feed.snapshot().acknowledged) == 1000


async def test_at_a_turn_in_five_seconds_nothing_is_lost_to_a_deadline(autojump_clock: MockClock) -> None:
    async with feeding(per_second=0.2) as world, trio.open_nursery() as nursery:
        connection = await world.subscribed()
        assert world.now == 0, "dial, login and subscription are had together"
        nursery.start_soon(world.stream, 200, "EURUSD", "XAUUSD", "EURAUD", "USDJPY")
        await world.until(1)
        world.want("EURUSD", "EURAUD")
        await world.until(16)
        assert asked(connection)[1:] == [("subscribe", "C.EUR/AUD")]
        world.want("EURUSD", "USDJPY")
        await world.until(26)
        assert asked(connection)[2:] == [("subscribe", "C.USD/JPY"), ("unsubscribe", "C.XAU/USD,C.EUR/AUD")]
        connection.drop()
        again = await world.standin.subscribed(2)
        # The last message was at 25 s; the fifth second after it is the first in which none of the turns is out.
        assert world.dialled == [0, 31]
        assert asked(again) == [("subscribe", "C.EUR/USD,C.USD/JPY")]
        await world.until(150)
        assert world.state == "streaming"
        assert world.feed.snapshot().endings == {"cut": 1}
        assert world.feed.snapshot().added_silent == ()
        nursery.cancel_scope.cancel()


async def test_who_asks_for_the_past_does_not_keep_the_feed_from_coming_back(autojump_clock: MockClock) -> None:
    async with feeding(per_second=5.0) as world, trio.open_nursery() as nursery:
        taken = 0

        async def keep_asking() -> None:
            nonlocal taken
            while True:
                await world.turns.turn()
                taken += 1

        for _ in range(10):
            nursery.start_soon(keep_asking)
        await world.subscribed()
        await world.stream(20)
        before = taken
        world.standin.latest.drop()
        await world.subscribed(2)
        assert 25 <= world.dialled[1] <= 26
        assert taken > before
        nursery.cancel_scope.cancel()


async def test_a_dial_that_is_refused_with_429_is_a_violation(autojump_clock: MockClock) -> None:
    standin = StandIn(key=KEY, scripts=[Script(http_status=429), Script(http_status=503)])
    async with feeding(standin) as world:
        await world.subscribed(3)
        assert world.turns.snapshot().violations == {URL: 1}
        assert "HTTP status 429" in str(world.turns.snapshot().last_violation)


async def test_all_turns_that_were_held_for_a_connection_come_back_however_it_ends(autojump_clock: MockClock) -> None:
    standin = StandIn(
        key=KEY,
        scripts=[Script(http_status=503), Script(greeting=None), Script(login="refuse"), Script(login="time_out")],
    )
    standin.unreachable = {URL}
    async with feeding(standin) as world:
        await world.until(3)
        standin.unreachable = set()
        await world.subscribed(5)
        await world.stream(20)
        assert world.turns._held == 0
        world.feed.stop()
        await trio.testing.wait_all_tasks_blocked()
        assert world.turns._held == 0
        assert world.turns.snapshot().waiting == 0


async def test_an_interruption_of_a_changed_list_names_what_is_silent(autojump_clock: MockClock) -> None:
    standin = StandIn(key=KEY)
    async with feeding(standin) as world, trio.open_nursery() as nursery:
        connection = await world.subscribed()
        nursery.start_soon(world.stream, 900, "EURUSD", "XAUUSD", "USDJPY")
        await world.until(10.5)
        world.want("EURUSD", "USDJPY")
        await world.until(20.5)
        connection.script = attrs.evolve(connection.script, mute=frozenset({"USD/JPY"}))
        await world.until(325)
        assert world.interruptions == [
            Interruption("mute", "no acknowledgement, or no tick in market hours", ("USDJPY",))
        ]
        nursery.cancel_scope.cancel()


async def test_a_wait_ends_at_its_time_however_its_seconds_are_rounded(autojump_clock: MockClock) -> None:
    """A deadline that has passed and a remainder that has not: in virtual time that would go on for ever."""
    standin = StandIn(key=KEY)
    standin.unreachable = {URL}
    await trio.sleep(0.123)
    async with feeding(standin, reconnect_delay=3.3) as world:
        with trio.fail_after(100_000):
            for n in range(60):
                world.want(*PRICES, reconnect_delay=3.3 + n / 7)
                await standin.until(lambda n=n: len(standin.dialled) > n)  # type: ignore[misc]
    assert len(world.dialled) >= 60
