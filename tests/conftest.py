"""Real servers for the tests: one estate per session, each server started when a test first asks for it."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import hypothesis
import psycopg
import pytest
import redis
from psycopg import sql
from psycopg.rows import scalar_row

from tenure.estate.local import (
    EstateSpec,
    PineconeServer,
    PostgresServer,
    RunningEstate,
    S3Endpoint,
    SeaweedServer,
    ValkeyServer,
    down,
    up,
)
from tenure.estate.local.moto import moto_server
from tests.valkey_cluster import ValkeyCluster, form

if TYPE_CHECKING:
    from tests.estate import TestEstate
    from tests.warehouses import ClickHouseProcess

hypothesis.settings.register_profile("tenure", deadline=None)  # no test asserts a time
hypothesis.settings.load_profile("tenure")

SERVERS = (
    PostgresServer(name="pg16", version=16, autostart=False),
    PostgresServer(name="pg18a", autostart=False),
    PostgresServer(name="pg18b", autostart=False),
    PostgresServer(name="control", autostart=False),
    ValkeyServer(name="valkey-a", autostart=False),
    ValkeyServer(name="valkey-b", autostart=False),
    SeaweedServer(name="seaweed-a", autostart=False),
    SeaweedServer(name="seaweed-b", autostart=False),
    PineconeServer(name="pinecone-a", autostart=False),
    PineconeServer(name="pinecone-b", autostart=False),
    moto_server("moto", autostart=False),
)


class LazyEstate(RunningEstate):
    """Starts a server when its address is asked for the first time."""

    _started: frozenset[str] = frozenset()

    def attribute(self, name: str, attribute: str) -> str:
        if name not in self._started:
            self.start(name)
        return super().attribute(name, attribute)

    def start(self, name: str) -> None:
        super().start(name)
        self._started |= {name}


@pytest.fixture(scope="session")
def servers() -> Iterator[RunningEstate]:
    """pg16, pg18a, pg18b, control; valkey-a, valkey-b; seaweed-a, seaweed-b; pinecone-a, pinecone-b
    (stand-ins); moto. `add` puts others beside them.

    A test that stops one starts it again.
    """
    folder = Path(tempfile.mkdtemp(prefix="tenure-tests-"))
    folder.chmod(0o755)  # the servers' account has to get in
    estate = up(EstateSpec(folder=folder / "estate", servers=SERVERS, durable=False), owner=True)
    try:
        yield LazyEstate(estate.folder, None)
    finally:
        estate.close()
        down(estate.folder, remove=True)
        folder.rmdir()


@pytest.fixture(scope="session")
def clickhouse_servers(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[ClickHouseProcess, ClickHouseProcess]]:
    """Two ClickHouse servers, each in a process of its own. A test that kills one starts it again."""
    from tests.warehouses import two_servers

    with two_servers(tmp_path_factory.mktemp("clickhouse")) as servers:
        yield servers


@pytest.fixture
def fresh_database(servers: RunningEstate) -> Iterator[Callable[..., str]]:
    """`fresh_database(server="pg18a", name=None)` gives the DSN of a new empty database, dropped with its links
    after the test."""
    yield from _databases(servers)


@pytest.fixture(scope="session")
def lasting_database(servers: RunningEstate) -> Iterator[Callable[..., str]]:
    """As `fresh_database`, but dropped after the last test."""
    yield from _databases(servers)


def _databases(servers: RunningEstate) -> Iterator[Callable[..., str]]:
    made: list[tuple[str, str]] = []

    def make(server: str = "pg18a", name: str | None = None) -> str:
        servers.start(server)
        name = name or f"t_{secrets.token_hex(6)}"
        with psycopg.connect(servers.dsn(server), autocommit=True) as connection:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        made.append((server, name))
        return servers.dsn(server, name)

    yield make
    for server, name in made:
        servers.start(server)
        _drop_subscriptions(servers.dsn(server), servers.dsn(server, name), name)
    for server, name in made:
        _drop_database(servers.dsn(server), name)


def _drop_subscriptions(admin: str, dsn: str, name: str) -> None:
    """Only their own side: the slots go with their database, which may be gone already."""
    find = (
        "select s.subname from pg_subscription s join pg_database d on d.oid = s.subdbid where d.datname = %s"
    )
    with psycopg.connect(admin, autocommit=True, row_factory=scalar_row) as connection:
        subscriptions = connection.execute(find, (name,)).fetchall()
    if not subscriptions:
        return
    with psycopg.connect(dsn, autocommit=True) as connection:
        for subscription in subscriptions:
            who = sql.Identifier(subscription)
            connection.execute(sql.SQL("alter subscription {} disable").format(who))
            connection.execute(sql.SQL("alter subscription {} set (slot_name = none)").format(who))
            connection.execute(sql.SQL("drop subscription {}").format(who))


def _drop_database(admin: str, name: str) -> None:
    prepared = "select gid from pg_prepared_xacts where database = %s"
    slots = "select slot_name from pg_replication_slots where database = %s"
    walsenders = "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots"
    end = f"{walsenders} where database = %s and active"
    drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = %s"
    with psycopg.connect(admin, autocommit=True, row_factory=scalar_row) as connection:
        left = connection.execute(prepared, (name,)).fetchall()
        deadline = time.monotonic() + 10
        while connection.execute(slots, (name,)).fetchall():
            connection.execute(end, (name,))
            with contextlib.suppress(psycopg.errors.ObjectInUse, psycopg.errors.UndefinedObject):
                connection.execute(drop, (name,))
            assert time.monotonic() < deadline, f"the replication slots of {name} stay in use"
        if left:
            with psycopg.connect(_in_database(admin, name), autocommit=True) as inside:
                for gid in left:
                    inside.execute(sql.SQL("rollback prepared {}").format(sql.Literal(gid)))
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def _in_database(dsn: str, name: str) -> str:
    return psycopg.conninfo.make_conninfo(dsn, dbname=name)


@pytest.fixture
def fresh_redis(servers: RunningEstate) -> Callable[..., str]:
    """`fresh_redis(server="valkey-a")` empties the server, forgets every user but the admin, and gives the
    admin's URL."""

    def make(server: str = "valkey-a") -> str:
        servers.start(server)
        with redis.Redis.from_url(servers.url(server), decode_responses=True) as client:
            client.flushall()
            users = client.acl_users()
            for user in set(users) - {"default", "tenure"}:
                client.acl_deluser(user)
        return servers.url(server)

    return make


