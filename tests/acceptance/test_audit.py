"""`tenure audit` through the real command line, on the control database of an estate."""

from __future__ import annotations

from pathlib import Path

from tenure.estate.config import load_estate
from tenure.wiring import open_registry
from tests.estate import TestEstate


def change(estate: TestEstate, statement: str) -> None:
    registry = open_registry(load_estate(estate.config))
    try:
        with registry.database.transaction() as connection:
            connection.execute("alter table registry.events disable trigger user")
            connection.execute(statement.encode())
            connection.execute("alter table registry.events enable trigger user")
    finally:
        registry.close()


def test_the_log_says_what_was_done_and_a_changed_entry_is_named(
    cells_estate: TestEstate, tmp_path: Path
) -> None:
    estate, tenant = cells_estate, "audited"
    estate.add_tenant(tenant)
    assert estate.command("tenant", "tier", tenant, "platinum").exit_code == 0
    entries = estate.command("audit", "show", tenant, "--json").json["entries"]
    assert [e["tenant"] for e in entries] == [tenant] * len(entries)
    assert entries[-1]["data"]["tier"] == "platinum"
    seq = entries[-1]["seq"]
    shown = estate.command("audit", "show", tenant, "--limit", "1", "--since", str(seq - 1)).stdout
    assert f"next: tenure audit show {tenant} --since {seq} --limit 1" in shown
    heads = tmp_path / "heads"
    heads.write_text(estate.command("audit", "head").stdout, "utf-8")
    good = estate.command("audit", "verify", "--heads-from", str(heads), "--json")
    assert good.exit_code == 0, good.stderr
    assert good.json["breaks"] == []
    assert good.json["entries"] >= len(entries)
    try:
        change(estate, f"update registry.events set actor = actor || '!' where seq = {seq}")
        bad = estate.command("audit", "verify")
        assert bad.exit_code == 5
        assert f"entry {seq} " in bad.stderr
        told = estate.command("audit", "verify", "--json")
        assert (told.exit_code, [b["seq"] for b in told.json["breaks"]]) == (5, [seq])
    finally:
        change(estate, f"update registry.events set actor = rtrim(actor, '!') where seq = {seq}")
    assert estate.command("audit", "verify", "--heads-from", str(heads)).exit_code == 0


def test_what_cannot_be_right_is_refused(cells_estate: TestEstate, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("\n", "utf-8")
    for wrong in (
        ("verify", "--head", "nonsense"),
        ("verify", "--heads-from", str(empty)),
        ("show", "--operation", "op_none"),
        ("show", "Not A Tenant!"),
    ):
        assert cells_estate.command("audit", *wrong).exit_code == 2, wrong
