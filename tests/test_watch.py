"""What is decided for silent symbols, on a clock set by hand."""

import math
from itertools import pairwise

import pytest

from polygon_live.calendar import Sessions, always_open, open_since
from polygon_live.habit import MUTE_SECONDS
from polygon_live.watch import (
    ACK_SECONDS,
    ADDED_SECONDS,
    LOOK_AGAIN_SECONDS,
    Decision,
    SymbolWatch,
)

SATURDAY_MS = 1_780_750_000_000  # 2026-06-06 12:46 UTC
BOTH = {"EURUSD", "XAUUSD"}


class World:
    def __init__(self, sessions: Sessions = always_open) -> None:
        self.now = 0.0
        self.again = math.inf
        self.heard = dict.fromkeys(("EURUSD", "XAUUSD"), -math.inf)
        self.usual: dict[str, float] = {}
        self.watch = SymbolWatch(
            self.heard,
            heard=self.heard.__getitem__,
            last_tick=lambda: max(self.heard.values()),
            usual=lambda symbol, _opened_ms: self.usual.get(symbol),
            wall_ms=lambda: SATURDAY_MS + round(self.now * 1000),
            sessions=sessions,
        )

    def at(self, now: float, acknowledged: set[str] = BOTH) -> Decision:
        """Ask as often as the watch wants to be asked, the last time at ``now``; nothing may be due before."""
        while self.again < now:
            self.now = self.again
            self.again = self._decide(acknowledged).ask_again
        self.now = now
        decision = self.watch.decide(acknowledged, now)
        self.again = decision.ask_again
        return decision

    def _decide(self, acknowledged: set[str]) -> Decision:
        decision = self.watch.decide(acknowledged, self.now)
        assert nothing(decision), f"at {self.now}: {decision}"
        return decision

    def subscribed(self, now: float) -> None:
        self.again = math.inf
        self.watch.connected()
        self.watch.asked(list(self.heard), now)

    def tick(self, symbol: str, now: float) -> None:
        self.heard[symbol] = now


def nothing(decision: Decision) -> bool:
    return not (decision.resubscribe or decision.reconnect or decision.report or decision.added_silent)


def test_one_symbol_without_acknowledgement_is_resubscribed_then_reconnected_once_then_reported() -> None:
    world = World()
    world.subscribed(0.0)
    first = world.at(0.0, {"EURUSD"})
    assert nothing(first)
    assert first.ask_again == ACK_SECONDS
    assert world.at(10.0, {"EURUSD"}).resubscribe == ("XAUUSD",)
    assert nothing(world.at(19.9, {"EURUSD"}))
    assert world.at(20.0, {"EURUSD"}).reconnect == ("XAUUSD",)
    world.subscribed(30.0)
    assert world.at(40.0, {"EURUSD"}).report == ("XAUUSD",)
    assert world.watch.silent() == ("XAUUSD",)
    for later in (41.0, 100.0, 200.0):
        assert nothing(world.at(later, {"EURUSD"}))


def test_acknowledged_and_mute_takes_the_same_steps() -> None:
    world = World()
    world.subscribed(0.0)
    world.tick("EURUSD", 1.0)
    world.tick("XAUUSD", 5.0)
    for now in (100.0, 200.0, 300.0):
        world.tick("EURUSD", now)
        assert nothing(world.at(now))
    world.tick("EURUSD", 305.0)
    assert world.at(5.0 + MUTE_SECONDS).resubscribe == ("XAUUSD",)
    world.tick("EURUSD", 605.0)
    assert world.at(305.0 + MUTE_SECONDS).reconnect == ("XAUUSD",)
    world.subscribed(610.0)
    world.tick("EURUSD", 910.0)
    assert world.at(610.0 + MUTE_SECONDS).report == ("XAUUSD",)


def test_a_tick_undoes_it_all() -> None:
    world = World()
    world.subscribed(0.0)
    world.at(10.0, {"EURUSD"})
    world.at(20.0, {"EURUSD"})
    world.subscribed(30.0)
    world.at(40.0, {"EURUSD"})
    world.tick("EURUSD", 50.0)
    world.tick("XAUUSD", 50.0)
    assert world.watch.silent() == ()
    assert nothing(world.at(51.0, {"EURUSD"})), "a tick proves the subscription, whatever was acknowledged"
    world.tick("EURUSD", 350.0)
    assert world.at(350.0).resubscribe == ("XAUUSD",), "from the beginning"


