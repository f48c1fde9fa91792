"""Reach: whether the hub of published weights answers, asked once, where its own client would try for a minute."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

_SECONDS = 5.0
"""What a server, or the proxy before it, has to answer in."""


@contextlib.contextmanager
def offline_if_unreached(name: str) -> Iterator[str]:
    """A block that gets why the hub cannot be reached, and is offline then: what is cached, or an error at once.

    An empty text where the hub answers, where its client is not installed or offline anyway, and for a folder.
    """
    constants = _constants()
    is_asked = constants is not None and not constants.HF_HUB_OFFLINE and not os.path.isdir(name)
    said = _unreached(constants.ENDPOINT) if is_asked else ""
    if not said:
        yield ""
        return
    constants.HF_HUB_OFFLINE = True
    try:
        yield said
    finally:
        constants.HF_HUB_OFFLINE = False


def _constants() -> Any:
    """The settings of the hub's client; None where it is not installed."""
    try:
        return import_module("huggingface_hub.constants")
    except ImportError:
        return None


def _unreached(endpoint: str) -> str:
    server = urlsplit(endpoint)
    proxy = getproxies().get(server.scheme, "")
    asked = urlsplit(proxy) if proxy and not proxy_bypass(server.hostname or "") else server
    port = asked.port or (443 if asked.scheme == "https" else 80)
    try:
        socket.create_connection((asked.hostname or "", port), _SECONDS).close()
    except OSError as error:
        return f"no network: {asked.hostname} cannot be reached ({error.strerror or error})"
    return ""
