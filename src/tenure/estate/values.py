"""The single values that `tenure.yaml` may contain: addresses, names, paths, and what makes them valid."""

from __future__ import annotations

import ipaddress
import pathlib
import re
from datetime import datetime
from itertools import pairwise
from typing import Annotated, Final
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, ValidationInfo

from tenure.catalogue.patterns import Template
from tenure.catalogue.words import Name, converted
from tenure.document import REFUSED, Described, refuse

_HOST_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DOMAIN: Final = re.compile(rf"{_HOST_LABEL}(?:\.{_HOST_LABEL})*")
_HEADER: Final = re.compile(r"[a-z0-9-]{1,64}")
_REGION: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_CURRENCY: Final = re.compile(r"[A-Z]{3}")
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_RESERVED_HEADERS: Final = {
    "host",
    "x-tenure-cell",
    "x-tenure-session",
    "content-length",
    "transfer-encoding",
    "authorization",
    "cookie",
}
_URL_PATH: Final = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)+")
_INTERNAL_HEADERS: Final = {"x-tenure-cell", "x-tenure-session", "x-envoy-original-url"}
_MAX_TEXT: Final = 500


def _url(text: str) -> str:
    parts = _split(text)
    if parts.scheme not in {"http", "https"}:
        raise refuse("must begin with http:// or https://")
    if "@" in parts.netloc:
        raise refuse("must not contain a user or a password")
    if parts.path not in {"", "/"} or "?" in text or "#" in text:
        raise refuse("must be only http(s)://host:port, without a path or anything after it")
    if not parts.hostname or re.search(r"[^\x21-\x7e]", text) or "\\" in text:
        raise refuse("must have the form http://host:port")
    return text.removesuffix("/")


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise refuse("must have the form http://host:port, the port from 1 to 65535") from None
    if port == 0 or parts.netloc.endswith(":"):
        raise refuse("must have the form http://host:port, the port from 1 to 65535")
    return parts


def _server(text: str) -> str:
    try:
        host, port = server_address(text, default_port=53)
        ipaddress.ip_address(host)
    except ValueError:
        port = 0
    if port == 0 or text.endswith(":") or "@" in text or "/" in text:
        raise refuse("must be an IP address, or address:port with a port from 1 to 65535")
    return text


def server_address(text: str, *, default_port: int) -> tuple[str, int]:
    """Address and port of `address` or `address:port`; an IPv6 address with a port stands in brackets."""
    parts = urlsplit(f"//{text}" if text.count(":") < 2 or "[" in text else f"//[{text}]")
    return str(parts.hostname), default_port if parts.port is None else parts.port


def _target(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return _domain(text)


def _probe_path(text: str) -> str:
    if not text.startswith("/") or re.search(r"[^\x21-\x7e]", text):
        raise refuse("must be a path on the app, such as /healthz")
    return text


def _header(text: str) -> str:
    if text in _RESERVED_HEADERS:
        raise refuse("must not be a header that has a meaning of its own")
    if not _HEADER.fullmatch(text):
        raise refuse("is not a header's name: lower-case letters, digits and '-'")
    return text


def _session_header(text: str) -> str:
    if text in _INTERNAL_HEADERS:
        raise refuse("must not be a header of the gateway's own")
    if not _HEADER.fullmatch(text):
        raise refuse("is not a header's name: lower-case letters, digits and '-'")
    return text


def _domain(text: str) -> str:
    if not _DOMAIN.fullmatch(text) or len(text) > 180:
        raise refuse("is not a domain, such as app.example.com")
    return text.lower()


def _region(text: str) -> str:
    if not _REGION.fullmatch(text):
        raise refuse("is not a region: lower-case letters, digits and '-', such as eu-west-1")
    return text


def _bucket(text: str) -> str:
    if not _BUCKET.fullmatch(text) or ".." in text:
        raise refuse("is not a bucket's name: 3 to 63 lower-case letters, digits, '-' or '.'")
    return text


def _database(text: str) -> str:
    converted(Template.name)(text)
    return text


def _currency(text: str) -> str:
    if not _CURRENCY.fullmatch(text):
        raise refuse("must be three capital letters, such as EUR or INR")
    return text


def _url_path(text: str) -> str:
    if not _URL_PATH.fullmatch(text):
        raise refuse(
            "is not a path of the app: it begins with '/', does not end with it, and has no '?' or '#'"
        )
    return text


def growing(values: tuple[float, ...]) -> tuple[float, ...]:
    """Each value greater than the one before, and at least one."""
    if not values or any(one >= next_ for one, next_ in pairwise(values)):
        raise refuse("must be at least one number, each greater than the one before")
    return values


def unique(values: tuple[str, ...]) -> tuple[str, ...]:
    """No value twice."""
    if len(set(values)) != len(values):
        raise refuse("must not contain the same value twice")
    return values


def _any_name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise refuse("is not a name: 1 to 63 lower-case letters, digits, '_' or '-', starting with a letter")
    return text


def _text(text: str) -> str:
    if not text.strip():
        raise refuse("must not be empty")
    if len(text) > _MAX_TEXT:
        raise refuse(f"must not be longer than {_MAX_TEXT} characters")
    return text


def _path(value: object, info: ValidationInfo) -> object:
    if value is REFUSED or isinstance(value, pathlib.Path):
        return value
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise refuse("must be a path, as text")
    folder: pathlib.Path = (info.context or {}).get("folder", pathlib.Path())
    return (folder / pathlib.Path(value)).absolute()


def _moment(value: object) -> object:
    if value is REFUSED or isinstance(value, datetime):
        return value
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise refuse("must be a time with its zone, such as 2026-12-24T18:00:00+01:00")
    return moment


Url = Annotated[str, AfterValidator(_url), Described(words="`http(s)://host:port`")]
Server = Annotated[str, AfterValidator(_server), Described(words="`address` or `address:port`")]
Target = Annotated[str, AfterValidator(_target), Described(words="address or name")]
ProbePath = Annotated[str, AfterValidator(_probe_path), Described(words="URL path")]
HeaderName = Annotated[str, AfterValidator(_header), Described(words="header name")]
SessionHeader = Annotated[str, AfterValidator(_session_header), Described(words="header name")]
Domain = Annotated[str, AfterValidator(_domain), Described(words="domain")]
Region = Annotated[str, AfterValidator(_region), Described(words="region")]
BucketName = Annotated[str, AfterValidator(_bucket), Described(words="bucket name")]
DatabaseTemplate = Annotated[str, AfterValidator(_database), Described(words="text with `{tenant}`")]
Currency = Annotated[str, AfterValidator(_currency), Described(words="three capital letters")]
UrlPath = Annotated[str, AfterValidator(_url_path), Described(words="URL path")]
AnyName = Annotated[str, AfterValidator(_any_name), Described(words="name")]
Text = Annotated[str, AfterValidator(_text)]
StoreKey = Name
Moment = Annotated[datetime, BeforeValidator(_moment), Described(words="time with zone")]
RelativePath = Annotated[pathlib.Path, BeforeValidator(_path), Described(words="path")]
