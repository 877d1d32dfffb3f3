"""A database behind a certificate and a password, reached with ``sslmode=verify-full``."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from polygon_live.embedded import Postgres
from polygon_live.errors import StoreMisconfigured
from tests.engines.certificates import Certificates
from tests.engines.postgres import TlsPostgres
from tests.servers import running
from tests.test_timescale import a_batch, a_sink, opened

pytestmark = pytest.mark.fetched

PASSWORD = "open-sesame-77"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """For the name ``localhost``, and not for the address 127.0.0.1."""
    return Certificates.made(tmp_path_factory.mktemp("tls") / "good", "localhost")


@pytest.fixture(scope="module")
def server(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsPostgres]:
    made = TlsPostgres(tmp_path_factory.mktemp("postgres"), certificates)
    try:
        running(made)
        with psycopg.connect(made.dsn, autocommit=True) as admin:
            admin.execute(f"create role ticks login password '{PASSWORD}'")
            admin.execute("create database market owner ticks")
        yield made
    finally:
        made.stop()


def dsn_of(
    server: Postgres, ca: Path, *, host: str = "localhost", password: str = PASSWORD, mode: str = "verify-full"
) -> str:
    return f"postgresql://ticks:{password}@{host}:{server.port}/market?sslmode={mode}&sslrootcert={ca}"


async def refused(dsn: str) -> str:
    sink = a_sink(dsn)
    with pytest.raises(StoreMisconfigured) as raised:
        await sink.open()
    await sink.aclose()
    told = str(raised.value)
    assert "sesame" not in told
    assert "POLYGON_LIVE_TIMESCALE_DSN" in told
    return told


async def test_ticks_are_written_over_tls(server: TlsPostgres, certificates: Certificates) -> None:
    async with opened(dsn_of(server, certificates.ca)) as sink:
        written = await sink.write(a_batch(1, 2, 3))
        assert written.delivered == 3
        assert "sesame" not in repr(sink.facts())
        with psycopg.connect(server.dsn_of("market")) as admin:
            assert admin.execute("select count(*) from market_ticks").fetchone() == (3,)
            seen = admin.execute(
                "select ssl, version from pg_stat_ssl join pg_stat_activity using (pid) where application_name = %s",
                ["polygon-live/c1"],
            )
            assert seen.fetchall() == [(True, "TLSv1.3")]


async def test_a_certificate_of_an_unknown_authority_is_refused(server: TlsPostgres, tmp_path: Path) -> None:
    other = Certificates.made(tmp_path / "other", "localhost")
    assert "certificate verify failed" in await refused(dsn_of(server, other.ca))


async def test_a_certificate_for_another_name_is_refused(server: TlsPostgres, certificates: Certificates) -> None:
    told = await refused(dsn_of(server, certificates.ca, host="127.0.0.1"))
    assert 'server certificate for "localhost"' in told
    assert 'does not match host name "127.0.0.1"' in told


async def test_an_authority_file_that_is_not_there_is_named(server: TlsPostgres, tmp_path: Path) -> None:
    told = await refused(dsn_of(server, tmp_path / "gone.pem"))
    assert "gone.pem" in told
    assert "does not exist" in told


async def test_a_server_without_tls_is_not_spoken_to(postgres: Postgres, certificates: Certificates) -> None:
    told = await refused(dsn_of(postgres, certificates.ca))
    assert "server does not support SSL, but SSL was required" in told


async def test_a_server_that_asks_for_tls_is_told_nothing_without_it(
    server: TlsPostgres, certificates: Certificates
) -> None:
    told = await refused(dsn_of(server, certificates.ca, mode="disable"))
    assert "no pg_hba.conf entry" in told
    assert "no encryption" in told


@pytest.mark.parametrize("password", ["", "wrong-sesame"])
async def test_a_wrong_password_is_refused(server: TlsPostgres, certificates: Certificates, password: str) -> None:
    told = await refused(dsn_of(server, certificates.ca, password=password))
    assert ("password authentication failed" if password else "no password supplied") in told
