"""Central Hub, as far as its services see it: what was posted, its history, the announcements, and the discovery.

As the real one: a POST replaces, ``version`` counts nothing ("1.0.0" unless somebody says otherwise), who posted stands
in the history alone, and an announcement that could not be published is no error.
"""

import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, Final

import attrs
import msgspec
import structlog
import trio

from polygon_live.standin.http import Answer, Asked, Fault, HttpStandIn, changed, instead, saying

Publish = Callable[[str, bytes], Awaitable[None]]
"""Subject and payload, on core NATS."""

PUBLISH_SECONDS: Final = 2.0
VERSION: Final = "1.0.0"
POSTER: Final = "api-user"
LARGEST_HISTORY: Final = 100
HUGE_BYTES: Final = 2**21
_CONFIG: Final = "/api/v1/config/"
_HISTORY: Final = "/api/v1/config/history/"
_DISCOVERY: Final = "/api/v1/discovery/"

log = structlog.get_logger()


def _as_string(content: dict[str, Any], _asked: Asked) -> None:
    if "config" in content:
        content["config"] = msgspec.json.encode(content["config"]).decode()


def _set(name: str, value: Any) -> Fault:
    return changed(lambda content, _asked: content.update({name: value}))


FAULTS: Final[Mapping[str, Fault]] = {
    "away": lambda right, _: attrs.evolve(right, gone=True),
    "slow": lambda right, _: attrs.evolve(right, pause=3600.0),
    "cut": lambda right, _: attrs.evolve(right, cut=True),
    "server-error": instead(500, {"detail": "Internal error: connection is closed"}),
    "unavailable": instead(503, {"detail": "Database connection not available"}),
    "locked": instead(401, {"detail": "Invalid API key"}),
    "redirect": instead(307, b"", ("Location", "http://127.0.0.1:9/elsewhere")),
    "proxy-404": instead(404, b"<html>404 Not Found</html>", ("Content-Type", "text/html")),
    "garbage": instead(200, b"<html>maintenance</html>", ("Content-Type", "text/html")),
    "half-json": lambda right, _: attrs.evolve(right, body=right.body[:-2]),
    "nan": instead(200, b'{"config": {"operational": {"rate_limit_per_second": NaN}}}'),
    "deep": instead(200, b'{"config": ' + b'{"a": ' * 5000 + b"1" + b"}" * 5001),
    "rather-deep": instead(200, b'{"config": ' + b'{"a": ' * 100 + b"1" + b"}" * 101),
    "list": instead(200, []),
    "null": instead(200, None),
    "no-config": changed(lambda content, _: content.pop("config", None)),
    "config-number": _set("config", 5),
    "config-list": _set("config", ["EURUSD"]),
    "config-null": _set("config", None),
    "config-word": _set("config", "EURUSD"),
    "config-string-twice": _set("config", '"{}"'),
    "other-service": _set("service_name", "tick-aggregator"),
    "json-string": changed(_as_string),
    "huge": lambda right, _: attrs.evolve(right, body=right.body + b" " * HUGE_BYTES),
    "huge-untold": lambda right, _: attrs.evolve(right, body=right.body + b" " * HUGE_BYTES, told=False),
}
"""By name. ``json-string`` alone is no fault of the Hub's: it is how its database driver gives it."""


