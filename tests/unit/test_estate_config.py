"""`tenure.yaml`: what it becomes, and what is said about one that is wrong, hostile or broken."""

from __future__ import annotations

import pathlib
import random
import time
from collections.abc import Callable, Iterator

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tenure.catalogue import PostgresMap
from tenure.errors import ConfigurationError, UnknownName
from tenure.estate import examples
from tenure.estate.config import (
    Estate,
    PgvectorSettings,
    PostgresSettings,
    RedisSettings,
    S3Settings,
    SecretRef,
    load_estate,
)
from tenure.model.approval import EVERY_TIER, Demand, Identity
from tenure.model.names import CellName, StoreName, tenant_id
from tenure.model.secret import Secret
from tenure.operations.planning import rules_of

GOOD = """\
version: 1
catalogue: catalogue.yaml
control: {dsn: {env: TENURE_TEST_CONTROL_DSN}}
gateway:
  kind: envoy
  listen: http://127.0.0.1:10000/
  admin: ["http://127.0.0.1:9901"]
  config_dir: envoy
  gate: {check: "http://127.0.0.1:9002", control: "http://127.0.0.1:9003", token: {file: secrets/gate-token}}
  domain: rag.localhost
cells:
  blue:
    region: us-east-1
    infrastructure: v1
    app: http://127.0.0.1:9101
    stores:
      postgres: {kind: postgresql, dsn: {file: secrets/blue-postgres}}
      redis: {kind: redis, url: {file: secrets/blue-redis}}
  green:
    region: eu-west-1
    infrastructure: v2
    app: http://127.0.0.1:9102
    stores:
      postgres: {kind: postgresql, dsn: {file: secrets/green-postgres}}
      redis: {kind: redis, url: {file: secrets/green-redis}}
tiers:
  platinum: {rank: 1}
residency:
  eu-only: {regions: [eu-west-1], reason: "GDPR, customer contract"}
prices: {currency: INR, cell_hour: {blue: 4200, green: 4600.5}, gb_moved: 7.5, cross_region_gb_moved: 9,
         operator_hour: 2500}
"""
CATALOGUE = """\
version: 1
stores:
  postgres:
    kind: postgresql
    tenant_column: tenant_id
    tables: {public.documents: {columns: {tenant_id: tenant, id: key}}}
  redis: {kind: redis, prefix: "t:{tenant}:", keys: {"*": plain}}
"""
Problems = Callable[..., list[str]]


@pytest.fixture
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The current folder, with a good catalogue in it, so that messages show plain file names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TENURE_TEST_CONTROL_DSN", raising=False)
    pathlib.Path("catalogue.yaml").write_text(CATALOGUE)
    return tmp_path


def load(text: str | bytes = GOOD) -> Estate:
    path = pathlib.Path("tenure.yaml")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_estate(path)


def problems(text: str | bytes) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(text)
    assert caught.value.hint
    return list(caught.value.problems)


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new, 1)


# --- a good file


def test_a_good_file_becomes_typed_values(folder: pathlib.Path) -> None:
    estate = load()
    assert estate.path == folder / "tenure.yaml"
    assert estate.root == folder
    assert list(estate.catalogue.stores) == ["postgres", "redis"]
    assert estate.gateway.listen == "http://127.0.0.1:10000"
    assert estate.gateway.admin == ("http://127.0.0.1:9901",)
    assert estate.gateway.config_dir == folder / "envoy"
    assert estate.gateway.gate.token.name == str(folder / "secrets" / "gate-token")
    blue = estate.cell("blue")
    assert (blue.region, blue.infrastructure, blue.app) == ("us-east-1", "v1", "http://127.0.0.1:9101")
    postgres = blue.stores[StoreName("postgres")]
    assert isinstance(postgres, PostgresSettings)
    assert postgres.replication_dsn == postgres.dsn
    assert isinstance(blue.stores[StoreName("redis")], RedisSettings)
    assert estate.tiers["platinum"].rank == 1
    assert estate.residency["eu-only"].regions == ("eu-west-1",)
    assert estate.prices is not None
    assert estate.prices.cell_hour == {"blue": 4200, "green": 4600.5}


def test_what_is_left_out_has_its_default(folder: pathlib.Path) -> None:
    without = GOOD.replace(
        'residency:\n  eu-only: {regions: [eu-west-1], reason: "GDPR, customer contract"}\n', ""
    )
    estate = load(without[: without.index("prices:")])
    assert (estate.hold.budget_ms, estate.hold.drain_ms) == (2000, 1000)
    assert (estate.hold.budget_s, estate.hold.drain_s) == (2.0, 1.0)
    assert (estate.verify.resync_above, estate.verify.evidence_ttl_s, estate.soak.ttl_h) == (0.05, 300, 24)
    assert estate.gateway.tenant_header == "x-tenant-id"
    assert estate.residency == {}
    assert estate.freeze == {}
    assert estate.prices is None
    assert estate.tiers["platinum"].soak_h is None
    assert estate.tiers["platinum"].approval == estate.approval.kinds == ()
    assert (estate.approval.identity, estate.approval.expires_h) == ("os", 24)
    targets = estate.targets
    assert (targets.migration_h, targets.rollback_s, targets.success_rate, targets.initial) == (
        8,
        60,
        0.98,
        5,
    )
    assert (targets.cost, targets.currency) == (80_000, "INR")
    assert rules_of(estate) == frozenset()


