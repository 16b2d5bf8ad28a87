"""The fence: a statement of the bucket's policy that denies the app every write below the tenant's prefix, and a small
object outside all prefixes that says who set it. Both change together, under a lock that spans Tenure's processes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from botocore.exceptions import ClientError

from tenure.errors import FenceRefused, LeaseLost, StoreRefused, StoreUnavailable
from tenure.model.names import TenantId
from tenure.stores.contract import Fence, Mutex
from tenure.stores.s3.errors import ABSENT, code_of

RESERVED: Final = ".tenure/"
POLICY_LIMIT_BYTES: Final = 20 * 1024
"""A bucket's policy may have 20 KB (AWS, "Bucket policies for Amazon S3")."""
WRITES: Final = (
    "s3:Put*",
    "s3:Delete*",
    "s3:Replicate*",
    "s3:RestoreObject",
    "s3:AbortMultipartUpload",
    "s3:BypassGovernanceRetention",
)
ATTEMPTS: Final = 3
"""A change whose lock was lost on the way (a process that stalled) begins anew so often."""
Policy = dict[str, Any]
PolicyLock = Callable[[], AbstractContextManager[Callable[[], None]]]


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the object `.tenure/fence/<tenant>` says. `copier` is the process that copies into this store.

    `writable` counts only where no policy says it; `epoch` is the one in which the holder of `token` first came.
    """

    exists: bool = False
    writable: bool = True
    epoch: int = 0
    token: int = 0
    link: str = ""
    copier: str = ""


class Fencing:
    """One tenant's fence in one bucket. `principal`: the app's IAM user by name, or any principal by its ARN; None: the
    app cannot be told from Tenure, and the record is all there is."""

    def __init__(
        self,
        client: Any,
        bucket: str,
        tenant: TenantId,
        prefix: str,
        principal: str | None,
        lock: PolicyLock,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._tenant = tenant
        self._prefix = prefix
        self._principal = principal
        self._lock = lock
        self._pool = pool
        self._sid = "Tenure" + hashlib.sha256(tenant.encode()).hexdigest()[:24]
        self.record_key = f"{RESERVED}fence/{tenant}"

    def read(self) -> tuple[Record, bool]:
        """The record, and whether the store accepts the tenant's writes."""
        record, policy = self._load()
        return record, self._accepts(record, policy)

    def fence(self, fence: Fence) -> None:
        self._change(
            fence,
            lambda record, _: replace(
                record, exists=True, writable=False, epoch=fence.epoch, token=fence.token
            ),
            denied=True,
        )

    def open(self, fence: Fence) -> None:
        """Without a link, opening forgets the record; with one, the record keeps smaller tokens out."""

        def opened(record: Record, _accepts: bool) -> Record:
            if not record.link:
                return Record()
            return replace(record, exists=True, writable=True, epoch=fence.epoch, token=fence.token)

        self._change(fence, opened, denied=False)

    def retire(self, fence: Fence) -> None:
        """Lift the fence and forget the record. Raises `StoreRefused` while a link holds the store."""

        def retired(record: Record, _accepts: bool) -> Record:
            if record.link:
                raise StoreRefused(
                    f"{self._tenant} is still linked in bucket {self._bucket}",
                    hint="stop the copies of the link before the tenant leaves",
                )
            return Record()

        self._change(fence, retired, denied=False)

    def check(self, fence: Fence) -> None:
        """Raise `FenceRefused` if a newer holder has been here."""
        self._check_token(self._read_record(), fence)

    def claim(self, fence: Fence) -> None:
        """Refuse holders of smaller tokens from now on, if there is a record."""

        def claimed(record: Record, _accepts: bool) -> Record:
            return replace(record, epoch=fence.epoch, token=fence.token) if record.exists else record

        self._change(fence, claimed, denied=None)

    def join(self, fence: Fence, link: str, *, copier: str | None = None, fenced: bool = False) -> None:
        """Note that a link holds this store, and with `copier` who copies into it from now on.

        With `fenced`, raises `FenceRefused` if the store accepts the tenant's writes.
        """

        def joined(record: Record, accepts: bool) -> Record:
            if fenced and accepts:
                raise FenceRefused(
                    f"{self._tenant} is not fenced in the target",
                    hint="fence the target before the copy starts",
                )
            return Record(
                exists=True,
                writable=accepts,
                epoch=fence.epoch,
                token=fence.token,
                link=link,
                copier=record.copier if copier is None else copier,
            )

        self._change(fence, joined, denied=None)

    def release(self, fence: Fence, link: str) -> None:
        """Forget the link. The record goes as well where the store is open; a fence stays down."""

        def released(record: Record, accepts: bool) -> Record:
            if record.link not in ("", link):
                return record
            return Record() if accepts else replace(record, link="", copier="")

        self._change(fence, released, denied=None)

    # -- parts -------------------------------------------------------------------------------------------------------

    def statement(self) -> Policy:
        """The policy's statement while the tenant is fenced."""
        statement: Policy = {
            "Sid": self._sid,
            "Effect": "Deny",
            "Principal": "*",
            "Action": list(WRITES),
            "Resource": f"arn:{self._partition()}:s3:::{self._bucket}/{self._prefix}*",
        }
        if self._principal is not None and self._principal.startswith("arn:"):
            statement["Principal"] = {"AWS": self._principal}
        else:
            statement["Condition"] = {"StringEquals": {"aws:username": self._principal}}
        return statement

    def _partition(self) -> str:
        if self._principal is not None and self._principal.startswith("arn:"):
            return self._principal.split(":")[1]
        region = str(self._client.meta.region_name)
        return (
            "aws-cn" if region.startswith("cn-") else "aws-us-gov" if region.startswith("us-gov-") else "aws"
        )

    def _denied(self, policy: Policy) -> bool:
        return any(s.get("Sid") == self._sid for s in policy.get("Statement", []))

    def _accepts(self, record: Record, policy: Policy) -> bool:
        return record.writable if self._principal is None else not self._denied(policy)

    def _change(self, fence: Fence, change: Callable[[Record, bool], Record], *, denied: bool | None) -> None:
        """Read, check the token, write what has changed. `denied` None leaves the policy alone.

        S3 has no conditional write of a policy. So the lock is checked right before it is written, and what was written
        is read again; a process that is stopped for `STALL_S` between the two can still undo another tenant's change.
        """
        for _ in range(ATTEMPTS):
            try:
                with self._lock() as still_held:
                    if self._attempt(fence, change, denied, still_held):
                        return
            except LeaseLost:
                continue
        raise StoreUnavailable(
            f"the policy of bucket {self._bucket} is being changed by others all the time", hint="try again"
        )

    def _attempt(
        self,
        fence: Fence,
        change: Callable[[Record, bool], Record],
        denied: bool | None,
        still_held: Callable[[], None],
    ) -> bool:
        """One change under the lock. False if the policy afterwards is not as it was written."""
        record, policy = self._load()
        self._check_token(record, fence)
        changed = change(record, self._accepts(record, policy))
        writes: list[Callable[[], None]] = []
        turns = denied is not None and self._principal is not None and denied != self._denied(policy)
        if turns:
            writes.append(lambda: self._write_policy(policy, denied=bool(denied)))
        if self._says_more(changed, record):
            writes.append(lambda: self._write_record(changed))
        if not writes:
            return True
        still_held()
        self._together(*writes)
        return not turns or self._denied(self._read_policy()) == denied

    def _says_more(self, changed: Record, record: Record) -> bool:
        """Whether the record has to be written. The policy says by itself whether the tenant may write; and the holder
        of a token, once written down, need not be written again for another epoch: every hold pays for it."""
        if self._principal is not None:
            changed = replace(changed, writable=record.writable, epoch=record.epoch)
        return changed != record

    def _check_token(self, record: Record, fence: Fence) -> None:
        if record.token > fence.token:
            raise FenceRefused(
                f"the fence of {fence.tenant} belongs to a newer holder ({record.token} > {fence.token})",
                hint="another process has taken this operation over",
            )

    def _together(self, *calls: Callable[[], Any]) -> list[Any]:
        """Make these calls at the same time; wait for all, then raise the first error."""
        others = [self._pool.submit(call) for call in calls[1:]]
        try:
            first = [calls[0]()] if calls else []
        finally:
            answers = [other.exception() for other in others]
        for error in answers:
            if error is not None:
                raise error
        return first + [other.result() for other in others]

    def _load(self) -> tuple[Record, Policy]:
        if self._principal is None:
            return self._read_record(), {}
        record, policy = self._together(self._read_record, self._read_policy)
        return record, policy

    def _read_record(self) -> Record:
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self.record_key)
        except ClientError as error:
            if code_of(error) in ABSENT:
                return Record()
            raise
        return Record(exists=True, **json.loads(answer["Body"].read()))

    def _write_record(self, record: Record) -> None:
        if record.exists:
            fields = {k: v for k, v in asdict(record).items() if k != "exists"}
            self._client.put_object(
                Bucket=self._bucket, Key=self.record_key, Body=json.dumps(fields).encode()
            )
            return
        self._client.delete_object(Bucket=self._bucket, Key=self.record_key)
        versions = self._client.list_object_versions(Bucket=self._bucket, Prefix=self.record_key)
        for version in (*versions.get("Versions", []), *versions.get("DeleteMarkers", [])):
            if version["Key"] == self.record_key:
                self._client.delete_object(
                    Bucket=self._bucket, Key=self.record_key, VersionId=version["VersionId"]
                )

    def _read_policy(self) -> Policy:
        try:
            policy: Policy = json.loads(self._client.get_bucket_policy(Bucket=self._bucket)["Policy"])
        except ClientError as error:
            if code_of(error) == "NoSuchBucketPolicy":
                return {}
            raise
        return policy

    def _write_policy(self, policy: Policy, *, denied: bool) -> None:
        """Every other statement stays as it is."""
        statements = policy.get("Statement", [])
        others = [
            s
            for s in (statements if isinstance(statements, list) else [statements])
            if s.get("Sid") != self._sid
        ]
        if denied:
            others.append(self.statement())
        if not others:
            self._client.delete_bucket_policy(Bucket=self._bucket)
            return
        text = json.dumps({"Version": "2012-10-17", **policy, "Statement": others}, separators=(",", ":"))
        if len(text.encode()) > POLICY_LIMIT_BYTES:
            raise StoreRefused(
                f"the policy of bucket {self._bucket} would be {len(text)} bytes long, 20 KB is the limit",
                hint="too many tenants are fenced in it at once: complete their migrations first",
            )
        self._client.put_bucket_policy(Bucket=self._bucket, Policy=text)

    def policy_headroom(self) -> int:
        """How many bytes of the policy are left once this tenant is fenced."""
        policy = self._read_policy()
        used = len(json.dumps(policy, separators=(",", ":"))) if policy else 0
        return POLICY_LIMIT_BYTES - used - len(json.dumps(self.statement(), separators=(",", ":"))) - 60


def policy_lock(mutex: Mutex, endpoint: str | None, bucket: str) -> PolicyLock:
    """The lock under which the policy of this bucket is read, changed and written."""
    return lambda: mutex(f"s3-policy:{endpoint or 'aws'}/{bucket}")