def test_for_a_symbol_that_seldom_ticks_the_others_are_not_interrupted_twice_an_hour() -> None:
    world = World()
    world.subscribed(0.0)
    reconnects, reported = [], 0
    for now in range(0, 3 * 3600, 10):
        world.tick("EURUSD", now)
        if now % 660 == 0:
            world.tick("XAUUSD", now)
        decision = world.at(now)
        reported += len(decision.report)
        if decision.reconnect:
            reconnects.append(now)
            world.subscribed(now)
    assert len(reconnects) == 3
    assert all(b - a >= 3600 for a, b in pairwise(reconnects))
    assert reported > 5


def test_a_closed_market_is_silent_for_good_reason_and_its_opening_starts_the_clock() -> None:
    world = World(open_since)
    world.subscribed(0.0)
    decision = world.at(30_000.0)
    assert nothing(decision)
    assert decision.ask_again == 30_000.0 + LOOK_AGAIN_SECONDS
    opening = (open_since("EURUSD", SATURDAY_MS + 3 * 86_400_000) or 0) / 1000 - SATURDAY_MS / 1000
    assert nothing(world.at(opening + MUTE_SECONDS - 1))
    world.tick("XAUUSD", opening + MUTE_SECONDS)
    assert world.at(opening + MUTE_SECONDS).resubscribe == ("EURUSD",)


def test_a_reconnect_for_silence_counts_for_every_symbol() -> None:
    world = World()
    world.subscribed(0.0)
    world.watch.reconnecting(35.0)
    world.subscribed(40.0)
    world.tick("EURUSD", 40.0 + MUTE_SECONDS)
    assert world.at(40.0 + MUTE_SECONDS).report == ("XAUUSD",)


def test_an_added_symbol_has_its_time_and_is_told_once_and_never_reconnected_for() -> None:
    world = World()
    world.subscribed(0.0)
    world.heard["EURAUD"] = -math.inf
    assert world.watch.want([*BOTH, "EURAUD"]) == ["EURAUD"]
    assert world.watch.added() == ("EURAUD",), "though it was not asked for yet"
    assert nothing(world.at(5.0)), "its time has not begun"
    world.watch.asked(["EURAUD"], 100.0)
    for symbol in BOTH:
        world.tick(symbol, 100.0)
    assert world.at(110.0).resubscribe == ("EURAUD",)
    world.watch.asked(["EURAUD"], 110.0)
    assert nothing(world.at(159.9))
    told = world.at(160.0)
    assert told == Decision((), (), (), ("EURAUD",), 160.0 + LOOK_AGAIN_SECONDS)
    assert told.silent == ("EURAUD",)
    assert (world.watch.added(), world.watch.added_silent(), world.watch.silent()) == ((), ("EURAUD",), ())
    for now in range(200, 20_000, 100):
        for symbol in BOTH:
            world.tick(symbol, now)
        assert nothing(world.at(now))
    world.watch.reconnecting(20_000.0)
    world.subscribed(20_010.0)
    assert nothing(world.at(20_020.0))
    assert world.watch.added_silent() == ("EURAUD",)
    world.tick("EURAUD", 20_030.0)
    assert world.watch.added_silent() == ()


def test_an_added_symbol_that_is_acknowledged_is_asked_for_anew_when_its_time_is_over() -> None:
    world = World()
    world.subscribed(0.0)
    world.heard["EURAUD"] = -math.inf
    world.watch.want([*BOTH, "EURAUD"])
    world.watch.asked(["EURAUD"], 10.0)
    every = {*BOTH, "EURAUD"}
    assert world.at(10.0, every).ask_again == 10.0 + ADDED_SECONDS
    over = world.at(70.0, every)
    assert (over.resubscribe, over.added_silent) == (("EURAUD",), ("EURAUD",))


