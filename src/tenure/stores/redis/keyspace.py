"""Where one tenant's keys are: its prefix, exactly, and never Tenure's own marks among them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

from tenure.catalogue import KeyPattern
from tenure.errors import UsageError
from tenure.model.names import TenantId
from tenure.stores.redis.nodes import Node, Nodes

OTHER: Final = "*"
"""The collection of keys that no pattern of the catalogue matches."""
RESERVED: Final = b"tenure:"
MARK: Final = b"__tenure_mark:"
SCAN_COUNT: Final = 1000
_GLOB: Final = re.compile(rb"([*?\[\]\\^])")


class Keyspace:
    """The keys of one tenant. Keys are bytes; a `Difference` names them as JSON text of the whole key."""

    def __init__(self, tenant: TenantId, prefix: str, keys: Sequence[KeyPattern]) -> None:
        self.tenant = tenant
        self.prefix = prefix.encode()
        self._keys = tuple(keys)
        if not self.prefix or RESERVED.startswith(self.prefix) or self.prefix.startswith(RESERVED):
            raise UsageError(
                f"the key prefix {prefix!r} overlaps with 'tenure:', where Tenure keeps its fences",
                hint="choose another prefix in the catalogue",
            )

    def owns(self, key: bytes) -> bool:
        """Whether the key is the tenant's, and not one of Tenure's marks."""
        return key.startswith(self.prefix) and not key.startswith(MARK, len(self.prefix))

    # Tags place Tenure's own keys in a cluster (`nodes.Node`); on a single server they are empty.

    def record(self, tag: bytes) -> bytes:
        """The key of the record of the tenant's fence."""
        return RESERVED + b"fence:" + tag + self.tenant.encode()

    def counter(self, tag: bytes) -> bytes:
        """The key that counts the tenant's marks."""
        return RESERVED + b"marks:" + tag + self.tenant.encode()

    def mark_start(self, tag: bytes) -> bytes:
        """The key of a mark, without its number."""
        return self.prefix + MARK + tag

    def mark_number(self, key: bytes, tag: bytes) -> int | None:
        """The number of the mark that this key is, or None."""
        start = self.mark_start(tag)
        number = key[len(start) :]
        return int(number) if key.startswith(start) and number.isdigit() else None

    def scan(self, nodes: Nodes) -> Iterator[list[bytes]]:
        """All keys, a thousand or so at a time; some may come twice.

        Raises `StoreUnavailable`, at the end at the latest, if a cluster was rearranged meanwhile.
        """
        topology = nodes.agreed()
        for node in topology.masters:
            for keys in _scan(node.client, self.prefix):
                if portion := [key for key in keys if self.owns(key)]:
                    yield portion
        nodes.verify(topology)

    def forget_marks(self, nodes: Nodes, *, counters: bool = False) -> None:
        """Delete the tenant's marks, and with `counters` what counts them. Idempotent."""
        topology = nodes.agreed()
        for node in topology.masters:
            for keys in _scan(node.client, self.mark_start(b"")):
                _unlink(node, keys)
            if counters:
                _unlink(node, [self.counter(tag) for tag in node.tags])

    def collection(self, key: bytes) -> str:
        """The first pattern of the catalogue that matches the key."""
        rest = key[len(self.prefix) :].decode("utf-8", "surrogateescape")
        return next((p.pattern for p in self._keys if p.matches(rest)), OTHER)

    @property
    def collections(self) -> tuple[str, ...]:
        return tuple(p.pattern for p in self._keys)

    @staticmethod
    def text(key: bytes) -> str:
        """The key as JSON text; bytes that are not UTF-8 survive as lone surrogates."""
        return json.dumps(key.decode("utf-8", "surrogateescape"))

    def key(self, text: str) -> bytes:
        """The key of a JSON text. Raises `UsageError` if it is not this tenant's."""
        value = json.loads(text)
        key = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else b""
        if not self.owns(key):
            raise UsageError(f"{text} is not a key of {self.tenant}")
        return key


def glob(start: str | bytes) -> bytes:
    """The pattern of keys that begin so."""
    return _GLOB.sub(rb"\\\1", start.encode() if isinstance(start, str) else start) + b"*"


def _scan(client: Any, start: bytes) -> Iterator[list[bytes]]:
    pattern = glob(start)
    cursor = 0
    while True:
        cursor, keys = client.scan(cursor, match=pattern, count=SCAN_COUNT)
        yield [key for key in keys if key.startswith(start)]
        if int(cursor) == 0:
            return


def _unlink(node: Node, keys: Sequence[bytes]) -> None:
    pipe = node.client.pipeline(transaction=False)
    for key in keys:
        pipe.unlink(key)
    pipe.execute()