def test_every_kind_of_store_is_read(folder: pathlib.Path) -> None:
    pathlib.Path("catalogue.yaml").write_text(examples.CATALOGUE)
    estate = load(examples.ESTATE)
    blue, frankfurt = estate.cell("blue").stores, estate.cell("frankfurt").stores
    assert {(r.tier, r.kind) for r in rules_of(estate)} == {
        (EVERY_TIER, "complete"),
        ("platinum", "migrate"),
        ("platinum", "complete"),
    }
    assert {r.demand for r in rules_of(estate)} == {Demand(identity=Identity.DATABASE, ttl_s=12 * 3600)}
    year_end = load(examples.ESTATE).freeze["year-end"]
    assert year_end.begins.isoformat() == "2026-12-20T00:00:00+00:00"
    postgres, vectors, objects = (blue[StoreName(n)] for n in ("postgres", "vectors", "objects"))
    assert isinstance(postgres, PostgresSettings)
    assert postgres.replication_dsn == postgres.dsn_from_cells != postgres.dsn
    assert isinstance(vectors, PgvectorSettings)
    assert vectors.rides_with == "postgres"
    assert isinstance(objects, S3Settings)
    assert (objects.endpoint, objects.access_key, objects.bucket) == (None, None, "example-blue")
    other = frankfurt[StoreName("objects")]
    assert isinstance(other, S3Settings)
    assert other.endpoint == "https://objects.frankfurt.internal"
    assert other.secret_key is not None


def test_nothing_in_an_estate_can_be_changed(folder: pathlib.Path) -> None:
    estate = load()
    with pytest.raises(ValidationError):
        estate.hold.budget_ms = 1
    assert estate.prices is not None
    for mapping in (
        estate.cells,
        estate.cell("blue").stores,
        estate.tiers,
        estate.residency,
        estate.prices.cell_hour,
    ):
        with pytest.raises(TypeError):
            mapping["x"] = None  # type: ignore[index]


def test_an_unknown_cell_is_said_to_be_unknown(folder: pathlib.Path) -> None:
    with pytest.raises(UnknownName, match="'red'") as caught:
        load().cell("red")
    assert caught.value.hint == "the cells are blue, green"


def test_a_tenants_default_host_is_a_valid_host(folder: pathlib.Path) -> None:
    assert load().gateway.host_for(tenant_id("tenant_001_Acme")) == "tenant-001-acme.rag.localhost"


def test_words_that_yaml_once_took_for_truth_values_are_text(folder: pathlib.Path) -> None:
    text = (
        GOOD.replace("  blue:", "  no:")
        .replace("{blue:", "{no:")
        .replace("infrastructure: v1", "infrastructure: on")
    )
    estate = load(text)
    assert estate.cell("no").infrastructure == "on"


def test_an_anchor_that_nothing_refers_to_is_harmless(folder: pathlib.Path) -> None:
    load(changed("  blue:", "  blue: &blue"))


def test_a_byte_order_mark_and_windows_line_ends_are_harmless(folder: pathlib.Path) -> None:
    load(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())


# --- secrets


