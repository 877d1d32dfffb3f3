"""What the text of one variable may be. Raises ValueError with what would be right."""

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit


def is_text(value: str) -> bool:
    """Whether it is UTF-8: Python takes bytes that are not, from the environment, for lone surrogates."""
    return value.encode(errors="replace").decode() == value


def fits_header(value: str) -> bool:
    """Whether an HTTP header can carry it as one word: h11 refuses the others, and repeats them in its error."""
    return value.isascii() and value.isprintable() and " " not in value


def commas(text: str) -> list[str]:
    """The parts of a comma list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _is(schemes: set[str], address: str) -> bool:
    try:
        parts = urlsplit(address)
        return parts.scheme in schemes and bool(host(parts.hostname or "")) and parts.port != 0
    except ValueError:  # a port that is no number, or a name that can't be looked up
        return False


def host(text: str) -> str:
    """A name or an address. Who looks up a name raises UnicodeError for one that can't be: no OSError, so it is told
    here.
    """
    try:
        if is_text(text):  # that it is not is told once, whatever the variable
            text.encode("idna")
    except UnicodeError:
        msg = "between the dots of a host's name there are 1 to 63 characters"
        raise ValueError(msg) from None
    return text


def nats_urls(text: str) -> tuple[str, ...]:
    """As nats-py takes them, which does not ask for a scheme; here each has one. They may hold secrets."""
    urls = tuple(url if "://" in url else f"nats://{url}" for url in commas(text))
    if not urls or not all(_is({"nats", "tls", "ws", "wss"}, url) for url in urls):
        msg = "write them like nats://host:4222,nats://host2:4222"
        raise ValueError(msg)
    return urls


def brokers(text: str) -> tuple[str, ...]:
    """``host:9092,host2:9092``."""
    brokers = tuple(commas(text))
    if not brokers or not all("/" not in broker and _is({"kafka"}, f"kafka://{broker}") for broker in brokers):
        msg = "write it like host:9092,host2:9092"
        raise ValueError(msg)
    return brokers


def ws_urls(text: str) -> tuple[str, ...]:
    """WebSocket addresses."""
    urls = tuple(commas(text))
    for url in urls or ("",):
        if not _is({"ws", "wss"}, url):
            msg = f"{url!r} is not a WebSocket address; write it like wss://host/forex"
            raise ValueError(msg)
    return urls


def http_url(text: str) -> str:
    """The address of an HTTP service, without a path's slash at its end."""
    if not _is({"http", "https"}, text) or "?" in text or "@" in text:
        msg = "it is not the address of an HTTP service; write it like https://host"
        raise ValueError(msg)
    return text.rstrip("/")


def one_of(*allowed: str) -> Callable[[str], str]:
    """One of these words, in any case."""
    by_fold = {a.casefold(): a for a in allowed}

    def read(text: str) -> str:
        try:
            return by_fold[text.casefold()]
        except KeyError:
            msg = f"it must be one of {', '.join(allowed)}"
            raise ValueError(msg) from None

    return read


def kafka_client(text: str) -> str:
    """A library that is installed."""
    modules = {"kafka-python": "kafka", "confluent": "confluent_kafka"}
    client = one_of(*modules)(text)
    if find_spec(modules[client]) is None:
        msg = "it is not installed: pip install 'polygon-live[fast]'"
        raise ValueError(msg)
    return client


def port(text: str) -> int:
    """0 stands for any free one."""
    if not text.isdecimal() or int(text) > 65535:
        msg = "a port is a whole number from 0 to 65535"
        raise ValueError(msg)
    return int(text)


def count(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        msg = "it must be a whole number above 0"
        raise ValueError(msg)
    return int(text)


def natural(text: str) -> int:
    """A whole number, 0 included."""
    if not text.isdecimal():
        msg = "it must be a whole number"
        raise ValueError(msg)
    return int(text)


def journal_bytes(text: str) -> int:
    """A number of bytes that a journal can work with."""
    if not text.isdecimal() or int(text) < 2**20:
        msg = "it must be a whole number of bytes, at least 1048576"
        raise ValueError(msg)
    return int(text)


def positive(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e9:
        msg = "it must be a number above 0"
        raise ValueError(msg)
    return value


def identifier(text: str) -> str:
    """A name that is safe in subjects, headers, SQL and paths: dots alone would be another folder."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", text) or not text.strip("."):
        msg = "use 1 to 64 letters, digits, '-', '_' or '.', and not dots alone"
        raise ValueError(msg)
    return text


def file(text: str) -> Path:
    """A file that is there."""
    path = Path(text)
    if not path.is_file():
        msg = "there is no such file"
        raise ValueError(msg)
    return path
