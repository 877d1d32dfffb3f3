"""What a feed can do wrong in the middle of a stream, by name: the same list for the tests and for ``simulate``.

What goes wrong before it streams is in ``script``.
"""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from polygon_live import wire
from polygon_live.standin.connection import Connection
from polygon_live.websocket import MAX_MESSAGE
from polygon_live.wire import Quote

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS


def _with_status(status: str, message: str) -> Callable[[Connection], None]:
    def fault(connection: Connection) -> None:
        connection.status(status, message)
        connection.drop()

    return fault


ENDINGS: Final[Mapping[str, Callable[[Connection], None]]] = {
    "close-1000": lambda c: c.close(1000, "going for a deploy"),
    "close-1001": lambda c: c.close(1001, "going away"),
    "cut": lambda c: c.drop(),
    "reset": lambda c: c.reset(),
    "half-open": lambda c: c.hush(),
    "max-connections": lambda c: c.evict(),
    "slow-consumer": _with_status("slow_consumer", "Client is too slow."),
    "force-disconnect": _with_status("force_disconnect", "Disconnected by the server."),
    "broken-utf8": lambda c: c.send_broken_text(b'[{"ev":"C","p":"\xff\xfe"}]'),
    "oversized": lambda c: c.send("[" + " " * MAX_MESSAGE + "]"),
}
"""Each costs the connection."""


def bad_frames(good: Quote) -> Mapping[str, str | bytes]:
    """Frames that hold something bad made from a good quote of now. None of them costs the connection."""
    text = wire.encode([good])[1:-1]
    return {
        "garbage": "<html>502 Bad Gateway</html>",
        "no-array": text,
        "empty": "",
        "empty-array": "[]",
        "binary": b"\x00\x01\xff",
        "null": "[null]",
        "no-object": "[42]",
        "unknown-event": '[{"ev":"XT","pair":"BTC-USD"}]',
        "nothing-inside": "[{}]",
        "missing-field": f'[{{"ev":"C","p":"{good.p}","a":{good.a},"t":{good.t}}}]',
        "wrong-type": f'[{{"ev":"C","p":"{good.p}","a":"high","b":{good.b},"t":{good.t}}}]',
        "nan": f'[{{"ev":"C","p":"{good.p}","a":NaN,"b":{good.b},"t":{good.t},"x":48}}]',
        "infinite": f'[{{"ev":"C","p":"{good.p}","a":Infinity,"b":{good.b},"t":{good.t},"x":48}}]',
        "huge": f'[{{"ev":"C","p":"{good.p}","a":1e999,"b":{good.b},"t":{good.t},"x":48}}]',
        "unknown-pair": _frame(good, p="EUR/XXX"),
        "zero": _frame(good, b=0.0),
        "negative": _frame(good, b=-good.b),
        "crossed": _frame(good, a=good.b, b=good.a * 1.001),
        "wide": _frame(good, a=good.a * 1.5),
        "decimal-shift": _frame(good, a=good.a * 10, b=good.b * 10),
        "seconds": _frame(good, t=good.t // 1000),
        "nanoseconds": _frame(good, t=good.t * 1_000_000),
        "future": _frame(good, t=good.t + 2 * HOUR_MS),
        "past": _frame(good, t=good.t - 4 * DAY_MS),
    }


def odd_frames(good: Quote) -> Mapping[str, str]:
    """Frames that look wrong and are, to some part, right."""
    return {
        "repeat": wire.encode([good, good]),
        "late": wire.encode([good, msgspec.structs.replace(good, t=good.t - 5000)]),
        "jump": _frame(good, a=good.a * 1.02, b=good.b * 1.02),
        "locked": _frame(good, a=good.b),
        "mixed": f'[{{"ev":"status","status":"success","message":"subscribed to: C.{good.p}"}}, {_frame(good)[1:]}',
        "aggregate": f'[{{"ev":"CA","pair":"{good.p}","o":1,"c":1,"h":1,"l":1,"v":3,"s":1,"e":2}}, {_frame(good)[1:]}',
    }


def _frame(good: Quote, **changes: float | str) -> str:
    return wire.encode([msgspec.structs.replace(good, **changes)])
