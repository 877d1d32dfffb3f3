"""The feed's whole life against a stand-in Polygon, in virtual time: every time is exact."""

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs
from trio.testing import MockClock

from polygon_live import wire
from polygon_live.calendar import open_since
from polygon_live.model import Interruption
from polygon_live.standin import Script, StandIn
from polygon_live.standin.faults import ENDINGS, bad_frames, odd_frames
from tests.feeding import KEY, OTHER_URL, PRICES, URL, feeding

SATURDAY_MS = 1_780_750_000_000  # 2026-06-06 12:46 UTC
PAIRS = {"EUR/USD", "XAU/USD"}
CONNECTED = "Connected to Polygon.io"


async def test_it_greets_logs_in_and_subscribes_to_everything_at_once(autojump_clock: MockClock) -> None:
    with capture_logs() as logs:
        async with feeding() as world:
            connection = await world.subscribed()
            assert connection.requests == [
                wire.Request("auth", KEY),
                wire.Request("subscribe", "C.EUR/USD,C.XAU/USD"),
            ]
            assert world.feed.snapshot().acknowledged == ("EURUSD", "XAUUSD")
            await world.stream(3)
            assert world.state == "streaming"
            assert [t.symbol for t in world.ticks] == ["EURUSD", "XAUUSD"] * 3
    assert [entry["event"] for entry in logs if entry["event"] == CONNECTED] == [CONNECTED]
    assert KEY not in repr(logs)
    assert connection.goodbye == 1000


@pytest.mark.parametrize(
    "script",
    [
        Script(ping_first=True),
        Script(greeting="success"),
        Script(acks="singly"),
        Script(acks="reversed"),
        Script(exchange_as_text=True),
        Script(pongs=False),
    ],
    ids=lambda s: next(
        f
        for f in ("ping_first", "greeting", "acks", "exchange_as_text", "pongs")
        if getattr(s, f) != getattr(Script(), f)
    ),
)
async def test_every_way_of_answering_well_streams(autojump_clock: MockClock, script: Script) -> None:
    async with feeding(StandIn(key=KEY, script=script)) as world:
        await world.subscribed()
        await world.stream(100)
        assert world.dialled == [0]
        assert len(world.ticks) == 200
        assert {t.exchange for t in world.ticks} == {48}


async def test_what_comes_in_the_middle_of_the_login_is_judged_too(autojump_clock: MockClock) -> None:
    async with feeding(StandIn(key=KEY, script=Script(greeting=None))) as world:
        await world.standin.until(lambda: world.standin.connections)
        await trio.testing.wait_all_tasks_blocked()
        world.standin.latest.send("<html>502 Bad Gateway</html>")
        good = wire.encode([world.quote()])[1:-1]
        world.standin.latest.send(f'[{{"ev":"status","status":"connected","message":""}},{good}]')
        await world.subscribed()
        assert [r.reason for r in world.rejects] == ["bad_frame"]
        assert [t.symbol for t in world.ticks] == ["EURUSD"]


async def test_connected_is_not_said_before_the_acknowledgements(autojump_clock: MockClock) -> None:
    standin = StandIn(key=KEY, script=Script(acks="none"))
    with capture_logs() as logs:
        async with feeding(standin) as world:
            await world.subscribed()
            await world.until(9.9)
            assert world.state == "subscribing"
            await world.until(10)  # no symbol at all was acknowledged: nothing to wait for
            assert world.feed.snapshot().last_error == "Polygon acknowledged no symbol in 10 s"
            await world.until(15.1)
            assert world.dialled == [0, 15]
    assert CONNECTED not in [entry["event"] for entry in logs]


CUT_SHORT = {"half-open": 45.0, "max-connections": 60.0}
"""Seconds from the last message to the next dial after ten seconds of streaming; 5 for all others."""
CALLED = {"half-open": "silent", "reset": "cut", "broken-utf8": "close_1007", "oversized": "close_1009"}
"""The reason in state and metrics; for all others their own name."""


