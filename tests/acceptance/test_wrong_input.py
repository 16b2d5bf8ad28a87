"""Wrong input to the real command line: a clear error, the documented exit code, and nothing changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.estate import TestEstate

TENANT = "wrong-input"
HOSTILE_IDS = [
    "'; drop table tenure.tenants; --",
    'quo"ted',
    "wild*card",
    "wild%card",
    "sla/sh",
    "../../etc/passwd",
    "",
    "new\nline",
    "x" * 10_000,
]
COMMANDS = ("rollback", "complete", "verify", "tenant show", "tenant add", "tenant hold --release")


@pytest.fixture(scope="module")
def estate(cells_estate: TestEstate) -> TestEstate:
    cells_estate.add_tenant(TENANT)
    return cells_estate


@pytest.mark.parametrize(
    ("command", "tenant"),
    [
        *(("migrate", tenant) for tenant in HOSTILE_IDS),
        *((command, HOSTILE_IDS[0]) for command in COMMANDS),
    ],
)
def test_a_hostile_tenant_id_is_a_usage_error(estate: TestEstate, command: str, tenant: str) -> None:
    extra = {
        "migrate": ["--to", "green"],
        "complete": ["--yes", tenant],
        "tenant add": ["--cell", "blue", "--tier", "gold"],
    }
    result = estate.command(*command.split(), *extra.get(command, []), "--", tenant)
    assert result.exit_code == 2, result.stderr
    assert "is not a tenant id" in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr) < 1000


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (["migrate", "nobody", "--to", "green"], 2, "nobody"),
        (["migrate", TENANT, "--to", "mars"], 2, "mars"),
        (["migrate", TENANT, "--to", "MARS;"], 2, "not a cell name"),
        (["migrate", TENANT, "--to", "blue"], 2, "already"),
        (["migrate", TENANT, "--to", "green", "--apply", "0000"], 6, "plan has changed"),
        (["migrate", TENANT], 2, "--to"),
        (["rollback", TENANT], 4, "nothing to roll back"),
        (["complete", TENANT, "--yes", TENANT], 4, "nothing to complete"),
        (["verify", TENANT], 4, "nothing to verify"),
        (["op", "show", "op_nothing"], 2, "op_nothing"),
        (["op", "resume", "'; --"], 2, "'; --"),
        (["tenant", "add", TENANT, "--cell", "blue", "--tier", "gold"], 2, TENANT),
        (["tenant", "add", "new", "--cell", "blue", "--tier", "copper"], 2, "copper"),
        (["tenant", "add", "new", "--cell", "blue", "--tier", "gold", "--residency", "moon"], 2, "moon"),
        (["tenant", "hold", TENANT], 2, "--reason"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_wrong_names_and_options_are_named(
    estate: TestEstate, arguments: list[str], exit_code: int, words: str
) -> None:
    before = estate.digests(TENANT)
    result = estate.command(*arguments)
    assert result.exit_code == exit_code, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert estate.digests(TENANT) == before
    assert estate.left_behind(TENANT) == []


def test_residency_refuses_the_plan_and_the_move(estate: TestEstate) -> None:
    estate.add_tenant("stays-in-eu", residency="eu-only")
    planned = estate.command("migrate", "stays-in-eu", "--to", "green", "--plan", "--json")
    assert planned.exit_code == 4
    assert [f["code"] for f in planned.json["findings"] if f["severity"] == "refusal"] == ["residency"]
    moved = estate.command("migrate", "stays-in-eu", "--to", "green")
    assert moved.exit_code == 4
    assert "eu-west-1" in moved.stderr
    assert estate.left_behind("stays-in-eu") == []


def test_a_legal_hold_refuses_until_it_is_released(estate: TestEstate) -> None:
    assert estate.command("tenant", "hold", TENANT, "--reason", "case 17").exit_code == 0
    refused = estate.command("migrate", TENANT, "--to", "green")
    assert refused.exit_code == 4
    assert "case 17" in refused.stderr
    assert estate.command("tenant", "hold", TENANT, "--release").exit_code == 0
    assert estate.command("migrate", TENANT, "--to", "green", "--plan").exit_code == 0


def test_complete_wants_the_name_again(estate: TestEstate) -> None:
    estate.add_tenant("name-again")
    assert estate.command("migrate", "name-again", "--to", "green").exit_code == 0
    declined = estate.command("complete", "name-again", "--yes", "something-else")
    assert declined.exit_code == 3
    assert estate.items_in("name-again", "blue") > 0
    assert estate.command("complete", "name-again", "--yes", "name-again").exit_code == 0
    assert estate.items_in("name-again", "blue") == 0
    assert estate.left_behind("name-again") == []


@pytest.fixture
def copied_config(estate: TestEstate, tmp_path: Path) -> Path:
    """A copy of the estate's configuration that a test may damage."""
    shutil.copytree(
        estate.config.parent / "etc", tmp_path / "etc", ignore=shutil.ignore_patterns("load", "app")
    )
    return Path(shutil.copy(estate.config, tmp_path / "tenure.yaml"))