class StandInHub(HttpStandIn):
    """``publish`` announces; without it, as without NATS, a broadcast is "unavailable". With ``api_key`` every request
    has to carry it.
    """

    name: ClassVar = "simulated Central Hub"

    def __init__(
        self,
        *,
        publish: Publish | None = None,
        api_key: str | None = None,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        super().__init__()
        self._publish = publish
        self._api_key = api_key
        self._now_ms = now_ms
        self.history: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        """By service, the newest last, in the form in which it is answered."""
        self.registered: dict[str, dict[str, Any]] = {}
        self.heartbeats: list[dict[str, Any]] = []

    def post(
        self, service: str, config: dict[str, Any], *, version: str = VERSION, updated_by: str = POSTER
    ) -> dict[str, Any]:
        """Replace what is there, and announce nothing; the entry of the history."""
        entry = {
            "version": version,
            "action": "updated" if self.history[service] else "created",
            "changed_by": updated_by,
            "changed_at": self._now_ms(),
            "change_reason": None,
            "config": config,
        }
        self.history[service].append(entry)
        return entry

    async def right(self, asked: Asked) -> Answer:
        """What the Hub answers, if it does."""
        if self._api_key is not None and asked.headers.get("x-api-key") != self._api_key:
            return saying(401, {"detail": "Invalid API key"})
        path = asked.path
        match asked.method:
            case "GET" if path == "/health":
                return saying(200, self._health())
            case "GET" if path.startswith(_HISTORY):
                return self._history_of(path.removeprefix(_HISTORY), asked.query)
            case "GET" if path.startswith(_CONFIG):
                return self._config_of(path.removeprefix(_CONFIG))
            case "POST" if path.startswith((_CONFIG, _DISCOVERY)):
                return await self._take(path, asked)
            case _:
                return saying(404, {"detail": "Not Found"})

    def _health(self) -> dict[str, Any]:
        return {"status": "healthy", "service": "central-hub", "version": VERSION, "timestamp": self._now_ms()}

    def _config_of(self, service: str) -> Answer:
        if not self.history[service]:
            return saying(404, {"detail": f"Configuration not found for service: {service}"})
        newest = self.history[service][-1]
        return saying(
            200,
            {
                "service_name": service,
                "config": newest["config"],
                "version": newest["version"],
                "updated_at": newest["changed_at"],
                "description": None,
                "tags": [],
                "active": True,
            },
        )

    def _history_of(self, service: str, query: Mapping[str, str]) -> Answer:
        entries = self.history[service]
        said = query.get("limit", "10")
        if not said.isdecimal():
            return _unprocessable("limit")
        if not entries:
            return saying(404, {"detail": f"No history found for service: {service}"})
        limit = min(int(said), LARGEST_HISTORY)
        newest = entries[::-1][:limit]
        return saying(200, {"service_name": service, "history": newest, "total": len(entries), "limit": limit})

    async def _take(self, path: str, asked: Asked) -> Answer:
        try:
            content = msgspec.json.decode(asked.body, type=dict[str, Any])
        except (msgspec.MsgspecError, RecursionError):
            return _unprocessable("body")
        match path.removeprefix(_DISCOVERY):
            case "register" if "name" in content:
                self.registered[content["name"]] = content
                return saying(
                    200, {"status": "registered", "service": content["name"], "registered_at": self._now_ms()}
                )
            case "heartbeat" if content.get("service_name") in self.registered:
                self.heartbeats.append(content)
                return saying(200, {"status": "acknowledged"})
            case rest if rest == path:
                return await self._replace(path.removeprefix(_CONFIG), content, asked.query)
            case _:
                return saying(404, {"detail": "Service not found"})

    async def _replace(self, service: str, config: dict[str, Any], query: Mapping[str, str]) -> Answer:
        entry = self.post(
            service, config, version=query.get("version", VERSION), updated_by=query.get("updated_by", POSTER)
        )
        told = {
            "service_name": service,
            "config": config,
            "version": entry["version"],
            "updated_at": entry["changed_at"],
            "updated_by": entry["changed_by"],
        }
        broadcast = "sent" if await self._announce(f"config.update.{service}", told) else "unavailable"
        return saying(200, {"status": "updated", **told, "broadcast": broadcast})

    async def _announce(self, subject: str, told: dict[str, Any]) -> bool:
        if self._publish is None:
            return False
        try:
            with trio.fail_after(PUBLISH_SECONDS):
                await self._publish(subject, msgspec.json.encode(told))
        except Exception as why:  # noqa: BLE001  # whatever it is: the configuration is stored, and will be polled
            log.warning("the simulated Central Hub could not announce a configuration", why=repr(why))
            return False
        return True


def _unprocessable(where: str) -> Answer:
    return saying(422, {"detail": [{"loc": [where], "msg": "Input should be valid", "type": "value_error"}]})