@pytest.mark.parametrize("name", ENDINGS)
async def test_every_ending_costs_one_reconnect_and_its_own_delay(autojump_clock: MockClock, name: str) -> None:
    async with feeding() as world:
        connection = await world.subscribed()
        await world.stream(20)
        before = len(world.ticks)
        assert world.came == [*PRICES] * 20
        last = world.now - 1 if name == "half-open" else world.now
        ENDINGS[name](connection)
        again = await world.subscribed(2)
        assert again.opened_at - world.began == world.dialled[1]
        closing = world.dialled[1] - last - CUT_SHORT.get(name, 5.0)
        assert 0 <= closing <= 2  # the time that a goodbye may take, if there is nobody to answer it
        await world.stream(20)
        assert len(world.ticks) == before + 40
        assert world.dialled == [0, world.dialled[1]]
        snapshot = world.feed.snapshot()
        assert snapshot.endings == {CALLED.get(name, name.replace("-", "_")): 1}
        assert world.came == [*PRICES] * 20 + ["disconnect"] + [*PRICES] * 20
        assert world.interruptions == [Interruption("disconnect", str(snapshot.last_error))]


async def test_half_open_is_seen_ten_seconds_after_the_unanswered_ping(autojump_clock: MockClock) -> None:
    async with feeding() as world:
        connection = await world.subscribed()
        await world.stream(20)  # the last one at 19 s
        connection.hush()
        await world.until(58.9)
        assert world.state == "streaming"
        await world.until(59)
        assert world.state == "closing"  # with a goodbye that nobody answers
        await world.until(61)
        assert world.feed.snapshot().endings == {"silent": 1}
        assert "answers no ping: no quote for 40 s" in str(world.feed.snapshot().last_error)


async def test_an_interruption_is_told_as_soon_as_the_connection_is_given_up(autojump_clock: MockClock) -> None:
    async with feeding() as world:
        connection = await world.subscribed()
        await world.stream(20)
        connection.hush()
        await world.until(58.9)
        assert world.interruptions == []
        await world.until(59)
        assert [i.cause for i in world.interruptions] == ["disconnect"], "the goodbye may take a while"


async def test_delays_double_up_to_a_minute_and_only_ten_seconds_of_streaming_reset_them(
    autojump_clock: MockClock,
) -> None:
    async with feeding() as world:
        for n in range(1, 7):
            connection = await world.subscribed(n)
            await world.stream(9)
            connection.drop()
        await world.subscribed(7)
        waits = [round(b - a - 9, 3) for a, b in zip(world.dialled, world.dialled[1:], strict=False)]
        assert waits == [5, 10, 20, 40, 60, 60]
        await world.stream(12)
        at = world.now
        world.standin.latest.drop()
        await world.subscribed(8)
        assert world.dialled[-1] == at + 5


async def test_nobody_there_at_the_start(autojump_clock: MockClock) -> None:
    standin = StandIn(key=KEY)
    standin.unreachable = {URL}
    async with feeding(standin) as world:
        await world.until(80)
        assert world.dialled == [0, 5, 15, 35, 75]
        snapshot = world.feed.snapshot()
        assert snapshot.state == "waiting"
        assert snapshot.last_error == "ws://first.example/forex can't be reached: nobody listens"
        assert snapshot.retry_at_ms == world.wall_ms() + 55_000
        assert world.interruptions == [], "who never listened was not interrupted"
        standin.unreachable = set()
        await world.subscribed()
        assert world.now == 135


async def test_the_next_address_is_tried_at_once(autojump_clock: MockClock) -> None:
    standin = StandIn(key=KEY)
    standin.unreachable = {URL}
    async with feeding(standin, urls=(URL, OTHER_URL)) as world:
        await world.subscribed()
        assert [(at - world.began, url) for at, url in standin.dialled] == [(0, URL), (0, OTHER_URL)]
        await world.stream(20)
        standin.latest.drop()
        await world.subscribed(2)
        assert standin.dialled[2:] == [(world.began + 25, OTHER_URL)]  # the one that works is kept
        standin.unreachable = {URL, OTHER_URL}
        standin.latest.drop()
        await world.until(100)
        assert [url for _at, url in standin.dialled[3:7]] == [OTHER_URL, URL, OTHER_URL, URL]


