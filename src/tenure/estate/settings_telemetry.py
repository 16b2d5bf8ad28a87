"""The settings of `tenure.yaml` for stores of what an app says about itself: logs and metrics."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator

from tenure.document import Described, Settings, refuse, setting
from tenure.estate.secret_ref import SecretSetting
from tenure.estate.values import Region, RelativePath, Text, Url

_PREFIX: Final = re.compile(r"[A-Za-z0-9_./#-]{1,400}")


def _group_prefix(text: str) -> str:
    if not _PREFIX.fullmatch(text):
        raise refuse("is not how a log group's name may begin: letters, digits and _ - / . #")
    return text


GroupPrefix = Annotated[str, AfterValidator(_group_prefix), Described(words="text")]


class LogsSettings(Settings):
    """The CloudWatch Logs of a cell: one region of one account."""

    title: ClassVar[str] = "cells.NAME.stores.NAME (kind: cloudwatch_logs)"
    kind: Literal["cloudwatch_logs"] = setting("Amazon CloudWatch Logs.")
    region: Region = setting("The region of the log groups.")
    endpoint: Url | None = setting("Where another server than AWS's is reached.", default=None)
    group_prefix: GroupPrefix | None = setting(
        "What the names of this cell's log groups begin with, before what the catalogue says: `/blue`. Cells in the "
        "same account and region need different ones.",
        default=None,
    )
    export: RelativePath | None = setting(
        "The folder into which every erasure of logs, also that which completes a move, first writes the events that "
        "it deletes: JSON Lines, gzip, and a manifest with counts and digests.",
        default=None,
    )
    access_key: SecretSetting | None = setting(
        "The access key. Without it and `secret_key`, the AWS SDK's own chain (profile, role) gives the credentials.",
        default=None,
    )
    secret_key: SecretSetting | None = setting(
        "The secret key; with `access_key` or not at all.", default=None
    )


class MetricsSettings(Settings):
    """The CloudWatch metrics of a cell: one region of one account."""

    title: ClassVar[str] = "cells.NAME.stores.NAME (kind: cloudwatch_metrics)"
    kind: Literal["cloudwatch_metrics"] = setting("Amazon CloudWatch metrics.")
    region: Region = setting("The region of the metrics.")
    endpoint: Url | None = setting("Where another server than AWS's is reached.", default=None)
    access_key: SecretSetting | None = setting(
        "The access key. Without it and `secret_key`, the AWS SDK's own chain (profile, role) gives the credentials.",
        default=None,
    )
    secret_key: SecretSetting | None = setting(
        "The secret key; with `access_key` or not at all.", default=None
    )


class PrometheusSettings(Settings):
    """A Prometheus of a cell."""

    title: ClassVar[str] = "cells.NAME.stores.NAME (kind: prometheus)"
    kind: Literal["prometheus"] = setting("Prometheus 2.9 or newer.")
    url: Url = setting("Where Tenure reaches its HTTP API; erasing needs `--web.enable-admin-api`.")
    user: Text | None = setting("The user, where it asks for one; with `password`.", default=None)
    password: SecretSetting | None = setting("The user's password.", default=None)
    token: SecretSetting | None = setting(
        "A bearer token, where that is asked for instead of a user.", default=None
    )
