"""A vault whose server throttles, loses answers, forgets page tokens, fails a part of a batch or runs full; and writers
and collectors that are killed before and after each of their requests."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tenure.errors import StoreRefused, StoreUnavailable
from tenure.model.names import TenantId
from tenure.stores.contract import Fence
from tenure.stores.vault.contract import ChunkId
from tests.integration.vault.conftest import VaultBucket
from tests.s3_proxy import CUT, LOST, Answer, FaultyS3, Request, faulty, refusal, times
from tests.vaults import PUBLIC, backed_up, backup_id, chunk_id, finished, key_of, put_all, restored, shelved

ACME, ACME1 = TenantId("acme"), TenantId("acme1")
FIRST, SECOND = backup_id(1), backup_id(2)
WORDS = [f"contents {n}".encode() for n in range(3)]
FENCE = Fence(tenant=ACME, epoch=1, token=5)


@pytest.fixture
def proxy(bucket: VaultBucket) -> Iterator[FaultyS3]:
    with faulty(bucket.s3.endpoint) as made:
        yield made


def writes(part: str) -> Callable[[Request], bool]:
    return lambda r: r.method == "PUT" and f"/{part}/" in r.path


@pytest.mark.parametrize("part", ["chunks", "lists", "backups"])
@pytest.mark.parametrize("fault", [LOST, CUT, refusal(503, "SlowDown"), refusal(500, "InternalError")])
def test_a_request_that_went_wrong_once_is_made_again_and_counts_once(
    bucket: VaultBucket, proxy: FaultyS3, part: str, fault: Answer
) -> None:
    """Also where the first one was carried out: the manifest that stands there is known for the writer's own."""
    vault = bucket.store(endpoint=proxy.endpoint).vault
    for n in (1, 2):
        proxy.rule = times(1, fault, writes(part))
        made = backed_up(vault, ACME, backup_id(n), WORDS)
        assert restored(bucket.store().vault, made) == set(WORDS)
    proxy.rule = times(1, fault, writes("condemned"))
    vault.delete(ACME, FIRST)
    assert vault.collect(ACME, quiet_s=3600).uploads == 0
    assert list(shelved(vault, ACME)) == [SECOND]
    assert len(bucket.keys("backups/acme/chunks/")) == len(WORDS)


def test_an_outage_is_unavailable_and_the_backup_is_carried_on_after_it(
    bucket: VaultBucket, proxy: FaultyS3
) -> None:
    vault = bucket.store(endpoint=proxy.endpoint).vault
    writing = vault.begin(ACME, FIRST, key=key_of(ACME))
    put_all(writing, WORDS[:1])
    proxy.rule = lambda _request: refusal(503, "SlowDown")
    with pytest.raises(StoreUnavailable) as caught:
        put_all(writing, WORDS)
    assert caught.value.retryable
    for attempt in (
        lambda: vault.shelf(ACME),
        lambda: vault.collect(ACME, quiet_s=0),
        writing.renew,
    ):
        with pytest.raises(StoreUnavailable):
            attempt()
    proxy.rule = lambda _request: None
    made = finished(vault.resume(ACME, FIRST), WORDS)
    assert restored(vault, made) == set(WORDS)
    assert len(bucket.keys("backups/acme/chunks/")) == len(WORDS)


def test_a_vault_that_is_full_refuses_halfway_and_lists_nothing(bucket: VaultBucket, proxy: FaultyS3) -> None:
    vault = bucket.store(endpoint=proxy.endpoint).vault
    before = backed_up(vault, ACME, FIRST, WORDS[:1])
    writing = vault.begin(ACME, SECOND, key=key_of(ACME))
    put_all(writing, WORDS[:1])
    proxy.rule = lambda r: refusal(403, "QuotaExceeded") if r.method == "PUT" else None
    with pytest.raises(StoreRefused, match="QuotaExceeded"):
        put_all(writing, WORDS)
    assert list(shelved(bucket.store().vault, ACME)) == [FIRST]
    assert restored(vault, before) == set(WORDS[:1])
    proxy.rule = lambda _request: None
    assert restored(vault, finished(writing, WORDS)) == set(WORDS)


def test_an_answer_that_ends_halfway_is_no_damage(plain_bucket: VaultBucket) -> None:
    with faulty(plain_bucket.s3.endpoint) as proxy:
        vault = plain_bucket.store(endpoint=proxy.endpoint).vault
        made = backed_up(vault, ACME, FIRST, [b"x" * 100_000])
        listed = vault.contents(made)
        (chunk,) = listed.chunks
        proxy.rule = lambda r: CUT if r.method == "GET" and "/chunks/" in r.path else None
        with pytest.raises(StoreUnavailable):
            vault.get(listed, chunk)
        proxy.rule = times(1, CUT, lambda r: "/chunks/" in r.path)
        assert restored(vault, made) == {b"x" * 100_000}


