"""The real Apache Kafka (KRaft) from Maven Central: one node, or a cluster of three that can be killed one by one.

Every node is broker and controller in one Java process, on 127.0.0.1 only. What it has acknowledged is in the kernel's
page cache at least, so a SIGKILL costs nothing (a power cut could; nobody cuts the power here).
"""

import base64
import contextlib
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, Final, TextIO

import attrs
import trustme
from cryptography.hazmat.primitives import serialization

from polygon_live.embedded import EmbeddedServer
from polygon_live.embedded.server import free_port
from tests.engines.fetched import fetched, run

VERSION: Final = "4.3.1"
SLF4J: Final = "1.7.36"
"""The logging of the version of slf4j-api that this Kafka was built with."""
PLUGIN: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1"

POM: Final = f"""<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>tests</groupId><artifactId>apache-kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>{SLF4J}</version>
    </dependency>
  </dependencies>
</project>
"""

JVM: Final = (
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
)
STARTED: Final = b"Kafka Server started"
"""Said when the broker has caught up with the controllers and takes requests."""


@attrs.frozen
class Lock:
    """How the clients' listener is locked: TLS with this certificate, and SCRAM-SHA-512 for these users."""

    certificate: trustme.LeafCert
    passwords: Mapping[str, str]
    powerful: str
    """The one of them who may do everything; the others may do what the access control lists say."""


class Kafka(EmbeddedServer):
    """One node. With a ``lock``, clients meet it, and ``back_door`` is the address that asks for nothing."""

    name: ClassVar = "Apache Kafka"

    def __init__(
        self,
        folder: Path,
        *,
        number: int = 1,
        controllers: Mapping[int, int] | None = None,
        cluster_id: str | None = None,
        lock: Lock | None = None,
    ) -> None:
        """``controllers`` gives the port of each node's controller; this one alone, if it is None."""
        super().__init__(folder)
        self.number = number
        self._controllers = controllers or {number: free_port()}
        self._cluster_id = cluster_id or _new_cluster_id()
        self._lock = lock
        self._back_port = free_port()
        self.advertised: int | None = None
        """The port that clients are told to go on with, if there is something between them and this node."""
        self._log_begins = 0

    @property
    def address(self) -> str:
        """Bootstrap server, for clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def back_door(self) -> str:
        """Bootstrap server without login and encryption, whatever the clients' one asks for; for the brokers."""
        return f"127.0.0.1:{self._back_port}"

    def _prepare(self, lock: TextIO) -> None:
        del lock
        self._properties().write_text("\n".join(f"{name}={value}" for name, value in self._config().items()))
        if not self.data.exists():
            users = self._lock.passwords.items() if self._lock else ()
            scram = [f"--add-scram=SCRAM-SHA-512=[name={name},password={password}]" for name, password in users]
            run(
                self._java(
                    "kafka.tools.StorageTool", "format", "-t", self._cluster_id, "-c", self._properties(), *scram
                ),
                self.folder,
            )
        self._log_begins = self.log_path.stat().st_size if self.log_path.exists() else 0

    def _command(self) -> Sequence[str | Path]:
        return self._java("kafka.Kafka", self._properties())

    def _java(self, main: str, *arguments: str | Path) -> list[str | Path]:
        return _java(f"-XX:SharedArchiveFile={classes() / main}", main, *arguments)

    def _answers(self) -> bool:
        with self.log_path.open("rb") as log:  # its own words: nobody else writes there
            log.seek(self._log_begins)
            return STARTED in log.read()

    def _properties(self) -> Path:
        return self.folder / "server.properties"

    def _config(self) -> dict[str, object]:
        listeners = {"CLIENT": self.port, "BROKER": self._back_port, "CONTROLLER": self._controllers[self.number]}
        addresses = {name: f"{name}://127.0.0.1:{port}" for name, port in listeners.items()}
        copies = min(3, len(self._controllers))
        return {
            "process.roles": "broker,controller",
            "node.id": self.number,
            "controller.quorum.voters": ",".join(f"{n}@127.0.0.1:{port}" for n, port in self._controllers.items()),
            "listeners": ",".join(addresses.values()),
            "advertised.listeners": f"CLIENT://127.0.0.1:{self.advertised or self.port},{addresses['BROKER']}",
            "listener.security.protocol.map": f"CLIENT:{'SASL_SSL' if self._lock else 'PLAINTEXT'},"
            "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "BROKER",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": self.data,
            "auto.create.topics.enable": "false",
            # Small: this is one of several processes on a developer's machine.
            "offsets.topic.num.partitions": 1,
            "offsets.topic.replication.factor": copies,
            "transaction.state.log.num.partitions": 1,
            "transaction.state.log.replication.factor": copies,
            "transaction.state.log.min.isr": max(1, copies - 1),
            "num.io.threads": 2,
            "num.network.threads": 2,
            "log.cleaner.dedupe.buffer.size": 2**22,
            # A dead broker is noticed after three seconds rather than nine.
            "broker.heartbeat.interval.ms": 500,
            "broker.session.timeout.ms": 3000,
            "replica.lag.time.max.ms": 5000,
            **self._locked(),
        }

    def _locked(self) -> dict[str, object]:
        if self._lock is None:
            return {}
        store = self.folder / "keystore.pem"
        store.write_bytes(
            _pkcs8(self._lock.certificate) + b"".join(c.bytes() for c in self._lock.certificate.cert_chain_pems)
        )
        return {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": store,
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.client.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": f"User:{self._lock.powerful};User:ANONYMOUS",
        }