def test_a_secret_is_read_when_asked_for(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    estate = load()
    monkeypatch.setenv("TENURE_TEST_CONTROL_DSN", "host=one")
    assert estate.control.dsn.resolve() == Secret("host=one")
    monkeypatch.setenv("TENURE_TEST_CONTROL_DSN", "host=two")
    assert estate.control.dsn.resolve().reveal() == "host=two"


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_line_break_at_the_end_of_a_secret_file_is_not_part_of_it(folder: pathlib.Path, end: str) -> None:
    (folder / "secrets").mkdir()
    (folder / "secrets" / "gate-token").write_bytes(b" s3cret " + end.encode())
    assert load().gateway.gate.token.resolve().reveal() == " s3cret "


def test_a_secret_file_is_found_from_any_folder(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estate = load()
    (folder / "secrets").mkdir()
    (folder / "secrets" / "gate-token").write_text("x")
    monkeypatch.chdir("/")
    assert estate.gateway.gate.token.resolve().reveal() == "x"


def test_paths_start_at_the_folder_of_the_file(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load()
    monkeypatch.chdir("/")
    estate = load_estate(folder / "tenure.yaml")
    assert estate.gateway.config_dir == folder / "envoy"
    assert estate.gateway.gate.token.name == str(folder / "secrets" / "gate-token")
    assert "postgres" in estate.catalogue.stores


def _fails(reference: SecretRef) -> str:
    with pytest.raises(ConfigurationError) as caught:
        reference.resolve()
    assert caught.value.problems == (caught.value.message,)
    return caught.value.message


def test_a_missing_secret_names_the_setting_and_the_variable_or_file(folder: pathlib.Path) -> None:
    estate = load()
    assert _fails(estate.control.dsn) == (
        "tenure.yaml:3:16: control.dsn: the environment variable TENURE_TEST_CONTROL_DSN is not set"
    )
    assert _fails(estate.gateway.gate.token) == (
        f"tenure.yaml:9:83: gateway.gate.token: the file {folder}/secrets/gate-token cannot be read: "
        "No such file or directory"
    )


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\xff", "is not UTF-8 text"),
        (b"x" * 70_000, "is larger than 64 KiB"),
    ],
)
def test_a_secret_file_without_a_secret_is_refused(folder: pathlib.Path, content: bytes, why: str) -> None:
    (folder / "secrets").mkdir()
    (folder / "secrets" / "gate-token").write_bytes(content)
    assert why in _fails(load().gateway.gate.token)


def test_a_folder_is_no_secret_file(folder: pathlib.Path) -> None:
    (folder / "secrets" / "gate-token").mkdir(parents=True)
    assert "Is a directory" in _fails(load().gateway.gate.token)


def test_all_missing_secrets_are_reported_together(folder: pathlib.Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load().check_secrets()
    assert len(caught.value.problems) == 6


def test_two_cells_with_the_same_address_behind_different_references_are_refused(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENURE_TEST_CONTROL_DSN", "host=control")
    (folder / "secrets").mkdir()
    for name in ("gate-token", "blue-postgres", "blue-redis", "green-postgres", "green-redis"):
        (folder / "secrets" / name).write_text(f"address of {name}")
    estate = load()
    estate.check_secrets()
    (folder / "secrets" / "green-postgres").write_text("address of blue-postgres")
    with pytest.raises(ConfigurationError) as caught:
        estate.check_secrets()
    (problem,) = caught.value.problems
    assert problem.startswith(
        "tenure.yaml:24:41: cells.green.stores.postgres.dsn: holds the same address as tenure.yaml:17:41:"
    )
    assert "address of" not in problem.replace("address as", "")


@pytest.mark.parametrize(
    "given",
    [
        '"postgres://u:hunter2@db/x"',
        "hunter2",
        "{env: 'postgres://u:hunter2@db/x'}",
        "{env: PASSWORD=hunter2}",
        "{file: 'postgres://u:hunter2@db/x'}",
        "{hunter: hunter2}",
        "{env: A, hunter: hunter2}",
        "{env: A, file: hunter2}",
        "[hunter2]",
        "{env: [hunter2]}",
        "{env: ''}",
        "{file: {env: hunter2}}",
        "{}",
        "5",
        "",
    ],
)
def test_a_secret_in_the_file_is_refused_and_never_shown(folder: pathlib.Path, given: str) -> None:
    (problem,) = problems(changed("{env: TENURE_TEST_CONTROL_DSN}", given))
    assert "control.dsn: " in problem
    assert "secret" in problem
    assert "hunter2" not in problem


def test_a_literal_secret_is_told_where_to_go(folder: pathlib.Path) -> None:
    assert problems(changed("{env: TENURE_TEST_CONTROL_DSN}", "hunter2")) == [
        "tenure.yaml:3:16: control.dsn: a secret must not be written here: move it to a file or an "
        "environment variable and write {file: PATH} or {env: NAME}"
    ]


def test_an_estate_never_shows_a_secret(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENURE_TEST_CONTROL_DSN", "hunter2")
    estate = load()
    shown = f"{estate!r} {estate} {estate.control.dsn.resolve()!r} {estate.control.dsn.resolve()}"
    assert "hunter2" not in shown


# --- single settings that are wrong


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("    region: us-east-1\n", "", "13:5: cells.blue.region: missing"),
        ("region: us", "regoin: us", "13:5: cells.blue.regoin: unknown setting; did you mean 'region'?"),
        ("version: 1", "verison: 1", "1:1: verison: unknown setting; did you mean 'version'?"),
        (
            "{rank: 1}",
            "{zzz: 1}",
            "27:14: tiers.platinum.zzz: unknown setting; known here: approval, backup, bounds, canary, cooling_off_h, "
            "rank, rollback_on_regression, soak_h, throttle",
        ),
        (
            "{rank: 1}",
            "{rank: 1, canary: {shares: [10, 50, 50]}}",
            "27:40: tiers.platinum.canary.shares: must be at least one number, each greater than the one before",
        ),
        (
            "{rank: 1}",
            "{rank: 1, canary: {shares: [10, 101]}}",
            "27:45: tiers.platinum.canary.shares[1]: must be at most 100, not 101",
        ),
        (
            "  kind: envoy\n",
            "  kind: envoy\n  read_paths: [search/]\n",
            "6:16: gateway.read_paths[0]: is not a path of the app: it begins with '/', does not end with it, "
            "and has no '?' or '#'",
        ),
        (
            "{kind: redis, url: {file: secrets/blue-redis}}",
            "{kind: redis, ulr: {file: secrets/blue-redis}}",
            "18:28: cells.blue.stores.redis.ulr: unknown setting; did you mean 'url'?",
        ),
        ("rank: 1", "rank: 1.0", "27:20: tiers.platinum.rank: must be a whole number, not 1.0"),
        ("rank: 1", "rank: '1'", "27:20: tiers.platinum.rank: must be a whole number, not text"),
        ("rank: 1", "rank: true", "27:20: tiers.platinum.rank: must be a whole number, not true or false"),
        ("rank: 1", "rank: 0", "27:20: tiers.platinum.rank: must be at least 1, not 0"),
        ("rank: 1", "rank:", "27:19: tiers.platinum.rank: must be a whole number, but is empty"),
        (
            "rank: 1",
            "rank: 99999999999999999999999999",
            "27:20: tiers.platinum.rank: must be a whole number, not 1e+26",
        ),
        ("gb_moved: 7.5", "gb_moved: .nan", "30:75: prices.gb_moved: must be a finite number"),
        ("gb_moved: 7.5", "gb_moved: 1e999", "30:75: prices.gb_moved: must be a finite number"),
        ("gb_moved: 7.5", "gb_moved: -1", "30:75: prices.gb_moved: must be at least 0, not -1"),
        (
            "infrastructure: v1",
            "infrastructure: 1",
            "14:21: cells.blue.infrastructure: must be text, not a number: put it in quotes",
        ),
        ("infrastructure: v1", "infrastructure: ''", "14:21: cells.blue.infrastructure: must not be empty"),
        ("{rank: 1}", "[1]", "27:13: tiers.platinum: must be a mapping, not a list"),
        ("{rank: 1}", "", "27:12: tiers.platinum: must be a mapping, but is empty"),
        ('["http://127.0.0.1:9901"]', "[]", "7:10: gateway.admin: must not be empty"),
        ('["http://127.0.0.1:9901"]', "{a: b}", "7:10: gateway.admin: must be a list, not a mapping"),
        (
            '["http://127.0.0.1:9901"]',
            "['http://a:1', 5]",
            "7:25: gateway.admin[1]: must be text, not a number: put it in quotes",
        ),
        (
            "kind: envoy",
            "kind: envoi",
            "5:9: gateway.kind: must be envoy, not 'envoi'; did you mean 'envoy'?",
        ),
        (
            "app: http://127.0.0.1:9101",
            "app: ftp://127.0.0.1",
            "15:10: cells.blue.app: must begin with http:// or https://",
        ),
        (
            "app: http://127.0.0.1:9101",
            "app: http://a:99999",
            "15:10: cells.blue.app: must have the form http://host:port, the port from 1 to 65535",
        ),
        (
            "app: http://127.0.0.1:9101",
            "app: http://a:b",
            "15:10: cells.blue.app: must have the form http://host:port, the port from 1 to 65535",
        ),
        (
            "app: http://127.0.0.1:9101",
            "app: 'http://'",
            "15:10: cells.blue.app: must have the form http://host:port",
        ),
        (
            "app: http://127.0.0.1:9101",
            "app: http://a/b",
            "15:10: cells.blue.app: must be only http(s)://host:port, without a path or anything after it",
        ),
        (
            "app: http://127.0.0.1:9101",
            "app: http://a?b",
            "15:10: cells.blue.app: must be only http(s)://host:port, without a path or anything after it",
        ),
        (
            "domain: rag.localhost",
            "domain: rag..localhost",
            "10:11: gateway.domain: is not a domain, such as app.example.com",
        ),
        (
            "domain: rag.localhost",
            "tenant_header: x-tenure-cell\n  domain: a",
            "10:18: gateway.tenant_header: must not be a header that has a meaning of its own",
        ),
        (
            "region: us-east-1",
            "region: US East",
            "13:13: cells.blue.region: is not a region: lower-case letters, digits and '-', such as "
            "eu-west-1",
        ),
        (
            "currency: INR",
            "currency: rupees",
            "30:20: prices.currency: must be three capital letters, such as EUR or INR",
        ),
        (
            "catalogue: catalogue.yaml",
            "catalogue: nosuch.yaml",
            "2:12: catalogue: nosuch.yaml: cannot be read: No such file or directory",
        ),
        ("catalogue: catalogue.yaml", "catalogue: .", "2:12: catalogue: .: cannot be read: Is a directory"),
        ("catalogue: catalogue.yaml", "catalogue: []", "2:12: catalogue: must be a path, as text"),
        ("config_dir: envoy", "config_dir: ''", "8:15: gateway.config_dir: must be a path, as text"),
        (
            "version: 1",
            "version: 2",
            "1:10: version: must be 1, the version of the format that is described here",
        ),
        (
            "platinum:",
            "Platinum:",
            "27:3: tiers.Platinum: is not a name: 1 to 63 lower-case letters, digits, '_' or '-', starting "
            "with a letter",
        ),
        ("version: 1", "version: 1\nhold: 5", "2:7: hold: must be a mapping, not a number"),
        (
            "version: 1",
            "version: 1\nhold: {budget_ms: 0}",
            "2:19: hold.budget_ms: must be more than 0, not 0",
        ),
        (
            "{rank: 1}",
            "{rank: 1, approval: [migrate, rollback]}",
            "27:43: tiers.platinum.approval[1]: must not be rollback: the way back waits for nobody",
        ),
        (
            "version: 1",
            "version: 1\napproval: {kinds: [verify]}",
            "2:20: approval.kinds[0]: must be one of migrate, complete, erase: the operations with a plan to approve",
        ),
        (
            "version: 1",
            "version: 1\nverify: {resync_above: 2}",
            "2:24: verify.resync_above: must be at most 1, not 2",
        ),
    ],
)
def test_a_wrong_setting_is_said_at_its_place(
    folder: pathlib.Path, old: str, new: str, expected: str
) -> None:
    assert f"tenure.yaml:{expected}" in problems(changed(old, new))


def test_an_address_with_a_password_is_refused_and_not_shown(folder: pathlib.Path) -> None:
    (problem,) = problems(changed("http://127.0.0.1:9101", "http://u:hunter2@127.0.0.1:9101"))
    assert problem == "tenure.yaml:15:10: cells.blue.app: must not contain a user or a password"


def test_a_wrong_cell_name_is_quoted(folder: pathlib.Path) -> None:
    (problem,) = [p for p in problems(changed("  blue:", "  Blue:")) if "not a cell name" in p]
    assert problem.startswith(
        "tenure.yaml:12:3: cells.Blue: 'Blue' is not a cell name: 1 to 31 lower-case letters"
    )


# --- what must fit together


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "      redis: {kind: redis, url: {file: secrets/blue-redis}}\n",
            "",
            "17:7: cells.blue.stores.redis: missing: the catalogue has a store of that name (redis)",
        ),
        (
            "      redis: ",
            "      rediss: ",
            "18:7: cells.blue.stores.rediss: the catalogue has no store of that name; did you mean 'redis'?",
        ),
        (
            "{kind: redis, url",
            "{kind: postgresql, dsn",
            "18:21: cells.blue.stores.redis.kind: is 'postgresql', but 'redis' in the catalogue",
        ),
        (
            "{kind: redis, url: {file: secrets/blue-redis}}",
            "{kind: pgvector, rides_with: postgers}",
            "18:43: cells.blue.stores.redis.rides_with: there is no store 'postgers' here; did you mean "
            "'postgres'?",
        ),
        (
            "regions: [eu-west-1]",
            "regions: [eu-west-2]",
            "29:23: residency.eu-only.regions[0]: no cell is in 'eu-west-2'; did you mean 'eu-west-1'?",
        ),
        (
            "residency:",
            'freeze:\n  now: {begins: "2026-12-20", ends: "2027-01-01T00:00:00Z", reason: r}\nresidency:',
            "29:17: freeze.now.begins: must be a time with its zone, such as 2026-12-24T18:00:00+01:00",
        ),
        (
            "residency:",
            'freeze:\n  now: {begins: "2027-01-01T00:00:00Z", ends: "2027-01-01T01:00:00+01:00", reason: r}'
            "\nresidency:",
            "29:47: freeze.now.ends: must be later than `begins`",
        ),
        ("regions: [eu-west-1]", "regions: []", "29:22: residency.eu-only.regions: must not be empty"),
        ("green: 4600.5", "gren: 1", "30:36: prices.cell_hour.green: missing: every cell has a price"),
        (
            "green: 4600.5",
            "gren: 1",
            "30:49: prices.cell_hour.gren: there is no such cell; did you mean 'green'?",
        ),
        (
            "version: 1",
            "version: 1\nhold: {budget_ms: 500}",
            "2:19: hold.budget_ms: the drain (1000 ms) must be shorter than the whole budget (500 ms)",
        ),
        (
            "version: 1",
            "version: 1\nsync: {longest_window_s: 60}",
            "2:26: sync.longest_window_s: the longest window (60 s) must not be shorter than the window (600 s)",
        ),
        (
            "version: 1",
            "version: 1\nsync: {window_s: 7200}",
            "2:18: sync.window_s: the longest window (3600 s) must not be shorter than the window (7200 s)",
        ),
        (
            "version: 1",
            "version: 1\nhold: {drain_ms: 2000}",
            "2:18: hold.drain_ms: the drain (2000 ms) must be shorter than the whole budget (2000 ms)",
        ),
        (
            "9102",
            "9101",
            "22:10: cells.green.app: is the same as cells.blue.app: cells and stores share nothing",
        ),
        (
            "secrets/green-redis",
            "secrets/blue-redis",
            "25:33: cells.green.stores.redis.url: is the same as cells.blue.stores.redis.url: cells and "
            "stores share nothing",
        ),
        (
            "secrets/green-postgres",
            "secrets/blue-postgres",
            "24:41: cells.green.stores.postgres.dsn: is the same as cells.blue.stores.postgres.dsn: cells "
            "and stores share nothing",
        ),
    ],
)
def test_what_does_not_fit_together_is_said(folder: pathlib.Path, old: str, new: str, expected: str) -> None:
    assert f"tenure.yaml:{expected}" in problems(changed(old, new))


