"""A complete `tenure.yaml` and `catalogue.yaml`, as the reference page shows them."""

from __future__ import annotations

from typing import Final

ESTATE: Final = """\
version: 1
catalogue: catalogue.yaml
control:
  dsn: {env: TENURE_CONTROL_DSN}
gateway:
  kind: envoy
  listen: https://app.example.com
  admin: ["http://10.0.0.11:9901", "http://10.0.0.12:9901"]
  config_dir: envoy
  gate:
    check: http://10.0.0.10:9002
    control: http://10.0.0.10:9003
    token: {file: secrets/gate-token}
  tenant_header: x-tenant-id
  domain: app.example.com
hold: {budget_ms: 2000, drain_ms: 1000}
verify: {resync_above: 0.05, evidence_ttl_s: 300}
soak: {ttl_h: 24}
cells:
  blue:
    region: us-east-1
    infrastructure: v1
    app: http://blue.internal:8080
    stores:
      postgres:
        kind: postgresql
        dsn: {file: secrets/blue-postgres}
        dsn_from_cells: {file: secrets/blue-postgres-replication}
      vectors: {kind: pgvector, rides_with: postgres}
      redis: {kind: redis, url: {file: secrets/blue-redis}}
      objects: {kind: s3, bucket: example-blue, region: us-east-1}
  frankfurt:
    region: eu-central-1
    infrastructure: v2
    app: http://frankfurt.internal:8080
    stores:
      postgres: {kind: postgresql, dsn: {file: secrets/frankfurt-postgres}}
      vectors: {kind: pgvector, rides_with: postgres}
      redis: {kind: redis, url: {file: secrets/frankfurt-redis}}
      objects:
        kind: s3
        endpoint: https://objects.frankfurt.internal
        bucket: example-frankfurt
        region: eu-central-1
        access_key: {file: secrets/frankfurt-access-key}
        secret_key: {file: secrets/frankfurt-secret-key}
tiers:
  platinum: {rank: 1, soak_h: 72}
  gold: {rank: 2}
  bronze: {rank: 3}
residency:
  eu-only: {regions: [eu-central-1], reason: "GDPR, customer contract"}
freeze:
  year-end: {begins: "2026-12-20T00:00:00+00:00", ends: "2027-01-04T06:00:00+00:00", reason: "closing of the books"}
prices:
  currency: INR
  cell_hour: {blue: 4200, frankfurt: 4600}
  gb_moved: 1.5
  cross_region_gb_moved: 7.5
  operator_hour: 2500
"""

CATALOGUE: Final = """\
version: 1
stores:
  postgres:
    kind: postgresql
    tenant_column: tenant_id
    tables:
      public.documents:
        columns: {tenant_id: tenant, id: key, title: content, body: content, owner_email: personal, created_at: plain}
      public.settings:
        columns: {tenant_id: tenant, name: config, value: config}
      '"Billing"."Invoice"':
        tenant_column: customer
        columns: {customer: tenant, number: key, iban: sensitive, amount: plain}
    ignore: [public.schema_version]
  vectors:
    kind: pgvector
    rides_with: postgres
    tenant_column: tenant_id
    tables:
      public.embeddings:
        columns: {tenant_id: tenant, document_id: key, embedding: content}
  redis:
    kind: redis
    prefix: "t:{tenant}:"
    acl_user: "app-{tenant}"
    keys: {"session:*": personal, "counter:*": plain}
  objects:
    kind: s3
    prefix: "tenants/{tenant}/"
    journal: postgres
    principal: app
    keys: {"files/*": content}
"""
