"""Where tenants' identifiers appear, and what a store holds that the catalogue does not name: questions and answers.

Identifiers are personal data. Nothing here shows one of a person in clear: reports carry a label and masked examples.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, TypeAlias

from tenure.model.names import CellName, StoreName, TenantId

TENANT_KIND: Final = "tenant"
"""The kind of an identifier that is the tenant's own id: the only one that is shown as it is."""
DEFAULT_BODY_LIMIT_BYTES: Final = 8 * 1024 * 1024
EXAMPLES: Final = 3
LABEL_DIGITS: Final = 12

Entry: TypeAlias = "str | Sequence[str] | Mapping[str, Entry]"
"""A piece of the catalogue below `stores`, as YAML would have it: `{"kv": {"keys": {"cache:*": "content"}}}` of a store
that is there, or the whole entry of one that ought to be."""


@dataclass(frozen=True, kw_only=True, order=True)
class Identifier:
    """Something by which a tenant, or a person of a tenant, can be recognised. `kind` is a plain word: `tenant`,
    `email`, `host`, `customer_number`. Compared exactly, case included."""

    tenant: TenantId
    kind: str
    value: str = field(repr=False)

    @property
    def label(self) -> str:
        """How reports name it: the tenant's id as it is, anything else by its kind and a digest."""
        if self.kind == TENANT_KIND:
            return f"{self.kind}={self.value}"
        digest = hashlib.sha256(f"{self.tenant}\0{self.kind}\0{self.value}".encode()).hexdigest()
        return f"{self.kind}=#{digest[:LABEL_DIGITS]}"


def tenant_identifier(tenant: TenantId) -> Identifier:
    """The tenant's own id."""
    return Identifier(tenant=tenant, kind=TENANT_KIND, value=tenant)


@dataclass(frozen=True, kw_only=True)
class Search:
    """What to look for, and how thoroughly.

    `known` are the ids of all tenants there are: an identifier is not found inside a longer one of these. `everywhere`
    looks also where the catalogue names nothing, as far as the store's login can see: other databases, buckets, indexes
    and log groups; without it only what the catalogue calls tenants' data. `sample` is the share of items to look at
    (above 0, up to 1), None for all of them. Of a single value or body only the first `body_limit_bytes` are looked at,
    and what was left out is reported as skipped.
    """

    identifiers: tuple[Identifier, ...]
    known: frozenset[TenantId] = frozenset()
    everywhere: bool = True
    sample: float | None = None
    body_limit_bytes: int = DEFAULT_BODY_LIMIT_BYTES

    def __post_init__(self) -> None:
        if self.sample is not None and not 0 < self.sample <= 1:
            raise ValueError("a sample is a share above 0 and up to 1")

    @property
    def tenants(self) -> frozenset[TenantId]:
        return frozenset(i.tenant for i in self.identifiers)


class PlaceKind(StrEnum):
    """What sort of thing a place is."""

    DATABASE = "database"
    SCHEMA = "schema"
    TABLE = "table"
    COLUMN = "column"
    DEFINITION = "definition"
    COMMENT = "comment"
    LARGE_OBJECT = "large object"
    ROLE = "role"
    KEY = "key"
    VALUE = "value"
    ACL_USER = "ACL user"
    BUCKET = "bucket"
    OBJECT_KEY = "object key"
    OBJECT_BODY = "object body"
    OBJECT_METADATA = "object metadata"
    OBJECT_TAGS = "object tags"
    OLD_VERSION = "old version"
    DELETE_MARKER = "delete marker"
    UPLOAD = "unfinished upload"
    INDEX = "index"
    NAMESPACE = "namespace"
    RECORD_ID = "record id"
    RECORD_METADATA = "record metadata"
    LOG_GROUP = "log group"
    LOG_STREAM = "log stream"
    LOG_EVENT = "log event"
    METRIC = "metric"
    SERIES = "series"
    VAULT_ENTRY = "vault entry"


