"""A copy and an erasure of objects get through throttling, answers that are lost or never come, page tokens that expire
and batches of which a part fails."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from xml.etree import ElementTree

import pytest

from tenure.model.names import TenantId
from tenure.stores.contract import Fence
from tenure.stores.s3 import S3Copy
from tests.contract.rigs.protocol import Side
from tests.contract.rigs.s3 import S3Rig
from tests.s3_proxy import LOST, Answer, FaultyS3, Request, Rule, faulty, refusal, times

ACME = TenantId("acme")
BLUE, GREEN = Side.BLUE, Side.GREEN
MANY = 1_050
"""More than a page."""


def fence() -> Fence:
    return Fence(tenant=ACME, epoch=1, token=1)


@pytest.fixture
def rig(fresh_bucket: Callable[..., tuple[object, str]]) -> Iterator[S3Rig]:
    made = S3Rig("s3", {side: fresh_bucket("seaweed-a") for side in Side})  # type: ignore[misc]
    yield made
    made.close()


@pytest.fixture
def proxy(rig: S3Rig, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """Through which all of the rig's stores go."""
    plain = rig.store
    with faulty(rig.buckets[BLUE][0].endpoint) as made:
        monkeypatch.setattr(
            rig, "store", lambda side, **its: plain(side, **{"endpoint": made.endpoint, **its})
        )
        yield made


def first_of_each(answer: Answer, when: Callable[[Request], bool]) -> Rule:
    """This answer to the first request of each kind for each object."""
    asked: Counter[tuple[str, str]] = Counter()
    lock = threading.Lock()

    def rule(request: Request) -> Answer | None:
        if not when(request):
            return None
        with lock:
            asked[request.method, request.path] += 1
            return answer if asked[request.method, request.path] == 1 else None

    return rule


def of_the_tenant(request: Request) -> bool:
    return "/tenants/acme/files/" in request.path


def copied(rig: S3Rig, wait_until: Callable[..., None]) -> S3Copy:
    copy = rig.copy(ACME, BLUE, GREEN)
    copy.target.fence(fence(), expires_in_s=None, drain_s=1.0)
    copy.start(fence())
    wait_until(lambda: copy.progress().following, "the first pass", deadline_s=60)
    return copy


@pytest.mark.parametrize("server_side", [True, False], ids=["by the server", "streamed"])
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(refusal(503, "SlowDown"), id="throttled"),
        pytest.param(refusal(500, "InternalError"), id="failed", marks=pytest.mark.variant),
        pytest.param(LOST, id="lost"),
    ],
)
def test_a_copy_survives_throttling_and_answers_that_are_lost(
    rig: S3Rig,
    proxy: FaultyS3,
    wait_until: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    answer: Answer,
    server_side: bool,
) -> None:
    monkeypatch.setattr("tenure.stores.s3.store.S3Store.same_server", lambda *_: server_side)
    for n in range(12):
        rig.write(BLUE, ACME, f"f{n}", f"contents {n}")
    proxy.rule = first_of_each(answer, of_the_tenant)
    copy = copied(rig, wait_until)
    for n in range(4):
        rig.write(BLUE, ACME, f"f{n}", "changed")
    rig.delete(BLUE, ACME, "f5")
    copy.source.fence(fence(), expires_in_s=None, drain_s=1.0)
    copy.seal(copy.mark(), timeout_s=60.0)
    assert copy.compare().equal
    assert rig.read(GREEN, ACME) == rig.read(BLUE, ACME)
    assert len([r for r in proxy.seen if of_the_tenant(r)]) > 12


def test_an_erasure_survives_expired_tokens_and_batches_that_fail_in_part(
    rig: S3Rig, proxy: FaultyS3
) -> None:
    admin, bucket = rig.admin[BLUE], rig.buckets[BLUE][1]
    keys = [rig.key(ACME, f"f{n:04d}") for n in range(MANY)]
    with ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(lambda key: admin.put_object(Bucket=bucket, Key=key, Body=b"x"), keys))
    admin.put_object(Bucket=bucket, Key="tenants/acme1/files/theirs", Body=b"x")
    store = rig.store(BLUE)
    proxy.rule = lambda r: refusal(400, "InvalidArgument") if "continuation-token" in r.query else None
    assert sorted(store.listed(ACME)) == keys
    assert any("continuation-token" in r.query for r in proxy.seen)
    expired = times(1, refusal(400, "InvalidArgument"), lambda r: bool(r.query.get("key-marker", [""])[0]))
    halves: list[int] = []

    def half(request: Request) -> Answer | None:
        """The server deletes every second one, and cannot do the others just now; twice."""
        if request.method != "POST" or "delete" not in request.query or len(halves) == 2:
            return expired(request)
        tag = "{http://s3.amazonaws.com/doc/2006-03-01/}"
        asked = [
            (str(e.findtext(f"{tag}Key")), str(e.findtext(f"{tag}VersionId")))
            for e in ElementTree.fromstring(request.body).iter(f"{tag}Object")
        ]
        done = [{"Key": key, "VersionId": version} for key, version in asked[::2]]
        admin.delete_objects(Bucket=bucket, Delete={"Objects": done})
        halves.append(len(asked[1::2]))
        errors = "".join(
            f"<Error><Key>{key}</Key><VersionId>{version}</VersionId><Code>InternalError</Code></Error>"
            for key, version in asked[1::2]
        )
        return Answer(body=f"<DeleteResult>{errors}</DeleteResult>".encode())

    store.fence(fence(), expires_in_s=None, drain_s=1.0)
    proxy.rule = half
    assert store.erase(fence()) == MANY
    assert all(halves)
    assert len(halves) == 2
    left = [o["Key"] for o in admin.list_objects_v2(Bucket=bucket).get("Contents", [])]
    assert [key for key in left if key.startswith("tenants/")] == ["tenants/acme1/files/theirs"]
