"""The table's cursor: whose it is, who may move it, and what somebody who was overtaken can't do."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio
from structlog.testing import capture_logs

from polygon_live.config import Secret
from polygon_live.embedded import Postgres
from polygon_live.engines.postgres import claim, look
from polygon_live.engines.postgres import ticks as postgres_ticks
from polygon_live.engines.postgres.storage import TableName
from polygon_live.engines.postgres.unchanged import Unchanged
from polygon_live.errors import StoreContested, StoreMisconfigured, StoreUnavailable
from polygon_live.model import encode
from polygon_live.sink import Identity, Opened, Written
from polygon_live.sinks.timescale import TimescaleSink
from tests import hypertables
from tests.test_timescale import NOW_MS, a_batch, a_tick, as_batch, cursor_in, do, from_csv, make_table, seqs_in
from tests.waiting import PATIENCE_SECONDS, in_thread, until

pytestmark = pytest.mark.engine

AS_FOUND = Unchanged(TableName(0, "public", "market_ticks"), {})
"""For cursors that are claimed and never moved."""
ROW = "select journal_id, seq, host, beat, backend_pid from tick_cursors where collector = 'c1'"


class Patient(TimescaleSink):
    """Watches for longer than any test lasts."""

    WATCH_SECONDS = 3600.0


class Hasty(TimescaleSink):
    """Takes over what has not moved between one look and the next."""

    WATCH_SECONDS = 0.0001


@pytest.fixture
def table(database: str) -> str:
    return make_table(database)


@pytest.fixture
def sinks() -> Iterator[Callable[..., TimescaleSink]]:
    """Call it for a sink of the collector ``c1`` with a journal and on a host of its own, unless it says otherwise."""
    made: list[TimescaleSink] = []

    def one(dsn: str, n: int = 1, kind: type[TimescaleSink] = Patient, host: str | None = None) -> TimescaleSink:
        identity = Identity("c1", f"journal-{n}", host or f"host-{n}")
        made.append(kind(Secret(dsn), identity, "acme", now_ms=lambda: NOW_MS))
        return made[-1]

    yield one
    for sink in made:
        sink._session.drop()


Sinks = Callable[..., TimescaleSink]


def forget_backend(dsn: str) -> None:
    """As where the server does not tell: then a successor can't end anything."""
    do(dsn, "update tick_cursors set backend_pid = null, backend_start = null")


# One journal


async def test_the_cursor_moves_with_the_ticks_and_beats_without(table: str, sinks: Sinks) -> None:
    sink = sinks(table)
    assert await sink.open() == Opened(None)
    assert [row[:4] for row in do(table, ROW)] == [("journal-1", None, "host-1", 1)]
    await sink.write(a_batch(1, 2))
    await sink.write(a_batch(3, 7))
    await sink.check()
    ((_, seq, _, beat, pid),) = do(table, ROW)
    assert (seq, beat) == (7, 4)
    assert do(table, f"select application_name from pg_stat_activity where pid = {pid}") == [("polygon-live/c1",)]
    assert await sink.open() == Opened(7)


async def test_of_two_sinks_of_one_journal_the_older_can_do_nothing_more(table: str, sinks: Sinks) -> None:
    older, newer = sinks(table), sinks(table)
    await older.open()
    await older.write(a_batch(1, 2))
    assert await newer.open() == Opened(2)
    assert newer.facts().about["lost_connections_ended"] == 1
    with pytest.raises(StoreUnavailable, match="terminating connection"):
        await older.write(a_batch(3, 4))
    await newer.write(a_batch(3, 4))
    assert seqs_in(table) == [1, 2, 3, 4]


async def test_a_sink_that_was_overtaken_doubles_nothing(table: str, sinks: Sinks) -> None:
    older, newer = sinks(table), sinks(table)
    await older.open()
    await older.write(a_batch(1, 2))
    forget_backend(table)
    assert await newer.open() == Opened(2)
    await newer.write(a_batch(3, 4))
    with pytest.raises(StoreUnavailable, match=r"cursor of c1 .* is at 4, and was left at 2: nothing was written"):
        await older.write(a_batch(3, 4))
    with pytest.raises(StoreUnavailable, match="closed"):
        await older.check()
    forget_backend(table)
    assert await older.open() == Opened(4)
    await older.write(a_batch(5))
    with pytest.raises(StoreUnavailable, match="is at 5, and was left at 4"):
        await newer.check()
    assert seqs_in(table) == [1, 2, 3, 4, 5]


