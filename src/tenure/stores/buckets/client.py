"""Clients for S3 and what speaks its language: the only module that makes them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.handlers import validate_ascii_metadata

from tenure.model.secret import Secret

ANSWER_TIMEOUT_S: Final = 30.0
"""How long a server may say nothing at all; driver and system know no shorter sign of a network that went silent."""
CONNECT_TIMEOUT_S: Final = 2.0
PING_TIMEOUT_S: Final = 2.0
_SESSION: Final = boto3.session.Session()
_SESSION_LOCK: Final = threading.Lock()
"""One session for all stores: each one reads boto's description of S3 anew. Making clients is not thread-safe."""


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """Where a bucket is and who comes to it. `endpoint` None is AWS; empty keys mean AWS's own chain of credentials."""

    endpoint: str | None
    name: str
    region: str
    access_key: Secret
    secret_key: Secret

    @property
    def server(self) -> str:
        return urlsplit(self.endpoint).netloc if self.endpoint else f"s3.{self.region}.amazonaws.com"

    def client(self, *, connections: int) -> Any:
        """A thread-safe client with so many connections at most."""
        return _client(self, connections, timeout_s=ANSWER_TIMEOUT_S, attempts=3)

    def ping_client(self) -> Any:
        """One that says within 5 seconds that nobody answers."""
        return _client(self, 1, timeout_s=PING_TIMEOUT_S, attempts=2)


def _client(bucket: Bucket, connections: int, *, timeout_s: float, attempts: int) -> Any:
    with _SESSION_LOCK:
        client = _SESSION.client(
            "s3",
            endpoint_url=bucket.endpoint,
            region_name=bucket.region,
            aws_access_key_id=bucket.access_key.reveal() or None,
            aws_secret_access_key=bucket.secret_key.reveal() or None,
            config=Config(
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=timeout_s,
                retries={"total_max_attempts": attempts, "mode": "standard"},
                max_pool_connections=connections,
                s3={"addressing_style": "path"} if bucket.endpoint else {},
                tcp_keepalive=True,
                # Tenure compares contents itself; servers other than AWS do not know the newer checksums.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
    allow_unicode(client)
    return client


def allow_unicode(client: Any) -> None:
    """Let a client send headers and metadata that are not ASCII, as the UTF-8 that its signature is made of."""
    for operation in ("PutObject", "CreateMultipartUpload", "CopyObject"):
        client.meta.events.unregister(f"before-parameter-build.s3.{operation}", validate_ascii_metadata)
    client.meta.events.register("before-send.s3", _send_unicode)


def _send_unicode(request: Any, **_: Any) -> None:
    for name, value in list(request.headers.items()):
        if isinstance(value, str) and not value.isascii():
            request.headers[name] = value.encode()
