"""The live copy between two buckets: large objects, what an object is besides its contents, life without a journal."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tenure.errors import EvidenceStale, FenceRefused, LeaseLost, StoreRefused, StoreUnavailable
from tenure.estate.local import S3Endpoint
from tenure.model.comparison import DifferenceKind
from tenure.model.names import TenantId
from tenure.model.secret import Secret
from tenure.stores.contract import Fence
from tenure.stores.s3 import S3Copy
from tenure.stores.s3.objects import OWNED_FOR_S, Transfer
from tests.contract.rigs.protocol import AppRefused, Side
from tests.contract.rigs.s3 import S3Rig
from tests.variants import marked

ACME = TenantId("acme")
BLUE, GREEN = Side.BLUE, Side.GREEN
Wait = Callable[..., None]
ATTRIBUTES: dict[str, Any] = {
    "ContentType": "text/markdown",
    "CacheControl": "max-age=60",
    "ContentDisposition": "attachment",
    "ContentLanguage": "de",
    "Metadata": {"author": "acme", "empty": ""},
    "Tagging": "class=content&owner=a%26b",
}

ODD_KEYS = (
    "plus+sign",
    "per%cent%2F%zz",
    "folder/",
    " spaces ",
    "tab\tand\nline",
    "emoji\U0001f642",
    "u\u0308 and \u00fc",
    "quote\"'&<>",
    "semi;colon=x",
    "?q=1#f",
    "*star[x]",
    "x" * 200,
)
"""Without `//` and backslashes, which this S3 turns into `/` itself."""
SAME_MD5 = (
    "d131dd02c5e6eec4693d9a0698aff95c2fcab58712467eab4004583eb8fb7f8955ad340609f4b30283e488832571415a"
    "085125e8f7cdc99fd91dbdf280373c5bd8823e3156348f5bae6dacd436c919c6dd53e2b487da03fd02396306d248cda0"
    "e99f33420f577ee8ce54b67080a80d1ec69821bcb6a8839396f9652b6ff72a70",
    "d131dd02c5e6eec4693d9a0698aff95c2fcab50712467eab4004583eb8fb7f8955ad340609f4b30283e4888325f1415a"
    "085125e8f7cdc99fd91dbd7280373c5bd8823e3156348f5bae6dacd436c919c6dd53e23487da03fd02396306d248cda0"
    "e99f33420f577ee8ce54b67080280d1ec69821bcb6a8839396f965ab6ff72a70",
)
"""The collision of Wang, Feng, Lai and Yu (2004), as hexadecimal text."""


@pytest.fixture(params=marked(["one server", "two servers"], ["one server"]))
def rig(request: pytest.FixtureRequest, fresh_bucket: Callable[..., Any]) -> Iterator[S3Rig]:
    other = "seaweed-a" if request.param == "one server" else "seaweed-b"
    made = S3Rig("s3", {BLUE: fresh_bucket("seaweed-a"), GREEN: fresh_bucket(other)})
    yield made
    made.close()


@pytest.fixture
def unjournaled(fresh_bucket: Callable[..., Any]) -> Iterator[S3Rig]:
    made = S3Rig("s3", {side: fresh_bucket("seaweed-a") for side in Side}, journaled=False)
    yield made
    made.close()


def fence(token: int = 1) -> Fence:
    return Fence(tenant=ACME, epoch=1, token=token)


def linked(rig: S3Rig, wait_until: Wait, token: int = 1) -> S3Copy:
    copy = rig.copy(ACME, BLUE, GREEN)
    copy.target.fence(fence(token), expires_in_s=None, drain_s=1.0)
    copy.start(fence(token))
    wait_until(lambda: copy.progress().following, "the first pass", deadline_s=30)
    return copy


def sealed(copy: S3Copy) -> None:
    copy.seal(copy.mark(), timeout_s=10.0)


def put(rig: S3Rig, side: Side, item: str, body: bytes, **attributes: Any) -> None:
    rig.admin[side].put_object(Bucket=rig.buckets[side][1], Key=rig.key(ACME, item), Body=body, **attributes)


def upload(rig: S3Rig, side: Side, item: str, parts: list[bytes], **attributes: Any) -> str:
    """A multipart upload; returns its ETag."""
    client, where = rig.admin[side], {"Bucket": rig.buckets[side][1], "Key": rig.key(ACME, item)}
    where["UploadId"] = client.create_multipart_upload(**where, **attributes)["UploadId"]
    done = [
        {"PartNumber": n, "ETag": client.upload_part(**where, PartNumber=n, Body=part)["ETag"]}
        for n, part in enumerate(parts, 1)
    ]
    return str(client.complete_multipart_upload(**where, MultipartUpload={"Parts": done})["ETag"])


def test_an_object_arrives_with_everything_that_belongs_to_it(rig: S3Rig, wait_until: Wait) -> None:
    put(rig, BLUE, "small", b"# text", **ATTRIBUTES)
    upload(rig, BLUE, "large", [b"a" * 5 * 2**20, b"b" * 5 * 2**20, b"tail"], **ATTRIBUTES)
    put(rig, BLUE, "empty", b"")
    put(rig, BLUE, "name with spaces/und ümläute+%20", b"x")
    copy = linked(rig, wait_until)
    seen = copy.compare()
    assert (seen.processed, seen.differences) == (4, ())
    for item in ("small", "large"):
        there = copy.target.objects.attributes(rig.key(ACME, item))
        assert there is not None
        assert there.same_but_contents(copy.source.objects.attributes(rig.key(ACME, item)) or there)
        assert dict(there.metadata)["author"] == "acme"
        assert dict(there.tags) == {"class": "content", "owner": "a&b"}
        assert dict(there.headers)["ContentType"] == "text/markdown"


def test_equal_contents_are_equal_however_they_were_uploaded(rig: S3Rig, wait_until: Wait) -> None:
    body = b"z" * 6 * 2**20
    put(rig, BLUE, "a", body)
    copy = linked(rig, wait_until)
    sealed(copy)
    copy.detach()
    upload(rig, GREEN, "a", [body[: 5 * 2**20], body[5 * 2**20 :]], ContentType="binary/octet-stream")
    ours = copy.source.objects.attributes(rig.key(ACME, "a"))
    theirs = copy.target.objects.attributes(rig.key(ACME, "a"))
    assert ours is not None
    assert theirs is not None
    assert ours.etag != theirs.etag
    put(rig, BLUE, "a", body, ContentType="binary/octet-stream")
    assert rig.copy(ACME, BLUE, GREEN).compare().equal
    upload(rig, GREEN, "a", [body[: 5 * 2**20], b"y" * 2**20], ContentType="binary/octet-stream")
    assert [d.kind for d in rig.copy(ACME, BLUE, GREEN).compare().differences] == [DifferenceKind.MISMATCHED]


def test_keys_of_every_kind_arrive_page_by_page(rig: S3Rig, wait_until: Wait) -> None:
    """With three keys on a page of a listing instead of a thousand, and none of the characters lost."""
    for n, item in enumerate(ODD_KEYS):
        put(rig, BLUE, item, b"" if item.endswith("/") else str(n).encode())
    copy = rig.copy(ACME, BLUE, GREEN)
    pages = [small_pages(store.client) for store in (copy.source, copy.target)]
    copy.target.fence(fence(), expires_in_s=None, drain_s=1.0)
    copy.start(fence())
    wait_until(lambda: copy.progress().following, "the first pass", deadline_s=30)
    sealed(copy)
    seen = copy.compare()
    assert (seen.processed, seen.differences) == (len(ODD_KEYS), ())
    assert all(count[0] >= len(ODD_KEYS) // 3 for count in pages)
    assert rig.read(GREEN, ACME) == rig.read(BLUE, ACME)
    assert set(rig.read(GREEN, ACME)) == set(ODD_KEYS)
    copy.detach()
    copy.stop(fence())
    assert copy.target.erase(fence()) == len(ODD_KEYS)


def small_pages(client: Any) -> list[int]:
    """Have the server answer listings with three keys at a time; the list counts the requests."""
    count = [0]

    def limit(params: dict[str, Any], **_: Any) -> None:
        params["MaxKeys"] = 3
        count[0] += 1

    client.meta.events.register("provide-client-params.s3.ListObjectsV2", limit)
    return count


def test_text_that_is_not_ascii_arrives_unchanged(rig: S3Rig, wait_until: Wait) -> None:
    described = {
        "Metadata": {"author": "Jürgen 東", "quoted": "=?UTF-8?B?w7w=?="},
        "ContentDisposition": 'attachment; filename="Übersicht.md"',
    }
    store = rig.store(BLUE)
    for item, size in (("small", 1), ("large", 9 * 2**20)):
        where = {"Bucket": store.bucket, "Key": rig.key(ACME, item)}
        store.client.put_object(**where, Body=b"x" * size, Tagging="who=J%C3%BCrgen", **described)
    copy = linked(rig, wait_until)
    sealed(copy)
    assert copy.compare().equal
    for item in ("small", "large"):
        sides = [s.objects.attributes(rig.key(ACME, item)) for s in (copy.source, copy.target)]
        for side in sides:
            assert side is not None
            assert dict(side.metadata) == described["Metadata"]
            assert dict(side.headers)["ContentDisposition"] == described["ContentDisposition"]
            assert dict(side.tags) == {"who": "Jürgen"}


@pytest.mark.parametrize("rig", ["two servers"], indirect=True)
def test_contents_are_compared_without_etags_where_these_are_not_trusted(
    rig: S3Rig, wait_until: Wait
) -> None:
    """Two contents of one size whose MD5 sums, and so their ETags, are equal."""
    one, other = (bytes.fromhex(text) for text in SAME_MD5)
    put(rig, BLUE, "a", one)
    copy = linked(rig, wait_until)
    sealed(copy)
    put(rig, GREEN, "a", other)
    attributes = [s.objects.attributes(rig.key(ACME, "a")) for s in (copy.source, copy.target)]
    assert attributes[0] == attributes[1]
    assert copy.compare().equal, "what ETags cannot show"
    rig.trust_etags = False
    strict = rig.copy(ACME, BLUE, GREEN)
    seen = strict.compare()
    assert [d.kind for d in seen.differences] == [DifferenceKind.MISMATCHED]
    assert seen.bytes_read == 2 * len(one)
    digests = [s.inventory(ACME).collections["files/*"].digest for s in (strict.source, strict.target)]
    assert digests[0] == digests[1], "an inventory's digest is one of MD5 sums"
    assert copy.repair(seen.differences, fence()) == 1
    assert strict.compare().equal


def test_an_archived_object_is_refused_before_the_move(rig: S3Rig) -> None:
    put(rig, BLUE, "a", b"x")
    assert "s3_archived" not in {f.code for f in rig.copy(ACME, BLUE, GREEN).preflight()}
    put(rig, BLUE, "old", b"x", StorageClass="GLACIER")
    found = {f.code: f for f in rig.copy(ACME, BLUE, GREEN).preflight() if f.severity == "refusal"}
    assert rig.key(ACME, "old") in found["s3_archived"].message


def test_an_object_under_a_key_of_the_apps_own_stops_the_copy_by_name(rig: S3Rig, wait_until: Wait) -> None:
    put(rig, BLUE, "sealed", b"x", SSECustomerAlgorithm="AES256", SSECustomerKey=b"k" * 32)
    copy = rig.copy(ACME, BLUE, GREEN)
    copy.target.fence(fence(), expires_in_s=None, drain_s=1.0)
    copy.start(fence())

    def refusal() -> StoreRefused | None:
        try:
            copy.progress()
        except StoreRefused as error:
            return error
        return None

    wait_until(refusal, "the refusal")
    error = refusal()
    assert error is not None
    assert rig.key(ACME, "sealed") in error.message
    assert "SSE-C" in (error.hint or "")


@pytest.mark.parametrize(
    "changes",
    [
        {"Metadata": {"author": "other"}},
        {"Tagging": "class=secret"},
        {"CacheControl": "no-store"},
        {"ContentType": "a/b"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_difference_in_what_is_not_contents_is_found_and_mended(
    rig: S3Rig, wait_until: Wait, changes: dict[str, Any]
) -> None:
    put(rig, BLUE, "a", b"same", **ATTRIBUTES)
    copy = linked(rig, wait_until)
    sealed(copy)
    put(rig, GREEN, "a", b"same", **{**ATTRIBUTES, **changes})
    seen = copy.compare()
    assert [d.kind for d in seen.differences] == [DifferenceKind.MISMATCHED]
    assert copy.repair(seen.differences, fence()) == 1
    assert copy.compare().equal


@pytest.mark.parametrize("rig", ["one server"], indirect=True)  # a server copies only within itself
def test_a_very_large_object_is_copied_by_the_server_in_parts(rig: S3Rig) -> None:
    source, target = rig.store(BLUE), rig.store(GREEN)
    upload(rig, BLUE, "large", [b"a" * 5 * 2**20, b"b" * 6 * 2**20], **ATTRIBUTES)
    key = rig.key(ACME, "large")
    transfer = Transfer(source.objects, target.objects, server_side=True, allowed=lambda _: None)
    transfer.in_parts(key, target.objects.unchanged(key), part_bytes=5 * 2**20)
    assert target.objects.digest(key) == source.objects.digest(key)
    there, here = target.objects.attributes(key), source.objects.attributes(key)
    assert there is not None
    assert here is not None
    assert there.same_but_contents(here)


def test_an_upload_that_fails_leaves_no_parts_behind(rig: S3Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = rig.store(BLUE), rig.store(GREEN)
    put(rig, BLUE, "large", b"a" * 9 * 2**20)
    fail = "upload_part_copy" if source.same_server(target) else "upload_part"

    def broken(**_: Any) -> None:
        raise OSError("cut off")

    monkeypatch.setattr(target.client, fail, broken)
    transfer = Transfer(
        source.objects, target.objects, server_side=source.same_server(target), allowed=lambda _: None
    )
    key = rig.key(ACME, "large")

    def copy(key: str) -> int | None:
        if fail == "upload_part":
            return transfer.copy(key)
        return transfer.in_parts(key, target.objects.unchanged(key), part_bytes=5 * 2**20)

    with pytest.raises(OSError, match="cut off"):
        copy(key)
    assert not rig.admin[GREEN].list_multipart_uploads(Bucket=rig.buckets[GREEN][1]).get("Uploads")


def test_rows_of_the_journal_outlive_the_process_that_read_them(rig: S3Rig, wait_until: Wait) -> None:
    copy = linked(rig, wait_until)
    copy.detach()
    rig.write(BLUE, ACME, "a", "while nobody copied")
    assert rig.journals is not None
    assert len(rig.journals[BLUE].rows) == 1
    second = linked(rig, wait_until, token=2)
    sealed(second)
    assert rig.read(GREEN, ACME) == {"a": "while nobody copied"}
    wait_until(lambda: not rig.journals[BLUE].rows, "the journal to be settled")


def test_a_process_that_was_thought_dead_stops_copying(rig: S3Rig, wait_until: Wait) -> None:
    rig.write(BLUE, ACME, "a", "1")
    zombie = linked(rig, wait_until)
    heir = linked(rig, wait_until, token=2)

    def superseded() -> bool:
        try:
            zombie.progress()
        except LeaseLost:
            return True
        return False

    wait_until(superseded, "the zombie's end")
    with pytest.raises(LeaseLost):
        sealed(zombie)
    with pytest.raises(EvidenceStale):
        zombie.compare_changed()
    sealed(heir)


@pytest.mark.parametrize(
    ("rig", "moment"),
    [
        *(
            ("one server", moment) for moment in ("looking", "writing", "deleting")
        ),  # which copies in one request
        *(("two servers", moment) for moment in ("looking", "writing", "finishing", "deleting")),
    ],
    indirect=["rig"],
)
def test_a_copier_that_was_stopped_on_the_way_overwrites_nothing(
    rig: S3Rig, wait_until: Wait, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """It is stopped right before that request for the object, and goes on when the tenant lives on the target."""
    rig.write(BLUE, ACME, "a", "1")
    rig.write(BLUE, ACME, "stays", "1")
    zombie = linked(rig, wait_until)
    streamed = not zombie.source.same_server(zombie.target)
    call = {
        "looking": "head_object",
        "writing": "put_object" if streamed else "copy_object",
        "finishing": "complete_multipart_upload",
        "deleting": "delete_object",
    }[moment]
    send, stopped, goes_on = getattr(zombie.target.client, call), threading.Event(), threading.Event()

    def halted(**arguments: Any) -> Any:
        if arguments["Key"] == rig.key(ACME, "a"):
            stopped.set()
            assert goes_on.wait(30)
        return send(**arguments)

    monkeypatch.setattr(zombie.target.client, call, halted)
    if moment == "deleting":
        rig.delete(BLUE, ACME, "a")
    else:
        rig.write(BLUE, ACME, "a", "2" * (9 * 2**20 if moment == "finishing" else 1))
    assert stopped.wait(10)
    stopped_at = time.monotonic()
    try:
        heir = linked(rig, wait_until, token=2)
        sealed(heir)
        heir.target.open(fence(3))
        rig.write(GREEN, ACME, "a", "the new cell's own")
        wait_until(lambda: time.monotonic() - stopped_at > OWNED_FOR_S, "the last look to be old")
    finally:
        goes_on.set()
    wait_until(lambda: not workers_of(zombie), "the zombie's end")
    assert rig.read(GREEN, ACME) == {"a": "the new cell's own", "stays": "1"}
    bucket = rig.buckets[GREEN][1]
    wait_until(
        lambda: not rig.admin[GREEN].list_multipart_uploads(Bucket=bucket).get("Uploads"),
        "the end of every upload",
    )


def workers_of(copy: S3Copy) -> list[threading.Thread]:
    return [thread for thread in copy._queue._threads if thread.is_alive()]


ZOMBIE = """
import json, sys
from tenure.errors import LeaseLost
from tenure.estate.local import S3Endpoint
from tenure.model.names import TenantId
from tenure.model.secret import Secret
from tenure.stores.contract import Fence
from tests.contract.rigs.protocol import Side
from tests.contract.rigs.s3 import S3Rig

