"""What must agree between the parts of an estate, and between the estate and its catalogue. Looks at
whatever of the files can be understood, so that these findings come together with those about single
settings."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

from tenure.catalogue.catalogue import Isolation, StoreKind
from tenure.catalogue.checks import StoreSketch, check_reference, isolation_of, sketch_stores
from tenure.document import Block, Document, Path
from tenure.document.problems import did_you_mean, dotted, shown
from tenure.document.reading import Value, block_at, text_at
from tenure.estate.checks_backups import check_backups, check_copies
from tenure.estate.settings import Hold, Sync
from tenure.estate.settings_analytics import OF_ENGINE

Vault = tuple[StoreSketch, str | None]
"""A vault's entry, and the region of its cell."""


def check_estate(document: Document, catalogue: Document | None) -> None:
    """Report everything that does not fit together. `catalogue` is None where it could not be read."""
    root = block_at(document.root)
    cells = block_at(root.get("cells"))
    mapped = sketch_stores(block_at(catalogue.root).get("stores"), ("stores",)) if catalogue else {}
    homes: dict[tuple[object, ...], Path] = {}
    vaults: list[Vault] = []
    for name, value in cells.items():
        cell, path = block_at(value), ("cells", name)
        stores = sketch_stores(cell.get("stores"), (*path, "stores"))
        if mapped and isinstance(cell.get("stores"), Block):
            _check_stores(document, (*path, "stores"), stores, mapped)
        for store in stores.values():
            check_reference(document, stores, store, "rides_with")
            _check_keys(document, store)
            _check_index(document, store)
            _check_engine(document, store)
            _check_home(document, homes, (*store.path, _home_setting(store)), _home(store))
            if store.kind == StoreKind.VAULT:
                vaults.append((store, text_at(cell.get("region"))))
        app = text_at(cell.get("app"))
        _check_home(document, homes, (*path, "app"), ("app", app.rstrip("/")) if app else None)
    _check_vaults(document, vaults, homes)
    _check_names(document, block_at(root.get("gateway")), cells)
    if catalogue is not None:
        _check_table_cells(catalogue, mapped, cells)
    _check_hold(document, block_at(root.get("hold")))
    _check_sync(document, block_at(root.get("sync")))
    _check_residency(document, block_at(root.get("residency")), cells)
    _check_freeze(document, block_at(root.get("freeze")))
    _check_prices(document, block_at(root.get("prices")), cells)
    check_backups(document, block_at(root.get("backups")), cells)
    check_copies(document, block_at(root.get("tiers")), cells)
    _check_capacity(document, block_at(block_at(root.get("capacity")).get("cells")), cells)


def _check_stores(
    document: Document, path: Path, stores: dict[str, StoreSketch], mapped: dict[str, StoreSketch]
) -> None:
    for name in mapped.keys() - stores.keys():
        kind = f" ({mapped[name].kind})" if mapped[name].kind else ""
        document.report((*path, name), f"missing: the catalogue has a store of that name{kind}")
    for name, store in stores.items():
        if name not in mapped:
            nearest = did_you_mean(name, mapped)
            document.report(store.path, f"the catalogue has no store of that name{nearest}", key=True)
            continue
        for setting, here, there in (
            ("kind", store.kind, mapped[name].kind),
            ("rides_with", store.rides_with, mapped[name].rides_with),
        ):
            known = setting != "kind" or (here in set(StoreKind) and there in set(StoreKind))
            if known and here is not None and there is not None and here != there:
                document.report(
                    (*store.path, setting), f"is {shown(here)}, but {shown(there)} in the catalogue"
                )
        if store.kind == StoreKind.POSTGRESQL == mapped[name].kind:
            _check_database(document, store, isolation_of(mapped[name], mapped))


def _check_database(document: Document, store: StoreSketch, isolation: str | None) -> None:
    """A store names its tenants' databases if the catalogue says that they have some."""
    path, given = (*store.path, "database"), store.entry.get("database") is not None
    if isolation == Isolation.DATABASE and not given:
        document.report(path, "missing: in the catalogue the store has isolation: database")
    elif isolation is not None and isolation != Isolation.DATABASE and given:
        document.report(path, f"needs isolation: database in the catalogue; there it is {isolation}")