def test_two_cells_may_not_share_a_bucket(folder: pathlib.Path) -> None:
    pathlib.Path("catalogue.yaml").write_text(examples.CATALOGUE)
    text = examples.ESTATE.replace("        endpoint: https://objects.frankfurt.internal\n", "")
    (problem,) = problems(text.replace("example-frankfurt", "example-blue"))
    assert "cells.frankfurt.stores.objects.bucket: is the same as cells.blue.stores.objects.bucket" in problem


def test_a_bucket_of_one_name_at_two_endpoints_is_two_buckets(folder: pathlib.Path) -> None:
    pathlib.Path("catalogue.yaml").write_text(examples.CATALOGUE)
    load(examples.ESTATE.replace("example-frankfurt", "example-blue"))


@pytest.mark.parametrize(("left_out", "given"), [("access", "secret"), ("secret", "access")])
def test_half_of_a_pair_of_s3_keys_is_refused(folder: pathlib.Path, left_out: str, given: str) -> None:
    pathlib.Path("catalogue.yaml").write_text(examples.CATALOGUE)
    line = f"        {left_out}_key: {{file: secrets/frankfurt-{left_out}-key}}\n"
    assert line in examples.ESTATE
    (problem,) = problems(examples.ESTATE.replace(line, ""))
    assert problem.endswith(f"cells.frankfurt.stores.objects.{left_out}_key: missing: {given}_key is given")


