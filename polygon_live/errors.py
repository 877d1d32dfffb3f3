"""What can go wrong, sorted by whose fault it is and whether trying again helps.

::

    PolygonLiveError
    ├── ConfigurationError        the operator's: nothing starts, exit 78, every fault listed at once
    ├── ConfigurationRefused      what the Hub has can't be used: what was in force stays
    ├── HubError                  Central Hub does not answer, or not in its language
    ├── InternalFault             a bug: exit 70
    ├── NotUnderTrio              the Python interface was used under another event loop
    ├── StreamOverflow            who reads the ticks is too slow, and asked for an error
    ├── FeedError                 Polygon or the way there: the feed decides how long to wait (see feed.py)
    │   ├── DialFailed            no WebSocket came about: try the next address
    │   ├── FeedDropped           it was open and is gone, whoever closed it
    │   ├── FeedSilent            open, but nothing arrives
    │   ├── LoginRefused          wrong key, no plan, no answer in time: never retried hot
    │   ├── TooManyConnections    another instance holds the account's one connection
    │   └── SubscriptionFailed    logged in, but (some) symbols do not stream
    ├── JournalError              the journal can't be opened or written: exit 74 at the start, 503 while running
    │   └── JournalHeld           another collector has it open
    ├── CollectorError            the running collector did not answer as it should; the message says what to do
    │   └── CollectorAway         there is none at its address
    ├── RestError                 Polygon's REST service did not give what was asked for
    └── StoreError                one of the three stores
        ├── StoreUnavailable      away or too slow: try again; what was being written may be there or not
        ├── StoreMisconfigured    it answers, but can't be used as it is: somebody must act; tried again slowly
        ├── StoreContested        another collector of this name has the store's cursor: watched, tried again
        └── RowsRefused           the store will never take (one of) these ticks: find it, set it aside, go on

Foreign errors are translated into these where the foreign library is owned (``engines``), never above.
"""

from collections.abc import Iterator


class PolygonLiveError(Exception):
    """Base of everything that this package raises on purpose."""


class ConfigurationError(PolygonLiveError):
    """The settings can't be used. ``faults`` has one sentence for each thing to mend."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class ConfigurationRefused(PolygonLiveError):
    """An operational configuration can't be used as a whole. ``faults`` has one sentence for each thing to mend."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class HubError(PolygonLiveError):
    """Central Hub did not give a configuration."""


class InternalFault(PolygonLiveError):
    """A bug in feed, validator or journal ended the collector, after a drain."""


class NotUnderTrio(PolygonLiveError):
    """The Python interface was used outside of ``trio.run``."""


class StreamOverflow(PolygonLiveError):
    """Ticks were read too slowly, and there was no room for the next. All before it were read; there are no more."""


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


class JournalError(PolygonLiveError):
    """The journal can't be used; the message says which file, why, and what to do."""


class JournalHeld(JournalError):
    """Another process has the journal open; the message says which."""


class CollectorError(PolygonLiveError):
    """The running collector was asked over HTTP and gave no good answer; the message says why and what to do."""


class CollectorAway(CollectorError):
    """Nobody listens at its address: it does not run, or elsewhere."""


class RestError(PolygonLiveError):
    """Polygon's REST service refused, failed or answered nonsense. ``again`` tells whether asking later may help, and
    ``after`` (seconds) when, if the service said so.
    """

    def __init__(self, message: str, *, again: bool, after: float | None = None) -> None:
        super().__init__(message)
        self.again = again
        self.after = after


class StoreError(PolygonLiveError):
    """A store did not do what it was asked."""


class StoreUnavailable(StoreError):
    """The store is away, too slow or restarting. Whether the last write happened is not known."""


class StoreMisconfigured(StoreError):
    """The store answers, but somebody must change something before it can be used; the message says what."""


class StoreContested(StoreError):
    """The store's cursor is in the hands of another collector of this name, who may live; the message names its host.
    He has another journal, or a copy of this one.

    Nothing was written. Opening again goes on watching it, and takes over when it has not moved for long enough.
    """


class RowsRefused(StoreError):
    """The store refuses the content of at least one of these ticks, and wrote none of them.

    ``str(error)`` is the engine's own message.
    """


def reasons(why: BaseException) -> Iterator[BaseException]:
    """The errors themselves: Trio's nurseries group even a single one."""
    if isinstance(why, BaseExceptionGroup):
        for inner in why.exceptions:
            yield from reasons(inner)
    else:
        yield why
