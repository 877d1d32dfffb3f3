"""What each component says of itself: frozen snapshots, which the composition root collects into a ``State``."""

from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeVar

import attrs

from polygon_live.compared import UNVERIFIED, VerificationSnapshot
from polygon_live.gap import Gap
from polygon_live.habit import MUTE_SECONDS
from polygon_live.histogram import NOTHING, Spread
from polygon_live.inforce import ConfigurationSnapshot
from polygon_live.model import Reject, Tick
from polygon_live.room import UNSEEN, RoomSnapshot

LATE_SECONDS: Final = 2.0
DOWN_SECONDS: Final = 10.0

Hush = Literal["none", "odd", "quiet", "alarm"]
"""Nothing comes of any symbol though the calendar calls the market open: ``odd``, a new connection is tried and Polygon
asked; ``quiet``, Polygon says closed or can't be asked; ``alarm``, it says open."""
Stage = Literal["quiet", "resubscribed", "reconnected", "silent"]
"""How far the search for a silent symbol's ticks has come; ``silent``: nothing helped."""


@attrs.frozen
class FeedSnapshot:
    """The connection to Polygon."""

    state: str
    """dialling, logging in, subscribing, streaming, closing, waiting (before the next dial), stopped, or off: there is
    none."""
    address: str
    connected_since_ms: int | None
    """Since when the present connection is logged in with acknowledged subscriptions; None if it is not."""
    connections: int
    """How many times "Connected to Polygon.io" was true."""
    endings: Mapping[str, int]
    """Connections and attempts that ended, by reason."""
    last_error: str | None
    last_error_ms: int | None
    needs_operator: bool
    """The last attempt failed for a reason that waiting does not mend: key, plan, another instance."""
    retry_at_ms: int | None
    acknowledged: tuple[str, ...]
    silent: tuple[str, ...]
    """Symbols that stayed without acknowledgement or tick after resubscribing and reconnecting."""
    refusals: tuple[str, ...]
    """What Polygon said about refused topics on this connection; it names no topic."""
    added: tuple[str, ...]
    """Symbols that were added while connected and have not ticked yet, within the time that they have for it."""
    added_silent: tuple[str, ...]
    """Those that had not when that time was over, and have not since."""
    frames: int
    characters: int
    dropped_frames: int
    last_dropped_ms: int | None
    waiting_characters: int
    """Received and not judged yet."""
    stages: Mapping[str, Stage] = attrs.field(factory=dict)
    """Symbols that are silent for longer than is expected of them, while others tick."""
    hush: Hush = "none"
    market_said: str = ""
    """What Polygon said of the market within the hour (``open``, ``closed``), or why it can't be asked; nothing: it was
    not."""


NO_FEED: Final = FeedSnapshot(
    state="off",
    address="",
    connected_since_ms=None,
    connections=0,
    endings={},
    last_error=None,
    last_error_ms=None,
    needs_operator=False,
    retry_at_ms=None,
    acknowledged=(),
    silent=(),
    refusals=(),
    added=(),
    added_silent=(),
    frames=0,
    characters=0,
    dropped_frames=0,
    last_dropped_ms=None,
    waiting_characters=0,
)
"""A run that only fills gaps."""


@attrs.frozen
class SymbolSnapshot:
    """One symbol."""

    symbol: str
    accepted: int
    rejected: int
    refused_in_a_row: int
    """Rejected since the last accepted one, exact repeats not counted."""
    late: int
    suspect: int
    opened_ms: int | None
    """When the market's present session began; None while it is closed."""
    last: Tick | None
    usual_seconds: float | None = None
    """The longest pause between two of its ticks lately; None: it is not known yet."""
    expected_seconds: float = MUTE_SECONDS
    """Within so long a tick is expected."""

    @property
    def market_open(self) -> bool:
        """Whether ticks are expected."""
        return self.opened_ms is not None


@attrs.frozen
class ValidatorSnapshot:
    """What was judged."""

    accepted: int
    ignored: Mapping[str, int]
    """Known events that are not collected, by kind: aggregates, and quotes of symbols that were removed lately."""
    last_seq: int | None
    last_accepted_ms: int | None
    skew_ms: float | None
    """Median of received − Polygon's timestamp over the last ticks."""
    symbols: tuple[SymbolSnapshot, ...]
    events: int = 0
    """Events that Polygon sent, of every kind: accepted, rejected, ignored, and what it says of the connection."""
    delay: Spread = NOTHING
    """Seconds from Polygon's timestamp to the receipt, of accepted live ticks."""
    last_quote_ms: int | None = None
    """When the last quote of a symbol that is collected was received, accepted or not."""


@attrs.frozen
class RejectsSnapshot:
    """What was refused, by stage and reason."""

    counts: Mapping[str, Mapping[str, int]]
    """By stage (``validate`` or a store), then by reason."""
    latest: tuple[Reject, ...]
    unkept: int
    """Rejects that were counted but are not in the table."""


