"""Cutting streams into chunks, and sealing these."""

from __future__ import annotations

import random
import secrets

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from tenure.backups import sealing
from tenure.backups.chunking import KIB, MOST_CHUNK_PLAIN, Chunker, Cutting
from tenure.backups.sealing import DataKey, Sealer
from tenure.errors import BackupTooNew, VaultDamaged
from tenure.model.names import TenantId
from tenure.stores.vault.contract import CHUNK_ID, ChunkId, KeyReference
from tests.sealed import rows

MIB = 1024 * KIB
CUTTING = Cutting.of(bytes(range(16)))
NOISE = random.Random(7).randbytes(11 * MIB)
TEXT = b"".join(rows(4000))


def cut(data: bytes, pieces: list[int], cutting: Cutting = CUTTING) -> list[bytes]:
    chunker, at = Chunker(cutting), 0
    chunks: list[bytes] = []
    for size in pieces:
        chunks += chunker.add(data[at : at + size])
        at += size
    chunks += chunker.add(data[at:])
    return [*chunks, *chunker.rest()]


def sealer(tenant: str = "acme", material: bytes = b"k" * 32) -> Sealer:
    return Sealer(
        DataKey(tenant=TenantId(tenant), reference=KeyReference(f"local:{tenant}:1"), material=material)
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, len(NOISE)), st.lists(st.integers(0, 6 * MIB), max_size=8))
def test_the_chunks_of_a_stream_do_not_depend_on_how_it_was_written(size: int, pieces: list[int]) -> None:
    data = NOISE[:size]
    chunks = cut(data, pieces)
    assert b"".join(chunks) == data
    assert chunks == cut(data, [])
    assert all(0 < len(chunk) <= MOST_CHUNK_PLAIN for chunk in chunks)


def test_a_change_in_the_middle_changes_the_chunks_around_it_only() -> None:
    before, middle = cut(NOISE, []), len(NOISE) // 2
    after = cut(NOISE[:middle] + b"something new" + NOISE[middle:], [])
    assert 1 <= len(set(after) - set(before)) <= 2
    assert len(before) > 10


def test_two_tenants_cut_the_same_stream_at_different_places() -> None:
    others = [cut(NOISE, [], Cutting.of(secrets.token_bytes(16))) for _ in range(5)]
    sizes = [tuple(len(chunk) for chunk in chunks) for chunks in (cut(NOISE, []), *others)]
    assert len(set(sizes)) == len(sizes)


def test_bounds_and_seeds_are_what_the_cutter_takes_for_every_key() -> None:
    for secret in (b"\0" * 16, b"\xff" * 16, *(secrets.token_bytes(16) for _ in range(200))):
        made = Cutting.of(secret)
        assert 0 < made.seed < 2**63
        assert 96 * KIB <= made.least < made.usual < MOST_CHUNK_PLAIN
        assert b"".join(cut(TEXT, [], made)) == TEXT


@pytest.mark.parametrize("plain", [b"", b"x", b"word " * 1000, NOISE[: 2 * MIB], TEXT])
def test_what_was_sealed_is_opened(plain: bytes) -> None:
    one = sealer()
    chunk = one.chunk_id(plain)
    assert CHUNK_ID.fullmatch(chunk)
    sealed = one.seal(chunk, plain)
    assert sealer().open(chunk, sealed) == plain
    assert sealed == sealer().seal(chunk, plain)


def test_ids_and_sealed_bytes_of_equal_contents_are_equal_for_one_tenant_and_key_only() -> None:
    ids = {s.chunk_id(TEXT) for s in (sealer(), sealer("globex"), sealer(material=b"l" * 32))}
    assert len(ids) == 3
    assert sealer().chunk_id(TEXT) in ids


def test_no_byte_of_a_sealed_chunk_can_be_changed_cut_or_added() -> None:
    one, plain = sealer(), b"the contents of a small chunk"
    chunk = one.chunk_id(plain)
    sealed = one.seal(chunk, plain)
    damaged = [sealed[:at] + bytes((sealed[at] ^ 1,)) + sealed[at + 1 :] for at in range(len(sealed))]
    damaged += [sealed[:at] for at in range(len(sealed))]
    damaged += [sealed + b"\0", b"\0" + sealed]
    for each in damaged:
        with pytest.raises((VaultDamaged, BackupTooNew)):
            one.open(chunk, each)


def test_a_chunk_of_another_tenant_key_or_id_is_not_opened_and_nothing_of_it_is_in_the_message() -> None:
    one, plain = sealer(), b"secret words of acme"
    chunk = one.chunk_id(plain)
    sealed = one.seal(chunk, plain)
    other_id = one.chunk_id(b"something else")
    for opener, name in (
        (sealer("globex"), chunk),
        (sealer(material=b"l" * 32), chunk),
        (one, other_id),
    ):
        with pytest.raises(VaultDamaged) as caught:
            opener.open(name, sealed)
        told = f"{caught.value.message} {caught.value.hint} {caught.value!r}"
        assert "secret words" not in told
        assert "kkkk" not in told
        assert name in told
        assert "cannot be opened" in told


def test_a_chunk_that_was_sealed_under_an_id_that_is_not_its_own_is_refused() -> None:
    """As whoever has the key, and a mistake, might."""
    one = sealer()
    wrong = one.chunk_id(b"something else")
    with pytest.raises(VaultDamaged, match="holds something else"):
        one.open(wrong, one.seal(wrong, b"contents"))


def test_no_key_and_nonce_are_ever_used_for_two_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when another compressor packs the same contents differently: these get a key of their own."""
    used: dict[tuple[bytes, bytes], bytes] = {}

    class Watched:
        def __init__(self, key: bytes) -> None:
            self._key = key

        def encrypt(self, nonce: bytes, data: bytes, bound: bytes) -> bytes:
            assert used.setdefault((self._key, nonce), data + bound) == data + bound
            return AESGCM(self._key).encrypt(nonce, data, bound)

    monkeypatch.setattr(sealing, "AESGCM", Watched)
    seen = set()
    for level in (1, 3, 9):
        monkeypatch.setattr(sealing, "LEVEL", level)
        for tenant in ("acme", "globex"):
            one = sealer(tenant)
            for plain in (b"", b"a", TEXT, TEXT[:-1]):
                seen.add(one.seal(one.chunk_id(plain), plain))
    assert len(used) == len(seen) > 8


def test_sizes_of_sealed_chunks_are_few() -> None:
    """What is sealed is filled up, so that its size does not tell the size of its contents."""
    one = sealer()
    sizes = set()
    for n in range(500_000, 503_000, 100):
        plain = NOISE[:n]
        sizes.add(len(one.seal(one.chunk_id(plain), plain)))
    assert len(sizes) <= 2
    assert max(sizes) < 503_000 * 1.04


def test_the_key_is_in_no_representation() -> None:
    key = DataKey(tenant=TenantId("acme"), reference=KeyReference("local:acme:1"), material=b"K" * 32)
    assert "KKKK" not in f"{key} {key!r}"
    with pytest.raises(ValueError, match="32 bytes"):
        DataKey(tenant=TenantId("acme"), reference=KeyReference("local:acme:1"), material=b"short")


def test_a_chunk_of_a_later_format_is_refused_as_such() -> None:
    one = sealer()
    chunk = ChunkId("A" * 43)
    later = b"TNRc\x02" + bytes(100)
    with pytest.raises(BackupTooNew, match="format 2"):
        one.open(chunk, later)
