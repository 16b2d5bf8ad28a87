"""CloudWatch metrics of a region of moto's server, which holds nothing else meanwhile. moto checks no keys:
`wrong_password` goes through a proxy that does."""

from __future__ import annotations

import http.client
import itertools
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import pytest

from tenure.catalogue import DataClass, MetricPlace, NamePattern
from tenure.model.names import CellName, StoreName, TenantId
from tenure.model.secret import Secret
from tenure.stores.cloudwatch import Account, MetricsStore
from tests.aws_faults import Answer, FaultyAws

KINDS = ("cloudwatch_metrics",)
VARIANTS = ()
WRONG = "wrong-access-key"


def make(kind: str, request: pytest.FixtureRequest) -> MetricsRig:
    return MetricsRig(request.getfixturevalue("moto"))


def reset(endpoint: str) -> None:
    """Empty the whole server."""
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=10)
    try:
        connection.request("POST", "/moto-api/reset")
        assert connection.getresponse().status == 200
    finally:
        connection.close()


class MetricsRig:
    kind = "cloudwatch_metrics"
    erases = False

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        reset(endpoint)
        self.client = self.account().client("cloudwatch")
        self._proxies: list[FaultyAws] = []
        self._made: list[MetricsStore] = []
        self._numbers = itertools.count(1)

    def account(self, endpoint: str | None = None, key: str = "key") -> Account:
        return Account(
            region="eu-central-1",
            endpoint=endpoint or self.endpoint,
            access_key=Secret(key),
            secret_key=Secret("secret"),
        )

    def store(self, **changes: Any) -> MetricsStore:
        options: dict[str, Any] = {
            "name": StoreName("metrics"),
            "cell": CellName("blue"),
            "account": self.account(),
            "places": (MetricPlace(namespace="RagApp", dimension="Tenant", data_class=DataClass.PLAIN),),
            "ignore": (NamePattern.parse("AWS/*"),),
        }
        store = MetricsStore(**{**options, **changes})
        self._made.append(store)
        return store

    def put(self, namespace: str, name: str, **dimensions: str) -> None:
        self.client.put_metric_data(
            Namespace=namespace,
            MetricData=[
                {
                    "MetricName": name,
                    "Value": 1.0,
                    "Dimensions": [{"Name": n, "Value": v} for n, v in dimensions.items()],
                }
            ],
        )

    def write(self, tenant: TenantId, item: str) -> None:
        self.put("RagApp", "Requests", Tenant=tenant, Path=f"/{item}/{next(self._numbers)}")

    def plant(self, text: str) -> None:
        self.put("Stray", "Notes", Note=text)

    def leftovers(self) -> Sequence[str]:
        return ()

    def faulty(self) -> tuple[MetricsStore, FaultyAws]:
        proxy = FaultyAws(self.endpoint)
        self._proxies.append(proxy)
        return self.store(account=self.account(proxy.endpoint)), proxy

    def unreachable(self) -> MetricsStore:
        return self.store(account=self.account("http://127.0.0.1:1"))

    def wrong_password(self) -> MetricsStore:
        proxy = FaultyAws(self.endpoint)
        self._proxies.append(proxy)
        proxy.answer(
            Answer(status=403, body=b'{"__type": "InvalidClientTokenId", "message": "who?"}'),
            when=lambda asked: WRONG in asked.credential,
        )
        return self.store(account=self.account(proxy.endpoint, WRONG))

    def close(self) -> None:
        for store in self._made:
            store.close()
        for proxy in self._proxies:
            proxy.close()
        self.client.close()
        reset(self.endpoint)
