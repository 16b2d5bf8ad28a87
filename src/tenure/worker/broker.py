"""The broker that an estate names: of which kind it is, and what people call it. Loads no library."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from tenure.errors import ConfigurationError
from tenure.estate.config import Estate

REDIS: Final = frozenset({"redis", "rediss"})
AMQP: Final = frozenset({"amqp", "amqps"})


def broker_url(estate: Estate) -> str:
    """The URL of the estate's broker, password included. Raises `ConfigurationError` if it names none."""
    if estate.fleet.broker is None:
        raise ConfigurationError(
            f"{estate.path} has no `fleet.broker`: there is nothing over which a worker could be woken",
            hint="add `fleet: {broker: {file: PATH}}`, with the broker's URL in that file",
        )
    return estate.fleet.broker.resolve().reveal()


def broker_name(estate: Estate) -> str:
    """The broker for people: its URL without user and password."""
    parts = urlsplit(broker_url(estate))
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