@pytest.mark.parametrize(
    ("script", "key", "reason", "words"),
    [
        (Script(), "another", "wrong_key", "refuses the key in POLYGON_API_KEY"),
        (Script(login="no_plan"), KEY, "no_plan", "plan has no WebSocket access"),
        (Script(realtime=False), KEY, "no_plan", "no real-time forex data"),
    ],
    ids=["key", "websocket", "realtime"],
)
async def test_a_refused_login_says_which_and_waits_five_minutes(
    autojump_clock: MockClock, script: Script, key: str, reason: str, words: str
) -> None:
    with capture_logs() as logs:
        async with feeding(StandIn(key=KEY, script=script), key=key) as world:
            await world.until(1)
    assert [(line["event"], line["log_level"]) for line in logs] == [("reconnecting", "error")]
    async with feeding(StandIn(key=KEY, script=script), key=key) as world:
        await world.until(1)
        snapshot = world.feed.snapshot()
        assert snapshot.endings == {reason: 1}
        assert words in str(snapshot.last_error)
        assert key not in str(snapshot)
        assert snapshot.needs_operator
        await world.until(899)
        assert world.dialled == [0, 300, 600]


async def test_a_plan_without_any_of_the_symbols_is_told_and_waits_five_minutes(autojump_clock: MockClock) -> None:
    standin = StandIn(key=KEY, script=Script(unauthorized=frozenset(PAIRS)))
    async with feeding(standin) as world:
        await world.until(11)
        snapshot = world.feed.snapshot()
        assert snapshot.last_error == "the key's plan has none of the symbols; Polygon says: 'not authorized'"
        assert snapshot.endings == {"no_plan": 1}
        assert snapshot.needs_operator
        await world.until(900)
        assert world.dialled == [0, 310, 620]


async def test_ticks_without_any_acknowledgement_are_taken(autojump_clock: MockClock) -> None:
    standin = StandIn(key=KEY, script=Script(acks="none"))
    with capture_logs() as logs:
        async with feeding(standin) as world, trio.open_nursery() as nursery:
            await world.subscribed()
            nursery.start_soon(world.stream, 600, "EURUSD")
            await world.until(11)
            assert world.state == "streaming"
            await world.until(599)
            assert world.dialled == [0, 25]  # for the sake of the other symbol, once
            assert world.state == "streaming"
            assert world.feed.snapshot().silent == ("XAUUSD",)
            nursery.cancel_scope.cancel()
    said = [line["event"] for line in logs]
    assert CONNECTED not in said
    assert said.count("ticks come, though Polygon has acknowledged no subscription") == 2


async def test_a_login_that_times_out_is_no_refusal(autojump_clock: MockClock) -> None:
    standin = StandIn(key=KEY, scripts=[Script(login="time_out"), Script(login="ignore"), Script(greeting=None)])
    async with feeding(standin) as world:
        await world.subscribed(4)
        # time_out says so at once; the others are given 15 s
        assert world.dialled == [0, 5, 5 + 15 + 10, 30 + 15 + 20]
        assert world.feed.snapshot().endings == {"auth_timeout": 1, "silent": 2}


async def test_the_third_eviction_in_ten_minutes_gives_way_for_a_quarter_of_an_hour(autojump_clock: MockClock) -> None:
    async with feeding() as world:
        for n in (1, 2, 3):
            connection = await world.subscribed(n)
            await world.stream(30)
            connection.evict()
        await world.subscribed(4)
        assert world.dialled == [0, 90, 180, 180 + 30 + 900]
        assert world.feed.snapshot().endings == {"max_connections": 3}


async def test_of_two_instances_the_older_is_evicted_and_cools_down(autojump_clock: MockClock) -> None:
    async with feeding() as world:
        await world.subscribed()
        await world.stream(20)
        async with feeding(world.standin) as other:
            await world.until(21)
            assert "another instance holds" in str(world.feed.snapshot().last_error)
            assert other.state == "streaming"
            await other.stream(20)
        await world.until(80.1)
        assert world.dialled == [0, 20, 80]
        assert world.state == "streaming"


