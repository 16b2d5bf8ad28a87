"""The broker that an estate names: of which kind it is, and what people call it. Loads no library."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from tenure.errors import ConfigurationError
from tenure.estate.config import Estate, Fleet

REDIS: Final = frozenset({"redis", "rediss"})
AMQP: Final = frozenset({"amqp", "amqps"})


def require_fleet(estate: Estate) -> Fleet:
    """The estate's fleet. Raises `ConfigurationError` if it has none."""
    if estate.fleet is None:
        raise ConfigurationError(
            f"{estate.path} has no `fleet`: there is no broker over which a worker could be woken",
            hint="add `fleet: {broker: {file: PATH}}`, with the broker's URL in that file",
        )
    return estate.fleet


def broker_name(estate: Estate) -> str:
    """The broker for people: its URL without user and password."""
    parts = urlsplit(require_fleet(estate).broker.resolve().reveal())
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


def scheme_of(url: str) -> str:
    """The scheme of a broker's URL. Raises `ConfigurationError` for one that is no broker of the fleet."""
    scheme = urlsplit(url).scheme
    if scheme not in REDIS | AMQP:
        raise ConfigurationError(
            f"the broker's URL begins with {scheme!r:.20}, which is no broker for the fleet",
            hint=f"`fleet.broker` refers to a URL with {', '.join(sorted(REDIS | AMQP))}",
        )
    return scheme
