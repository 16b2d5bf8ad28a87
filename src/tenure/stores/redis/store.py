"""A Redis or Valkey, one server or a cluster, as a `Store`: a tenant's data are the keys under its prefix."""

from __future__ import annotations

from collections import abc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit

from tenure.catalogue import StoreKind
from tenure.catalogue.patterns import Template
from tenure.errors import ConfigurationError, FenceRefused, StoreRefused, StoreUnavailable
from tenure.model.inventory import Collection, Inventory
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.search import FindPage, Search, Survey
from tenure.model.secret import Secret
from tenure.stores.backup import Capture, Restoring
from tenure.stores.contract import Capabilities, Fence, FenceState, Pace, Room, unhurried
from tenure.stores.keyed import KeyMap, patterns
from tenure.stores.redis import canonical
from tenure.stores.redis import find as finds
from tenure.stores.redis.capture import RedisCapture
from tenure.stores.redis.errors import translated
from tenure.stores.redis.fencing import Fencing
from tenure.stores.redis.keyspace import MARK, OTHER, RESERVED, Keyspace
from tenure.stores.redis.nodes import Nodes
from tenure.stores.redis.restoring import RedisRestoring
from tenure.stores.redis.transfer import Writer, portions

DEFAULT_PORT: Final = 6379


class RedisStore:
    """Keys `prefix` + anything. With `acl_user`, the server refuses a fenced tenant's writes; without, Tenure only
    notes the fence, and the gate and `tenure.client` keep writes out.

    `url` must be that of a user who may do everything (`~* &* +@all`). The record of a fence, and with it its token,
    goes when a store without a link opens: that no older holder comes back after that is up to the tenant's PostgreSQL,
    which never forgets a token and is asked first. `others` gives the numbers of databases on this server that are
    those of other stores: a search leaves them to these. Thread-safe.
    """

    def __init__(
        self,
        *,
        name: StoreName,
        cell: CellName,
        url: Secret,
        prefix: Template | str,
        acl_user: Template | str | None,
        collections: Sequence[str] = (),
        ignore: Sequence[str] = (),
        others: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        self._name = name
        self._cell = cell
        self._prefix = prefix if isinstance(prefix, Template) else Template.prefix(prefix)
        self._acl_user = Template.name(acl_user) if isinstance(acl_user, str) else acl_user
        self._patterns = patterns(collections)
        self._ignored = patterns(ignore)
        self._others = others
        try:
            at = urlsplit(url.reveal())
            self._server = f"{at.hostname or 'localhost'}:{at.port or DEFAULT_PORT}"
            self.nodes = Nodes(url, self.where)
        except ValueError:
            raise ConfigurationError(
                f"the URL of {self.where} is not one of Redis", hint="redis[s]://user:password@host:port/0"
            ) from None

    @property
    def name(self) -> StoreName:
        return self._name

    @property
    def cell(self) -> CellName:
        return self._cell

    @property
    def where(self) -> str:
        """How messages name this store."""
        return f"{self._name} of {self._cell}"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            fence_enforced=self._acl_user is not None, fence_drains=False, fence_expires=False
        )

    @property
    def server(self) -> str:
        return self._server

    def room(self) -> Sequence[Room]:
        return ()

    def ping(self) -> None:
        with self.translated():
            self.nodes.ping()

    def inventory(self, tenant: TenantId) -> Inventory:
        keyspace = self.keyspace(tenant)
        tally: dict[str, dict[bytes, tuple[bytes, int]]] = {name: {} for name in keyspace.collections}
        with self.translated():
            for scanned in keyspace.scan(self.nodes):
                for portion in portions(self.nodes, scanned):
                    values = self.nodes.gather(canonical.values, portion)
                    for key, value in zip(portion, values, strict=True):
                        if value is not None:
                            digest = canonical.fingerprint(
                                [key, value.digest, str(value.expires_at).encode()]
                            )
                            tally.setdefault(keyspace.collection(key), {})[key] = (digest, value.size_bytes)
        return Inventory(
            store=self._name,
            tenant=tenant,
            collections={
                name: Collection(
                    items=len(found),
                    size_bytes=sum(size for _, size in found.values()),
                    digest=canonical.unordered(digest for digest, _ in found.values()).hex(),
                )
                for name, found in (tally or {OTHER: {}}).items()
            },
        )

    def survey(self, tenants: abc.Collection[TenantId], *, pace: Pace = unhurried) -> Survey:
        return finds.survey(self._searched(), tenants, pace)

    def find(
        self, search: Search, *, cursor: str | None = None, pace: Pace = unhurried
    ) -> Iterator[FindPage]:
        """See `Store.find`. One key is looked at as a whole, so that a page with a very large one takes longer."""
        return finds.find(self._searched(), search, cursor, pace)

    def _searched(self) -> finds.Where:
        keymap = KeyMap(
            store=self._name,
            kind=StoreKind.REDIS,
            prefix=self._prefix,
            patterns=self._patterns,
            ignored=self._ignored,
            reserved=RESERVED.decode(),
            reserved_below=MARK.decode(),
        )
        return finds.Where(
            cell=self._cell,
            nodes=self.nodes,
            keymap=keymap,
            acl_user=self._acl_user,
            others=self._others(),
            translated=self.translated,
        )

    def claim(self, fence: Fence) -> None:
        with self.translated():
            self.fencing(fence.tenant).claim(fence)

    def fence(self, fence: Fence, *, expires_in_s: float | None, drain_s: float) -> None:  # noqa: ARG002
        with self.translated():
            self.fencing(fence.tenant).fence(fence)

    def open(self, fence: Fence) -> None:
        with self.translated():
            self.fencing(fence.tenant).open(fence)

    def fence_state(self, tenant: TenantId) -> FenceState:
        with self.translated():
            held = self.fencing(tenant).read()
        return FenceState(writable=held.writable, epoch=held.record.epoch, token=held.record.token)

    def erase(self, fence: Fence, *, progress: Callable[[int], None] = lambda _items: None) -> int:
        keyspace = self.keyspace(fence.tenant)
        with self.translated():
            held = self.fencing(fence.tenant).read()
            if held.writable:
                raise FenceRefused(
                    f"{self.where} accepts writes of {fence.tenant}", hint="fence it before it is erased"
                )
            if held.record.token > fence.token:
                raise FenceRefused(f"the fence of {fence.tenant} in {self.where} is a newer holder's")
            if held.record.link:
                raise StoreRefused(
                    f"{fence.tenant} is still linked in {self.where}",
                    hint="stop the copies of the link before erasing",
                )
            writer = Writer(self.nodes, keyspace)
            erased = 0
            for keys in keyspace.scan(self.nodes):
                erased += writer.delete(keys, token=fence.token)
                progress(erased)
            keyspace.forget_marks(self.nodes)
            return erased

    def retire(self, fence: Fence) -> None:
        """Keeps the tenant's user read-only, and the record that says who closed it: neither costs anybody anything."""
        keyspace = self.keyspace(fence.tenant)
        with self.translated():
            self.fencing(fence.tenant).retire(fence)
            keyspace.forget_marks(self.nodes, counters=True)

    def capture(self, tenant: TenantId) -> Capture:
        return RedisCapture(self, tenant)

    def restoring(self, tenant: TenantId, origin: TenantId) -> Restoring:
        return RedisRestoring(self, tenant, origin)

    def close(self) -> None:
        self.nodes.close()

    # -- for the live copy -------------------------------------------------------------------------------------------

    def keyspace(self, tenant: TenantId) -> Keyspace:
        return Keyspace(tenant, self._prefix.expand(tenant), self._patterns)

    def acl_user(self, tenant: TenantId) -> str | None:
        return None if self._acl_user is None else self._acl_user.expand(tenant)

    def fencing(self, tenant: TenantId) -> Fencing:
        return Fencing(self.nodes, self.keyspace(tenant), self.acl_user(tenant))

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn what the driver raises inside into a `TenureError` that names this store; after an error that may be
        due to a cluster's rearrangement, look at it anew."""
        try:
            with translated(self.where):
                yield
        except StoreUnavailable:
            self.nodes.forget()
            raise
