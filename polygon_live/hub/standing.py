"""Which configuration is in force, and which was refused.

::

    at the start ─► last good copy, else safe defaults
    the Hub has something ──► taken ──► in force, and kept as the last good copy
                          └─► refused ► what was in force stays, and why is told
    the Hub has nothing ────► safe defaults, and no copy
"""

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import structlog

from polygon_live.document import flat
from polygon_live.errors import ConfigurationRefused
from polygon_live.hub.door import Posted
from polygon_live.hub.lastgood import LastGood
from polygon_live.hub.merging import copied, digest, merged
from polygon_live.inforce import Refusal

HUB: Final = "hub"
LAST_GOOD: Final = "last good copy"
SAFE_DEFAULTS: Final = "safe defaults"

log = structlog.get_logger()

Judge = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@attrs.frozen
class InForce:
    """A configuration, whole, and where it is from."""

    document: dict[str, Any] = attrs.field(repr=False)
    digest: str
    source: str
    version: str | None = None
    updated_by: str | None = None
    named: frozenset[str] = frozenset()
    """Dotted names that the source has; what else is in the document is from the safe defaults."""
    copied_ms: int | None = None


class Standing:
    """``judge`` gets what was posted merged over ``safe_defaults``, and gives back what is to be in force and kept, or
    raises ConfigurationRefused. What it raises for the safe defaults themselves goes to the caller.
    """

    def __init__(
        self, safe_defaults: Mapping[str, Any], judge: Judge, copy: LastGood, now_ms: Callable[[], int]
    ) -> None:
        self._base: dict[str, Any] = copied(safe_defaults)
        self._judge = judge
        self._copy = copy
        self._now_ms = now_ms
        defaults = copied(judge(copied(self._base)))
        self._defaults = InForce(defaults, digest(defaults), SAFE_DEFAULTS)
        self._seen: Posted | None = None
        """What was judged last."""
        self.now = self._defaults
        self.refused = 0
        self.refusal: Refusal | None = None
        """The last one, unless something was taken after it."""

    async def load(self) -> None:
        """Take the last good copy, if there is one and it still is good."""
        kept = await self._copy.load()
        if kept is None:
            return
        found = self._judged(kept.config, LAST_GOOD, digest(kept.config), kept.version, kept.updated_by)
        if found is not None:
            named = frozenset(flat(kept.config))
            self.now = InForce(found, digest(found), LAST_GOOD, kept.version, kept.updated_by, named, kept.fetched_ms)

    def is_new(self, posted: Posted) -> bool:
        """Whether it has to be judged."""
        return posted != self._seen

    async def consider(self, posted: Posted, fetched_ms: int) -> None:
        """What the Hub has: take it or refuse it."""
        if self.is_new(posted):
            self._seen = posted
            found = self._judged(posted.config, HUB, posted.digest, posted.version, posted.updated_by)
            if found is not None:
                self.refusal = None
                named = frozenset(flat(posted.config))
                self.now = InForce(found, digest(found), HUB, posted.version, posted.updated_by, named)
        if self.now.source == HUB and self.refusal is None:
            await self._copy.keep(self.now.document, fetched_ms, self.now.version, self.now.updated_by)

    async def nothing_is_posted(self) -> None:
        """Back to the safe defaults, after a restart too."""
        self._seen = self.refusal = None
        self.now = self._defaults
        await self._copy.forget()

    def _judged(
        self, config: dict[str, Any], source: str, content: str, version: str | None, updated_by: str | None
    ) -> dict[str, Any] | None:
        """What comes into force; None if it is refused, which is told once for the same content."""
        try:
            found: dict[str, Any] = copied(self._judge(copied(merged(self._base, config))))
        except ConfigurationRefused as why:
            faults = why.faults
        except Exception as why:  # noqa: BLE001  # a bug in judging one configuration must not be the end of watching
            faults = (f"judging it failed, which is a bug: {place_of(why)}",)
        else:
            return found
        if self.refusal is None or self.refusal.digest != content:
            self.refused += 1
            self.refusal = Refusal(self._now_ms(), source, version, updated_by, content, faults)
            log.error("a configuration is refused, and what was in force stays", **attrs.asdict(self.refusal))
        return None


def place_of(why: Exception) -> str:
    """Its type and where it was raised. Its words may quote the configuration, and so a secret."""
    place = traceback.extract_tb(why.__traceback__)[-1]
    return f"{type(why).__name__} at {Path(place.filename).name}:{place.lineno}"
