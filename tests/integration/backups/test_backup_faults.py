"""What can go wrong with a backup in a vault, each found, named, and nothing lost: damage of every sort, manifests and
chunks of others, other keys, vaults that are full or refuse halfway, and writers that were killed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from tenure.backups import writing as module
from tenure.backups.manifest import canonical, totals
from tenure.backups.verifying import Verification
from tenure.errors import (
    BackupTooNew,
    BackupUntrusted,
    KeyUnusable,
    LeaseLost,
    StoreRefused,
    StoreUnavailable,
    TenureError,
    VaultDamaged,
)
from tenure.model.names import TenantId
from tenure.stores.vault.contract import Backup, BackupId, KeyReference, Lock, LockMode
from tests.integration.vault.conftest import VaultBucket
from tests.s3_proxy import Answer, FaultyS3, Request, faulty, refusal
from tests.sealed import (
    ACME,
    FILES,
    GLOBEX,
    MAIN,
    Estate,
    backed_up,
    prepared,
    restored,
    rows,
    written,
)

STREAMS = {
    (MAIN, "public.documents"): b"".join(rows(6_000)),
    (MAIN, "public.small"): b"a few bytes of acme's",
    (FILES, "keys"): b"".join(rows(2_500, seed=2)),
}
OTHERS = {(MAIN, "public.documents"): b"".join(rows(1_500, seed=9))}


@pytest.fixture
def proxy(bucket: VaultBucket) -> Iterator[FaultyS3]:
    with faulty(bucket.s3.endpoint) as made:
        yield made


def body_of(bucket: VaultBucket, key: str) -> bytes:
    return bytes(bucket.admin.get_object(Bucket=bucket.name, Key=key)["Body"].read())


def put_body(bucket: VaultBucket, key: str, body: bytes) -> None:
    """As somebody with rights to the bucket would: the older versions go as well."""
    drop(bucket, key)
    bucket.admin.put_object(Bucket=bucket.name, Key=key, Body=body)


def drop(bucket: VaultBucket, key: str) -> None:
    found = bucket.admin.list_object_versions(Bucket=bucket.name, Prefix=key)
    for version in (*found.get("Versions", []), *found.get("DeleteMarkers", [])):
        bucket.admin.delete_object(Bucket=bucket.name, Key=version["Key"], VersionId=version["VersionId"])


def chunk_keys(bucket: VaultBucket, estate: Estate, backup: Backup) -> list[str]:
    """The objects of the chunks of one table, which no other stream needs."""
    vault = bucket.store().vault
    reader = estate.backups.open(vault, backup, tenant=backup.tenant)
    placed = next(p for p in reader.index.streams if p.stream.collection == "public.documents")
    chunks = reader.index.runs[placed.run].chunks
    reader.close()
    stored = vault.contents(backup).chunks
    return [f"backups/{backup.tenant}/chunks/{stored[chunk].name}" for chunk in chunks]


def looked(bucket: VaultBucket, estate: Estate, backup: Backup, **how: Any) -> Verification:
    return estate.backups.verify(bucket.store().vault, backup, tenant=backup.tenant, **how)


def codes(verification: Verification) -> set[str]:
    return {problem.code for problem in verification.problems}


def flipped(body: bytes) -> bytes:
    at = len(body) // 2
    return body[:at] + bytes((body[at] ^ 0x10,)) + body[at + 1 :]


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_key", [True, False])
@pytest.mark.parametrize(
    ("damage", "code"),
    [(flipped, "chunk_damaged"), (lambda b: b[:-9], "chunk_missing"), (lambda b: None, "chunk_missing")],
    ids=["bit flip", "truncated", "missing"],
)
def test_a_damaged_chunk_is_found_named_and_made_whole_by_the_next_backup(
    bucket: VaultBucket,
    estate: Estate,
    damage: Callable[[bytes], bytes | None],
    code: str,
    with_key: bool,
) -> None:
    backup, _ = backed_up(estate, bucket.store().vault, ACME, "b-1", STREAMS)
    key = chunk_keys(bucket, estate, backup)[0]
    body = damage(body_of(bucket, key))
    drop(bucket, key)
    if body is not None:
        put_body(bucket, key, body)
    found = looked(bucket, estate, backup, with_key=with_key)
    assert (codes(found), found.opened, found.whole) == ({code}, with_key, True)
    (chunk,) = found.damaged
    assert chunk in key
    assert chunk in found.problems[0].message
    if with_key:
        assert found.problems[0].streams == ("main, public.documents",)
        assert found.streams_checked == len(STREAMS) - 1
    with pytest.raises(VaultDamaged) as caught:
        restored(estate, bucket.store().vault, backup)
    assert "main, public.documents" in caught.value.message
    assert chunk in caught.value.message
    # What can be read is read all the same, and what was lost comes back.
    reader = estate.backups.open(bucket.store().vault, backup, tenant=ACME)
    (small,) = reader.streams(MAIN, "public.small")
    assert b"".join(reader.read(small)) == STREAMS[(MAIN, "public.small")]
    reader.close()
    vault = bucket.store().vault
    vault.distrust(vault.contents(backup), found.damaged)
    again, ready = backed_up(estate, bucket.store().vault, ACME, "b-2", STREAMS)
    assert ready.tally.put == 2
    assert restored(estate, vault, again) == restored(estate, vault, backup) == STREAMS


def test_a_sample_looks_at_a_part_and_finds_what_is_missing_everywhere(
    bucket: VaultBucket, estate: Estate
) -> None:
    backup, _ = backed_up(estate, bucket.store().vault, ACME, "b-1", STREAMS)
    good = looked(bucket, estate, backup, share=0.3)
    assert good.good
    assert not good.whole
    assert len(backup.public["index"]) < good.chunks_looked_at < good.chunks_of == backup.chunks
    drop(bucket, chunk_keys(bucket, estate, backup)[0])
    assert "chunk_missing" in codes(looked(bucket, estate, backup, share=0.01))


def test_a_good_backup_is_verified_to_its_last_byte_without_the_cell(
    bucket: VaultBucket, estate: Estate
) -> None:
    backup, _ = backed_up(estate, bucket.store().vault, ACME, "b-1", STREAMS)
    told: list[tuple[int, int]] = []
    found = looked(bucket, estate, backup, progress=lambda n, size: told.append((n, size)))
    assert found.good
    assert (found.opened, found.whole, found.streams_checked) == (True, True, len(STREAMS))
    assert found.chunks_looked_at == backup.chunks == sum(n for n, _ in told)
    assert found.bytes_looked_at == backup.size_bytes == sum(size for _, size in told)
    sealed = looked(bucket, estate, backup, with_key=False)
    assert (sealed.good, sealed.opened, sealed.bytes_looked_at) == (True, False, backup.size_bytes)


def test_damage_to_the_index_says_that_nothing_can_be_restored(bucket: VaultBucket, estate: Estate) -> None:
    backup, _ = backed_up(estate, bucket.store().vault, ACME, "b-1", STREAMS)
    contents = bucket.store().vault.contents(backup)
    key = f"backups/acme/chunks/{contents.chunks[backup.public['index'][0]].name}"
    put_body(bucket, key, flipped(body_of(bucket, key)))
    assert codes(looked(bucket, estate, backup)) == {"index_unreadable", "chunk_damaged"}
    with pytest.raises(VaultDamaged):
        estate.backups.open(bucket.store().vault, backup, tenant=ACME)


def test_a_stream_that_is_put_together_wrongly_is_found_though_every_chunk_is_right(
    bucket: VaultBucket, estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As only a mistake of ours could make one: here its digest is of something else."""
    vault = bucket.store().vault
    with monkeypatch.context() as patched:
        patched.setattr(module, "hashlib", SimpleNamespace(sha256=hashlib.sha3_256))
        backup, _ = backed_up(estate, vault, ACME, "b-1", OTHERS)
    found = looked(bucket, estate, backup)
    assert codes(found) == {"stream_differs"}
    assert found.problems[0].streams == ("main, public.documents",)
    assert looked(bucket, estate, backup, with_key=False).good
    with pytest.raises(VaultDamaged, match=r"main, public\.documents is not what was written"):
        restored(estate, vault, backup)


