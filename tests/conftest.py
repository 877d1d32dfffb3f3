"""Fixtures for everybody: real servers, real ticks, a clean environment."""

import os
import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import psycopg
import pytest
import structlog
from psycopg import sql

from polygon_live.calendar import SATURDAY
from polygon_live.embedded import Broker, Nats, Postgres
from tests import hypertables, servers, writers
from tests.engines.timescale import Timescale
from tests.journaling import in_memory
from tests.place import Place

collect_ignore = [] if "server" in hypertables.places("timescale") else ["test_hypertable_server.py"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--saturday", action="store_true", help="set this process's clock to the next Saturday")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--saturday"):
        _move_the_clock((SATURDAY - datetime.now(UTC).weekday()) % 7 * 86_400)


def _move_the_clock(seconds: int) -> None:
    """Only Unix time, and only here: other processes keep theirs. libfaketime stops what the tests start."""
    time_ns, now = time.time_ns, time.time
    time.time_ns = lambda: time_ns() + seconds * 1_000_000_000
    time.time = lambda: now() + seconds


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The quick ones first: what is wrong is seen soon. In one of several processes last: they fill what the long ones
    leave, and none of those is alone at the end.
    """
    several = items and hasattr(items[0].config, "workerinput")
    marks = ("fetched", "engine")
    items.sort(key=lambda item: [item.get_closest_marker(name) is not None for name in marks], reverse=bool(several))


def _cluster(folder: Path) -> Postgres:
    return Postgres(folder, fsync=False)


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """First to be set up, so last to be torn down: no process that a test started may be alive then."""
    yield
    servers.nothing_left_behind(tmp_path_factory.getbasetemp())


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """A command that runs in this process sets up the log for itself, and the next test could not capture it."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """One PostgreSQL for all tests: never to be stopped, paused or killed. Use ``database``."""
    with servers.servers(_cluster, tmp_path_factory.mktemp("shared")) as make:
        yield make()


_numbers = count()


def _name() -> str:
    """Of a new database. A server that was named to the tests is shared by all of pytest's processes."""
    return f"test_{os.getpid()}_{next(_numbers)}"


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """The address of an empty database that is this test's alone; dropped afterwards, with whoever is connected."""
    name = _name()
    with psycopg.connect(postgres.dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield postgres.dsn_of(name)
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _apache(folder: Path) -> Timescale:
    return Timescale(folder, edition="apache")


@pytest.fixture(scope="session")
def timescale(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Timescale]:
    """One TimescaleDB, community edition, for all tests: never to be stopped. Use ``hyper_database``."""
    with servers.servers(Timescale, tmp_path_factory.mktemp("timescale")) as make:
        yield make()


@pytest.fixture(scope="session")
def apache_timescale(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Timescale]:
    """One TimescaleDB, Apache edition, for all tests: never to be stopped. Use ``apache_database``."""
    with servers.servers(_apache, tmp_path_factory.mktemp("timescale")) as make:
        yield make()


@pytest.fixture(params=hypertables.places("timescale"))
def hyper_database(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a database with nothing but TimescaleDB's community edition in it."""
    if request.param == "wasm":
        yield hypertables.emptied(request.getfixturevalue("timescale"))
    else:
        with hypertables.new_database(_name()) as dsn:
            yield dsn


@pytest.fixture(params=hypertables.places("apache"))
def apache_database(request: pytest.FixtureRequest) -> Iterator[str]:
    """The same with the Apache edition."""
    if request.param == "wasm":
        yield hypertables.emptied(request.getfixturevalue("apache_timescale"))
    else:
        with hypertables.new_database(_name()) as dsn:
            yield dsn


@pytest.fixture
def own_timescale(tmp_path: Path) -> Iterator[Callable[..., Timescale]]:
    """Call it for a TimescaleDB whose database has not got the extension yet (4 s each)."""
    with servers.servers(Timescale, tmp_path) as make:
        yield make


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[Callable[..., Postgres]]:
    """Call it for a cluster that this test may stop, pause and kill (0.4 s each)."""
    with servers.servers(_cluster, tmp_path) as make:
        yield make


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[Callable[..., Nats]]:
    """Call it for a NATS node with JetStream (0.04 s each)."""
    with servers.servers(Nats, tmp_path) as make:
        yield make


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """Call it for a Kafka-compatible broker (0.03 s each)."""
    with servers.servers(Broker, tmp_path) as make:
        yield make


@pytest.fixture
def memory() -> Iterator[Path]:
    """A folder that does not wait for a disk."""
    with in_memory() as folder:
        yield Path(folder)


@pytest.fixture
def place(
    own_postgres: Callable[..., Postgres],
    own_nats: Callable[..., Nats],
    own_broker: Callable[..., Broker],
    clean_environment: dict[str, str],
    tmp_path: Path,
) -> Place:
    """Three stores of this test's own, for the whole collector."""
    return Place(own_postgres(), own_nats(), own_broker(), clean_environment, tmp_path / "collector.log")


@pytest.fixture
def nats_server(own_nats: Callable[..., Nats]) -> Nats:
    """A NATS node of this test's own: they start so fast that sharing would not pay."""
    return own_nats()


@pytest.fixture
def broker(own_broker: Callable[..., Broker]) -> Broker:
    """A broker of this test's own, without topics."""
    return own_broker()


@pytest.fixture(params=[writers.PYTHON, writers.CONFLUENT])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The library that writes to Kafka: the test is done with each."""
    monkeypatch.setenv(writers.VARIABLE, request.param)
    return str(request.param)


@pytest.fixture
def chance() -> random.Random:
    """For tests at random: the same each time, so that a run that fails can be had again. ``CHAOS_SEED`` is another
    seed; `CHAOS_SEED=$RANDOM ops/just test -k "chaos or cut_lines"` looks for what nobody has seen yet.
    """
    return random.Random(os.environ.get("CHAOS_SEED", "1"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real ticks beside the repository; the test is skipped where it is not."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not any(folder.glob("*.csv")):
        pytest.skip(f"no real ticks: there is no CSV file in {folder}")
    return folder


@pytest.fixture(scope="session")
def real_ticks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """CSV files (timestamp_ms, pair, bid, ask), a pair each: the real ones, or else generated ones of their shape."""
    real = (Path(__file__).parents[2] / "shared" / "data").glob("*.csv")
    if found := tuple(sorted(real)):
        return found
    folder = tmp_path_factory.mktemp("ticks")
    return (
        servers.generated_ticks(folder / "eurusd.csv", "EUR/USD", count=9500, price=1.1213, decimals=5),
        servers.generated_ticks(folder / "usdjpy.csv", "USD/JPY", count=1000, price=86.690, decimals=3),
    )


@pytest.fixture
def clean_environment(tmp_path: Path) -> dict[str, str]:
    """For subprocesses: no setting of ours, a home of its own, and the variable by which leftovers are found."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        servers.SESSION_VARIABLE: servers.SESSION,
    }