def test_a_table_that_some_cells_have_names_cells_of_the_estate(folder: pathlib.Path) -> None:
    file = pathlib.Path("catalogue.yaml")
    only = CATALOGUE.replace("id: key}}", "id: key}, cells: [green]}")
    file.write_text(only)
    postgres = load().catalogue.store(StoreName("postgres"))
    assert isinstance(postgres, PostgresMap)
    (table,) = postgres.tables.values()
    assert table.is_in(CellName("green"))
    assert not table.is_in(CellName("blue"))
    file.write_text(only.replace("[green]", "[gren]"))
    (problem,) = problems(GOOD)
    assert problem.startswith("catalogue.yaml:6:")
    assert "there is no cell 'gren'; did you mean 'green'?" in problem


def test_rides_with_must_be_the_catalogues(folder: pathlib.Path) -> None:
    pathlib.Path("catalogue.yaml").write_text(examples.CATALOGUE)
    found = problems(examples.ESTATE.replace("rides_with: postgres}", "rides_with: redis}", 1))
    assert [p.partition("rides_with: ")[2] for p in found] == [
        "is 'redis', but 'postgres' in the catalogue",
        "must name a store of kind postgresql; redis is 'redis'",
    ]


def test_problems_of_both_files_come_together(folder: pathlib.Path) -> None:
    pathlib.Path("catalogue.yaml").write_text(CATALOGUE.replace("id: key", "id: kye"))
    first, second = problems(changed("rank: 1", "rank: x"))
    assert first.startswith("tenure.yaml:27:20: tiers.platinum.rank: ")
    assert second.startswith("catalogue.yaml:6:66: stores.postgres.tables.'public.documents'.columns.id: ")