def test_a_chunk_that_several_streams_share_is_counted_once_and_names_them_all(
    bucket: VaultBucket, estate: Estate
) -> None:
    same = OTHERS[(MAIN, "public.documents")] * 2
    streams = {(MAIN, "public.documents"): same, (MAIN, "public.twin"): same, (MAIN, "public.none"): b""}
    backup, _ = backed_up(estate, bucket.store().vault, ACME, "b-1", streams)
    found = looked(bucket, estate, backup)
    assert found.good
    assert (found.chunks_looked_at, found.bytes_looked_at) == (backup.chunks, backup.size_bytes)
    assert found.streams_checked == 3
    drop(bucket, chunk_keys(bucket, estate, backup)[0])
    (problem,) = looked(bucket, estate, backup).problems
    assert problem.streams == ("main, public.documents", "main, public.twin")


@pytest.mark.parametrize("first", ["gone", "damaged"])
def test_other_bytes_under_a_fitting_name_are_found_with_and_without_the_key(
    bucket: VaultBucket, estate: Estate, first: str
) -> None:
    """The vault's own digests are no secret: who may write to it can make them fit. The signature they cannot."""
    backup, _ = backed_up(estate, bucket.store().vault, ACME, "b-1", STREAMS)
    vault = bucket.store().vault
    contents = vault.contents(backup)
    chunk = next(c for c in contents.chunks if c not in backup.public["index"])
    other = vault.begin(ACME, BackupId("forged"), key=backup.key)
    key = f"backups/acme/chunks/{contents.chunks[chunk].name}"
    whole = body_of(bucket, key)
    drop(bucket, key)
    assert other.put(chunk, b"whatever" * 1000)
    if first == "damaged":
        put_body(bucket, key, flipped(whole))
    code = "chunk_damaged" if first == "damaged" else "chunk_missing"
    assert codes(looked(bucket, estate, backup, with_key=False)) == {code}
    with pytest.raises(VaultDamaged) as caught:
        restored(estate, bucket.store().vault, backup)
    assert chunk in caught.value.message
    assert not looked(bucket, estate, backup, with_key=False).good
    assert not looked(bucket, estate, backup).good


