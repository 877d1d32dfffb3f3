"""The filler, in virtual time."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.abc import Clock

from polygon_live import backfill
from polygon_live.errors import JournalError
from polygon_live.fillwords import progress_ms
from polygon_live.matching import Held
from polygon_live.standin.http import Answer, Asked, changed
from polygon_live.standin.rest import FAULTS
from polygon_live.wire import Quote
from tests.filling import HOUR, NOON, Accepted, filling, only, quote

EVERY_TENTH = [quote(100 * n, round(1.1 + n / 1e5, 5)) for n in range(100)]
"""Ten seconds."""
PRICES = [q.b for q in EVERY_TENTH]


def cut(first: int, last: int, quotes: list[Quote] = EVERY_TENTH) -> list[Quote]:
    """What is heard when those from the first to the last are not."""
    return quotes[:first] + quotes[last + 1 :]


async def test_what_was_cut_is_delivered_and_nothing_else(tmp_path: Path, autojump_clock: Clock) -> None:
    async with filling(tmp_path, EVERY_TENTH) as world:
        world.stream(*cut(33, 66))
        gap = await world.until(world.enter(NOON + 3200, NOON + 6700))
    assert (gap.state, gap.filled, gap.detail) == ("filled", 34, "40 quotes compared")
    assert world.table.prices() == PRICES
    (ticks,) = world.accepted
    tick = ticks[0]
    expected = {
        "symbol": "EURUSD",
        "bid": 1.10033,
        "ask": 1.10043,
        "mid": 1.10038,
        "spread": 0.0001,
        "timestamp_ms": NOON + 3000,
        "timestamp": NOON + 3000,
        "exchange": 48,
        "source": "polygon_rest",
        "event_type": "quote_backfill",
        "seq": 67,
        "received_ms": tick.received_ms,
        "late": False,
        "suspect": False,
    }
    assert msgspec.structs.asdict(tick) == expected
    assert world.synced_seq == ticks[-1].seq


async def test_a_second_time_adds_nothing(tmp_path: Path, autojump_clock: Clock) -> None:
    async with filling(tmp_path, EVERY_TENTH) as world:
        world.stream(*cut(33, 66))
        await world.until(world.enter(NOON + 3200, NOON + 6700))
        gap = await world.until(world.enter(NOON, NOON + 9999))
    assert (gap.state, gap.filled, gap.detail) == ("filled", 0, "100 quotes compared")
    assert world.table.prices() == PRICES


async def test_of_one_price_as_many_as_are_missing(tmp_path: Path, autojump_clock: Clock) -> None:
    same = [quote(100 * n, 1.1) for n in range(10)]
    async with filling(tmp_path, same) as world:
        world.stream(*cut(4, 6, same))
        await world.until(world.enter(NOON + 300, NOON + 700))
    assert world.table.prices() == [1.1] * 10


async def test_the_oldest_goes_first_and_a_new_one_is_seen_within_a_second(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with filling(tmp_path, EVERY_TENTH, per_second=1.0) as world:
        await trio.sleep(1000.3)
        asked_at = trio.current_time()
        late, early = world.enter(NOON + 5000, NOON + 5999), world.enter(NOON, NOON + 999)
        await world.until(early)
        assert world.gap(late).state != "filled"
        assert trio.current_time() - asked_at < 1.2
        await world.until(late)
    assert "timestamp.gte=1780401600000000000" in world.rest.standin.asked[0].target


async def test_what_lasts_and_what_one_store_lacks_is_left_alone(tmp_path: Path, autojump_clock: Clock) -> None:
    async with filling(tmp_path, EVERY_TENTH) as world:
        lasting = world.enter(NOON, None)
        other = world.enter(NOON, NOON + 999, store="kafka")
        await trio.sleep(100)
        assert (world.gap(lasting).state, world.gap(other).state) == ("open", "open")
    assert world.rest.standin.asked == []


async def test_a_second_that_is_not_over_is_awaited(tmp_path: Path, autojump_clock: Clock) -> None:
    """Of the second in which it ended, live quotes and the service's own are still on their way."""
    async with filling(tmp_path, EVERY_TENTH, starts_ms=NOON + 6750) as world:
        world.stream(*EVERY_TENTH[:33])
        world.table.held_up = True
        number = world.enter(NOON + 3200, NOON + 6700)
        await trio.sleep(0.1)
        world.stream(*EVERY_TENTH[67:])
        await trio.sleep(5)
        assert (world.gap(number).detail, world.rest.standin.asked) == ("", [])
        await trio.sleep(1)
        assert world.gap(number).detail == "waiting: the table is not as far as the last tick that was accepted"
        world.table.held_up = False
        world.table.catch_up()
        await world.until(number)
    assert world.table.prices() == PRICES


