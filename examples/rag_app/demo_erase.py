"""The demo's act about erasures: a departed customer goes from seven systems while its neighbours work, what somebody
left where nobody looks is found and withholds the certificate, and a test account goes from four."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

import psycopg
import redis

from rag_app.history import History
from rag_app.objects import s3_client
from rag_app.settings import CellSettings
from tenure.backups.signing import Trust
from tenure.certificates.envelope import unseal
from tenure.engine.observer import Observer
from tenure.errors import CertificateUntrusted, UnknownName
from tenure.model.operation import Operation, OperationState
from tenure.operations.erasing import Wish
from tenure.service import Service

SYSTEMS: Final[Mapping[str, str]] = {
    "postgresql": "PostgreSQL",
    "pgvector": "PostgreSQL",
    "redis": "Redis",
    "pinecone": "Pinecone",
    "s3": "S3",
    "cloudwatch_logs": "CloudWatch",
    "cloudwatch_metrics": "CloudWatch",
    "analytics": "Analytics",
    "vault": "Backups",
}
"""The systems of the scenarios, by kind of store."""
TABLE: Final = "support_export"
KEY: Final = "debug:last-request"
OBJECT: Final = "handover/notes.txt"

Beside = Callable[[Callable[[], Operation]], tuple[History, Operation]]
"""Runs an operation while the neighbours work."""


@dataclass(frozen=True, kw_only=True)
class ErasureEvidence:
    """What an erasure did to the tenant and to everyone else."""

    request: str
    tenant: str
    systems: tuple[str, ...]
    """Where there was something of it, by the certificate."""
    items: int
    items_left: int
    """What the stores themselves count afterwards, metrics that nobody can delete not counted."""
    expiring: int
    """Metrics that nobody can delete, and that go by a date which the certificate names."""
    keys_destroyed: int
    backups_unreadable: int
    planted: int
    planted_found: int
    withheld: bool
    """There was no certificate as long as the planted residue was there."""
    searched: int
    """Items that the last search looked at."""
    certificate: str
    state: str
    lapses_at: str | None
    genuine: bool
    """The signature was checked with the public key alone, and a changed one was refused."""
    requests: int
    requests_failed: int
    neighbours_changed: int
    seconds: float

    def promises_broken(self, wanted: int) -> list[str]:
        """Every promise that was not kept, in words; `wanted` systems held something."""
        broken = []
        if len(self.systems) != wanted:
            broken.append(
                f"{len(self.systems)} systems held something, not {wanted}: {', '.join(self.systems)}"
            )
        if not self.items:
            broken.append("there was nothing to erase")
        if self.items_left:
            broken.append(f"{self.items_left} items are left")
        if self.planted_found != self.planted or not self.withheld:
            broken.append(f"{self.planted_found} of {self.planted} residues were found")
        if not self.genuine:
            broken.append("the certificate's signature proves nothing")
        if not self.requests or self.requests_failed:
            broken.append(f"{self.requests_failed} of {self.requests} requests of neighbours failed")
        if self.neighbours_changed:
            broken.append(f"{self.neighbours_changed} digests of neighbours changed")
        return broken

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class ErasureAct:
    """`settings` is the cell that serves the tenant, as the service's deployment sees it."""

    request: str
    tenant: str
    ground: str
    plants: bool
    settings: CellSettings
    service: Service
    observer: Observer
    beside: Beside
    quiet: Callable[[], Mapping[Any, str]]
    left: Callable[[str], int]
    """What the stores that can delete still count of a tenant, in all cells."""
    say: Callable[[str], None]

    def run(self) -> ErasureEvidence:
        quiet, began = self.quiet(), time.monotonic()
        plan = self.service.erasures.plan(self.tenant)
        self.say(
            f"plan {plan.digest}: {plan.items:,} items and {plan.backups} backup(s) in {len(plan.parts)} stores"
        )
        wish = Wish(request=self.request, tenant=self.tenant, role="processor", ground=self.ground)
        found, withheld = 0, True

        def erase() -> Operation:
            return self.service.erasures.erase(wish, apply=plan.digest, observer=self.observer)

        if self.plants:
            with planted(self.settings, self.tenant):
                history, operation = self.beside(erase)
                if operation.state is OperationState.AWAITING:
                    found = len({str(place["place"]) for place in operation.data["residue"]})
                    self.say(str(operation.data["question"]))
                withheld = not self._certified()
            done = self.service.confirm(operation.id, self.observer)
        else:
            history, done = self.beside(erase)
        if done.state is not OperationState.SUCCEEDED:
            raise SystemExit(f"erase {done.id} ended {done.state}: {done.error or done.data.get('question')}")
        issued, says = self.service.erasures.certificate(self.request)
        self.say(self.service.erasures.board(self.request)[0].sentence)
        after, counts = self.quiet(), history.counts()
        return ErasureEvidence(
            request=self.request,
            tenant=self.tenant,
            systems=tuple(
                sorted(
                    {
                        SYSTEMS[s["kind"]]
                        for s in says["stores"]
                        if s["before"]["items"] and s["kind"] in SYSTEMS
                    }
                )
            ),
            items=sum(s["before"]["items"] for s in says["stores"]),
            items_left=self.left(self.tenant),
            expiring=sum(s["after"]["items"] for s in says["stores"] if s["level"] == "expires"),
            keys_destroyed=len(says["keys_destroyed"]),
            backups_unreadable=len(says["backups"]),
            planted=3 if self.plants else 0,
            planted_found=found,
            withheld=withheld,
            searched=sum(s["searched"]["items"] for s in says["stores"]),
            certificate=issued.id,
            state=says["state"],
            lapses_at=says["lapses_at"],
            genuine=self._genuine(issued.envelope),
            requests=counts.requests,
            requests_failed=counts.failed,
            neighbours_changed=sum(quiet[key] != after.get(key) for key in quiet)
            + len(after.keys() - quiet.keys()),
            seconds=time.monotonic() - began,
        )

    def _certified(self) -> bool:
        try:
            self.service.erasures.certificate(self.request)
        except UnknownName:
            return False
        return True

    def _genuine(self, envelope: str) -> bool:
        _, public = self.service.erasures.public_key()
        trust = Trust([public])
        unseal(envelope, trust)
        says = base64.b64encode(b'{"format": "tenure-erasure-certificate/1"}').decode()
        changed = envelope.replace(envelope.split('"payload":"')[1].split('"', maxsplit=1)[0], says)
        try:
            unseal(changed, trust)
        except CertificateUntrusted:
            return True
        return False


@contextmanager
def planted(settings: CellSettings, tenant: str) -> Iterator[None]:
    """A table, a key and an object with the tenant's id, where no catalogue says that there is anything."""
    with (
        psycopg.connect(settings.postgres_dsn, autocommit=True) as connection,
        redis.Redis.from_url(settings.redis_url) as keys,
    ):
        files = s3_client(settings.objects)
        connection.execute(f"create table public.{TABLE} (id bigint primary key, customer text)")
        connection.execute(f"insert into public.{TABLE} values (1, %s)", (tenant,))
        keys.set(KEY, f"GET /t/{tenant}/documents")
        files.put_object(Bucket=settings.objects.bucket, Key=OBJECT, Body=f"left by {tenant}".encode())
        try:
            yield
        finally:
            connection.execute(f"drop table public.{TABLE}")
            keys.delete(KEY)
            files.delete_object(Bucket=settings.objects.bucket, Key=OBJECT)
            files.close()