STUCK = """
import os, signal, sys, time, trio
from polygon_live.config import Secret
from polygon_live.errors import StoreError
from polygon_live.model import Batch, Tick
from polygon_live.sink import Identity
from polygon_live.sinks.timescale import TimescaleSink

NOW = 1_700_000_123_456

class Stuck:
    bid = ask = mid = spread = 1.0
    timestamp_ms = received_ms = NOW
    exchange, source, event_type, seq, late, suspect = 1, "s", "e", 3001, False, False
    @property
    def symbol(self):  # asked for in the middle of the copy
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(1)  # another thread may be the one that takes the signal and stops them all
        return "EURUSD"

async def main():
    identity = Identity("c1", "journal-1", "host-1")
    sink = TimescaleSink(Secret(sys.argv[1]), identity, "acme", now_ms=lambda: NOW)
    await sink.open()
    ticks = [Tick("EURUSD", 1.1, 1.2, 1.15, 0.1, NOW, NOW, 1, "s", "e", seq, NOW) for seq in range(2, 3001)]
    try:
        await sink.write(Batch(1, [*ticks, Stuck()], [b""] * 3000))
    except StoreError as why:
        print(type(why).__name__)
    await sink.aclose()

trio.run(main)
"""


def stopped(process: subprocess.Popen[bytes]) -> None:
    """Wait until it has stopped itself."""
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)


@pytest.mark.parametrize("journal", [1, 2], ids=["of its journal", "of another journal"])
async def test_a_stopped_predecessor_in_the_middle_of_a_copy_is_ended_by_its_successor(
    table: str, sinks: Sinks, clean_environment: dict[str, str], journal: int
) -> None:
    first = sinks(table)
    await first.open()
    await first.write(a_batch(1))
    await first.aclose()
    process = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", STUCK, table], stdout=subprocess.PIPE, env=clean_environment
    )
    try:
        with trio.fail_after(PATIENCE_SECONDS):
            await in_thread(lambda: stopped(process))
        ((_, _, _, _, pid),) = do(table, ROW)
        open_copy = f"select state, query from pg_stat_activity where pid = {pid}"
        ((state, query),) = do(table, open_copy)
        assert (state, query.partition(" ")[0]) == ("active", "copy")
        successor = sinks(table, journal, Hasty)
        if journal == 2:
            with pytest.raises(StoreContested, match="host-1"):
                await successor.open()
        assert (await successor.open()).cursor == 1
        assert do(table, open_copy) == []
        await successor.write(a_batch(2, 3))
        process.send_signal(signal.SIGCONT)
        said, _ = await in_thread(lambda: process.communicate(timeout=PATIENCE_SECONDS))
        assert said.split() == [b"StoreUnavailable"]
    finally:
        process.kill()
        process.communicate()
    assert seqs_in(table) == [1, 2, 3]
    assert cursor_in(table) == 3


async def test_a_predecessor_of_another_role_that_cant_be_ended_is_in_nobodys_way_for_ever(
    database: str, sinks: Sinks
) -> None:
    role = f"writer_{database.rpartition('/')[2]}"
    theirs = database.replace("postgres@", f"{role}@")
    do(
        database,
        f"create role {role} login",
        f"grant pg_read_all_stats to {role}",
        f"grant create on schema public to {role}",
    )
    try:
        sink = sinks(theirs)
        await sink.open()
        with psycopg.connect(database, autocommit=True) as other, capture_logs() as logs:
            other.execute(
                "update tick_cursors set (backend_pid, backend_start) = "
                "(select pid, backend_start from pg_stat_activity where pid = pg_backend_pid())"
            )
            assert await sink.open() == Opened(None)
            other.execute("select")
        assert [log["event"] for log in logs] == ["what a lost connection left can't be ended"]
        await sink.write(a_batch(1))
        await sink.aclose()
    finally:
        do(database, f"drop owned by {role}", f"drop role {role}")


# What the store has


async def test_without_a_cursor_it_begins_after_the_highest_tick_that_is_there(table: str, sinks: Sinks) -> None:
    sink = sinks(table)
    await sink.open()
    await sink.write(a_batch(5, 9))
    await sink.write(
        as_batch([a_tick(10, NOW_MS - 5000), a_tick(11, NOW_MS - 2 * 3_600_000), a_tick(12, NOW_MS - 3_600_000)])
    )
    other = TimescaleSink(Secret(table), Identity("c2", "journal-1", "host-1"), "acme", now_ms=lambda: NOW_MS)
    await other.open()
    await other.write(a_batch(100))
    await other.aclose()
    do(table, "delete from tick_cursors")
    assert await sinks(table, 2).open() == Opened(12)
    assert [row[:3] for row in do(table, ROW)] == [("journal-2", 12, "host-2")]


