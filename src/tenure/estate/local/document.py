"""The `tenure.yaml` of the local estate, and the secrets that it refers to."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Mapping
from typing import Any, Final

from tenure.estate.local.cell_plans import CONTROL, CellAccess
from tenure.estate.local.fleet import BROKER, fleet_document
from tenure.estate.local.layout import write
from tenure.estate.local.running import RunningEstate
from tenure.model.names import CellName

PLATINUM: Final = {
    "every": "daily",
    "keep_days": 365,
    "keep_at_least": 7,
    "copy_to": "eu-west-1",
    "verify": "full",
    "drill": "weekly",
}
GOLD: Final = {"every": "weekly", "keep_days": 90, "keep_at_least": 3, "drill": "monthly"}
BRONZE: Final = {"every": "monthly", "keep_days": 30, "keep_at_least": 1}
ANY_KEY: Final = "local"
"""What the local CloudWatch is given as keys: it looks at none."""


def estate_document(
    running: RunningEstate,
    cells: Mapping[CellName, CellAccess],
    addresses: Mapping[CellName, str],
    listen: int,
    admin: int,
    *,
    fleet: bool,
    mapped: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """`mapped` are the stores of the app's catalogue by name; the document has those of kinds that a local cell has."""
    folder = running.folder / "etc" / "secrets"
    folder.mkdir(mode=0o700, exist_ok=True)

    def secret(name: str, value: str) -> dict[str, str]:
        write(folder / name, value, mode=0o600)
        return {"file": f"etc/secrets/{name}"}

    def lasting(name: str) -> dict[str, str]:
        """A random key that stays the same for as long as the estate's folder is there."""
        if not (folder / name).exists():
            secret(name, base64.b64encode(secrets.token_bytes(32)).decode())
        return {"file": f"etc/secrets/{name}"}

    def cloudwatch(access: CellAccess, part: str) -> dict[str, Any]:
        return {
            "kind": f"cloudwatch_{part}",
            "endpoint": access.cloudwatch,
            "region": access.plan.region,
            "access_key": secret("cloudwatch-access-key", ANY_KEY),
            "secret_key": secret("cloudwatch-secret-key", ANY_KEY),
        }

    def stores(access: CellAccess) -> dict[str, dict[str, Any]]:
        """By kind."""
        return {
            "postgresql": {
                "kind": "postgresql",
                "dsn": secret(f"{access.plan.name}-postgres", access.dsn),
            },
            "pgvector": {"kind": "pgvector", "rides_with": "postgres"},
            "redis": {"kind": "redis", "url": secret(f"{access.plan.name}-redis", access.redis_url)},
            "s3": {
                "kind": "s3",
                "endpoint": access.endpoint,
                "bucket": access.plan.bucket,
                "region": access.plan.region,
                "access_key": secret(f"{access.plan.name}-s3-access-key", access.access_key),
                "secret_key": secret(f"{access.plan.name}-s3-secret-key", access.secret_key),
            },
            "pinecone": {
                "kind": "pinecone",
                "host": access.pinecone_host,
                "index": access.plan.index,
                "control": access.pinecone_control,
                "api_key": secret(f"{access.plan.pinecone}-api-key", access.pinecone_api_key),
                # Here the app asks for little, and a request takes milliseconds.
                "rate_share": 0.8,
                "handover_s": 1,
                **({"limiter": secret("limiter", running.url(BROKER.name))} if fleet else {"alone_share": 1}),
            },
            "analytics": {"kind": "analytics", "engine": "duckdb", "path": str(access.analytics)},
            "cloudwatch_logs": {**cloudwatch(access, "logs"), "group_prefix": access.plan.log_prefix},
            "cloudwatch_metrics": cloudwatch(access, "metrics"),
            "vault": {
                "kind": "vault",
                "endpoint": access.endpoint,
                "bucket": access.plan.vault,
                "region": access.plan.region,
                "access_key": secret(f"{access.plan.name}-vault-access-key", access.access_key),
                "secret_key": secret(f"{access.plan.name}-vault-secret-key", access.secret_key),
            },
        }

    gate = running.endpoint("gate").ports
    return {
        "version": 1,
        "catalogue": "etc/catalogue.yaml",
        "control": {"dsn": secret("control", running.dsn(CONTROL, CONTROL))},
        "gateway": {
            "kind": "envoy",
            "listen": f"http://127.0.0.1:{listen}",
            "admin": [f"http://127.0.0.1:{admin}"],
            "config_dir": "etc/envoy",
            "gate": {
                "check": f"http://127.0.0.1:{gate['check']}",
                "control": f"http://127.0.0.1:{gate['control']}",
                "token": {"file": "etc/gate-token"},
            },
            "probe": {"path": "/healthz", "header": "x-served-by"},
            "domain": "rag.localhost",
        },
        "hold": {"budget_ms": 4000, "drain_ms": 2000},
        "cells": {
            access.plan.name: {
                "region": access.plan.region,
                "infrastructure": access.plan.infrastructure,
                "app": addresses[access.plan.name],
                "stores": {
                    name: settings
                    for name, its in mapped.items()
                    if (settings := stores(access).get(str(its["kind"]))) is not None
                },
            }
            for access in cells.values()
        },
        "tiers": {
            "platinum": {"rank": 1, "soak_h": 72, "backup": PLATINUM},
            "gold": {"rank": 2, "soak_h": 24, "backup": GOLD},
            "bronze": {"rank": 3, "soak_h": 4, "backup": BRONZE},
        },
        "residency": {
            "eu-only": {"regions": ["eu-west-1"], "reason": "GDPR: the customer's contract names the EU"}
        },
        **(
            {
                "backups": {
                    "keys": {"kind": "local", "folder": "keys", "master": lasting("backup-master-key")},
                    "signing": {"key": lasting("backup-signing-key")},
                    "ledger_key": lasting("erasure-ledger-key"),
                }
            }
            if any(its["kind"] == "vault" for its in mapped.values())
            else {}
        ),
        "prices": {
            "currency": "INR",
            "cell_hour": {"blue": 4200, "green": 4500, "eu": 4700},
            "gb_moved": 0.9,
            "cross_region_gb_moved": 1.8,
            "operator_hour": 2500,
        },
        **({"fleet": fleet_document(secret("broker", running.url(BROKER.name)))} if fleet else {}),
    }
