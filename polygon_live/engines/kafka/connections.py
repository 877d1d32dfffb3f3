"""The library's connections, with what they lack: a limit to the TLS handshake, the reason why none comes about, and an
end when a client can't be made.

By itself the library says of a wrong password and of an unknown certificate only that time is up, waits for a TLS
handshake for ever, and leaves a thread and five descriptors behind each time an admin client or a consumer finds
nobody.
"""

import selectors
import ssl
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from kafka import errors
from kafka.net.compat import KafkaNetClient
from kafka.net.inet import create_connection
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector
from kafka.net.transport import KafkaSSLTransport

from polygon_live.engines.kafka.errors import VERDICTS, CertificateRefused, NotUnderstood

HANDSHAKE_SECONDS: Final = 3.0
"""For TLS: longer than a busy broker takes, and short enough to try another one after a broker that hangs."""

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
        return make(**settings, kafka_client=connections, selector=_Selector)
    except BaseException as why:
        refusal = made[0].refusal if made else None
        for manager in made:
            KafkaNetClient(manager.net, manager).close()
        if refusal is not None and isinstance(why, errors.KafkaTimeoutError):
            raise refusal from None
        raise


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

    def __init__(self, net: NetworkSelector, **configs: Any) -> None:
        super().__init__(net, **configs)
        self.net = net
        self.refusal: BaseException | None = None
        self._reached: set[Any] = set()
        """The nodes that took the connection itself."""

    def get_connection(self, node_id: Any, **options: Any) -> Any:
        """As the library does it; whatever becomes of a new one is noted."""
        known = self._conns.get(node_id)
        connection = super().get_connection(node_id, **options)
        if connection is not known:
            self._reached.discard(node_id)
            first = connection.broker_version_data is None
            connection.init_future.add_errback(lambda why: self._failed(connection, why, first=first))
            connection.init_future.add_callback(lambda _: self._came_about())
        return connection

    def _came_about(self) -> None:
        self.refusal = None

    def _failed(self, connection: Any, why: BaseException, *, first: bool) -> None:
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