@pytest.mark.parametrize("how", ["unacknowledged", "unauthorized"])
async def test_one_symbol_without_acknowledgement_is_subscribed_anew_then_dialled_anew_once_then_reported(
    autojump_clock: MockClock, how: str
) -> None:
    standin = StandIn(key=KEY, script=Script(**{how: frozenset({"XAU/USD"})}))  # type: ignore[arg-type]
    async with feeding(standin) as world, trio.open_nursery() as nursery:
        first = await world.subscribed()
        nursery.start_soon(world.stream, 600, "EURUSD")
        await world.until(10.1)
        assert world.state == "streaming"
        assert first.requests[2:] == [wire.Request("unsubscribe", "C.XAU/USD"), wire.Request("subscribe", "C.XAU/USD")]
        assert world.came[:10] == ["EURUSD"] * 10
        assert sorted(world.came[10:]) == ["EURUSD", "mute"], "both are due in the tenth second"
        await world.until(20.1)
        assert "for XAUUSD" in str(world.feed.snapshot().last_error)
        await world.until(599)
        assert len(world.dialled) == 2
        snapshot = world.feed.snapshot()
        assert snapshot.silent == ("XAUUSD",)
        assert snapshot.acknowledged == ("EURUSD",)
        assert snapshot.refusals == (("not authorized",) if how == "unauthorized" else ())
        assert [i.cause for i in world.interruptions] == ["mute", "mute", "disconnect", "mute"]
        assert [i.symbols for i in world.interruptions] == [("XAUUSD",), ("XAUUSD",), None, ("XAUUSD",)]
        said = "; Polygon says: 'not authorized'" if how == "unauthorized" else ""
        assert world.interruptions[0].detail == f"no acknowledgement, or no tick in market hours{said}"
        assert sum(t.symbol == "EURUSD" for t in world.ticks) > 590
        nursery.cancel_scope.cancel()


async def test_one_acknowledged_and_mute_symbol_goes_the_same_way_and_comes_back(autojump_clock: MockClock) -> None:
    standin = StandIn(key=KEY, script=Script(mute=frozenset({"XAU/USD"})))
    async with feeding(standin) as world, trio.open_nursery() as nursery:
        first = await world.subscribed()
        nursery.start_soon(world.stream, 5000)
        await world.until(303)  # silence counts while others tick: at the next look after one
        assert [r.action for r in first.requests[2:]] == ["unsubscribe", "subscribe"]
        assert world.interruptions == [
            Interruption("mute", "no acknowledgement, or no tick in market hours", ("XAUUSD",))
        ]
        await world.until(606)
        assert "or no tick in market hours, for XAUUSD" in str(world.feed.snapshot().last_error)
        await world.until(3000)
        assert len(world.dialled) == 2
        assert world.feed.snapshot().silent == ("XAUUSD",)
        standin.script = Script()
        standin.latest.drop()
        await world.until(3010)
        assert world.feed.snapshot().silent == ()
        nursery.cancel_scope.cancel()


async def test_a_mute_market_that_should_be_open_is_no_storm(autojump_clock: MockClock) -> None:
    async with feeding() as world:
        await world.subscribed()
        await world.until(4 * 3600)
        first, second, *others = world.dialled
        assert (first, second) == (0, 30 + 5)
        assert all(b - a >= 900 for a, b in zip([second, *others], others, strict=False))
        await world.stream(20)
        assert world.state == "streaming"


async def test_a_thin_market_is_no_storm(autojump_clock: MockClock) -> None:
    """Pauses of 45 s, as on a holiday: the connection answers pings, and its next tick comes."""
    async with feeding() as world:
        await world.subscribed()
        while world.now < 2 * 3600:
            world.standin.send([world.quote(symbol) for symbol in PRICES])
            await trio.sleep(45)
        assert len(world.dialled) <= 1 + 2 * 4


async def test_a_market_that_opens_is_given_time_for_its_first_tick(autojump_clock: MockClock) -> None:
    friday_ms = (open_since("EURUSD", SATURDAY_MS + 3 * 86_400_000) or 0) - (48 * 3600 + 600) * 1000
    async with feeding(sessions=open_since, starts_ms=friday_ms) as world:
        await world.subscribed()
        await world.stream(590)  # so that the connection is looked at 19 s after the opening
        for first in (48 * 3600 + 600 + 25, 48 * 3600 + 600 + 50):
            await world.until(first)
            world.standin.send([world.quote("EURUSD")])
        await world.until(48 * 3600 + 660)
        assert world.dialled == [0]
        assert len(world.ticks) == 1182


