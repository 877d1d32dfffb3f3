"""The cursor: how far the archive is, and whose it is, kept as the committed offset of a consumer group that nobody
ever joins.

Its offset is the last ``seq``, its metadata says who wrote it. The offset 0 stands for a collector that has written
nothing yet: it has a heartbeat, too. Kafka forgets the offsets of such a group when nothing was committed for
``offsets.retention.minutes`` (a week). What is found at the archive's end instead is not ``certain`` where others have
written too much since; it is so until the next batch.
"""

import time
from collections.abc import Iterator
from typing import Any, Final

import attrs
import msgspec
from kafka import TopicPartition, errors
from kafka.admin import KafkaAdminClient

from polygon_live.config import KafkaAccess
from polygon_live.contest import Contest
from polygon_live.engines.kafka.access import administration
from polygon_live.errors import StoreContested
from polygon_live.sink import Identity

PATIENCE_SECONDS: Final = 6.0
"""Longer than one request may take: the second one may meet a broker that lives."""


def name_of(collector: str) -> str:
    """Of the group, and of the transactions."""
    return f"polygon-live.{collector}"


class Holder(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whose cursor it is; ``beat`` rises with each heartbeat."""

    journal: str
    host: str
    beat: int
    certain: bool = True
    """False: the archive may hold more than the cursor says."""


@attrs.frozen
class Cursor:
    """As found."""

    seq: int
    holder: Holder | None
    """None: set by hand."""

    @property
    def certain(self) -> bool:
        """What is set by hand holds."""
        return self.holder is None or self.holder.certain

    @property
    def metadata(self) -> str:
        """As it is kept beside the offset."""
        return msgspec.json.encode(self.holder).decode()


class _StableAdmin(KafkaAdminClient):  # type: ignore[misc]
    """Is told of a cursor only when no transaction that could move it is pending: until then, UnstableOffsetCommitError
    comes.
    """

    def _list_group_offsets_requests(self, group_specs: Any) -> Iterator[Any]:
        for group, request in super()._list_group_offsets_requests(group_specs):
            request.require_stable = True
            yield group, request


def read_cursor(access: KafkaAccess, collector: str, topic: str, *, name: str, stable: bool) -> Cursor | None:
    """None: there is none. ``stable`` waits for the end of a transaction that could move it. Blocks, and is patient.

    Raises kafka.errors.KafkaError.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with administration(access, name=name, kind=_StableAdmin if stable else KafkaAdminClient) as admin:
                return _cursor(admin, name_of(collector), _place(topic))
        except errors.RetriableError:  # it keeps in mind which broker to ask: the next client asks for that again
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _cursor(admin: KafkaAdminClient, group: str, place: TopicPartition) -> Cursor | None:
    found = admin.list_group_offsets({group: [place]})[group].get(place)
    if found is None or found.offset < 0:
        return None
    metadata = (found.metadata or "").removesuffix("\0")  # confluent-kafka sends the end of its C string, too
    try:
        return Cursor(found.offset, msgspec.json.decode(metadata, type=Holder))
    except msgspec.MsgspecError:
        return Cursor(found.offset, None)


class Watch:
    """Another's cursor, looked at again and again. ``seconds`` without a movement are its holder's death."""

    def __init__(self, identity: Identity, seconds: float, *, where: str) -> None:
        self._identity = identity
        self._seconds = seconds
        self._where = where
        self._contest = Contest(seconds)
        self.claimed = False
        """The cursor, in this run."""

    def is_others(self, holder: Holder) -> bool:
        """Whether he has another journal, or, since this run has claimed the cursor, a copy of ours on another host.
        Before that the host tells nothing: a container has another name in each run.
        """
        ours = self._identity
        return holder.journal != ours.journal or (self.claimed and holder.host != ours.host)

    def look(self, found: Cursor | None, now: float) -> str | None:
        """None: it is ours, or nobody's. Else whose it was, in words: he is dead. ``now`` in seconds.

        Raises StoreContested: another's, who lives or may live.
        """
        if found is None or found.holder is None or not self.is_others(found.holder):
            self.lose_sight()
            return None
        if not self._contest.is_dead(found, now):
            raise self.contested(found.holder)
        return (
            f"the cursor of journal {found.holder.journal} on host {found.holder.host}, at {found.seq}, had not moved "
            f"for {self._seconds:g} s"
        )

    def lose_sight(self) -> None:
        """The brokers could not be asked, so the other could not move it there either: the time begins anew."""
        self._contest.lose_sight()

    def contested(self, holder: Holder) -> StoreContested:
        """What to do about it."""
        name = f"collector {self._identity.collector} at Kafka {self._where}"
        copy = holder.journal == self._identity.journal
        if self._contest.moved:
            whose = " with a copy of this one's data folder" if copy else ""
            return StoreContested(
                f"another {name}{whose} is alive on host {holder.host} (journal {holder.journal}): stop one of the "
                "two, or give this one another POLYGON_LIVE_COLLECTOR_ID"
            )
        whose = "a copy of this one's journal" if copy else "another journal"
        return StoreContested(
            f"the cursor of {name} belongs to {whose} ({holder.journal}, host {holder.host}): it is taken over if it "
            f"does not move for {self._seconds:g} s"
        )


def _place(topic: str) -> TopicPartition:
    return TopicPartition(topic, 0)