def test_a_broken_catalogue_does_not_hide_what_is_wrong_in_the_estate(folder: pathlib.Path) -> None:
    pathlib.Path("catalogue.yaml").write_text("stores: [")
    first, second = problems(changed("rank: 1", "rank: x"))
    assert first.startswith("tenure.yaml:27:20:")
    assert second.startswith("catalogue.yaml:1:10: not valid YAML")


# --- hostile and broken files


def test_forty_problems_are_reported_at_once_in_the_order_of_the_lines(folder: pathlib.Path) -> None:
    tiers = "".join(f"  tier{n}: {{rank: high}}\n" for n in range(40))
    found = problems(changed("  platinum: {rank: 1}\n", tiers))
    assert found == [
        f"tenure.yaml:{27 + n}:{17 + (n > 9)}: tiers.tier{n}.rank: must be a whole number, not text"
        for n in range(40)
    ]


def test_problems_come_in_the_order_of_the_lines_whatever_found_them(folder: pathlib.Path) -> None:
    text = (
        GOOD.replace("9102", "9101")
        .replace("rank: 1", "rank: x")
        .replace("version: 1", "version: 1\nversion: 1")
    )
    text = text.replace("regions: [eu-west-1]", "regions: [eu-west-2]").replace("kind: envoy", "kind: nginx")
    lines = [int(problem.split(":")[1]) for problem in problems(text)]
    assert lines == [2, 6, 23, 28, 30]


def test_a_key_given_twice_is_an_error(folder: pathlib.Path) -> None:
    text = changed("tiers:\n", "tiers:\n  gold: {rank: 2}\n  gold: {rank: 3}\n")
    assert problems(text) == ["tenure.yaml:28:3: tiers.gold: given twice (the first is on line 27)"]


def test_a_key_given_twice_in_different_forms_is_an_error(folder: pathlib.Path) -> None:
    (problem,) = problems(changed("version: 1", 'version: 1\n"version": 1'))
    assert problem == "tenure.yaml:2:1: version: given twice (the first is on line 1)"


def test_each_alias_is_refused_and_nothing_else_is_said_of_it(folder: pathlib.Path) -> None:
    text = changed("  platinum: {rank: 1}\n", "  platinum: &top {rank: 1}\n  gold: *top\n  bronze: *top\n")
    assert problems(text) == [
        "tenure.yaml:28:9: an alias ('*...') is not allowed: write the value out",
        "tenure.yaml:29:11: an alias ('*...') is not allowed: write the value out",
    ]


def test_an_alias_in_every_kind_of_place_is_only_an_alias(folder: pathlib.Path) -> None:
    anchored = changed("version: 1", "version: &v 1")
    for old, new in (
        ("{env: TENURE_TEST_CONTROL_DSN}", "*v "),
        ("kind: envoy", "kind: *v"),
        ("app: http://127.0.0.1:9101", "app: *v"),
        ("config_dir: envoy", "config_dir: *v"),
        ("infrastructure: v1", "infrastructure: *v"),
        ("{kind: redis, url: {file: secrets/blue-redis}}", "*v"),
        ("{kind: redis, url: {file: secrets/blue-redis}}", "{kind: *v , url: {file: a}}"),
        ("regions: [eu-west-1]", "regions: [*v ]"),
        ("{rank: 1}", "*v"),
        ("catalogue: catalogue.yaml", "catalogue: *v"),
    ):
        assert old in anchored
        found = problems(anchored.replace(old, new, 1))
        assert len(found) == 1, found
        assert found[0].endswith("an alias ('*...') is not allowed: write the value out")


