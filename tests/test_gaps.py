"""The gap book by hand, and against a market in which every tick that nobody heard is known."""

import math
import random
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from polygon_live.calendar import Stretches, all_of_it, open_stretches
from polygon_live.gap import Gap
from polygon_live.gaps import MARKET_CLOSED, GapBook
from polygon_live.model import Interruption, Tick, canonical_symbol
from polygon_live.standin import Script
from polygon_live.standin.faults import ENDINGS
from tests.feeding import PRICES, feeding

TUESDAY = 1_780_401_600_000  # 2026-06-02 12:00 UTC
SYMBOLS = ("EURUSD", "USDJPY", "XAUUSD")
CUT = Interruption("disconnect", "cut")


def ny(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("America/New_York")).timestamp() * 1000)


class Ledger:
    """A book in use: what it hands out is kept by id, as the pipeline does it with the real ledger."""

    def __init__(
        self, newest: dict[str, int] | None = None, lasting: Iterable[Gap] = (), stretches: Stretches = open_stretches
    ) -> None:
        self.book = GapBook(newest or {}, lasting, stretches)
        self.entries = {gap.id: gap for gap in lasting}
        self.seq = 0

    def interrupted(self, interruption: Interruption, now_ms: int, symbols: Sequence[str] = SYMBOLS) -> list[Gap]:
        entered = [self._enter(gap) for gap in self.book.interrupted(interruption, symbols, now_ms)]
        self.book.entered(entered)
        return entered

    def tick(self, symbol: str, at_ms: int, received_ms: int | None = None, *, late: bool = False) -> list[Gap]:
        return self.ticks([self.made(symbol, at_ms, received_ms, late=late)])

    def ticks(self, ticks: Sequence[Tick]) -> list[Gap]:
        ended = self.book.accepted(ticks)
        for gap in ended:
            if gap.id:
                self.entries[gap.id] = gap
            else:
                self._enter(gap)
        return ended

    def made(self, symbol: str, at_ms: int, received_ms: int | None = None, *, late: bool = False) -> Tick:
        self.seq += 1
        received_ms = at_ms if received_ms is None else received_ms
        return Tick(symbol, 1, 1, 1, 0, at_ms, at_ms, 48, "", "", self.seq, received_ms, late)

    def covers(self, symbol: str, at_ms: int) -> bool:
        mine = [gap for gap in self.entries.values() if gap.symbol == symbol]
        return any(gap.from_ms <= at_ms and (gap.to_ms is None or at_ms <= gap.to_ms) for gap in mine)

    def assert_no_overlap(self) -> None:
        """Two may meet in one tick. What lies in closed hours overlaps nothing."""
        real = [gap for gap in self.entries.values() if gap.state != "empty"]
        for symbol in {gap.symbol for gap in real}:
            mine = sorted((g.from_ms, math.inf if g.to_ms is None else g.to_ms) for g in real if g.symbol == symbol)
            assert all(begin <= end for begin, end in mine)
            assert all(end <= begin for (_, end), (begin, _) in pairwise(mine)), mine

    def _enter(self, gap: Gap) -> Gap:
        assert gap.id == 0
        gap = attrs.evolve(gap, id=len(self.entries) + 1)
        self.entries[gap.id] = gap
        return gap


def test_an_entry_goes_from_the_last_tick_before_to_the_first_after() -> None:
    ledger = Ledger()
    ledger.tick("EURUSD", TUESDAY)
    ledger.tick("EURUSD", TUESDAY + 500)
    (gap,) = ledger.interrupted(CUT, TUESDAY + 900)
    assert (gap.symbol, gap.cause, gap.detail) == ("EURUSD", "disconnect", "cut")
    assert (gap.from_ms, gap.to_ms, gap.state, gap.opened_ms) == (TUESDAY + 500, None, "open", TUESDAY + 900)
    assert ledger.book.lasting == (gap,)
    assert ledger.tick("USDJPY", TUESDAY + 6000) == []
    (ended,) = ledger.tick("EURUSD", TUESDAY + 7000)
    assert ended == attrs.evolve(gap, to_ms=TUESDAY + 7000, last_seq=4)
    assert not ledger.book.lasting
    assert ledger.tick("EURUSD", TUESDAY + 8000) == []


