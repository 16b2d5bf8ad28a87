"""A tenant's objects in a backup: with everything that they are, large ones in parts, over broken connections, and
where nothing says what changes."""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tenure.backups.contract import Part
from tenure.model.comparison import DifferenceKind
from tenure.model.names import StoreName, TenantId
from tenure.stores.contract import Fence
from tenure.stores.records import records
from tenure.stores.s3 import S3Store
from tenure.stores.s3.backup import ObjectItems
from tests.contract.memory_backup import MemoryBackup
from tests.contract.rigs.protocol import AppRefused, Side
from tests.contract.rigs.s3 import S3Rig
from tests.integration.s3.test_s3_copy import ATTRIBUTES, ODD_KEYS
from tests.s3_proxy import CUT, Answer, Request, faulty

ACME = TenantId("acme")
OBJECTS = StoreName("objects")
BLUE, GREEN = Side.BLUE, Side.GREEN
LARGE = 40 * 1024 * 1024


@pytest.fixture
def rig(fresh_bucket: Callable[..., Any]) -> Iterator[S3Rig]:
    made = S3Rig("s3", {BLUE: fresh_bucket("seaweed-a"), GREEN: fresh_bucket("seaweed-b")})
    yield made
    made.close()


@pytest.fixture
def unjournaled(fresh_bucket: Callable[..., Any]) -> Iterator[S3Rig]:
    made = S3Rig("s3", {side: fresh_bucket("seaweed-a") for side in Side}, journaled=False)
    yield made
    made.close()


def fence() -> Fence:
    return Fence(tenant=ACME, epoch=1, token=1)


def down(store: S3Store) -> Fence:
    store.fence(fence(), expires_in_s=None, drain_s=1)
    return fence()


def taken(store: S3Store, between: Callable[[], None] = lambda: None) -> MemoryBackup:
    backup, capture = MemoryBackup(ACME), store.capture(ACME)
    capture.start(fence())
    capture.first_pass(backup)
    between()
    at = down(store)
    capture.pin(backup, at)
    store.open(at)
    backup.complete(OBJECTS, capture.rest(backup))
    capture.close(at)
    return backup


def digests(store: S3Store) -> dict[str, tuple[int, str]]:
    return {name: (c.items, c.digest) for name, c in store.inventory(ACME).collections.items()}


def put(rig: S3Rig, key: str, body: bytes, **about: Any) -> None:
    rig.admin[BLUE].put_object(Bucket=rig.buckets[BLUE][1], Key=f"tenants/acme/{key}", Body=body, **about)


def test_objects_come_back_with_everything_that_they_are(rig: S3Rig) -> None:
    put(rig, "files/all", b"content", **ATTRIBUTES)
    put(rig, "files/empty", b"")
    for key in ODD_KEYS:
        put(rig, f"files/{key}", b"" if key.endswith("/") else key.encode())
    blue, green = rig.store(BLUE), rig.store(GREEN)
    backup = taken(blue)
    assert {f.collection: (f.items, f.digest) for f in backup.collections() if f.items} == {
        name: found for name, found in digests(blue).items() if found[0]
    }
    restoring = green.restoring(ACME, ACME)
    restoring.load(backup, down(green))
    assert digests(green) == digests(blue)
    about = [store.objects.attributes("tenants/acme/files/all") for store in (blue, green)]
    assert about[0] is not None
    assert about[1] is not None
    assert about[0].same_but_contents(about[1])
    assert dict(about[1].tags) == {"class": "content", "owner": "a&b"}
    # Other tags, or other metadata, are a difference as other contents are.
    rig.admin[GREEN].put_object_tagging(
        Bucket=green.bucket,
        Key="tenants/acme/files/all",
        Tagging={"TagSet": [{"Key": "class", "Value": "x"}]},
    )
    rig.admin[GREEN].put_object(
        Bucket=green.bucket, Key="tenants/acme/files/empty", Metadata={"a": "b"}, Body=b""
    )
    found = list(restoring.differences(backup))
    assert {(d.key, d.kind) for d in found} == {
        ('"tenants/acme/files/all"', DifferenceKind.MISMATCHED),
        ('"tenants/acme/files/empty"', DifferenceKind.MISMATCHED),
    }
    restoring.apply(backup, found, fence())
    assert not list(restoring.differences(backup))


