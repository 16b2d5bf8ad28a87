"""The log groups and streams of a cell: what there is, and what of it the catalogue gives to whom."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from botocore.exceptions import ClientError

from tenure.catalogue import LogPlace, NamePattern
from tenure.model.names import TenantId
from tenure.stores.cloudwatch.errors import BAD_PARAMETER, EXISTS, NOT_FOUND, code_of
from tenure.stores.cloudwatch.events import TOKEN_FAILURES, Stream
from tenure.stores.contract import Pace, unhurried

EXPIRES_WITHIN: Final = timedelta(hours=72)
"""How long CloudWatch Logs may take to delete what has reached its retention (API reference, PutRetentionPolicy: "It
typically takes up to 72 hours", in rare situations longer)."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """A log group: its name as the catalogue would write it, and what the service says of it."""

    name: str
    full_name: str
    arn: str
    stored_bytes: int = 0
    retention_days: int | None = None
    """None: its events never expire."""
    metric_filters: int = 0
    key: str = ""
    """The KMS key with which it is encrypted, if it is with one of the account's own."""
    masks: bool = False
    """Whether a data protection policy hides parts of its events from readers, Tenure among them."""
    inside: bool = True
    """Whether its name begins as those of the cell; the catalogue says nothing about others."""

    @property
    def home(self) -> str:
        """The account and region it is in."""
        return ":".join(self.arn.split(":")[3:5])


class Groups:
    """The groups whose names begin with `prefix`, but not with a longer one of `elsewhere`, which are other cells': of
    `/prod` and `/prod-eu`, the longest says whose a group is. The catalogue's names come after the prefix."""

    def __init__(
        self,
        client: Any,
        *,
        prefix: str,
        places: Sequence[LogPlace],
        ignore: Sequence[NamePattern],
        elsewhere: Sequence[str] = (),
    ) -> None:
        self._client = client
        self.prefix: Final = prefix
        self.places: Final = tuple(places)
        self.ignore: Final = tuple(ignore)
        self._elsewhere: Final = tuple(elsewhere)

    def full(self, group: str) -> str:
        """The group's name in CloudWatch Logs."""
        return self.prefix + group

    # -- what there is -----------------------------------------------------------------------------------------------

    def listed(self, beginning: str = "", *, pace: Pace = unhurried) -> list[Group]:
        """Every group whose name begins so, after the prefix."""
        start = self.full(beginning)
        return self._groups_from(start, pace)

    def everywhere(self, *, pace: Pace = unhurried) -> list[Group]:
        """Every group of the account in this region that is no other cell's."""
        return self._groups_from("", pace)

    def _groups_from(self, start: str, pace: Pace) -> list[Group]:
        narrowed = {"logGroupNamePrefix": start} if start else {}
        return [
            Group(
                name=g["logGroupName"].removeprefix(self.prefix),
                full_name=g["logGroupName"],
                arn=g.get("arn", ""),
                stored_bytes=g.get("storedBytes", 0),
                retention_days=g.get("retentionInDays"),
                metric_filters=g.get("metricFilterCount", 0),
                key=g.get("kmsKeyId", ""),
                masks=g.get("dataProtectionStatus") == "ACTIVATED",
                inside=g["logGroupName"].startswith(self.prefix),
            )
            for g in self._everything("describe_log_groups", "logGroups", pace, **narrowed)
            if not self._is_elsewhere(g["logGroupName"])
        ]

    def _is_elsewhere(self, name: str) -> bool:
        own = len(self.prefix) if name.startswith(self.prefix) else 0
        return any(len(prefix) > own and name.startswith(prefix) for prefix in self._elsewhere)

    def group(self, name: str) -> Group | None:
        return next((g for g in self.listed(name) if g.name == name), None)

    def streams(self, group: str, beginning: str = "", *, pace: Pace = unhurried) -> list[str]:
        """The names of the group's streams that begin so; none where there is no such group."""
        return self._streams_from(self.full(group), beginning, pace)

    def streams_of(self, group: Group, *, pace: Pace = unhurried) -> list[str]:
        """The names of all its streams."""
        return self._streams_from(group.full_name, "", pace)

    def _streams_from(self, group: str, beginning: str, pace: Pace) -> list[str]:
        narrowed = {"logStreamNamePrefix": beginning} if beginning else {}
        try:
            found = self._everything(
                "describe_log_streams", "logStreams", pace, logGroupName=group, **narrowed
            )
        except ClientError as error:
            if code_of(error) == NOT_FOUND:
                return []
            raise
        return [s["logStreamName"] for s in found]

    def _everything(self, operation: str, key: str, pace: Pace, **asked: Any) -> list[dict[str, Any]]:
        """All pages of a listing; begun anew if the token of a page has expired."""
        for attempt in range(TOKEN_FAILURES + 1):
            found: list[dict[str, Any]] = []
            position: dict[str, str] = {}
            try:
                while True:
                    page = getattr(self._client, operation)(**asked, **position)
                    found += page.get(key, [])
                    pace(items=len(page.get(key, [])), size_bytes=0)
                    if not page.get("nextToken"):
                        return found
                    position = {"nextToken": page["nextToken"]}
            except ClientError as error:
                if not position or code_of(error) != BAD_PARAMETER or attempt == TOKEN_FAILURES:
                    raise
        raise AssertionError("unreachable")

    # -- whose it is -------------------------------------------------------------------------------------------------

    def place_of(self, group: str) -> LogPlace | None:
        """What the catalogue says of the group: its first entry that matches."""
        return next((place for place in self.places if place.group.matches(group)), None)

    def ignored(self, group: str) -> bool:
        return self.place_of(group) is None and any(pattern.matches(group) for pattern in self.ignore)

    def owner(self, stream: Stream) -> TenantId | None:
        """Whose the stream is by the catalogue; None where it is nobody's or several tenants'."""
        place = self.place_of(stream.group)
        if place is None:
            return None
        if place.group.own:
            return place.group.tenant_of(stream.group)
        return place.streams.tenant_of(stream.name) if place.streams is not None else None

    def of(self, tenant: TenantId) -> list[Stream]:
        """Every stream that is the tenant's own, sorted."""
        found: set[Stream] = set()
        for group in self.groups_of(tenant):
            place = self.place_of(group.name)
            assert place is not None
            streams = place.streams.of(tenant) if place.streams is not None else None
            names = self.streams(group.name, streams.beginning if streams is not None else "")
            found.update(
                Stream(group.name, name) for name in names if streams is None or streams.matches(name)
            )
        return sorted(found)

    def groups_of(self, tenant: TenantId) -> list[Group]:
        """The groups in which the tenant has streams of its own, or may have."""
        return list(self._groups(tenant, [place for place in self.places if not place.shared]))

    def own(self, tenant: TenantId) -> list[Group]:
        """The groups that are the tenant's as a whole."""
        return list(self._groups(tenant, [place for place in self.places if place.group.own]))

    def shared(self) -> list[Group]:
        """The groups whose streams hold events of several tenants."""
        seen = {
            g.name: g
            for place in self.places
            if place.shared
            for g in self.listed(place.group.beginning)
            if self.place_of(g.name) is place
        }
        return [seen[name] for name in sorted(seen)]

    def _groups(self, tenant: TenantId, places: Sequence[LogPlace]) -> Iterator[Group]:
        seen: set[str] = set()
        for place in places:
            pattern = place.group.of(tenant)
            for group in self.listed(pattern.beginning):
                if (
                    group.name not in seen
                    and pattern.matches(group.name)
                    and self.place_of(group.name) is place
                ):
                    seen.add(group.name)
                    yield group

    # -- making and removing -----------------------------------------------------------------------------------------

    def make(self, stream: Stream, *, retention_days: int | None) -> None:
        """The stream is there, and its group; a group that is made has that retention. Idempotent: a group without
        streams and without a retention is taken for one that was being made."""
        full, there = self.full(stream.group), self.group(stream.group)
        if there is None:
            self._unless_there(self._client.create_log_group, logGroupName=full)
        fresh = there is None or (there.retention_days is None and not self.streams(stream.group))
        if fresh and retention_days is not None:
            self._client.put_retention_policy(logGroupName=full, retentionInDays=retention_days)
        self._unless_there(self._client.create_log_stream, logGroupName=full, logStreamName=stream.name)

    @staticmethod
    def _unless_there(make: Any, **asked: str) -> None:
        try:
            make(**asked)
        except ClientError as error:
            if code_of(error) != EXISTS:
                raise

    def remove_stream(self, stream: Stream) -> None:
        """Idempotent."""
        self._unless_gone(
            self._client.delete_log_stream, logGroupName=self.full(stream.group), logStreamName=stream.name
        )

    def remove_group(self, group: str) -> None:
        """With all its streams. Idempotent."""
        self._unless_gone(self._client.delete_log_group, logGroupName=self.full(group))

    @staticmethod
    def _unless_gone(remove: Any, **asked: str) -> None:
        try:
            remove(**asked)
        except ClientError as error:
            if code_of(error) != NOT_FOUND:
                raise
