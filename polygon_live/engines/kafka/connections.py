"""The library's connections, with what they lack: limits to TLS' handshake and to the wait for one broker of several,
the reason why none comes about, and an end when a client can't be made.

By itself the library says of a wrong password and of an unknown certificate only that time is up, waits for a TLS
handshake for ever, gives the broker that it happens to ask first all the time there is, and leaves a thread and five
descriptors behind each time an admin client or a consumer finds nobody.
"""

import itertools
import random
import selectors
import ssl
import time
from collections.abc import Callable
from typing import Any, ClassVar, Final, TypeVar

from kafka import errors
from kafka.net.compat import KafkaNetClient
from kafka.net.inet import create_connection
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaSSLTransport

from polygon_live.engines.kafka.errors import VERDICTS, CertificateRefused, NotUnderstood

HANDSHAKE_SECONDS: Final = 3.0
"""For TLS: longer than a busy broker takes, and short enough to try another one after a broker that hangs."""
FIRST_ANSWER_MS: Final = 1500
"""For one of several brokers to take a new client: then the next one is asked. On a slow line it is more."""
MOST_ANSWER_MS: Final = 60_000

T = TypeVar("T")


def connected(make: Callable[..., T], settings: dict[str, Any]) -> T:
    """One of the library's clients, with connections of this kind. Blocks.

    Raises kafka.errors.KafkaError: what the last broker said to the last connection, if it said anything.
    """
    made: list[_Connections] = []

    def connections(**configs: Any) -> KafkaNetClient:
        net = NetworkSelector(**configs)
        made.append(_Connections(net, **configs))
        return KafkaNetClient(net, made[0], **configs)

    try:
        client = make(**settings, kafka_client=connections, selector=_Selector)
    except BaseException as why:
        _Connections.nobody_answered(waited=any(manager.waited for manager in made))
        refusal = made[0].refusal if made else None
        for manager in made:
            KafkaNetClient(manager.net, manager).close()
        if refusal is not None and isinstance(why, errors.KafkaTimeoutError):
            raise refusal from None
        raise
    made[0].answered()
    return client


class _Selector(selectors.DefaultSelector):
    """Says of a socket that it is not registered, and no more. The library asks before each wait, and the answer that
    Python makes, with both addresses in it, was a quarter of what its thread did.
    """

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        number = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        if number < 0:  # closed: it is looked for
            return super().get_key(fileobj)
        key: selectors.SelectorKey | None = self._fd_to_key.get(number)  # type: ignore[attr-defined]
        if key is None:
            raise KeyError(number)
        return key


class _Connections(KafkaConnectionManager):  # type: ignore[misc]
    """``refusal`` is why no connection comes about, as far as a broker has let us know."""

    _good: ClassVar[Any] = None
    """The address by which a client was made last: a broker that hangs, or whose host is gone, is met once, and not by
    each.
    """
    _limit_ms: ClassVar[float] = FIRST_ANSWER_MS

    def __init__(self, net: NetworkSelector, **configs: Any) -> None:
        # A broker that does not speak gets no more time to begin than to answer, by itself twice as much.
        super().__init__(net, socket_connection_setup_timeout_ms=configs["request_timeout_ms"], **configs)
        known = self.cluster.bootstrap_brokers()
        random.shuffle(known)
        turn = itertools.cycle(sorted(known, key=lambda broker: _address(broker) != self._good))
        self.cluster.bootstrap_brokers = lambda: [next(turn)]  # the library throws dice each time
        self._one_of_several = len(known) > 1
        self._first: tuple[Any, float] | None = None
        """The address that took this client last, and how long that took, in ms."""
        self.net = net
        self.waited = False
        """For one of several until its limit."""
        self.refusal: BaseException | None = None
        self._reached: set[Any] = set()
        """The nodes that took the connection itself."""

    def get_connection(self, node_id: Any, **options: Any) -> Any:
        """As the library does it; whatever becomes of a new one is noted."""
        known = self._conns.get(node_id)
        begun = time.monotonic()
        if self._one_of_several and self.cluster.is_bootstrap(node_id):
            options["timeout_ms"] = min(options.get("timeout_ms") or self._limit_ms, self._limit_ms)
        connection = super().get_connection(node_id, **options)
        if connection is not known:
            self._reached.discard(node_id)
            first = connection.broker_version_data is None
            connection.init_future.add_errback(lambda why: self._failed(connection, why, begun, first=first))
            connection.init_future.add_callback(lambda _: self._came_about(node_id, begun))
        return connection

    def answered(self) -> None:
        """A client has come about."""
        if self._first is not None:
            _Connections._good, took_ms = self._first
            _Connections._limit_ms = min(max(FIRST_ANSWER_MS, 2 * took_ms), MOST_ANSWER_MS)

    @classmethod
    def nobody_answered(cls, *, waited: bool) -> None:
        """No client has come about. ``waited``: one of several may have needed more time."""
        cls._good, cls._limit_ms = None, min((1 + waited) * cls._limit_ms, MOST_ANSWER_MS)

    def _came_about(self, node_id: Any, begun: float) -> None:
        self.refusal = None
        if self.cluster.is_bootstrap(node_id):
            took_ms = (time.monotonic() - begun) * 1000
            self._first = _address(self.cluster.broker_metadata(node_id)), took_ms

    def _failed(self, connection: Any, why: BaseException, begun: float, *, first: bool) -> None:
        if self.cluster.is_bootstrap(connection.node_id) and time.monotonic() - begun >= self._limit_ms / 1000:
            self.waited = True
        if isinstance(why, errors.InvalidReceiveError):
            why = NotUnderstood(str(why))
        elif first and type(why) is errors.KafkaConnectionError and connection.node_id in self._reached:
            # A broker says what it is before the login. Its answer to the login itself the library loses when the
            # connection ends at the same moment.
            answered = connection.broker_version_data is not None
            why = (
                errors.SaslAuthenticationFailedError("it ends the connection") if answered else NotUnderstood(str(why))
            )
        if isinstance(why, VERDICTS) or not isinstance(self.refusal, VERDICTS):
            self.refusal = why

    async def _build_transport(self, node: Any, timeout_at: float | None = None) -> Any:
        transport = await (self._tls if self.ssl_enabled else super()._build_transport)(node, timeout_at)
        self._reached.add(node.node_id)
        return transport

    async def _tls(self, node: Any, timeout_at: float | None) -> Any:
        limit = min(timeout_at or float("inf"), time.monotonic() + HANDSHAKE_SECONDS)
        options = self.config["socket_options"]
        sock = await create_connection(self._net, node.host, node.port, options, timeout_at=limit)
        ours = {name: value for name, value in self.config.items() if name.startswith("ssl_")}
        transport = _Tls(self._net, sock, host=node.host, **ours)
        try:
            await transport.handshake_until(limit)
        except ssl.SSLCertVerificationError as why:
            transport.abort()
            raise CertificateRefused(why.verify_message) from None
        except ssl.SSLError as why:
            transport.abort()
            raise NotUnderstood(f"no TLS: {why.reason}") from None
        except BaseException:
            transport.abort()
            raise
        return transport


def _address(broker: Any) -> tuple[str, int]:
    return broker.host, broker.port


class _Tls(KafkaSSLTransport):  # type: ignore[misc]
    async def handshake_until(self, limit: float) -> None:
        while True:
            try:
                self._sock.do_handshake()
            except ssl.SSLWantReadError:
                await self._net.wait_read(self._sock, limit)
            except ssl.SSLWantWriteError:
                await self._net.wait_write(self._sock, limit)
            else:
                return