# -- manifests ---------------------------------------------------------------------------------------------------------


def record(bucket: VaultBucket, tenant: str, backup: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(body_of(bucket, f"backups/{tenant}/backups/{backup}"))
    return found


def store_record(bucket: VaultBucket, tenant: str, backup: str, fields: dict[str, Any]) -> Backup:
    """A manifest whose own digest fits, as anybody can make one who may write to the bucket."""
    plain = {k: v for k, v in fields.items() if k != "sha256"}
    digest = hashlib.sha256(canonical(plain)).hexdigest()
    put_body(bucket, f"backups/{tenant}/backups/{backup}", canonical({**plain, "sha256": digest}))
    shelf = bucket.store().vault.shelf(TenantId(tenant))
    assert not shelf.damaged, shelf.damaged
    return next(one for one in shelf.complete if one.id == backup)


def refused(bucket: VaultBucket, estate: Estate, backup: Backup) -> TenureError:
    """The same refusal by opening, copying and verifying, with the key and without."""
    vault = bucket.store().vault
    with pytest.raises((BackupUntrusted, BackupTooNew, KeyUnusable)) as caught:
        estate.backups.open(vault, backup, tenant=backup.tenant)
    if not isinstance(caught.value, KeyUnusable):
        for with_key in (True, False):
            assert caught.value.code in codes(looked(bucket, estate, backup, with_key=with_key))
        with pytest.raises(type(caught.value)):
            estate.backups.copy(vault, backup, vault, tenant=backup.tenant)
    return caught.value


def test_a_manifest_in_the_place_of_another_is_refused(bucket: VaultBucket, estate: Estate) -> None:
    """An older backup passed off as a newer one: signature, key and chunks are all in order."""
    vault = bucket.store().vault
    first, _ = backed_up(estate, vault, ACME, "b-1", OTHERS)
    backed_up(estate, vault, ACME, "b-2", STREAMS)
    fields = record(bucket, "acme", "b-1")
    listed = next(k for k in bucket.keys("backups/acme/lists/b-1."))
    put_body(bucket, listed.replace("lists/b-1.", "lists/b-2."), body_of(bucket, listed))
    swapped = store_record(bucket, "acme", "b-2", {**fields, "backup": "b-2"})
    assert "signed for another id" in refused(bucket, estate, swapped).message
    assert restored(estate, vault, first) == OTHERS


def test_a_public_part_in_the_place_of_another_is_refused(bucket: VaultBucket, estate: Estate) -> None:
    vault = bucket.store().vault
    backed_up(estate, vault, ACME, "b-1", OTHERS)
    backed_up(estate, vault, ACME, "b-2", STREAMS)
    fields = {**record(bucket, "acme", "b-2"), "public": record(bucket, "acme", "b-1")["public"]}
    assert (
        "signed for another id"
        in refused(bucket, estate, store_record(bucket, "acme", "b-2", fields)).message
    )


def test_a_manifest_of_another_tenant_is_refused(bucket: VaultBucket, estate: Estate) -> None:
    """With all that belongs to it in the right places."""
    vault = bucket.store().vault
    theirs, _ = backed_up(estate, vault, GLOBEX, "b-1", OTHERS)
    backed_up(estate, vault, ACME, "b-1", STREAMS)
    drop(bucket, "backups/acme/")
    for key in bucket.keys("backups/globex/"):
        put_body(bucket, key.replace("globex", "acme"), body_of(bucket, key))
    fields = {**record(bucket, "globex", "b-1"), "tenant": "acme"}
    replayed = store_record(bucket, "acme", "b-1", fields)
    assert "signed for another tenant" in refused(bucket, estate, replayed).message
    with pytest.raises(BackupUntrusted, match="is not a backup of acme"):
        estate.backups.open(vault, theirs, tenant=ACME)


def test_a_list_of_chunks_that_was_not_signed_is_refused(bucket: VaultBucket, estate: Estate) -> None:
    """The vault's own digest of it fits, the signature does not."""
    vault = bucket.store().vault
    backed_up(estate, vault, ACME, "b-1", OTHERS)
    backed_up(estate, vault, ACME, "b-2", STREAMS)
    other = record(bucket, "acme", "b-1")
    listed = next(k for k in bucket.keys("backups/acme/lists/b-1."))
    put_body(bucket, listed.replace("lists/b-1.", "lists/b-2."), body_of(bucket, listed))
    fields = record(bucket, "acme", "b-2")
    fields |= {name: other[name] for name in ("contents", "chunks", "size_bytes")}
    forged = store_record(bucket, "acme", "b-2", fields)
    assert "signed for another list of chunks" in refused(bucket, estate, forged).message


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: {**p, "epoch": 8}, "not that of what it says"),
        (lambda p: {**p, "point": "2030-01-01T00:00:00+00:00"}, "not that of what it says"),
        (lambda p: {**p, "format": 0}, "not that of what it says"),
        (lambda p: {k: v for k, v in p.items() if k != "signature"}, "is not signed"),
        (lambda p: {**p, "signature": {**p["signature"], "by": "0" * 16}}, "does not trust"),
        (lambda p: {**p, "signature": {**p["signature"], "ed25519": "AAAA"}}, "not that of what it says"),
        (lambda p: {}, "is not signed"),
    ],
)
def test_a_manifest_that_was_changed_or_cut_is_refused(
    bucket: VaultBucket, estate: Estate, change: Callable[[dict[str, Any]], dict[str, Any]], reason: str
) -> None:
    backed_up(estate, bucket.store().vault, ACME, "b-1", OTHERS)
    fields = record(bucket, "acme", "b-1")
    forged = store_record(bucket, "acme", "b-1", {**fields, "public": change(fields["public"])})
    error = refused(bucket, estate, forged)
    assert isinstance(error, BackupUntrusted)
    assert reason in error.message


