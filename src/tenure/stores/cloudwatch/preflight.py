"""What stands in the way of moving a tenant's logs, or should be known before it. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from tenure.model.finding import Finding, Severity
from tenure.model.names import TenantId
from tenure.stores.cloudwatch.errors import translated
from tenure.stores.cloudwatch.hours import Hours
from tenure.stores.cloudwatch.store import LogsStore

COUNTED_AT_MOST: Final = 100_000


def findings(
    tenant: TenantId, source: LogsStore, target: LogsStore, *, journaled: bool, linked: bool
) -> Sequence[Finding]:
    """Everything at once, each with its fix. `linked`: what the target holds was brought by the link."""
    hours = Hours(source, target, tenant)
    found: list[Finding] = []
    with translated(source.where):
        found += _cooperates(source, journaled=journaled)
        found += _too_old(hours)
        found += _shared(source)
    with translated(target.where):
        found += _pair(hours, linked=linked)
        found += _hidden(hours)
        found += _watched(hours)
    return sorted(found)


def _finding(severity: Severity, code: str, where: str, message: str, fix: str) -> Finding:
    return Finding(severity=severity, code=code, where=where, message=message, fix=fix)


def _cooperates(store: LogsStore, *, journaled: bool) -> Iterator[Finding]:
    yield _finding(
        Severity.WARNING,
        "fence_cooperates",
        store.where,
        "CloudWatch Logs refuses nobody's events: a fenced tenant's are kept out by the permit in "
        f"{store.capabilities.fenced_with} alone, and what log shippers still hold is brought by a later pass",
        "let the app log under a permit of the tenant (tenure.client)",
    )
    if not journaled:
        yield _finding(
            Severity.WARNING,
            "no_journal",
            store.where,
            "no journal names the hours that change: sealing reads every event that can be copied, while users wait",
            "name a store of kind postgresql as `journal` in the catalogue, and call tenure.client.touch",
        )


def _too_old(hours: Hours) -> Iterator[Finding]:
    """Events that PutLogEvents would reject."""
    source, events, streams = hours.source, 0, 0
    for stream in hours.streams(source):
        before = events
        for _ in source.events(stream, end=hours.oldest(stream.group)):
            events += 1
            if events > COUNTED_AT_MOST:
                break
        streams += events > before
        if events > COUNTED_AT_MOST:
            break
    if events:
        counted = f"more than {COUNTED_AT_MOST}" if events > COUNTED_AT_MOST else str(events)
        yield _finding(
            Severity.WARNING,
            "events_stay",
            source.where,
            f"{counted} events of {hours.tenant} in {streams} streams are older than CloudWatch Logs takes (14 days, "
            "or the shorter retention): they are not copied, stay where they are, and go when the move is completed",
            "set `export` of this store in tenure.yaml: completing the move then writes them out before they go",
        )


def _shared(source: LogsStore) -> Iterator[Finding]:
    for group in source.groups.shared():
        kept = (
            f"for {group.retention_days} days and up to 72 hours"
            if group.retention_days is not None
            else "for ever"
        )
        yield _finding(
            Severity.WARNING,
            "shared_streams_stay",
            f"{source.where}, {group.name}",
            f"tenants share the streams of this group: its events are neither moved nor erased, and stay {kept}",
            "log into a group or stream of each tenant's own, or give the group a retention",
        )


def _pair(hours: Hours, *, linked: bool) -> Iterator[Finding]:
    source, target = hours.source, hours.target
    homes = [{group.home for group in store.groups.groups_of(hours.tenant)} for store in (source, target)]
    if source.groups.prefix == target.groups.prefix and homes[0] & homes[1]:
        yield _finding(
            Severity.REFUSAL,
            "same_groups",
            target.where,
            "both cells name the same log groups of the same account and region",
            "give one of them a `group_prefix` of its own in tenure.yaml",
        )
    elif not linked and (streams := hours.streams(target)):
        yield _finding(
            Severity.REFUSAL,
            "target_not_empty",
            target.where,
            f"{len(streams)} streams of {hours.tenant} are there already, the first one {streams[0]}",
            "erase the tenant there (an earlier move may have left them), or delete the streams",
        )


def _hidden(hours: Hours) -> Iterator[Finding]:
    """What a copy would show less, or more, of than its source."""
    theirs = {group.name: group for group in hours.target.groups.groups_of(hours.tenant)}
    for here in hours.source.groups.groups_of(hours.tenant):
        there = theirs.get(here.name)
        if here.masks:
            yield _finding(
                Severity.REFUSAL,
                "events_are_masked",
                f"{hours.source.where}, {here.name}",
                "a data protection policy hides parts of the events from Tenure: the copies would lack them for good",
                "suspend the policy while the tenant is moved, and give the target's group one of its own",
            )
        if here.key and (there is None or not there.key):
            yield _finding(
                Severity.WARNING,
                "key_differs",
                f"{hours.target.where}, {here.name}",
                "the source's group is encrypted with a KMS key of the account, the target's is not or will not be",
                "create the group in the target with a key of its region first",
            )


def _watched(hours: Hours) -> Iterator[Finding]:
    """What reacts to events in the target, and how long they are kept."""
    ours = {group.name: group for group in hours.source.groups.groups_of(hours.tenant)}
    for there in hours.target.groups.groups_of(hours.tenant):
        filters = hours.target.client.describe_subscription_filters(logGroupName=there.full_name)
        if there.metric_filters or filters.get("subscriptionFilters"):
            yield _finding(
                Severity.WARNING,
                "copied_events_are_seen",
                f"{hours.target.where}, {there.name}",
                "metric filters or subscriptions of this group take copied events for new ones",
                "make them tell copied events by their times, or remove them until the move is over",
            )
        here = ours.get(there.name)
        if here is not None and here.retention_days != there.retention_days:
            yield _finding(
                Severity.WARNING,
                "retention_differs",
                f"{hours.target.where}, {there.name}",
                f"keeps its events {_days(there.retention_days)}, the source {_days(here.retention_days)}",
                "set the same retention on both",
            )


def _days(days: int | None) -> str:
    return f"{days} days" if days is not None else "for ever"
