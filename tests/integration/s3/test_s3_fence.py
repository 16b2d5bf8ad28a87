"""What the bucket policy must refuse, whom it must leave alone, and what an erasure must take."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tenure.errors import FenceRefused, StoreRefused
from tenure.model.names import TenantId
from tenure.model.secret import Secret
from tenure.registry.database import Database
from tenure.registry.locks import AdvisoryMutex
from tenure.stores.contract import Fence
from tenure.stores.s3.fencing import Fencing
from tests.contract.rigs.protocol import AppRefused, Side
from tests.contract.rigs.s3 import S3Rig

ACME, ACME1 = TenantId("acme"), TenantId("acme1")
BLUE, GREEN = Side.BLUE, Side.GREEN
KEY = "tenants/acme/files/a"


@pytest.fixture
def rig(fresh_bucket: Callable[..., Any]) -> Iterator[S3Rig]:
    made = S3Rig("s3", {BLUE: fresh_bucket("seaweed-a"), GREEN: fresh_bucket("seaweed-a")})
    made.write(BLUE, ACME, "a", "before")
    made.write(BLUE, ACME1, "a", "a neighbour")
    yield made
    made.close()


def fence(token: int = 1, tenant: TenantId = ACME) -> Fence:
    return Fence(tenant=tenant, epoch=1, token=token)


def close(rig: S3Rig, side: Side = BLUE, tenant: TenantId = ACME) -> None:
    rig.store(side).fence(fence(tenant=tenant), expires_in_s=None, drain_s=1.0)


CALLS: dict[str, Callable[[Any, str], Any]] = {
    "put": lambda c, b: c.put_object(Bucket=b, Key=KEY, Body=b"x"),
    "delete": lambda c, b: c.delete_object(Bucket=b, Key=KEY),
    "tag": lambda c, b: c.put_object_tagging(
        Bucket=b, Key=KEY, Tagging={"TagSet": [{"Key": "k", "Value": "v"}]}
    ),
    "untag": lambda c, b: c.delete_object_tagging(Bucket=b, Key=KEY),
    "acl": lambda c, b: c.put_object_acl(Bucket=b, Key=KEY, ACL="private"),
    "copy into": lambda c, b: c.copy_object(
        Bucket=b, Key=KEY, CopySource={"Bucket": b, "Key": "tenants/acme1/files/a"}
    ),
    "begin upload": lambda c, b: c.create_multipart_upload(Bucket=b, Key=KEY),
    "lift the policy": lambda c, b: c.delete_bucket_policy(Bucket=b),
}


@pytest.mark.parametrize("call", CALLS)
def test_no_call_of_the_app_writes_around_the_fence(rig: S3Rig, call: str) -> None:
    close(rig)
    with pytest.raises(ClientError) as caught:
        CALLS[call](rig.app[BLUE], rig.buckets[BLUE][1])
    assert caught.value.response["Error"]["Code"] == "AccessDenied"
    assert rig.read(BLUE, ACME) == {"a": "before"}


def test_an_upload_that_began_before_the_fence_cannot_be_finished(rig: S3Rig) -> None:
    client, bucket = rig.app[BLUE], rig.buckets[BLUE][1]
    upload = {
        "Bucket": bucket,
        "Key": KEY,
        "UploadId": client.create_multipart_upload(Bucket=bucket, Key=KEY)["UploadId"],
    }
    part = client.upload_part(**upload, PartNumber=1, Body=b"late")
    close(rig)
    with pytest.raises(ClientError):
        client.upload_part(**upload, PartNumber=2, Body=b"later")
    with pytest.raises(ClientError):
        client.complete_multipart_upload(
            **upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        )
    assert rig.read(BLUE, ACME) == {"a": "before"}


def test_a_deletion_of_many_spares_the_fenced_tenants_objects(rig: S3Rig) -> None:
    close(rig)
    rig.app[BLUE].delete_objects(
        Bucket=rig.buckets[BLUE][1], Delete={"Objects": [{"Key": KEY}, {"Key": "tenants/acme1/files/a"}]}
    )
    assert rig.read(BLUE, ACME) == {"a": "before"}
    assert not rig.read(BLUE, ACME1)


def test_a_url_signed_before_the_fence_writes_nothing(rig: S3Rig) -> None:
    url = rig.app[BLUE].generate_presigned_url(
        "put_object", Params={"Bucket": rig.buckets[BLUE][1], "Key": KEY}
    )
    close(rig)
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(urllib.request.Request(url, data=b"x", method="PUT"))
    assert rig.read(BLUE, ACME) == {"a": "before"}


def test_other_statements_of_the_policy_and_other_tenants_fences_stay(rig: S3Rig) -> None:
    bucket = rig.buckets[BLUE][1]
    own = {
        "Sid": "Own",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:PutObject",
        "Resource": f"arn:aws:s3:::{bucket}/frozen/*",
    }
    rig.admin[BLUE].put_bucket_policy(
        Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [own]})
    )
    close(rig)
    close(rig, tenant=ACME1)
    rig.store(BLUE).open(fence())
    statements = json.loads(rig.admin[BLUE].get_bucket_policy(Bucket=bucket)["Policy"])["Statement"]
    assert own in statements
    assert len(statements) == 2
    rig.write(BLUE, ACME, "a", "open")
    with pytest.raises(AppRefused):
        rig.write(BLUE, ACME1, "a", "fenced")
    rig.store(BLUE).open(fence(tenant=ACME1))
    assert json.loads(rig.admin[BLUE].get_bucket_policy(Bucket=bucket)["Policy"])["Statement"] == [own]


def test_a_tenant_that_has_left_gives_its_place_in_the_policy_back(rig: S3Rig) -> None:
    close(rig)
    close(rig, tenant=ACME1)
    with pytest.raises(FenceRefused):
        rig.store(BLUE).retire(fence(0))
    for _ in range(2):
        rig.store(BLUE).retire(fence(2))
    left = rig.leftovers(BLUE)
    assert ".tenure/fence/acme" not in left
    assert not [text for text in left if "tenants/acme/" in text]
    with pytest.raises(AppRefused):
        rig.write(BLUE, ACME1, "a", "fenced")


def test_a_change_whose_lock_was_lost_takes_no_other_tenants_fence_away(
    rig: S3Rig, fresh_database: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The holder stalls with the policy in its hands; the database ends its session, and another fences meanwhile."""
    database = Database(Secret(fresh_database("control")))
    rig.mutex = AdvisoryMutex(database, stall_s=0.3)
    close(rig)
    holder, load = rig.store(BLUE), Fencing._load
    loads: list[Fencing] = []

    def stalled(fencing: Fencing) -> Any:
        loaded = load(fencing)
        loads.append(fencing)
        if len(loads) == 1:
            close(rig, tenant=ACME1)
        return loaded

    monkeypatch.setattr(Fencing, "_load", stalled)
    holder.open(fence())
    database.close()
    assert len(loads) == 3
    rig.write(BLUE, ACME, "a", "open")
    with pytest.raises(AppRefused):
        rig.write(BLUE, ACME1, "a", "fenced")