def test_a_manifest_signed_by_another_estate_is_refused(
    bucket: VaultBucket, estate: Estate, tmp_path: Any
) -> None:
    """Even with the same master key, and so the same data keys."""
    other = Estate(estate.folder, master=estate.master)
    backup, _ = backed_up(other, bucket.store().vault, ACME, "b-1", OTHERS)
    assert restored(other, bucket.store().vault, backup) == OTHERS
    assert "does not trust" in refused(bucket, estate, backup).message


def test_a_manifest_of_a_newer_format_is_refused_before_anything_else_is_believed(
    bucket: VaultBucket, estate: Estate
) -> None:
    backed_up(estate, bucket.store().vault, ACME, "b-1", OTHERS)
    fields = record(bucket, "acme", "b-1")
    newer = store_record(bucket, "acme", "b-1", {**fields, "public": {**fields["public"], "format": 2}})
    error = refused(bucket, estate, newer)
    assert isinstance(error, BackupTooNew)
    assert "format 2" in error.message


def test_an_index_that_does_not_fit_its_manifest_is_refused(
    bucket: VaultBucket, estate: Estate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As only a mistake of ours could make one: it is signed and sealed in order."""
    vault = bucket.store().vault
    with monkeypatch.context() as patched:
        patched.setattr(
            module, "totals", lambda i: {k: replace(v, items=v.items + 1) for k, v in totals(i).items()}
        )
        backup, _ = backed_up(estate, vault, ACME, "b-1", OTHERS)
    with pytest.raises(VaultDamaged, match="different amounts"):
        estate.backups.open(vault, backup, tenant=ACME)
    assert codes(looked(bucket, estate, backup)) == {"index_unreadable"}


# -- keys and tenants --------------------------------------------------------------------------------------------------


def test_a_wrong_key_is_named_before_a_chunk_is_read(bucket: VaultBucket, estate: Estate) -> None:
    """Another key of the same tenant, put in the place of the first."""
    backup, _ = backed_up(estate, bucket.store().vault, ACME, "b-1", OTHERS)
    second = estate.backups.rotate(ACME)
    fields = record(bucket, "acme", "b-1")
    pointed = store_record(bucket, "acme", "b-1", {**fields, "key": second})
    assert "signed for another key" in refused(bucket, estate, pointed).message
    other = Estate(estate.folder.parent / "other keys", signer=estate.signer)
    other.keys.create(ACME)
    with pytest.raises(KeyUnusable, match="there is no key"):
        other.backups.open(bucket.store().vault, backup, tenant=ACME)
    found = looked(bucket, other, backup)
    assert "key_unusable" in codes(found)
    assert not found.opened
    assert found.bytes_looked_at == backup.size_bytes


def test_nothing_of_one_tenant_is_readable_with_the_key_of_another(
    bucket: VaultBucket, estate: Estate
) -> None:
    """Their chunks copied to the other's places, under their own names: not opened, and no message tells anything."""
    vault = bucket.store().vault
    theirs, _ = backed_up(estate, vault, GLOBEX, "b-1", OTHERS)
    mine, _ = backed_up(estate, vault, ACME, "b-1", STREAMS)
    stolen = body_of(bucket, chunk_keys(bucket, estate, theirs)[0])
    contents = vault.contents(mine)
    sealer = estate.backups._sealer(mine.key, ACME)
    messages = []
    for chunk in vault.contents(theirs).chunks:
        with pytest.raises(VaultDamaged) as caught:
            sealer.open(chunk, vault.get(vault.contents(theirs), chunk))
        messages.append(f"{caught.value.message} {caught.value.hint}")
    for chunk in contents.chunks:
        with pytest.raises(VaultDamaged) as caught:
            sealer.open(chunk, stolen)
        messages.append(f"{caught.value.message} {caught.value.hint}")
    for path in estate.folder.rglob("*.key"):
        assert OTHERS[(MAIN, "public.documents")][:20] not in path.read_bytes()
    assert len(messages) > 4
    told = " ".join(messages)
    words = {w for line in rows(1_500, seed=9) for w in line.decode().split() if len(w) > 5}
    assert not [w for w in words if w in told]
    keys = [estate.keys.open(k).material for t in (ACME, GLOBEX) for k in estate.keys.references(t)]
    assert not [k for k in keys if k.hex() in told or str(k) in told]
    shared = set(vault.contents(theirs).chunks) & set(contents.chunks)
    assert not shared


def test_the_same_contents_of_two_tenants_have_nothing_in_common_in_the_vault(
    bucket: VaultBucket, estate: Estate
) -> None:
    vault = bucket.store().vault
    mine, _ = backed_up(estate, vault, ACME, "b-1", STREAMS)
    theirs, _ = backed_up(estate, vault, GLOBEX, "b-1", STREAMS)
    one, other = vault.contents(mine).chunks, vault.contents(theirs).chunks
    assert not set(one) & set(other)
    assert not {s.name[-32:] for s in one.values()} & {s.name[-32:] for s in other.values()}
    assert sorted(s.size for s in one.values()) != sorted(s.size for s in other.values())


def test_after_a_rotation_old_backups_stay_readable_and_new_ones_have_the_new_key(
    bucket: VaultBucket, estate: Estate
) -> None:
    vault = bucket.store().vault
    first, _ = backed_up(estate, vault, ACME, "b-1", STREAMS)
    second_key = estate.backups.rotate(ACME)
    second, ready = backed_up(estate, vault, ACME, "b-2", STREAMS)
    assert (second.key, second.key == first.key) == (second_key, False)
    assert ready.tally.put == second.chunks
    assert restored(estate, vault, first) == restored(estate, vault, second) == STREAMS
    estate.keys.destroy(first.key)
    assert restored(estate, vault, second) == STREAMS
    with pytest.raises(KeyUnusable):
        restored(estate, vault, first)


def test_destroying_a_tenants_keys_makes_all_its_backups_unreadable_and_nobody_elses(
    bucket: VaultBucket, estate: Estate
) -> None:
    vault = bucket.store().vault
    mine = [backed_up(estate, vault, ACME, f"b-{n}", OTHERS)[0] for n in range(2)]
    theirs, _ = backed_up(estate, vault, GLOBEX, "b-1", OTHERS)
    destructions = estate.backups.destroy_keys(ACME)
    assert [d.reference for d in destructions] == [mine[0].key]
    assert all("tried and failed" in d.proof for d in destructions)
    for backup in mine:
        with pytest.raises(KeyUnusable, match="destroyed"):
            estate.backups.open(vault, backup, tenant=ACME)
        assert "key_unusable" in codes(looked(bucket, estate, backup))
    assert estate.backups.destroy_keys(ACME) == ()
    assert restored(estate, vault, theirs) == OTHERS


# -- vaults that refuse, and writers that die --------------------------------------------------------------------------


def puts_after(n: int, answer: Answer) -> Callable[[Request], Answer | None]:
    """That answer to every chunk after the first so many."""
    seen = [0]

    def rule(request: Request) -> Answer | None:
        if request.method != "PUT" or "/chunks/" not in request.path:
            return None
        seen[0] += 1
        return answer if seen[0] > n else None

    return rule


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal(507, "InsufficientStorage"), StoreRefused),
        (refusal(403, "AccessDenied"), StoreRefused),
        (refusal(403, "QuotaExceeded"), StoreRefused),
        (refusal(503, "SlowDown"), StoreUnavailable),
    ],
    ids=["full", "forbidden", "quota", "overloaded"],
)
def test_a_vault_that_is_full_or_refuses_halfway_lists_nothing_and_keeps_what_it_has(
    bucket: VaultBucket, estate: Estate, proxy: FaultyS3, answer: Answer, error: type[TenureError]
) -> None:
    vault = bucket.store(endpoint=proxy.endpoint).vault
    writer = estate.backups.begin(vault, ACME, BackupId("b-1"), patience_s=0.5)
    proxy.rule = puts_after(2, answer)

    def attempt() -> None:
        written(writer, STREAMS)
        prepared(writer, estate.signer, STREAMS)

    with pytest.raises(error) as caught:
        attempt()
    assert "chunk" in caught.value.message
    with pytest.raises(error):
        prepared(writer, estate.signer, STREAMS)
    writer.close()
    shelf = bucket.store().vault.shelf(ACME)
    assert (shelf.complete, [u.id for u in shelf.unfinished]) == ((), ["b-1"])
    kept = len(bucket.keys("backups/acme/chunks/"))
    assert kept >= 2
    proxy.rule = lambda _request: None
    writer = estate.backups.resume(vault, ACME, BackupId("b-1"))
    written(writer, STREAMS)
    ready = prepared(writer, estate.signer, STREAMS)
    backup = writer.commit(ready)
    writer.close()
    assert ready.tally.put == backup.chunks - kept
    assert restored(estate, vault, backup) == STREAMS