async def test_a_cursor_removed_under_an_open_connection_is_made_again(table: str, sinks: Sinks) -> None:
    sink = sinks(table)
    await sink.open()
    await sink.write(a_batch(1, 2))
    for asked in (partial(sink.write, a_batch(3)), sink.check):
        do(table, "delete from tick_cursors")
        with pytest.raises(StoreUnavailable, match=r"is gone, and was left at 2"):
            await asked()
        assert await sink.open() == Opened(2)
    do(table, "drop table tick_cursors")
    with pytest.raises(StoreMisconfigured, match=r'relation "tick_cursors" does not exist'):
        await sink.write(a_batch(3))
    assert await sink.open() == Opened(2)
    await sink.write(a_batch(3))
    assert seqs_in(table) == [1, 2, 3]


async def test_a_store_restored_to_an_older_state_is_believed(table: str, sinks: Sinks) -> None:
    sink = sinks(table)
    await sink.open()
    await sink.write(a_batch(1, 2, 3))
    do(table, "update tick_cursors set seq = 1, beat = 1", "delete from market_ticks where seq > 1")
    with pytest.raises(StoreUnavailable, match="is at 1, and was left at 3"):
        await sink.write(a_batch(4))
    assert await sink.open() == Opened(1)
    assert await sink.write(a_batch(2, 3, 4)) == Written(3)
    assert seqs_in(table) == [1, 2, 3, 4]


async def test_rights_that_are_missing_are_named(database: str, sinks: Sinks) -> None:
    await sinks(database).open()
    role = f"visitor_{database.rpartition('/')[2]}"
    do(database, f"create role {role} login", f"grant all on schema public to {role}")
    do(database, f"grant all on all tables in schema public to {role}", f"revoke all on tick_cursors from {role}")
    try:
        with pytest.raises(StoreMisconfigured, match=r"permission denied for table tick_cursors.*let it own the table"):
            await sinks(database.replace("postgres@", f"{role}@")).open()
    finally:
        do(database, f"drop owned by {role}", f"drop role {role}")


# Another journal


async def test_while_it_may_live_nothing_is_written_and_its_host_is_named(database: str, sinks: Sinks) -> None:
    holder, newcomer = sinks(database, 1), sinks(database, 2)
    await holder.open()
    await holder.write(a_batch(1))
    ((before,),) = do(
        database, "select array_agg(r) from (select xmin from pg_class union select xmin from tick_cursors) r"
    )
    for _ in range(3):
        with pytest.raises(
            StoreContested, match=r"host host-1 \(journal journal-1\).* taken over when .* 3600 s.*COLLECT"
        ):
            await newcomer.open()
        with pytest.raises(StoreUnavailable, match="not open"):
            await newcomer.write(a_batch(2))
    ((after,),) = do(
        database, "select array_agg(r) from (select xmin from pg_class union select xmin from tick_cursors) r"
    )
    assert after == before
    await holder.write(a_batch(2))
    assert seqs_in(database) == [1, 2]


async def test_who_beats_is_never_taken_over(table: str, sinks: Sinks) -> None:
    holder, newcomer = sinks(table, 1), sinks(table, 2, Hasty)
    await holder.open()
    with pytest.raises(StoreContested, match="is taken over when"):
        await newcomer.open()
    for n in range(10):
        await (holder.check() if n % 2 else holder.write(a_batch(n)))
        with pytest.raises(StoreContested, match=r"host-1.*lives: its cursor moves"):
            await newcomer.open()
    await holder.write(a_batch(10))


async def test_who_does_not_beat_is_taken_over_and_can_do_nothing_more(table: str, sinks: Sinks) -> None:
    holder, newcomer = sinks(table, 1), sinks(table, 2, Hasty)
    await holder.open()
    await holder.write(a_batch(1, 2))
    with pytest.raises(StoreContested):
        await newcomer.open()
    opened = await newcomer.open()
    assert opened.cursor == 2
    assert opened.took_over is not None
    assert opened.took_over.startswith(
        "the cursor of host host-1 (journal journal-1), not moved in 0.0001 s: last seen at 2"
    )
    await newcomer.write(a_batch(3))
    with pytest.raises(StoreUnavailable, match="terminating connection"):
        await holder.write(a_batch(3))
    with pytest.raises(StoreContested, match="host-2"):
        await holder.open()
    assert await newcomer.open() == Opened(3)
    assert seqs_in(table) == [1, 2, 3]


