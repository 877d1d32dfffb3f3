"""What operators have set, as the collector tells it: which configuration is in force, and what Central Hub said."""

from collections.abc import Mapping
from typing import Final

import attrs


@attrs.frozen
class Refusal:
    """A configuration that was not taken."""

    at_ms: int
    source: str
    """hub, or last good copy."""
    version: str | None
    updated_by: str | None
    """Who posted it, as far as the Hub knows."""
    digest: str
    """Of what was refused."""
    faults: tuple[str, ...]
    """Every one."""


@attrs.frozen
class HubSnapshot:
    """What Central Hub said, and what was made of it."""

    url: str | None
    """None: there is no Hub, and the safe defaults hold."""
    source: str
    """Of the configuration in force: hub, last good copy, or safe defaults."""
    version: str | None
    updated_by: str | None
    copied_ms: int | None
    """When the last good copy was fetched, if that is the source."""
    fetched_ms: int | None
    """When the Hub last answered, be it that nothing has been posted yet."""
    fetches: int
    failures: int
    last_error: str | None
    """Why the Hub did not answer when it was asked last; None if it did."""
    refused: int
    last_refusal: Refusal | None
    """None as soon as a later one is taken."""


NO_HUB: Final = HubSnapshot(
    url=None,
    source="safe defaults",
    version=None,
    updated_by=None,
    copied_ms=None,
    fetched_ms=None,
    fetches=0,
    failures=0,
    last_error=None,
    refused=0,
    last_refusal=None,
)


@attrs.frozen
class ConfigurationSnapshot:
    """What operators have set, and what came of it."""

    generation: int
    """Counts the configurations that were in force in this run, from 1."""
    digest: str
    """Of the values; the same values have the same one, everywhere."""
    since_ms: int
    values: Mapping[str, object]
    """By dotted name."""
    origins: Mapping[str, str]
    """Where each value is from: hub, last good copy, safe defaults, or caller."""
    ignored: tuple[str, ...]
    """Names that the Hub has and that do not come from there: addresses and secrets."""
    hub: HubSnapshot
    unheard: str | None
    """Why no announcement of the Hub's can be heard at this moment; None if they can, or if there is no Hub."""
