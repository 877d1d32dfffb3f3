"""The page itself: files of this package, read once, and served as they are. There is no build step."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Final

import attrs

from polygon_live.page.plain import plain, plain_with_token
from polygon_live.status import State

TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml; charset=utf-8",
}
SHELL: Final = "page.html"
PLACE: Final = "<!-- what a browser without JavaScript shows -->"

NOT_ASKED: Final = 'data-token="not asked"'
ASKED: Final = 'data-token="asked"'


@attrs.frozen
class File:
    """What goes out."""

    content: bytes
    content_type: str


def _read() -> tuple[str, Mapping[str, File]]:
    found = {entry.name: entry.read_bytes() for entry in files("polygon_live.page").joinpath("static").iterdir()}
    html = found.pop(SHELL).decode()
    return html, {name: File(content, TYPES[name.rpartition(".")[2]]) for name, content in found.items()}


_shell, FILES = _read()


def shell(state: State, *, token: bool) -> bytes:
    """The page without its data, which comes with the stream. Where a token is asked for nothing of the state is in it:
    a browser that opens a page sends none.
    """
    html = _shell.replace(NOT_ASKED, ASKED) if token else _shell
    return html.replace(PLACE, plain_with_token() if token else plain(state)).encode()