def _check_table_cells(catalogue: Document, mapped: dict[str, StoreSketch], cells: dict[str, Value]) -> None:
    for store in mapped.values():
        for table, value in block_at(store.entry.get("tables")).items():
            listed = block_at(value).get("cells")
            for n, cell in enumerate(listed if isinstance(listed, tuple) else ()):
                if isinstance(cell, str) and cells and cell not in cells:
                    path = (*store.path, "tables", table, "cells", n)
                    catalogue.report(path, f"there is no cell {shown(cell)}{did_you_mean(cell, cells)}")


def _check_engine(document: Document, store: StoreSketch) -> None:
    """Analytics have the settings of their engine, and no others."""
    engine = text_at(store.entry.get("engine"))
    if store.kind != StoreKind.ANALYTICS or engine not in OF_ENGINE:
        return
    first = OF_ENGINE[engine][0]
    if store.entry.get(first) is None:
        document.report((*store.path, first), f"missing: engine {engine} needs it")
    for other, settings in OF_ENGINE.items():
        for setting in settings if other != engine else ():
            if store.entry.get(setting) is not None:
                document.report(
                    (*store.path, setting), f"belongs to engine {other}; here it is {engine}", key=True
                )


def _home_setting(store: StoreSketch) -> str:
    if store.kind == "pinecone":
        return "host" if store.entry.get("host") is not None else "index"
    if store.kind == StoreKind.ANALYTICS:
        return OF_ENGINE.get(text_at(store.entry.get("engine")) or "", ("kind",))[0]
    return {
        "postgresql": "dsn",
        "redis": "url",
        "s3": "bucket",
        "cloudwatch_logs": "group_prefix",
        "prometheus": "url",
    }.get(store.kind or "", "kind")


def _logs_home(store: StoreSketch) -> tuple[object, ...] | None:
    region, endpoint = text_at(store.entry.get("region")), text_at(store.entry.get("endpoint"))
    prefix, key = text_at(store.entry.get("group_prefix")), block_at(store.entry.get("access_key"))
    account = tuple(sorted((k, str(v)) for k, v in key.items()))
    return ("logs", region, endpoint.rstrip("/") if endpoint else None, prefix, account)


def _prometheus_home(store: StoreSketch) -> tuple[object, ...] | None:
    url = text_at(store.entry.get("url"))
    return ("prometheus", url.rstrip("/")) if url else None


def _bucket(store: StoreSketch) -> tuple[object, ...] | None:
    bucket, endpoint = text_at(store.entry.get("bucket")), text_at(store.entry.get("endpoint"))
    return ("bucket", bucket, endpoint.rstrip("/") if endpoint else None) if bucket else None


def _index_home(store: StoreSketch) -> tuple[object, ...] | None:
    host, index = text_at(store.entry.get("host")), text_at(store.entry.get("index"))
    if host:
        return ("pinecone", host.rstrip("/").lower())
    key = sorted((k, str(v)) for k, v in block_at(store.entry.get("api_key")).items())
    return ("pinecone index", index, text_at(store.entry.get("control")), *key) if index else None


_HOMES: Final[Mapping[str, Callable[[StoreSketch], tuple[object, ...] | None]]] = {
    StoreKind.CLOUDWATCH_LOGS: _logs_home,
    StoreKind.PROMETHEUS: _prometheus_home,
    StoreKind.S3: _bucket,
    StoreKind.PINECONE: _index_home,
}


def _home(store: StoreSketch) -> tuple[object, ...] | None:
    """Where the store's data is, as far as its settings tell; None if they do not."""
    named = _HOMES.get(store.kind or "")
    if named is not None:
        return named(store)
    plain = text_at(store.entry.get(_home_setting(store)))
    if store.kind == StoreKind.ANALYTICS and plain:
        return (_home_setting(store), plain.rstrip("/"))
    reference = block_at(store.entry.get(_home_setting(store)))
    return ("secret", store.kind, *sorted((k, str(v)) for k, v in reference.items())) if reference else None


