"""PostgreSQL 15 is refused by name, as the cell that is left and as the one that is entered."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tenure.estate.local import CommandServer, RunningEstate
from tenure.estate.local.accounts import for_servers
from tenure.model.finding import Severity
from tenure.stores.postgres import PostgresLiveCopy, TenantTable
from tests.integration.postgres.cells import ACME, make_store

BINARIES = Path("/usr/lib/postgresql/15/bin")
SCHEMA = """
create table public.items (tenant_id text not null, id int not null, primary key (tenant_id, id));
insert into public.items values ('acme', 1);
"""
TABLES = [TenantTable(schema="public", name="items", tenant_column="tenant_id")]


@pytest.fixture
def postgres_15(servers: RunningEstate) -> Iterator[str]:
    """The DSN of a PostgreSQL 15 of Debian's."""
    if not (BINARIES / "initdb").exists():
        pytest.skip("needs Debian's package postgresql-15")
    account = for_servers("nobody")
    data = servers.folder / "postgresql-15"
    data.mkdir(mode=0o700)
    os.chown(data, *account.owner)
    options = ("-U", "tenure", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
    subprocess.run(
        [BINARIES / "initdb", "-D", data, *options],
        check=True,
        capture_output=True,
        cwd=data,
        user=account.uid,
        group=account.gid,
    )
    settings = (
        "-c",
        "wal_level=logical",
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        "unix_socket_directories=",
    )
    server = CommandServer(
        name="pg15",
        argv=(str(BINARIES / "postgres"), "-D", str(data), "-p", "${self.pg}", *settings),
        ports={"pg": 0},
        ready="tcp:pg",
        stop_signal="SIGINT",
        account="server",
    )
    servers.add(server)
    yield f"postgresql://tenure@127.0.0.1:{servers.port('pg15', 'pg')}/postgres"
    servers.stop("pg15")


def test_postgresql_15_is_refused_by_name_on_either_side(
    postgres_15: str, fresh_database: Callable[..., str]
) -> None:
    newer = fresh_database("pg16")
    for dsn in (postgres_15, newer):
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(SCHEMA)
    old, new = make_store("old", postgres_15, TABLES), make_store("new", newer, TABLES)
    for source, target in ((old, new), (new, old)):
        copy = PostgresLiveCopy(link="test", source=source, target=target, tenant=ACME)
        (refusal,) = (f for f in copy.preflight() if f.severity is Severity.REFUSAL)
        assert (refusal.code, refusal.where) == ("server_too_old", "postgres in old")
        assert "PostgreSQL 15 has no `origin = none`" in refusal.message
        assert "upgrade the server to PostgreSQL 16" in refusal.fix
        assert old.inventory(ACME).items == 1  # looking works, and nothing was installed
    with psycopg.connect(postgres_15) as connection:
        assert connection.execute("select to_regnamespace('tenure')").fetchone() == (None,)
    old.close()
    new.close()