def test_once_it_has_ticked_an_added_symbol_is_one_like_the_others() -> None:
    world = World()
    world.subscribed(0.0)
    world.heard["EURAUD"] = -math.inf
    world.watch.want([*BOTH, "EURAUD"])
    world.watch.asked(["EURAUD"], 10.0)
    every = {*BOTH, "EURAUD"}
    world.tick("EURAUD", 11.0)
    for now in (12.0, 311.0, 611.0):
        for symbol in BOTH:
            world.tick(symbol, now)
        decision = world.at(now, every)
    assert decision.reconnect == ("EURAUD",)


def test_an_added_symbol_counts_from_when_each_connection_was_asked_for_it() -> None:
    world = World()
    world.watch.want([*BOTH, "EURAUD"])
    world.heard["EURAUD"] = -math.inf
    world.watch.reconnecting(5.0)
    world.subscribed(10.0)
    assert nothing(world.at(19.9, BOTH))
    assert world.at(20.0, BOTH).resubscribe == ("EURAUD",), "a reconnect for silence was not for it"
    world.subscribed(50.0)
    for symbol in BOTH:
        world.tick(symbol, 51.0)
    assert world.at(60.0, BOTH).resubscribe == ("EURAUD",)
    assert world.at(110.0, BOTH).added_silent == ("EURAUD",)


def test_one_that_is_no_longer_wanted_is_no_longer_watched() -> None:
    world = World()
    world.subscribed(0.0)
    world.at(10.0, {"EURUSD"})
    world.at(20.0, {"EURUSD"})
    world.subscribed(30.0)
    assert world.at(40.0, {"EURUSD"}).report == ("XAUUSD",)
    assert world.watch.want(["EURUSD"]) == []
    assert world.watch.silent() == ()
    world.watch.asked(["XAUUSD"], 50.0)
    assert world.watch.want(BOTH) == ["XAUUSD"]
    assert world.watch.added() == ("XAUUSD",), "from the beginning"


def test_for_symbols_that_tick_seldom_the_connection_is_made_anew_once_an_hour_and_not_for_each() -> None:
    seldom = [f"{code}USD" for code in ("AAA", "BBB", "CCC", "DDD", "EEE", "FFF")]
    world = World()
    world.heard |= dict.fromkeys(seldom, -math.inf)
    world.usual["EURUSD"] = 2.0
    world.watch.want(world.heard)
    world.subscribed(0.0)
    reconnects = []
    for now in range(6 * 3600):
        world.now = float(now)
        for symbol in BOTH:
            world.tick(symbol, world.now)
        for n, symbol in enumerate(seldom):
            if now % 1500 == 250 * n:
                world.tick(symbol, world.now)
        if world.watch.decide(set(world.heard), world.now).reconnect:
            reconnects.append(now)
            world.subscribed(world.now)
    assert len(reconnects) in {5, 6}
    assert all(b - a >= 3600 for a, b in pairwise(reconnects))


def test_who_is_known_to_tick_often_need_not_wait_for_those_of_whom_nothing_is_known() -> None:
    world = World()
    world.usual["EURUSD"] = 2.0
    world.subscribed(0.0)
    world.at(10.0, {"EURUSD"})
    assert world.at(20.0, {"EURUSD"}).reconnect == ("XAUUSD",)
    world.subscribed(25.0)
    for now in range(26, 100):
        world.tick("EURUSD", float(now))
    reconnects: list[str] = []
    for now in range(100, 1200):
        world.now = float(now)
        world.tick("XAUUSD", world.now)
        reconnects += world.watch.decide(BOTH, world.now).reconnect
    assert reconnects == ["EURUSD"]


@pytest.mark.parametrize("waited_for_something_else", [True, False])
def test_who_was_late_because_he_asked_polygon_has_heard_all_the_same(waited_for_something_else: bool) -> None:
    world = World()
    world.usual["EURUSD"] = world.usual["XAUUSD"] = 2.0
    world.subscribed(0.0)
    for now in range(1, 55):
        world.now = float(now)
        world.tick("EURUSD", world.now)
        if now < 5:
            world.tick("XAUUSD", world.now)
        decision = world.watch.decide(BOTH, world.now)
    assert not decision.resubscribe
    if waited_for_something_else:
        world.watch.listened()
    world.now = 84.0
    world.tick("EURUSD", world.now)
    assert bool(world.watch.decide(BOTH, world.now).resubscribe) is waited_for_something_else
