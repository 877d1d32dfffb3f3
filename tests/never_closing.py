"""``polygon-live run`` in a market that never closes: whether a gap is filled must not hang on the hour of the test.

The feed comes back soon, and the simulated REST service may be asked often: what is tried is not how long they wait.
"""

import os
from typing import Final

import trio

from polygon_live import logs
from polygon_live.calendar import all_of_it, always_open
from polygon_live.commands.interpreter import settle
from polygon_live.config import settings_from
from polygon_live.daemon import Collector, steered
from polygon_live.operational import Operational

DEFAULTS: Final = Operational(websocket_reconnect_delay=1.0, rate_limit_per_second=20)


async def collect() -> None:
    settings = settings_from(os.environ)
    logs.configure(settings.log_level, settings.log_format, settings.secrets())
    collector = Collector(
        settings, await steered(settings, defaults=DEFAULTS), sessions=always_open, stretches=all_of_it
    )
    settle()
    await collector.run()


if __name__ == "__main__":
    trio.run(collect)
