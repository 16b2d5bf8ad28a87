"""Where identifiers appear in CloudWatch Logs, and which groups and streams the catalogue does not name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

from botocore.exceptions import ClientError

from tenure.catalogue.patterns import PLACEHOLDER
from tenure.catalogue.shapes import shape, shown
from tenure.errors import UsageError
from tenure.model.matching import Match, Matcher, needles
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.search import (
    TENANT_KIND,
    Coverage,
    Entry,
    FindPage,
    Found,
    Gone,
    Place,
    PlaceKind,
    Search,
    Skipped,
    Survey,
    Surveyed,
)
from tenure.stores.cloudwatch import filters
from tenure.stores.cloudwatch.errors import BAD_PARAMETER, NOT_FOUND, code_of
from tenure.stores.cloudwatch.events import TOKEN_FAILURES, Stream
from tenure.stores.cloudwatch.groups import Group, Groups
from tenure.stores.contract import Pace

NAMES_AT_ONCE: Final = 1000
ALL_STREAMS: Final = "*"
DONE: Final = -1
_UNREADABLE: Final = frozenset({"AccessDeniedException", "InvalidOperationException"})


@dataclass
class _Tally:
    """How far a search is, as its cursor says it: the group (by its full name), and the time up to which its events
    have been looked at: `DONE` for all of them, None if not even its names have been."""

    group: str = ""
    since: int | None = None
    items: int = 0
    size_bytes: int = 0
    found: dict[tuple[object, ...], Found] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)

    def add(self, one: Found) -> None:
        here = self.found.get(one.key)
        self.found[one.key] = one if here is None else here.merged(one)

    @property
    def cursor(self) -> str:
        return json.dumps([self.group, self.since, self.items, self.size_bytes])

    def page(self, bytes_total: int, *, last: bool = False) -> FindPage:
        found, skipped = tuple(self.found.values()), tuple(self.skipped)
        self.found, self.skipped = {}, []
        return FindPage(
            found=found,
            skipped=skipped,
            items=self.items,
            size_bytes=self.size_bytes,
            bytes_total=max(bytes_total, self.size_bytes),
            cursor=None if last else self.cursor,
        )


class LogSearch:
    """Searches and surveys the groups of one store. Keeps no page token beyond a page: they expire."""

    def __init__(self, client: Any, groups: Groups) -> None:
        self._client = client
        self._groups = groups

    # -- finding -----------------------------------------------------------------------------------------------------

    def find(self, search: Search, cursor: str | None, pace: Pace) -> Iterator[FindPage]:
        """See `Store.find`. Groups in the order of their names; in each the names first, then the events."""
        tally = _resumed(cursor)
        matcher = Matcher(search.identifiers, search.known)
        chosen = [g for g in self._chosen(search, pace) if g.full_name >= tally.group]
        total = sum(g.stored_bytes for g in chosen) + tally.size_bytes
        for group in chosen:
            if group.full_name != tally.group:
                tally.group, tally.since = group.full_name, None
            elif tally.since == DONE:
                continue
            if tally.since is None:
                yield from self._names(group, search, matcher, tally, pace, total)
                tally.since = 0
                yield tally.page(total)
            yield from self._events(group, search, matcher, tally, pace, total)
        yield tally.page(total, last=True)

    def _chosen(self, search: Search, pace: Pace) -> list[Group]:
        """The groups to look at: those that the catalogue names, or with `everywhere` all but other cells'."""
        if search.everywhere:
            groups = self._groups.everywhere(pace=pace)
        else:
            groups = [g for g in self._groups.listed(pace=pace) if self._groups.place_of(g.name) is not None]
        return sorted(groups, key=lambda g: g.full_name)

    def _names(
        self, group: Group, search: Search, matcher: Matcher, tally: _Tally, pace: Pace, total: int
    ) -> Iterator[FindPage]:
        """The names of the group and its streams."""
        for match in matcher.in_text(group.name):
            self._note(tally, search, match, PlaceKind.LOG_GROUP, group, "", group.name)
        for n, name in enumerate(self._groups.streams_of(group, pace=pace), 1):
            tally.items += 1
            for match in matcher.in_text(name):
                self._note(tally, search, match, PlaceKind.LOG_STREAM, group, name, f"{group.name}:{name}")
            if n % NAMES_AT_ONCE == 0:
                yield tally.page(total)

    def _events(
        self, group: Group, search: Search, matcher: Matcher, tally: _Tally, pace: Pace, total: int
    ) -> Iterator[FindPage]:
        """The events of the group from `tally.since` on, as far as CloudWatch's filter lets them through."""
        wanted = [needles(identifier) for identifier in search.identifiers]
        pattern = filters.any_of(n for some in wanted for n in some) if all(wanted) else None
        try:
            pages = filtered(self._client, group.full_name, pattern, tally.since or 0, pace)
            events = next(pages, None)
            while events is not None:
                for event in events:
                    self._look(group, event, search, matcher, tally)
                    tally.since = max(tally.since or 0, event["timestamp"])
                events = next(pages, None)
                if events is not None:
                    yield tally.page(total)
        except ClientError as error:
            if code_of(error) not in _UNREADABLE:
                raise
            place = Place(kind=PlaceKind.LOG_EVENT, name=self._template(group, search))
            tally.skipped.append(
                Skipped(
                    place=place, reason=f"cannot be read: {code_of(error)}", size_bytes=group.stored_bytes
                )
            )
        tally.since = DONE
        yield tally.page(total)

    def _look(
        self, group: Group, event: dict[str, Any], search: Search, matcher: Matcher, tally: _Tally
    ) -> None:
        if search.sample is not None and _share(event["eventId"]) >= search.sample:
            return
        content = event["message"].encode("utf-8", "surrogatepass")
        tally.items += 1
        tally.size_bytes += len(content)
        if len(content) > search.body_limit_bytes:
            tally.skipped.append(
                Skipped(
                    place=Place(kind=PlaceKind.LOG_EVENT, name=self._template(group, search)),
                    reason="over the limit",
                    items=1,
                    size_bytes=len(content) - search.body_limit_bytes,
                )
            )
        for match in matcher.in_bytes(content[: search.body_limit_bytes]):
            stream = event["logStreamName"]
            item = f"{group.name}:{stream}:{event['timestamp']}:{event['eventId']}"
            self._note(tally, search, match, PlaceKind.LOG_EVENT, group, stream, item)

    def _note(
        self,
        tally: _Tally,
        search: Search,
        match: Match,
        kind: PlaceKind,
        group: Group,
        stream: str,
        item: str,
    ) -> None:
        coverage = self._coverage(group, stream, match.identifier.tenant)
        undocumented = coverage is Coverage.UNDOCUMENTED
        tally.add(
            Found(
                tenant=match.identifier.tenant,
                label=match.identifier.label,
                place=Place(kind=kind, name=self._template(group, search)),
                coverage=coverage,
                items=1,
                examples=(shown(item, search.known | search.tenants, search.identifiers),),
                encodings=(match.encoding,),
                entry=proposed(group.name, *_words(search)) if undocumented else None,
            )
        )

    def _coverage(self, group: Group, stream: str, tenant: TenantId) -> Coverage:
        place = self._groups.place_of(group.name) if group.inside else None
        if place is None:
            ignored = group.inside and self._groups.ignored(group.name)
            return Coverage.IGNORED if ignored else Coverage.UNDOCUMENTED
        if place.shared:  # the catalogue names these streams, but nothing can be done to them for one tenant
            return Coverage.NEIGHBOUR
        owner = self._groups.owner(Stream(group.name, stream))
        if owner is None:
            return Coverage.UNDOCUMENTED
        return Coverage.OWN if owner == tenant else Coverage.NEIGHBOUR

    def _template(self, group: Group, search: Search) -> str:
        """The place as the catalogue would name it."""
        place = self._groups.place_of(group.name) if group.inside else None
        if place is None:
            return shaped(group.name, *_words(search))
        return f"{place.group.text}:{place.streams.text}" if place.streams is not None else place.group.text

    # -- the survey --------------------------------------------------------------------------------------------------

    def survey(self, store: StoreName, cell: CellName, tenants: Collection[TenantId], pace: Pace) -> Survey:
        """See `Store.survey`. A group that only looks like a tenant's (`/app/web` beside `/app/{tenant}`) is not
        classified; neither is a stream of a shared group that is no tenant's."""
        places: dict[Place, Surveyed] = {}
        listed = self._groups.listed(pace=pace)
        for group in listed:
            for surveyed in self._surveyed(group, tenants, pace):
                known = places.get(surveyed.place)
                items = (known.items or 0 if known is not None else 0) + (surveyed.items or 0)
                places[surveyed.place] = replace(surveyed, items=items)
        there = {group.name for group in listed}
        gone = [
            # A group of each tenant's own comes and goes with its tenants.
            Gone(place=place, where=f"groups.{p.group.text}", empty=p.group.own)
            for p in self._groups.places
            if (place := Place(kind=PlaceKind.LOG_GROUP, name=p.group.text)) not in places
            and (p.group.own or not any(p.group.matches(name) for name in there))
        ]
        return Survey(
            store=store, cell=cell, places=tuple(places[p] for p in sorted(places)), gone=tuple(gone)
        )

    def _surveyed(self, group: Group, tenants: Collection[TenantId], pace: Pace) -> Iterator[Surveyed]:
        place = self._groups.place_of(group.name)
        if place is None and self._groups.ignored(group.name):
            pattern = next(p for p in self._groups.ignore if p.matches(group.name))
            yield Surveyed(place=Place(kind=PlaceKind.LOG_GROUP, name=pattern.text), classified=True, items=1)
            return
        if place is None or (place.group.own and place.group.tenant_of(group.name) not in tenants):
            yield Surveyed(
                place=Place(kind=PlaceKind.LOG_GROUP, name=shaped(group.name, tenants)),
                classified=False,
                items=1,
                entry=proposed(group.name, tenants),
                remark=_remark(group, like=place.group.text if place is not None else None),
            )
            return
        yield Surveyed(place=Place(kind=PlaceKind.LOG_GROUP, name=place.group.text), classified=True, items=1)
        if place.streams is not None and place.streams.own:
            for name in self._groups.streams(group.name, pace=pace):
                if place.streams.tenant_of(name) not in tenants:
                    yield Surveyed(
                        place=Place(kind=PlaceKind.LOG_STREAM, name=f"{group.name}:{shape(name, tenants)}"),
                        classified=False,
                        items=1,
                        remark=f"no tenant's, by {place.streams.text}",
                    )