@pytest.mark.parametrize("principal", ["arn:aws:iam::000000000000:user/app", "arn:aws:iam::*:user/app"])
def test_a_principal_may_be_given_by_its_arn(rig: S3Rig, principal: str) -> None:
    rig.principal = principal
    close(rig)
    with pytest.raises(ClientError):
        CALLS["put"](rig.app[BLUE], rig.buckets[BLUE][1])
    rig.admin[BLUE].put_object(Bucket=rig.buckets[BLUE][1], Key="tenants/acme/files/b", Body=b"tenure")


def test_without_a_principal_the_store_only_cooperates_and_says_so(rig: S3Rig) -> None:
    rig.principal = None
    store = rig.store(BLUE)
    assert not store.capabilities.fence_enforced
    close(rig)
    rig.write(BLUE, ACME, "a", "nobody refuses this")
    assert not store.fence_state(ACME).writable
    assert "fence_cooperates" in [f.code for f in rig.copy(ACME, BLUE, GREEN).preflight()]


def test_a_policy_without_room_is_refused_in_preflight_and_by_the_fence(rig: S3Rig) -> None:
    bucket = rig.buckets[BLUE][1]
    full = [
        {
            "Sid": f"S{n}",
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:PutObject",
            "Resource": f"arn:aws:s3:::{bucket}/{n:0895}/*",
        }
        for n in range(20)
    ]
    rig.admin[BLUE].put_bucket_policy(
        Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": full})
    )
    assert "policy_full" in [
        f.code for f in rig.copy(ACME, BLUE, GREEN).preflight() if f.severity == "refusal"
    ]
    with pytest.raises(StoreRefused):
        close(rig)
    rig.write(BLUE, ACME, "a", "still open")


