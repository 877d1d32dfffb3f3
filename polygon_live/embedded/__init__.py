"""Real servers from packages: PostgreSQL, NATS and a Kafka-compatible broker, for ``demo`` and for the tests.

The programs come with the extra ``polygon-live[embedded]``; nothing here is used by ``run``.
"""

from polygon_live.embedded.broker import Broker
from polygon_live.embedded.nats import Nats
from polygon_live.embedded.postgres import Postgres
from polygon_live.embedded.server import EmbeddedServer, NotInstalled, ServerFailed, sole_owner

__all__ = ["Broker", "EmbeddedServer", "Nats", "NotInstalled", "Postgres", "ServerFailed", "sole_owner"]
