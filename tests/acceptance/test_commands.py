"""The command line as scripts rely on it: JSON with a schema version, next steps, help, the estate's own commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import click
import psycopg
import pytest

from tenure.cli.main import tenure
from tests.estate import TestEstate


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name, command in group.commands.items():
        found += commands(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]
    return found


@pytest.mark.parametrize("path", commands(tenure), ids=" ".join)
def test_every_command_has_help_that_says_what_it_does(path: tuple[str, ...]) -> None:
    command: click.Command = tenure
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.opts


@pytest.mark.parametrize("path", commands(tenure), ids=" ".join)
def test_every_command_is_in_the_reference(path: tuple[str, ...]) -> None:
    reference = Path(__file__).parents[2] / "docs" / "reference" / "commands.md"
    assert f"`tenure {' '.join(path)}" in reference.read_text(encoding="utf-8")


def test_json_answers_carry_a_schema_version_and_next_steps(cells_estate: TestEstate) -> None:
    cells_estate.add_tenant("jsonish")
    for arguments in (
        ("tenant", "list"),
        ("tenant", "show", "jsonish"),
        ("op", "list"),
        ("tenant", "tier", "jsonish", "gold"),
    ):
        document = cells_estate.command(*arguments, "--json").json
        assert document["schema_version"] == 1
        assert document["kind"]
        assert isinstance(document["next_steps"], list)
    assert cells_estate.command("tenant", "show", "jsonish").stdout.startswith(
        "Reads and writes of jsonish go to blue"
    )


def test_init_prepares_an_empty_control_database_and_says_what_a_missing_schema_needs(
    cells_estate: TestEstate, tmp_path: Path
) -> None:
    shutil.copytree(
        cells_estate.config.parent / "etc", tmp_path / "etc", ignore=shutil.ignore_patterns("load", "app")
    )
    config = Path(shutil.copy(cells_estate.config, tmp_path / "tenure.yaml"))
    secret = tmp_path / "etc" / "secrets" / "control"
    dsn = secret.read_text(encoding="utf-8").strip()
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create database another_control")
    secret.write_text(dsn.rsplit("/", 1)[0] + "/another_control", encoding="utf-8")
    before = cells_estate.command("tenant", "list", config=config)
    assert before.exit_code == 2
    assert "tenure estate init" in before.stderr
    assert cells_estate.command("estate", "init", config=config).exit_code == 0
    assert cells_estate.command("tenant", "list", "--json", config=config).json["tenants"] == []
    config.write_text(
        config.read_text(encoding="utf-8") + "approval: {kinds: [complete]}\n", encoding="utf-8"
    )
    again = cells_estate.command("estate", "init", "--json", config=config)
    assert again.json["applied"] == []
    assert again.json["approval_rules_published"] is True
    with psycopg.connect(secret.read_text(encoding="utf-8").strip()) as conn:
        assert conn.execute("select tier, kind, ttl_s from registry.approval_rules").fetchall() == [
            ("", "complete", 86400)
        ]


def test_the_local_estate_goes_up_says_where_it_is_and_comes_down() -> None:
    folder = Path(f"/tmp/tenure-estate-command-{os.getpid()}")
    run = [sys.executable, "-m", "tenure.cli.main"]

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*run, "estate", *arguments, "--data", str(folder)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    try:
        up = call("up", "--workers", "1")
        assert up.returncode == 0, up.stderr
        assert str(folder / "tenure.yaml") in up.stdout
        assert "1 worker" in up.stdout
        status = call("status")
        assert "envoy" in status.stdout
        assert "ready" in status.stdout
        assert "worker-1" in status.stdout
        assert "scheduler" in status.stdout
        second = call("up")
        assert second.returncode == 4, second.stderr
        config = str(folder / "tenure.yaml")
        added = subprocess.run(
            [*run, "-c", config, "tenant", "add", "acme", "--cell", "blue", "--tier", "gold"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert added.returncode == 0, added.stderr
    finally:
        down = call("down", "--remove")
    assert down.returncode == 0, down.stderr
    assert not folder.exists()
    commands = (entry / "cmdline" for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    assert not any(os.fsencode(folder) in _read(command) for command in commands), "a worker is left"


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""
