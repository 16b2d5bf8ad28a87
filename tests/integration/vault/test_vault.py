"""Backups in a vault: written last and whole, shared chunks kept while anybody needs them, damage found and named."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from tenure.errors import FenceRefused, LeaseLost, StoreRefused, UsageError, VaultDamaged
from tenure.model.names import TenantId
from tenure.stores.contract import Fence
from tenure.stores.vault.contract import BackupId, ChunkId, KeyReference, Lock, LockMode
from tests.integration.vault.conftest import VaultBucket
from tests.vaults import (
    PUBLIC,
    backed_up,
    backup_id,
    chunk_id,
    finished,
    key_of,
    put_all,
    restored,
    sealed,
    shelved,
)

ACME, ACME1 = TenantId("acme"), TenantId("acme1")
FIRST, SECOND, THIRD = backup_id(1), backup_id(2), backup_id(3)


def contents(*words: str) -> set[bytes]:
    return {f"contents {word}".encode() for word in words}


# -- writing -----------------------------------------------------------------------------------------------------------


def test_a_backup_comes_back_as_it_was_put(bucket: VaultBucket) -> None:
    made = backed_up(bucket.store().vault, ACME, FIRST, contents("a", "b"))
    vault = bucket.store().vault
    assert shelved(vault, ACME) == {FIRST: made}
    assert (made.tenant, made.key, made.public, made.chunks) == (ACME, key_of(ACME), PUBLIC, 2)
    assert made.size_bytes == sum(s.size for s in vault.contents(made).chunks.values())
    assert abs((made.stored_at - datetime.now(UTC)).total_seconds()) < 60
    assert restored(vault, made) == contents("a", "b")
    assert not shelved(vault, ACME1)


def test_nothing_is_listed_before_the_manifest_is_there(bucket: VaultBucket) -> None:
    vault = bucket.store().vault
    writing = vault.begin(ACME, FIRST, key=key_of(ACME))
    listed = writing.contents(put_all(writing, contents("a")))
    shelf = bucket.store().vault.shelf(ACME)
    assert not shelf.complete
    assert [u.id for u in shelf.unfinished] == [FIRST]
    writing.commit(listed, PUBLIC)
    shelf = bucket.store().vault.shelf(ACME)
    assert [b.id for b in shelf.complete] == [FIRST]
    assert not shelf.unfinished


def test_a_second_backup_puts_only_what_is_new(bucket: VaultBucket) -> None:
    vault = bucket.store().vault
    backed_up(vault, ACME, FIRST, contents("a", "b"))
    writing = vault.begin(ACME, SECOND, key=key_of(ACME))
    assert writing.has(chunk_id(ACME, b"contents a"))
    assert not writing.put(chunk_id(ACME, b"contents a"), sealed(b"contents a"))
    second = finished(writing, contents("a", "b", "c"))
    assert len(bucket.keys("backups/acme/chunks/")) == 3
    assert restored(vault, second) == contents("a", "b", "c")


def test_a_chunk_of_one_tenant_is_never_used_for_another(bucket: VaultBucket) -> None:
    vault = bucket.store().vault
    backed_up(vault, ACME, FIRST, contents("a"))
    writing = vault.begin(ACME1, FIRST, key=key_of(ACME1))
    assert not writing.has(chunk_id(ACME, b"contents a"))
    finished(writing, contents("a"))
    assert len(bucket.keys("backups/acme1/chunks/")) == 1


def test_an_id_is_never_used_twice(bucket: VaultBucket) -> None:
    vault = bucket.store().vault
    backed_up(vault, ACME, FIRST, contents("a"))
    with pytest.raises(StoreRefused, match="already"):
        vault.begin(ACME, FIRST, key=key_of(ACME))


def test_a_manifest_needs_every_chunk_to_be_there(bucket: VaultBucket) -> None:
    vault = bucket.store().vault
    writing = vault.begin(ACME, FIRST, key=key_of(ACME))
    ids = put_all(writing, contents("a"))
    never_put = chunk_id(ACME, b"never put")
    with pytest.raises(VaultDamaged, match=never_put):
        writing.contents([*ids, never_put])


def test_a_commit_may_be_repeated_and_an_ended_writing_cannot_be_committed(bucket: VaultBucket) -> None:
    vault = bucket.store().vault
    writing = vault.begin(ACME, FIRST, key=key_of(ACME))
    listed = writing.contents(put_all(writing, contents("a")))
    assert writing.commit(listed, PUBLIC) == writing.commit(listed, PUBLIC)
    with pytest.raises(LeaseLost):
        writing.commit(listed, {"other": 1})
    abandoned = vault.begin(ACME, SECOND, key=key_of(ACME))
    listed = abandoned.contents(put_all(abandoned, contents("b")))
    for _ in range(2):
        abandoned.abandon()
    with pytest.raises(LeaseLost):
        abandoned.commit(listed, PUBLIC)
    assert list(shelved(vault, ACME)) == [FIRST]
    assert bucket.keys("backups/acme/backups/") == [f"backups/acme/backups/{FIRST}"]


def test_another_process_carries_a_backup_on_and_the_first_one_cannot_finish_it(bucket: VaultBucket) -> None:
    first = bucket.store().vault.begin(ACME, FIRST, key=key_of(ACME))
    listed = first.contents(put_all(first, contents("a")))
    second = bucket.store().vault.resume(ACME, FIRST)
    assert second.has(chunk_id(ACME, b"contents a"))
    for outdated in (first.renew, lambda: first.commit(listed, PUBLIC)):
        with pytest.raises(LeaseLost):
            outdated()
    second.renew()
    made = finished(second, contents("a", "b"))
    assert restored(bucket.store().vault, made) == contents("a", "b")
    with pytest.raises(LeaseLost, match="complete"):
        bucket.store().vault.resume(ACME, FIRST)
    assert len(bucket.keys("backups/acme/chunks/")) == 2


def test_what_cannot_be_a_name_a_chunk_or_a_reference_is_refused(plain_bucket: VaultBucket) -> None:
    vault = plain_bucket.store().vault
    for wrong in ("", "A", "a/b", "a" * 64, "../x"):
        with pytest.raises(UsageError):
            vault.begin(ACME, BackupId(wrong), key=key_of(ACME))
    for wrong in ("", "bmV2ZXIgYSBrZXk=+", "a b", "x" * 129):
        with pytest.raises(UsageError, match="reference"):
            vault.begin(ACME, FIRST, key=KeyReference(wrong))
    writing = vault.begin(ACME, FIRST, key=key_of(ACME))
    for chunk, body in (("short", b"x"), ("a" * 20 + "/", b"x"), ("a" * 64, b"")):
        with pytest.raises(UsageError):
            writing.put(ChunkId(chunk), body)
    listed = writing.contents([])
    for public in ({"x": {1, 2}}, {"x": float("nan")}, {"x": "y" * 300_000}):
        with pytest.raises(UsageError):
            writing.commit(listed, public)
    assert writing.commit(listed, {"numbers": (1, 2)}).public == {"numbers": [1, 2]}


# -- garbage -----------------------------------------------------------------------------------------------------------


def test_what_no_backup_needs_any_more_is_collected_and_nothing_else(bucket: VaultBucket) -> None:
    vault = bucket.store().vault
    backed_up(vault, ACME, FIRST, contents("a", "b"))
    second = backed_up(vault, ACME, SECOND, contents("b", "c"))
    neighbour = backed_up(vault, ACME1, FIRST, contents("a"))
    assert vault.collect(ACME, quiet_s=3600).uploads == 0
    for _ in range(2):
        vault.delete(ACME, FIRST)
    done = vault.collect(ACME, quiet_s=3600)
    assert (done.uploads, done.waiting, done.locked) == (1, 0, 0)
    assert done.size_bytes > 0
    assert vault.collect(ACME, quiet_s=3600).uploads == 0
    assert restored(vault, second) == contents("b", "c")
    assert restored(vault, neighbour) == contents("a")
    assert len(bucket.keys("backups/acme/")) == 4  # manifest, list, two chunks: no version or record besides


def test_a_dead_writers_leftovers_are_collected_once_it_has_been_quiet(bucket: VaultBucket) -> None:
    vault = bucket.store().vault
    dead = vault.begin(ACME, FIRST, key=key_of(ACME))
    listed = dead.contents(put_all(dead, contents("a")))
    assert vault.collect(ACME, quiet_s=3600).ended == ()
    assert [u.id for u in vault.shelf(ACME).unfinished] == [FIRST]
    done = vault.collect(ACME, quiet_s=0)
    assert (done.ended, done.uploads) == ((FIRST,), 1)
    with pytest.raises(LeaseLost):
        dead.commit(listed, PUBLIC)
    assert bucket.keys() == []


def test_a_writer_may_use_what_was_garbage_when_it_began(bucket: VaultBucket) -> None:
    vault = bucket.store().vault
    backed_up(vault, ACME, FIRST, contents("a"))
    writing = bucket.store().vault.begin(ACME, SECOND, key=key_of(ACME))
    assert writing.has(chunk_id(ACME, b"contents a"))
    vault.delete(ACME, FIRST)
    done = vault.collect(ACME, quiet_s=3600)
    assert (done.uploads, done.waiting) == (0, 1)
    made = finished(writing, contents("a"))
    assert vault.collect(ACME, quiet_s=0).uploads == 0
    assert restored(vault, made) == contents("a")
    # Condemned once, it is never relied upon again: the next one puts it anew, under a name of its own.
    later = bucket.store().vault.begin(ACME, THIRD, key=key_of(ACME))
    assert not later.has(chunk_id(ACME, b"contents a"))
    third = finished(later, contents("a"))
    vault.delete(ACME, SECOND)
    assert vault.collect(ACME, quiet_s=0).uploads == 1
    assert restored(vault, third) == contents("a")
    assert not bucket.keys("backups/acme/condemned/")


def test_a_collector_that_stalls_before_it_deletes_harms_no_later_backup(
    bucket: VaultBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = bucket.store()
    backed_up(slow.vault, ACME, FIRST, contents("a"))
    slow.vault.delete(ACME, FIRST)
    stalled, wake = threading.Event(), threading.Event()
    delete = slow.vault._access.client.delete_objects

    def stall(**arguments: object) -> object:
        if "chunks/" in str(arguments):
            stalled.set()
            assert wake.wait(30)
        return delete(**arguments)

    monkeypatch.setattr(slow.vault._access.client, "delete_objects", stall)
    collector = threading.Thread(target=slow.vault.collect, args=(ACME,), kwargs={"quiet_s": 3600})
    collector.start()
    assert stalled.wait(30)
    other = bucket.store().vault
    made = [backed_up(other, ACME, SECOND, contents("a"))]
    assert other.collect(ACME, quiet_s=3600).uploads == 1
    made.append(backed_up(other, ACME, THIRD, contents("a")))
    wake.set()
    collector.join()
    for backup in made:
        assert restored(other, backup) == contents("a")


def test_many_writers_collectors_and_deletions_at_once_lose_no_chunk(bucket: VaultBucket) -> None:
    made: dict[BackupId, set[bytes]] = {}
    failures: list[BaseException] = []
    lock, stop = threading.Lock(), threading.Event()

    def write(writer: int) -> None:
        vault = bucket.store().vault
        for n in range(5):
            wanted = contents(*(str((writer * 3 + n * k) % 11) for k in range(5)))
            backup = BackupId(f"w{writer}-{n}")
            backed_up(vault, ACME, backup, wanted)
            with lock:
                made[backup] = wanted
            if n % 2:
                with lock:
                    made.pop(backup)
                vault.delete(ACME, backup)

    def collect() -> None:
        vault = bucket.store().vault
        while not stop.is_set():
            vault.collect(ACME, quiet_s=3600)

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001  (raised by the test)
                failures.append(error)

        return run

    writers = [threading.Thread(target=guarded(lambda n=n: write(n))) for n in range(3)]  # type: ignore[misc]
    collectors = [threading.Thread(target=guarded(collect)) for _ in range(2)]
    for thread in (*writers, *collectors):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in collectors:
        thread.join()
    assert not failures
    vault = bucket.store().vault
    there = shelved(vault, ACME)
    assert there.keys() == made.keys()
    vault.collect(ACME, quiet_s=0)
    vault.collect(ACME, quiet_s=0)
    for backup, wanted in made.items():
        assert restored(vault, there[backup]) == wanted


def test_nothing_is_collected_while_it_is_unknown_what_a_backup_needs(bucket: VaultBucket) -> None:
    vault = bucket.store().vault
    made = backed_up(vault, ACME, FIRST, contents("a"))
    backed_up(vault, ACME, SECOND, contents("b"))
    vault.delete(ACME, SECOND)
    before = bucket.keys("backups/acme/chunks/")
    bucket.admin.put_object(Bucket=bucket.name, Key="backups/acme/backups/strange", Body=b"{}")
    with pytest.raises(VaultDamaged, match="strange"):
        vault.collect(ACME, quiet_s=0)
    assert bucket.keys("backups/acme/chunks/") == before
    vault.delete(ACME, "strange")
    assert vault.collect(ACME, quiet_s=0).uploads == 1
    list_key = bucket.keys("backups/acme/lists/")[0]
    bucket.admin.put_object(Bucket=bucket.name, Key=list_key, Body=b"not a list")
    if bucket.versioned:
        assert restored(vault, made) == contents("a")
    else:
        with pytest.raises(VaultDamaged, match="list"):
            vault.collect(ACME, quiet_s=0)
        assert bucket.keys("backups/acme/chunks/")


# -- damage ------------------------------------------------------------------------------------------------------------


def test_a_chunk_that_was_changed_is_named_and_put_anew_once_it_is_distrusted(bucket: VaultBucket) -> None:
    vault = bucket.store().vault
    made = backed_up(vault, ACME, FIRST, contents("a", "b"))
    listed, chunk = vault.contents(made), chunk_id(ACME, b"contents a")
    key = f"backups/acme/chunks/{listed.chunks[chunk].name}"
    whole = vault.get(listed, chunk)
    for version in list(bucket.admin.list_object_versions(Bucket=bucket.name, Prefix=key)["Versions"]):
        bucket.admin.delete_object(Bucket=bucket.name, Key=key, VersionId=version["VersionId"])
    bucket.admin.put_object(Bucket=bucket.name, Key=key, Body=bytes([whole[0] ^ 1]) + whole[1:])
    assert not vault.missing(listed)
    with pytest.raises(VaultDamaged, match=f"{chunk}.*{FIRST}.*damaged"):
        vault.get(listed, chunk)
    assert vault.get(listed, chunk_id(ACME, b"contents b"))
    vault.distrust(listed, [chunk])
    second = backed_up(vault, ACME, SECOND, contents("a", "b"))
    assert restored(vault, second) == contents("a", "b")
    assert restored(vault, made) == contents("a", "b")  # by the other upload of the same chunk
    assert vault.collect(ACME, quiet_s=0).uploads == 0
    vault.delete(ACME, FIRST)
    assert vault.collect(ACME, quiet_s=0).uploads == 1


def test_a_chunk_that_is_short_or_gone_is_seen_without_reading_it(plain_bucket: VaultBucket) -> None:
    vault = plain_bucket.store().vault
    made = backed_up(vault, ACME, FIRST, contents("a", "b", "c"))
    listed = vault.contents(made)
    gone, short = chunk_id(ACME, b"contents a"), chunk_id(ACME, b"contents b")
    bucket, admin = plain_bucket.name, plain_bucket.admin
    admin.delete_object(Bucket=bucket, Key=f"backups/acme/chunks/{listed.chunks[gone].name}")
    admin.put_object(Bucket=bucket, Key=f"backups/acme/chunks/{listed.chunks[short].name}", Body=b"x")
    assert vault.missing(listed) == {gone, short}
    with pytest.raises(VaultDamaged, match="missing"):
        vault.get(listed, gone)


def test_a_manifest_that_was_changed_or_is_another_ones_is_never_listed(plain_bucket: VaultBucket) -> None:
    vault, admin, name = plain_bucket.store().vault, plain_bucket.admin, plain_bucket.name
    backed_up(vault, ACME, FIRST, contents("a"))
    backed_up(vault, ACME1, FIRST, contents("a"))
    theirs = admin.get_object(Bucket=name, Key=f"backups/acme1/backups/{FIRST}")["Body"].read()
    mine = admin.get_object(Bucket=name, Key=f"backups/acme/backups/{FIRST}")["Body"].read()
    for body, reason in (
        (theirs, "another tenant, acme1"),
        (mine.replace(b'"chunks":1', b'"chunks":2'), "changed since"),
        (mine[:-20], "not a manifest"),
        (b"", "not a manifest"),
        (b"[]", "not a manifest"),
    ):
        admin.put_object(Bucket=name, Key=f"backups/acme/backups/{FIRST}", Body=body)
        shelf = vault.shelf(ACME)
        assert not shelf.complete
        assert [d.id for d in shelf.damaged] == [FIRST]
        assert reason in shelf.damaged[0].reason
    admin.put_object(Bucket=name, Key=f"backups/acme/backups/{FIRST}", Body=mine)
    admin.put_object(Bucket=name, Key=f"backups/acme/backups/{SECOND}", Body=mine)
    shelf = vault.shelf(ACME)
    assert [b.id for b in shelf.complete] == [FIRST]
    assert "another backup" in shelf.damaged[0].reason


def test_in_a_bucket_with_versions_neither_a_deletion_nor_another_manifest_takes_a_backup_away(
    versioned_bucket: VaultBucket,
) -> None:
    vault, admin, name = versioned_bucket.store().vault, versioned_bucket.admin, versioned_bucket.name
    made = backed_up(vault, ACME, FIRST, contents("a"))
    for key in versioned_bucket.keys("backups/acme/"):
        admin.delete_object(Bucket=name, Key=key)
    hidden = shelved(vault, ACME)[FIRST]
    assert (hidden.hidden, hidden.disputed) == (True, False)
    assert restored(vault, hidden) == contents("a")
    second = backed_up(vault, ACME, SECOND, contents("b"))
    body = admin.get_object(Bucket=name, Key=f"backups/acme/backups/{SECOND}")["Body"].read()
    admin.put_object(Bucket=name, Key=f"backups/acme/backups/{SECOND}", Body=b"a forgery" + body)
    disputed = shelved(vault, ACME)[SECOND]
    assert (disputed.hidden, disputed.disputed) == (False, True)
    assert disputed.contents == second.contents
    assert vault.collect(ACME, quiet_s=0).uploads == 0
    assert restored(vault, disputed) == contents("b")
    assert restored(vault, hidden) == contents("a")
    assert made.contents == hidden.contents


# -- locks -------------------------------------------------------------------------------------------------------------


def soon(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


def test_a_lock_is_set_on_everything_and_respected_and_said(
    locking_bucket: VaultBucket, wait_until: Callable[..., None]
) -> None:
    store = locking_bucket.store()
    vault = store.vault
    free = backed_up(vault, ACME, FIRST, contents("shared"))
    assert free.lock is None
    lock = Lock(mode=LockMode.GOVERNANCE, until=soon(10))
    made = backed_up(vault, ACME, SECOND, contents("shared", "own"), lock=lock)
    assert made.lock == lock
    assert shelved(vault, ACME)[SECOND].lock == lock
    # Its manifest, its list and both chunks, whoever has put these.
    assert [lock.until for _, lock in vault.locked(ACME) if lock] == [made.lock.until] * 4
    with pytest.raises(StoreRefused, match=f"locked.*{lock.until:%Y-%m-%d %H:%M}"):
        vault.delete(ACME, SECOND)
    vault.delete(ACME, FIRST)
    assert restored(vault, made) == contents("shared", "own")
    fence = Fence(tenant=ACME, epoch=1, token=5)
    store.fence(fence, expires_in_s=None, drain_s=5)
    with pytest.raises(StoreRefused, match=f"keeps 4 objects.*locked until {lock.until:%Y-%m-%d}"):
        store.erase(fence)
    assert restored(vault, made) == contents("shared", "own")
    wait_until(lambda: not vault.locked(ACME), "the lock ends")
    assert store.erase(fence) == 4
    assert not locking_bucket.keys("backups/")


def test_a_lock_only_ever_grows(locking_bucket: VaultBucket) -> None:
    vault = locking_bucket.store().vault
    later, sooner = soon(8), soon(4)
    made = backed_up(vault, ACME, FIRST, contents("a"), lock=Lock(mode=LockMode.GOVERNANCE, until=sooner))
    longer = vault.keep(made, Lock(mode=LockMode.GOVERNANCE, until=later))
    assert longer.lock == Lock(mode=LockMode.GOVERNANCE, until=later)
    assert vault.keep(longer, Lock(mode=LockMode.GOVERNANCE, until=sooner)).lock == longer.lock
    assert {lock.until for _, lock in vault.locked(ACME) if lock} == {later.replace(microsecond=0)}


def test_a_legal_hold_keeps_a_backup(locking_bucket: VaultBucket) -> None:
    vault = locking_bucket.store().vault
    backed_up(vault, ACME, FIRST, contents("a"))
    key = f"backups/acme/backups/{FIRST}"
    admin = locking_bucket.admin
    admin.put_object_legal_hold(Bucket=locking_bucket.name, Key=key, LegalHold={"Status": "ON"})
    assert shelved(vault, ACME)[FIRST].legal_hold
    with pytest.raises(StoreRefused, match="legal hold"):
        vault.delete(ACME, FIRST)
    assert vault.locked(ACME) == [(key, None)]
    admin.put_object_legal_hold(Bucket=locking_bucket.name, Key=key, LegalHold={"Status": "OFF"})
    vault.delete(ACME, FIRST)
    assert not shelved(vault, ACME)


def test_garbage_under_a_lock_is_counted_and_goes_when_it_has_ended(
    locking_bucket: VaultBucket, wait_until: Callable[..., None]
) -> None:
    vault = locking_bucket.store().vault
    dead = vault.begin(ACME, FIRST, key=key_of(ACME), lock=Lock(mode=LockMode.COMPLIANCE, until=soon(3)))
    put_all(dead, contents("a", "b"))
    dead.abandon()
    done = vault.collect(ACME, quiet_s=0)
    assert (done.uploads, done.locked) == (0, 2)
    wait_until(lambda: not vault.locked(ACME), "the lock ends")
    assert vault.collect(ACME, quiet_s=0).uploads == 2
    assert not locking_bucket.keys()


def test_the_buckets_own_rules_are_told(locking_bucket: VaultBucket, plain_bucket: VaultBucket) -> None:
    assert not plain_bucket.store().vault.rules().locks
    with pytest.raises(StoreRefused, match="locks no objects"):
        plain_bucket.store().vault.begin(
            ACME, FIRST, key=key_of(ACME), lock=Lock(mode=LockMode.GOVERNANCE, until=soon(60))
        )
    plain_bucket.admin.put_bucket_lifecycle_configuration(
        Bucket=plain_bucket.name,
        LifecycleConfiguration={
            "Rules": [
                {"ID": n, "Status": "Enabled", "Filter": {"Prefix": prefix}, "Expiration": {"Days": 3}}
                for n, prefix in (("ours", "backups/acme/"), ("theirs", "logs/"))
            ]
        },
    )
    rules = plain_bucket.store().vault.rules()
    assert (rules.versioned, rules.expiring) == (False, ("ours",))
    admin = locking_bucket.admin
    admin.put_object_lock_configuration(
        Bucket=locking_bucket.name,
        ObjectLockConfiguration={
            "ObjectLockEnabled": "Enabled",
            "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 2}},
        },
    )
    rules = locking_bucket.store().vault.rules()
    assert (rules.versioned, rules.locks) == (True, True)
    assert (rules.locks_by_default, rules.default_days) == (LockMode.COMPLIANCE, 2)


# -- holding -----------------------------------------------------------------------------------------------------------


def test_while_a_tenant_is_held_no_backup_of_it_begins_or_is_completed(bucket: VaultBucket) -> None:
    store = bucket.store()
    under_way = store.vault.begin(ACME, FIRST, key=key_of(ACME))
    listed = under_way.contents(put_all(under_way, contents("a")))
    fence = Fence(tenant=ACME, epoch=1, token=5)
    store.fence(fence, expires_in_s=None, drain_s=5)
    with pytest.raises(LeaseLost):
        under_way.commit(listed, PUBLIC)
    with pytest.raises(FenceRefused):
        store.vault.begin(ACME, SECOND, key=key_of(ACME))
    assert not shelved(store.vault, ACME)
    assert not store.vault.shelf(ACME).unfinished
    neighbour = backed_up(store.vault, ACME1, FIRST, contents("a"))
    assert store.erase(fence) == 2  # the chunk, and the list of chunks
    store.open(fence)
    backed_up(store.vault, ACME, THIRD, contents("a"))
    assert restored(store.vault, neighbour) == contents("a")
