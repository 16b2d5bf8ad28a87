"""Backups into a vault and back: many streams, few bytes for what has not changed, and everything as it was."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Mapping

import pytest

from tenure.backups.contract import Part
from tenure.backups.writing import SMALL_BYTES
from tenure.errors import UsageError
from tenure.model.names import StoreName
from tenure.stores.vault.contract import BackupId, Vault
from tests.integration.vault.conftest import VaultBucket
from tests.sealed import (
    ACME,
    FACTS,
    FILES,
    MAIN,
    POINT,
    Estate,
    Name,
    backed_up,
    contents_of,
    prepared,
    restored,
    rows,
    written,
)

LARGE: Mapping[Name, bytes] = {
    (MAIN, "public.documents"): b"".join(rows(12_000)),
    (MAIN, "public.chunks"): b"".join(rows(3_000, seed=2)),
    (FILES, "uploads/*"): random.Random(3).randbytes(3_000_000),
    (MAIN, "public.empty"): b"",
}


def test_streams_come_back_as_they_were_with_headers_counts_and_facts(
    bucket: VaultBucket, estate: Estate
) -> None:
    vault = bucket.store().vault
    backup, _ = backed_up(estate, vault, ACME, "b-1", LARGE)
    reader = estate.backups.open(vault, backup, tenant=ACME)
    assert contents_of(reader) == LARGE
    assert (reader.tenant, reader.point) == (ACME, POINT)
    assert reader.public.facts == FACTS
    assert reader.facts(MAIN) == {"version": 18}
    assert reader.facts(FILES) == {}
    assert {c.collection: c.items for c in reader.collections(MAIN)} == {
        "public.chunks": 3_000,
        "public.documents": 12_000,
        "public.empty": 0,
    }
    assert [s.collection for s in reader.streams(FILES)] == ["uploads/*"]
    assert all(s.header == {"format": "bytes/1"} for s in reader.streams())
    totals = reader.public.stores[MAIN]
    assert (totals.streams, totals.items) == (3, 15_000)
    reader.close()


def test_a_part_of_a_stream_reads_its_chunks_only(bucket: VaultBucket, estate: Estate) -> None:
    content = LARGE[(MAIN, "public.documents")]
    backup, _ = backed_up(estate, bucket.store().vault, ACME, "b-1", LARGE)
    asked: list[str] = []

    class Watched:
        def __init__(self, vault: Vault) -> None:
            self._vault = vault

        def get(self, *args: object) -> bytes:
            asked.append(str(args[1]))
            return self._vault.get(*args)  # type: ignore[arg-type]

        def __getattr__(self, name: str) -> object:
            return getattr(self._vault, name)

    reader = estate.backups.open(Watched(bucket.store().vault), backup, tenant=ACME)  # type: ignore[arg-type]
    (stream,) = reader.streams(MAIN, "public.documents")
    asked.clear()
    middle = len(content) // 2
    for start, size in ((0, 10), (middle, 1), (middle, 5_000), (len(content) - 7, 7), (len(content), 0)):
        asked.clear()
        got = b"".join(reader.read(stream, start=start, length=size))
        assert got == content[start : start + size]
        assert len(asked) <= 2
    assert b"".join(reader.read(stream, start=100)) == content[100:]
    beyond: list[tuple[int, int | None]] = [(-1, 5), (0, len(content) + 1), (len(content) + 1, None)]
    for start, length in beyond:
        with pytest.raises(UsageError):
            reader.read(stream, start=start, length=length)
    reader.close()


def test_a_reader_that_stops_in_the_middle_leaves_nothing_behind(bucket: VaultBucket, estate: Estate) -> None:
    vault = bucket.store().vault
    backup, _ = backed_up(estate, vault, ACME, "b-1", LARGE)
    reader = estate.backups.open(vault, backup, tenant=ACME)
    (stream,) = reader.streams(MAIN, "public.documents")
    pieces = reader.read(stream)
    assert next(pieces)
    reader.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("tenure-get")]


def test_an_unchanged_tenant_moves_under_two_percent_of_its_bytes(
    bucket: VaultBucket, estate: Estate
) -> None:
    vault = bucket.store().vault
    first, one = backed_up(estate, vault, ACME, "b-1", LARGE)
    again, two = backed_up(estate, bucket.store().vault, ACME, "b-2", LARGE)
    assert two.tally.put_bytes < one.tally.put_bytes * 0.02
    assert two.tally.put == len(again.public["index"]) == 1
    assert restored(estate, vault, first) == restored(estate, vault, again) == LARGE


def test_after_one_percent_has_changed_little_moves(bucket: VaultBucket, estate: Estate) -> None:
    vault, name = bucket.store().vault, (MAIN, "public.documents")
    before = random.Random(4).randbytes(16_000_000)
    _, one = backed_up(estate, vault, ACME, "b-1", {name: before})
    changed = before[:5_000_000] + random.Random(5).randbytes(160_000) + before[5_160_000:]
    backup, two = backed_up(estate, vault, ACME, "b-2", {name: changed})
    assert one.tally.put > 16
    assert 1 < two.tally.put <= 1 + 3
    assert two.tally.put_bytes < one.tally.put_bytes * 0.2
    assert restored(estate, vault, backup) == {name: changed}


def test_what_is_added_at_the_end_and_in_the_middle_moves_the_chunks_around_it(
    bucket: VaultBucket, estate: Estate
) -> None:
    vault, name = bucket.store().vault, (MAIN, "public.documents")
    content = random.Random(6).randbytes(12_000_000)
    backed_up(estate, vault, ACME, "b-1", {name: content[:6_000_000] + content[6_002_000:11_900_000]})
    backup, ready = backed_up(estate, vault, ACME, "b-2", {name: content})
    assert ready.tally.chunks > 12
    assert ready.tally.put <= 3 + 2 + 1
    assert restored(estate, vault, backup)[name] == content


def test_thousands_of_tiny_streams_are_few_objects_in_whatever_order_they_come(
    bucket: VaultBucket, estate: Estate
) -> None:
    tiny = {(FILES, f"cache:{n}:*"): random.Random(n).randbytes(n % 3_000) for n in range(2_500)}
    vault = bucket.store().vault
    backup, _ = backed_up(estate, vault, ACME, "b-1", tiny)
    assert backup.chunks < 16
    assert restored(estate, vault, backup) == tiny
    again, ready = backed_up(estate, vault, ACME, "b-2", dict(reversed(tiny.items())))
    assert 1 <= ready.tally.put <= len(again.public["index"])
    tiny[(FILES, "cache:77:*")] = b"changed"
    again, ready = backed_up(estate, vault, ACME, "b-3", tiny)
    assert ready.tally.put <= 3 + len(again.public["index"])
    assert restored(estate, vault, again) == tiny


@pytest.mark.parametrize("size", [0, 1, SMALL_BYTES - 1, SMALL_BYTES, SMALL_BYTES + 1, 4 * SMALL_BYTES])
def test_streams_of_every_size_around_the_bound_come_back(
    bucket: VaultBucket, estate: Estate, size: int
) -> None:
    content = {(MAIN, f"t{n}"): random.Random(n).randbytes(max(0, size - n)) for n in range(3)}
    vault = bucket.store().vault
    backup, _ = backed_up(estate, vault, ACME, "b-1", content)
    assert restored(estate, vault, backup) == content


def test_streams_are_written_by_several_threads_at_once(bucket: VaultBucket, estate: Estate) -> None:
    content = {(StoreName(f"store{n % 3}"), f"c{n}"): b"".join(rows(900 + n, seed=n)) for n in range(12)}
    vault = bucket.store().vault
    writer = estate.backups.begin(vault, ACME, BackupId("b-1"))
    threads = [threading.Thread(target=written, args=(writer, {k: v})) for k, v in content.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    backup = writer.commit(prepared(writer, estate.signer, content))
    writer.close()
    assert restored(estate, vault, backup) == content
    again, ready = backed_up(estate, vault, ACME, "b-2", content)
    assert ready.tally.put_bytes < again.size_bytes * 0.02


def test_late_streams_come_back_in_the_order_in_which_they_were_begun(
    bucket: VaultBucket, estate: Estate
) -> None:
    vault = bucket.store().vault
    writer = estate.backups.begin(vault, ACME, BackupId("b-1"))
    written(writer, {(FILES, "keys"): b"base"})
    late = [writer.stream(FILES, "keys", Part.LATE, {"round": n}) for n in range(3)]
    for n in (2, 0, 1):
        late[n].write(f"late {n}".encode())
        late[n].close(items=n)
    backup = writer.commit(prepared(writer, estate.signer, {(FILES, "keys"): b"base"}))
    writer.close()
    reader = estate.backups.open(vault, backup, tenant=ACME)
    streams = reader.streams(FILES, "keys")
    assert [(s.part, s.n, s.items) for s in streams] == [
        (Part.BASE, 0, None),
        (Part.LATE, 0, 0),
        (Part.LATE, 1, 1),
        (Part.LATE, 2, 2),
    ]
    assert [b"".join(reader.read(s)) for s in streams] == [b"base", b"late 0", b"late 1", b"late 2"]
    reader.close()


def test_a_stream_that_was_discarded_or_left_by_an_error_is_not_in_the_backup(
    bucket: VaultBucket, estate: Estate
) -> None:
    vault = bucket.store().vault
    writer = estate.backups.begin(vault, ACME, BackupId("b-1"))
    stream = writer.stream(MAIN, "t", Part.BASE, {})

    def broken_off() -> None:
        with stream:
            stream.write(b"torn" * 300_000)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken_off()
    with pytest.raises(UsageError):
        stream.write(b"more")
    written(writer, {(MAIN, "t"): b"whole", (FILES, "keys"): b"torn"}, late={(FILES, "keys"): b"late"})
    writer.forget(FILES)
    written(writer, {(FILES, "keys"): b"taken again"})
    backup = writer.commit(prepared(writer, estate.signer, {}))
    writer.close()
    assert restored(estate, vault, backup) == {(MAIN, "t"): b"whole", (FILES, "keys"): b"taken again"}


def test_what_a_sink_is_not_to_take_is_refused(bucket: VaultBucket, estate: Estate) -> None:
    writer = estate.backups.begin(bucket.store().vault, ACME, BackupId("b-1"))
    one = writer.stream(MAIN, "t", Part.BASE, {})
    with pytest.raises(UsageError, match="base stream already"):
        writer.stream(MAIN, "t", Part.BASE, {})
    with pytest.raises(UsageError, match="JSON"):
        writer.stream(MAIN, "u", Part.BASE, {"what": {1, 2}})
    with pytest.raises(UsageError, match="at most"):
        writer.stream(MAIN, "u", Part.BASE, {"what": "x" * 300_000})
    with pytest.raises(UsageError, match="still open"):
        prepared(writer, estate.signer, {})
    with pytest.raises(UsageError, match="still open"):
        writer.forget(MAIN)
    one.close()
    writer.abandon()
    with pytest.raises(UsageError, match="not being written"):
        writer.stream(MAIN, "v", Part.BASE, {})


def test_the_vault_is_told_amounts_and_versions_and_nothing_else_in_the_clear(
    bucket: VaultBucket, estate: Estate
) -> None:
    """Neither names of collections nor contents, nor their digests."""
    streams = {(MAIN, "public.secret_table"): b"secret words of acme\n" * 500}
    backup, _ = backed_up(estate, bucket.store().vault, ACME, "b-1", streams)
    told = json.dumps(dict(backup.public))
    assert set(backup.public) == {
        *("format", "tenant", "backup", "key", "key_check", "contents", "point", "cell", "region", "tier"),
        *("epoch", "release", "catalogue", "schema", "stores", "index", "signature"),
    }
    assert "secret" not in told
    for key in bucket.keys(""):
        body = bucket.admin.get_object(Bucket=bucket.name, Key=key)["Body"].read()
        assert b"secret" not in body
        assert "secret" not in key
