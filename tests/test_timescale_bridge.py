"""The tests' own TimescaleDB: what its bridge promises to who writes tests on it."""

import contextlib
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from tests.engines.timescale import Timescale
from tests.hypertables import emptied

pytestmark = pytest.mark.fetched


@pytest.fixture
def dsn(timescale: Timescale) -> str:
    address = emptied(timescale)
    with psycopg.connect(address, autocommit=True) as admin:
        admin.execute("create table numbers (n bigint primary key check (n < 1000))")
    return address


def count_of(connection: psycopg.Connection[tuple[int]]) -> int:
    row = connection.execute("select count(*) from numbers").fetchone()
    assert row
    return row[0]


def test_clients_take_turns_and_wait_for_who_has_a_transaction_open(dsn: str) -> None:
    with (
        psycopg.connect(dsn) as first,
        psycopg.connect(dsn, autocommit=True) as second,
        ThreadPoolExecutor(1) as thread,
    ):
        first.execute("insert into numbers values (1)")
        waiting = thread.submit(count_of, second)
        first.execute("insert into numbers values (2)")
        assert not waiting.done()
        first.commit()
        assert waiting.result(timeout=60) == 2


def test_who_vanishes_leaves_nothing_open(dsn: str) -> None:
    gone = psycopg.connect(dsn)
    gone.execute("insert into numbers values (1)")
    reset = socket.socket(fileno=gone.fileno())
    reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    reset.close()
    with psycopg.connect(dsn, autocommit=True) as other:
        assert count_of(other) == 0
    with contextlib.suppress(psycopg.Error):
        gone.close()


def test_prepared_statements_are_each_clients_own(dsn: str) -> None:
    for _ in range(2):
        with psycopg.connect(dsn, autocommit=True) as one, psycopg.connect(dsn, autocommit=True) as other:
            for n in range(3 * (one.prepare_threshold or 5)):
                assert one.execute("select %s::int", [n]).fetchone() == (n,)
                assert other.execute("select %s::int + 1", [n]).fetchone() == (n + 1,)
    with psycopg.connect(dsn, autocommit=True) as last:
        assert last.execute("select count(*) from pg_prepared_statements").fetchone() == (0,)


def test_an_error_costs_what_was_sent_with_it_and_no_more(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("select %s::int / 0", [1])
        with pytest.raises(psycopg.errors.UndefinedTable):
            connection.execute("select * from nowhere where n = %s", [1])
        assert count_of(connection) == 0


def copy_in(connection: psycopg.Connection[tuple[int]], *numbers: int) -> int:
    with connection.cursor() as cursor:
        with cursor.copy("copy numbers (n) from stdin (format binary)") as copy:
            copy.set_types(["int8"])
            for n in numbers:
                copy.write_row([n])
        return cursor.rowcount


def copy_in_two(connection: psycopg.Connection[tuple[int]], *parts: list[int]) -> None:
    """In one transaction."""
    with connection.transaction():
        for part in parts:
            copy_in(connection, *part)


def test_binary_copy_answers_as_a_server_does(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        assert copy_in(connection, 1, 2, 3) == 3
        with pytest.raises(psycopg.errors.UniqueViolation, match="numbers_pkey") as doubled:
            copy_in(connection, 4, 3)
        assert doubled.value.diag.constraint_name == "numbers_pkey"
        with pytest.raises(psycopg.errors.CheckViolation):
            copy_in_two(connection, [5], [1000])
        assert count_of(connection) == 3


def test_a_copy_that_its_sender_gives_up_is_undone(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        with pytest.raises(OverflowError):
            copy_in_two(connection, [1], [2, 2**70])
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        assert count_of(connection) == 0


def test_the_clock_can_be_set(timescale: Timescale, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        timescale.set_clock(timedelta(days=-1000))
        row = connection.execute("select now()").fetchone()
        timescale.set_clock(timedelta())
    assert row
    assert abs(row[0] + timedelta(days=1000) - datetime.now(tz=UTC)) < timedelta(minutes=5)


def test_data_outlives_a_stop_and_a_kill(own_timescale: Callable[..., Timescale]) -> None:
    server = own_timescale()
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute("create table kept (n int)")
    for n, end in enumerate((server.stop, server.kill)):
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute("insert into kept values (%s)", [n])
        end()
        server.start()
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        assert connection.execute("select n from kept order by n").fetchall() == [(0,), (1,)]
