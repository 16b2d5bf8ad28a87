"""One region of one AWS account, and the clients for it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from tenure.model.secret import Secret

WORKERS: Final = 8
ANSWER_TIMEOUT_S: Final = 30.0
"""How long a server may say nothing at all."""
PING_TIMEOUT_S: Final = 2.0
ATTEMPTS: Final = 5
"""With boto's growing pauses between them, up to a quarter of a minute: throttling by quotas is everyday here."""
_SESSION: Final = boto3.session.Session()
_SESSION_LOCK: Final = threading.Lock()
"""One session for all stores: each one reads boto's descriptions anew. Making clients is not thread-safe."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """`endpoint` None is AWS; empty keys mean AWS's own chain of credentials."""

    region: str
    endpoint: str | None = None
    access_key: Secret = field(default_factory=lambda: Secret(""))
    secret_key: Secret = field(default_factory=lambda: Secret(""))
    timeout_s: float = ANSWER_TIMEOUT_S

    def client(
        self,
        service: Literal["logs", "cloudwatch"],
        *,
        timeout_s: float | None = None,
        attempts: int = ATTEMPTS,
    ) -> Any:
        """A client that tries each request so many times, waiting longer each time."""
        with _SESSION_LOCK:
            return _SESSION.client(
                service,
                endpoint_url=self.endpoint,
                region_name=self.region,
                aws_access_key_id=self.access_key.reveal() or None,
                aws_secret_access_key=self.secret_key.reveal() or None,
                config=Config(
                    connect_timeout=2.0,
                    read_timeout=self.timeout_s if timeout_s is None else timeout_s,
                    retries={"total_max_attempts": attempts, "mode": "standard"},
                    max_pool_connections=4 * WORKERS,
                    tcp_keepalive=True,
                ),
            )

    def server(self, service: Literal["logs", "monitoring"]) -> str:
        """The server that this region's service is on."""
        return urlsplit(self.endpoint).netloc if self.endpoint else f"{service}.{self.region}.amazonaws.com"
