"""The proxies that httpx finds in the environment: whether it can use them is seen at the start, not when it asks."""

import os
import ssl
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx

from polygon_live import values
from polygon_live.errors import ConfigurationError

VARIABLES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


def check_proxies() -> None:
    """Raises ConfigurationError that names the variables, and not what they hold: it may be a password."""
    try:
        httpx.Client(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)).close()  # it reads no authorities
        for scheme in ("http", "https", "all"):
            address = getproxies().get(scheme, "")
            values.host(urlsplit(address if "://" in address else f"http://{address}").hostname or "")
    except (ImportError, ValueError, httpx.InvalidURL):
        named = [name for name in os.environ if name.upper() in VARIABLES and os.environ[name]]
        raise ConfigurationError(
            f"{', '.join(named) or 'the proxy'} (not shown here) can't be used: write a proxy like http://host:3128, "
            "and NO_PROXY like host,host2; for one that speaks SOCKS, pip install 'httpx[socks]'"
        ) from None
