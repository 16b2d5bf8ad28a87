"""A backup holds bounded memory, however large the tenant and however slow the vault."""

from __future__ import annotations

import random
import threading
import tracemalloc
from collections.abc import Callable

import pytest

from tenure.backups.contract import Part
from tenure.backups.sealing import DataKey, Sealer
from tenure.backups.writing import BackupWriter
from tenure.errors import LeaseLost, StoreRefused
from tenure.model.names import StoreName
from tenure.stores.vault.contract import BackupId, ChunkId, KeyReference
from tests.sealed import ACME

KEY = KeyReference("local:acme:1")
BLOCK = random.Random(5).randbytes(1_000_000)
MOST = 60_000_000


class SlowWriting:
    """The part of `Writing` that takes chunks: it keeps none, and lets each wait until the gate is open."""

    tenant, backup, key = ACME, BackupId("b-1"), KEY

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.put_bytes = 0
        self.renewals = 0
        self.error: Exception | None = None

    def has(self, chunk: ChunkId) -> bool:
        return False

    def put(self, chunk: ChunkId, sealed: bytes) -> bool:
        assert self.gate.wait(60)
        if self.error is not None:
            raise self.error
        self.put_bytes += len(sealed)
        return True

    def renew(self) -> None:
        self.renewals += 1
        raise LeaseLost("ended")


@pytest.fixture
def slow() -> SlowWriting:
    return SlowWriting()


def writer_of(slow: SlowWriting) -> BackupWriter:
    sealer = Sealer(DataKey(tenant=ACME, reference=KEY, material=b"k" * 32))
    return BackupWriter(slow, sealer)  # type: ignore[arg-type]


def fill(writer: BackupWriter, blocks: int) -> None:
    made = random.Random(1)
    with writer.stream(StoreName("main"), "t", Part.BASE, {}) as stream:
        for _ in range(blocks):
            stream.write(made.randbytes(64) + BLOCK)


def test_a_vault_that_does_not_keep_pace_holds_the_writer_back(
    slow: SlowWriting, wait_until: Callable[..., None]
) -> None:
    writer = writer_of(slow)
    tracemalloc.start()
    try:
        thread = threading.Thread(target=fill, args=(writer, 150))
        thread.start()
        wait_until(lambda: writer._putter._room._value == 0, "no room is left", deadline_s=60)
        assert thread.is_alive()
        assert 5_000_000 < writer.written() < MOST
        slow.gate.set()
        thread.join()
        writer.close()
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()
    assert writer.written() > 150_000_000
    assert slow.put_bytes > MOST


def test_a_writer_that_waits_for_the_vault_hears_that_it_has_failed(
    slow: SlowWriting, wait_until: Callable[..., None]
) -> None:
    writer = writer_of(slow)
    raised: list[BaseException] = []

    def attempt() -> None:
        try:
            fill(writer, 150)
        except StoreRefused as error:
            raised.append(error)

    slow.error = StoreRefused("full")
    thread = threading.Thread(target=attempt)
    thread.start()
    wait_until(lambda: writer.written() > 5_000_000, "the writer begins", deadline_s=60)
    slow.gate.set()
    thread.join()
    assert raised == [slow.error]
    writer.close()


def test_a_writing_that_was_ended_stops_the_backup_at_its_next_sign_of_life(
    slow: SlowWriting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenure.backups.putting.RENEW_S", 0.0)
    slow.gate.set()
    writer = writer_of(slow)
    with pytest.raises(LeaseLost):
        fill(writer, 150)
    assert slow.put_bytes == 0
    writer.close()
