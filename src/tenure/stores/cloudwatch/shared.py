"""Streams that tenants share: which of them mention a tenant, how often, and until when that stays at most."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tenure.model.matching import Matcher, needles
from tenure.model.names import TenantId
from tenure.model.search import tenant_identifier
from tenure.stores.cloudwatch import filters
from tenure.stores.cloudwatch.events import Stream
from tenure.stores.cloudwatch.groups import EXPIRES_WITHIN, Groups
from tenure.stores.cloudwatch.search import filtered
from tenure.stores.contract import unhurried


@dataclass(frozen=True, kw_only=True)
class Retained:
    """Events of a shared stream that mention a tenant. They cannot be erased without the neighbours' events.

    `until`: when CloudWatch Logs has deleted the newest of them, by the group's retention as it is now and the 72 hours
    that it may take; None: never, since the group has no retention.
    """

    stream: Stream
    events: int
    newest: datetime
    until: datetime | None

    @property
    def sentence(self) -> str:
        """For a report or a certificate."""
        end = f"until {self.until:%Y-%m-%d %H:%M} UTC" if self.until is not None else "for ever"
        return f"{self.stream} is shared by tenants: {self.events} events that mention this one stay {end}"


def retained(
    client: Any, groups: Groups, tenant: TenantId, known: Collection[TenantId]
) -> Sequence[Retained]:
    """See `LogsStore.retained`."""
    identifier = tenant_identifier(tenant)
    matcher = Matcher([identifier], known)
    pattern = filters.any_of(needles(identifier))
    found: list[Retained] = []
    for group in groups.shared():
        seen: dict[str, tuple[set[str], int]] = {}
        for events in filtered(client, group.full_name, pattern, 0, unhurried):
            for event in events:
                if matcher.in_text(event["message"]):
                    ids, newest = seen.setdefault(event["logStreamName"], (set(), 0))
                    ids.add(event["eventId"])
                    seen[event["logStreamName"]] = ids, max(newest, event["timestamp"])
        for name, (ids, newest) in sorted(seen.items()):
            at = datetime.fromtimestamp(newest / 1000, UTC)
            days = group.retention_days
            found.append(
                Retained(
                    stream=Stream(group.name, name),
                    events=len(ids),
                    newest=at,
                    until=at + timedelta(days=days) + EXPIRES_WITHIN if days is not None else None,
                )
            )
    return found
