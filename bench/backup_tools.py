"""Whole backups of one tenant's rows, into a bucket and back, beside `pg_dump -Fc` and restic over a `pg_dump`.

usage: python -m bench.backup_tools [--rows 200000] [--rounds 3]       (needs Debian's package restic)

In each round, from the same rows in PostgreSQL 16, with nothing stored yet:
- a first backup, one more of unchanged rows, and one after 1 % of the rows has changed in one place, by Tenure
  (captured, cut, packed, sealed and listed in a bucket) and by restic (`pg_dump` plain text through `restic backup
  --stdin`, packed and encrypted into a bucket of the same server); and `pg_dump -Fc` into a file, which neither
  encrypts nor keeps anything for the next time;
- a restore of the last one into empty tables of PostgreSQL 18: Tenure's load out of the bucket, `restic dump` into
  psql, and `pg_restore --data-only`.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg

from bench.backup import FACTS, client_of, timed
from bench.backup_postgres import FENCE, TABLES, emptied, store, tool
from bench.postgres import CLIENTS, MOVING, Servers, fill, ratios, table_in
from tenure.backups.backups import Backups
from tenure.backups.keys_folder import FolderOfKeys
from tenure.backups.keys_local import LocalKeys
from tenure.backups.signing import Signer, Trust
from tenure.estate.local import EstateSpec, PostgresServer, S3Endpoint, SeaweedServer, down, up
from tenure.model.names import CellName, StoreName
from tenure.model.secret import Secret
from tenure.stores.buckets.client import Bucket
from tenure.stores.postgres import PostgresStore
from tenure.stores.vault import VaultStore
from tenure.stores.vault.contract import Backup, BackupId

RESTIC: Final = "restic"
VAULT, REPOSITORY = "bench-vault", "bench-restic"


@dataclass(kw_only=True)
class Tenure:
    """Backups of the tenant into one bucket, all of a round under one key."""

    backups: Backups
    vault: VaultStore
    source: PostgresStore
    target: PostgresStore

    def take(self, name: str) -> Backup:
        writer = self.backups.begin(self.vault.vault, MOVING, BackupId(name))
        capture = self.source.capture(MOVING)
        capture.start(FENCE)
        self.source.fence(FENCE, expires_in_s=None, drain_s=10)
        capture.pin(writer, FENCE)
        self.source.open(FENCE)
        captured = capture.rest(writer)
        capture.close(FENCE)
        facts = {self.source.name: captured.facts}
        backup = writer.commit(writer.prepare(FACTS, self.backups.signer, list(captured.collections), facts))
        writer.close()
        return backup

    def restore(self, backup: Backup) -> None:
        reader = self.backups.open(self.vault.vault, backup, tenant=MOVING)
        try:
            self.target.restoring(MOVING, MOVING).load(reader, FENCE)
        finally:
            reader.close()


@dataclass(kw_only=True)
class Restic:
    """A repository of its own for each round."""

    s3: S3Endpoint
    folder: Path
    repository: str

    def run(self, *arguments: str, given: int | None = None) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [RESTIC, "--quiet", "--no-lock", "--cache-dir", str(self.folder / "cache"), *arguments],
            stdin=given,
            stdout=subprocess.PIPE,
            env={
                **os.environ,
                "RESTIC_REPOSITORY": f"s3:{self.s3.endpoint}/{REPOSITORY}/{self.repository}",
                "RESTIC_PASSWORD": "bench",
                "AWS_ACCESS_KEY_ID": self.s3.access_key.reveal(),
                "AWS_SECRET_ACCESS_KEY": self.s3.secret_key.reveal(),
                "AWS_DEFAULT_REGION": self.s3.region,
            },
        )

    def begin(self) -> None:
        ended(self.run("init"))

    def take(self, dsn: str) -> None:
        with subprocess.Popen(
            [CLIENTS / "pg_dump", "--data-only", "-N", "tenure", dsn], stdout=subprocess.PIPE
        ) as dump:
            assert dump.stdout is not None
            backup = self.run("backup", "--stdin", "--stdin-filename", "dump.sql", given=dump.stdout.fileno())
            ended(backup)
        assert dump.returncode == 0

    def restore(self, dsn: str) -> None:
        read = self.run("dump", "latest", "dump.sql")
        assert read.stdout is not None
        subprocess.run(
            [CLIENTS / "psql", "-q", "-v", "ON_ERROR_STOP=1", "-d", dsn],
            stdin=read.stdout,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        ended(read)


def ended(process: subprocess.Popen[bytes]) -> None:
    with process:
        if process.stdout is not None:
            process.stdout.read()
    if process.returncode != 0:
        raise SystemExit(f"{process.args!r} ended with {process.returncode}")


def stored(s3: S3Endpoint, bucket: str) -> int:
    """Bytes in the bucket."""
    pages = client_of(s3).get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return sum(one["Size"] for page in pages for one in page.get("Contents", ()))


def change(dsn: str, rows: int, n: int) -> None:
    """Every hundredth of the rows of both tables, in one place, to what they have not been yet."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for name in TABLES:
            connection.execute(
                f"update {name} set body = repeat(md5(id::text || %s), 12)"
                " where tenant_id = %s and id between %s and %s".encode(),
                (f"round {n}", MOVING, rows // 2, rows // 2 + rows // 100 - 1),
            )
        connection.execute("checkpoint")


def measured(
    s3: S3Endpoint, tenure: Tenure, restic: Restic, blue: str, green: str, folder: Path, rows: int, n: int
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, int]]]:
    """Seconds and stored bytes of each work by each tool."""
    took: dict[str, dict[str, float]] = {}
    size: dict[str, dict[str, int]] = {}
    tenure.backups.rotate(MOVING)
    restic.begin()
    first: list[Backup] = []
    for work in ("first backup", "unchanged", "1 % changed"):
        if work == "1 % changed":
            change(blue, rows, n)
        before = stored(s3, VAULT), stored(s3, REPOSITORY)
        name = f"b-{n}-{len(took)}"
        took[work] = {
            "tenure": timed(lambda name=name: first.append(tenure.take(name))),  # type: ignore[misc]
            "restic": timed(lambda: restic.take(blue)),
            "pg_dump": tool("pg_dump", "-Fc", "-N", "tenure", "-f", folder / work.replace(" ", "-"), blue),
        }
        size[work] = {
            "tenure": stored(s3, VAULT) - before[0],
            "restic": stored(s3, REPOSITORY) - before[1],
            "pg_dump": (folder / work.replace(" ", "-")).stat().st_size,
        }
    ways: dict[str, Callable[[], object]] = {
        "tenure": lambda: tenure.restore(first[-1]),
        "restic": lambda: restic.restore(green),
        "pg_dump": lambda: tool("pg_restore", "--data-only", "-d", green, folder / "1-%-changed"),
    }
    took["restore"] = {}
    for who, way in ways.items():
        emptied(green, tenure.target)
        if who == "tenure":
            tenure.target.fence(FENCE, expires_in_s=None, drain_s=10)
        took["restore"][who] = timed(way)
        with psycopg.connect(green) as connection:
            found = connection.execute("select count(*) from documents").fetchone()
            assert found is not None
            assert found[0] == rows, f"{who} restored {found[0]} of {rows} rows"
    return took, size


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=200_000, help="in each of the two tables")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    if shutil.which(RESTIC) is None:
        print("needs Debian's package restic", file=sys.stderr)
        return 2
    folder = Path(tempfile.mkdtemp(prefix="tenure-bench-"))
    folder.chmod(0o755)  # the servers' account has to get in
    spec = EstateSpec(
        folder=folder / "estate",
        servers=(
            PostgresServer(name="source", version=16),
            PostgresServer(name="target"),
            SeaweedServer(name="s3", buckets=(VAULT, REPOSITORY)),
        ),
    )
    estate = up(spec, owner=True)
    times: dict[str, dict[str, list[float]]] = {}
    sizes: list[dict[str, dict[str, int]]] = []
    try:
        s3, servers = estate.s3("s3"), Servers(estate=estate)
        bucket = Bucket(
            endpoint=s3.endpoint,
            name=VAULT,
            region=s3.region,
            access_key=s3.access_key,
            secret_key=s3.secret_key,
        )
        vault = VaultStore(
            name=StoreName("vault"), cell=CellName("bench"), bucket=bucket, prefix="backups/{tenant}/"
        )
        master = Secret(base64.b64encode(secrets.token_bytes(32)).decode())
        signer = Signer(secrets.token_bytes(32))
        keys = LocalKeys([master], FolderOfKeys(folder / "keys"))
        with servers.database("source", "blue") as blue, servers.database("target", "green") as green:
            for name in TABLES:
                table_in(blue, name)
                table_in(green, name)
                fill(blue, name, MOVING, options.rows)
            tenure = Tenure(
                backups=Backups(keys, signer, Trust([signer.public])),
                vault=vault,
                source=store("blue", blue),
                target=store("green", green),
            )
            for n in range(options.rounds):
                restic = Restic(s3=s3, folder=folder, repository=f"round-{n}")
                took, size = measured(s3, tenure, restic, blue, green, folder, options.rows, n)
                sizes.append(size)
                for work, its in took.items():
                    for who, seconds in its.items():
                        times.setdefault(work, {}).setdefault(who, []).append(seconds)
            tenure.source.close()
            tenure.target.close()
        vault.close()
    finally:
        estate.close()
        down(estate.folder, remove=True)
        shutil.rmtree(folder, ignore_errors=True)
    report = {
        "rows": 2 * options.rows,
        "times": {work: ratios(its, "pg_dump") for work, its in times.items()},
        "stored_mb": {
            work: {who: round(size / 1e6, 3) for who, size in its.items()} for work, its in sizes[-1].items()
        },
        "stored_to_restic": {
            work: round(its["tenure"] / its["restic"], 2) for work, its in sizes[-1].items()
        },
    }
    print(json.dumps(report, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
