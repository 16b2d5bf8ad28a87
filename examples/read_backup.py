"""Reads one backup of a tenant without Tenure: from a copy of a vault's bucket in a folder, or from the bucket itself.

    python read_backup.py --vault FOLDER_OR_s3://BUCKET --prefix backups/acme/ --backup ID \\
        --trust PUBLIC_KEY --key KEY_FILE --out FOLDER

It needs `cryptography`, Zstandard (`backports.zstd` before Python 3.14), and `boto3` for a bucket. `--key` is a file
with the data key in base64 (as AWS KMS or a transit engine unwraps it), or, with `--master`, a wrapped key of the local
key service. In `--out` there will be each stream as a file and `index.json`, which says what each is. The format is
described in `docs/backup-format.md`; this is its second implementation, and shares no code with the first.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import hashlib
import hmac
import json
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Get = Callable[[str], bytes]
"""The object of that key below the tenant's prefix."""
Names = Callable[[str], list[str]]
"""The keys below the tenant's prefix that begin so."""


class Refused(Exception):
    """The backup is not what it has to be."""


def require(condition: object, otherwise: str) -> None:
    if not condition:
        raise Refused(otherwise)


def canonical(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


# -- the vault ---------------------------------------------------------------------------------------------------------


def folder(root: pathlib.Path, prefix: str) -> tuple[Get, Names]:
    def names(begin: str) -> list[str]:
        below = root / prefix
        every = (str(p.relative_to(below)) for p in below.rglob("*") if p.is_file())
        return sorted(name for name in every if name.startswith(begin))

    return lambda key: (root / prefix / key).read_bytes(), names


def bucket(name: str, prefix: str, endpoint: str | None) -> tuple[Get, Names]:
    import boto3

    client = boto3.client("s3", endpoint_url=endpoint)

    def get(key: str) -> bytes:
        return client.get_object(Bucket=name, Key=prefix + key)["Body"].read()

    def names(begin: str) -> list[str]:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=name, Prefix=prefix + begin)
        return [entry["Key"].removeprefix(prefix) for page in pages for entry in page.get("Contents", [])]

    return get, names


# -- what needs no key -------------------------------------------------------------------------------------------------


def manifest(get: Get, backup: str) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(get(f"backups/{backup}"))
    claimed = fields.pop("sha256", None)
    require(hashlib.sha256(canonical(fields)).hexdigest() == claimed, "the manifest is damaged")
    require(fields["state"] == "complete", "the backup was never finished")
    return fields


