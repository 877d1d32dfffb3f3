"""Stand-ins for Polygon's forex WebSocket and REST, and for Central Hub: for the tests, ``simulate`` and ``demo``.

``connection`` is one client's conversation, ``server`` the account and the ways in (a socket, or memory for virtual
time), ``script`` what goes wrong before it streams, ``faults`` what goes wrong then, ``market`` where prices come from;
``history`` is what was quoted, and ``rest`` the service that has it. ``hub`` is Central Hub; ``http`` is what ``rest``
and ``hub`` share. They know nothing of the collector but the vocabulary in ``wire``.
"""

from polygon_live.standin.connection import Connection
from polygon_live.standin.hub import StandInHub
from polygon_live.standin.rest import RestStandIn
from polygon_live.standin.script import Script
from polygon_live.standin.server import StandIn

__all__ = ["Connection", "RestStandIn", "Script", "StandIn", "StandInHub"]