def test_a_vault_that_is_away_for_a_moment_does_not_end_the_backup(
    bucket: VaultBucket, estate: Estate, proxy: FaultyS3
) -> None:
    vault = bucket.store(endpoint=proxy.endpoint).vault
    writer = estate.backups.begin(vault, ACME, BackupId("b-1"))
    seen: list[Request] = []

    def rule(request: Request) -> Answer | None:
        if request.method != "PUT" or "/chunks/" not in request.path:
            return None
        seen.append(request)
        return refusal(503, "SlowDown") if len(seen) <= 20 else None

    proxy.rule = rule
    written(writer, STREAMS)
    backup = writer.commit(prepared(writer, estate.signer, STREAMS))
    writer.close()
    assert len(seen) > 20
    assert restored(estate, vault, backup) == STREAMS


def test_a_writer_that_died_is_carried_on_and_puts_nothing_twice(bucket: VaultBucket, estate: Estate) -> None:
    vault = bucket.store().vault
    died = estate.backups.begin(vault, ACME, BackupId("b-1"))
    written(died, {(MAIN, "public.documents"): STREAMS[(MAIN, "public.documents")]})
    died._putter.drain()
    before = len(bucket.keys("backups/acme/chunks/"))
    estate.backups.rotate(ACME)
    writer = estate.backups.resume(bucket.store().vault, ACME, BackupId("b-1"))
    written(writer, STREAMS)
    ready = prepared(writer, estate.signer, STREAMS)
    with pytest.raises(LeaseLost):
        died.commit(prepared(died, estate.signer, {}))
    backup = writer.commit(ready)
    assert writer.commit(ready) == backup
    assert before >= 2
    assert ready.tally.put == backup.chunks - before
    assert restored(estate, bucket.store().vault, backup) == STREAMS
    for each in (died, writer):
        each.close()