def uploads(get: Get, names: Names, record: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Where each chunk lies, and its size."""
    digest = record["contents"]
    (listed,) = (n for n in names(f"lists/{record['backup']}.") if n.endswith(f".{digest}"))
    text = gzip.decompress(get(listed))
    require(hashlib.sha256(text).hexdigest() == digest, "the list of chunks is damaged")
    lines = (line.split(" ") for line in text.decode().splitlines())
    return {name.split(".")[0]: (name, int(size)) for name, size in lines}


def verified(record: Mapping[str, Any], chunks: Mapping[str, tuple[str, int]], trusted: bytes) -> Any:
    """The part in the clear, once its signature is that of the trusted key."""
    public = dict(record["public"])
    signature = public.pop("signature")
    require(public["format"] == 1, f"this reads format 1, not {public['format']}")
    message = b"tenure backup manifest 1\n" + canonical(public)
    Ed25519PublicKey.from_public_bytes(trusted).verify(base64.b64decode(signature["ed25519"]), message)
    for name in ("tenant", "backup", "key"):
        require(public[name] == record[name], f"the manifest was signed for another {name}")
    lines = sorted(f"{c} {name.rpartition('.')[2]} {size}\n" for c, (name, size) in chunks.items())
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    require(public["contents"] == digest, "the list of chunks is not the one that was signed")
    return public


# -- what needs the key ------------------------------------------------------------------------------------------------


def unwrapped(master: bytes, reference: str, wrapped: bytes) -> bytes:
    """A data key as the local key service keeps it."""
    magic, salt, sealed = wrapped[:5], wrapped[5:37], wrapped[37:]
    require(magic == b"TNRk\x01", "this is no wrapped key of the local key service")
    both = HKDFExpand(SHA256(), 44, info=b"tenure wrap 1\0" + salt).derive(master)
    return AESGCM(both[:32]).decrypt(both[32:], sealed, magic + reference.encode())


class Opener:
    """Opens one tenant's chunks."""

    def __init__(self, tenant: str, key: bytes, get: Get, chunks: Mapping[str, tuple[str, int]]) -> None:
        self._tenant = tenant
        self._key = key
        self._get = get
        self._chunks = chunks
        self._ids = self.derived("chunk ids")
        self._contents = self.derived("contents")

    def derived(self, purpose: str) -> bytes:
        info = f"tenure backup 1: {purpose}\0{self._tenant}".encode()
        return HKDF(SHA256(), 32, salt=None, info=info).derive(self._key)

    def chunk(self, name: str) -> bytes:
        upload, size = self._chunks[name]
        sealed = self._get(f"chunks/{upload}")
        digest = hashlib.blake2b(sealed, digest_size=16).hexdigest()
        require(len(sealed) == size and upload.endswith(f".{digest}"), f"chunk {name} is damaged")
        require(sealed[:5] == b"TNRc\x01", f"chunk {name} has another format")
        salt = sealed[5:37]
        both = HKDFExpand(SHA256(), 44, info=b"tenure chunk 1\0" + salt).derive(self._contents)
        bound = f"tenure chunk 1\0{self._tenant}\0{name}".encode()
        text = AESGCM(both[:32]).decrypt(both[32:], sealed[37:], bound)
        length = int.from_bytes(text[5:9], "big")
        plain = text[9 : 9 + length] if text[0] == 0 else zstd.decompress(text[9 : 9 + length])
        require(len(plain) == int.from_bytes(text[1:5], "big"), f"chunk {name} is cut")
        named = base64.urlsafe_b64encode(hmac.digest(self._ids, plain, "sha256")).rstrip(b"=").decode()
        require(named == name, f"chunk {name} holds something else")
        return plain


def write_streams(opener: Opener, index: Mapping[str, Any], out: pathlib.Path) -> None:
    """Each stream as `<n>.<store>.<part>`, and `index.json` that has the streams' headers in the same order."""
    out.mkdir(parents=True, exist_ok=True)
    for n, stream in enumerate(index["streams"]):
        digest, at = hashlib.sha256(), 0
        begin, end = stream["start"], stream["start"] + stream["bytes"]
        run = index["runs"][stream["run"]]
        with (out / f"{n:06d}.{stream['store']}.{stream['part']}").open("wb") as file:
            for name, size in zip(run["chunks"], run["sizes"], strict=True):
                if at < end and at + size > begin:
                    piece = opener.chunk(name)[max(0, begin - at) : end - at]
                    digest.update(piece)
                    file.write(piece)
                at += size
        require(digest.hexdigest() == stream["sha256"], f"stream {n} ({stream['collection']}) differs")
    described = {name: index[name] for name in ("point", "streams", "collections", "facts")}
    (out / "index.json").write_text(json.dumps(described, indent=1), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Read a backup of one tenant without Tenure.")
    for name in ("--vault", "--prefix", "--backup", "--trust", "--key", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--master", help="a file with the master key, if --key is a wrapped one")
    parser.add_argument("--endpoint", help="of a bucket that is not Amazon's")
    given = parser.parse_args()
    if given.vault.startswith("s3://"):
        get, names = bucket(given.vault.removeprefix("s3://"), given.prefix, given.endpoint)
    else:
        get, names = folder(pathlib.Path(given.vault), given.prefix)
    record = manifest(get, given.backup)
    chunks = uploads(get, names, record)
    public = verified(record, chunks, base64.b64decode(given.trust))
    raw = pathlib.Path(given.key).read_bytes()
    if given.master:
        key = unwrapped(base64.b64decode(pathlib.Path(given.master).read_text()), public["key"], raw)
    else:
        key = base64.b64decode(raw)
    opener = Opener(public["tenant"], key, get, chunks)
    require(opener.derived("check")[:16].hex() == public["key_check"], "this is another key")
    index = json.loads(b"".join(opener.chunk(name) for name in public["index"]))
    for name in ("tenant", "backup", "point"):
        require(index[name] == public[name], f"the index is of another {name}")
    write_streams(opener, index, pathlib.Path(given.out))
    told = f"{len(index['streams'])} streams of {public['tenant']} as of {public['point']} are in {given.out}"
    sys.stdout.write(f"{told}\n")


if __name__ == "__main__":
    main()