@pytest.fixture(scope="session")
def valkey_cluster(servers: RunningEstate) -> ValkeyCluster:
    """Three masters, the first of which has a replica."""
    return form(servers, "valkey-c", masters=3, replicas=1)


@pytest.fixture(scope="session")
def other_valkey_cluster(servers: RunningEstate) -> ValkeyCluster:
    """Two masters, and one without slots."""
    return form(servers, "valkey-d", masters=2, idle=1)


@pytest.fixture
def fresh_bucket(servers: RunningEstate) -> Iterator[Callable[..., tuple[S3Endpoint, str]]]:
    """`fresh_bucket(server="seaweed-a", versioned=False, locks=False)` gives the S3 and a new bucket's name; gone
    after the test. One with locks keeps versions as well."""
    made: list[tuple[str, str, bool]] = []

    def make(
        server: str = "seaweed-a", *, versioned: bool = False, locks: bool = False
    ) -> tuple[S3Endpoint, str]:
        servers.start(server)
        s3, bucket = servers.s3(server), f"t-{secrets.token_hex(6)}"
        client = _admin(s3)
        client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=locks)
        if versioned:
            client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        made.append((server, bucket, locks))
        client.close()
        return s3, bucket

    yield make
    for server, bucket, locks in made:
        servers.start(server)
        client = _admin(servers.s3(server))
        for version in client.list_object_versions(Bucket=bucket).get("Versions", []) if locks else ():
            client.delete_object(
                Bucket=bucket,
                Key=version["Key"],
                VersionId=version["VersionId"],
                BypassGovernanceRetention=True,
            )
        client.delete_bucket(Bucket=bucket)  # this S3 removes what is in it as well
        client.close()


def _admin(s3: S3Endpoint):  # type: ignore[no-untyped-def]
    return boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        region_name=s3.region,
        aws_access_key_id=s3.access_key.reveal(),
        aws_secret_access_key=s3.secret_key.reveal(),
    )


@pytest.fixture(scope="session")
def moto(servers: RunningEstate) -> str:
    """The endpoint of CloudWatch as moto's server knows it. Tests keep apart by the names that they use in it."""
    servers.start("moto")
    return f"http://127.0.0.1:{servers.port('moto', 'http')}"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder in which every user can read, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="tenure-tests-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        yield folder


@pytest.fixture
def wait_until() -> Callable[..., None]:
    """`wait_until(condition, what, deadline_s=30)` polls until the condition holds; fails with `what` at the
    deadline."""

    def wait(condition: Callable[[], object], what: str, *, deadline_s: float = 30.0) -> None:
        deadline = time.monotonic() + deadline_s
        while not condition():
            assert time.monotonic() < deadline, f"not within {deadline_s:g} s: {what}"
            time.sleep(0.02)

    return wait


@pytest.fixture(scope="session")
def cells_estate() -> Iterator[TestEstate]:
    """The whole local estate with the sample app in PostgreSQL, pgvector, Redis and S3."""
    # Here, so that the tests of one store do not load all of Tenure.
    from tests.estate import running_estate

    with running_estate() as estate:
        yield estate
