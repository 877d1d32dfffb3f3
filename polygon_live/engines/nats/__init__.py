"""NATS: the only part of the collector that knows nats-py.

``link`` owns a connection and its thread, ``servers`` which to try next, ``security`` encryption and logins;
``client`` hands over ticks, in one of the ``modes``, by ``speaking`` many at once; ``publishing``, ``listening`` and
``hearing`` do the same for single messages;
``errors`` is what went wrong.
"""

from polygon_live.engines.nats.client import NatsClient, create_stream
from polygon_live.engines.nats.hearing import Heard, Subscriber
from polygon_live.engines.nats.listening import listen
from polygon_live.engines.nats.publishing import Publisher
from polygon_live.engines.nats.speaking import Message

__all__ = ["Heard", "Message", "NatsClient", "Publisher", "Subscriber", "create_stream", "listen"]