def _check_vaults(document: Document, vaults: list[Vault], homes: dict[tuple[object, ...], Path]) -> None:
    """A vault is a bucket of its own in the region of its cells: backups must not be lost, or erased, with what they
    are backups of, nor leave the region of their tenants."""
    regions: dict[tuple[object, ...], tuple[Path, str | None]] = {}
    for store, region in vaults:
        bucket, path = _bucket(store), (*store.path, "bucket")
        if bucket is None:
            continue
        if bucket in homes:
            document.report(path, f"is the same as {dotted(homes[bucket])}: a vault is a bucket of its own")
        first, theirs = regions.setdefault(bucket, (path, region))
        if None not in (theirs, region) and theirs != region:
            document.report(
                path,
                f"is the same as {dotted(first)}, of a cell in another region: each region has its vault",
            )
        own = text_at(store.entry.get("region"))
        if store.entry.get("endpoint") is None and None not in (own, region) and own != region:
            document.report(
                (*store.path, "region"), f"is not that of the cell, {region}: backups would leave it"
            )


def _check_home(
    document: Document, homes: dict[tuple[object, ...], Path], path: Path, home: tuple[object, ...] | None
) -> None:
    """Two cells on one store would make a move copy the tenant onto itself, and `complete` erase it."""
    if home is None:
        return
    first = homes.setdefault(home, path)
    if first != path:
        document.report(path, f"is the same as {dotted(first)}: cells and stores share nothing")


_TOGETHER: Final = {
    "s3": (("access_key", "secret_key"),),
    "vault": (("access_key", "secret_key"),),
    "cloudwatch_logs": (("access_key", "secret_key"),),
    "cloudwatch_metrics": (("access_key", "secret_key"),),
    "prometheus": (("user", "password"),),
}


def _check_keys(document: Document, store: StoreSketch) -> None:
    pairs = _TOGETHER.get(store.kind or "", ())
    for given, other in (*pairs, *((other, given) for given, other in pairs)):
        if store.entry.get(given) is not None and store.entry.get(other) is None:
            document.report((*store.path, other), f"missing: {given} is given")


def _check_index(document: Document, store: StoreSketch) -> None:
    """It is said which index of Pinecone it is."""
    if store.kind == "pinecone" and store.entry.get("host") is None and store.entry.get("index") is None:
        document.report((*store.path, "host"), "missing: give the index's host, or its name as `index`")


def _check_names(document: Document, gateway: dict[str, Value], cells: dict[str, Value]) -> None:
    """A host's record must tell by itself where users go, and Tenure must be able to see who answers there."""
    if not isinstance(gateway.get("dns"), Block):
        return
    names, path = block_at(gateway["dns"]), ("gateway", "dns")
    if gateway.get("probe") is None:
        document.report(
            ("gateway", "probe"), "missing: dns is given, and where a host leads is seen by a probe"
        )
    domain, zone = text_at(gateway.get("domain")), text_at(names.get("zone"))
    if domain and zone and not f".{domain.lower()}".endswith(f".{zone.lower()}"):
        document.report((*path, "zone"), f"does not hold the gateway's domain {shown(domain)}")
    if not isinstance(names.get("cells"), Block):
        return
    endpoints = block_at(names["cells"])
    for cell in cells.keys() - endpoints.keys():
        document.report((*path, "cells", cell), "missing: every cell has an endpoint")
    for cell in endpoints.keys() - cells.keys():
        document.report((*path, "cells", cell), f"there is no such cell{did_you_mean(cell, cells)}", key=True)
    _check_targets(document, names, endpoints)


