"""polygon-live: one live connection to Polygon.io's forex and metals feed, delivered to three stores."""

__version__ = "0.1.0"
