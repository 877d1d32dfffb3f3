"""polygon-live: one live connection to Polygon.io's forex and metals feed, delivered to three stores.

``PolygonLiveCollector`` is the collector in one's own program, ``ConfigClient`` what Central Hub has for a service.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from polygon_live.collector import PolygonLiveCollector
    from polygon_live.hub import ConfigClient

__all__ = ["ConfigClient", "PolygonLiveCollector", "__version__"]
__version__ = "0.1.0"

_HOMES: Final = {"ConfigClient": "polygon_live.hub", "PolygonLiveCollector": "polygon_live.collector"}

if not TYPE_CHECKING:  # where types are checked, there is nothing but what is named above

    def __getattr__(name: str) -> object:
        """Loaded when asked for: the command line, and each module here, must not pay for all of it."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HOMES[name]), name)