def test_a_bad_file_gets_every_error_at_once_with_its_line(estate: TestEstate, copied_config: Path) -> None:
    text = copied_config.read_text(encoding="utf-8")
    text = text.replace(
        "region: eu-west-1\n    infrastructure", "regoin: eu-west-1\n    infrastructure", 1
    ).replace("budget_ms: 4000", "budget_ms: soon")
    copied_config.write_text(text, encoding="utf-8")
    result = estate.command("tenant", "list", config=copied_config)
    assert result.exit_code == 2
    lines = [line for line in result.stderr.splitlines() if "tenure.yaml:" in line]
    assert any("regoin" in line for line in lines)
    assert any("budget_ms" in line for line in lines)
    numbers = [int(line.split("tenure.yaml:")[1].split(":")[0]) for line in lines]
    source = text.splitlines()
    assert any("regoin" in source[n - 1] or "region" in source[n - 1] for n in numbers)


def test_yaml_that_is_none_gets_its_line(estate: TestEstate, copied_config: Path) -> None:
    copied_config.write_text("version: 1\ncells: [\n", encoding="utf-8")
    result = estate.command("tenant", "list", config=copied_config)
    assert result.exit_code == 2
    assert "tenure.yaml:" in result.stderr
    missing = estate.command("tenant", "list", config=copied_config.with_name("absent.yaml"))
    assert missing.exit_code == 2
    assert "absent.yaml" in missing.stderr


@pytest.mark.parametrize("secret", ["control", "green-postgres", "green-redis", "green-s3-secret-key"])
def test_a_wrong_password_is_said_and_changes_nothing(
    estate: TestEstate, copied_config: Path, secret: str
) -> None:
    path = copied_config.parent / "etc" / "secrets" / secret
    value = path.read_text(encoding="utf-8").strip()
    if "://" in value:
        scheme, rest = value.split("://", 1)
        user, where = rest.rsplit("@", 1)
        damaged = f"{scheme}://{user.split(':', 1)[0]}:wrong@{where}"
    else:
        damaged = "wrong" * 8
    path.write_text(damaged, encoding="utf-8")
    before = estate.digests(TENANT)
    result = estate.command("migrate", TENANT, "--to", "green", config=copied_config)
    assert result.exit_code == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert "wrong" not in result.stderr.replace("wrong password", "")
    assert value not in result.stderr
    assert estate.digests(TENANT) == before
    assert estate.left_behind(TENANT) == []


@pytest.mark.parametrize("secret", ["control", "green-postgres", "green-redis"])
def test_an_unreachable_store_is_named_and_changes_nothing(
    estate: TestEstate, copied_config: Path, secret: str
) -> None:
    path = copied_config.parent / "etc" / "secrets" / secret
    head, tail = path.read_text(encoding="utf-8").strip().rsplit(":", 1)
    path.write_text(f"{head}:1{tail[len(tail.split('/')[0]) :]}", encoding="utf-8")
    result = estate.command("migrate", TENANT, "--to", "green", config=copied_config)
    assert result.exit_code == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert "hint:" in result.stderr
    assert estate.left_behind(TENANT) == []
