"""Replay without servers: what is taken, in which order, at which pace, and which gaps it closes."""

import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import click
import pytest
import trio
import trio.testing
from click.testing import CliRunner

from polygon_live.commands import cli
from polygon_live.commands.replay import replay as replay_command
from polygon_live.commands.times import Instant, spelled
from polygon_live.engines.kafka import Archived
from polygon_live.errors import StoreUnavailable
from polygon_live.gap import Gap
from polygon_live.journal import Hole
from polygon_live.mending import Mending
from polygon_live.model import Tick, encode
from polygon_live.replay import Choice, Tally, into_nats
from polygon_live.spool import NoRoom, Spool, Spooled
from tests.hypertables import a_tick
from tests.replaying import fetched_afterwards, replay, span

MINUTE_MS = 60_000

# The command line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--from", "yesterday", "--to", "2025-01-02"], "'--from': 'yesterday' is not a time: write it like 2025"),
        (["--from", "2025-01-01", "--to", "2025-02-30"], "'--to': '2025-02-30' is not a time"),
        (["--from", "0001-01-01T00:00+14:00", "--to", "2025-01-02"], "is outside of the calendar"),
        (["--from", "2025-01-02", "--to", "2025-01-02T01:00+01:00"], "--from is 2025-01-02T00:00:00.000Z, which is"),
        (["--from", "2225-01-01", "--to", "2225-01-02"], "--from is 2225-01-01T00:00:00.000Z, which is in the future"),
        (["--from", "2025-01-01", "--to", "2025-01-02", "--symbol", "EUR"], "'EUR' is not a currency pair"),
        (["--from", "2025-01-01", "--to", "2025-01-02", "--speed", "fast"], "'fast' is no speed: write max, or"),
        (["--from", "2025-01-01", "--to", "2025-01-02", "--speed", "-1x"], "'-1x' is no speed"),
        (["--from", "2025-01-01", "--to", "2025-01-02", "--speed", "2"], "'2' is no speed"),
        (["--from", "2025-01-01", "--to", "2025-01-02", "--speed", "1x"], "--speed is for --into nats"),
    ],
)
def test_what_is_wrong_is_said_of_which(arguments: list[str], says: str) -> None:
    done = CliRunner().invoke(cli, ["replay", *arguments, "--into", "timescale"])
    assert done.exit_code == 2
    assert says in done.stderr


@pytest.mark.parametrize(
    ("into", "asked", "named"),
    [
        ("timescale", (), ["KAFKA_BROKERS", "TIMESCALE_DSN"]),
        ("nats", (), ["KAFKA_BROKERS", "NATS_URLS"]),
        ("nats", ("--dry-run",), ["KAFKA_BROKERS"]),
    ],
)
async def test_only_what_is_needed_must_be_set(
    into: str, asked: Sequence[str], named: list[str], clean_environment: dict[str, str]
) -> None:
    done = await replay(clean_environment, *span(0, 1), "--into", into, *asked)
    assert done.returncode == 78
    faults = [line for line in done.stderr.decode().splitlines() if " is not set" in line]
    assert {fault.split()[1] for fault in faults} == {f"POLYGON_LIVE_{name}" for name in named}


@pytest.mark.parametrize(
    ("text", "unix_ms"),
    [
        ("1970-01-02", 86_400_000),
        ("1970-01-01T00:00:01", 1000),
        ("1970-01-01 00:01", 60_000),
        ("1970-01-01T00:00:00.250Z", 250),
        ("1970-01-01T02:00+02:00", 0),
        ("1969-12-31T23:59:59.999Z", -1),
        ("1970-01-01T00:00:00.0001", 1),
    ],
)
def test_times_are_utc_unless_they_have_a_zone(text: str, unix_ms: int) -> None:
    assert Instant().convert(text, None, None) == unix_ms
    assert Instant().convert(spelled(unix_ms), None, None) == unix_ms


# The order on NATS


@attrs.define
class Records:
    """An archive in memory: blocks as they are."""

    blocks: list[list[Archived]]
    read: int = 0
    total: int = 0

    async def __aiter__(self) -> AsyncIterator[list[Archived]]:
        for block in self.blocks:
            yield block