# -- listings and batches ----------------------------------------------------------------------------------------------

MANY = 1100


@pytest.fixture
def full_vault(plain_bucket: VaultBucket) -> VaultBucket:
    """More uploads than one page of a listing, or one batch of a deletion, has."""
    vault = plain_bucket.store().vault
    writing = vault.begin(ACME, FIRST, key=key_of(ACME))
    names = [f"{n:064x}.{'0' * 12}.{'0' * 32}" for n in range(MANY)]
    access = vault._access
    for _ in access.each(lambda name: access.put(f"backups/acme/chunks/{name}", b"x"), names):
        pass
    finished(writing, WORDS)
    return plain_bucket


def test_a_page_token_that_has_expired_halfway_loses_nothing(full_vault: VaultBucket) -> None:
    with faulty(full_vault.s3.endpoint) as proxy:
        proxy.rule = lambda r: refusal(400, "InvalidArgument") if "continuation-token" in r.query else None
        writing = full_vault.store(endpoint=proxy.endpoint).vault.begin(ACME, SECOND, key=key_of(ACME))
        assert all(writing.has(ChunkId(f"{n:064x}")) for n in range(MANY))
        assert any("continuation-token" in r.query for r in proxy.seen)
        assert all(writing.has(chunk_id(ACME, word)) for word in WORDS)


def test_an_expired_marker_of_versions_loses_nothing(full_vault: VaultBucket) -> None:
    with faulty(full_vault.s3.endpoint) as proxy:
        proxy.rule = times(
            1, refusal(400, "InvalidArgument"), lambda r: bool(r.query.get("version-id-marker", [""])[0])
        )
        items = full_vault.store(endpoint=proxy.endpoint).inventory(ACME).items
    assert items >= MANY + len(WORDS) + 2


def test_a_batch_of_which_a_part_fails_is_finished(full_vault: VaultBucket) -> None:
    """The server deletes every second one, and could not do the others just now; twice."""
    admin, name = full_vault.admin, full_vault.name
    failed: list[int] = []

    def half(request: Request) -> Answer | None:
        if request.method != "POST" or "delete" not in request.query or len(failed) >= 2:
            return None
        tag = "{http://s3.amazonaws.com/doc/2006-03-01/}"
        entries = [
            {"Key": str(e.findtext(f"{tag}Key")), "VersionId": str(e.findtext(f"{tag}VersionId"))}
            for e in ElementTree.fromstring(request.body).iter(f"{tag}Object")
        ]
        assert entries[0]["Key"] != "None"
        admin.delete_objects(Bucket=name, Delete={"Objects": entries[::2]})
        failed.append(len(entries[1::2]))
        errors = "".join(
            f"<Error><Key>{e['Key']}</Key><VersionId>{e['VersionId']}</VersionId><Code>InternalError</Code></Error>"
            for e in entries[1::2]
        )
        return Answer(body=f"<DeleteResult>{errors}</DeleteResult>".encode())

    with faulty(full_vault.s3.endpoint) as proxy:
        proxy.rule = half
        store = full_vault.store(endpoint=proxy.endpoint)
        done = store.vault.collect(ACME, quiet_s=3600)
        assert failed
        assert all(failed)
        assert done.uploads == MANY
        assert len(shelved(store.vault, ACME)) == 1
        failed.clear()
        store.fence(FENCE, expires_in_s=None, drain_s=5)
        store.erase(FENCE)
        assert failed
        assert store.inventory(ACME).items == 0


def test_a_batch_that_never_succeeds_is_unavailable_and_what_it_refuses_is_named(
    plain_bucket: VaultBucket,
) -> None:
    def failing(code: str) -> Callable[[Request], Answer | None]:
        def rule(request: Request) -> Answer | None:
            if request.method != "POST" or "delete" not in request.query:
                return None
            tag = "{http://s3.amazonaws.com/doc/2006-03-01/}"
            keys = [e.text for e in ElementTree.fromstring(request.body).iter(f"{tag}Key")]
            errors = "".join(
                f"<Error><Key>{key}</Key><VersionId>null</VersionId><Code>{code}</Code></Error>"
                for key in keys
            )
            return Answer(body=f"<DeleteResult>{errors}</DeleteResult>".encode())

        return rule

    with faulty(plain_bucket.s3.endpoint) as proxy:
        store = plain_bucket.store(endpoint=proxy.endpoint)
        made = backed_up(store.vault, ACME, FIRST, WORDS)
        store.fence(FENCE, expires_in_s=None, drain_s=5)
        proxy.rule = failing("InternalError")
        with pytest.raises(StoreUnavailable):
            store.erase(FENCE)
        proxy.rule = failing("AccessDenied")
        with pytest.raises(StoreRefused, match=r"keeps \d+ objects of acme"):
            store.erase(FENCE)
        with pytest.raises(StoreRefused, match="kept by the server"):
            store.vault.delete(ACME, FIRST)
        assert restored(store.vault, made) == set(WORDS)