def test_an_abandoned_backup_leaves_nothing_once_garbage_is_collected(
    bucket: VaultBucket, estate: Estate
) -> None:
    vault = bucket.store().vault
    writer = estate.backups.begin(vault, ACME, BackupId("b-1"))
    written(writer, STREAMS)
    writer.abandon()
    vault.collect(ACME, quiet_s=0)
    vault.collect(ACME, quiet_s=0)
    assert bucket.keys("backups/acme/") == []


# -- locks -------------------------------------------------------------------------------------------------------------


def test_an_expired_lock_protects_no_longer_and_can_be_renewed(
    locking_bucket: VaultBucket, estate: Estate, wait_until: Callable[..., None]
) -> None:
    """Until it has expired, a backup and all its chunks stay, whoever asks; afterwards verification still finds it
    whole, and says so; a lock that is renewed in time protects on."""
    vault = locking_bucket.store().vault
    lock = Lock(mode=LockMode.GOVERNANCE, until=datetime.now(UTC) + timedelta(seconds=20))
    backup, _ = backed_up(estate, vault, ACME, "b-1", OTHERS, lock=lock)
    other, _ = backed_up(estate, vault, ACME, "b-2", OTHERS, lock=lock)
    assert backup.lock == lock
    with pytest.raises(StoreRefused, match="locked"):
        vault.delete(ACME, backup.id)
    longer = Lock(mode=LockMode.GOVERNANCE, until=lock.until + timedelta(hours=1))
    vault.keep(other, longer)
    wait_until(lambda: datetime.now(UTC) > lock.until + timedelta(seconds=1), "the lock ends", deadline_s=60)
    found = estate.backups.verify(vault, backup, tenant=ACME)
    assert found.good
    assert [n for n in found.notices if "lock ended" in n and f"{lock.until:%H:%M:%S}" in n]
    renewed = next(one for one in vault.shelf(ACME).complete if one.id == "b-2")
    assert estate.backups.verify(vault, renewed, tenant=ACME).notices == ()
    vault.delete(ACME, backup.id)
    with pytest.raises(StoreRefused, match="locked"):
        vault.delete(ACME, other.id)
    vault.collect(ACME, quiet_s=0)
    assert restored(estate, vault, other) == OTHERS


