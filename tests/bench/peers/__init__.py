"""The same stream, servers and machine for others than this collector: `ops/just bench-peers`.

Each file that needs a package of ``requirements.txt`` is a peer: a program of its own, written as the documentation of
what it uses shows it, run by the Python of an environment that is made in the user's cache. It is told where things are
by ``FEED`` (host and port of the Polygon), ``DSN``, ``NATS`` and ``KAFKA``, and ends when the Polygon closes.
"""
