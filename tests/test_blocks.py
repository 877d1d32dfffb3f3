"""Blocks of what was accepted: nothing is in none of them, or in two, whatever the batches and times are."""

from collections.abc import Sequence
from typing import Final

import attrs
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polygon_live import blocks
from polygon_live.blocks import MOST_MS, MOST_TICKS, YOUNG_MS, Block, Blocks, Listed, joined
from polygon_live.journal.segment import Stored
from polygon_live.model import Batch, Tick, encode
from tests.journaling import batch

few: Final = settings(max_examples=60)
NOW: Final = 1_700_000_000_000
HOUR_MS: Final = 3_600_000


@attrs.frozen
class Step:
    """``jump``: how many numbers are left out before it. ``ages`` of its ticks when they come, after a ``pause``."""

    jump: int
    pause: int
    ages: Sequence[int]


AGES: Final = st.one_of(st.integers(-1000, 5000), st.integers(0, 80 * HOUR_MS))
STEPS: Final = st.lists(
    st.builds(
        Step,
        jump=st.sampled_from([0, 0, 0, 0, 7]),
        pause=st.sampled_from([0, 10, 1000, 30_000, 90_000, -HOUR_MS]),
        ages=st.lists(AGES, min_size=1, max_size=12),
    ),
    max_size=15,
)


def batches(steps: Sequence[Step]) -> list[Batch]:
    found, after, now = [], 100, NOW
    for step in steps:
        now += step.pause
        first = after + 1 + step.jump
        ticks = [
            msgspec.structs.replace(tick, timestamp_ms=now - age, received_ms=now)
            for tick, age in zip(batch(after, first, len(step.ages)).ticks, step.ages, strict=True)
        ]
        found.append(Batch(after, ticks, [encode(tick) for tick in ticks]))
        after = ticks[-1].seq
    return found


def closed_blocks(some: Sequence[Batch]) -> list[Block]:
    fed = Blocks()
    for one in some:
        fed.add(one)
    fed.close()
    return fed.closed


def holds(block: Block, ticks: Sequence[Tick]) -> None:
    """Its numbers are theirs, one each, and each time lies in a stretch of its own."""
    assert [tick.seq for tick in ticks] == list(range(block.first, block.last + 1))
    assert block.count == len(ticks)
    assert all(any(a <= tick.timestamp_ms <= b for a, b in block.spans) for tick in ticks)
    assert min(t.timestamp_ms for t in ticks) == block.least_ms
    assert max(t.timestamp_ms for t in ticks) == block.greatest_ms
    assert len(block.spans) == 1 or block.spans[0][1] < block.spans[1][0]


@few
@given(STEPS)
def test_every_tick_is_in_one_block_and_no_number_that_is_none(steps: list[Step]) -> None:
    some = batches(steps)
    found = closed_blocks(some)
    ticks = {tick.seq: tick for one in some for tick in one.ticks}
    assert sum(block.count for block in found) == len(ticks)
    for block in found:
        holds(block, [ticks[seq] for seq in range(block.first, block.last + 1)])
        assert block.to_ms - block.from_ms < MOST_MS
    assert [block.first for block in found] == sorted({block.first for block in found})


@few
@given(STEPS, st.integers(0, 6))
def test_joined_they_hold_the_same(steps: list[Step], times: int) -> None:
    some = batches(steps)
    found = closed_blocks(some)
    ticks = {tick.seq: tick for one in some for tick in one.ticks}
    for _ in range(times):
        found = joined(found)
    for block in found:
        holds(block, [ticks[seq] for seq in range(block.first, block.last + 1)])
    assert sum(block.count for block in found) == len(ticks)


@few
@given(STEPS, st.data())
def test_the_journals_list_gives_blocks_of_the_same_ticks(steps: list[Step], data: st.DataObject) -> None:
    """Where a run ended among them, those before and those behind make all of them."""
    some = batches(steps)
    cut = data.draw(st.integers(0, len(some)))
    older, now = Blocks(), Blocks()
    for one in some[cut:]:
        now.add(one)
    for one in some:
        row = Stored.of(one, one.ticks[-1].received_ms)
        older.add_listed(Listed(row.first, row.last, row.ticks, row.oldest_ms, row.newest_ms, row.written_ms))
        if cut and one is some[cut - 1]:
            older.close()
    older.close()
    now.put_before(older.closed)
    now.close()
    ticks = {tick.seq: tick for one in some for tick in one.ticks}
    covered = [seq for block in now.closed for seq in range(block.first, block.last + 1)]
    assert covered == sorted(ticks)
    for block in now.closed:
        inside = [ticks[seq].timestamp_ms for seq in range(block.first, block.last + 1)]
        assert all(any(a <= at <= b for a, b in block.spans) for at in inside)


def test_a_batch_with_holes_in_it_makes_several() -> None:
    some = batch(0, 1, 9)
    ticks = [tick for tick in some.ticks if tick.seq not in {3, 4, 8}]
    found = closed_blocks([Batch(0, ticks, [encode(tick) for tick in ticks])])
    assert [(block.first, block.last) for block in found] == [(1, 2), (5, 7), (9, 9)]


def test_it_is_closed_when_it_is_full_or_has_lasted() -> None:
    fed = Blocks()
    for n in range(3):
        fed.add(batch(n * 4000, n * 4000 + 1, 4000))
    assert [block.count for block in fed.closed] == [12_000]
    assert fed.closed[0].count >= MOST_TICKS
    fed.add(batches([Step(20_000, 0, [0])])[0])
    assert [fed.is_due(NOW + ms) for ms in (0, MOST_MS - 1, MOST_MS, -1)] == [False, False, True, True]
    assert fed.waiting_since_ms == NOW
    fed.close()
    assert not fed.is_due(NOW + MOST_MS)
    fed.forget(fed.closed[0].last)
    assert len(fed.closed) == 1


def test_what_is_of_long_ago_is_kept_apart() -> None:
    (block,) = closed_blocks(batches([Step(0, 0, [5, 10]), Step(0, 10, [50 * HOUR_MS, 51 * HOUR_MS, 1])]))
    assert block.old == (NOW + 10 - 51 * HOUR_MS, NOW + 10 - 50 * HOUR_MS)
    assert block.young == (NOW - 10, NOW + 9)
    assert YOUNG_MS < HOUR_MS


def test_those_that_wait_are_joined_and_none_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MOST_WAITING", 16)
    fed = Blocks()
    for n in range(1000):
        fed.add(batch(n, n + 1, 1))
        fed.close()
        assert len(fed.closed) <= 17
    assert [fed.closed[0].first, fed.closed[-1].last] == [1, 1000]
    assert sum(block.count for block in fed.closed) == 1000
