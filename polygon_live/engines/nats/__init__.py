"""NATS: the only part of the collector that knows nats-py.

``client`` owns the connection and its thread, ``servers`` which to try next, ``security`` encryption and logins,
``modes`` how a batch is handed over, ``errors`` what went wrong.
"""

from polygon_live.engines.nats.client import NatsClient, create_stream
from polygon_live.engines.nats.modes import Message

__all__ = ["Message", "NatsClient", "create_stream"]