@attrs.frozen
class SinkSnapshot:
    """One store and its pump."""

    name: str
    connected: bool
    behind_seconds: float
    """Age of the oldest tick that the store has not acknowledged, or how long it could not be reached; 0 if neither."""
    waiting_ticks: int
    """Accepted and not in the store yet, in memory or in the journal."""
    seconds_until_loss: float | None
    """When the journal would have to give up the first of what the store lacks, if the store took nothing from now on
    and ticks came as in the last minute; None: they don't come."""
    delivered: int
    expired: int
    set_aside: int
    """Ticks that the store refused for their content, in this run: they are in the quarantine, and not in the store."""
    set_aside_ever: int
    """The same in all runs. A tick that was refused again counts once."""
    last_set_aside_ms: int | None
    lost: int
    """Ticks that this store will not get by itself: they are in the ledger of gaps. A stretch of which it is not known
    how many there were counts as one."""
    last_lost_ms: int | None
    fell_behind: int
    """How often the store was found to lack what it had: a restored backup, a failover. It was caught up."""
    retries: int
    cursor: int
    """Everything up to this ``seq`` is settled."""
    last_delivered_ms: int | None
    last_error: str | None
    last_error_ms: int | None
    failing: bool
    """Nothing was delivered since that."""
    needs_operator: bool
    """The store answers, but somebody must change something."""
    about: Mapping[str, str | int | float | bool | None]
    complaints: tuple[str, ...]
    delay: Spread = NOTHING
    """Seconds from the receipt of a tick to the store's acknowledgement, catching up included."""
    batches: Spread = NOTHING
    """Ticks in a batch that the store took."""

    @property
    def state(self) -> str:
        """good, late (over 2 s behind) or down (over 10 s)."""
        if self.behind_seconds > DOWN_SECONDS:
            return "down"
        return "late" if self.behind_seconds > LATE_SECONDS else "good"


@attrs.frozen
class JournalSnapshot:
    """What was accepted and is kept on this machine's disk."""

    id: str
    folder: str
    bytes: int
    most_bytes: int
    segments: int
    oldest_ms: int | None
    """When the oldest batch in it was written; None: there is none."""
    tail: int
    """The last ``seq`` in it."""
    mark: int
    """Numbers up to this one are taken, whatever happens."""
    bytes_per_second: float
    sync_seconds: float
    """What a power cut may cost; a crash of the collector costs nothing."""
    failing: str | None
    """Why batches go to the stores unjournaled at this moment; None: they are journaled."""
    unjournaled_ticks: int
    """Of the present failure."""
    given_up_ticks: int
    last_given_up_ms: int | None
    unwritten_gaps: int
    """Entries that the ledger could not take yet."""
    corrupt: tuple[tuple[int, int], ...]
    """The latest batches that could not be read back: their first and last ``seq``."""
    damaged: tuple[str, ...]
    """Files that were found damaged at a start, set aside, and are still there."""
    room: RoomSnapshot = UNSEEN
    """Of the disk that its folder is on."""


@attrs.frozen
class GapsSnapshot:
    """The ledger of gaps, counted."""

    lasting: tuple[str, ...]
    """Symbols that nobody hears at this moment."""
    counts: Mapping[str, Mapping[str, int]]
    """Of its entries, by cause and then by state."""
    unsettled_since_ms: int | None = None
    """Since when the oldest that is neither filled nor given up could be; None: there is none that has ended."""


@attrs.frozen
class WatcherSnapshot:
    """A background task beside the pipeline."""

    name: str
    running: bool
    restarts: int
    last_error: str | None


@attrs.frozen
class RetentionSnapshot:
    """The three days of the table."""

    verified: bool
    detail: str
    """In words: what was found and when, or what went wrong."""
    about: Mapping[str, str | int | float | bool | None]
    last_run_ms: int | None = None
    """When a run last came to its end, good or bad."""
    failures: int = 0
    """Runs that failed, or had to leave something."""
    last_failure: str | None = None
    """Why the latest of them did."""
    last_failure_ms: int | None = None
    failing: bool = False
    """The last run was one of them."""
    oldest_row_ms: int | None = None
    """Of the table; None: it is empty, or has not been looked at."""
    table_bytes: int | None = None
    """Its size on the disk, with indexes."""
    room: RoomSnapshot = UNSEEN
    """Of the disk that the table is on, where the database runs on this machine and says where."""


@attrs.frozen
class FillerSnapshot:
    """What is being fetched of what was not received."""

    gap: Gap | None
    """The entry that is at work."""
    reached_ms: int | None
    """How far it is."""
    waiting: str | None
    """Why the entry that was tried last has to wait; None if it has not."""
    retrying: int
    """Entries that will be tried again."""
    last_error: str | None
    last_error_ms: int | None
    ended: Mapping[str, int]
    """Entries since the start, by how they ended: filled, empty, unfillable."""
    compared: int
    """Quotes that Polygon sent."""
    delivered: int
    """Ticks among them that the store had not."""
    rejected: int
    """Quotes among those that were no good."""


@attrs.frozen
class LimitsSnapshot:
    """What Polygon could count."""

    per_second: float
    burst: int
    """So many at once, if there were none for a while."""
    taken: int
    waiting: int
    violations: Mapping[str, int]
    """What Polygon said was too much, or not for us: by endpoint."""
    last_violation: str | None
    last_violation_ms: int | None


@attrs.frozen
class State:
    """Everything, at one moment."""

    at_ms: int
    started_ms: int
    version: str
    collector: str
    simulated: bool
    stopping: bool
    configuration: ConfigurationSnapshot
    limits: LimitsSnapshot
    feed: FeedSnapshot
    validator: ValidatorSnapshot
    rejects: RejectsSnapshot
    journal: JournalSnapshot
    gaps: GapsSnapshot
    filler: FillerSnapshot
    sinks: tuple[SinkSnapshot, ...]
    retention: RetentionSnapshot
    watchers: tuple[WatcherSnapshot, ...]
    verification: VerificationSnapshot = UNVERIFIED


Told = TypeVar("Told", FeedSnapshot, FillerSnapshot, SinkSnapshot, WatcherSnapshot)


def blanked(told: Told, blank: Callable[[str], str]) -> Told:
    """Without secrets in its ``last_error``: who was told one may repeat it, be it a server or a library."""
    return told if told.last_error is None else attrs.evolve(told, last_error=blank(told.last_error))