def test_a_merge_key_is_refused(folder: pathlib.Path) -> None:
    text = changed(
        "  platinum: {rank: 1}\n", "  platinum: &top {rank: 1}\n  gold:\n    <<: *top\n    soak_h: 1\n"
    )
    found = problems(text)
    assert "tenure.yaml:29:9: an alias ('*...') is not allowed: write the value out" in found
    assert any("tiers.gold.rank: missing" in p for p in found)


def test_an_alias_bomb_is_refused_at_once(folder: pathlib.Path) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
    started = time.monotonic()
    found = problems(bomb + GOOD)
    assert time.monotonic() - started < 20
    assert sum("an alias" in p for p in found) == 110


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1:1: the file is empty"),
        ("# only a comment\n", "1:1: the file is empty"),
        ("---\n", "2:1: must be a mapping, but is empty"),
        ("[]", "1:1: must be a mapping, not a list"),
        ("text", "1:1: must be a mapping, not text"),
        ("- version: 1\n", "1:1: must be a mapping, not a list"),
        ("version: 1\n\ttiers: {}\n", "2:1: not valid YAML: a tab: YAML indents with spaces"),
        ("version: [1\n", "2:1: not valid YAML: "),
        ("version: 1\n  tiers: {}\n", "2:8: not valid YAML: mapping values are not allowed here"),
        (
            "version: 'a\n",
            "2:1: not valid YAML: found unexpected end of stream, while scanning a quoted scalar",
        ),
        (
            "version: 1\n---\nversion: 1\n",
            "2:1: not valid YAML: expected a single document in the stream, but found another",
        ),
        ("version: @\n", "1:10: not valid YAML: "),
        ("version: *nothing\n", "1:10: an alias ('*...') is not allowed"),
        ("[" * 1000, "1:33: not valid YAML: nested deeper than 32 levels"),
        ("{a: " * 1000, "not valid YAML: nested deeper than 32 levels"),
        ("- " * 1000, "not valid YAML: nested deeper than 32 levels"),
        (
            "a: !!python/object/apply:os.system [ls]\n",
            "1:4: a tag ('!...') is not allowed: write the plain value",
        ),
        ("a: !!int x\n", "1:4: a tag ('!...') is not allowed: write the plain value"),
        ("a: ! x\n", "1:4: a tag ('!...') is not allowed: write the plain value"),
        ("!!set {version}\n", "1:1: a tag ('!...') is not allowed: write the plain value"),
        ("? [a, b]\n: c\n", "1:3: a key must be text, not a list or a mapping"),
        ("a\x01b: c\n", "1:2: the character U+0001 is not allowed in YAML"),
        ('a: "\\0"\n', "1:4: a: contains a control character"),
        ('a: "\\ud800"\n', "1:4: a: contains a control character"),
        ('"\\e[31m": 1\n', "1:1: a key must not contain control characters"),
        (b"version: \xff\n", "1:10: the file is not UTF-8 text here"),
        ("version: 1\n".encode("utf-16"), "1:1: the file is not UTF-8 text here"),
        (b"#" * 2_000_000, "1:1: the file is larger than 1024 KiB"),
    ],
)
def test_a_file_that_is_no_estate_is_refused_at_its_place(
    folder: pathlib.Path, text: str | bytes, expected: str
) -> None:
    found = problems(text)
    assert any(expected in problem for problem in found), found
    assert all(problem.startswith("tenure.yaml:") for problem in found)