def endpoint(given):
    return S3Endpoint(**{k: Secret(v) if k.endswith("_key") else v for k, v in given.items()})

sides = json.loads(sys.stdin.readline())
rig = S3Rig("s3", {Side(side): (endpoint(s3), bucket) for side, (s3, bucket) in sides.items()})
copy = rig.copy(TenantId("acme"), Side.BLUE, Side.GREEN)
copy.start(Fence(tenant=TenantId("acme"), epoch=1, token=1))
print("copies", flush=True)
try:
    while True:
        copy.progress()
        copy._paused(0.02)
except LeaseLost:
    copy.detach()
    print("lost", flush=True)
"""


@pytest.mark.faults
def test_a_process_that_was_stopped_with_objects_in_hand_overwrites_nothing(
    rig: S3Rig, wait_until: Wait
) -> None:
    items = [f"{n:03}" for n in range(300)]
    for item in items:
        put(rig, BLUE, item, b"old " + item.encode())

    def arrived() -> int:
        s3 = rig.admin[GREEN]
        return int(s3.list_objects_v2(Bucket=rig.buckets[GREEN][1], Prefix=rig.key(ACME, ""))["KeyCount"])

    rig.store(GREEN).fence(fence(), expires_in_s=None, drain_s=1.0)
    with subprocess.Popen(
        [sys.executable, "-c", ZOMBIE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), *sys.path])},
    ) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps({side: addresses(*rig.buckets[side]) for side in Side}) + "\n")
            process.stdin.flush()
            assert process.stdout.readline().strip() == "copies"
            wait_until(lambda: arrived() > 5, "the copy to be under way")
            process.send_signal(signal.SIGSTOP)
            assert arrived() < len(items)
            heir = linked(rig, wait_until, token=2)
            sealed(heir)
            heir.target.open(fence(3))
            for item in items:
                rig.write(GREEN, ACME, item, "new")
            process.send_signal(signal.SIGCONT)
            assert process.stdout.readline().strip() == "lost"
            process.wait(10)
        finally:
            process.kill()
    assert rig.read(GREEN, ACME) == dict.fromkeys(items, "new")


def addresses(s3: S3Endpoint, bucket: str) -> tuple[dict[str, str], str]:
    fields = {f.name: getattr(s3, f.name) for f in dataclasses.fields(s3)}
    return {k: v.reveal() if isinstance(v, Secret) else v for k, v in fields.items()}, bucket


def test_an_object_that_somebody_else_writes_meanwhile_is_copied_again(
    rig: S3Rig, wait_until: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = linked(rig, wait_until)
    call = "copy_object" if copy.source.same_server(copy.target) else "put_object"
    send = getattr(copy.target.client, call)
    tries: list[str] = []

    def overtaken(**arguments: Any) -> Any:
        tries.append(arguments["Key"])
        if len(tries) == 1:
            rig.plant(GREEN, ACME, "a", "somebody else")
        return send(**arguments)

    monkeypatch.setattr(copy.target.client, call, overtaken)
    rig.write(BLUE, ACME, "a", "the source's")
    wait_until(lambda: rig.read(GREEN, ACME) == {"a": "the source's"}, "the second attempt")
    assert len(tries) == 2


def test_a_comparison_of_changes_that_fails_forgets_none_of_them(
    rig: S3Rig, wait_until: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = linked(rig, wait_until)
    assert copy.compare().equal
    rig.write(BLUE, ACME, "a", "changed")
    sealed(copy)
    rig.plant(GREEN, ACME, "a", "spoilt")

    def away(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("away for a moment")

    with monkeypatch.context() as patch:
        patch.setattr(copy.target.objects, "attributes", away)
        with pytest.raises(StoreUnavailable):
            copy.compare_changed()
    seen = copy.compare_changed()
    assert (seen.processed, len(seen.differences)) == (1, 1)


def test_a_comparison_that_breaks_off_is_no_evidence(rig: S3Rig, wait_until: Wait) -> None:
    rig.write(BLUE, ACME, "a", "1")
    copy = linked(rig, wait_until)

    def broken(_items: int) -> None:
        raise StoreUnavailable("away for a moment")

    with pytest.raises(StoreUnavailable):
        copy.compare(progress=broken)
    with pytest.raises(EvidenceStale):
        copy.compare_changed()


def test_a_stale_holder_cannot_stop_a_link_and_deletes_no_journal(rig: S3Rig, wait_until: Wait) -> None:
    heir = linked(rig, wait_until, token=2)
    heir.detach()
    rig.write(BLUE, ACME, "a", "not copied yet")
    with pytest.raises(FenceRefused):
        rig.copy(ACME, BLUE, GREEN).stop(fence(1))
    assert rig.journals is not None
    assert len(rig.journals[BLUE].rows) == 1
    rig.copy(ACME, BLUE, GREEN).stop(fence(2))
    assert not rig.journals[BLUE].rows


def test_an_empty_source_does_not_empty_the_target(rig: S3Rig, wait_until: Wait) -> None:
    rig.plant(GREEN, ACME, "a", "the last copy there is")
    copy = rig.copy(ACME, BLUE, GREEN)
    copy.target.fence(fence(), expires_in_s=None, drain_s=1.0)
    copy.start(fence())

    def refused() -> bool:
        try:
            copy.progress()
        except StoreRefused:
            return True
        return False

    wait_until(refused, "the refusal")
    assert rig.read(GREEN, ACME) == {"a": "the last copy there is"}
    copy.resync(fence(), workers=2)
    assert not rig.read(GREEN, ACME)


def test_without_a_journal_a_seal_lists_and_a_switch_loses_nothing(
    unjournaled: S3Rig, wait_until: Wait
) -> None:
    rig = unjournaled
    for item in "abc":
        rig.write(BLUE, ACME, item, "1")
    copy = linked(rig, wait_until)
    found = {f.code: f for f in copy.preflight()}
    assert "3 objects" in found["no_journal"].message
    assert copy.compare().equal
    rig.write(BLUE, ACME, "a", "changed")
    rig.write(BLUE, ACME, "new", "inserted")
    rig.delete(BLUE, ACME, "b")
    reverse = copy.arm_reverse(fence())
    copy.source.fence(fence(), expires_in_s=None, drain_s=1.0)
    sealed(copy)
    assert rig.read(GREEN, ACME) == rig.read(BLUE, ACME) == {"a": "changed", "c": "1", "new": "inserted"}
    changed = copy.compare_changed()
    assert (changed.processed, changed.differences) == (2, ())
    copy.target.open(fence())
    rig.write(GREEN, ACME, "c", "after the switch")
    copy.detach()
    reverse.start(fence())
    wait_until(lambda: reverse.progress().following, "the first pass back")
    sealed(reverse)
    assert rig.read(BLUE, ACME) == rig.read(GREEN, ACME)
    with pytest.raises(AppRefused):
        rig.write(BLUE, ACME, "a", "closed")


def test_without_a_journal_what_changes_during_a_comparison_is_no_difference(
    unjournaled: S3Rig, wait_until: Wait
) -> None:
    rig = unjournaled
    rig.write(BLUE, ACME, "a", "1")
    copy = linked(rig, wait_until)
    deadline = time.monotonic() + 1.5
    n = 0
    while time.monotonic() < deadline:
        n += 1
        rig.write(BLUE, ACME, "a", f"value {n}")
        assert copy.compare().differences == ()
