"""Seals chunks with a tenant's data key, and opens them: Zstandard, then AES-256-GCM under a key of the chunk's own.

Promises: an id says nothing about the contents to whoever lacks the key, and equal contents of one tenant have equal
ids; a chunk that was changed, cut short, given another id, or sealed for another tenant or with another key is never
opened. No key ever seals two different texts: each chunk's key and nonce are derived from a keyed hash of exactly the
bytes that are encrypted, so that they repeat only with these, also over versions of the compressor, crashes and copied
machines.
"""

from __future__ import annotations

import hmac
import threading
from base64 import urlsafe_b64encode
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from tenure.backups.chunking import MOST_CHUNK_PLAIN, Cutting
from tenure.backups.zstd import CompressionParameter, ZstdCompressor, ZstdDecompressor, ZstdError
from tenure.errors import BackupTooNew, VaultDamaged
from tenure.model.names import TenantId
from tenure.stores.vault.contract import ChunkId, KeyReference

MAGIC: Final = b"TNRc"
VERSION: Final = 1
_SALT_BYTES: Final = 32
_HEAD: Final = len(MAGIC) + 1 + _SALT_BYTES
_TAG_BYTES: Final = 16
_FRAME: Final = 9
"""Method, plain length, packed length; before the packed bytes."""
_STORED: Final = 0
_ZSTD: Final = 1
LEVEL: Final = 2
"""Of Zstandard: on rows of tables, level 1 stores a sixth more, and level 3 takes a quarter more time for 2 % less."""
KEY_BYTES: Final = 32


@dataclass(frozen=True, kw_only=True)
class DataKey:
    """A tenant's data key, opened. It never appears in messages."""

    tenant: TenantId
    reference: KeyReference
    material: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.material) != KEY_BYTES:
            raise ValueError(f"a data key has {KEY_BYTES} bytes")


class Sealer:
    """Seals and opens one tenant's chunks with one data key. Thread-safe."""

    def __init__(self, key: DataKey) -> None:
        self._key = key
        self._ids = self._derived("chunk ids")
        self._salts = self._derived("salts")
        self._contents = self._derived("contents")
        self._local = threading.local()

    @property
    def tenant(self) -> TenantId:
        return self._key.tenant

    @property
    def reference(self) -> KeyReference:
        return self._key.reference

    @property
    def cutting(self) -> Cutting:
        return Cutting.of(self._derived("cutting")[:16])

    @property
    def check(self) -> str:
        """Tells whether a key is the right one, and nothing else about it."""
        return self._derived("check")[:16].hex()

    def chunk_id(self, plain: bytes) -> ChunkId:
        digest = hmac.digest(self._ids, plain, "sha256")
        return ChunkId(urlsafe_b64encode(digest).rstrip(b"=").decode())

    def seal(self, chunk: ChunkId, plain: bytes) -> bytes:
        """What the vault is to keep as that chunk; equal each time as long as the compressor is."""
        text = _padded(self._packed(plain))
        salt = hmac.digest(self._salts, self._bound(chunk) + text, "sha256")
        cipher, nonce = self._cipher(salt)
        return b"".join((MAGIC, bytes((VERSION,)), salt, cipher.encrypt(nonce, text, self._bound(chunk))))

    def open(self, chunk: ChunkId, sealed: bytes) -> bytes:
        """What was sealed. Raises `VaultDamaged` for anything else, and `BackupTooNew` for a later form."""
        if len(sealed) < _HEAD + _TAG_BYTES + _FRAME or sealed[: len(MAGIC)] != MAGIC:
            raise VaultDamaged(f"chunk {chunk} of {self.tenant} is no sealed chunk")
        if sealed[len(MAGIC)] != VERSION:
            raise BackupTooNew(
                f"chunk {chunk} of {self.tenant} has format {sealed[len(MAGIC)]}; this release reads {VERSION}",
                hint="read it with the release that wrote it, or a later one",
            )
        cipher, nonce = self._cipher(sealed[len(MAGIC) + 1 : _HEAD])
        try:
            text = cipher.decrypt(nonce, memoryview(sealed)[_HEAD:], self._bound(chunk))
        except InvalidTag:
            raise VaultDamaged(
                f"chunk {chunk} of {self.tenant} cannot be opened with the key {self.reference}: it is damaged, "
                "or was sealed for another tenant or with another key",
            ) from None
        plain = self._unpacked(text, chunk)
        if not hmac.compare_digest(self.chunk_id(plain), chunk):
            raise VaultDamaged(f"chunk {chunk} of {self.tenant} holds something else")
        return plain

    # -- keys --------------------------------------------------------------------------------------------------------

    def _derived(self, purpose: str) -> bytes:
        info = f"tenure backup 1: {purpose}\0{self.tenant}".encode()
        return HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(self._key.material)

    def _cipher(self, salt: bytes) -> tuple[AESGCM, bytes]:
        both = HKDFExpand(SHA256(), KEY_BYTES + 12, info=b"tenure chunk 1\0" + salt).derive(self._contents)
        return AESGCM(both[:KEY_BYTES]), both[KEY_BYTES:]

    def _bound(self, chunk: ChunkId) -> bytes:
        """What a chunk is tied to, beside its key."""
        return f"tenure chunk 1\0{self.tenant}\0{chunk}".encode()

    # -- the text inside ---------------------------------------------------------------------------------------------

    def _packed(self, plain: bytes) -> bytes:
        compressor = getattr(self._local, "compressor", None)
        if compressor is None:
            options: dict[int, int] = {CompressionParameter.compression_level: LEVEL}
            compressor = self._local.compressor = ZstdCompressor(options=options)
        packed = compressor.compress(plain, ZstdCompressor.FLUSH_FRAME)
        method = _ZSTD if len(packed) < len(plain) else _STORED
        body = packed if method == _ZSTD else plain
        return bytes((method,)) + len(plain).to_bytes(4, "big") + len(body).to_bytes(4, "big") + body

    def _unpacked(self, text: bytes, chunk: ChunkId) -> bytes:
        method, size = text[0], int.from_bytes(text[1:5], "big")
        body = text[_FRAME : _FRAME + int.from_bytes(text[5:9], "big")]
        problem = VaultDamaged(f"chunk {chunk} of {self.tenant} cannot be unpacked")
        if size > MOST_CHUNK_PLAIN or method not in (_STORED, _ZSTD):
            raise problem
        if method == _STORED:
            return body
        try:
            plain = ZstdDecompressor().decompress(body, max_length=size + 1)
        except ZstdError as error:
            raise problem from error
        if len(plain) != size:
            raise problem
        return plain


def _padded(text: bytes) -> bytes:
    """With zeros up to one of few sizes (Padmé: at most 12 % more, 1.5 % of the usual chunk), so that the size of what
    is sealed tells little of what is in it. The frame says where they begin."""
    size = max(len(text), 2)
    free = size.bit_length() - 1 - (size.bit_length() - 1).bit_length()
    mask = (1 << max(free, 0)) - 1
    return text.ljust((size + mask) & ~mask, b"\0")
