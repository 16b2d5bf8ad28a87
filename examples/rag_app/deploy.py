"""Deploys the service's stores in one cell: role, schema and Tenure's client schema, bucket, warehouse, one Redis user
per tenant. The index is there already, and log groups are made when there is something to log."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from importlib import resources

import psycopg
import redis
from botocore.exceptions import ClientError
from psycopg import sql

from rag_app.objects import s3_client
from rag_app.settings import APP_ROLE, CellSettings, ObjectSettings, TenantAccess
from rag_app.warehouse import Warehouse
from tenure.client import install


def deploy(settings: CellSettings, tenants: Mapping[str, TenantAccess]) -> None:
    """Create what is missing in the cell's stores. Safe to run again, also on a cell in which a tenant is
    fenced."""
    deploy_postgres(settings)
    deploy_redis(settings.redis_url, tenants)
    deploy_bucket(settings.objects)
    if settings.warehouse:
        with closing(Warehouse(settings.warehouse)) as warehouse:
            warehouse.create()


def deploy_postgres(settings: CellSettings) -> None:
    names = ("schema.sql", "usage.sql") if settings.warehouse else ("schema.sql",)
    schema = b"\n".join(resources.files("rag_app").joinpath(name).read_bytes() for name in names)
    with psycopg.connect(settings.postgres_dsn, autocommit=True) as conn, conn.transaction():
        # Roles belong to the server, not to the database: two deployments may meet here.
        conn.execute("select pg_advisory_xact_lock(hashtextextended('rag_app:deploy', 0))")
        exists = conn.execute("select 1 from pg_roles where rolname = %s", (APP_ROLE,)).fetchone()
        verb = sql.SQL("alter" if exists else "create")
        conn.execute(
            sql.SQL("{} role {} login nosuperuser nobypassrls noreplication password {}").format(
                verb, sql.Identifier(APP_ROLE), sql.Literal(settings.app_postgres_password)
            )
        )
        conn.execute(schema)
        install(conn)


def deploy_redis(url: str, tenants: Mapping[str, TenantAccess]) -> None:
    """Create the tenants' users, each confined to `t:{tenant}:*`.

    The rules of a user that exists are left alone (they may be a fence); only its password is set.
    """
    with redis.Redis.from_url(url, decode_responses=True) as client:
        known = {str(user) for user in client.acl_users()}
        for tenant, access in tenants.items():
            user = f"app-{tenant}"
            rules = ["resetpass", f">{access.redis_password}"]
            if user not in known:
                rules = ["reset", "on", f">{access.redis_password}", f"~t:{tenant}:*", "+@all"]
                rules += ["-@admin", "-@dangerous"]
            client.execute_command("ACL", "SETUSER", user, *rules)
        if client.config_get("aclfile").get("aclfile"):
            client.acl_save()


def deploy_bucket(objects: ObjectSettings) -> None:
    with closing(s3_client(objects)) as client:
        try:
            client.head_bucket(Bucket=objects.bucket)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise
            client.create_bucket(Bucket=objects.bucket)
