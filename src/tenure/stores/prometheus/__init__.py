"""Prometheus: series in which a label tells the tenant, erased through the admin API."""

from tenure.stores.prometheus.store import PrometheusStore

__all__ = ["PrometheusStore"]
