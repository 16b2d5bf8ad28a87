"""Objects of one tenant: listing them, what they are besides their contents, and copying one with all of it."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlencode

from botocore.exceptions import BotoCoreError, ClientError

from tenure.errors import StoreUnavailable
from tenure.stores.buckets.errors import ABSENT, code_of
from tenure.stores.buckets.listing import object_pages
from tenure.stores.journaled import Allowed

PART_BYTES: Final = 8 * 1024 * 1024
"""What is streamed goes in parts of this size; at most 10,000 parts (80 GB) of it, larger objects in larger parts."""
COPY_PART_BYTES: Final = 512 * 1024 * 1024
MAX_PARTS: Final = 10_000
HEADERS: Final = (
    "CacheControl",
    "ContentDisposition",
    "ContentEncoding",
    "ContentLanguage",
    "ContentType",
    "Expires",
    "WebsiteRedirectLocation",
)
ARCHIVES: Final = frozenset({"GLACIER", "DEEP_ARCHIVE"})
_MD5: Final = re.compile(r"[0-9a-f]{32}")
_TOO_LARGE: Final = frozenset({"EntityTooLarge", "InvalidRequest"})
CHANGED: Final = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict"})
Condition = dict[str, str]
"""The arguments by which a write only succeeds if the target's object still is what it was."""
OWNED_FOR_S: Final = 2.0
"""How old that answer may be when an object is written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed:
    """An object as a listing shows it."""

    key: str
    size: int
    etag: str
    modified: datetime
    archived: bool = False
    """In a storage class that has to be restored before it can be read."""


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """What an object is besides its contents. `plain`: its ETag is the MD5 of the contents, as far as can be told."""

    size: int
    etag: str
    headers: tuple[tuple[str, str], ...]
    metadata: tuple[tuple[str, str], ...]
    tags: tuple[tuple[str, str], ...]
    plain: bool

    def same_but_contents(self, other: Attributes) -> bool:
        return (self.size, self.headers, self.metadata, self.tags) == (
            other.size,
            other.headers,
            other.metadata,
            other.tags,
        )

    def as_arguments(self) -> dict[str, Any]:
        """For `put_object` and `create_multipart_upload`."""
        arguments: dict[str, Any] = {**dict(self.headers), "Metadata": dict(self.metadata)}
        if self.tags:
            arguments["Tagging"] = urlencode(self.tags)
        return arguments


class Objects:
    """One bucket as one client sees it."""

    def __init__(self, client: Any, bucket: str) -> None:
        self.client = client
        self.bucket = bucket
        self._heads_show_tags = True

    def pages(self, prefix: str, after: str = "") -> Iterator[list[dict[str, Any]]]:
        """All objects under the prefix, only those behind `after`, as the server lists them."""
        return object_pages(self.client, self.bucket, prefix, after)

    def listing(self, prefix: str) -> Iterator[list[Listed]]:
        """All objects under the prefix, in pages of a thousand."""
        for page in object_pages(self.client, self.bucket, prefix):
            yield [
                Listed(
                    key=o["Key"],
                    size=o["Size"],
                    etag=o["ETag"].strip('"'),
                    modified=o["LastModified"],
                    archived=o.get("StorageClass") in ARCHIVES,
                )
                for o in page
            ]

    def attributes(self, key: str, *, thorough: bool = True) -> Attributes | None:
        """None where there is no such object.

        Not `thorough`: the tags of an object whose head counts none are not asked for, unless this server was seen to
        leave that count out.
        """
        tags: list[dict[str, str]] = []
        try:
            head = self.client.head_object(Bucket=self.bucket, Key=key)
            tags = self.tags(key, head, thorough=thorough)
        except ClientError as error:
            if code_of(error) in ABSENT:
                return None
            raise
        return attributes_of(head, tags)

    def tags(self, key: str, head: dict[str, Any], *, thorough: bool) -> list[dict[str, str]]:
        """The tags of the object that this answer is of. `thorough` as for `attributes`: a full comparison is, so that
        one is never taken for untagged for long where a server does not count them."""
        if not (thorough or head.get("TagCount") or not self._heads_show_tags):
            return []
        tags: list[dict[str, str]] = self.client.get_object_tagging(Bucket=self.bucket, Key=key)["TagSet"]
        self._heads_show_tags = self._heads_show_tags and bool(tags) == bool(head.get("TagCount"))
        return tags

    def restored(self, key: str) -> bool:
        """Whether an archived object can be read for the time being."""
        head = self.client.head_object(Bucket=self.bucket, Key=key)
        return 'ongoing-request="false"' in head.get("Restore", "")

    def unchanged(self, key: str) -> Condition:
        """The condition under which a write replaces what is there now, and nothing newer."""
        try:
            return {"IfMatch": self.client.head_object(Bucket=self.bucket, Key=key)["ETag"]}
        except ClientError as error:
            if code_of(error) in ABSENT:
                return {"IfNoneMatch": "*"}
            raise

    def digest(self, key: str) -> str:
        """The SHA-256 of the contents, streamed."""
        state = hashlib.sha256()
        for block in self.client.get_object(Bucket=self.bucket, Key=key)["Body"].iter_chunks(1024 * 1024):
            state.update(block)
        return state.hexdigest()

    def md5(self, key: str) -> str:
        """The MD5 of the contents, streamed: the ETag an object would have had in one piece."""
        state = hashlib.md5(usedforsecurity=False)
        for block in self.client.get_object(Bucket=self.bucket, Key=key)["Body"].iter_chunks(1024 * 1024):
            state.update(block)
        return state.hexdigest()

    def delete(self, key: str, seen: Condition) -> None:
        if "IfMatch" in seen:
            self.client.delete_object(Bucket=self.bucket, Key=key, **seen)


def attributes_of(head: dict[str, Any], tags: list[dict[str, str]]) -> Attributes:
    etag = str(head["ETag"]).strip('"')
    encrypted = (
        str(head.get("ServerSideEncryption", "")).startswith("aws:kms") or "SSECustomerAlgorithm" in head
    )
    return Attributes(
        size=head["ContentLength"],
        etag=etag,
        headers=tuple((name, text_of(str(head[name]))) for name in HEADERS if head.get(name)),
        metadata=tuple(sorted((name, text_of(value)) for name, value in head.get("Metadata", {}).items())),
        tags=tuple(sorted((t["Key"], t["Value"]) for t in tags)),
        plain=is_md5(etag) and not encrypted,
    )


def is_md5(etag: str) -> bool:
    """Whether the ETag looks like an MD5 sum; that of an upload in parts does not."""
    return _MD5.fullmatch(etag) is not None


def text_of(value: str) -> str:
    """A header as it was meant: the HTTP client reads its bytes as Latin-1, and apps write UTF-8."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeError:
        return value


