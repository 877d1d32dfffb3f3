"""An HTTP server in a thread of its own, for clients that have an event loop of theirs or none."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = tuple[int, bytes]
Pages = Callable[[str, Mapping[str, str]], Answer]
"""The answer to a path with these headers."""


@contextmanager
def serving(pages: Pages) -> Iterator[int]:
    """Its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, body = pages(self.path, dict(self.headers))
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def collector(body: bytes, token: str | None = None) -> Pages:
    """/state as the status server gives it, with the token if there is one."""

    def pages(path: str, headers: Mapping[str, str]) -> Answer:
        if token is not None and headers.get("Authorization") != f"Bearer {token}":
            return 401, b'{"error": "this page asks for the header"}'
        return (200, body) if path == "/state" else (404, b"{}")

    return pages
