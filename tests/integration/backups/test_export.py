"""A backup exported so that anybody reads it: every store's items as JSON Lines and Parquet, objects as files."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
from array import array
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tenure.backups.contract import Part
from tenure.backups.export import Export, export, safe_path
from tenure.backups.writing import BackupWriter
from tenure.errors import UsageError
from tenure.model.names import StoreName
from tenure.stores.records import RecordWriter
from tenure.stores.vault.contract import BackupId
from tenure.wiring.exports import exporters
from tests.integration.vault.conftest import VaultBucket
from tests.sealed import ACME, MAIN, Estate, prepared

REDIS, OBJECTS, VECTORS = StoreName("redis"), StoreName("objects"), StoreName("semantics")
LOGS, ANALYTICS = StoreName("logs"), StoreName("analytics")
Write = Callable[[BackupWriter], None]
Item = tuple[bytes, Mapping[str, Any], bytes]
TYPES = {
    "tenant_id": "text",
    "big": "bigint",
    "small": "smallint",
    "exact": "numeric(30,10)",
    "ratio": "double precision",
    "yes": "boolean",
    "raw": "bytea",
    "doc": "jsonb",
    "at": "timestamp with time zone",
    "day": "date",
    "words": "text",
    "id": "uuid",
    "tags": "text[]",
}


def exported(bucket: VaultBucket, estate: Estate, folder: Path, write: Write) -> Export:
    vault = bucket.store().vault
    writer = estate.backups.begin(vault, ACME, BackupId("b-1"))
    write(writer)
    backup = writer.commit(prepared(writer, estate.signer, {}))
    writer.close()
    reader = estate.backups.open(vault, backup, tenant=ACME)
    try:
        return export(reader, reader.public, exporters(), folder)
    finally:
        reader.close()


def records(
    writer: BackupWriter,
    store: StoreName,
    collection: str,
    form: str,
    base: list[Item],
    late: list[Item | bytes] = [],  # noqa: B006
) -> None:
    """Streams of records; a key alone is one that had gone."""
    for part, items in ((Part.BASE, base), (Part.LATE, late)):
        if part is Part.BASE or items:
            frames = RecordWriter(
                writer.stream(store, collection, part, {"format": "tenure-records/1", "items": form})
            )
            for item in items:
                if isinstance(item, bytes):
                    frames.gone(item)
                else:
                    frames.item(*item)
            frames.close()


def rows_in(folder: Path, name: str) -> list[dict[str, Any]]:
    """The JSON Lines, once Parquet has been seen to have as many rows."""
    lines = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    assert pq.read_table(folder / f"{name}.parquet").num_rows == len(lines)
    return lines


def packed(*elements: bytes) -> bytes:
    return b"".join(len(e).to_bytes(4, "little") + e for e in elements)


def test_rows_of_a_table_come_with_their_types(
    bucket: VaultBucket, estate: Estate, tmp_path: Path, fresh_database: Callable[..., str]
) -> None:
    """Compared with what a driver reads from the same server."""
    columns = ", ".join(f"{name} {kind}" for name, kind in TYPES.items())
    with psycopg.connect(fresh_database(), autocommit=True) as connection:
        connection.execute("set timezone = 'UTC'")
        connection.execute(f"create table t ({columns})")
        connection.execute(
            "insert into t values ('acme', 9223372036854775807, -5, 12345678901234567890.0123456789, 0.1, true,"
            " '\\x00ff5c', '{\"a\": [1, null, \"ü\"]}', '2026-03-14 15:09:26.5+00', '2026-03-14',"
            " E'tab\\t line\\n back\\\\slash \\\\N end', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '{a,\"b c\"}'),"
            " ('acme', null, null, 'NaN', 'Infinity', false, '', 'null', null, null, '', null, '{}')"
        )
        with connection.cursor().copy("copy t to stdout") as copy:
            text = b"".join(bytes(block) for block in copy)

    def write(writer: BackupWriter) -> None:
        header = {
            "format": "postgresql-copy-text/1",
            "columns": [{"name": n, "type": t} for n, t in TYPES.items()],
        }
        with writer.stream(MAIN, "public.t", Part.BASE, header) as stream:
            for at in range(0, len(text), 7):
                stream.write(text[at : at + 7])

    done = exported(bucket, estate, tmp_path / "out", write)
    assert done.complete
    first, second = rows_in(tmp_path / "out", "main/public.t")
    assert first == {
        "tenant_id": "acme",
        "big": 2**63 - 1,
        "small": -5,
        "exact": "12345678901234567890.0123456789",
        "ratio": 0.1,
        "yes": True,
        "raw": base64.b64encode(b"\x00\xff\\").decode(),
        "doc": {"a": [1, None, "ü"]},
        "at": "2026-03-14 15:09:26.5+00",
        "day": "2026-03-14",
        "words": "tab\t line\n back\\slash \\N end",
        "id": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "tags": '{a,"b c"}',
    }
    assert (second["big"], second["exact"], second["ratio"], second["words"]) == (None, "NaN", "inf", "")
    table = pq.read_table(tmp_path / "out/main/public.t.parquet")
    kinds = [str(table.schema.field(n).type) for n in ("big", "ratio", "yes", "raw", "words")]
    assert kinds == ["int64", "double", "bool", "binary", "string"]
    assert table["raw"].to_pylist() == [b"\x00\xff\\", b""]
    assert json.loads(table["doc"].to_pylist()[0]) == first["doc"]


def test_objects_become_files_and_what_was_taken_again_wins(
    bucket: VaultBucket, estate: Estate, tmp_path: Path
) -> None:
    head = {"headers": [["ContentType", "text/plain"]], "metadata": [["by", "ü"]], "tags": []}
    large = bytes(range(256)) * 9_000
    base: list[Item] = [
        (b"t/acme/a.txt", {**head, "size": 3}, b"old"),
        (b"t/acme/gone.txt", {**head, "size": 4}, b"gone"),
        (b"t/acme/large", {**head, "size": len(large)}, large),
        (b"t/acme/large/below", {**head, "size": 1}, b"b"),
        (b"../../etc/passwd", {**head, "size": 1}, b"p"),
        (b"t/acme/" + b"long" * 200, {**head, "size": 1}, b"l"),
    ]
    late: list[Item | bytes] = [(b"t/acme/a.txt", {**head, "size": 3}, b"new"), b"t/acme/gone.txt"]

    def write(writer: BackupWriter) -> None:
        records(writer, OBJECTS, "*", "s3-objects/1", base, late)

    out = tmp_path / "out"
    done = exported(bucket, estate, out, write)
    found = {row["key"]: row for row in rows_in(out, "objects/%2A")}
    contents = {key: (out / row["file"]).read_bytes() for key, row in found.items()}
    expected = {key.decode(): body for key, _, body in base} | {"t/acme/a.txt": b"new"}
    del expected["t/acme/gone.txt"]
    assert contents == expected
    assert found["t/acme/a.txt"]["headers"] == {"ContentType": "text/plain"}
    assert found["t/acme/a.txt"]["metadata"] == {"by": "ü"}
    assert found["t/acme/a.txt"]["file"] == "objects/files/t/acme/a.txt"
    assert [(c.rows, c.files) for c in done.collections] == [(5, 5)]
    assert all(path.resolve().is_relative_to(out.resolve()) for path in out.rglob("*"))
    assert {stat.S_IMODE(p.stat().st_mode) for p in out.rglob("*")} == {0o700, 0o600}


def test_keys_of_every_type_are_json(bucket: VaultBucket, estate: Estate, tmp_path: Path) -> None:
    base: list[Item] = [
        (b"text", {"type": "string", "expires_at": 1_773_500_966_535}, "wörter".encode()),
        (b"\xff\x00", {"type": "string"}, b"\xfe"),
        (b"list", {"type": "list"}, packed(b"a", b"", b"\xff")),
        (
            b"hash",
            {"type": "hash", "fields_expire": [[1, 1_773_500_966_000]]},
            packed(b"f", b"1", b"g", b"2"),
        ),
        (b"zset", {"type": "zset"}, packed(b"m", b"1.5", b"n", b"inf")),
        (b"stream", {"type": "stream", "rdb": 12}, packed(b"DUMP", b"1-1", b"2", b"a", b"1", b"b", b"2")),
        (b"module", {"type": "other", "rdb": 12}, b"\x07dump"),
    ]

    def write(writer: BackupWriter) -> None:
        records(writer, REDIS, "session:*", "redis-keys/1", base)

    exported(bucket, estate, tmp_path / "out", write)
    rows = rows_in(tmp_path / "out", "redis/session%3A%2A")
    assert [row["key"] for row in rows] == [
        "text",
        {"hex": "ff00"},
        "list",
        "hash",
        "zset",
        "stream",
        "module",
    ]
    assert rows[0]["expires_at"] == "2026-03-14T15:09:26.535+00:00"
    assert [row["value"] for row in rows] == [
        "wörter",
        {"hex": "fe"},
        ["a", "", {"hex": "ff"}],
        [
            {"field": "f", "value": "1"},
            {"field": "g", "value": "2", "expires_at": "2026-03-14T15:09:26.000+00:00"},
        ],
        [{"member": "m", "score": "1.5"}, {"member": "n", "score": "inf"}],
        [{"id": "1-1", "fields": [["a", "1"], ["b", "2"]]}],
        {"dump": base64.b64encode(b"\x07dump").decode()},
    ]


def test_vectors_log_events_and_analytics_are_rows(
    bucket: VaultBucket, estate: Estate, tmp_path: Path
) -> None:
    vector = array("f", [0.5, -1.25]).tobytes() + (7).to_bytes(8, "little") + array("f", [0.25]).tobytes()
    events = b'{"timestamp":1773500966535,"message":"one"}\n{"timestamp":1773500966536,"message":"t\\nwo"}\n'
    lines = b'["acme",{"int":"5"},{"bytes":"AP8="},null]\n'
    arrow = pa.BufferOutputStream()
    batch = pa.record_batch({"tenant_id": ["acme"], "n": [6], "raw": [b"\x00"], "x": [1.5]})
    with pa.ipc.new_stream(arrow, batch.schema) as stream:
        stream.write_batch(batch)
    columns = [["tenant_id", "VARCHAR"], ["n", "BIGINT"], ["raw", "BLOB"], ["x", "DOUBLE"]]

    def write(writer: BackupWriter) -> None:
        records(
            writer,
            VECTORS,
            "records",
            "pinecone-records/1",
            [(b"v1", {"values": 2, "sparse": 1}, vector + b'{"who":"me"}')],
        )
        records(writer, LOGS, "/app", "log-events/1", [(b"hour", {}, events)])
        for name, form, body in (
            ("sql", "sql-rows-json/1", lines),
            ("duck", "duckdb-arrow-ipc/1", arrow.getvalue().to_pybytes()),
        ):
            unit = (b"day", {"form": form, "columns": columns, "rows": 1}, body)
            records(writer, ANALYTICS, name, "analytics-units/1", [unit])

    exported(bucket, estate, tmp_path / "out", write)
    (record,) = rows_in(tmp_path / "out", "semantics/records")
    assert record == {"id": "v1", "values": [0.5, -1.25], "sparse": [[7, 0.25]], "metadata": {"who": "me"}}
    assert rows_in(tmp_path / "out", "logs/%2Fapp") == [
        {"time": "2026-03-14T15:09:26.535+00:00", "message": "one"},
        {"time": "2026-03-14T15:09:26.536+00:00", "message": "t\nwo"},
    ]
    assert rows_in(tmp_path / "out", "analytics/sql") == [
        {"tenant_id": "acme", "n": 5, "raw": "AP8=", "x": None}
    ]
    assert rows_in(tmp_path / "out", "analytics/duck") == [
        {"tenant_id": "acme", "n": 6, "raw": "AA==", "x": 1.5}
    ]


def test_what_cannot_be_exported_is_named_and_leaves_no_half_written_file(
    bucket: VaultBucket, estate: Estate, tmp_path: Path
) -> None:
    columns = [["tenant_id", "String"]]

    def write(writer: BackupWriter) -> None:
        with writer.stream(MAIN, "unknown", Part.BASE, {"format": "something/9"}) as stream:
            stream.write(b"x")
        with writer.stream(
            MAIN,
            "torn",
            Part.BASE,
            {"format": "postgresql-copy-text/1", "columns": [{"name": "a", "type": "text"}]},
        ) as stream:
            stream.write(b"whole\nhalf a li")
        unit = (b"day", {"form": "clickhouse-native/1", "columns": columns, "rows": 1}, b"native")
        records(writer, ANALYTICS, "events", "analytics-units/1", [unit])
        records(writer, OBJECTS, "*", "s3-objects/1", [])

    out = tmp_path / "out"
    done = exported(bucket, estate, out, write)
    assert not done.complete
    reasons = {one.collection: one.reason for one in done.left_out}
    assert reasons.keys() == {"unknown", "torn", "events"}
    assert "something/9" in reasons["unknown"]
    assert "middle of a line" in reasons["torn"]
    assert "no rows in the form clickhouse-native/1" in reasons["events"]
    listed = json.loads((out / "export.json").read_text())
    assert {one["collection"] for one in listed["left_out"]} == reasons.keys()
    files = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} - {"export.json"}
    assert files == listed["files"].keys() == {"objects/%2A.jsonl", "objects/%2A.parquet"}
    for name, about in listed["files"].items():
        content = (out / name).read_bytes()
        assert about == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_an_export_goes_into_a_new_folder_only(bucket: VaultBucket, estate: Estate, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "something").write_text("here")
    with pytest.raises(UsageError, match="not empty"):
        exported(bucket, estate, tmp_path / "out", lambda _writer: None)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a//b", "a/./b", "..", "a\0b", "a\\b", "C:x", "ü/" + "ä" * 300]
)
def test_no_name_of_an_object_leaves_its_folder(tmp_path: Path, name: str) -> None:
    path = (tmp_path / safe_path(name)).resolve()
    assert path.is_relative_to(tmp_path.resolve())
    assert path != tmp_path.resolve()
    assert "\0" not in safe_path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("it is a name")
