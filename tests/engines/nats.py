"""NATS as it is run for real: three nodes that know each other, certificates, logins by password and by key."""

import base64
import contextlib
import json
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import attrs
import nkeys  # type: ignore[import-untyped]
import trio
from nats.js import JetStreamContext
from nats.js.api import StorageType, StreamConfig

from polygon_live.config import NatsAccess, Secret
from polygon_live.embedded import Nats
from polygon_live.embedded.server import free_port
from polygon_live.engines.nats import NatsClient
from tests.engines.certificates import Certificates
from tests.servers import running
from tests.waiting import PATIENCE_SECONDS

NODES: Final = 3

T = TypeVar("T")


class Node(Nats):
    """A server with settings beyond those of the embedded one, in the server's own language."""

    def __init__(self, folder: Path, config: str = "") -> None:
        super().__init__(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._config = self.folder / "nats.conf"
        self._config.write_text(config)

    def _command(self) -> list[str | Path]:
        return [*super()._command(), "--config", self._config]


class Cluster:
    """Three nodes with JetStream, each on ports of its own. Blocking methods, as those of the nodes."""

    def __init__(self, folder: Path, config: str = "") -> None:
        routes = [free_port() for _ in range(NODES)]
        others = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
        self.nodes = tuple(
            Node(
                folder / f"node-{n}",
                f'cluster {{ name: three, listen: "127.0.0.1:{port}", routes: [{others}] }}\n{config}\n',
            )
            for n, port in enumerate(routes)
        )

    @property
    def urls(self) -> tuple[str, ...]:
        """Of all nodes."""
        return tuple(node.url for node in self.nodes)

    def start(self) -> None:
        """Those that do not run, and let go those that are held."""
        for node in self.nodes:
            running(node)
            node.resume()

    def kill(self) -> None:
        """All of them."""
        for node in self.nodes:
            node.kill()

    def stop(self) -> None:
        """All of them, in order."""
        for node in self.nodes:
            node.stop()

    def at(self, address: object) -> Node:
        """The node at ``host:port``, as /state names it."""
        return next(node for node in self.nodes if address == f"127.0.0.1:{node.port}")

    def named(self, name: str) -> Node:
        """The node of this server name, as JetStream names it."""
        return next(node for node in self.nodes if node._server_name == name)

    def others(self, *nodes: Node) -> tuple[Node, ...]:
        """All but these."""
        return tuple(node for node in self.nodes if node not in nodes)

    async def whole(self) -> None:
        """Wait until the nodes have found each other and chosen a leader, so that a stream can be made."""

        async def agreed(js: JetStreamContext) -> bool:
            answer = await js._nc.request("$JS.API.INFO", timeout=1)
            return "error" not in json.loads(answer.data) and len(js._nc.servers) == NODES

        for node in self.nodes:
            await until_so(node.url, agreed)


@contextlib.contextmanager
def cluster(folder: Path, config: str = "") -> Iterator[Cluster]:
    """Started; ended with the block, whatever was done to its nodes."""
    made = Cluster(folder, config)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@contextlib.contextmanager
def node(folder: Path, config: str) -> Iterator[Node]:
    """One alone."""
    made = Node(folder, config)
    try:
        yield running(made)
    finally:
        made.stop()


async def ask(url: str, work: Callable[[JetStreamContext], Awaitable[T]], seconds: float = 60.0) -> T:
    """Do something with JetStream at this node, over a connection for this alone. Raises StoreError."""
    access = NatsAccess((Secret(url),))
    client = NatsClient(access, "test", connect_seconds=5, publish_seconds=5)

    async def do() -> T:
        assert client._client is not None
        return await work(client._client.jetstream(timeout=5))

    try:
        await client.connect()
        return await client._run(do, seconds=seconds, doing="asking")
    finally:
        client.close()


async def until_so(url: str, work: Callable[[JetStreamContext], Awaitable[T]]) -> T:
    """Ask until the answer is true; a server that can't answer yet is asked again."""
    with trio.fail_after(PATIENCE_SECONDS):
        while True:
            with contextlib.suppress(Exception):
                if answer := await ask(url, work):
                    return answer
            await trio.sleep(0.05)


async def made_stream(three: Cluster, replicas: int = NODES) -> None:
    """Kept on disk by so many nodes."""
    config = StreamConfig(
        name="TICKS",
        subjects=["ticks.>"],
        num_replicas=replicas,
        storage=StorageType.FILE,
        duplicate_window=120,
    )
    await until_so(three.urls[0], lambda js: js.add_stream(config))


class Kept(NamedTuple):
    """A message in the stream."""

    subject: str
    tick: dict[str, Any]
    at: datetime
    """When the server took it."""


async def kept(url: str, seconds: float = 60.0) -> list[Kept]:
    """Everything that the stream keeps, in its order."""

    async def read(js: JetStreamContext) -> list[Kept]:
        count = (await js.stream_info("TICKS")).state.messages
        reader = await js.subscribe("ticks.>", ordered_consumer=True)
        messages = [await reader.next_msg(timeout=5) for _ in range(count)]
        return [Kept(m.subject, json.loads(m.data), m.metadata.timestamp) for m in messages]

    return await ask(url, read, seconds)


async def in_stream(url: str) -> list[tuple[str, dict[str, Any]]]:
    """Subject and tick of everything that the stream keeps, in its order."""
    return [(message.subject, message.tick) for message in await kept(url)]


def encrypted(certificates: Certificates) -> str:
    """The server's settings for TLS with this certificate."""
    return f'tls {{ cert_file: "{certificates.certificate}", key_file: "{certificates.key}" }}\n'


@attrs.frozen
class Logins:
    """An operator, its account and a user of that: decentralised logins, as NATS calls them."""

    config: str
    """For the server: whom to trust."""
    creds: str
    """For the client: the content of a credentials file."""


def logins() -> Logins:
    """Made anew, as `nsc` makes them."""
    operator, account, system, user = (_key(prefix) for prefix in (b"O", b"A", b"A", b"U"))
    unlimited = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
    storage = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)
    of_operator = _jwt(operator, operator, {"type": "operator", "version": 2, "system_account": _name(system)})
    of_account = _jwt(
        operator, account, {"type": "account", "version": 2, "limits": {**unlimited, "wildcards": True, **storage}}
    )
    of_system = _jwt(operator, system, {"type": "account", "version": 2, "limits": {**unlimited, "wildcards": True}})
    of_user = _jwt(
        account, user, {"type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1}
    )
    config = (
        f"operator: {of_operator}\nsystem_account: {_name(system)}\nresolver: MEMORY\n"
        f"resolver_preload {{ {_name(account)}: {of_account}, {_name(system)}: {of_system} }}\n"
    )
    creds = (
        f"-----BEGIN NATS USER JWT-----\n{of_user}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{bytes(user.seed).decode()}\n------END USER NKEY SEED------\n"
    )
    return Logins(config, creds)


def _key(prefix: bytes) -> nkeys.KeyPair:
    kind = {b"O": nkeys.PREFIX_BYTE_OPERATOR, b"A": nkeys.PREFIX_BYTE_ACCOUNT, b"U": nkeys.PREFIX_BYTE_USER}[prefix]
    return nkeys.from_seed(bytearray(nkeys.encode_seed(secrets.token_bytes(32), kind)))


def _name(key: nkeys.KeyPair) -> str:
    return bytes(key.public_key).decode()


def _jwt(issuer: nkeys.KeyPair, subject: nkeys.KeyPair, claims: Mapping[str, Any]) -> str:
    head = _text({"typ": "JWT", "alg": "ed25519-nkey"})
    body = _text(
        {"jti": secrets.token_hex(16), "iat": 1_780_000_000, "iss": _name(issuer), "sub": _name(subject)}
        | {"name": "test", "nats": claims}
    )
    return f"{head}.{body}.{_base64(issuer.sign(f'{head}.{body}'.encode()))}"


def _text(value: Mapping[str, Any]) -> str:
    return _base64(json.dumps(value).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