def test_of_several_ticks_that_come_together_the_first_ends_it() -> None:
    ledger = Ledger()
    ledger.tick("EURUSD", TUESDAY)
    ledger.interrupted(CUT, TUESDAY)
    several = [ledger.made(s, TUESDAY + n) for n in range(1, 5) for s in ("USDJPY", "EURUSD")]
    (ended,) = ledger.ticks(several)
    assert (ended.to_ms, ended.last_seq) == (TUESDAY + 1, several[1].seq)
    (next_gap,) = ledger.interrupted(Interruption("mute", "", ["EURUSD"]), TUESDAY + 9)
    assert next_gap.from_ms == TUESDAY + 4


def test_a_symbol_whose_entry_lasts_gets_no_second_one() -> None:
    ledger = Ledger()
    ledger.tick("EURUSD", TUESDAY)
    ledger.tick("XAUUSD", TUESDAY)
    (mute,) = ledger.interrupted(Interruption("mute", "silent", ["XAUUSD"]), TUESDAY + 300_000)
    cut = ledger.interrupted(CUT, TUESDAY + 400_000)
    assert [gap.symbol for gap in cut] == ["EURUSD"]
    assert ledger.interrupted(Interruption("overflow", ""), TUESDAY + 400_001) == []
    ledger.tick("XAUUSD", TUESDAY + 500_000)
    assert ledger.entries[mute.id] == attrs.evolve(mute, to_ms=TUESDAY + 500_000, last_seq=3)
    assert ledger.book.lasting == tuple(cut)


def test_of_a_symbol_that_never_ticked_nothing_is_known_to_be_missing() -> None:
    ledger = Ledger()
    assert ledger.interrupted(CUT, TUESDAY) == []
    assert ledger.interrupted(Interruption("mute", "", ["EURUSD"]), TUESDAY) == []
    assert ledger.tick("EURUSD", TUESDAY + 1) == []


def test_an_interruption_of_no_symbol_is_none() -> None:
    ledger = Ledger({"EURUSD": TUESDAY})
    assert ledger.interrupted(Interruption("mute", "", []), TUESDAY) == []


def test_no_moment_between_two_ticks_is_too_short() -> None:
    ledger = Ledger()
    ledger.tick("EURUSD", TUESDAY)
    ledger.interrupted(CUT, TUESDAY)
    (ended,) = ledger.tick("EURUSD", TUESDAY)
    assert (ended.from_ms, ended.to_ms, ended.state) == (TUESDAY, TUESDAY, "open")


def test_a_late_tick_proves_that_somebody_listens_and_not_since_when() -> None:
    ledger = Ledger()
    ledger.tick("EURUSD", TUESDAY)
    (gap,) = ledger.interrupted(CUT, TUESDAY + 1)
    assert ledger.tick("EURUSD", TUESDAY - 10, late=True) == []
    assert ledger.tick("EURUSD", TUESDAY - 10) == [], "as after a start, when nobody knows that it is late"
    assert ledger.interrupted(CUT, TUESDAY + 2) == []
    (ended,) = ledger.tick("EURUSD", TUESDAY + 5000)
    assert (ended.id, ended.from_ms, ended.to_ms) == (gap.id, TUESDAY, TUESDAY + 5000)


def test_a_late_tick_is_not_the_last_one_before() -> None:
    ledger = Ledger()
    ledger.tick("EURUSD", TUESDAY)
    ledger.tick("EURUSD", TUESDAY - 3_600_000, late=True)
    assert ledger.interrupted(CUT, TUESDAY)[0].from_ms == TUESDAY


def test_a_timestamp_far_ahead_hides_no_gap() -> None:
    hour = 3_600_000
    ledger = Ledger({"EURUSD": TUESDAY + hour})
    (gap,) = ledger.interrupted(Interruption("downtime", ""), TUESDAY)
    assert gap.from_ms == TUESDAY
    (ended,) = ledger.tick("EURUSD", TUESDAY + 60_000 + hour, TUESDAY + 60_000)
    assert ended.to_ms == TUESDAY + 60_000 + hour
    (gap,) = ledger.interrupted(CUT, TUESDAY + 61_000)
    assert gap.from_ms == TUESDAY + 60_000
    assert ledger.tick("EURUSD", TUESDAY + 70_000, late=True) == []
    (ended,) = ledger.tick("EURUSD", TUESDAY + 71_000)
    assert (ended.from_ms, ended.to_ms) == (TUESDAY + 60_000, TUESDAY + 71_000)