def records(*ticks: Tick, collector: str = "c1") -> Records:
    return Records([[Archived(None, encode(t), t.timestamp_ms, collector, t.seq) for t in ticks]])


@attrs.define
class Heard:
    """What was published, and when by Trio's clock."""

    at: list[tuple[float, Spooled]] = attrs.Factory(list)

    async def put(self, ticks: Sequence[Spooled]) -> None:
        self.at += [(trio.current_time(), tick) for tick in ticks]

    @property
    def seqs(self) -> list[int]:
        return [tick.seq for _, tick in self.at]


EVERYTHING = Choice(0, 10**15)
BASE_MS = 1_700_000_000_000


async def heard(archive: Records, *, choice: Choice = EVERYTHING, speed: float = float("inf")) -> Heard:
    onto = Heard()
    await into_nats(archive, choice, onto, Tally(), lambda *_: None, lambda _: None, speed=speed)
    return onto


async def test_ticks_come_in_the_order_of_time_over_all_partitions() -> None:
    draw = random.Random(4)
    stamps = sorted(draw.sample(range(10**7), 3000))
    symbols = [draw.choice(["EURUSD", "USDJPY", "XAUUSD"]) for _ in stamps]
    ticks = [a_tick(n, BASE_MS + at, s) for n, (at, s) in enumerate(zip(stamps, symbols, strict=True))]
    by_partition = [t for s in ("XAUUSD", "EURUSD", "USDJPY") for t in ticks if t.symbol == s]
    onto = await heard(records(*by_partition))
    assert onto.seqs == list(range(3000))
    assert [tick.payload for _, tick in onto.at] == [encode(tick) for tick in ticks]


async def test_a_late_tick_keeps_its_place_and_a_backfilled_one_comes_at_its_time() -> None:
    ticks = [
        a_tick(1, BASE_MS),
        a_tick(2, BASE_MS + 5000),
        a_tick(3, BASE_MS + 1000, late=True),
        a_tick(4, BASE_MS + 1500, "USDJPY"),
        a_tick(5, BASE_MS + 9000),
        fetched_afterwards(6, BASE_MS + 2000),
        fetched_afterwards(7, BASE_MS + 8999),
    ]
    assert (await heard(records(*ticks))).seqs == [1, 4, 6, 2, 3, 7, 5]


async def test_a_wrong_time_far_ahead_holds_nothing_back() -> None:
    hour = 60 * MINUTE_MS
    ticks = [a_tick(1, BASE_MS), a_tick(2, BASE_MS + hour), a_tick(3, BASE_MS + 100), a_tick(4, BASE_MS + 200)]
    assert (await heard(records(*ticks))).seqs == [1, 3, 4, 2]


@pytest.mark.parametrize(("speed", "seconds"), [(1.0, [0, 1.5, 60, 60, 7200]), (10.0, [0, 0.15, 6, 6, 720])])
async def test_the_pace_is_that_of_the_ticks(
    autojump_clock: trio.testing.MockClock, speed: float, seconds: list[float]
) -> None:
    stamps = [0, 1500, 60_000, 60_000, 7_200_000]
    onto = await heard(records(*(a_tick(n, BASE_MS + at) for n, at in enumerate(stamps))), speed=speed)
    began = onto.at[0][0]
    assert [pytest.approx(when - began) for when, _ in onto.at] == seconds


async def test_the_span_includes_its_begin_and_not_its_end_and_other_records_are_told() -> None:
    archive = records(*(a_tick(n, BASE_MS + n, s) for n in range(10) for s in ("EURUSD", "USDJPY")))
    archive.blocks.append(
        [
            Archived(None, b"\xff", BASE_MS, "c1", 1),
            Archived(None, b'{"x":' * 5000, BASE_MS, "c1", 1),
            Archived(None, b"{}", BASE_MS, "c1", 1),
            Archived(None, encode(a_tick(1, BASE_MS)), BASE_MS, None, None),
            Archived(None, encode(a_tick(1, BASE_MS)), BASE_MS, "c1", 2),
            Archived(None, encode(a_tick(77, BASE_MS + 5)), BASE_MS + 5, "c1", 77),
        ]
    )
    onto, tally = Heard(), Tally()
    choice = Choice(BASE_MS + 3, BASE_MS + 6, frozenset({"EURUSD"}))
    await into_nats(archive, choice, onto, tally, lambda *_: None, lambda _: None, speed=float("inf"))
    assert onto.seqs == [3, 4, 5, 77]
    assert (tally.read, tally.foreign, tally.in_range, tally.written) == (26, 5, 4, 4)


