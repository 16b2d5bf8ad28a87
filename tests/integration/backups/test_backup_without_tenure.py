"""A backup is read by a program that has nothing of Tenure, only what `docs/backup-format.md` says."""

from __future__ import annotations

import ast
import base64
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tenure.backups.contract import Part
from tenure.stores.vault.contract import Backup, BackupId
from tests.integration.vault.conftest import VaultBucket
from tests.sealed import ACME, FILES, MAIN, POINT, Estate, Name, prepared, rows, written

READER = Path(__file__).parents[3] / "examples" / "read_backup.py"
BASE: dict[Name, bytes] = {
    (MAIN, "public.documents"): b"".join(rows(5_000)),
    (MAIN, "public.empty"): b"",
    (FILES, "uploads/*"): random.Random(3).randbytes(2_500_000),
    **{(FILES, f"tiny:{n}"): b"tiny" * n for n in range(50)},
}
LATE: dict[Name, bytes] = {(FILES, "uploads/*"): b"taken again"}


@pytest.fixture
def backup(bucket: VaultBucket, estate: Estate) -> Backup:
    writer = estate.backups.begin(bucket.store().vault, ACME, BackupId("b-1"))
    written(writer, BASE, late=LATE)
    made = writer.commit(prepared(writer, estate.signer, BASE))
    writer.close()
    return made


@pytest.fixture
def folder(bucket: VaultBucket, backup: Backup, tmp_path: Path) -> Path:
    """The bucket, copied as any tool would."""
    for key in bucket.keys(""):
        path = tmp_path / "bucket" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bucket.admin.get_object(Bucket=bucket.name, Key=key)["Body"].read())
    return tmp_path / "bucket"


def read(*options: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", str(READER), *options],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=env,
    )


def options(estate: Estate, vault: str, backup: Backup, out: Path) -> list[str]:
    (wrapped,) = estate.folder.rglob("*.key")
    secret = out.parent / "master"
    secret.write_text(estate.master.reveal())
    return [
        *("--vault", vault, "--prefix", "backups/acme/", "--backup", backup.id, "--out", str(out)),
        *("--trust", base64.b64encode(estate.signer.public).decode()),
        *("--key", str(wrapped), "--master", str(secret)),
    ]


def require_everything(out: Path) -> None:
    index = json.loads((out / "index.json").read_text())
    found = {Part.BASE: {}, Part.LATE: {}}  # type: dict[Part, dict[tuple[str, str], bytes]]
    for n, stream in enumerate(index["streams"]):
        (file,) = out.glob(f"{n:06d}.*")
        found[Part(stream["part"])][(stream["store"], stream["collection"])] = file.read_bytes()
    assert found == {Part.BASE: BASE, Part.LATE: LATE}
    assert index["point"] == POINT.isoformat()
    assert index["facts"] == {"main": {"version": 18}}


def test_the_reader_shares_no_code_with_tenure() -> None:
    tree = ast.parse(READER.read_text())
    imported = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    imported |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    others = {str(name).partition(".")[0] for name in imported} - {*sys.stdlib_module_names, "compression"}
    assert others == {"cryptography", "backports", "boto3"}


def test_a_backup_is_read_from_a_copy_of_the_bucket(
    estate: Estate, backup: Backup, folder: Path, tmp_path: Path
) -> None:
    done = read(*options(estate, str(folder), backup, tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "54 streams of acme" in done.stdout
    require_everything(tmp_path / "out")


def test_a_backup_is_read_from_the_bucket_with_a_data_key_that_was_unwrapped_elsewhere(
    bucket: VaultBucket, estate: Estate, backup: Backup, tmp_path: Path
) -> None:
    given = options(estate, f"s3://{bucket.name}", backup, tmp_path / "out")
    given = given[: given.index("--key")]
    plain = tmp_path / "data-key"
    plain.write_bytes(base64.b64encode(estate.keys.open(backup.key).material))
    env = {
        "PATH": os.environ["PATH"],
        "AWS_ACCESS_KEY_ID": bucket.s3.access_key.reveal(),
        "AWS_SECRET_ACCESS_KEY": bucket.s3.secret_key.reveal(),
        "AWS_DEFAULT_REGION": bucket.s3.region,
    }
    done = read(*given, "--key", str(plain), "--endpoint", bucket.s3.endpoint, env=env)
    assert done.returncode == 0, done.stderr
    require_everything(tmp_path / "out")


def test_the_reader_refuses_what_tenure_would_refuse(
    estate: Estate, backup: Backup, folder: Path, tmp_path: Path
) -> None:
    given = options(estate, str(folder), backup, tmp_path / "out")
    other = base64.b64encode(Estate(tmp_path).signer.public).decode()
    assert "InvalidSignature" in read(*given, "--trust", other).stderr
    (tmp_path / "master").write_text(Estate(tmp_path).master.reveal())
    assert "InvalidTag" in read(*given).stderr
    (tmp_path / "master").write_text(estate.master.reveal())
    largest = max((folder / "backups/acme/chunks").iterdir(), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1] + b"?")
    done = read(*given)
    assert done.returncode == 1
    assert "is damaged" in done.stderr
    record = folder / "backups/acme/backups/b-1"
    record.write_bytes(record.read_bytes().replace(b'"epoch":7', b'"epoch":8'))
    assert "the manifest is damaged" in read(*given).stderr