# -- copies ------------------------------------------------------------------------------------------------------------


def test_a_copy_in_another_region_is_made_and_verified_without_a_key_and_restores(
    bucket: VaultBucket, other_bucket: VaultBucket, estate: Estate
) -> None:
    source, target = bucket.store().vault, other_bucket.store().vault
    first, _ = backed_up(estate, source, ACME, "b-1", STREAMS)
    keyless = Estate(estate.folder.parent / "no keys", signer=estate.signer)
    copied = keyless.backups.copy(source, first, target, tenant=ACME)
    assert (copied.chunks, copied.put, copied.put_bytes) == (first.chunks, first.chunks, first.size_bytes)
    found = keyless.backups.verify(target, copied.backup, tenant=ACME, with_key=False)
    assert (found.good, found.bytes_looked_at) == (True, first.size_bytes)
    assert not (estate.folder.parent / "no keys").exists()
    drop(bucket, "backups/acme/")
    assert restored(estate, target, copied.backup) == STREAMS
    assert estate.backups.verify(target, copied.backup, tenant=ACME).good


def test_a_second_copy_moves_what_is_new_only_and_a_repeated_one_nothing(
    bucket: VaultBucket, other_bucket: VaultBucket, estate: Estate
) -> None:
    source, target = bucket.store().vault, other_bucket.store().vault
    first, _ = backed_up(estate, source, ACME, "b-1", STREAMS)
    second, _ = backed_up(estate, source, ACME, "b-2", {**STREAMS, (FILES, "more"): b"x" * 100})
    estate.backups.copy(source, first, target, tenant=ACME)
    copied = estate.backups.copy(source, second, target, tenant=ACME)
    assert copied.put <= 3
    again = estate.backups.copy(source, second, target, tenant=ACME)
    assert (again.put, again.backup) == (0, copied.backup)