async def test_silence_is_no_stable_streaming(autojump_clock: MockClock) -> None:
    """One tick a connection, and never a sign of life again: the delays must grow."""
    async with feeding() as world:
        for n in range(1, 6):
            connection = await world.subscribed(n)
            await world.stream(1)
            connection.hush()
        waits = [round(b - a - 42, 3) for a, b in zip(world.dialled, world.dialled[1:], strict=False)]
        assert waits == [5, 10, 20, 40]


@pytest.mark.parametrize(("pongs", "most"), [(True, 1), (False, 2 + 4 * 4)])
async def test_a_weekend_is_no_storm(autojump_clock: MockClock, *, pongs: bool, most: int) -> None:
    standin = StandIn(key=KEY, script=Script(pongs=pongs))
    async with feeding(standin, sessions=open_since, starts_ms=SATURDAY_MS) as world:
        await world.subscribed()
        await world.until(4 * 3600)
        assert 1 <= len(world.dialled) <= most
        assert world.feed.snapshot().silent == ()
        assert {i.cause for i in world.interruptions} <= {"disconnect"}, "no symbol is mute while its market is closed"


async def test_a_stop_says_goodbye_at_once(autojump_clock: MockClock) -> None:
    async with feeding() as world:
        connection = await world.subscribed()
        await world.stream(5)
        world.feed.stop()
        await world.standin.until(lambda: not connection.open)
        assert world.now == 5
        assert connection.goodbye == 1000
        await trio.testing.wait_all_tasks_blocked()
        assert world.state == "stopped"
        assert world.interruptions == [], "the next run knows since when no collector ran"


@pytest.mark.parametrize("script", [Script(greeting=None), Script(login="ignore"), Script(login="refuse")])
async def test_a_stop_ends_every_state_in_time(autojump_clock: MockClock, script: Script) -> None:
    async with feeding(StandIn(key=KEY, script=script)) as world:
        await world.until(3)
    assert world.state == "stopped"
    assert world.now <= 5


async def test_a_stop_of_a_half_open_connection_takes_only_the_time_of_a_goodbye(autojump_clock: MockClock) -> None:
    async with feeding() as world:
        connection = await world.subscribed()
        await world.stream(5)
        connection.hush()
        await trio.testing.wait_all_tasks_blocked()
        world.feed.stop()
    assert world.state == "stopped"
    assert world.now == 7


async def test_a_full_channel_drops_and_counts_and_the_socket_is_read_on(autojump_clock: MockClock) -> None:
    with capture_logs() as told:
        async with feeding(judging=False, frames_max=1000) as world:
            connection = await world.subscribed()
            await world.stream(50)
            snapshot = world.feed.snapshot()
            assert snapshot.dropped_frames > 30
            *frames, interruption = await world.frames.receive_some(10**6)
            assert snapshot.frames == snapshot.dropped_frames + len(frames)
            assert interruption == Interruption("overflow", "the memory for messages was full"), (
                "though nothing came after"
            )
            assert connection.open
            assert snapshot.waiting_characters <= 1000
    said = [entry for entry in told if "dropped unjudged" in entry["event"]]
    assert [entry["dropped_before"] for entry in said] == [0], "once, not for each"


async def test_an_overflow_is_marked_where_the_loss_is_and_ends_when_there_is_room_to_spare(
    autojump_clock: MockClock,
) -> None:
    async with feeding(judging=False, frames_max=1600) as world:
        await world.subscribed()
        await world.frames.receive_some(10**6)
        weight = len(wire.encode([world.quote()]))  # the same for each
        room = 1600 // weight
        for _ in range(room + 1):
            await world.stream(1, "EURUSD")
        assert world.feed.snapshot().dropped_frames == 1
        (first,) = await world.frames.receive_some(1)
        await world.stream(1, "EURUSD")
        assert world.feed.snapshot().dropped_frames == 2, "it would fit, with little to spare"
        for _ in range(3):
            await world.frames.receive_some(1)
        await world.stream(6, "EURUSD")
        came = [first, *await world.frames.receive_some(10**6)]
        kinds = [type(item) for item in came]
        assert kinds.count(Interruption) == 2
        assert kinds.index(Interruption) == 1 + room - 4
        assert isinstance(came[-1], Interruption)
        at = [item.received_ms for item in came if isinstance(item, wire.Frame)]
        lost_between = at[kinds.index(Interruption)] - at[kinds.index(Interruption) - 1]
        assert lost_between == 3000
        assert world.state == "streaming"


