"""What is decided for silent symbols, on a clock set by hand."""

import math
from itertools import pairwise

from polygon_live.calendar import always_open, open_since
from polygon_live.watch import ACK_SECONDS, LOOK_AGAIN_SECONDS, MUTE_SECONDS, Decision, SymbolWatch

SATURDAY_MS = 1_780_750_000_000  # 2026-06-06 12:46 UTC
BOTH = {"EURUSD", "XAUUSD"}


class World:
    def __init__(self, sessions: object = always_open) -> None:
        self.now = 0.0
        self.heard = dict.fromkeys(("EURUSD", "XAUUSD"), -math.inf)
        self.watch = SymbolWatch(
            self.heard,
            self.heard.__getitem__,
            lambda: SATURDAY_MS + round(self.now * 1000),
            sessions,  # type: ignore[arg-type]
        )

    def at(self, now: float, acknowledged: set[str] = BOTH) -> Decision:
        self.now = now
        return self.watch.decide(acknowledged, now)

    def tick(self, symbol: str, now: float) -> None:
        self.heard[symbol] = now


def nothing(decision: Decision) -> bool:
    return not (decision.resubscribe or decision.reconnect or decision.report)


def test_one_symbol_without_acknowledgement_is_resubscribed_then_reconnected_once_then_reported() -> None:
    world = World()
    world.watch.subscribed(0.0)
    first = world.at(0.0, {"EURUSD"})
    assert nothing(first)
    assert first.ask_again == ACK_SECONDS
    assert world.at(10.0, {"EURUSD"}).resubscribe == ("XAUUSD",)
    assert nothing(world.at(19.9, {"EURUSD"}))
    assert world.at(20.0, {"EURUSD"}).reconnect == ("XAUUSD",)
    world.watch.subscribed(30.0)
    assert world.at(40.0, {"EURUSD"}).report == ("XAUUSD",)
    assert world.watch.silent() == ("XAUUSD",)
    for later in (41.0, 100.0, 200.0):
        assert nothing(world.at(later, {"EURUSD"}))


def test_acknowledged_and_mute_takes_the_same_steps() -> None:
    world = World()
    world.watch.subscribed(0.0)
    world.tick("EURUSD", 1.0)
    world.tick("XAUUSD", 5.0)
    for now in (100.0, 200.0, 300.0):
        world.tick("EURUSD", now)
        assert nothing(world.at(now))
    world.tick("EURUSD", 305.0)
    assert world.at(5.0 + MUTE_SECONDS).resubscribe == ("XAUUSD",)
    world.tick("EURUSD", 600.0)
    assert world.at(305.0 + MUTE_SECONDS).reconnect == ("XAUUSD",)
    world.watch.subscribed(610.0)
    world.tick("EURUSD", 900.0)
    assert world.at(610.0 + MUTE_SECONDS).report == ("XAUUSD",)


def test_a_tick_undoes_it_all() -> None:
    world = World()
    world.watch.subscribed(0.0)
    world.at(10.0, {"EURUSD"})
    world.at(20.0, {"EURUSD"})
    world.watch.subscribed(30.0)
    world.at(40.0, {"EURUSD"})
    world.tick("EURUSD", 50.0)
    world.tick("XAUUSD", 50.0)
    assert world.watch.silent() == ()
    assert nothing(world.at(51.0, {"EURUSD"})), "a tick proves the subscription, whatever was acknowledged"
    world.tick("EURUSD", 349.0)
    assert world.at(350.0).resubscribe == ("XAUUSD",), "from the beginning"


def test_for_a_symbol_that_seldom_ticks_the_others_are_not_interrupted_twice_an_hour() -> None:
    world = World()
    world.watch.subscribed(0.0)
    reconnects, reported = [], 0
    for now in range(0, 3 * 3600, 10):
        world.tick("EURUSD", now)
        if now % 660 == 0:
            world.tick("XAUUSD", now)
        decision = world.at(now)
        reported += len(decision.report)
        if decision.reconnect:
            reconnects.append(now)
            world.watch.subscribed(now)
    assert len(reconnects) == 3
    assert all(b - a >= 3600 for a, b in pairwise(reconnects))
    assert reported > 5


def test_a_closed_market_is_silent_for_good_reason_and_its_opening_starts_the_clock() -> None:
    world = World(open_since)
    world.watch.subscribed(0.0)
    decision = world.at(30_000.0)
    assert nothing(decision)
    assert decision.ask_again == 30_000.0 + LOOK_AGAIN_SECONDS
    opening = (open_since("EURUSD", SATURDAY_MS + 3 * 86_400_000) or 0) / 1000 - SATURDAY_MS / 1000
    assert nothing(world.at(opening + MUTE_SECONDS - 1))
    assert world.at(opening + MUTE_SECONDS).resubscribe == ("EURUSD",)


def test_a_reconnect_for_silence_counts_for_every_symbol() -> None:
    world = World()
    world.watch.subscribed(0.0)
    world.watch.reconnecting(35.0)
    world.watch.subscribed(40.0)
    assert world.at(40.0 + MUTE_SECONDS).report == ("EURUSD", "XAUUSD")
