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
  read_paths: [/search]
  session_header: x-session-id
  apply_timeout_s: 15
  probe: {path: /healthz, header: x-served-by}
  dns:
    server: 10.0.0.53
    zone: example.com
    key: tenure-update
    secret: {file: secrets/dns-key}
    algorithm: hmac-sha256
    record: A
    ttl_s: 30
    gateway: 10.0.0.11
    cells: {blue: "https://10.0.1.20", frankfurt: "https://10.0.2.20"}
  domain: app.example.com
hold: {budget_ms: 2000, drain_ms: 1000}
verify: {resync_above: 0.05, evidence_ttl_s: 300}
sync: {window_s: 600, longest_window_s: 3600, throttle: {writes_per_s: 50, longest_delay_ms: 1000}}
soak: {ttl_h: 24, most_wal_bytes: 10737418240}
capacity:
  moves: 8
  bandwidth_mb_s: 400
  cells: {frankfurt: {moves: 4, stores: {redis: 2}}}
  servers: {"10.0.1.30:5432": {slots: 20, connections: 80, bandwidth_mb_s: 200}}
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
      semantics:
        kind: pinecone
        host: https://example-blue-1a2b3c4.svc.aped-4627-b74a.pinecone.io
        index: example-blue
        api_key: {file: secrets/pinecone}
        limiter: {file: secrets/locks}
        rate_share: 0.5
        alone_share: 0.25
        handover_s: 35
        rates: {fetch_per_s: 100, list_per_s: 200, upsert_mb_s: 50}
      vault: {kind: vault, bucket: example-vault-us, region: us-east-1}
      logs: {kind: cloudwatch_logs, region: us-east-1, group_prefix: /blue, export: exports/logs}
      metrics: {kind: cloudwatch_metrics, region: us-east-1}
      prometheus: {kind: prometheus, url: "http://10.0.1.40:9090"}
      analytics: {kind: analytics, engine: duckdb, path: data/blue.duckdb}
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
      semantics: {kind: pinecone, index: example-frankfurt, api_key: {file: secrets/pinecone}}
      vault:
        kind: vault
        endpoint: https://objects.frankfurt.internal
        bucket: example-vault-eu
        region: eu-central-1
        access_key: {file: secrets/frankfurt-vault-access-key}
        secret_key: {file: secrets/frankfurt-vault-secret-key}
      logs: {kind: cloudwatch_logs, region: eu-central-1}
      metrics: {kind: cloudwatch_metrics, region: eu-central-1}
      prometheus:
        kind: prometheus
        url: https://prometheus.frankfurt.internal
        user: tenure
        password: {file: secrets/frankfurt-prometheus}
      analytics:
        kind: analytics
        engine: clickhouse
        url: https://clickhouse.frankfurt.internal:8443
        user: tenure
        password: {file: secrets/frankfurt-clickhouse}
tiers:
  platinum:
    rank: 1
    soak_h: 72
    approval: [migrate, complete]
    throttle: false
    canary: {shares: [10, 25, 50, 75, 100], soak_s: 120}
    bounds: {error_rate: 0.01, latency_ratio: 2, latency_margin_ms: 50, latency_p99_ms: 800, min_requests: 50}
    rollback_on_regression: true
    backup:
      every: 30 1 * * *
      window_h: 3
      keep_days: 365
      keep_at_least: 7
      copy_to: eu-central-1
      lock: governance
      verify: full
      drill: weekly
  gold: {rank: 2, backup: {every: weekly, keep_days: 90, keep_at_least: 3, drill: monthly}}
  bronze: {rank: 3, backup: {every: monthly, keep_days: 30}}
residency:
  eu-only: {regions: [eu-central-1], reason: "GDPR, customer contract"}
freeze:
  year-end: {begins: "2026-12-20T00:00:00+00:00", ends: "2027-01-04T06:00:00+00:00", reason: "closing of the books"}
backups:
  keys:
    kind: aws_kms
    folder: keys
    key: alias/tenure-backups
    region: eu-central-1
  signing:
    key: {file: secrets/signing-key}
    former: [O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik=]
prices:
  currency: INR
  cell_hour: {blue: 4200, frankfurt: 4600}
  gb_moved: 1.5
  cross_region_gb_moved: 7.5
  operator_hour: 2500
approval: {kinds: [complete], expires_h: 12, identity: database}
targets: {migration_h: 6, rollback_s: 60, success_rate: 0.99, cost: 60000}
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
  semantics:
    kind: pinecone
    namespace: "t-{tenant}"
    journal: postgres
    fields: {document_id: key, text: content, author: personal}
    person: [author]
    ignore: ["scratch-*"]
  vault:
    kind: vault
    prefix: "backups/{tenant}/"
  logs:
    kind: cloudwatch_logs
    journal: postgres
    groups:
      /aws/lambda/api: {holds: personal, streams: "*"}
      /app/all: {holds: personal, streams: "{tenant}/*"}
      /app/{tenant}: {holds: personal}
    ignore: [/aws/rds/*]
  metrics:
    kind: cloudwatch_metrics
    namespaces:
      RagApp: {dimension: Tenant, holds: plain}
    ignore: [AWS/*]
  prometheus:
    kind: prometheus
    label: tenant
    fenced_with: postgres
    metrics: {"app_*": plain}
    ignore: [up, "scrape_*", "go_*", "process_*"]
  analytics:
    kind: analytics
    journal: postgres
    tenant_column: tenant_id
    retention: {time_travel_days: 1, fail_safe_days: 7}
    tables:
      main.usage:
        partition: {column: happened_at, by: day}
        columns: {tenant_id: tenant, happened_at: plain, who: personal, what: plain}
"""