def filtered(
    client: Any, group: str, pattern: str | None, since: int, pace: Pace
) -> Iterator[list[dict[str, Any]]]:
    """The group's events from `since` on that the pattern lets through, page by page, oldest first; none if there is no
    such group. Goes on at the newest time seen if a page token is refused; events of that time come twice then."""
    narrowed = {"filterPattern": pattern} if pattern is not None else {}
    token: str | None = None
    failures, newest = 0, since
    while True:
        position = {} if token is None else {"nextToken": token}
        try:
            page = client.filter_log_events(
                logGroupName=group, startTime=since, interleaved=True, **narrowed, **position
            )
        except ClientError as error:
            if code_of(error) == NOT_FOUND:
                return
            if token is None or code_of(error) != BAD_PARAMETER or failures == TOKEN_FAILURES:
                raise
            failures += 1
            since, token = newest, None
            continue
        events = page.get("events", [])
        pace(items=len(events), size_bytes=sum(len(e["message"]) for e in events))
        reached = max((e["timestamp"] for e in events), default=newest)
        if reached > newest:
            newest, failures = reached, 0
        yield events
        token = page.get("nextToken")
        if token is None:
            return


def shaped(group: str, tenants: Collection[str], hidden: Collection[str] = ()) -> str:
    """The group's name as the catalogue could have it: a tenant's id in the path is `{tenant}`. People name groups, so
    the rest is shown, but for what lies below a part with something that must not be."""
    parts: list[str] = []
    for part in group.split("/"):
        if any(value in part for value in hidden):
            return "/".join([*parts, "*"])
        parts.append(PLACEHOLDER if part in tenants and PLACEHOLDER not in parts else part)
    return "/".join(parts)


