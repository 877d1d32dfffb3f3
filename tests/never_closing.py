"""``polygon-live run`` in a market that never closes: whether a gap is filled must not hang on the hour of the test.

The feed comes back soon, and the simulated REST service may be asked often: what is tried is not how long they wait.
"""

import os

import trio

from polygon_live import daemon, logs
from polygon_live.calendar import all_of_it, always_open
from polygon_live.config import Operational, settings_from

daemon.REST_PER_SECOND = 20.0  # type: ignore[misc]


async def collect() -> None:
    settings = settings_from(os.environ)
    logs.configure(settings.log_level, settings.log_format, settings.secrets())
    operational = Operational(websocket_reconnect_delay=1.0)
    await daemon.Collector(settings, operational, sessions=always_open, stretches=all_of_it).run()


if __name__ == "__main__":
    trio.run(collect)