def test_a_large_object_passes_in_parts_and_its_contents_are_the_same(rig: S3Rig) -> None:
    """Its ETag is no digest of its contents on either side: both are read."""
    body = hashlib.shake_128(b"large").digest(LARGE)
    blue, green = rig.store(BLUE), rig.store(GREEN)
    upload = rig.admin[BLUE].create_multipart_upload(
        Bucket=blue.bucket, Key="tenants/acme/files/large", **ATTRIBUTES
    )
    about = {"Bucket": blue.bucket, "Key": "tenants/acme/files/large", "UploadId": upload["UploadId"]}
    parts = [
        {"PartNumber": n, "ETag": rig.admin[BLUE].upload_part(**about, PartNumber=n, Body=part)["ETag"]}
        for n, part in enumerate((body[: 6 << 20], body[6 << 20 :]), 1)
    ]
    rig.admin[BLUE].complete_multipart_upload(**about, MultipartUpload={"Parts": parts})
    backup = taken(blue)
    assert {f.collection: (f.items, f.digest) for f in backup.collections() if f.items} == digests(blue)
    restoring = green.restoring(ACME, ACME)
    at = down(green)
    tracemalloc.start()
    restoring.load(backup, at)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < LARGE - (8 << 20), "not the whole object was in memory at once"
    there = rig.admin[GREEN].get_object(Bucket=green.bucket, Key="tenants/acme/files/large")
    assert there["Body"].read() == body
    assert there["CacheControl"] == "max-age=60"
    assert not list(restoring.differences(backup))
    rig.admin[GREEN].put_object(Bucket=green.bucket, Key="tenants/acme/files/large", Body=body[:-1] + b"x")
    assert [d.kind for d in restoring.differences(backup)] == [DifferenceKind.MISMATCHED]


def test_what_breaks_off_is_taken_up_again(rig: S3Rig) -> None:
    body = hashlib.shake_128(b"large").digest(LARGE)
    put(rig, "files/large", body)
    put(rig, "files/small", b"small")
    asked: Counter[str] = Counter()
    turn = threading.Lock()

    def rule(request: Request) -> Answer | None:
        """Every other answer is cut off: of each object for itself, for several are asked for at once."""
        if request.method != "GET" or "files" not in request.path:
            return None
        with turn:
            asked[request.path] += 1
            return CUT if asked[request.path] % 2 else None

    with faulty(rig.buckets[BLUE][0].endpoint) as proxy:
        proxy.rule = rule
        backup = taken(rig.store(BLUE, endpoint=proxy.endpoint))
        assert asked.total() > 2
    found = {
        r.key: r.whole() for r in records(iter([backup.bytes[OBJECTS, "files/*", Part.BASE, 0]]), "a test")
    }
    assert found == {b"tenants/acme/files/large": body, b"tenants/acme/files/small": b"small"}


def test_without_a_journal_listings_find_what_changed(unjournaled: S3Rig) -> None:
    """Also what changed within a second and looks the same, and nothing but what an object is besides its contents."""
    rig = unjournaled
    for n in range(30):
        put(rig, f"files/{n}", b"as it was")

    def changes() -> None:
        put(rig, "files/1", b"as it is!")
        put(rig, "files/2", b"as it was", Metadata={"only": "this"})
        put(rig, "files/new", b"new")
        rig.admin[BLUE].delete_object(Bucket=rig.buckets[BLUE][1], Key="tenants/acme/files/3")

    blue, green = rig.store(BLUE), rig.store(GREEN)
    assert [f.code for f in blue.capture(ACME).preflight()] == ["backup_lists_in_hold"]
    backup = taken(blue, changes)
    restoring = green.restoring(ACME, ACME)
    restoring.load(backup, down(green))
    assert digests(green) == digests(blue)
    about = green.objects.attributes("tenants/acme/files/2")
    assert about is not None
    assert about.metadata == (("only", "this"),)


def test_without_a_journal_the_point_is_exact_while_writers_write(unjournaled: S3Rig) -> None:
    rig = unjournaled
    stop = threading.Event()
    written: dict[str, str] = {}

    def work() -> None:
        for n in itertools.count():
            try:
                rig.write(BLUE, ACME, "abc"[n % 3], f"{n}")
            except AppRefused:
                return
            written["abc"[n % 3]] = f"{n}"
            if stop.is_set():
                return

    writer = threading.Thread(target=work)
    blue, green, backup = rig.store(BLUE), rig.store(GREEN), MemoryBackup(ACME)
    capture = blue.capture(ACME)
    capture.start(fence())
    writer.start()
    try:
        capture.first_pass(backup)
        capture.settle(backup)
        at = down(blue)
        writer.join(timeout=20)
        expected = dict(rig.read(BLUE, ACME))
        capture.pin(backup, at)
        blue.open(at)
        rig.write(BLUE, ACME, "a", "after the point")
        backup.complete(OBJECTS, capture.rest(backup))
    finally:
        stop.set()
        writer.join()
        capture.close(fence())
    assert written == expected
    green.restoring(ACME, ACME).load(backup, down(green))
    assert rig.read(GREEN, ACME) == expected


def test_an_object_that_was_read_within_the_second_of_its_change_is_looked_at_again(
    unjournaled: S3Rig,
) -> None:
    """Listings show whole seconds: a change of nothing but metadata, within the same one, looks like none."""
    rig, key = unjournaled, "tenants/acme/files/a"
    items = ObjectItems(rig.store(BLUE), ACME)
    deadline = time.monotonic() + 30
    while True:
        put(rig, "files/a", b"same")
        (before,) = items.pack("files/*", [key])
        put(rig, "files/a", b"same", Metadata={"only": "this"})
        (after,) = items.stamps("files/*", [key]).values()
        if before.head["stamp"].removesuffix(" fresh") == after:
            break
        assert time.monotonic() < deadline, "no two changes were within one second"
    assert before.head["stamp"] != after
