"""What follows from what the collector tells of itself. Pure: the same evidence, the same answer."""

from typing import Final

from polygon_live.check.items import Item, fails, holds, not_applicable, skipped
from polygon_live.gap import instant_text
from polygon_live.health import health
from polygon_live.inforce import ConfigurationSnapshot
from polygon_live.status import State

COLLECTOR: Final = "collector healthy"
CONNECTION: Final = "connection to Polygon stable"
LIMITS: Final = "no rate-limit violations"
HUB: Final = "configuration from Central Hub"

STABLE_SECONDS: Final = 3600.0
"""Who has been connected for so long is stable, whatever was before."""
MOST_ENDINGS: Final = 3
"""An hour: deploys of Polygon's and a lost packet are no fault of ours; more is."""
VIOLATION_SECONDS: Final = 3600.0
NO_COLLECTOR: Final = "no collector was asked"
_START: Final = "start it, or set POLYGON_LIVE_HTTP_HOST, _PORT and _TOKEN"
_HANGS: Final = "see its log, and start it anew if it hangs; check POLYGON_LIVE_HTTP_HOST, _PORT and _TOKEN"


def collector(state: State | None, why_not: str | None, *, away: bool = True) -> Item:
    """It answers, and says of itself that it is well. ``away``: nobody listens where it should."""
    if state is None:
        return fails(COLLECTOR, why_not or NO_COLLECTOR, _START if away else _HANGS)
    verdict = health(state)
    simulated = ", SIMULATED" if state.simulated else ""
    told = f"{state.collector}, version {state.version}, running since {instant_text(state.started_ms)}{simulated}"
    told += f"; {state.verification.told}"
    if verdict.healthy:
        return holds(COLLECTOR, told, notes=verdict.notes)
    return fails(COLLECTOR, f"{told}: {'; '.join(verdict.reasons)}", "see /health and /state", reasons=verdict.reasons)


def connection(before: State | None, after: State | None, *, market_open: bool) -> Item:
    """Streaming, and not interrupted often: lately, and while we looked."""
    if before is None or after is None:
        return skipped(CONNECTION, NO_COLLECTOR)
    feed = after.feed
    ended = sum(feed.endings.values())
    reasons = ", ".join(f"{reason} {count}" for reason, count in feed.endings.items())
    history = f"{ended} endings since {instant_text(after.started_ms)}{f' ({reasons})' if reasons else ''}"
    last = f"; the last: {feed.last_error}" if feed.last_error else ""
    facts = {"state": feed.state, "connected_since_ms": feed.connected_since_ms, "endings": dict(feed.endings)}
    network = "check the network to Polygon and the key; increase websocket_reconnect_delay; see rate-limit violations"
    if feed.state != "streaming" or feed.connected_since_ms is None:
        if not market_open and not feed.needs_operator:
            return not_applicable(CONNECTION, f"{feed.state}, and the market is closed; {history}", **facts)
        todo = feed.last_error if feed.needs_operator and feed.last_error else network
        return fails(CONNECTION, f"not streaming, but {feed.state}; {history}{last}", todo, **facts)
    since = f"streaming from {feed.address} since {instant_text(feed.connected_since_ms)}; {history}"
    if ended > sum(before.feed.endings.values()):
        return fails(CONNECTION, f"it was interrupted while this command looked on; {since}{last}", network, **facts)
    hours = max(1.0, (after.at_ms - after.started_ms) / 3_600_000)
    if after.at_ms - feed.connected_since_ms < STABLE_SECONDS * 1000 and ended / hours > MOST_ENDINGS:
        return fails(CONNECTION, f"more than {MOST_ENDINGS} endings an hour; {since}{last}", network, **facts)
    return holds(CONNECTION, since, **facts)


def limits(state: State | None) -> Item:
    """Polygon has not said within the hour that something was too much."""
    if state is None:
        return skipped(LIMITS, NO_COLLECTOR)
    found = state.limits
    facts = {"violations": dict(found.violations), "per_second": found.per_second, "taken": found.taken}
    told = f"{found.taken} turns taken at {found.per_second:g} a second"
    if found.last_violation_ms is None:
        return holds(LIMITS, f"none since {instant_text(state.started_ms)}; {told}", **facts)
    counts = ", ".join(f"{endpoint} {count}" for endpoint, count in found.violations.items())
    said = f"the last at {instant_text(found.last_violation_ms)}: {found.last_violation}; {counts}; {told}"
    if state.at_ms - found.last_violation_ms > VIOLATION_SECONDS * 1000:
        return holds(LIMITS, f"none within the hour; {said}", **facts)
    todo = (
        "lower rate_limit_per_second; see that no other instance uses the key; a refused subscription is a symbol that "
        "the key's plan has not"
    )
    return fails(LIMITS, said, todo, **facts)


def hub(configuration: ConfigurationSnapshot, *, running: bool) -> Item:
    """The Hub answers, and what it has is in force."""
    found = configuration.hub
    if found.url is None:
        return not_applicable(HUB, "there is no Central Hub: POLYGON_LIVE_HUB_URL is not set, the safe defaults hold")
    fetched = "never" if found.fetched_ms is None else instant_text(found.fetched_ms)
    version = f", version {found.version}" if found.version else ""
    author = f", posted by {found.updated_by}" if found.updated_by else ""
    told = f"{configuration.digest} from {found.source}{version}{author}; fetched {fetched} from {found.url}"
    facts = {"source": found.source, "digest": configuration.digest, "fetched_ms": found.fetched_ms}
    if found.last_refusal is not None:
        faults = "; ".join(found.last_refusal.faults)
        todo = "mend it (polygon-live config validate FILE) and post it again"
        return fails(HUB, f"what was posted is refused: {faults}; in force: {told}", todo, **facts)
    if found.last_error is not None or found.fetched_ms is None:
        todo = "check that the Hub runs, POLYGON_LIVE_HUB_URL and POLYGON_LIVE_HUB_API_KEY"
        return fails(HUB, f"{found.last_error or 'it was never asked'}; in force: {told}", todo, **facts)
    return holds(HUB, told if running else f"a start would find {told}", **facts)
