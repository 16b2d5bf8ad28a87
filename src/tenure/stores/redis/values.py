"""What a key holds, as bytes to search in, whatever its type: small values many at a time, large ones in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis

SMALL_BYTES: Final = 64 * 1024
SMALL_ITEMS: Final = 100
AT_ONCE: Final = 500
"""Elements of a large collection that are asked for at once."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """A part of what a key holds: some of its elements, or the beginning of a string whose size is `size`. Parts of one
    key follow each other; the `last` one may be empty."""

    key: bytes
    parts: tuple[bytes, ...]
    size: int
    last: bool = True


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """A key whose value cannot be read. `reason` says why."""

    key: bytes
    reason: str


def values(client: Any, keys: Sequence[bytes], limit: int) -> Iterator[Value | Unknown]:
    """What these keys of one server hold. Keys that vanish or change their type meanwhile are left out."""
    kinds = _answers(client, keys, lambda pipe, key: pipe.type(key))
    yield from _refused(keys, kinds)
    by_kind: dict[str, list[bytes]] = {}
    for key, kind in zip(keys, kinds, strict=True):
        if not isinstance(kind, Exception) and kind != b"none":
            by_kind.setdefault(kind.decode(), []).append(key)
    for kind, its in by_kind.items():
        if kind not in _COLLECTIONS and kind != "string":
            yield from (Unknown(key=key, reason=f"a value of type {kind}") for key in its)
        elif kind == "string":
            yield from _strings(client, its, limit)
        else:
            yield from _collections(client, kind, its)


def _strings(client: Any, keys: Sequence[bytes], limit: int) -> Iterator[Value | Unknown]:
    sizes = _answers(client, keys, lambda pipe, key: pipe.strlen(key))
    yield from _refused(keys, sizes)
    small = [k for k, size in zip(keys, sizes, strict=True) if isinstance(size, int) and size <= SMALL_BYTES]
    bodies = _answers(client, small, lambda pipe, key: pipe.get(key))
    yield from _refused(small, bodies)
    for key, body in zip(small, bodies, strict=True):
        if isinstance(body, bytes):
            yield Value(key=key, parts=(body,), size=len(body))
    for key, size in zip(keys, sizes, strict=True):
        if isinstance(size, int) and size > SMALL_BYTES:
            yield Value(key=key, parts=(client.getrange(key, 0, limit - 1),), size=size)


def _collections(client: Any, kind: str, keys: Sequence[bytes]) -> Iterator[Value | Unknown]:
    length, whole, pages = _COLLECTIONS[kind]
    sizes = _answers(client, keys, lambda pipe, key: getattr(pipe, length)(key))
    yield from _refused(keys, sizes)
    small = [k for k, size in zip(keys, sizes, strict=True) if isinstance(size, int) and size <= SMALL_ITEMS]
    contents = _answers(client, small, whole)
    yield from _refused(small, contents)
    for key, content in zip(small, contents, strict=True):
        if not isinstance(content, Exception):
            yield _value(key, [*_flat(content), *_groups(client, kind, key)], last=True)
    for key, size in zip(keys, sizes, strict=True):
        if isinstance(size, int) and size > SMALL_ITEMS:
            try:
                for content in pages(client, key):
                    yield _value(key, _flat(content), last=False)
            except redis.ResponseError as error:
                yield from _refused([key], [error])
            yield _value(key, _groups(client, kind, key), last=True)


def _value(key: bytes, parts: Iterable[bytes], *, last: bool) -> Value:
    known = tuple(parts)
    return Value(key=key, parts=known, size=sum(map(len, known)), last=last)


def _refused(keys: Sequence[bytes], answers: Sequence[Any]) -> Iterator[Unknown]:
    for key, answer in zip(keys, answers, strict=True):
        if isinstance(answer, Exception) and not str(answer).startswith("WRONGTYPE"):
            yield Unknown(key=key, reason="the server does not let it be read")


def _answers(client: Any, keys: Sequence[bytes], ask: Callable[[Any, bytes], object]) -> list[Any]:
    """One answer per key; an error of the server's in its place, unless it says that the key is elsewhere now."""
    if not keys:
        return []
    pipe = client.pipeline(transaction=False)
    for key in keys:
        ask(pipe, key)
    answers: list[Any] = pipe.execute(raise_on_error=False)
    for answer in answers:
        if isinstance(answer, redis.RedisError) and not isinstance(answer, redis.ResponseError):
            raise answer
        if isinstance(answer, redis.exceptions.AskError | redis.exceptions.TryAgainError):
            raise answer
    return answers


def _flat(answer: Any) -> Iterator[bytes]:
    """Everything that is bytes in an answer, however it is nested."""
    if isinstance(answer, bytes):
        yield answer
    elif isinstance(answer, Mapping):
        for key, value in answer.items():
            yield from _flat(key)
            yield from _flat(value)
    elif isinstance(answer, list | tuple | set):
        for item in answer:
            yield from _flat(item)


def _scanned(command: str) -> Callable[[Any, bytes], Iterator[Any]]:
    def pages(client: Any, key: bytes) -> Iterator[Any]:
        cursor = 0
        while True:
            cursor, found = getattr(client, command)(key, cursor, count=AT_ONCE)
            yield found
            if int(cursor) == 0:
                return

    return pages


def _listed(client: Any, key: bytes) -> Iterator[Any]:
    start = 0
    while found := client.lrange(key, start, start + AT_ONCE - 1):
        yield found
        start += AT_ONCE


def _streamed(client: Any, key: bytes) -> Iterator[Any]:
    after = b"-"
    while found := client.xrange(key, min=after, count=AT_ONCE):
        yield found
        after = b"(" + found[-1][0]


def _groups(client: Any, kind: str, key: bytes) -> Iterator[bytes]:
    """Of a stream the names of its consumer groups, and of the consumers in them."""
    if kind != "stream":
        return
    try:
        for group in client.xinfo_groups(key):
            name = group["name"]
            yield name
            yield from (consumer["name"] for consumer in client.xinfo_consumers(key, name))
    except redis.ResponseError:
        return


_COLLECTIONS: Final[
    Mapping[str, tuple[str, Callable[[Any, bytes], object], Callable[[Any, bytes], Iterator[Any]]]]
] = {
    "hash": ("hlen", lambda pipe, key: pipe.hgetall(key), _scanned("hscan")),
    "set": ("scard", lambda pipe, key: pipe.smembers(key), _scanned("sscan")),
    "zset": ("zcard", lambda pipe, key: pipe.zrange(key, 0, -1), _scanned("zscan")),
    "list": ("llen", lambda pipe, key: pipe.lrange(key, 0, -1), _listed),
    "stream": ("xlen", lambda pipe, key: pipe.xrange(key), _streamed),
}