async def test_nothing_is_not_an_alarm(tmp_path: Path, autojump_clock: Clock) -> None:
    async with filling(tmp_path, EVERY_TENTH) as world:
        gap = await world.until(world.enter(NOON + HOUR // 2, NOON + HOUR // 2 + 5000))
    assert (gap.state, gap.detail) == ("empty", "Polygon has no quotes of this time")
    assert world.filler.snapshot().ended == {"empty": 1}


@pytest.mark.parametrize("fault", ["unknown-key", "not-authorized", "not-authorized-200", "foreign-next", "redirect"])
async def test_what_cant_be_had_says_why_and_is_not_asked_for_again(
    tmp_path: Path, autojump_clock: Clock, fault: str
) -> None:
    async with filling(tmp_path, EVERY_TENTH) as world:
        world.rest.standin.fault = FAULTS[fault]
        gap = await world.until(world.enter(NOON, NOON + 9999))
        await trio.sleep(1000)
    assert gap.state == "unfillable"
    assert len(world.rest.standin.asked) == 1
    assert gap.detail.startswith("the next page" if fault == "foreign-next" else "Polygon's REST service at rest.ex")
    by_hand = "polygon-live backfill --symbol EURUSD --from 2026-06-02T12:00:00 --to 2026-06-02T12:00:09"
    assert gap.detail.endswith(f"; when that is mended: {by_hand}")


async def test_one_that_fails_does_not_hold_up_the_others(tmp_path: Path, autojump_clock: Clock) -> None:
    pounds = [quote(100 * n, 1.27, "GBPUSD") for n in range(10)]
    async with filling(tmp_path, [*EVERY_TENTH, *pounds]) as world:
        world.rest.standin.fault = only("EUR/USD", FAULTS["server-error"])
        failing, fine = world.enter(NOON, NOON + 9999), world.enter(NOON + 1, NOON + 999, "GBPUSD")
        assert (await world.until(fine)).filled == 10
        assert world.gap(failing).state == "open"
        assert world.gap(failing).detail == "Polygon's REST service at rest.example: it failed (500, 'internal error')"
        snapshot = world.filler.snapshot()
        assert (snapshot.retrying, snapshot.last_error) == (1, world.gap(failing).detail)
        world.rest.standin.fault = None
        assert (await world.until(failing)).filled == 100


async def test_a_service_that_is_away_for_long_is_asked_ever_less_often(tmp_path: Path, autojump_clock: Clock) -> None:
    async with filling(tmp_path, EVERY_TENTH) as world:
        world.rest.unreachable.add("rest.example")
        began = trio.current_time()
        number = world.enter(NOON, NOON + 9999)
        await trio.sleep(6 * 3600)
        world.rest.unreachable.clear()
        await world.until(number)
        assert trio.current_time() - began - 6 * 3600 <= backfill.MOST_WAIT_SECONDS + 1
    assert world.table.prices() == PRICES


async def test_a_service_that_wants_to_be_left_alone_is(tmp_path: Path, autojump_clock: Clock) -> None:
    async with filling(tmp_path, EVERY_TENTH) as world:
        world.rest.standin.faults.append(lambda _right, _asked: Answer(429, b"", (("Retry-After", "1800"),)))
        number = world.enter(NOON, NOON + 9999)
        await world.until(number)
    first, second = world.rest.asked_at
    assert 1800 <= second - first <= 1802


@pytest.mark.parametrize("trouble", ["held_up", "unknown", "away"])
async def test_a_table_that_cant_say_what_it_has_is_waited_for(
    tmp_path: Path, autojump_clock: Clock, trouble: str
) -> None:
    async with filling(tmp_path, EVERY_TENTH) as world:
        world.table.held_up = trouble == "held_up"
        world.table.known = trouble != "unknown"
        world.table.away = trouble == "away"
        world.stream(*cut(33, 66))
        number = world.enter(NOON + 3200, NOON + 6700)
        await trio.sleep(100)
        waiting = world.gap(number)
        assert waiting.state == "open"
        assert (
            waiting.detail
            == {
                "held_up": "waiting: the table is not as far as the last tick that was accepted",
                "unknown": "waiting: how far the table is is not known",
                "away": "waiting for what a store has: it does not answer",
            }[trouble]
        )
        assert world.filler.snapshot().waiting == waiting.detail
        changed = waiting.changed
        await trio.sleep(100)
        if trouble != "away":
            assert world.gap(number).changed == changed, "the ledger is told once"
        assert (await world.until(world.enter(NOON - HOUR, NOON - HOUR + 1), "open")).state == "open"
        world.table.held_up, world.table.known, world.table.away = False, True, False
        world.table.catch_up()
        await world.until(number)
    assert world.table.prices() == PRICES


async def test_a_table_that_goes_away_in_the_middle_gets_nothing_twice(tmp_path: Path, autojump_clock: Clock) -> None:
    """What was delivered before it went is counted when it is asked again, however late it has it."""
    minutes = [quote(1000 * n, round(1.1 + n / 1e5, 5)) for n in range(300)]
    async with filling(tmp_path, minutes) as world:
        world.table.leaves_after = 3
        number = world.enter(NOON, NOON + 299_999)
        await trio.sleep(3)
        assert (world.gap(number).state, world.gap(number).filled) == ("open", 180)
        assert world.gap(number).detail == "waiting for what a store has: it does not answer"
        world.table.away = False
        await trio.sleep(50)
        world.table.held_up = False
        world.table.catch_up()
        gap = await world.until(number)
    assert world.table.prices() == [q.b for q in minutes]
    assert gap.filled == 300


async def test_entries_that_overlap_see_what_the_other_delivered(tmp_path: Path, autojump_clock: Clock) -> None:
    async with filling(tmp_path, EVERY_TENTH) as world:
        world.table.held_up = True
        world.stream(*cut(33, 66))
        numbers = [world.enter(NOON + 3000, NOON + 9999), world.enter(NOON + 3200, NOON + 6700)]
        await trio.sleep(10)
        world.table.catch_up()
        first = await world.until(numbers[0])
        await trio.sleep(10)
        assert world.gap(numbers[1]).state == "open"
        world.table.held_up = False
        world.table.catch_up()
        second = await world.until(numbers[1])
    assert (first.filled, second.filled) == (34, 0)
    assert world.table.prices() == PRICES


async def test_beyond_the_tables_edge_the_archive_is_asked(tmp_path: Path, autojump_clock: Clock) -> None:
    async with filling(tmp_path, EVERY_TENTH, starts_ms=NOON + 73 * HOUR) as world:
        world.stream(*[msgspec.structs.replace(q, t=q.t + 2 * HOUR) for q in EVERY_TENTH[:5]])
        world.table.known = False
        gap = await world.until(world.enter(NOON, NOON + 9999))
        again = await world.until(world.enter(NOON, NOON + 9999))
    assert (gap.filled, again.filled) == (100, 0)
    assert world.table.asked == []
    assert world.archive.asked == [("EURUSD", NOON, NOON + 10_000)] * 2
    assert len(world.table.ticks) == 5, "older than it keeps: passed over"


async def test_across_the_edge_each_is_asked_for_what_it_keeps(tmp_path: Path, autojump_clock: Clock) -> None:
    minutes = [quote(60_000 * n, round(1.1 + n / 1e5, 5)) for n in range(10)]
    async with filling(tmp_path, minutes, starts_ms=NOON + 72 * HOUR + 200_000) as world:
        gap = await world.until(world.enter(NOON, NOON + 600_000))
        again = await world.until(world.enter(NOON, NOON + 600_000))
    assert (gap.filled, again.filled) == (10, 0)
    assert {begins for _, begins, _ in world.archive.asked} == {NOON + 60_000 * n for n in range(5)}
    assert {begins for _, begins, _ in world.table.asked} == {NOON + 60_000 * n for n in range(5, 10)}


async def test_every_symbol(tmp_path: Path, autojump_clock: Clock) -> None:
    pounds = [quote(100 * n, 1.27, "GBPUSD") for n in range(10)]
    async with filling(tmp_path, [*EVERY_TENTH, *pounds]) as world:
        gap = await world.until(world.enter(NOON, NOON + 9999, "*"))
        assert (gap.state, gap.filled) == ("filled", 110)
        world.rest.standin.fault = only("EUR/USD", FAULTS["not-authorized"])
        gap = await world.until(world.enter(NOON, NOON + 9999, "*"))
    assert gap.state == "unfillable"
    assert gap.detail.startswith("EURUSD: Polygon's REST service at rest.example: the plan does not include")


@pytest.mark.parametrize("kill_at", range(1, 40))
async def test_a_kill_at_any_moment_costs_nothing(tmp_path: Path, autojump_clock: Clock, kill_at: int) -> None:
    """What the killed one delivered is still on its way into the table when the next one starts."""
    quarters = [quote(250 * n, round(1.1 + n / 1e5, 5)) for n in range(1000)]
    async with filling(tmp_path, quarters, largest_page=200, start=False) as world:
        world.stream(*cut(100, 900, quarters))
        number = world.enter(NOON + 24_750, NOON + 225_250)
        world.table.held_up = True
        world.kill_at = kill_at
        async with trio.open_nursery() as nursery:
            world.start(nursery)
        assert world.gap(number).state in {"filling", "open", "filled"}
        world.kill_at = None
        async with trio.open_nursery() as nursery:
            world.start(nursery)
            await trio.sleep(5)
            world.table.held_up = False
            world.table.catch_up()
            await world.until(number)
            nursery.cancel_scope.cancel()
    assert world.table.prices() == [q.b for q in quarters]


async def test_nothing_is_called_filled_before_it_is_durable(tmp_path: Path, autojump_clock: Clock) -> None:
    async with filling(tmp_path, EVERY_TENTH, start=False) as world:
        world.broken_journal = JournalError("the disk is full")
        number = world.enter(NOON, NOON + 9999)
        with pytest.raises(ExceptionGroup) as caught:
            async with trio.open_nursery() as nursery:
                world.start(nursery)
        assert caught.group_contains(JournalError)
        assert world.gap(number).state == "filling"


async def test_an_entry_that_meets_a_fault_of_ours_does_not_keep_the_others_from_their_turn(
    tmp_path: Path, autojump_clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with filling(tmp_path, EVERY_TENTH, start=False) as world:
        bad, good = world.enter(NOON, NOON + 1999), world.enter(NOON + 5000, NOON + 9999)
        real = world.table.held

        async def held(symbol: str, from_ms: int, until_ms: int) -> Held:
            if from_ms == NOON:
                raise RuntimeError("a bug")
            return await real(symbol, from_ms, until_ms)

        monkeypatch.setattr(world.table, "held", held)
        with pytest.raises(ExceptionGroup):
            async with trio.open_nursery() as nursery:
                world.start(nursery)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.filler.run)
            await world.until(good)
            nursery.cancel_scope.cancel()
        assert world.gap(bad).state == "filling"


async def test_what_the_stores_get_though_the_journal_fails_is_not_delivered_again(
    tmp_path: Path, autojump_clock: Clock
) -> None:
    async with filling(tmp_path, EVERY_TENTH) as world:
        world.table.held_up = True
        world.fails_behind = 1
        number = world.enter(NOON, NOON + 9999)
        await world.until(number, "open")
        await trio.sleep(30)
        assert world.gap(number).state == "open"
        world.table.catch_up()
        world.table.held_up = False
        assert (await world.until(number)).state == "filled"
    assert world.table.prices() == PRICES


@pytest.mark.parametrize(("behind_s", "had"), [(15, 100), (90, 100), (3600, 40)])
async def test_a_service_that_is_behind_is_asked_again_until_it_has_what_ended_the_gap(
    tmp_path: Path, autojump_clock: Clock, behind_s: int, had: int
) -> None:
    async with filling(tmp_path, EVERY_TENTH, starts_ms=NOON + 20_000) as world:

        def behind(content: dict[str, Any], _asked: Asked) -> None:
            most_ns = max(NOON + 3300, world.now_ms() - behind_s * 1000) * 1_000_000
            content["results"] = [r for r in content["results"] if r["participant_timestamp"] < most_ns]

        world.stream(EVERY_TENTH[-1])
        world.rest.standin.fault = changed(behind)
        gap = await world.until(world.enter(NOON, NOON + 9900, last_seq=1))
    assert (gap.state, gap.detail) == ("filled", f"{had} quotes compared")
    assert world.table.prices() == sorted({*PRICES[:had], PRICES[-1]})


async def test_a_long_one_goes_in_blocks_and_says_how_far_it_is(tmp_path: Path, autojump_clock: Clock) -> None:
    many = [quote(20 * n, round(1.1 + n / 1e6, 6)) for n in range(12_000)]
    async with filling(tmp_path, many, largest_page=2500) as world:
        number = world.enter(NOON, NOON + 239_999)
        await trio.sleep(1.8)
        gap, snapshot = world.gap(number), world.filler.snapshot()
        assert gap.state == "filling"
        assert gap.detail == "EURUSD up to 2026-06-02T12:01:59Z: 6000 quotes compared"
        assert progress_ms(gap) == NOON + 119_000
        assert gap.filled == 6000
        assert snapshot.gap is not None
        assert (snapshot.gap.id, snapshot.compared, snapshot.delivered) == (number, 10_000, 10_000)
        assert (await world.until(number)).filled == 12_000
    assert max(map(len, world.accepted)) == 1000


async def test_what_is_asked_for_by_hand_lets_what_was_missed_go_first(tmp_path: Path, autojump_clock: Clock) -> None:
    """However long it is: a stretch later it goes on where it was."""
    hour = [quote(5000 * n, round(1.1 + n / 1e6, 6)) for n in range(720)]
    async with filling(tmp_path, hour, starts_ms=NOON + 2 * HOUR, per_second=1.0, largest_page=50) as world:
        by_hand = world.enter(NOON, NOON + 3_599_999, cause="manual")
        await trio.sleep(4)
        assert world.gap(by_hand).state == "filling"
        missed = world.enter(NOON + 3_000_000, NOON + 3_000_999)
        assert (await world.until(missed)).filled == 1
        assert 0 < world.gap(by_hand).filled < 600, "it had begun, and is not as far"
        assert (await world.until(by_hand)).filled == 719
    assert sorted(world.table.prices()) == [q.b for q in hour]


async def test_bad_quotes_are_rejected_and_their_neighbours_delivered(tmp_path: Path, autojump_clock: Clock) -> None:
    crossed = msgspec.structs.replace(quote(1000, 1.2), a=1.1)
    wide = msgspec.structs.replace(quote(1000, 1.2), a=2.2)
    async with filling(tmp_path, [*EVERY_TENTH, crossed, wide]) as world:
        world.rest.standin.fault = FAULTS["bad-elements"]
        gap = await world.until(world.enter(NOON, NOON + 9999))
    assert (gap.state, gap.filled) == ("filled", 100)
    assert gap.detail == "105 quotes compared, 5 of them rejected: see /rejects"
    assert [reject.reason for reject in world.rejects] == ["bad_field"] * 3 + ["crossed", "spread"]
    assert {reject.symbol for reject in world.rejects} == {"EURUSD"}


async def test_a_page_that_fails_late_is_not_the_end_of_what_came_before(tmp_path: Path, autojump_clock: Clock) -> None:
    pages = 0

    def worse_and_worse(right: Answer, asked: Asked) -> Answer:
        nonlocal pages
        pages += 1
        return FAULTS["cut"](right, asked) if 2 <= pages <= 6 else right

    async with filling(tmp_path, EVERY_TENTH, largest_page=40) as world:
        world.rest.standin.fault = worse_and_worse
        gap = await world.until(world.enter(NOON, NOON + 9999))
    assert gap.filled == 100
    assert world.table.prices() == PRICES


async def test_a_bug_on_the_way_of_the_quotes_doubles_none(tmp_path: Path, autojump_clock: Clock) -> None:
    """They went on, and their fate was not told; the watcher starts the filler anew."""
    async with filling(tmp_path, EVERY_TENTH, start=False) as world:
        accept = world.accept

        async def untold(*quotes: Any) -> Accepted:
            await accept(*quotes)
            raise RuntimeError("a bug")

        world.accept = untold  # type: ignore[method-assign,assignment]
        world.table.held_up = True
        number = world.enter(NOON, NOON + 9999)
        with pytest.raises(ExceptionGroup):
            async with trio.open_nursery() as nursery:
                world.start(nursery)
        world.filler._accept = accept
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.filler.run)
            await trio.sleep(5)
            world.table.held_up = False
            world.table.catch_up()
            await world.until(number)
            nursery.cancel_scope.cancel()
    assert world.table.prices() == PRICES


async def test_it_ends_when_nothing_is_accepted_any_more(tmp_path: Path, autojump_clock: Clock) -> None:
    async def closed(*_: object) -> None:
        raise trio.ClosedResourceError

    async with filling(tmp_path, EVERY_TENTH, start=False) as world:
        world.accept = closed  # type: ignore[method-assign,assignment]
        number = world.enter(NOON, NOON + 9999)
        async with trio.open_nursery() as nursery:
            world.start(nursery)
        assert world.gap(number).state == "filling"
