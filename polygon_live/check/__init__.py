"""Whether everything holds that the service's description asks for: each item a test, with its evidence.

``items`` is what a test says, ``running`` judges what the collector tells of itself, ``market`` when ticks are due,
``flow`` what arrives in the three stores while it looks on, ``kept`` the three days on the database, ``reload`` whether
an announcement is heard, ``login`` the way to Polygon. ``examination`` asks for all of it, in order.

Nothing is changed by it. The one thing that is said is an announcement without content, which means: look again.
"""

from polygon_live.check.examination import Examination, examine
from polygon_live.check.items import Item, holding

__all__ = ["Examination", "Item", "examine", "holding"]