def test_a_clock_that_is_a_little_behind_is_no_reason_to_doubt() -> None:
    ledger = Ledger()
    ledger.tick("EURUSD", TUESDAY, TUESDAY - 4000)
    assert ledger.interrupted(CUT, TUESDAY - 4000)[0].from_ms == TUESDAY
    assert Ledger({"EURUSD": TUESDAY}).interrupted(CUT, TUESDAY - 4000)[0].from_ms == TUESDAY


def test_a_restart_goes_on_with_what_lasts() -> None:
    lasting = [
        Gap(3, "EURUSD", "disconnect", TUESDAY, None, detail="cut"),
        Gap(4, "*", "given_up", TUESDAY, None, store="nats"),
        Gap(5, "USDJPY", "downtime", TUESDAY, TUESDAY + 5),
    ]
    ledger = Ledger({"EURUSD": TUESDAY, "USDJPY": TUESDAY + 50}, lasting)
    assert ledger.book.lasting == (lasting[0],), "the others are nobody's business here"
    (new,) = ledger.interrupted(Interruption("downtime", "restart"), TUESDAY + 60)
    assert (new.symbol, new.from_ms) == ("USDJPY", TUESDAY + 50)
    (ended,) = ledger.tick("EURUSD", TUESDAY + 100)
    assert ended == attrs.evolve(lasting[0], to_ms=TUESDAY + 100, last_seq=1)


def test_two_lasting_entries_of_a_symbol_both_end() -> None:
    lasting = [Gap(n, "EURUSD", "disconnect", TUESDAY + n, None) for n in (1, 2)]
    assert [gap.id for gap in Ledger({}, lasting).tick("EURUSD", TUESDAY + 3)] == [1, 2]


def test_what_the_ledger_could_not_take_is_handed_out_again_when_it_ends() -> None:
    book = GapBook({"EURUSD": TUESDAY}, [])
    (gap,) = book.interrupted(CUT, SYMBOLS, TUESDAY)
    (ended,) = book.accepted([Ledger().made("EURUSD", TUESDAY + 5)])
    assert ended == attrs.evolve(gap, to_ms=TUESDAY + 5, last_seq=1)
    assert ended.id == 0


def test_entries_of_symbols_that_are_no_longer_collected_end_as_unfillable() -> None:
    ledger = Ledger({"EURUSD": TUESDAY, "USDJPY": TUESDAY})
    first, second = ledger.interrupted(CUT, TUESDAY)
    (ended,) = ledger.book.no_longer({"USDJPY"}, TUESDAY + 9000)
    assert ended == attrs.evolve(
        first, to_ms=TUESDAY + 9000, state="unfillable", detail="cut; the symbol is no longer collected"
    )
    assert ledger.book.lasting == (second,)
    assert ledger.book.no_longer(SYMBOLS, TUESDAY + 9000) == []


def test_a_weekend_is_cut_out() -> None:
    friday, sunday = ny("2026-06-05T17:00:00"), ny("2026-06-07T17:00:00")
    ledger = Ledger({"EURUSD": friday - 300})
    (gap,) = ledger.interrupted(CUT, friday + 5)
    first, second = ledger.tick("EURUSD", sunday + 4000)
    assert (first.id, first.from_ms, first.to_ms) == (gap.id, friday - 300, friday)
    assert (second.id, second.from_ms, second.to_ms, second.cause) == (0, sunday, sunday + 4000, "disconnect")
    assert first.last_seq == second.last_seq == 1


def test_the_metals_break_is_cut_out_day_by_day() -> None:
    ledger = Ledger({"XAUUSD": ny("2026-06-08T12:00:00"), "EURUSD": ny("2026-06-08T12:00:00")})
    ledger.interrupted(CUT, ny("2026-06-08T12:00:01"))
    (whole,) = ledger.tick("EURUSD", ny("2026-06-10T09:00:00"))
    assert (whole.from_ms, whole.to_ms) == (ny("2026-06-08T12:00:00"), ny("2026-06-10T09:00:00"))
    assert [(g.from_ms, g.to_ms) for g in ledger.tick("XAUUSD", ny("2026-06-10T09:00:00"))] == [
        (ny("2026-06-08T12:00:00"), ny("2026-06-08T17:00:00")),
        (ny("2026-06-08T18:00:00"), ny("2026-06-09T17:00:00")),
        (ny("2026-06-09T18:00:00"), ny("2026-06-10T09:00:00")),
    ]


