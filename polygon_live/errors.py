"""What can go wrong, sorted by whose fault it is and whether trying again helps.

::

    PolygonLiveError
    ├── ConfigurationError        the operator's: nothing starts, exit 78, every fault listed at once
    ├── FeedError                 Polygon or the way there: the feed decides how long to wait (see feed.py)
    │   ├── DialFailed            no WebSocket came about: try the next address
    │   ├── FeedDropped           it was open and is gone, whoever closed it
    │   ├── FeedSilent            open, but nothing arrives
    │   ├── LoginRefused          wrong key, no plan, no answer in time: never retried hot
    │   ├── TooManyConnections    another instance holds the account's one connection
    │   └── SubscriptionFailed    logged in, but (some) symbols do not stream
    └── StoreError                one of the three stores
        ├── StoreUnavailable      away or too slow: try again; what was being written may be there or not
        ├── StoreMisconfigured    it answers, but can't be used as it is: somebody must act; tried again slowly
        ├── AlreadyHeld           some of these ticks are there already: ask which, write the others
        └── RowsRefused           the store will never take (one of) these ticks: find it, set it aside, go on

Foreign errors are translated into these where the foreign library is owned (``engines``), never above.
"""


class PolygonLiveError(Exception):
    """Base of everything that this package raises on purpose."""


class ConfigurationError(PolygonLiveError):
    """The settings can't be used. ``faults`` has one sentence for each thing to mend."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class FeedError(PolygonLiveError):
    """The conversation with Polygon ended. ``reason`` is the short, stable name used in metrics and state."""

    reason = "feed"


class DialFailed(FeedError):
    """No WebSocket connection could be opened at this address."""

    reason = "dial_failed"


class FeedDropped(FeedError):
    """An open connection ended: close frame, reset, or a status that announced the end."""

    def __init__(self, message: str, *, reason: str = "dropped") -> None:
        super().__init__(message)
        self.reason = reason


class FeedSilent(FeedError):
    """The connection is open but nothing comes through it."""

    reason = "silent"


class LoginRefused(FeedError):
    """Polygon does not let us in. ``reason`` tells a wrong key from a missing plan from a login that timed out."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class TooManyConnections(FeedError):
    """Polygon allows one connection an account and asset class, and somebody else has it."""

    reason = "max_connections"


class SubscriptionFailed(FeedError):
    """Logged in, but symbols stayed without acknowledgement or without a tick."""

    reason = "subscription"


class StoreError(PolygonLiveError):
    """A store did not do what it was asked."""


class StoreUnavailable(StoreError):
    """The store is away, too slow or restarting. Whether the last write happened is not known."""


class StoreMisconfigured(StoreError):
    """The store answers, but somebody must change something before it can be used; the message says what."""


class AlreadyHeld(StoreError):
    """The store holds some of these ticks already (same ``seq``), and wrote none of the others."""


class RowsRefused(StoreError):
    """The store refuses the content of at least one of these ticks, and wrote none of them.

    ``str(error)`` is the engine's own message.
    """
