"""What is in a bucket, page by page, and deleting it for good. A page token that has expired, an error that is over
when asked again, and a batch of which a part was refused are each dealt with here."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from botocore.exceptions import ClientError

from tenure.errors import StoreUnavailable
from tenure.stores.buckets.errors import ABSENT, TEMPORARY, code_of

DELETE_AT_ONCE: Final = 1000
RETRY_AFTER_S: Final = (0.1, 0.4, 1.6)
"""How long to wait before what a server could not delete just now is asked for again."""
_EXPIRED: Final = frozenset(
    {"InvalidArgument", "InvalidRequest", "InvalidContinuationToken", "InvalidMarker"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """One version of an object; in a bucket without versions the only one, called `null`."""

    key: str
    version: str
    latest: bool
    marker: bool
    """It is no object: it says that the ones before it were deleted."""
    size: int
    etag: str
    modified: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """A version that the server would not delete."""

    key: str
    version: str
    code: str


def object_pages(client: Any, bucket: str, prefix: str, after: str = "") -> Iterator[list[dict[str, Any]]]:
    """All current objects under the prefix, only of keys behind `after`, a thousand at a time, as `ListObjectsV2` shows
    them.

    Where the server no longer knows its own page token, the listing goes on behind the last key that was seen.
    """
    here: dict[str, str] = {"StartAfter": after} if after else {}
    last = after
    while True:
        try:
            page = client.list_objects_v2(Bucket=bucket, Prefix=prefix, **here)
        except ClientError as error:
            if "ContinuationToken" not in here or code_of(error) not in _EXPIRED:
                raise
            here = {"StartAfter": last} if last else {}
            continue
        found = page.get("Contents", [])
        yield found
        if not page.get("IsTruncated"):
            return
        last = found[-1]["Key"] if found else last
        here = {"ContinuationToken": page["NextContinuationToken"]}


def version_pages(client: Any, bucket: str, prefix: str, after: str = "") -> Iterator[list[Version]]:
    """Every version and delete marker under the prefix, those of a key newest first; only of keys behind `after`.

    After a marker that the server no longer knows, some may come a second time.
    """
    here: dict[str, str] = {"KeyMarker": after} if after else {}
    before = after
    while True:
        try:
            page = client.list_object_versions(Bucket=bucket, Prefix=prefix, **here)
        except ClientError as error:
            if "VersionIdMarker" not in here or code_of(error) not in {*_EXPIRED, *ABSENT}:
                raise
            here = {"KeyMarker": before} if before else {}
            continue
        found = [
            *(_version(entry, marker=False) for entry in page.get("Versions", [])),
            *(_version(entry, marker=True) for entry in page.get("DeleteMarkers", [])),
        ]
        yield found
        if not page.get("IsTruncated"):
            return
        before = max((v.key for v in found if v.key < page["NextKeyMarker"]), default=before)
        here = {"KeyMarker": page["NextKeyMarker"]}
        if page.get("NextVersionIdMarker"):
            here["VersionIdMarker"] = page["NextVersionIdMarker"]


def _version(entry: Mapping[str, Any], *, marker: bool) -> Version:
    return Version(
        key=entry["Key"],
        version=entry["VersionId"],
        latest=bool(entry.get("IsLatest")),
        marker=marker,
        size=0 if marker else entry["Size"],
        etag="" if marker else entry["ETag"].strip('"'),
        modified=entry["LastModified"],
    )


def delete_versions(client: Any, bucket: str, versions: Sequence[Version]) -> list[Kept]:
    """Delete these for good; return those that the server refuses to (retention, legal hold, rights).

    Repeats what it could not do just now. Raises `StoreUnavailable` if it still cannot. Idempotent.
    """
    kept: list[Kept] = []
    for start in range(0, len(versions), DELETE_AT_ONCE):
        kept += _delete(client, bucket, versions[start : start + DELETE_AT_ONCE])
    return kept


def _delete(client: Any, bucket: str, versions: Sequence[Version]) -> list[Kept]:
    left = {(v.key, v.version): {"Key": v.key, "VersionId": v.version} for v in versions}
    kept: list[Kept] = []
    for pause_s in (*RETRY_AFTER_S, None):
        answer = client.delete_objects(Bucket=bucket, Delete={"Objects": list(left.values()), "Quiet": True})
        errors = [e for e in answer.get("Errors", []) if e.get("Code") not in ABSENT]
        kept += [
            Kept(key=e["Key"], version=e.get("VersionId", "null"), code=e.get("Code", ""))
            for e in errors
            if e.get("Code") not in TEMPORARY
        ]
        again = {(e["Key"], e.get("VersionId", "null")) for e in errors if e.get("Code") in TEMPORARY}
        left = {place: entry for place, entry in left.items() if place in again}
        if not left:
            return kept
        if pause_s is not None:
            time.sleep(pause_s)
    raise StoreUnavailable(f"bucket {bucket}: {len(left)} objects could not be deleted now", hint="try again")


def abort_uploads(client: Any, bucket: str, prefix: str) -> int:
    """Give up every unfinished upload under the prefix, with its parts; return how many there were."""
    aborted = 0
    while True:
        page = client.list_multipart_uploads(Bucket=bucket, Prefix=prefix)
        found = page.get("Uploads", [])
        for upload in found:
            abort_upload(client, bucket, upload["Key"], upload["UploadId"])
        aborted += len(found)
        if not found or not page.get("IsTruncated"):
            return aborted


def abort_upload(client: Any, bucket: str, key: str, upload: str) -> None:
    """Idempotent."""
    try:
        client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)
    except ClientError as error:
        if code_of(error) not in {"NoSuchUpload", *ABSENT}:
            raise


def upload_pages(client: Any, bucket: str, prefix: str) -> Iterator[list[dict[str, Any]]]:
    """Every unfinished upload under the prefix, as `ListMultipartUploads` shows them."""
    here: dict[str, str] = {}
    while True:
        page = client.list_multipart_uploads(Bucket=bucket, Prefix=prefix, **here)
        yield page.get("Uploads", [])
        if not page.get("IsTruncated"):
            return
        here = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}