def test_what_lay_in_closed_hours_alone_is_empty() -> None:
    saturday = ny("2026-06-06T12:00:00")
    ledger = Ledger({"EURUSD": saturday})
    (gap,) = ledger.interrupted(CUT, saturday)
    (ended,) = ledger.tick("EURUSD", saturday + 1000)
    assert ended == attrs.evolve(gap, to_ms=saturday + 1000, last_seq=1, state="empty", detail=MARKET_CLOSED)
    unentered = GapBook({"EURUSD": saturday}, [])
    unentered.interrupted(CUT, SYMBOLS, saturday)
    (told,) = unentered.accepted([ledger.made("EURUSD", saturday + 2000)])  # it may be in the ledger, and nobody knows
    assert (told.id, told.state) == (0, "empty")
    assert not unentered.lasting


def test_an_entry_whose_symbol_ticked_before_a_kill_ends_there() -> None:
    noon = ny("2026-06-08T12:00:00")
    lasting = [Gap(n, s, "disconnect", noon, None) for n, s in enumerate(("EURUSD", "XAUUSD"), start=7)]
    book = GapBook({"EURUSD": noon + 5000, "XAUUSD": noon}, lasting)
    assert book.overtaken({"EURUSD": 12, "XAUUSD": 3}) == [attrs.evolve(lasting[0], to_ms=noon + 5000, last_seq=12)]
    assert book.lasting == (lasting[1],)


def test_what_a_power_cut_took_before_an_entry_began_belongs_to_it() -> None:
    """The entry was on the disk at once, the tick that it begins with was not."""
    cut, kept, unknown = (
        Gap(n, symbol, "overflow", TUESDAY, None) for n, symbol in enumerate(("EURUSD", "USDJPY", "XAUUSD"), start=1)
    )
    book = GapBook({"EURUSD": TUESDAY - 700, "USDJPY": TUESDAY}, [cut, kept, unknown])
    longer = attrs.evolve(cut, from_ms=TUESDAY - 700)
    assert book.overtaken({"EURUSD": 12, "USDJPY": 13}) == [longer]
    assert book.lasting == (longer, kept, unknown)
    assert book.interrupted(Interruption("downtime", "restart"), SYMBOLS, TUESDAY + 9000) == []
    (ended,) = book.accepted([Ledger().made("EURUSD", TUESDAY + 9500)])
    assert (ended.id, ended.from_ms, ended.to_ms) == (1, TUESDAY - 700, TUESDAY + 9500)


def test_what_comes_back_after_a_power_cut_ends_no_entry() -> None:
    """It lies before the interruption, and nobody knows any more which of it."""
    lasting = Gap(1, "EURUSD", "overflow", TUESDAY, None)
    book = GapBook({"EURUSD": TUESDAY - 700}, [lasting])
    (longer,) = book.overtaken({"EURUSD": 12})
    made = Ledger().made
    book.regained([made("EURUSD", TUESDAY - 300), made("EURUSD", TUESDAY), made("USDJPY", TUESDAY + 40)])
    assert book.lasting == (longer,)
    (other,) = book.interrupted(Interruption("downtime", "restart"), ("EURUSD", "USDJPY"), TUESDAY + 9000)
    assert (other.symbol, other.from_ms) == ("USDJPY", TUESDAY + 40)
    ended = book.accepted([made("EURUSD", TUESDAY + 9500)])
    assert [(g.id, g.from_ms, g.to_ms) for g in ended] == [(1, TUESDAY - 700, TUESDAY + 9500)]


def test_a_simulated_market_never_closes() -> None:
    friday, sunday = ny("2026-06-05T16:00:00"), ny("2026-06-07T19:00:00")
    ledger = Ledger({"EURUSD": friday}, stretches=all_of_it)
    ledger.interrupted(CUT, friday)
    assert [(g.from_ms, g.to_ms) for g in ledger.tick("EURUSD", sunday)] == [(friday, sunday)]