@pytest.mark.parametrize("damage", [flipped, lambda b: None], ids=["bit flip", "missing"])
def test_a_damaged_backup_is_not_copied_and_a_copy_that_broke_off_is_carried_on(
    bucket: VaultBucket,
    other_bucket: VaultBucket,
    estate: Estate,
    damage: Callable[[bytes], bytes | None],
) -> None:
    source, target = bucket.store().vault, other_bucket.store().vault
    backup, _ = backed_up(estate, source, ACME, "b-1", STREAMS)
    key = chunk_keys(bucket, estate, backup)[0]
    whole = body_of(bucket, key)
    drop(bucket, key)
    damaged = damage(whole)
    if damaged is not None:
        put_body(bucket, key, damaged)
    with pytest.raises(VaultDamaged) as caught:
        estate.backups.copy(source, backup, target, tenant=ACME)
    assert key.rpartition("/")[2].partition(".")[0] in caught.value.message
    assert target.shelf(ACME).complete == ()
    there = len(other_bucket.keys("backups/acme/chunks/"))
    put_body(bucket, key, whole)
    copied = estate.backups.copy(source, backup, target, tenant=ACME)
    assert copied.put == backup.chunks - there
    assert restored(estate, target, copied.backup) == STREAMS


def test_a_copy_is_not_taken_for_another_backup_of_that_id(
    bucket: VaultBucket, other_bucket: VaultBucket, estate: Estate
) -> None:
    source, target = bucket.store().vault, other_bucket.store().vault
    backup, _ = backed_up(estate, source, ACME, "b-1", STREAMS)
    backed_up(estate, target, ACME, "b-1", OTHERS)
    with pytest.raises(BackupUntrusted, match="another backup"):
        estate.backups.copy(source, backup, target, tenant=ACME)


def test_signed_bytes_are_the_same_whoever_writes_them() -> None:
    assert canonical({"b": 1, "a": {"d": "é", "c": None}}) == b'{"a":{"c":null,"d":"\\u00e9"},"b":1}'


def test_a_key_reference_of_another_service_is_named_as_such(estate: Estate) -> None:
    with pytest.raises(KeyUnusable, match="another key service"):
        estate.keys.open(KeyReference("kms:acme:" + "0" * 24))
