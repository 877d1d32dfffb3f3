"""What is done about a connection on which nothing comes, on a clock set by hand."""

import math

from polygon_live.silence import (
    ASK_AGAIN_SECONDS,
    QUIET_SECONDS,
    TOLD_SECONDS,
    UNVOUCHED_SECONDS,
    Answer,
    Silence,
    Step,
)


class World:
    def __init__(self) -> None:
        self.last_tick = -math.inf
        self.silence = Silence(lambda: self.last_tick)

    def word(self) -> str:
        return self.silence.word

    def at(self, now: float, *, alive: bool = True, odd: bool | None = True) -> Step:
        step = self.silence.step(now, alive=alive, odd=odd)
        if step == "reconnect":
            self.silence.reconnecting(now)
        return step

    def answer(self, answer: Answer, now: float) -> None:
        self.silence.answered(answer, f"said {answer}", now)


def tried(now: float = 100.0) -> World:
    """One new connection was of no use."""
    world = World()
    assert world.at(now - 40) == "reconnect"
    assert world.word() == "odd"
    assert world.at(now) == "ask"
    return world


def test_what_is_not_odd_is_left_alone() -> None:
    world = World()
    assert world.at(100, odd=False) == "leave"
    assert world.at(100, odd=None) == "leave"
    assert world.word() == "none"


def test_closed_is_quiet_and_asked_again() -> None:
    world = tried()
    world.answer("closed", 100)
    assert world.word() == "quiet"
    assert [world.at(n) for n in range(130, 400, 30)] == ["leave"] * 9
    assert world.at(100 + ASK_AGAIN_SECONDS) == "ask"
    world.answer("closed", 100 + ASK_AGAIN_SECONDS)
    assert world.at(100 + ASK_AGAIN_SECONDS) == "leave"
    assert world.at(100 + QUIET_SECONDS, alive=False) == "ask"
    world.answer("closed", 100 + QUIET_SECONDS)
    assert world.at(100 + QUIET_SECONDS, alive=False) == "reconnect", "it may be half-open"


def test_unknown_is_quiet_with_a_new_connection_an_hour() -> None:
    world = tried()
    now, reconnects = 100.0, []
    while now < 60 + 3 * UNVOUCHED_SECONDS:
        step = world.at(now)
        if step == "ask":
            world.answer("unknown", now)
        elif step == "reconnect":
            reconnects.append(now)
        assert world.word() in {"odd", "quiet"}
        now += 30
    assert len(reconnects) == 2


def test_open_is_one_alarm_and_a_new_connection_every_quarter_of_an_hour() -> None:
    world = tried()
    world.answer("open", 100)
    assert world.word() == "alarm"
    assert world.at(130) == "leave"
    assert world.at(130, alive=False) == "reconnect"
    assert world.at(400) == "ask"
    world.answer("closed", 400)
    assert world.word() == "quiet", "it thinks better of it"
    world.answer("open", 700)
    assert world.word() == "alarm"


def test_a_market_that_was_closed_and_opens_has_another_connection_before_the_alarm() -> None:
    world = tried()
    world.answer("closed", 100)
    opens = 100 + 2 * QUIET_SECONDS
    assert world.at(opens) == "ask"
    world.answer("open", opens)
    assert world.word() == "odd"
    assert world.at(opens) == "reconnect"
    assert world.at(opens + 30) == "leave"
    assert world.at(opens + ASK_AGAIN_SECONDS) == "ask"
    world.answer("open", opens + ASK_AGAIN_SECONDS)
    assert world.word() == "alarm"


def test_a_tick_ends_it_and_a_new_silence_begins_anew() -> None:
    world = tried()
    world.answer("open", 100)
    world.last_tick = 5000
    assert world.word() == "none"
    assert world.at(5030) == "reconnect"
    assert world.word() == "odd"


def test_a_tick_now_and_then_on_a_holiday_costs_no_connection() -> None:
    world = tried()
    world.answer("closed", 100)
    for now in range(1000, 20_000, 1000):
        world.last_tick = now
        assert world.word() == "none"
        assert world.at(now + 30) == "ask"
        world.answer("closed", now + 30)
        assert world.at(now + 30) == "leave"
        assert world.word() == "quiet"


def test_a_half_open_connection_is_made_anew_at_once_each_time() -> None:
    world = tried()
    world.answer("unknown", 100)
    for now in (200, 300, 400):
        world.last_tick = now
        assert world.at(now + 40, alive=False) == "reconnect"


def test_an_answer_is_worth_something_for_an_hour() -> None:
    world = tried()
    world.answer("closed", 100)
    assert world.silence.said(99 + TOLD_SECONDS) == "said closed"
    assert world.silence.said(100 + TOLD_SECONDS) == ""
    world.last_tick = 200
    assert world.at(100 + TOLD_SECONDS) == "reconnect"


def test_a_closed_market_is_made_anew_only_where_it_answers_no_ping() -> None:
    world = World()
    assert world.at(100, alive=False, odd=None) == "reconnect"
    assert world.at(100 + QUIET_SECONDS - 1, alive=False, odd=None) == "leave"
    assert world.at(100 + QUIET_SECONDS, alive=False, odd=None) == "reconnect"
    assert world.word() == "none"