@pytest.mark.parametrize("seed", range(3))
async def test_what_a_feed_with_many_faults_did_not_hear_is_in_the_book(autojump_clock: MockClock, seed: int) -> None:
    chance = random.Random(seed)
    sent: list[tuple[str, int]] = []
    mute = Script(mute=frozenset({"XAU/USD"}))
    async with feeding() as world:
        await world.subscribed()
        while world.now < 3600:
            if world.now > 2400:
                # To the connection's end: that a symbol was silent for less than 300 s shows nowhere.
                world.standin.latest.script = mute
            elif world.state == "streaming" and chance.random() < 0.005:
                world.standin.script = chance.choice([Script(), mute, Script(pongs=False)])
                chance.choice([*ENDINGS.values()])(world.standin.latest)
            quotes = [world.quote(symbol) for symbol in PRICES if chance.random() < 0.7]
            world.standin.send(quotes)
            sent += [(canonical_symbol(quote.p), quote.t) for quote in quotes]
            await trio.sleep(1)
        world.standin.script = Script()
        world.standin.latest.drop()
        await world.until(4600)
        await world.stream(10)
    ledger = Ledger(stretches=all_of_it)
    for item in world.heard:
        if isinstance(item, Interruption):
            ledger.interrupted(item, world.wall_ms(), tuple(PRICES))
        else:
            ledger.tick(item.symbol, item.timestamp_ms, item.received_ms, late=item.late)
    came = {(tick.symbol, tick.timestamp_ms) for tick in world.ticks}
    first = {symbol: min(at for s, at in came if s == symbol) for symbol in PRICES}
    lost = [(symbol, at) for symbol, at in sent if (symbol, at) not in came and at > first[symbol]]
    assert len(lost) > 500
    assert all(ledger.covers(symbol, at) for symbol, at in lost)
    entries = ledger.entries.values()
    assert not ledger.book.lasting
    assert {interruption.cause for interruption in world.interruptions} == {"disconnect", "mute"}
    assert all({(gap.symbol, gap.from_ms), (gap.symbol, gap.to_ms)} <= came for gap in entries)
    ledger.assert_no_overlap()


class Step(msgspec.Struct, frozen=True):
    """What happens next: a tick that comes or is lost, or a loss that is marked at its place."""

    what: str
    symbol: str
    pause_ms: int
    late_ms: int = 0


def _steps(longest_ms: int) -> st.SearchStrategy[list[Step]]:
    """Losses come in runs, as they do."""
    pauses = st.integers(0, longest_ms)
    symbols = st.sampled_from(SYMBOLS)
    tick = st.builds(Step, st.just("tick"), symbols, pauses, st.sampled_from([0, 0, 0, 0, 40, 4000]))
    lost = st.builds(Step, st.just("lost"), symbols, pauses)
    return st.lists(
        st.one_of(tick, tick, lost, lost, st.builds(Step, st.just("restart"), symbols, pauses)), max_size=60
    )


DURATIONS = st.sampled_from([5, 60_000, 20 * 3_600_000])


@settings(deadline=None)
@given(
    DURATIONS.flatmap(_steps),
    st.sampled_from([TUESDAY, ny("2026-06-05T16:59:59"), ny("2026-03-06T16:00:00"), ny("2026-10-30T16:00:00")]),
    st.booleans(),
)
def test_every_open_moment_that_nobody_heard_is_in_an_entry_and_no_two_entries_overlap(
    steps: Sequence[Step], now: int, by_symbol: bool
) -> None:
    ledger = Ledger()
    newest: dict[str, int] = {}
    lost: list[tuple[str, int]] = []
    marked: set[str] = set()
    for step in steps:
        now += step.pause_ms
        if step.what == "tick":
            # Late is what is behind its symbol's newest. What overtakes only lost ticks is a matter of the second to
            # which the filler rounds.
            late = now - step.late_ms < newest.get(step.symbol, 0)
            ledger.tick(step.symbol, now - step.late_ms if late else now, now, late=late)
            if not late:
                newest[step.symbol] = now
            marked.clear()
        elif step.what == "restart":
            lasting = [gap for gap in ledger.entries.values() if gap.to_ms is None]
            ledger.book = GapBook(newest, lasting)
            ledger.interrupted(Interruption("downtime", "restart"), now)
        else:
            if step.symbol not in marked:
                marked |= {step.symbol} if by_symbol else set(SYMBOLS)
                cause = Interruption("mute", "", [step.symbol]) if by_symbol else CUT
                ledger.interrupted(cause, now)
            if step.symbol in newest:
                lost.append((step.symbol, now))
    for symbol, at_ms in lost:
        assert ledger.covers(symbol, at_ms) or not open_stretches(symbol, at_ms, at_ms), (symbol, at_ms)
    ledger.assert_no_overlap()
    assert set(ledger.book.lasting) == {gap for gap in ledger.entries.values() if gap.to_ms is None}