async def test_a_takeover_whose_answer_is_lost_is_told_at_the_next_opening(
    table: str, sinks: Sinks, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, newcomer = sinks(table, 1), sinks(table, 2, Hasty)
    await holder.open()
    with pytest.raises(StoreContested):
        await newcomer.open()

    def unheard(*args: Any, **settings: Any) -> None:
        claim(*args, **settings)
        raise StoreUnavailable("server closed the connection unexpectedly")

    with monkeypatch.context() as patch:
        patch.setattr("polygon_live.sinks.timescale.claim", unheard)
        with pytest.raises(StoreUnavailable):
            await newcomer.open()
    assert "host-1" in str((await newcomer.open()).took_over)
    assert await newcomer.open() == Opened(None)


async def test_who_was_taken_over_without_noticing_is_told_by_whom(table: str, sinks: Sinks) -> None:
    holder = sinks(table)
    await holder.open()
    await holder.write(a_batch(1))
    for asked in (partial(holder.write, a_batch(2)), holder.check):
        do(table, "update tick_cursors set journal_id = 'journal-2', host = 'host-2'")
        with pytest.raises(StoreContested, match=r"host-2 \(journal journal-2\), which has taken it over"):
            await asked()
        do(table, "update tick_cursors set journal_id = 'journal-1', host = 'host-1'")
        assert await holder.open() == Opened(1)
    assert seqs_in(table) == [1]


async def test_a_copy_of_its_journal_on_another_host_is_another_collector(table: str, sinks: Sinks) -> None:
    """But whoever comes first in his run: a container that was made anew has another host name."""
    first = sinks(table, kind=Hasty)
    await first.open()
    await first.write(a_batch(1, 2))
    copy = sinks(table, host="host-2")
    assert await copy.open() == Opened(2)
    await copy.write(a_batch(3))
    for lives in ("is taken over when", "lives: its cursor moves", "lives: its cursor moves"):
        with pytest.raises(StoreContested, match=rf"with a copy of this one's data folder, on host host-2 .*{lives}"):
            await first.open()
        await copy.check()
    await copy.write(a_batch(4))
    with pytest.raises(StoreContested):
        await first.open()
    taken = await first.open()
    assert taken.cursor == 4
    assert str(taken.took_over).startswith("the cursor of host host-2 (journal journal-1), not moved in")
    await first.write(a_batch(5))
    with pytest.raises(StoreContested, match="host-1"):
        await copy.open()
    assert await first.open() == Opened(5)
    assert seqs_in(table) == [1, 2, 3, 4, 5]


async def test_who_was_overtaken_by_a_copy_without_noticing_is_told(table: str, sinks: Sinks) -> None:
    first, copy = sinks(table), sinks(table, host="host-2")
    await first.open()
    forget_backend(table)
    await copy.open()
    await copy.write(a_batch(1))
    with pytest.raises(
        StoreContested, match=r"a copy of this one's data folder, on host host-2.*which has taken it over"
    ):
        await first.write(a_batch(1))
    await copy.write(a_batch(2))


async def test_while_the_store_is_away_the_other_is_not_taken_for_dead(
    own_postgres: Callable[..., Postgres], sinks: Sinks
) -> None:
    server = own_postgres()
    make_table(server.dsn)
    holder, newcomer = sinks(server.dsn, 1), sinks(server.dsn, 2, Hasty)
    await holder.open()
    with pytest.raises(StoreContested):
        await newcomer.open()
    await in_thread(server.kill)
    with pytest.raises(StoreUnavailable):
        await newcomer.open()
    await in_thread(server.start)
    with pytest.raises(StoreContested, match="is taken over when"):
        await newcomer.open()
    assert await holder.open() == Opened(None)


async def test_a_move_that_is_committed_while_it_is_claimed_is_not_passed_over(table: str, sinks: Sinks) -> None:
    sink = sinks(table)
    await sink.open()
    await sink.write(a_batch(1))
    await sink.aclose()

    def claimed(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        claim(
            connection,
            Identity("c1", "journal-1", "host-1"),
            None,
            dead=None,
            highest=lambda _: None,
            unchanged=AS_FOUND,
        )

    with psycopg.connect(table, autocommit=True) as late, psycopg.connect(table) as zombie:
        zombie.execute("update tick_cursors set beat = beat + 1")
        waits = f"select wait_event_type from pg_stat_activity where pid = {late.info.backend_pid}"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_unavailable, "moved while it was being claimed", partial(claimed, late))
            await until(lambda: do(table, waits) == [("Lock",)])
            zombie.commit()
    assert await sink.open() == Opened(1)


async def expect_unavailable(says: str, work: Callable[[], None]) -> None:
    with pytest.raises(StoreUnavailable, match=says):
        await in_thread(work)


async def test_who_moves_between_the_last_look_and_the_takeover_keeps_it(table: str, sinks: Sinks) -> None:
    holder = sinks(table)
    await holder.open()
    await holder.write(a_batch(1))
    newcomer = Identity("c1", "journal-2", "host-2")
    with psycopg.connect(table, autocommit=True) as connection:
        dead = look(connection, "c1")
        await holder.check()
        with pytest.raises(StoreContested, match=r"host-1.*it has just moved"):
            claim(connection, newcomer, None, dead=dead, highest=lambda _: None, unchanged=AS_FOUND)
        await holder.write(a_batch(2))

        def made_meanwhile(_: object) -> None:
            do(table, "insert into tick_cursors select 'c3', journal_id, seq, host, beat from tick_cursors")

        other = Identity("c3", "journal-2", "host-2")
        with pytest.raises(StoreUnavailable, match="moved while it was being claimed"):
            claim(connection, other, None, dead=None, highest=made_meanwhile, unchanged=AS_FOUND)


# What it has that the journal has not


def tables() -> Sequence[tuple[str, ...]]:
    platform = hypertables.PLATFORM + " partition by range (time)"
    for_ever = "create table for_ever partition of market_ticks for values from (minvalue) to (maxvalue)"
    enums = platform.replace("symbol varchar(20)", "symbol pair").replace("exchange varchar(10)", "exchange numeric")
    return (
        (),
        (platform, for_ever),
        ("create type pair as enum ('EURUSD', 'USDJPY')", enums.replace("numeric(18,5)", "numeric"), for_ever),
        (
            platform,
            for_ever,
            "alter table market_ticks alter column symbol type char(9), alter timestamp_ms type numeric",
        ),
    )


@pytest.mark.parametrize("statements", tables(), ids=["ours", "platform", "enum", "char"])
async def test_what_is_held_comes_back_byte_for_byte(
    database: str, sinks: Sinks, real_ticks: tuple[Path, ...], statements: tuple[str, ...]
) -> None:
    do(database, *statements, f"alter database {database.rpartition('/')[2]} set extra_float_digits = 0")
    ticks = from_csv(real_ticks[0], range(1, 2001))
    now_ms = ticks[-1].timestamp_ms
    sink = TimescaleSink(Secret(database), Identity("c1", "journal-1", "host-1"), "acme", now_ms=lambda: now_ms)
    await sink.open()
    for n in range(0, len(ticks), 500):
        await sink.write(as_batch(ticks[n : n + 500]))
    written = [encode(tick) for tick in ticks]
    assert await sink.held_after(0) == written
    assert await sink.held_after(1500) == written[1500:]
    assert await sink.held_after(ticks[-1].seq) == []
    do(database, "update tick_cursors set seq = 1000")
    await sink.open()
    assert await sink.held_after(900) == written[900:1000]
    await sink.aclose()


async def test_what_somebody_spoiled_is_not_read_back_as_something_else(database: str, sinks: Sinks) -> None:
    do(database, *tables()[1])
    sink = sinks(database)
    await sink.open()
    await sink.write(a_batch(1, 2))
    do(database, "update market_ticks set exchange = 'NYSE'")
    with pytest.raises(StoreMisconfigured, match="can't read ticks: invalid input syntax for type bigint"):
        await sink.held_after(0)


async def test_doubles_come_back_to_the_last_bit_and_once(table: str, sinks: Sinks) -> None:
    prices = [5e-324, 0.1 + 0.2, 1.7976931348623157e308, 2.0]
    ticks = [a_tick(n, bid=price, exchange=None, late=n > 1) for n, price in enumerate(prices)]
    sink = sinks(table)
    await sink.open()
    await sink.write(as_batch(ticks))
    (index,) = [name for (name,) in do(table, "select indexname from pg_indexes where indexname like 'market%seq_idx'")]
    do(table, f"drop index {index}", "insert into market_ticks select * from market_ticks")
    assert await sink.held_after(-1) == [encode(tick) for tick in ticks]


async def test_more_than_fits_into_memory_is_not_read_back(
    database: str, sinks: Sinks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal that was restored from yesterday's backup is no power cut."""
    sink = sinks(database)
    await sink.open()
    await sink.write(a_batch(*range(1, 11)))
    monkeypatch.setattr(postgres_ticks, "MOST_HELD", 9)
    assert len(await sink.held_after(1)) == 9
    with pytest.raises(StoreUnavailable, match="more beyond seq 0 than can be copied back"):
        await sink.held_after(0)
