"""The files of tenants in a cell's bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

from rag_app.settings import ObjectSettings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def s3_client(objects: ObjectSettings, *, connections: int = 10) -> S3Client:
    """A client that may be shared by threads. It gives up after seconds, not minutes."""
    return boto3.client(
        "s3",
        endpoint_url=objects.endpoint,
        region_name=objects.region,
        aws_access_key_id=objects.access_key,
        aws_secret_access_key=objects.secret_key,
        config=Config(
            connect_timeout=3,
            read_timeout=10,
            max_pool_connections=connections,
            retries={"total_max_attempts": 2, "mode": "standard"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path"},
        ),
    )


def file_key(tenant: str, document: int | str) -> str:
    return f"tenants/{tenant}/files/{document}.txt"