class Transfer:
    """Copies objects from one bucket to another: by the server where both are its own, streamed otherwise.

    Before every request that changes an object, `allowed` is asked. A process can still be stopped between the two; so
    the request also names the ETag that the target's object had *before* `allowed` was asked anew, and the server
    refuses it if somebody has written since. The target has to know If-Match and If-None-Match, as AWS and SeaweedFS
    do. What remains is a request whose condition the server has checked already, and not carried out yet.
    """

    def __init__(self, source: Objects, target: Objects, *, server_side: bool, allowed: Allowed) -> None:
        self._source = source
        self._target = target
        self._server_side = server_side
        self._allowed = allowed
        self._expected: dict[str, Condition] = {}

    def expect(self, etags: Mapping[str, str], keys: Iterable[str]) -> None:
        """The ETags of all the target's objects, to be used once for each of these keys instead of looking at every
        object."""
        self._allowed(0.0)
        for key in keys:
            self._expected[key] = {"IfMatch": etags[key]} if key in etags else {"IfNoneMatch": "*"}

    def _seen(self, key: str) -> Condition:
        expected = self._expected.pop(key, None)
        if expected is None:
            expected = self._target.unchanged(key)
            self._allowed(0.0)
        return expected

    def copy(self, key: str) -> int | None:
        """Make the target's object like the source's; return its size, or None where it is absent and now deleted.

        Raises `StoreUnavailable` if somebody else changes the object all the time.
        """
        try:
            return self._copy(key, self._seen(key))
        except StoreUnavailable:
            return self._copy(key, self._seen(key))

    def _copy(self, key: str, seen: Condition) -> int | None:
        try:
            return self._fetched(key, seen)
        except ClientError as error:
            self._explain(error, key)
        try:
            self._allowed(OWNED_FOR_S)
            self._target.delete(key, seen)
        except ClientError as error:
            self._explain(error, key)
        return None

    def _fetched(self, key: str, seen: Condition) -> int:
        """By the server, if it can: SeaweedFS finds no "folder" (a key that ends with a slash) to copy."""
        if self._server_side:
            try:
                return self._by_server(key, seen)
            except ClientError as error:
                if code_of(error) not in ABSENT or self._source.attributes(key, thorough=False) is None:
                    raise
        return self._streamed(key, seen)

    def _explain(self, error: ClientError, key: str) -> None:
        """Return if the error says that the source's object is absent. Of one that is there, a server that answers
        "absent" means the target's, which was there a moment ago."""
        absent = code_of(error) in ABSENT
        if absent and self._source.attributes(key, thorough=False) is None:
            return
        if not absent and code_of(error) not in CHANGED:
            raise error
        raise StoreUnavailable(f"{key!r} was changed while it was copied", hint="try again") from error

    def _by_server(self, key: str, seen: Condition) -> int:
        origin = {"Bucket": self._source.bucket, "Key": key}
        self._allowed(OWNED_FOR_S)
        try:
            self._target.client.copy_object(
                Bucket=self._target.bucket,
                Key=key,
                CopySource=origin,
                MetadataDirective="COPY",
                TaggingDirective="COPY",
                **seen,
            )
        except ClientError as error:
            if code_of(error) not in _TOO_LARGE:
                raise
            return self.in_parts(key, seen, part_bytes=COPY_PART_BYTES) or 0
        return 0

    def in_parts(self, key: str, seen: Condition, *, part_bytes: int) -> int | None:
        """A copy by the server of an object too large for one request (over 5 GB)."""
        found = self._source.attributes(key)
        if found is None:
            self._allowed(OWNED_FOR_S)
            self._target.delete(key, seen)
            return None
        part_bytes = max(part_bytes, -(-found.size // MAX_PARTS))

        def part(upload: dict[str, Any], n: int, start: int) -> str:
            end = min(start + part_bytes, found.size) - 1
            answer = self._target.client.upload_part_copy(
                **upload,
                PartNumber=n,
                CopySource={"Bucket": self._source.bucket, "Key": key},
                CopySourceRange=f"bytes={start}-{end}",
                CopySourceIfMatch=found.etag,
            )
            return str(answer["CopyPartResult"]["ETag"])

        with Upload(self._target, key, found, seen, self._allowed) as upload:
            for n, start in enumerate(range(0, found.size, part_bytes), 1):
                upload.parts.append(part(upload.arguments, n, start))
        return found.size

    def _streamed(self, key: str, seen: Condition) -> int:
        answer = self._source.client.get_object(Bucket=self._source.bucket, Key=key)
        found = attributes_of(answer, self._source.tags(key, answer, thorough=False))
        body = answer["Body"]
        if found.size <= PART_BYTES:
            contents = body.read()
            self._allowed(OWNED_FOR_S)
            self._target.client.put_object(
                Bucket=self._target.bucket, Key=key, Body=contents, **found.as_arguments(), **seen
            )
            return found.size
        part_bytes = max(PART_BYTES, -(-found.size // MAX_PARTS))
        with Upload(self._target, key, found, seen, self._allowed) as upload:
            for n, block in enumerate(body.iter_chunks(part_bytes), 1):
                part = self._target.client.upload_part(**upload.arguments, PartNumber=n, Body=block)
                upload.parts.append(str(part["ETag"]))
        return found.size


class Upload:
    """A multipart upload that is completed when its block ends, or aborted if that fails."""

    def __init__(
        self,
        target: Objects,
        key: str,
        attributes: Attributes,
        seen: Condition,
        allowed: Allowed,
    ) -> None:
        self._client = target.client
        self._seen = seen
        self._allowed = allowed
        started = self._client.create_multipart_upload(
            Bucket=target.bucket, Key=key, **attributes.as_arguments()
        )
        self.arguments = {"Bucket": target.bucket, "Key": key, "UploadId": started["UploadId"]}
        self.parts: list[str] = []

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._abort()
            return
        parts = [{"PartNumber": n, "ETag": etag} for n, etag in enumerate(self.parts, 1)]
        try:
            self._allowed(OWNED_FOR_S)
            self._client.complete_multipart_upload(
                **self.arguments, MultipartUpload={"Parts": parts}, **self._seen
            )
        except BaseException:
            self._abort()
            raise

    def _abort(self) -> None:
        """Why the upload failed matters more than that its parts could not be removed: `erase` finds them."""
        with contextlib.suppress(ClientError, BotoCoreError):
            self._client.abort_multipart_upload(**self.arguments)
