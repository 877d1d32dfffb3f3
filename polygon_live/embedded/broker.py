"""A Kafka-compatible broker from the package ``noida-db``.

Good for a demonstration and for quick tests, and for nothing that speaks of durability: it holds everything in memory,
and once a second and at an orderly end writes all of it to one JSON file, about four times the size. A kill costs what
was acknowledged since.
"""

import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Final

from polygon_live.embedded.server import EmbeddedServer, program

_API_VERSIONS_REQUEST: Final = struct.pack(">ihhih", 10, 18, 0, 1, -1)
"""Length, api key 18, version 0, correlation id 1, no client id: every Kafka server answers it to anybody."""


class Broker(EmbeddedServer):
    """One broker, no replication, no authentication."""

    name: ClassVar = "Kafka-compatible broker"

    @property
    def address(self) -> str:
        """Bootstrap server."""
        return f"127.0.0.1:{self.port}"

    def _command(self) -> Sequence[str | Path]:
        # The program inside the package: the script of that name leaves the server running when it is ended itself.
        executable = program("noida-db", "noida_db/noida-db")
        address = ["--host", "127.0.0.1", "--only", "kafka", "--kafka-port", str(self.port)]
        return [executable, "start", "--data-dir", self.data, *address]

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                probe.sendall(_API_VERSIONS_REQUEST)
                return len(probe.recv(8)) == 8
        except OSError:
            return False
