"""The Hub's discovery, which it calls deprecated itself: off unless asked for, and nothing depends on it."""

from collections.abc import Callable
from typing import Final, Never

import anyio
import attrs
import structlog

from polygon_live.errors import HubError
from polygon_live.hub.door import Door

BEAT_SECONDS: Final = 30.0

log = structlog.get_logger()


@attrs.frozen
class Registration:
    """Where others find this service, and what a heartbeat says of it."""

    host: str
    port: int
    version: str
    instance_id: str
    status: Callable[[], str]
    """``healthy`` or not: asked at each heartbeat."""
    protocol: str = "http"
    health_endpoint: str = "/health"


async def stay_registered(door: Door, service: str, mine: Registration, now_ms: Callable[[], int]) -> Never:
    """Register, then beat; register again after whatever went wrong. Told once, not at every beat."""
    registered = False
    complaint = ""
    while True:
        try:
            if registered:
                await door.post("/api/v1/discovery/heartbeat", _beat(service, mine, now_ms()))
            else:
                await door.post("/api/v1/discovery/register", _entry(service, mine))
            registered, complaint = True, ""
        except HubError as why:
            if str(why) != complaint:
                log.warning("the Hub's discovery does not take us", why=str(why))
            registered, complaint = False, str(why)
        await anyio.sleep(BEAT_SECONDS)


def _entry(service: str, mine: Registration) -> dict[str, object]:
    return {
        "name": service,
        "host": mine.host,
        "port": mine.port,
        "protocol": mine.protocol,
        "health_endpoint": mine.health_endpoint,
        "version": mine.version,
        "metadata": {"instance_id": mine.instance_id},
    }


def _beat(service: str, mine: Registration, at_ms: int) -> dict[str, object]:
    return {
        "service_name": service,
        "instance_id": mine.instance_id,
        "status": _status(mine),
        "timestamp": at_ms,
        "metrics": {},
    }


def _status(mine: Registration) -> str:
    try:
        return mine.status()
    except Exception:
        log.exception("the status for the Hub's discovery can't be told")
        return "unknown"
