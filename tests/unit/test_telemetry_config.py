"""Logs, metrics and Prometheus in the catalogue and in `tenure.yaml`: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tenure.catalogue import LogsMap, MetricsMap, PrometheusMap, load_catalogue
from tenure.errors import ConfigurationError
from tenure.estate import examples
from tenure.estate.config import LogsSettings, PrometheusSettings, load_estate
from tenure.model.names import CellName, StoreName

LOGS, METRICS, PROMETHEUS = map(StoreName, ("logs", "metrics", "prometheus"))


def write(folder: Path, estate: str, catalogue: str) -> Path:
    (folder / "catalogue.yaml").write_text(catalogue, encoding="utf-8")
    (folder / "tenure.yaml").write_text(estate, encoding="utf-8")
    return folder / "tenure.yaml"


def changed(text: str, before: str, after: str) -> str:
    assert before in text
    return text.replace(before, after)


def problems(
    folder: Path, *, estate: tuple[str, str] = ("", ""), catalogue: tuple[str, str] = ("", "")
) -> str:
    """What is wrong with the example estate once these texts have been replaced."""
    its = changed(examples.ESTATE, *estate) if estate[0] else examples.ESTATE
    where = changed(examples.CATALOGUE, *catalogue) if catalogue[0] else examples.CATALOGUE
    with pytest.raises(ConfigurationError) as caught:
        load_estate(write(folder, its, where))
    return "\n".join(caught.value.problems)


def test_the_example_is_what_it_says(tmp_path: Path) -> None:
    estate = load_estate(write(tmp_path, examples.ESTATE, examples.CATALOGUE))
    logs, metrics, prometheus = (estate.catalogue.store(name) for name in (LOGS, METRICS, PROMETHEUS))
    assert isinstance(logs, LogsMap)
    assert [(p.group.text, p.shared) for p in logs.groups] == [
        ("/aws/lambda/api", True),
        ("/app/all", False),
        ("/app/{tenant}", False),
    ]
    assert (logs.journal, [p.text for p in logs.ignore]) == ("postgres", ["/aws/rds/*"])
    assert isinstance(metrics, MetricsMap)
    assert [(p.namespace, p.dimension) for p in metrics.namespaces] == [("RagApp", "Tenant")]
    assert isinstance(prometheus, PrometheusMap)
    assert (prometheus.label, prometheus.fenced_with) == ("tenant", "postgres")
    blue = estate.cells[CellName("blue")].stores
    its = blue[LOGS]
    assert isinstance(its, LogsSettings)
    assert (its.group_prefix, its.export) == ("/blue", tmp_path / "exports/logs")
    frankfurt = estate.cells[CellName("frankfurt")].stores[PROMETHEUS]
    assert isinstance(frankfurt, PrometheusSettings)
    assert frankfurt.password is not None


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("/app/{tenant}: {holds: personal}", "/app/{tenant}: {holds: content}"),
        ('streams: "*"', 'streams: "{tenant}/*"'),
        ("[/aws/rds/*]", "[/aws/*]"),
        ("dimension: Tenant", "dimension: Customer"),
        ("[AWS/*]", "[]"),
        ("label: tenant", "label: customer"),
        ("    fenced_with: postgres\n", ""),
        ('{"app_*": plain}', '{"*": plain}'),
    ],
)
def test_the_digest_changes_with_the_content(tmp_path: Path, before: str, after: str) -> None:
    path = tmp_path / "catalogue.yaml"
    path.write_text(examples.CATALOGUE, encoding="utf-8")
    good = load_catalogue(path).digest
    path.write_text(changed(examples.CATALOGUE, before, after), encoding="utf-8")
    assert load_catalogue(path).digest != good


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            "/app/{tenant}: {holds: personal}",
            '/app/{tenant}: {holds: personal, streams: "{tenant}/*"}',
            "streams: is not needed: every stream of the group is the tenant's own",
        ),
        (
            '/aws/lambda/api: {holds: personal, streams: "*"}',
            "/aws/lambda/api: {holds: personal}",
            "stores.logs.groups.'/aws/lambda/api': streams: missing",
        ),
        (
            "/app/{tenant}: {holds: personal}",
            "/app/{tenant}: {holds: personal}\n      /app/{tenant}_old: {holds: personal}",
            "of one tenant can be '/app/{tenant}' of another",
        ),
        ("/app/{tenant}:", '"/app/{tenant}*":', "may have `*` only at its end, right after a `/`"),
        ("/app/{tenant}:", '"/app/{tenant} x":', "must contain no blanks"),
        ("/app/{tenant}:", "/app/{tenant}:x:", "is not a log group's name"),
        ('"{tenant}/*"', "everything", "needs {tenant}, or is `*`"),
        ('"{tenant}/*"', '"{tenant}:*"', "only at its end, right after a `/`"),
        (
            "journal: postgres\n    groups",
            "journal: redis\n    groups",
            "must name a store of kind postgresql",
        ),
        ("fenced_with: postgres", "fenced_with: metrics", "must name a store of kind postgresql"),
        ("label: tenant", "label: 1tenant", "is not a label's name"),
        ("ignore: [AWS/*]", 'ignore: ["{tenant}/*"]', "is of no tenant's"),
        ('{"app_*": plain}', '{"*": plain, "app_*": plain}', "is never reached"),
    ],
)
def test_what_is_wrong_in_the_catalogue_is_said(tmp_path: Path, before: str, after: str, said: str) -> None:
    assert said in problems(tmp_path, catalogue=(before, after))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            "logs: {kind: cloudwatch_logs, region: eu-central-1}",
            "logs: {kind: cloudwatch_logs, region: us-east-1, group_prefix: /blue}",
            "is the same as cells.blue.stores.logs",
        ),
        ("https://prometheus.frankfurt.internal", '"http://10.0.1.40:9090"', "is the same as"),
        ("group_prefix: /blue", "group_prefix: '/blue*'", "is not how a log group's name may begin"),
        ("        user: tenure\n", "", "cells.frankfurt.stores.prometheus.user: missing"),
        (
            "metrics: {kind: cloudwatch_metrics, region: us-east-1}",
            "metrics: {kind: cloudwatch_metrics, region: us-east-1, access_key: {env: A}}",
            "secret_key: missing: access_key is given",
        ),
        ("kind: prometheus, url", "kind: prometheus, path: /x, url", "unknown setting"),
    ],
)
def test_what_is_wrong_in_the_estate_is_said(tmp_path: Path, before: str, after: str, said: str) -> None:
    assert said in problems(tmp_path, estate=(before, after))