def _words(search: Search) -> tuple[Collection[str], Collection[str]]:
    """The ids that may be shown, and what must not be."""
    hidden = [i.value for i in search.identifiers if i.kind != TENANT_KIND]
    return search.known | search.tenants, hidden


def proposed(group: str, tenants: Collection[str], hidden: Collection[str] = ()) -> dict[str, Entry]:
    """What the catalogue could say of the group."""
    name = shaped(group, tenants, hidden)
    own = PLACEHOLDER in name
    return {"groups": {name: {"holds": "personal"} if own else {"holds": "personal", "streams": ALL_STREAMS}}}


def _remark(group: Group, *, like: str | None) -> str:
    kept = f"{group.retention_days} days" if group.retention_days is not None else "for ever"
    looks = f"looks like {like}, but is no tenant's; " if like is not None else ""
    return f"{looks}keeps its events {kept}, {group.stored_bytes} bytes"


def _share(event_id: str) -> float:
    return int.from_bytes(hashlib.sha256(event_id.encode()).digest()[:8], "big") / 2**64


def _resumed(cursor: str | None) -> _Tally:
    if cursor is None:
        return _Tally()
    try:
        group, since, items, size_bytes = json.loads(cursor)
        if not isinstance(group, str) or not (since is None or isinstance(since, int)):
            raise TypeError
        return _Tally(group=group, since=since, items=int(items), size_bytes=int(size_bytes))
    except (ValueError, TypeError) as error:
        raise UsageError("the cursor is none of CloudWatch Logs") from error
