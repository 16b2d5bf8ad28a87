"""The tenants' log groups in a cell's CloudWatch Logs: `/rag_app/{tenant}`, after the cell's own prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from rag_app.settings import LogSettings

if TYPE_CHECKING:
    from mypy_boto3_cloudwatch import CloudWatchClient
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_logs.type_defs import InputLogEventTypeDef

STREAM: Final = "requests"
RETENTION_DAYS: Final = 14
_IMPATIENT: Final = Config(
    connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 2, "mode": "standard"}
)
_EXISTS: Final = "ResourceAlreadyExistsException"
_NOT_FOUND: Final = "ResourceNotFoundException"


@dataclass(frozen=True, kw_only=True)
class LogEvent:
    """`time_ms`: since 1970."""

    time_ms: int
    message: str

    @property
    def hour(self) -> str:
        return datetime.fromtimestamp(self.time_ms / 1000, UTC).strftime("%Y-%m-%dT%H")


def logs_client(settings: LogSettings) -> CloudWatchLogsClient:
    """A client that may be shared by threads. It gives up after seconds, not minutes."""
    return boto3.client(
        "logs",
        endpoint_url=settings.endpoint,
        region_name=settings.region,
        aws_access_key_id=settings.access_key,
        aws_secret_access_key=settings.secret_key,
        config=_IMPATIENT,
    )


def metrics_client(settings: LogSettings) -> CloudWatchClient:
    """For the metrics of the same account and region."""
    return boto3.client(
        "cloudwatch",
        endpoint_url=settings.endpoint,
        region_name=settings.region,
        aws_access_key_id=settings.access_key,
        aws_secret_access_key=settings.secret_key,
        config=_IMPATIENT,
    )


def group_of(tenant: str) -> str:
    """As the catalogue names it."""
    return f"/rag_app/{tenant}"


def journal_keys(tenant: str, stream: str, events: Sequence[LogEvent]) -> list[str]:
    """How a move knows of the changes that these events are (`tenure.client.touch`): the stream's hours."""
    return sorted({f"{group_of(tenant)}:{stream}:{event.hour}" for event in events})


def put(client: CloudWatchLogsClient, group: str, stream: str, events: Sequence[LogEvent]) -> None:
    """Add the events; group and stream are made if they are not there. Repeated, it adds them once more."""
    batch: list[InputLogEventTypeDef] = [
        {"timestamp": event.time_ms, "message": event.message}
        for event in sorted(events, key=lambda event: event.time_ms)
    ]
    try:
        client.put_log_events(logGroupName=group, logStreamName=stream, logEvents=batch)
    except ClientError as error:
        if error.response["Error"]["Code"] != _NOT_FOUND:
            raise
        make(client, group, stream)
        client.put_log_events(logGroupName=group, logStreamName=stream, logEvents=batch)


def make(client: CloudWatchLogsClient, group: str, stream: str) -> None:
    """The group, with a retention, and the stream; nothing happens to what is there."""
    try:
        client.create_log_group(logGroupName=group)
        client.put_retention_policy(logGroupName=group, retentionInDays=RETENTION_DAYS)
    except ClientError as error:
        if error.response["Error"]["Code"] != _EXISTS:
            raise
    try:
        client.create_log_stream(logGroupName=group, logStreamName=stream)
    except ClientError as error:
        if error.response["Error"]["Code"] != _EXISTS:
            raise
