"""A backup of an index gets through throttling, timeouts, half-done batches and expired page tokens; what was
acknowledged at its point comes back, to the bit, and a link that stands meanwhile loses nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from pinecone import Pinecone

from tenure.catalogue import DataClass
from tenure.errors import DeadlineExceeded, FenceRefused, StoreUnavailable
from tenure.estate.local import PineconeEndpoint
from tenure.model.finding import Severity
from tenure.model.names import TenantId
from tenure.stores.contract import Fence
from tenure.stores.pinecone import PineconeStore, freshness
from tenure.stores.pinecone.errors import LoginRefused
from tests.contract.memory_backup import MemoryBackup
from tests.contract.rigs.pinecone import TEMPLATE, PineconeRig
from tests.contract.rigs.protocol import Side
from tests.integration.pinecone.test_pinecone_failures import fill, linked, through

ACME, OTHER = TenantId("acme"), TenantId("zeta")
BLUE, GREEN = Side.BLUE, Side.GREEN


def fence(token: int = 10, tenant: TenantId = ACME) -> Fence:
    return Fence(tenant=tenant, epoch=1, token=token)


def close(store: PineconeStore, tenant: TenantId = ACME) -> None:
    store.fence(fence(tenant=tenant), expires_in_s=None, drain_s=5.0)


def taken(store: PineconeStore) -> MemoryBackup:
    backup, capture = MemoryBackup(ACME), store.capture(ACME)
    capture.start(fence())
    capture.first_pass(backup)
    capture.settle(backup)
    close(store)
    capture.pin(backup, fence())
    store.open(fence())
    backup.complete(store.name, capture.rest(backup))
    capture.close(fence())
    return backup


def faults(*operations: str, status: int) -> list[dict[str, object]]:
    return [
        {"operation": operation, "times": 2, "status": status, "retry_after_s": 0.05}
        for operation in operations
    ]


@pytest.mark.parametrize("status", [429, pytest.param(503, marks=pytest.mark.variant)])
def test_records_come_back_to_the_bit_through_a_service_that_throttles_and_fails(
    rig: PineconeRig, status: int
) -> None:
    fill(rig, 1200)
    here, there = rig.store(BLUE), rig.store(GREEN)
    rig.stand_in.change(faults=faults("list", "fetch", "update", "query", status=status), token_pages=2)
    backup = taken(here)
    close(there)
    rig.stand_in.change(faults=faults("upsert", "list", "fetch", status=status))
    restoring = there.restoring(ACME, ACME)
    assert restoring.load(backup, fence()).items == 1200
    rig.stand_in.change(faults=[], token_pages=None)
    assert not list(restoring.differences(backup))
    ours, theirs = here.inventory(ACME), there.inventory(ACME)
    assert ours.collections == theirs.collections
    (facts,) = backup.collections()
    assert (facts.items, facts.digest) == (1200, ours.collections["records"].digest)


def test_a_point_waits_until_reads_show_what_was_acknowledged_or_there_is_none(
    rig: PineconeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.write(BLUE, ACME, "a", "old")
    store, backup = rig.store(BLUE), MemoryBackup(ACME)
    capture = store.capture(ACME)
    capture.start(fence())
    capture.first_pass(backup)
    rig.stand_in.change(frozen=True)
    rig.write(BLUE, ACME, "a", "acknowledged")
    rig.write(BLUE, ACME, "b", "acknowledged")
    close(store)
    with monkeypatch.context() as patched:
        patched.setattr(freshness.Freshness.catch_up, "__kwdefaults__", {"since": None, "timeout_s": 0.5})
        with pytest.raises(DeadlineExceeded):
            capture.pin(backup, fence())
    rig.stand_in.change(frozen=False)
    rig.stand_in.settle()
    capture.pin(backup, fence())
    store.open(fence())
    backup.complete(store.name, capture.rest(backup))
    capture.close(fence())
    there = rig.store(GREEN)
    close(there)
    there.restoring(ACME, ACME).load(backup, fence())
    assert rig.read(GREEN, ACME) == {"a": "acknowledged", "b": "acknowledged"}


def test_a_fence_that_lapses_before_everything_is_taken_gives_no_point(
    rig: PineconeRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.write(BLUE, ACME, "a", "before")
    store, backup = rig.store(BLUE), MemoryBackup(ACME)
    capture = store.capture(ACME)
    capture.start(fence())
    capture.first_pass(backup)
    rig.write(BLUE, ACME, "a", "changed")
    close(store)
    fetch = PineconeStore.fetch

    def slow(self: PineconeStore, *given: Any) -> Any:
        store.open(fence())
        rig.write(BLUE, ACME, "a", "after the fence")
        return fetch(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(PineconeStore, "fetch", slow)
        with pytest.raises(FenceRefused):
            capture.pin(backup, fence())
    capture.close(fence())


def test_a_link_and_a_backup_read_one_journal_and_neither_loses_a_change(
    rig: PineconeRig, wait_until: Callable[..., None]
) -> None:
    for n in range(20):
        rig.write(BLUE, ACME, f"i{n}", "before")
    copy = linked(rig)
    through(copy, wait_until)
    store, backup = rig.store(BLUE), MemoryBackup(ACME)
    capture = store.capture(ACME)
    capture.start(fence())
    capture.first_pass(backup)
    for n in range(0, 20, 2):
        rig.write(BLUE, ACME, f"i{n}", "changed")
    rig.delete(BLUE, ACME, "i1")
    wait_until(lambda: rig.read(GREEN, ACME) == rig.read(BLUE, ACME), "the copy has brought them")
    expected = rig.read(BLUE, ACME)
    close(store)
    capture.pin(backup, fence())
    store.open(fence())
    rig.write(BLUE, ACME, "i3", "after the point")
    backup.complete(store.name, capture.rest(backup))
    capture.close(fence())
    rig.write(BLUE, ACME, "i5", "after the backup")
    wait_until(
        lambda: rig.read(GREEN, ACME) == {**expected, "i3": "after the point", "i5": "after the backup"},
        "the copy goes on after the backup has ended",
    )
    copy.stop(fence())
    there = rig.store(GREEN)
    there.erase(fence())
    there.restoring(ACME, ACME).load(backup, fence())
    assert rig.read(GREEN, ACME) == expected


def test_metadata_that_is_the_tenants_id_becomes_the_others(rig: PineconeRig) -> None:
    record = {"id": "a", "values": [1.0, 2.0, 3.0], "metadata": {"owner": "acme", "value": "acme"}}
    rig.indexes[BLUE].upsert(vectors=[record], namespace=TEMPLATE.expand(ACME))
    fields = {"owner": DataClass.TENANT, "value": DataClass.CONTENT}
    backup, there = taken(rig.store(BLUE)), rig.store(GREEN, fields=fields)
    close(there, OTHER)
    restoring = there.restoring(OTHER, ACME)
    restoring.load(backup, fence(tenant=OTHER))
    assert not list(restoring.differences(backup))
    found = rig.indexes[GREEN].fetch(ids=["a"], namespace=TEMPLATE.expand(OTHER)).vectors["a"]
    assert found.metadata == {"owner": "zeta", "value": "acme"}
    assert found.values == [1.0, 2.0, 3.0]


def test_an_index_of_another_shape_is_refused(rig: PineconeRig, endpoint: PineconeEndpoint) -> None:
    rig.write(BLUE, ACME, "a", "a")
    backup = taken(rig.store(BLUE))
    schema = {"fields": {"_values": {"type": "dense_vector", "dimension": 4, "metric": "cosine"}}}
    with Pinecone(api_key=endpoint.api_key.reveal(), host=endpoint.control) as project:
        other = project.indexes.create(name=f"{rig.names[GREEN]}-4", schema=schema)
        try:
            there = rig.store(GREEN, login=rig.login(str(other.host)))
            (told,) = there.restoring(ACME, ACME).preflight(backup)
            assert (told.code, told.severity) == ("index_differs", Severity.REFUSAL)
            assert "dimension 4 for 3" in told.message
        finally:
            project.indexes.delete(other.name)


def test_a_service_that_is_away_ends_a_load_and_another_one_after_an_erasure_is_whole(
    rig: PineconeRig,
) -> None:
    fill(rig, 2500)
    backup, there = taken(rig.store(BLUE)), rig.store(GREEN)
    close(there)
    rig.stand_in.change(
        faults=[{"operation": "upsert", "skip": 1, "times": 1000, "status": 503, "retry_after_s": 0.01}]
    )
    with pytest.raises(StoreUnavailable):
        there.restoring(ACME, ACME).load(backup, fence())
    rig.stand_in.change(faults=[])
    there.erase(fence())
    assert there.restoring(ACME, ACME).load(backup, fence()).items == 2500
    assert not list(there.restoring(ACME, ACME).differences(backup))


def test_no_batch_of_a_load_that_has_failed_is_written_afterwards(rig: PineconeRig) -> None:
    fill(rig, 2500)
    backup, there = taken(rig.store(BLUE)), rig.store(GREEN)
    close(there)
    rig.stand_in.change(
        faults=[
            {"operation": "upsert", "status": 401},
            {"operation": "upsert", "times": 9, "delay_s": 1.5, "done": True},
        ]
    )
    with pytest.raises(LoginRefused):
        there.restoring(ACME, ACME).load(backup, fence())
    rig.stand_in.change(faults=[])
    there.erase(fence())
    time.sleep(2.0)
    rig.stand_in.settle()
    assert there.inventory(ACME).items == 0
