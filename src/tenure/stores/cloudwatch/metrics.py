"""CloudWatch metrics of one cell as a `Store`, as what they are: nobody can delete them, and they expire."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from botocore.exceptions import ClientError

from tenure.catalogue import MetricPlace, NamePattern
from tenure.catalogue.shapes import shown
from tenure.errors import StoreRefused, UsageError
from tenure.model.inventory import Collection as Counted
from tenure.model.inventory import Inventory
from tenure.model.matching import Match, Matcher
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.search import (
    Coverage,
    Entry,
    FindPage,
    Found,
    Gone,
    Place,
    PlaceKind,
    Search,
    Survey,
    Surveyed,
)
from tenure.stores.backup import Capture, Restoring, refused
from tenure.stores.cloudwatch.account import PING_TIMEOUT_S, Account
from tenure.stores.cloudwatch.errors import code_of, translated
from tenure.stores.cloudwatch.events import TOKEN_FAILURES
from tenure.stores.contract import Capabilities, Fence, FenceState, Pace, Room, unhurried

EXPIRE_AFTER: Final = timedelta(days=455)
"""How long CloudWatch keeps a data point at most: 15 months (CloudWatch user guide, "Metrics retention")."""
LISTED_FOR: Final = timedelta(days=14)
"""ListMetrics shows the metrics with data points of the last two weeks (API reference, ListMetrics)."""
STAYS: Final = (
    "CloudWatch takes no data points older than two weeks and deletes none: they expire after 15 months"
)
_BAD_TOKEN: Final = frozenset(
    {"InvalidParameterValue", "InvalidNextToken", "ValidationError", "InvalidParameterValueException"}
)
_MASK: Final = (1 << 128) - 1


@dataclass(frozen=True)
class Metric:
    """One series: a namespace, a name, and dimensions with their values."""

    namespace: str
    name: str
    dimensions: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, listed: dict[str, Any]) -> Metric:
        dimensions = tuple(sorted((d["Name"], d["Value"]) for d in listed.get("Dimensions", [])))
        return cls(listed["Namespace"], listed["MetricName"], dimensions)

    def __str__(self) -> str:
        values = ",".join(f"{name}={value}" for name, value in self.dimensions)
        return f"{self.namespace}:{self.name}:{values}"

    @property
    def texts(self) -> tuple[str, ...]:
        return self.namespace, self.name, *(text for pair in self.dimensions for text in pair)


class MetricsStore:
    """The metric namespaces of one region and account. Thread-safe.

    What it shows are the metrics that were reported in the last two weeks: CloudWatch lists no others, and keeps the
    data points of all of them for 15 months.
    """

    def __init__(
        self,
        *,
        name: StoreName,
        cell: CellName,
        account: Account,
        places: Sequence[MetricPlace],
        ignore: Sequence[NamePattern] = (),
    ) -> None:
        self._name = name
        self._cell = cell
        self._account = account
        self._client = account.client("cloudwatch")
        self._ping_client = account.client("cloudwatch", timeout_s=PING_TIMEOUT_S, attempts=2)
        self._places = {place.namespace: place for place in places}
        self._ignore = tuple(ignore)

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
            fence_enforced=False,
            fence_drains=False,
            fence_expires=False,
            stays=STAYS,
            not_backed_up=STAYS,
            undeletable=STAYS,
            lapses_after_days=EXPIRE_AFTER.days,
        )

    @property
    def server(self) -> str:
        return self._account.server("monitoring")

    def room(self) -> Sequence[Room]:
        return ()

    def ping(self) -> None:
        with translated(self.where):
            self._ping_client.list_metrics(Namespace="Tenure/Ping")

    def inventory(self, tenant: TenantId) -> Inventory:
        """Counts series, not their data points, whose number CloudWatch does not tell."""
        found = {}
        with translated(self.where):
            for place in self._places.values():
                metrics = self._of(place, tenant)
                total = sum(_digest(metric) for metric in metrics) & _MASK
                found[place.namespace] = Counted(items=len(metrics), size_bytes=0, digest=f"{total:032x}")
        return Inventory(store=self._name, tenant=tenant, collections=found)

    def _of(self, place: MetricPlace, tenant: TenantId) -> set[Metric]:
        mine = {"Name": place.dimension, "Value": tenant}
        listed = (
            page for page, _ in self._pages(None, unhurried, Namespace=place.namespace, Dimensions=[mine])
        )
        found = {metric for page in listed for metric in page}
        return {metric for metric in found if (place.dimension, tenant) in metric.dimensions}

    def _pages(
        self, token: str | None, pace: Pace, **asked: Any
    ) -> Iterator[tuple[list[Metric], str | None]]:
        """The pages of a listing from that token on, each with the next one's. Begun anew where a token is refused."""
        failures = 0
        while True:
            position = {} if token is None else {"NextToken": token}
            try:
                page = self._client.list_metrics(**asked, **position)
            except ClientError as error:
                if token is None or failures == TOKEN_FAILURES or code_of(error) not in _BAD_TOKEN:
                    raise
                token, failures = None, failures + 1
                continue
            metrics = [Metric.of(listed) for listed in page.get("Metrics", [])]
            token = page.get("NextToken") or None
            pace(items=len(metrics), size_bytes=sum(len(str(metric)) for metric in metrics))
            yield metrics, token
            if token is None:
                return

    def expires(self, *, now: datetime | None = None) -> datetime:
        """When the last data point of a tenant that reports no longer is gone at the latest."""
        return (now or datetime.now(UTC)) + EXPIRE_AFTER

    # -- the fence, and what cannot be done --------------------------------------------------------------------------

    def claim(self, fence: Fence) -> None:
        """Changes nothing: there is nothing to keep an older holder from."""

    def fence(self, fence: Fence, *, expires_in_s: float | None, drain_s: float) -> None:
        """Changes nothing: only the gate and `tenure.client` keep a tenant's metrics out."""

    def open(self, fence: Fence) -> None:
        """Changes nothing."""

    def fence_state(self, tenant: TenantId) -> FenceState:  # noqa: ARG002
        return FenceState(writable=True, epoch=0, token=0)

    def retire(self, fence: Fence) -> None:
        """Changes nothing."""

    def erase(self, fence: Fence, *, progress: Callable[[int], None] = lambda _items: None) -> int:  # noqa: ARG002
        """Raises `StoreRefused`, whatever there is: that none is listed does not mean that none is kept."""
        left = self.inventory(fence.tenant)
        raise StoreRefused(
            f"{self.where}: nobody can delete CloudWatch metrics; {left.items} series of {fence.tenant} were "
            f"reported in the last two weeks, and the last data points expire by {self.expires():%Y-%m-%d}",
            hint="stop reporting them, and have the certificate name that date",
        )

    # -- finding and surveying ---------------------------------------------------------------------------------------

    def find(
        self, search: Search, *, cursor: str | None = None, pace: Pace = unhurried
    ) -> Iterator[FindPage]:
        """Looks at namespaces, names and dimensions."""
        token, items, size_bytes = _resumed(cursor)
        matcher = Matcher(search.identifiers, search.known)
        pages = self._pages(token, pace)
        while True:
            with translated(self.where):
                page = next(pages, None)
            if page is None:
                return
            metrics, token = page
            wanted = [m for m in metrics if search.everywhere or m.namespace in self._places]
            found: dict[tuple[object, ...], Found] = {}
            for metric in wanted:
                if search.sample is not None and _digest(metric) / (_MASK + 1) >= search.sample:
                    continue
                items, size_bytes = items + 1, size_bytes + len(str(metric))
                for match in {m for text in metric.texts for m in matcher.in_text(text)}:
                    one = self._found(metric, match, search)
                    found[one.key] = one if one.key not in found else found[one.key].merged(one)
            yield FindPage(
                found=tuple(found.values()),
                items=items,
                size_bytes=size_bytes,
                cursor=json.dumps([token, items, size_bytes]) if token is not None else None,
            )

    def _found(self, metric: Metric, match: Match, search: Search) -> Found:
        tenant = match.identifier.tenant
        coverage = self._coverage(metric, tenant)
        told = next((name for name, value in metric.dimensions if value == tenant), None)
        entry: dict[str, Entry] | None = None
        if coverage is Coverage.UNDOCUMENTED and told is not None:
            entry = {"namespaces": {metric.namespace: {"dimension": told, "holds": "plain"}}}
        return Found(
            tenant=tenant,
            label=match.identifier.label,
            place=Place(kind=PlaceKind.METRIC, name=f"{metric.namespace}:{metric.name}"),
            coverage=coverage,
            items=1,
            examples=(shown(str(metric), search.known | search.tenants, search.identifiers),),
            encodings=(match.encoding,),
            entry=entry,
        )

    def _coverage(self, metric: Metric, tenant: TenantId) -> Coverage:
        place = self._places.get(metric.namespace)
        if place is None:
            return Coverage.IGNORED if self._ignored(metric.namespace) else Coverage.UNDOCUMENTED
        owner = dict(metric.dimensions).get(place.dimension)
        if owner is None:
            return Coverage.UNDOCUMENTED
        return Coverage.OWN if owner == tenant else Coverage.NEIGHBOUR

    def _ignored(self, namespace: str) -> bool:
        return any(pattern.matches(namespace) for pattern in self._ignore)

    def survey(
        self,
        tenants: Collection[TenantId],
        *,
        pace: Pace = unhurried,
    ) -> Survey:
        """A namespace of which nothing was reported for two weeks counts as gone: CloudWatch does not list it."""
        counts: dict[str, int] = {}
        told: dict[str, str] = {}
        with translated(self.where):
            for metrics, _ in self._pages(None, pace):
                for metric in metrics:
                    counts[metric.namespace] = counts.get(metric.namespace, 0) + 1
                    for name, value in metric.dimensions:
                        if value in tenants:
                            told[metric.namespace] = name
        places = tuple(self._surveyed(namespace, counts[namespace], told) for namespace in sorted(counts))
        gone = tuple(
            # CloudWatch lists what has had data within the last two weeks, so a quiet one looks as if it were gone.
            Gone(
                place=Place(kind=PlaceKind.METRIC, name=namespace),
                where=f"namespaces.{namespace}",
                empty=True,
            )
            for namespace in self._places
            if namespace not in counts
        )
        return Survey(store=self._name, cell=self._cell, places=places, gone=gone)

    def _surveyed(self, namespace: str, items: int, told: dict[str, str]) -> Surveyed:
        place = Place(kind=PlaceKind.METRIC, name=namespace)
        if namespace in self._places or self._ignored(namespace):
            return Surveyed(place=place, classified=True, items=items)
        entry: dict[str, Entry] = (
            {"namespaces": {namespace: {"dimension": told[namespace], "holds": "plain"}}}
            if namespace in told
            else {"ignore": [namespace]}
        )
        return Surveyed(place=place, classified=False, items=items, entry=entry)

    def capture(self, tenant: TenantId) -> Capture:  # noqa: ARG002
        """Raises `StoreRefused`: its data is in no backup."""
        raise refused(self._name, self._cell, STAYS)

    def restoring(self, tenant: TenantId, origin: TenantId) -> Restoring:  # noqa: ARG002
        """Raises `StoreRefused`: its data is in no backup."""
        raise refused(self._name, self._cell, STAYS)

    def close(self) -> None:
        for client in (self._client, self._ping_client):
            client.close()


def _digest(metric: Metric) -> int:
    content = json.dumps([metric.namespace, metric.name, metric.dimensions]).encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=16).digest(), "little")


def _resumed(cursor: str | None) -> tuple[str | None, int, int]:
    if cursor is None:
        return None, 0, 0
    try:
        token, items, size_bytes = json.loads(cursor)
        if not isinstance(token, str):
            raise TypeError
        return token, int(items), int(size_bytes)
    except (ValueError, TypeError) as error:
        raise UsageError("the cursor is none of CloudWatch metrics") from error