def _check_targets(document: Document, names: dict[str, Value], endpoints: dict[str, Value]) -> None:
    record = text_at(names.get("record")) or "A"
    targets: dict[str, Path] = {}
    for place, text in (
        (("gateway",), text_at(names.get("gateway"))),
        *((("cells", cell), _hostname(text_at(url))) for cell, url in endpoints.items()),
    ):
        if text is None:
            continue
        path = ("gateway", "dns", *place)
        first = targets.setdefault(text.lower(), path)
        if first != path:
            document.report(
                path, f"leads to the same place as {dotted(first)}: a record could not tell them apart"
            )
        if _record_for(text) != record:
            document.report(path, f"{shown(text)} cannot be held by a record of type {record}")


def _hostname(url: str | None) -> str | None:
    try:
        return urlsplit(url).hostname if url else None
    except ValueError:
        return None


def _record_for(target: str) -> str:
    try:
        return "A" if ipaddress.ip_address(target).version == 4 else "AAAA"
    except ValueError:
        return "CNAME"


def _check_hold(document: Document, hold: dict[str, Value]) -> None:
    default = Hold()
    budget, drain = hold.get("budget_ms", default.budget_ms), hold.get("drain_ms", default.drain_ms)
    if isinstance(budget, int) and isinstance(drain, int) and 0 < budget <= drain:
        setting = "drain_ms" if "drain_ms" in hold else "budget_ms"
        document.report(
            ("hold", setting), f"the drain ({drain} ms) must be shorter than the whole budget ({budget} ms)"
        )


def _check_sync(document: Document, sync: dict[str, Value]) -> None:
    default = Sync()
    window = sync.get("window_s", default.window_s)
    longest = sync.get("longest_window_s", default.longest_window_s)
    if isinstance(window, int | float) and isinstance(longest, int | float) and 0 < longest < window:
        setting = "longest_window_s" if "longest_window_s" in sync else "window_s"
        document.report(
            ("sync", setting),
            f"the longest window ({longest:g} s) must not be shorter than the window ({window:g} s)",
        )


def _check_residency(document: Document, residency: dict[str, Value], cells: dict[str, Value]) -> None:
    regions = [text_at(block_at(cell).get("region")) for cell in cells.values()]
    if None in regions:
        return
    known: Collection[str] = {region for region in regions if region}
    for name, rule in residency.items():
        allowed = block_at(rule).get("regions")
        for n, region in enumerate(allowed if isinstance(allowed, tuple) else ()):
            if isinstance(region, str) and region not in known:
                message = f"no cell is in {shown(region)}{did_you_mean(region, known)}"
                document.report(("residency", name, "regions", n), message)


def _check_freeze(document: Document, freeze: dict[str, Value]) -> None:
    for name, window in freeze.items():
        begins, ends = (text_at(block_at(window).get(edge)) for edge in ("begins", "ends"))
        try:
            backwards = begins and ends and datetime.fromisoformat(begins) >= datetime.fromisoformat(ends)
        except (ValueError, TypeError):
            continue  # reported where the value stands
        if backwards:
            document.report(("freeze", name, "ends"), "must be later than `begins`")


def _check_prices(document: Document, prices: dict[str, Value], cells: dict[str, Value]) -> None:
    if not isinstance(prices.get("cell_hour"), Block) or not cells:
        return
    priced = block_at(prices["cell_hour"])
    for cell in cells.keys() - priced.keys():
        document.report(("prices", "cell_hour", cell), "missing: every cell has a price")
    for cell in priced.keys() - cells.keys():
        document.report(
            ("prices", "cell_hour", cell), f"there is no such cell{did_you_mean(cell, cells)}", key=True
        )


def _check_capacity(document: Document, limits: dict[str, Value], cells: dict[str, Value]) -> None:
    for name, value in limits.items():
        path = ("capacity", "cells", name)
        if cells and name not in cells:
            document.report(path, f"there is no cell {shown(name)}{did_you_mean(name, cells)}", key=True)
            continue
        stores = block_at(block_at(cells.get(name)).get("stores"))
        for store in block_at(block_at(value).get("stores")):
            if stores and store not in stores:
                nearest = did_you_mean(store, stores)
                document.report(
                    (*path, "stores", store), f"{name} has no store {shown(store)}{nearest}", key=True
                )