# -- killed before and after each request ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def killed() -> Callable[[VaultBucket, str], Iterator[int]]:
    """`killed(bucket, what)` does `what` in processes of its own, one after the other: the n-th is killed at its n-th
    request, for every n until one comes through. Yields after each of them."""

    def run(bucket: VaultBucket, what: str) -> Iterator[int]:
        script = [sys.executable, "-m", "tests.integration.vault.killed", what]
        given = {
            "endpoint": bucket.s3.endpoint,
            "bucket": bucket.name,
            "access_key": bucket.s3.access_key.reveal(),
            "secret_key": bucket.s3.secret_key.reveal(),
        }
        with subprocess.Popen(
            script,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(given) + "\n")
            for n in range(1000):
                process.stdin.write(f"{n}\n")
                process.stdin.flush()
                said = process.stdout.readline().strip()
                assert said in ("killed", "done"), said
                yield n
                if said == "done":
                    break
            else:
                raise AssertionError("it never came through")
            process.stdin.close()
            assert process.wait(timeout=30) == 0

    return run


def test_a_writer_killed_at_any_request_leaves_a_whole_backup_or_none(
    bucket: VaultBucket, killed: Callable[[VaultBucket, str], Iterator[int]]
) -> None:
    store = bucket.store()
    kept = backed_up(store.vault, ACME, backup_id(9000), WORDS[:1])
    whole = 0
    for n in killed(bucket, "write"):
        shelf = store.vault.shelf(ACME)
        assert not shelf.damaged
        for made in shelf.complete:
            if made.id != kept.id:
                whole += 1
                assert restored(store.vault, made) == set(WORDS)
                assert made.public == PUBLIC
                store.vault.delete(ACME, made.id)
        store.vault.collect(ACME, quiet_s=0)
        assert restored(store.vault, kept) == set(WORDS[:1])
        assert len(bucket.keys("backups/acme/")) == 3, f"killed at {n}: something is left behind"
    assert n > 2 * len(WORDS)
    assert whole >= 1


def test_a_writer_killed_at_any_request_is_carried_on(
    bucket: VaultBucket, killed: Callable[[VaultBucket, str], Iterator[int]]
) -> None:
    vault = bucket.store().vault
    for n in killed(bucket, "write"):
        backup = backup_id(n)
        shelf = vault.shelf(ACME)
        if [u.id for u in shelf.unfinished] == [backup]:
            finished(bucket.store().vault.resume(ACME, backup), WORDS)
        elif backup not in {b.id for b in shelf.complete}:
            backed_up(vault, ACME, backup, WORDS)
        assert restored(vault, shelved(vault, ACME)[backup]) == set(WORDS)
        vault.delete(ACME, backup)
    assert not vault.shelf(ACME).unfinished


def test_a_collector_killed_at_any_request_has_taken_nothing_that_is_needed_and_is_repeated(
    bucket: VaultBucket, killed: Callable[[VaultBucket, str], Iterator[int]]
) -> None:
    store = bucket.store()
    kept = backed_up(store.vault, ACME, backup_id(9000), WORDS[:1])
    for n in killed(bucket, "collect"):
        assert restored(store.vault, kept) == set(WORDS[:1])
        later = backed_up(store.vault, ACME, backup_id(8000 + n), WORDS[:2])
        store.vault.collect(ACME, quiet_s=3600)
        assert restored(store.vault, later) == set(WORDS[:2])
        store.vault.delete(ACME, later.id)
        store.vault.collect(ACME, quiet_s=3600)
        assert len(bucket.keys("backups/acme/")) == 3, f"killed at {n}: something is left behind"
    assert n > 2
    assert restored(store.vault, kept) == set(WORDS[:1])


def test_an_erasure_killed_at_any_request_shows_no_torn_backup_and_is_repeated(
    bucket: VaultBucket, killed: Callable[[VaultBucket, str], Iterator[int]]
) -> None:
    store = bucket.store()
    neighbour = backed_up(store.vault, ACME1, FIRST, WORDS)
    for _ in killed(bucket, "erase"):
        for made in shelved(store.vault, ACME).values():
            assert restored(store.vault, made) == set(WORDS)
        store.fence(FENCE, expires_in_s=None, drain_s=5)
        store.erase(FENCE)
        assert store.inventory(ACME).items == 0
        store.open(FENCE)
    assert restored(store.vault, neighbour) == set(WORDS)


def test_a_deleted_backup_is_gone_at_once_or_whole(
    bucket: VaultBucket, killed: Callable[[VaultBucket, str], Iterator[int]]
) -> None:
    vault = bucket.store().vault
    for _ in killed(bucket, "delete"):
        for made in shelved(vault, ACME).values():
            assert restored(vault, made) == set(WORDS)
    assert not shelved(vault, ACME)
