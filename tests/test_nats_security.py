"""NATS behind certificates and logins: nothing in the clear, and what is wrong is said without a secret."""

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlparse

import pytest
import trio

from polygon_live.config import NatsAccess, Secret
from polygon_live.engines.nats.servers import Server, Servers
from polygon_live.errors import StoreMisconfigured, StoreUnavailable
from polygon_live.sinks.nats import NatsSink
from tests.engines.certificates import Certificates
from tests.engines.nats import Node, cluster, encrypted, logins, node
from tests.pumping import Desk, pump_on
from tests.test_nats import NOW_MS, Impatient, batch
from tests.waiting import PATIENCE_SECONDS, in_thread

pytestmark = pytest.mark.engine
LOGIN = "authorization { user: joe, password: sesame-77 }"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """For the name ``localhost``, and not for the address 127.0.0.1."""
    return Certificates.made(tmp_path_factory.mktemp("tls") / "good", "localhost")


@pytest.fixture(scope="module")
def tls_node(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with node(tmp_path_factory.mktemp("nats"), encrypted(certificates) + LOGIN) as made:
        yield made


def a_sink(access: NatsAccess) -> NatsSink:
    return Impatient(access, "c1", live_max_age_seconds=10, now_ms=lambda: NOW_MS)


async def written(access: NatsAccess) -> NatsSink:
    """Connect, hand over some ticks, close."""
    sink = a_sink(access)
    with trio.fail_after(PATIENCE_SECONDS):
        try:
            await sink.open()
            await sink.write(batch(1, 10))
            return sink
        finally:
            await sink.aclose()


async def refused(access: NatsAccess) -> str:
    with pytest.raises(StoreMisconfigured) as raised:
        await written(access)
    told = str(raised.value)
    assert "sesame" not in told
    return told


def at(server: Node, *, scheme: str = "tls", login: str = "joe:sesame-77@", host: str = "localhost") -> Secret:
    return Secret(f"{scheme}://{login}{host}:{server.port}")


async def test_a_private_authority_is_trusted_when_it_is_named(tls_node: Node, certificates: Certificates) -> None:
    for scheme in ("tls", "nats"):
        sink = await written(NatsAccess((at(tls_node, scheme=scheme),), ca_file=certificates.ca))
        assert sink.facts().about["server"] == f"localhost:{tls_node.port}"


async def test_a_certificate_of_an_unknown_authority_is_refused(
    tls_node: Node, certificates: Certificates, tmp_path: Path
) -> None:
    other = Certificates.made(tmp_path / "other", "localhost")
    for access in (NatsAccess((at(tls_node),)), NatsAccess((at(tls_node),), ca_file=other.ca)):
        told = await refused(access)
        assert f"NATS localhost:{tls_node.port}: its certificate is refused: unable to get local issuer" in told
        assert "POLYGON_LIVE_NATS_CA_FILE" in told


async def test_a_certificate_for_another_name_is_refused(tls_node: Node, certificates: Certificates) -> None:
    told = await refused(NatsAccess((at(tls_node, host="127.0.0.1"),), ca_file=certificates.ca))
    assert "certificate is not valid for '127.0.0.1'" in told
    assert "name" in told
    assert "POLYGON_LIVE_NATS_URLS" in told


async def test_a_password_is_refused_over_tls_without_being_named(tls_node: Node, certificates: Certificates) -> None:
    told = await refused(NatsAccess((at(tls_node, login="joe:sesame-78@"),), ca_file=certificates.ca))
    assert "refuses the login" in told


async def test_an_authority_file_that_holds_none_is_named(tls_node: Node, tmp_path: Path) -> None:
    empty = tmp_path / "ca.pem"
    empty.write_text("nothing")
    told = await refused(NatsAccess((at(tls_node),), ca_file=empty))
    assert told == f"POLYGON_LIVE_NATS_CA_FILE is '{empty}', which can't be used: it holds no certificate in PEM form"
    told = await refused(NatsAccess((at(tls_node),), ca_file=tmp_path / "gone"))
    assert "No such file" in told


@pytest.mark.parametrize("by", ["address", "setting"])
async def test_who_wants_tls_tells_a_server_without_it_nothing(
    certificates: Certificates, by: str, tmp_path: Path
) -> None:
    """nats-py alone would take ``tls://`` for ``nats://``, and send the password to whoever asks for none."""
    heard = bytearray()

    async def plain(stream: trio.SocketStream) -> None:
        await stream.send_all(b'INFO {"server_id":"x","version":"2.15.1","max_payload":1048576,"headers":true}\r\n')
        async for data in stream:
            heard.extend(data)

    access = {"address": ("tls", None), "setting": ("nats", certificates.ca)}
    scheme, ca_file = access[by]
    async with trio.open_nursery() as nursery:
        listening = await nursery.start(partial(trio.serve_tcp, plain, 0, host="127.0.0.1"))
        port = listening[0].socket.getsockname()[1]
        told = await refused(NatsAccess((Secret(f"{scheme}://joe:sesame-77@127.0.0.1:{port}"),), ca_file=ca_file))
        nursery.cancel_scope.cancel()
    assert f"NATS 127.0.0.1:{port} does not do TLS, and so it is told nothing" in told
    assert heard == b""


async def test_a_server_that_leaves_tls_open_is_spoken_to_in_tls(certificates: Certificates, tmp_path: Path) -> None:
    with node(tmp_path / "open", encrypted(certificates) + "allow_non_tls: true") as server:
        sink = a_sink(NatsAccess((at(server, login=""),), ca_file=certificates.ca))
        await sink.open()
        client = sink._client._client
        assert client is not None
        assert client._transport._io_writer.get_extra_info("cipher") is not None  # type: ignore[union-attr]
        await sink.write(batch(1, 10))
        await sink.aclose()


async def test_credentials_made_by_an_operator_are_taken_and_others_are_not(tmp_path: Path) -> None:
    ours, theirs = logins(), logins()
    good, bad, half = tmp_path / "good.creds", tmp_path / "bad.creds", tmp_path / "half.creds"
    good.write_text(ours.creds)
    bad.write_text(theirs.creds)
    half.write_text(ours.creds[ours.creds.index("-----BEGIN USER NKEY") :])
    with node(tmp_path / "operated", ours.config) as server:
        url = at(server, scheme="nats", login="")
        await written(NatsAccess((url,), creds_file=good))
        assert "refuses the login" in await refused(NatsAccess((url,)))
        assert "POLYGON_LIVE_NATS_CREDS_FILE" in await refused(NatsAccess((url,), creds_file=bad))
        told = await refused(NatsAccess((url,), creds_file=half))
        assert told.endswith("which has nothing after -----BEGIN NATS USER JWT-----")
        good.unlink()
        assert "No such file" in await refused(NatsAccess((url,), creds_file=good))


async def test_the_learnt_nodes_of_a_cluster_are_met_with_the_same_caution_and_login(
    certificates: Certificates, tmp_path: Path
) -> None:
    """They are known by addresses in numbers, and their certificates are made out to a name."""
    with cluster(tmp_path, encrypted(certificates) + LOGIN) as three:
        first = three.nodes[0]
        sink = a_sink(NatsAccess((at(first),), ca_file=certificates.ca))
        pump = pump_on(sink, Desk(), wall_ms=lambda: NOW_MS, rng=random.Random(1))
        with trio.fail_after(PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pump.run)
                pump.backlog.offer(batch(1, 100))
                while pump.snapshot().delivered < 100:  # noqa: ASYNC110  # the servers tell nobody
                    await trio.sleep(0.01)
                known = str(sink.facts().about["servers_known"])
                assert all(f"127.0.0.1:{other.port}" in known for other in three.others(first))
                await in_thread(first.kill)
                pump.backlog.offer(batch(101, 100))
                while pump.snapshot().delivered < 200:  # noqa: ASYNC110
                    await trio.sleep(0.01)
                assert three.at(sink.facts().about["server"]) is not first
                await pump.backlog.aclose()


async def test_a_host_that_nobody_knows_is_named() -> None:
    with pytest.raises(StoreUnavailable, match=r"NATS nobody.invalid:4222 can't be found: .*not known"):
        await written(NatsAccess((Secret("nats://nobody.invalid"),)))


def test_servers_take_turns() -> None:
    servers = Servers([Secret("tls://joe:p@n1:4222"), Secret("tls://joe:p@n2")])
    assert servers.addresses == ["n1:4222", "n2:4222"]
    first, second = servers.in_turn()
    assert {first.address, second.address} == {"n1:4222", "n2:4222"}
    servers.failed(first)
    assert servers.in_turn() == [second, first]
    servers.failed(second)
    assert servers.in_turn() == [first, second]
    servers.answered(first, [urlparse("tls://10.0.0.1:4222"), urlparse("tls://n3:4222"), urlparse("tls://n2:4222")])
    order = servers.in_turn()
    assert order[0] == first
    assert order[-1] == second
    learnt = {server.address: server for server in order[1:-1]}
    assert learnt == {
        "10.0.0.1:4222": Server(
            Secret("tls://joe:p@10.0.0.1:4222"), learnt=True, certified=urlparse(first.url.reveal()).hostname
        ),
        "n3:4222": Server(Secret("tls://joe:p@n3:4222"), learnt=True),
    }
    servers.answered(first, [])
    assert set(servers.in_turn()) == set(order), "who is not told of now may be up later"
    servers.answered(first, [urlparse(f"tls://10.0.1.{n}:4222") for n in range(16)])
    assert {server.address for server in servers.in_turn()} == {"n1:4222", "n2:4222"} | {
        f"10.0.1.{n}:4222" for n in range(16)
    }
