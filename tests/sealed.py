"""Backups of made-up streams, with keys and a signature of their own: for tests of what is between stores and vault."""

from __future__ import annotations

import base64
import pathlib
import random
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tenure.backups.backups import Backups
from tenure.backups.contract import CollectionFacts, Part, Source
from tenure.backups.keys_folder import FolderOfKeys
from tenure.backups.keys_local import LocalKeys
from tenure.backups.manifest import Facts
from tenure.backups.signing import Signer, Trust
from tenure.backups.writing import BackupWriter, Prepared
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.secret import Secret
from tenure.stores.vault.contract import Backup, BackupId, Lock, Vault

ACME, GLOBEX = TenantId("acme"), TenantId("globex")
MAIN, FILES = StoreName("main"), StoreName("files")
POINT = datetime(2026, 3, 14, 15, 9, 26, 535897, tzinfo=UTC)
FACTS = Facts(
    point=POINT,
    cell=CellName("blue"),
    region="us-east-1",
    tier="platinum",
    epoch=7,
    release="0.1.0",
    catalogue_version="1",
    catalogue_digest="c" * 64,
    schema="0004",
)
Name = tuple[StoreName, str]


def master() -> Secret:
    return Secret(base64.b64encode(secrets.token_bytes(32)).decode())


@dataclass
class Estate:
    """The keys of an estate, in that folder."""

    folder: pathlib.Path
    master: Secret = field(default_factory=master)
    signer: Signer = field(default_factory=lambda: Signer(secrets.token_bytes(32)))

    @property
    def keys(self) -> LocalKeys:
        return LocalKeys([self.master], FolderOfKeys(self.folder))

    @property
    def backups(self) -> Backups:
        return Backups(self.keys, self.signer, Trust([self.signer.public]))


def rows(n: int, *, seed: int = 1, first: int = 0) -> list[bytes]:
    """Lines as `COPY ... TO STDOUT` gives them, some 250 bytes each."""
    made = random.Random(f"{seed}")
    words = ["".join(made.choices("abcdefghijklmnopqrstuvwxyz", k=made.randint(2, 9))) for _ in range(900)]
    lines = []
    for i in range(first, first + n):
        its = random.Random(f"{seed}/{i}")
        text = " ".join(its.choices(words, k=its.randint(10, 50)))
        lines.append(f"{i}\tacme\t{its.randint(1, 9999)}\t{its.random()}\t{text}\n".encode())
    return lines


def written(
    writer: BackupWriter, streams: Mapping[Name, bytes], *, late: Mapping[Name, bytes] | None = None
) -> None:
    """These as base streams, and late ones, in pieces of odd sizes."""
    for part, contents in ((Part.BASE, streams), (Part.LATE, late or {})):
        for (store, collection), content in contents.items():
            with writer.stream(store, collection, part, {"format": "bytes/1"}) as stream:
                for at in range(0, len(content), 70_001):
                    stream.write(content[at : at + 70_001])


def prepared(writer: BackupWriter, signer: Signer, streams: Mapping[Name, bytes]) -> Prepared:
    facts = [
        CollectionFacts(
            store=store,
            collection=collection,
            items=content.count(b"\n"),
            size_bytes=len(content),
            digest="d",
        )
        for (store, collection), content in streams.items()
    ]
    return writer.prepare(FACTS, signer, facts, {MAIN: {"version": 18}})


def backed_up(
    estate: Estate,
    vault: Vault,
    tenant: TenantId,
    name: str,
    streams: Mapping[Name, bytes],
    *,
    lock: Lock | None = None,
) -> tuple[Backup, Prepared]:
    writer = estate.backups.begin(vault, tenant, BackupId(name), lock=lock)
    try:
        written(writer, streams)
        ready = prepared(writer, estate.signer, streams)
        return writer.commit(ready), ready
    finally:
        writer.close()


def contents_of(source: Source, part: Part = Part.BASE) -> dict[Name, bytes]:
    return {
        (stream.store, stream.collection): b"".join(source.read(stream))
        for stream in source.streams()
        if stream.part is part
    }


def restored(estate: Estate, vault: Vault, backup: Backup) -> dict[Name, bytes]:
    reader = estate.backups.open(vault, backup, tenant=backup.tenant)
    try:
        return contents_of(reader)
    finally:
        reader.close()


def public_of(backup: Backup) -> dict[str, Any]:
    return dict(backup.public)