def test_a_file_that_is_not_there_is_said_to_be_missing(folder: pathlib.Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_estate(pathlib.Path("nosuch.yaml"))
    assert caught.value.problems == ("nosuch.yaml: cannot be read: No such file or directory",)


def test_a_hostile_key_cannot_break_the_report(folder: pathlib.Path) -> None:
    (problem,) = problems(changed("version: 1", f'version: 1\n"{"k" * 5000}\\n\\u2028": 1'))
    assert len(problem) < 300
    assert "\n" not in problem


# --- whatever is changed in a good file, it is either good or explained

VALUES: st.SearchStrategy[object] = st.sampled_from(
    [None, True, False, 0, -1, 1.5, 10**17, "", "x", "a b", "{tenant}:", "postgresql", [], {}, [1], {"a": 1},
     {"kind": "s3"}, {"kind": []}, {"env": "X"}, {"file": "x"}, [[]], {"kind": "redis", "url": {"env": "Y"}}]
)  # fmt: skip


def _paths(node: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if path:
        yield path
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _paths(value, (*path, key))
    elif isinstance(node, list):
        for n, value in enumerate(node):
            yield from _paths(value, (*path, n))


def _put(tree: object, path: tuple[str | int, ...], value: object) -> None:
    at = tree
    for part in path[:-1]:
        assert isinstance(at, dict | list)
        at = at[part]  # type: ignore[index]
    assert isinstance(at, dict | list)
    at[path[-1]] = value  # type: ignore[index]


def _explanation() -> tuple[str, ...]:
    """What is said about the files as they are; nothing if they are accepted. Any other error is a defect."""
    try:
        load_estate(pathlib.Path("tenure.yaml"))
    except ConfigurationError as error:
        return error.problems or ("an error without a problem",)
    return ()


@pytest.mark.parametrize("which", ["tenure.yaml", "catalogue.yaml"])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_in_any_place_is_accepted_or_explained(
    folder: pathlib.Path, which: str, data: st.DataObject
) -> None:
    texts = {"tenure.yaml": examples.ESTATE, "catalogue.yaml": examples.CATALOGUE}
    tree = yaml.safe_load(texts[which])
    for path in data.draw(st.lists(st.sampled_from(sorted(_paths(tree), key=str)), min_size=1, max_size=3)):
        try:
            _put(tree, path, data.draw(VALUES))
        except (AssertionError, KeyError, IndexError, TypeError):
            continue
    texts[which] = yaml.safe_dump(tree)
    for name, text in texts.items():
        pathlib.Path(name).write_text(text)
    for problem in _explanation():
        file, line, column, message = problem.split(":", 3)
        assert file in texts
        assert 1 <= int(line) <= texts[file].count("\n") + 1
        assert int(column) >= 1
        assert len(message) > 5
        assert "input should" not in message, f"pydantic's own words: {problem}"


def test_any_damage_to_the_text_is_explained(folder: pathlib.Path) -> None:
    chance = random.Random(20250118)
    for _ in range(150):
        text = list(examples.ESTATE)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(text))
            text[at] = chance.choice("\t{}[]:,&*!|>'\"%@`#-? \n\0x1")
        pathlib.Path("tenure.yaml").write_text("".join(text))
        assert "an error without a problem" not in _explanation()


def test_cells_come_in_the_order_of_the_file(folder: pathlib.Path) -> None:
    assert list(load().cells) == [CellName("blue"), CellName("green")]


NAMES = """\
  probe: {path: /healthz, header: x-served-by}
  dns:
    server: 127.0.0.1:5353
    zone: rag.localhost
    key: tenure-update
    secret: {file: secrets/dns-key}
    gateway: 10.0.0.1
    cells: {blue: "http://10.0.0.2:8080", green: "https://10.0.0.3"}
  domain: rag.localhost
"""


def with_names(old: str = "", new: str = "") -> str:
    assert old in NAMES
    return changed("  domain: rag.localhost\n", NAMES.replace(old, new, 1))


def test_the_names_of_the_tenants_hosts_are_read(folder: pathlib.Path) -> None:
    dns = load(with_names()).gateway.dns
    assert dns is not None
    assert (dns.target(CellName("blue")), dns.target(CellName("green"))) == ("10.0.0.2", "10.0.0.3")
    assert (dns.record, dns.ttl_s, dns.algorithm) == ("A", 30, "hmac-sha256")
    with pytest.raises(ConfigurationError) as missing:
        load(with_names()).check_secrets()
    assert any("gateway.dns.secret" in problem for problem in missing.value.problems)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("  probe: {path: /healthz, header: x-served-by}\n", "", "gateway.probe: missing: dns is given"),
        ("/healthz", "healthz", "gateway.probe.path: must be a path on the app"),
        ("127.0.0.1:5353", "ns.example.com", "gateway.dns.server: must be an IP address"),
        ("127.0.0.1:5353", "127.0.0.1:99999", "gateway.dns.server: must be an IP address"),
        ("zone: rag.localhost", "zone: example.com", "gateway.dns.zone: does not hold the gateway's domain"),
        ("blue: ", "bleu: ", "gateway.dns.cells.bleu: there is no such cell; did you mean 'blue'"),
        ("blue: ", "bleu: ", "gateway.dns.cells.blue: missing: every cell has an endpoint"),
        (
            "10.0.0.3",
            "10.0.0.2",
            "gateway.dns.cells.green: leads to the same place as gateway.dns.cells.blue",
        ),
        ("10.0.0.2", "10.0.0.1", "gateway.dns.cells.blue: leads to the same place as gateway.dns.gateway"),
        ("10.0.0.1", "lb.rag.localhost", "gateway.dns.gateway: 'lb.rag.localhost' cannot be held by"),
        ("secret: {file: secrets/dns-key}", "secret: c2VjcmV0", "gateway.dns.secret: a secret must not be"),
    ],
)
def test_names_that_could_not_lead_anybody_are_refused(
    folder: pathlib.Path, old: str, new: str, problem: str
) -> None:
    assert any(problem in found for found in problems(with_names(old, new))), problems(with_names(old, new))


def test_a_store_names_its_tenants_databases_where_the_catalogue_says_there_are_some(
    folder: pathlib.Path,
) -> None:
    apart = CATALOGUE.replace("    tenant_column: tenant_id\n", "    isolation: database\n")
    (folder / "catalogue.yaml").write_text(apart)
    missing = "database: missing: in the catalogue the store has isolation: database"
    assert [p.partition("stores.postgres.")[2] for p in problems(GOOD)] == [missing, missing]
    named = GOOD.replace("kind: postgresql,", "kind: postgresql, database: 'app_{tenant}',")
    store = load(named).cell("blue").stores[StoreName("postgres")]
    assert isinstance(store, PostgresSettings)
    assert store.database == "app_{tenant}"
    assert "must contain {tenant} exactly once" in problems(named.replace("app_{tenant}", "app", 1))[0]
    (folder / "catalogue.yaml").write_text(CATALOGUE)
    assert "needs isolation: database in the catalogue; there it is shared" in problems(named)[0]
