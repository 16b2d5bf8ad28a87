"""What stands in the way of a move between two indexes, or should be known before it. Changes nothing in either."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tenure.model.finding import Finding, Severity
from tenure.model.names import TenantId
from tenure.stores.pinecone.errors import Absent
from tenure.stores.pinecone.store import PineconeStore


def findings(tenant: TenantId, source: PineconeStore, target: PineconeStore) -> Sequence[Finding]:
    """Everything at once, each with its fix."""
    found = [*_cooperates(source), *_pair(tenant, source, target)]
    for store in (source, target):
        found += _index(tenant, store)
    return sorted(found)


def _finding(severity: Severity, code: str, where: str, message: str, fix: str) -> Finding:
    return Finding(severity=severity, code=code, where=where, message=message, fix=fix)


def _cooperates(source: PineconeStore) -> Iterator[Finding]:
    yield _finding(
        Severity.WARNING,
        "fence_cooperates",
        source.where,
        f"Pinecone cannot refuse a tenant's writes: the gate and the permit in {source.anchor.name} keep them out",
        "let every writer of vectors use tenure.client",
    )
    yield _finding(
        Severity.INFO,
        "pinecone_freshness",
        source.where,
        "the hold waits until Pinecone shows what was written last, which takes it up to some seconds",
        "move tenants that write vectors all the time at a quieter time, or give `hold.budget_ms` some seconds more",
    )


def _pair(tenant: TenantId, source: PineconeStore, target: PineconeStore) -> Iterator[Finding]:
    where = f"{source.where}, {target.where}"
    if source.client.host == target.client.host:
        yield _finding(
            Severity.REFUSAL,
            "pinecone_same_index",
            where,
            "both cells use one index",
            "use one index per cell",
        )
        return
    ours, theirs = source.client.shape(), target.client.shape()
    if ours != theirs:
        yield _finding(
            Severity.REFUSAL,
            "index_differs",
            where,
            f"the indexes differ: {ours.vector_type} {ours.metric} {ours.dimension}, "
            f"{theirs.vector_type} {theirs.metric} {theirs.dimension}",
            "create the target's index with the dimension, metric and kind of vectors of the source's",
        )
    fields = [_filterable(tenant, store) for store in (source, target)]
    if fields[0] is not None and fields[0] != fields[1]:
        yield _finding(
            Severity.WARNING,
            "namespace_schema",
            target.where,
            f"the namespace of {tenant} indexes only some metadata fields for filtering; the target's indexes others",
            "create the namespace on the target with the same schema before the move",
        )
    held = target.link_record(tenant).read()
    if not held.link and _holds_records(tenant, target):
        yield _finding(
            Severity.REFUSAL,
            "target_not_empty",
            target.where,
            f"the target already holds records of {tenant}, and no link that explains them",
            "erase the tenant there if that is residue",
        )


def _holds_records(tenant: TenantId, store: PineconeStore) -> bool:
    store.freshness(tenant).catch_up()
    return bool(next(store.ids(tenant), None))


def _filterable(tenant: TenantId, store: PineconeStore) -> frozenset[str] | None:
    try:
        return store.client.filterable(store.namespace(tenant))
    except Absent:
        return None


def _index(tenant: TenantId, store: PineconeStore) -> Iterator[Finding]:
    namespace = store.namespace(tenant)
    if store.client.exists(namespace) and store.client.indexed(namespace) is None:
        yield _finding(
            Severity.REFUSAL,
            "no_log_sequence_numbers",
            store.where,
            "the index does not say which writes its reads see, so no copy of it can be trusted",
            "use a serverless index",
        )
    if store.client.limited_alone:
        yield _finding(
            Severity.WARNING,
            "limiter_alone",
            store.where,
            "Tenure's processes do not know of each other's requests to this index: together they may ask for more "
            "than the vendor allows, and throttle the app as well",
            "name a Redis under `limiter` of the cell's store, or make it reachable",
        )