def test_an_erasure_takes_every_version_marker_and_unfinished_upload(
    fresh_bucket: Callable[..., Any],
) -> None:
    rig = S3Rig("s3", {side: fresh_bucket("seaweed-a", versioned=True) for side in Side})
    client, bucket = rig.admin[BLUE], rig.buckets[BLUE][1]
    for n in range(3):
        rig.write(BLUE, ACME, "a", f"version {n}")
        rig.write(BLUE, ACME1, "a", f"version {n}")
    rig.write(BLUE, ACME, "b", "deleted")
    rig.delete(BLUE, ACME, "b")
    client.create_multipart_upload(Bucket=bucket, Key="tenants/acme/files/unfinished")
    client.create_multipart_upload(Bucket=bucket, Key="tenants/acme1/files/unfinished")
    found = {f.code: f.message for f in rig.copy(ACME, BLUE, GREEN).preflight()}
    assert "3 older versions and 1 delete markers" in found["versions_stay"]
    assert "1 unfinished uploads" in found["uploads_stay"]
    close(rig)
    assert rig.store(BLUE).erase(fence()) == 2
    left = client.list_object_versions(Bucket=bucket, Prefix="tenants/")
    assert {v["Key"] for v in (*left.get("Versions", []), *left.get("DeleteMarkers", []))} == {
        "tenants/acme1/files/a"
    }
    assert len(left["Versions"]) == 3
    uploads = client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    assert [u["Key"] for u in uploads] == ["tenants/acme1/files/unfinished"]
    rig.store(BLUE).open(fence())
    left = client.list_object_versions(Bucket=bucket, Prefix=".tenure/")
    assert not left.get("Versions")
    assert not left.get("DeleteMarkers")
    assert not {"versions_stay", "uploads_stay"} & {f.code for f in rig.copy(ACME, BLUE, GREEN).preflight()}
    rig.close()


def test_a_locked_object_is_known_before_the_move_and_named_by_an_erasure(
    fresh_bucket: Callable[..., Any],
) -> None:
    rig = S3Rig("s3", {side: fresh_bucket("seaweed-a", versioned=True) for side in Side})
    client, bucket = rig.admin[BLUE], rig.buckets[BLUE][1]
    locked = {"ObjectLockEnabled": "Enabled"}
    client.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration=locked)
    until = datetime.now(UTC) + timedelta(hours=1)
    key = rig.key(ACME, "kept")
    held = {"ObjectLockMode": "GOVERNANCE", "ObjectLockRetainUntilDate": until}
    version = client.put_object(Bucket=bucket, Key=key, Body=b"x", **held)["VersionId"]
    rig.write(BLUE, ACME, "free", "x")
    try:
        assert "object_lock" in {f.code for f in rig.copy(ACME, BLUE, GREEN).preflight()}
        close(rig)
        with pytest.raises(StoreRefused, match=key):
            rig.store(BLUE).erase(fence())
        assert rig.read(BLUE, ACME) == {"kept": "x"}
    finally:
        one = {"Objects": [{"Key": key, "VersionId": version}]}
        client.delete_objects(Bucket=bucket, Delete=one, BypassGovernanceRetention=True)


def test_a_target_that_keeps_no_versions_is_known_before_the_move(fresh_bucket: Callable[..., Any]) -> None:
    rig = S3Rig("s3", {side: fresh_bucket("seaweed-a", versioned=side is BLUE) for side in Side})
    assert "versioning_differs" in {f.code for f in rig.copy(ACME, BLUE, GREEN).preflight()}
    assert "versioning_differs" not in {f.code for f in rig.copy(ACME, GREEN, BLUE).preflight()}
