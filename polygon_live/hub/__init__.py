"""Central Hub, seen from here: ``ConfigClient``.

``client`` asks and tells; ``standing`` decides what is in force; ``door`` is the way to the Hub over HTTP; ``merging``
lays what was posted over the safe defaults; ``lastgood`` keeps a copy for when the Hub is away; ``discovery`` lets
others find us. It works under Trio and under asyncio.
"""

from polygon_live.hub.client import ConfigClient
from polygon_live.hub.discovery import Registration
from polygon_live.hub.merging import digest, merged

__all__ = ["ConfigClient", "Registration", "digest", "merged"]
