"""The settings of `catalogue.yaml` for what an app says about itself: logs and metrics."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, Field

from tenure.catalogue.patterns import PLACEHOLDER, NamePattern
from tenure.catalogue.words import Class, Keys, Name, Pattern, converted
from tenure.document import Described, Settings, read_only, refuse, setting

_GROUP: Final = re.compile(r"[A-Za-z0-9_./#*{}-]{1,512}")
_LABEL: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9_./#: -]{1,255}")


def _group(text: str) -> str:
    converted(NamePattern.parse)(text)
    if not _GROUP.fullmatch(text) or text == "*":
        raise refuse("is not a log group's name: letters, digits and _ - / . # (and `*` below a path)")
    return text


def _streams(text: str) -> str:
    converted(NamePattern.parse)(text)
    if ":" in text:
        raise refuse("names of log streams contain no ':'")
    if text != "*" and PLACEHOLDER not in text:
        raise refuse("needs {tenant}, or is `*` where tenants share the streams")
    return text


def _label(text: str) -> str:
    if not _LABEL.fullmatch(text):
        raise refuse("is not a label's name: letters, digits and '_', not beginning with a digit")
    return text


def _namespace(text: str) -> str:
    if not _NAMESPACE.fullmatch(text):
        raise refuse("is not a namespace: letters, digits, blanks and . - _ / # :")
    return text


def _namespaces(text: str) -> str:
    converted(NamePattern.parse)(text)
    if PLACEHOLDER in text:
        raise refuse("is of no tenant's, so it needs no {tenant}")
    return text


GroupName = Annotated[str, AfterValidator(_group), Described(words="log group")]
StreamName = Annotated[str, AfterValidator(_streams), Described(words="text with `{tenant}`, or `*`")]
LabelName = Annotated[str, AfterValidator(_label), Described(words="label name")]
Namespace = Annotated[str, AfterValidator(_namespace), Described(words="namespace")]
Namespaces = Annotated[str, AfterValidator(_namespaces), Described(words="namespace, or `path/*`")]


class LogGroupSettings(Settings):
    """Log groups with tenants' events."""

    title: ClassVar[str] = "stores.NAME.groups.GROUP"
    holds: Class = setting("The class of the events.")
    streams: StreamName | None = setting(
        "Which streams are a tenant's, in a group that is not each tenant's own: `{tenant}/*`. With `*` tenants share "
        "the streams: such events cannot be moved or erased for one tenant, and expire with the group's retention.",
        default=None,
    )


Groups = Annotated[Mapping[GroupName, LogGroupSettings], Field(min_length=1), AfterValidator(read_only)]


class LogsMapSettings(Settings):
    """Log groups of CloudWatch Logs."""

    title: ClassVar[str] = "stores.NAME (kind: cloudwatch_logs)"
    kind: Literal["cloudwatch_logs"] = setting("Amazon CloudWatch Logs.")
    groups: Groups = setting(
        "Every log group with tenants' events: `/app/{tenant}` where each tenant has one of its own, "
        "`/app/{tenant}/*` where it has several, or a group of all tenants, which then says whose its streams are. The "
        "first that matches a group decides."
    )
    journal: Name | None = setting(
        "The store of kind `postgresql` in which the app notes where it logs, through `tenure.client`, and whose fence "
        "keeps a moving tenant's events out. Without it a move leaves the logs where they are.",
        default=None,
    )
    ignore: tuple[GroupName, ...] = setting(
        "Log groups that hold no tenant's data; `/aws/rds/*` for all below a path.", default=()
    )


class NamespaceSettings(Settings):
    """A namespace of metrics about tenants."""

    title: ClassVar[str] = "stores.NAME.namespaces.NAMESPACE"
    holds: Class = setting("The class of the metrics.")
    dimension: Annotated[str, Field(min_length=1, max_length=255)] = setting(
        "The dimension whose value is the tenant's id."
    )


class MetricsMapSettings(Settings):
    """Metrics in CloudWatch. Nobody can delete them: they expire 15 months after they were reported."""

    title: ClassVar[str] = "stores.NAME (kind: cloudwatch_metrics)"
    kind: Literal["cloudwatch_metrics"] = setting("Amazon CloudWatch metrics.")
    namespaces: Annotated[
        Mapping[Namespace, NamespaceSettings], Field(min_length=1), AfterValidator(read_only)
    ] = setting("Every namespace with metrics that name tenants.")
    ignore: tuple[Namespaces, ...] = setting(
        "Namespaces without tenants' data; `AWS/*` for all below a path.", default=()
    )


class PrometheusMapSettings(Settings):
    """Series in Prometheus."""

    title: ClassVar[str] = "stores.NAME (kind: prometheus)"
    kind: Literal["prometheus"] = setting("Prometheus 2.9 or newer.")
    label: LabelName = setting("The label whose value is the tenant's id.")
    metrics: Keys = setting(
        "Patterns of the names of metrics that have the label (`*`: any characters) and their class; the first that "
        "matches decides."
    )
    fenced_with: Name | None = setting(
        "The store of kind `postgresql` whose fence is this one's too: then nothing is erased by a process whose time "
        "is over. Without it a fence is only noted by the process that erases.",
        default=None,
    )
    ignore: tuple[Pattern, ...] = setting(
        "Patterns of the names of metrics without tenants' data, such as `go_*`.", default=()
    )