class Cluster:
    """Three nodes, each of them broker and controller: two are a majority."""

    def __init__(self, folder: Path, *, nodes: int = 3) -> None:
        controllers = {number: free_port() for number in range(1, nodes + 1)}
        cluster_id = _new_cluster_id()
        self.nodes = [
            Kafka(folder / f"kafka-{number}", number=number, controllers=controllers, cluster_id=cluster_id)
            for number in controllers
        ]

    @property
    def address(self) -> str:
        """All bootstrap servers, as a comma list."""
        return ",".join(node.address for node in self.nodes)

    def __getitem__(self, number: int) -> Kafka:
        """The node of that number, which is the broker's id."""
        return self.nodes[number - 1]

    def start(self) -> None:
        """Those that don't run; return when all answer. Raises NotInstalled, ServerFailed."""
        self._each(lambda node: node.start())

    def stop(self) -> None:
        """In order, as far as a majority can be had for it; return when all are gone."""
        self._each(lambda node: node.stop())

    def kill(self) -> None:
        """SIGKILL to all."""
        self._each(lambda node: node.kill())

    def pause(self) -> None:
        """SIGSTOP to all."""
        self._each(lambda node: node.pause())

    def resume(self) -> None:
        """SIGCONT to all."""
        self._each(lambda node: node.resume())

    def _each(self, what: Callable[[Kafka], None]) -> None:
        """At once: none of them answers before a majority is there."""
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(what, self.nodes))


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Three nodes that are not started yet; ended with the block, whatever was done to them."""
    made = Cluster(folder)
    try:
        yield made
    finally:
        made.kill()


class _Model(Kafka):
    """Leaves its classes beside its folder when it ends."""

    def _java(self, main: str, *arguments: str | Path) -> list[str | Path]:
        return _java(f"-XX:ArchiveClassesAtExit={self.folder.parent / main}", main, *arguments)


def _java(option: str, main: str, *arguments: str | Path) -> list[str | Path]:
    return ["java", *JVM, option, "-cp", f"{libraries()}/*", main, *arguments]


def libraries() -> Path:
    """Where they are, fetched if they were not there. Raises NotInstalled."""
    return fetched(f"apache-kafka-{VERSION}", _fetch)


def _fetch(folder: Path) -> None:
    run(["java", "-version"], folder)
    (folder / "pom.xml").write_text(POM)
    run(["mvn", "-B", "-q", f"{PLUGIN}:copy-dependencies", "-DincludeScope=runtime", "-DoutputDirectory=."], folder)


def classes() -> Path:
    """The classes of each main program as they are in memory when it runs: half of the CPU that its start takes. A Java
    other than the one that wrote them does without. Raises NotInstalled.
    """
    return fetched(f"apache-kafka-{VERSION}-classes", _load)


def _load(folder: Path) -> None:
    model = _Model(folder / "model")
    model.start()
    model.stop()
    shutil.rmtree(model.folder)


def _new_cluster_id() -> str:
    return base64.urlsafe_b64encode(b"\x01" + uuid.uuid4().bytes[1:]).decode().rstrip("=")  # no dash in front


def _pkcs8(certificate: trustme.LeafCert) -> bytes:
    """Java reads no other form of a private key."""
    key = serialization.load_pem_private_key(certificate.private_key_pem.bytes(), password=None)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
