"""What stands in the way of a move between two buckets, or should be known before it. Changes nothing in either."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Final

from botocore.exceptions import ClientError

from tenure.model.finding import Finding, Severity
from tenure.model.names import TenantId
from tenure.stores.s3.errors import code_of, translated
from tenure.stores.s3.store import S3Store

LISTED_AT_MOST: Final = 5_000


def findings(tenant: TenantId, source: S3Store, target: S3Store, *, journaled: bool) -> Sequence[Finding]:
    """Everything at once, each with its fix."""
    found: list[Finding] = []
    for store in (source, target):
        with translated(store.where):
            found += _fence(tenant, store)
            found += _bucket(store)
    with translated(source.where):
        found += _left_behind(tenant, source)
        found += _archived(tenant, source)
        if not journaled:
            found += _unjournaled(tenant, source)
    with translated(target.where):
        found += _pair(tenant, source, target)
    return sorted(found)


def _finding(severity: Severity, code: str, where: str, message: str, fix: str) -> Finding:
    return Finding(severity=severity, code=code, where=where, message=message, fix=fix)


def _fence(tenant: TenantId, store: S3Store) -> Iterator[Finding]:
    if store.principal is None:
        yield _finding(
            Severity.WARNING,
            "fence_cooperates",
            store.where,
            "the catalogue names no principal of the app: the bucket does not refuse a fenced tenant's writes, "
            "only the gate and tenure.client keep them out",
            "give the app an IAM user or role of its own and name it in the catalogue as `principal`",
        )
        return
    try:
        headroom = store.fencing(tenant).policy_headroom()
    except ClientError as error:
        if code_of(error) != "AccessDenied":
            raise
        yield _finding(
            Severity.REFUSAL,
            "policy_not_allowed",
            store.where,
            f"Tenure may not read the policy of bucket {store.bucket}, so it cannot fence the tenant",
            "allow s3:GetBucketPolicy, s3:PutBucketPolicy and s3:DeleteBucketPolicy to Tenure's user",
        )
        return
    if headroom < 0:
        yield _finding(
            Severity.REFUSAL,
            "policy_full",
            store.where,
            f"the policy of bucket {store.bucket} has no room for another fenced tenant: its limit is 20 KB",
            "complete earlier migrations, or shorten the policy",
        )
    if store.endpoint is None:
        yield _finding(
            Severity.WARNING,
            "fence_spreads",
            store.where,
            "AWS applies a changed bucket policy within seconds, not at once: until then only the gate and the permit "
            "in PostgreSQL keep the tenant's writes out",
            "let every writer of objects use tenure.client",
        )


def _bucket(store: S3Store) -> Iterator[Finding]:
    try:
        locked = store.client.get_object_lock_configuration(Bucket=store.bucket).get(
            "ObjectLockConfiguration"
        )
    except ClientError:
        locked = None
    if locked and locked.get("ObjectLockEnabled") == "Enabled":
        yield _finding(
            Severity.WARNING,
            "object_lock",
            store.where,
            f"bucket {store.bucket} locks objects: retention is not copied, and locked ones cannot be erased",
            "set the bucket's default retention on the target; erase after it has ended",
        )


def _left_behind(tenant: TenantId, source: S3Store) -> Iterator[Finding]:
    """What the source keeps of the tenant besides its current objects."""
    older = markers = listed = 0
    for page in source.client.get_paginator("list_object_versions").paginate(
        Bucket=source.bucket, Prefix=source.prefix(tenant)
    ):
        older += sum(not version["IsLatest"] for version in page.get("Versions", []))
        markers += len(page.get("DeleteMarkers", []))
        listed += len(page.get("Versions", [])) + len(page.get("DeleteMarkers", []))
        if listed >= LISTED_AT_MOST:
            break
    if older or markers:
        yield _finding(
            Severity.WARNING,
            "versions_stay",
            source.where,
            f"{'more than ' if listed >= LISTED_AT_MOST else ''}{older} older versions and {markers} delete markers of "
            f"{tenant} stay in bucket {source.bucket}: only current objects are copied, and erasing takes all of them",
            "copy the bucket's history by S3 Batch Replication before completing, if it is needed",
        )
    uploads = source.client.list_multipart_uploads(Bucket=source.bucket, Prefix=source.prefix(tenant))
    if unfinished := len(uploads.get("Uploads", [])):
        yield _finding(
            Severity.INFO,
            "uploads_stay",
            source.where,
            f"{unfinished} unfinished uploads of {tenant} stay: only finished objects are copied",
            "let the app begin them anew after the switch",
        )


def _archived(tenant: TenantId, source: S3Store) -> Iterator[Finding]:
    """Objects that cannot be read now. Looks at the first few thousand."""
    listed = 0
    for page in source.objects.listing(source.prefix(tenant)):
        for found in page:
            if found.archived and not source.objects.restored(found.key):
                yield _finding(
                    Severity.REFUSAL,
                    "s3_archived",
                    source.where,
                    f"{found.key!r} is archived and cannot be read, and there may be more such objects",
                    "restore the tenant's archived objects (RestoreObject) before the move",
                )
                return
        listed += len(page)
        if listed >= LISTED_AT_MOST:
            return


def _unjournaled(tenant: TenantId, source: S3Store) -> Iterator[Finding]:
    began = time.monotonic()
    listed = 0
    complete = True
    for page in source.objects.listing(source.prefix(tenant)):
        listed += len(page)
        if listed >= LISTED_AT_MOST:
            complete = False
            break
    seal_ms = (time.monotonic() - began) * 1000
    yield _finding(
        Severity.WARNING,
        "no_journal",
        source.where,
        f"no journal names the objects that change: the hold has to list {'' if complete else 'more than '}{listed} "
        f"objects, which takes {'about' if complete else 'more than'} {max(seal_ms, 1):.0f} ms; "
        "after the comparison, a change of nothing but tags goes unseen",
        "name a `journal` in the catalogue and let the app write through tenure.client",
    )


def _pair(tenant: TenantId, source: S3Store, target: S3Store) -> Iterator[Finding]:
    where = f"{source.where}, {target.where}"
    if (source.endpoint, source.bucket) == (target.endpoint, target.bucket):
        yield _finding(
            Severity.REFUSAL, "s3_same_bucket", where, "both cells use one bucket", "use one bucket per cell"
        )
        return
    if _versioned(source) and not _versioned(target):
        yield _finding(
            Severity.WARNING,
            "versioning_differs",
            where,
            f"bucket {source.bucket} keeps versions, {target.bucket} does not: what the app overwrites or deletes "
            "after the switch is gone",
            f"switch versioning on for bucket {target.bucket}",
        )
    record, _ = target.fencing(tenant).read()
    if not record.link and any(target.objects.listing(target.prefix(tenant))):
        yield _finding(
            Severity.REFUSAL,
            "target_not_empty",
            target.where,
            f"the target already holds objects of {tenant}, and no link that explains them",
            "erase the tenant there if that is residue",
        )
    yield _finding(
        Severity.INFO,
        "s3_not_copied",
        where,
        "contents, headers, metadata and tags are copied; access control lists, retention and storage classes are not",
        "set them by the bucket's own rules on the target",
    )


def _versioned(store: S3Store) -> bool:
    with translated(store.where):
        return bool(store.client.get_bucket_versioning(Bucket=store.bucket).get("Status") == "Enabled")