@dataclass(frozen=True, kw_only=True, order=True)
class Place:
    """A sort of item of a store that the catalogue can name, never a single item: a column, a pattern of keys, a prefix
    of a bucket. `name` is what the catalogue would write (`public.notes.body`, `app:cache:*`), and begins with the
    database, bucket or index where that is not the store's own. Other items of one sort are `*` in it."""

    kind: PlaceKind
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class Coverage(StrEnum):
    """What the catalogue says of the item in which an identifier was found."""

    OWN = "own"
    """It is this tenant's data: what Tenure does to the tenant, it does to this."""
    NEIGHBOUR = "neighbour"
    """It is another tenant's data, in which this tenant is mentioned."""
    IGNORED = "ignored"
    """It holds no tenant's data, which is not so."""
    UNDOCUMENTED = "undocumented"
    """Nothing."""
    TENURE = "tenure"
    """It is one of Tenure's own records of the tenant, which go when the tenant goes."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """An identifier in so many items of one place. `label` is `Identifier.label`.

    `examples` are at most `EXAMPLES` items, named so that an operator can find them but without showing an identifier
    of a person (`catalogue.shapes.shown`). `encodings` are the forms it was found in (`matching.Encoding`). `entry` is
    what the catalogue could say of the place, where it says nothing.
    """

    tenant: TenantId
    label: str
    place: Place
    coverage: Coverage
    items: int
    examples: tuple[str, ...] = ()
    encodings: tuple[str, ...] = ()
    entry: Mapping[str, Entry] | None = None

    @property
    def key(self) -> tuple[TenantId, str, Place, Coverage]:
        return self.tenant, self.label, self.place, self.coverage

    def merged(self, other: Found) -> Found:
        """Both together; `other` is of the same key."""
        return replace(
            self,
            items=self.items + other.items,
            examples=tuple(dict.fromkeys((*self.examples, *other.examples)))[:EXAMPLES],
            encodings=tuple(sorted({*self.encodings, *other.encodings})),
            entry=self.entry or other.entry,
        )


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """So many items (or bytes of them) of a place that were not looked at, and why. Never to be taken for clean."""

    place: Place
    reason: str
    items: int = 0
    size_bytes: int = 0

    def merged(self, other: Skipped) -> Skipped:
        """Both together; `other` is of the same place and reason."""
        return replace(self, items=self.items + other.items, size_bytes=self.size_bytes + other.size_bytes)


@dataclass(frozen=True, kw_only=True)
class FindPage:
    """What one step of a search brought. `found` and `skipped` are of this page alone; counts are since the search
    began, also over a resumption. Totals are estimates, None where the store cannot say."""

    found: tuple[Found, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    items: int
    size_bytes: int
    items_total: int | None = None
    bytes_total: int | None = None
    cursor: str | None
    """Give it to the next `find` with the same search to go on after this page; None: there is nothing more."""


@dataclass(frozen=True, kw_only=True)
class Surveyed:
    """A place that exists. If it is not `classified`, `entry` is what the catalogue could say of it, for somebody who
    knows the data to correct, and `remark` says what is known about it."""

    place: Place
    classified: bool
    items: int | None = None
    entry: Mapping[str, Entry] | None = None
    remark: str = ""


@dataclass(frozen=True, kw_only=True)
class Gone:
    """A place that the catalogue names and that is not there. `where` is its path below the store's entry in the
    catalogue, such as `tables.public.notes.columns.body`."""

    place: Place
    where: str
    empty: bool = False
    """It is a pattern under which nothing lies now: that may change by itself."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Everything that exists in a store, place by place, against the catalogue. What could not be seen is `skipped`."""

    store: StoreName
    cell: CellName
    places: tuple[Surveyed, ...]
    gone: tuple[Gone, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    @property
    def unclassified(self) -> tuple[Surveyed, ...]:
        return tuple(p for p in self.places if not p.classified)
