"""What lies between a store and a vault, stage by stage: one tenant's rows as `COPY` text, cut, packed, sealed and put.

usage: python -m bench.backup [--mb 200] [--rounds 3]

Side by side in each round, into the same server and over the same bytes: Tenure's first backup, one after 1 % of the
rows has changed in one place, one of unchanged rows, reading the first one back; and, to compare with, a plain upload
in parts by boto3's own transfer, and the stream through Zstandard (level 3) into one upload. The stages are each
measured alone, without a server, by the processor's time.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import random
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import boto3
from boto3.s3.transfer import TransferConfig

from bench.postgres import ratios
from tenure.backups.backups import Backups
from tenure.backups.chunking import Chunker
from tenure.backups.contract import CollectionFacts, Part
from tenure.backups.keys_folder import FolderOfKeys
from tenure.backups.keys_local import LocalKeys
from tenure.backups.manifest import Facts
from tenure.backups.putting import Tally
from tenure.backups.sealing import LEVEL, Sealer
from tenure.backups.signing import Signer, Trust
from tenure.backups.zstd import CompressionParameter, ZstdCompressor
from tenure.estate.local import EstateSpec, S3Endpoint, SeaweedServer, down, up
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.secret import Secret
from tenure.stores.buckets.client import Bucket
from tenure.stores.vault import VaultStore
from tenure.stores.vault.contract import Backup, BackupId, Vault

TENANT: Final = TenantId("bench")
STORE: Final = StoreName("postgres")
FACTS: Final = Facts(
    point=datetime(2026, 3, 14, tzinfo=UTC),
    cell=CellName("bench"),
    region="us-east-1",
    tier="gold",
    epoch=1,
    release="0",
    catalogue_version="1",
    catalogue_digest="0",
)
MB: Final = 1_000_000
BLOCK: Final = 256 * 1024
"""What a driver gives at a time, roughly."""


def rows(size: int) -> list[bytes]:
    """Rows of an app of documents: numbers, times, words, some JSON, a digest."""
    made = random.Random(1)
    words = ["".join(made.choices("abcdefghijklmnopqrstuvwxyz", k=made.randint(2, 9))) for _ in range(3_000)]
    lines: list[bytes] = []
    total = 0
    while total < size:
        n = len(lines)
        day = (
            f"2026-{1 + n % 12:02d}-{1 + n % 28:02d} {n % 24:02d}:{n % 60:02d}:{made.random() * 60:09.6f}+00"
        )
        text = " ".join(made.choices(words, k=made.randint(10, 60)))
        extra = f'{{"source": "upload", "score": {made.random():.6f}}}'
        lines.append(
            f"{n}\tbench\t{made.randrange(5_000)}\t{day}\t{text}\t{extra}\t{made.randbytes(16).hex()}\n".encode()
        )
        total += len(lines[-1])
    return lines


def taken(backups: Backups, vault: Vault, name: str, data: bytes) -> tuple[float, Backup, Tally]:
    """A backup of one table; in seconds until it is listed."""
    began = time.perf_counter()
    writer = backups.begin(vault, TENANT, BackupId(name))
    given = memoryview(data)
    with writer.stream(STORE, "public.documents", Part.BASE, {"format": "copy-text/1"}) as stream:
        for at in range(0, len(given), BLOCK):
            stream.write(given[at : at + BLOCK])
    facts = CollectionFacts(store=STORE, collection="public.documents", items=0, size_bytes=len(data))
    ready = writer.prepare(FACTS, backups.signer, [facts], {})
    backup = writer.commit(ready)
    writer.close()
    return time.perf_counter() - began, backup, ready.tally


def read_back(backups: Backups, vault: Vault, backup: Backup, data: bytes) -> float:
    began = time.perf_counter()
    reader = backups.open(vault, backup, tenant=TENANT)
    at = 0
    for piece in reader.read(*reader.streams()):
        assert data[at : at + len(piece)] == piece
        at += len(piece)
    reader.close()
    assert at == len(data)
    return time.perf_counter() - began


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def spent(work: Callable[[], object]) -> float:
    """Seconds of the processor, in this thread."""
    began = time.thread_time()
    work()
    return time.thread_time() - began


def client_of(s3: S3Endpoint) -> Any:
    """A client of that server, as anybody makes one."""
    return boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        region_name=s3.region,
        aws_access_key_id=s3.access_key.reveal(),
        aws_secret_access_key=s3.secret_key.reveal(),
    )


def uploaded(s3: S3Endpoint, bucket: str, data: bytes) -> float:
    client = client_of(s3)
    settings = TransferConfig(multipart_chunksize=8 * 1024 * 1024, max_concurrency=6)
    key = secrets.token_hex(8)
    return timed(lambda: client.upload_fileobj(io.BytesIO(data), bucket, key, Config=settings))


def packed(data: bytes, level: int = LEVEL) -> bytes:
    compressor = ZstdCompressor(options={int(CompressionParameter.compression_level): level})
    given = memoryview(data)
    parts = [compressor.compress(given[at : at + BLOCK]) for at in range(0, len(given), BLOCK)]
    return b"".join((*parts, compressor.flush()))


def stages(sealer: Sealer, data: bytes) -> dict[str, float]:
    """MB/s of one core, each alone. `seal` is the compressing and the encrypting together."""
    chunks: list[bytes] = []

    def cut() -> None:
        chunker = Chunker(sealer.cutting)
        given = memoryview(data)
        for at in range(0, len(given), BLOCK):
            chunks.extend(chunker.add(given[at : at + BLOCK]))
        chunks.extend(chunker.rest())

    found = {"cut": spent(cut)}
    names = [sealer.chunk_id(chunk) for chunk in chunks]
    found["name"] = spent(lambda: [sealer.chunk_id(chunk) for chunk in chunks])
    for level in (1, 2, 3, 4, 6):
        compressor = ZstdCompressor(options={int(CompressionParameter.compression_level): level})
        sizes: list[int] = []
        began = time.thread_time()
        for chunk in chunks:
            sizes.append(len(compressor.compress(chunk, ZstdCompressor.FLUSH_FRAME)))
        found[f"compress_{level}"] = time.thread_time() - began
        found[f"ratio_{level}"] = len(data) / MB / (sum(sizes) / len(data))
    found["seal"] = spent(lambda: [sealer.seal(n, c) for n, c in zip(names, chunks, strict=True)])
    return {
        name: round(len(data) / MB / value, 3 if name.startswith("ratio") else 0)
        for name, value in found.items()
    }


def measured(s3: S3Endpoint, vault: Vault, bucket: str, backups: Backups, lines: list[bytes], n: int) -> Any:
    data = b"".join(lines)
    first, last = len(lines) // 2, len(lines) // 2 + len(lines) // 100
    changed = b"".join((*lines[:first], *(line[::-1] for line in lines[first:last]), *lines[last:]))
    took: dict[str, float] = {}
    moved: dict[str, int] = {}
    backups.rotate(TENANT)
    took["first backup"], backup, tally = taken(backups, vault, f"b-{n}-1", data)
    moved["first backup"] = tally.put_bytes
    took["1 % changed"], _, tally = taken(backups, vault, f"b-{n}-2", changed)
    moved["1 % changed"] = tally.put_bytes
    took["unchanged"], _, tally = taken(backups, vault, f"b-{n}-3", data)
    moved["unchanged"] = tally.put_bytes
    took["read back"] = read_back(backups, vault, backup, data)
    took["plain upload"] = uploaded(s3, bucket, data)
    took["zstd + upload"] = timed(lambda: uploaded(s3, bucket, packed(data)))
    moved["zstd + upload"] = len(packed(data))
    return took, moved


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mb", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-backup-"))
    folder.chmod(0o755)  # the servers run as another user
    server = SeaweedServer(name="s3", buckets=("bench-vault", "bench-plain"))
    estate = up(EstateSpec(folder=folder / "estate", servers=(server,)), owner=True)
    lines = rows(arguments.mb * MB)
    try:
        s3 = estate.s3("s3")
        store = VaultStore(
            name=StoreName("vault"),
            cell=CellName("bench"),
            bucket=Bucket(
                endpoint=s3.endpoint,
                name="bench-vault",
                region=s3.region,
                access_key=s3.access_key,
                secret_key=s3.secret_key,
            ),
            prefix="backups/{tenant}/",
        )
        master = Secret(base64.b64encode(secrets.token_bytes(32)).decode())
        keys = LocalKeys([master], FolderOfKeys(folder / "keys"))
        signer = Signer(secrets.token_bytes(32))
        backups = Backups(keys, signer, Trust([signer.public]))
        times: dict[str, list[float]] = {}
        for n in range(arguments.rounds):
            took, moved = measured(s3, store.vault, "bench-plain", backups, lines, n)
            for name, value in took.items():
                times.setdefault(name, []).append(value)
        report = {
            "mb": round(sum(map(len, lines)) / MB),
            "mb_per_s_of_one_core": stages(Sealer(keys.open(keys.create(TENANT))), b"".join(lines)),
            "stored_mb": {name: round(size / MB, 2) for name, size in moved.items()},
            "against_plain_upload": ratios(times, "plain upload"),
            "against_zstd_and_upload": ratios(times, "zstd + upload"),
        }
        store.close()
    finally:
        down(estate.folder, remove=True)
        shutil.rmtree(folder)
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
