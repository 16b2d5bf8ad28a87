"""A search in S3 over several pages, old versions and other buckets, and what it says it cannot see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tenure.estate.local import S3Endpoint
from tenure.model.names import TenantId
from tenure.model.search import FindPage, Search, tenant_identifier
from tenure.stores import bodies
from tenure.stores.contract import Fence
from tenure.stores.s3 import S3Store
from tests.contract.rigs.protocol import Side
from tests.contract.rigs.s3 import S3Rig, client

ACME = TenantId("acme")
SEARCH = Search(identifiers=(tenant_identifier(ACME),), known=frozenset({ACME, TenantId("acme2")}))
OBJECTS = 450


@pytest.fixture
def bucket(fresh_bucket: Callable[..., tuple[S3Endpoint, str]]) -> tuple[S3Endpoint, str]:
    return fresh_bucket("seaweed-a", versioned=True)


@pytest.fixture
def rig(bucket: tuple[S3Endpoint, str]) -> Iterator[S3Rig]:
    made = S3Rig("s3", {Side.BLUE: bucket, Side.GREEN: bucket})
    yield made
    made.close()


@pytest.fixture
def store(rig: S3Rig) -> S3Store:
    return rig.store(Side.BLUE)


def here(pages: list[FindPage]) -> dict[str, int]:
    found: dict[str, int] = {}
    for its in (f for page in pages for f in page.found if ": " not in f.place.name):
        found[str(its.place)] = found.get(str(its.place), 0) + its.items
    return found


def test_pages_of_versions_follow_each_other_without_a_gap(
    bucket: tuple[S3Endpoint, str], store: S3Store
) -> None:
    s3, name = bucket
    admin = client(s3, s3.access_key, s3.secret_key)

    def put(n: int) -> None:
        body = b"for acme" if n % 10 == 0 else b"for acme2"
        admin.put_object(Bucket=name, Key=f"notes/{n:04d}", Body=body)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(OBJECTS)))
    for n in (0, 440):
        admin.put_object(Bucket=name, Key=f"notes/{n:04d}", Body=b"nobody's any more")
    pages = list(store.find(SEARCH))
    whole = here(pages)
    assert whole == {"object body notes/*": OBJECTS // 10 - 2, "old version notes/*": 2}
    markers = [n for n, page in enumerate(pages) if page.cursor and '"marker"' in page.cursor]
    assert len(markers) >= 2
    for n in markers:
        rest = list(store.find(SEARCH, cursor=pages[n].cursor))
        parts = here([*pages[: n + 1], *rest])
        assert parts == whole
    assert pages[0].items_total is not None
    assert pages[0].items_total >= OBJECTS + 2


def test_a_body_over_the_limit_is_said_and_headers_are_looked_at(
    bucket: tuple[S3Endpoint, str], store: S3Store
) -> None:
    s3, name = bucket
    admin = client(s3, s3.access_key, s3.secret_key)
    admin.put_object(Bucket=name, Key="big/1", Body=b"x" * 5000 + b" acme", ContentType="text/acme")
    admin.put_object(Bucket=name, Key="empty/1", Body=b"", Metadata={"owner": "acme"})
    what = Search(identifiers=SEARCH.identifiers, known=SEARCH.known, body_limit_bytes=1000)
    pages = list(store.find(what))
    assert here(pages) == {"object metadata big/*": 1, "object metadata empty/*": 1}
    skipped = [s for page in pages for s in page.skipped if ": " not in s.place.name]
    assert [(str(s.place), s.reason, s.size_bytes) for s in skipped] == [
        ("object body big/*", bodies.TOO_LONG, 4005)
    ]


def test_the_tenants_fence_in_the_policy_is_tenures_own(rig: S3Rig, store: S3Store) -> None:
    store.fence(Fence(tenant=ACME, epoch=1, token=1), expires_in_s=None, drain_s=1.0)
    try:
        found = {(str(f.place).split(" ")[-1], f.coverage.value) for p in store.find(SEARCH) for f in p.found}
        assert ("policy", "tenure") in found
        assert {coverage for _, coverage in found} == {"tenure"}
    finally:
        store.open(Fence(tenant=ACME, epoch=1, token=1))


def test_buckets_of_other_stores_are_left_to_them(
    rig: S3Rig, fresh_bucket: Callable[..., tuple[S3Endpoint, str]]
) -> None:
    s3, other = fresh_bucket("seaweed-a")
    client(s3, s3.access_key, s3.secret_key).put_object(Bucket=other, Key="a", Body=b"for acme")

    def looked_at(store: S3Store) -> bool:
        return any(f.place.name.startswith(f"{other}: ") for page in store.find(SEARCH) for f in page.found)

    assert looked_at(rig.store(Side.BLUE))
    assert not looked_at(rig.store(Side.BLUE, others=lambda: frozenset({other})))