BAD = {
    "garbage": "bad_frame",
    "no-array": "bad_frame",
    "empty": "bad_frame",
    "empty-array": None,
    "binary": "bad_frame",
    "null": "bad_event",
    "no-object": "bad_event",
    "unknown-event": "bad_event",
    "nothing-inside": "bad_event",
    "missing-field": "bad_field",
    "wrong-type": "bad_field",
    "nan": "price_not_finite",
    "infinite": "price_not_finite",
    "huge": "price_not_finite",
    "unknown-pair": "unknown_pair",
    "zero": "price_zero",
    "negative": "price_negative",
    "crossed": "crossed",
    "wide": "spread",
    "decimal-shift": "price_factor",
    "seconds": "timestamp_unit",
    "nanoseconds": "timestamp_unit",
    "future": "timestamp_future",
    "past": "timestamp_old",
}


async def test_every_bad_frame_is_one_reject_with_its_reason_and_costs_nothing_else(autojump_clock: MockClock) -> None:
    async with feeding() as world:
        connection = await world.subscribed()
        await world.stream(3)
        world.rejects.clear()
        for n, (name, bad) in enumerate(bad_frames(world.quote()).items()):
            connection.send(bad)
            await trio.sleep(1)
            found = [r.reason for r in world.rejects]
            expected = [BAD[name]] if BAD[name] else []
            assert found == expected, name
            world.rejects.clear()
            await world.stream(1)
            assert len(world.ticks) == 6 + 2 * (n + 1)
        assert set(BAD) == set(bad_frames(world.quote()))
        assert world.dialled == [0]


async def test_odd_frames_are_delivered_as_far_as_they_are_right(autojump_clock: MockClock) -> None:
    came: dict[str, tuple[list[tuple[bool, bool]], list[str]]] = {}
    async with feeding() as world:
        connection = await world.subscribed()
        await world.stream(10)
        for name in odd_frames(world.quote()):
            await trio.sleep(10)
            ticks, rejects = len(world.ticks), len(world.rejects)
            connection.send(odd_frames(world.quote())[name])
            await trio.testing.wait_all_tasks_blocked()
            came[name] = (
                [(tick.late, tick.suspect) for tick in world.ticks[ticks:]],
                [reject.reason for reject in world.rejects[rejects:]],
            )
            await world.stream(2)
        assert world.dialled == [0]
    plain = (False, False)
    assert came == {
        "repeat": ([plain], ["repeat"]),
        "late": ([plain, (True, False)], []),
        "jump": ([(False, True)], []),
        "locked": ([plain], []),
        "mixed": ([plain], []),
        "aggregate": ([plain], []),
    }


async def test_bad_elements_leave_their_neighbours_in_the_frame(autojump_clock: MockClock) -> None:
    async with feeding() as world:
        connection = await world.subscribed()
        await world.stream(3)
        for bad in bad_frames(world.quote("XAUUSD")).values():
            if not (isinstance(bad, str) and bad.startswith("[") and len(bad) > 2):
                continue
            await trio.sleep(1)
            before = len(world.ticks)
            good = world.quote("EURUSD")
            text = wire.encode([good])[1:-1]
            connection.send(f'[{text}, {bad[1:-1]}, {{"ev":"status","status":"whatever","message":"between"}}]')
            await trio.testing.wait_all_tasks_blocked()
            assert [t.symbol for t in world.ticks[before:]] == ["EURUSD"], bad
        assert world.dialled == [0]


async def test_statuses_in_the_middle_of_a_stream_are_heard_and_end_nothing(autojump_clock: MockClock) -> None:
    async with feeding() as world:
        connection = await world.subscribed()
        await world.stream(3)
        with capture_logs() as logs:
            for status in ("error", "connected", "auth_success", "maintenance"):
                connection.status(status, "something")
            await world.stream(3)
        assert [(e["status"], e["message"]) for e in logs if "status" in e] == [("maintenance", "something")]
        assert [e["endpoint"] for e in logs if "endpoint" in e] == [f"{URL} subscribe"]
        assert world.dialled == [0]
        assert len(world.ticks) == 12
        assert world.feed.snapshot().refusals == ("something",)
        assert set(PRICES) == {t.symbol for t in world.ticks}