async def test_a_store_that_comes_back_goes_on_and_one_that_does_not_ends_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Away(Heard):
        times = 0

        async def put(self, ticks: Sequence[Spooled]) -> None:
            self.times -= 1
            if self.times >= 0:
                raise StoreUnavailable("gone")
            await super().put(ticks)

    ticks = [a_tick(n, BASE_MS + n) for n in range(10)]
    onto = Away()
    for times, comes_back in ((4, True), (5, False)):
        onto.times, onto.at = times, []
        tally = Tally()
        run = into_nats(records(*ticks), EVERYTHING, onto, tally, lambda *_: None, lambda _: None, speed=1.0)
        if comes_back:
            await run
            assert onto.seqs == list(range(10))
        else:
            with pytest.raises(StoreUnavailable, match="gone"):
                await run
            assert tally.reached_ms is None


def test_what_has_no_room_is_said_with_what_to_do() -> None:
    spool = Spool(reserve_bytes=2**62)
    with pytest.raises(NoRoom, match=r"has no room for the ticks .* name another folder in TMPDIR"):
        spool.add([Spooled(1, 1, "c1", "EURUSD", b"{}")])
    spool.close()


def test_the_spool_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    spool = Spool()
    spool.add(Spooled(n % 7, n, "c1", "EURUSD", b"x" * 1000) for n in range(50_000))
    assert not list(tmp_path.iterdir())
    found = [tick for some in spool.in_order(1000) for tick in some]
    assert [tick[:2] for tick in found] == sorted((n % 7, n) for n in range(50_000))
    spool.close()


# Gaps


def a_gap(**changes: Any) -> Gap:
    gap = Gap(1, "*", "given_up", 1000, 2000, store="timescale", first_seq=10, last_seq=20, ticks=3, detail="bound")
    return attrs.evolve(gap, **changes)


@pytest.mark.parametrize(
    ("changes", "cursor", "state"),
    [
        ({}, None, "filled"),
        ({"ticks": 4}, 20, "open"),
        ({"ticks": None}, 20, "filled"),
        ({"ticks": None}, 19, "open"),
        ({"ticks": None}, None, "open"),
        ({"cause": "unjournaled"}, None, "filled"),
        ({"ticks": None, "first_seq": None, "last_seq": None, "cause": "taken_over"}, None, "filled"),
    ],
)
def test_a_gap_is_filled_when_all_of_it_came(changes: dict[str, Any], cursor: int | None, state: str) -> None:
    mending = Mending([a_gap(**changes)], store="timescale", from_ms=1000, to_ms=2001)
    known = changes.get("last_seq", 20)
    mending.see([a_tick(seq, 1500) for seq in ((9, 10, 15, 20) if known else (1, 2, 3))])
    (gap,) = mending.results(cursor)
    assert (gap.state, gap.filled) == (state, 3)
    assert ("replayed, but the archive" in gap.detail) == (state == "open")


@pytest.mark.parametrize("store", ["timescale", "nats", "kafka"])
def test_an_entry_is_open_where_a_command_mends_it_and_names_that(store: str) -> None:
    gap = Hole(1, 9, "given_up").gap(store, 1000)
    (into,) = (p.type.choices for p in replay_command.params if p.name == "into" and isinstance(p.type, click.Choice))
    assert (gap.state == "open") == (store in into)
    assert (f"polygon-live replay --into {store}" in gap.detail) == (store in into)
    assert ("polygon-live backfill" in gap.detail) == (store not in into)


@pytest.mark.parametrize(
    "changes",
    [{"from_ms": 999}, {"to_ms": 2001}, {"to_ms": None}, {"store": "nats"}, {"store": None}, {"state": "unfillable"}],
)
def test_a_gap_that_was_not_covered_is_left(changes: dict[str, Any]) -> None:
    assert not Mending([a_gap(**changes)], store="timescale", from_ms=1000, to_ms=2001)
