"""Erasures through the real command line: nothing is left of the tenant and everything of its neighbours, what is found
withholds the certificate, and a certificate is believed only as it was signed."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import yaml

from tenure.engine.observer import nobody
from tenure.errors import UnknownName
from tenure.model.names import CellName, StoreName
from tenure.model.operation import Operation, OperationState
from tenure.model.search import FindPage
from tenure.operations.erasing import Wish
from tests.backing import FIRST, SECOND, objects_in, shelf
from tests.estate import CommandResult, TestEstate

NOTES = "legacy_notes"


def erased(
    estate: TestEstate, tenant: str, request: str, *more: str, config: Path | None = None
) -> CommandResult:
    return estate.command(
        "erase", "tenant", tenant, "--request", request, "--yes", tenant, "--json", *more, config=config
    )


def certificate_of(estate: TestEstate, request: str) -> dict[str, object]:
    shown = estate.command("certificate", "show", request, "--json")
    assert shown.exit_code == 0, shown.stderr
    found: dict[str, object] = shown.json["certificate"]
    return found


def test_a_tenant_is_erased_beside_its_neighbours_and_no_backup_brings_it_back(
    cells_estate: TestEstate, tmp_path: Path
) -> None:
    tenant, busy, alike = "departed", "departed-not", "departed2"
    cells_estate.add_tenant(tenant, tier="platinum")
    cells_estate.add_tenant(busy)
    cells_estate.add_tenant(alike)
    made = cells_estate.command("backup", "create", tenant, "--json")
    backup = made.json["result"]["backup"]
    kept = cells_estate.command("backup", "create", alike, "--json").json["result"]["backup"]
    quiet = cells_estate.digests(alike)
    before = cells_estate.items_in(tenant, "blue")
    assert before > 0
    plan = cells_estate.command("erase", "tenant", tenant, "--plan", "--json")
    assert plan.exit_code == 0, plan.stderr
    assert plan.json["backups"] == 2
    with cells_estate.load(busy, folder=tmp_path) as load:
        done = erased(cells_estate, tenant, "gdpr_req_1", "--apply", plan.json["digest"])
        counts, report = load.stats(), cells_estate.lost(load)
    assert done.exit_code == 0, done.stderr
    assert done.json["state"] == "succeeded"
    assert counts.writes_acked > 0
    assert counts.failed == 0
    assert report.clean, report
    # Nothing of it is left, and everything of the neighbours.
    assert all(items == 0 for items, _ in cells_estate.digests(tenant).values())
    assert cells_estate.digests(alike) == quiet
    for region in (FIRST, SECOND):
        assert objects_in(cells_estate, tenant, region) == set()
    assert kept in shelf(cells_estate, alike)[0]
    with cells_estate.service() as service:
        assert tenant not in {t.id for t, _ in service.tenants()}
    # What the certificate says is what there was, and what there is.
    certificate = certificate_of(cells_estate, "gdpr_req_1")
    assert certificate["state"] == "final"
    stores = certificate["stores"]
    assert isinstance(stores, list)
    counted = sum(s["before"]["items"] for s in stores if s["level"] == "logical")
    assert counted == before
    assert all(s["after"]["items"] == 0 and s["searched"]["items"] >= 0 for s in stores)
    backups = certificate["backups"]
    assert isinstance(backups, list)
    assert {(b["backup"], b["region"]) for b in backups} == {(backup, FIRST), (backup, SECOND)}
    assert all("tried and failed" in b["proof"] for b in backups)
    # Nothing brings it back.
    for wish in ((backup,), (backup, "--as", "departed-again")):
        refused = cells_estate.command("restore", *wish, "--yes", tenant)
        assert refused.exit_code == 4, (wish, refused.stderr)
    again = cells_estate.command("tenant", "add", tenant, "--cell", "blue", "--tier", "gold")
    assert again.exit_code == 4
    assert "was erased on" in again.stderr
    # The journal has it, whole.
    assert cells_estate.command("audit", "verify").exit_code == 0
    log = cells_estate.command("audit", "show", tenant, "--json").json["entries"]
    assert {"inventoried", "keys_destroyed", "erased", "certificate_issued"} <= {e["action"] for e in log}


def test_a_certificate_is_believed_only_as_it_was_signed(cells_estate: TestEstate, tmp_path: Path) -> None:
    tenant = "signed-off"
    cells_estate.add_tenant(tenant)
    assert erased(cells_estate, tenant, "gdpr_req_2").exit_code == 0
    file = tmp_path / "certificate.json"
    shown = cells_estate.command("certificate", "show", "gdpr_req_2", "--out", str(file), "--json")
    pdf = tmp_path / "certificate.pdf"
    for code in (0, 2):  # the second time there is such a file
        assert cells_estate.command("certificate", "show", "gdpr_req_2", "--pdf", str(pdf)).exit_code == code
    assert pdf.read_bytes().startswith(b"%PDF-")
    assert tenant.encode() in pdf.read_bytes()
    key = cells_estate.command("certificate", "key", "--json").json["public"]
    assert shown.json["key"]["public"] == key
    nowhere = tmp_path / "none.yaml"  # offline: there is no estate to ask
    good = cells_estate.command("certificate", "verify", str(file), "--key", key, "--json", config=nowhere)
    assert good.exit_code == 0, good.stderr
    assert good.json["certificate"]["request"]["tenant"] == tenant
    words = cells_estate.command("certificate", "verify", str(file), "--key", key, config=nowhere).stdout
    assert "CERTIFICATE OF ERASURE" in words
    other = base64.b64encode(bytes(range(32))).decode()
    wrong = cells_estate.command("certificate", "verify", str(file), "--key", other, config=nowhere)
    assert wrong.exit_code == 5
    assert "no key that is trusted" in wrong.stderr
    changed = tmp_path / "changed.json"
    envelope = json.loads(file.read_text())
    payload = json.loads(base64.b64decode(envelope["payload"]))
    payload["stores"] = payload["stores"][1:]
    changed.write_text(
        json.dumps({**envelope, "payload": base64.b64encode(json.dumps(payload).encode()).decode()})
    )
    tampered = cells_estate.command("certificate", "verify", str(changed), "--key", key, config=nowhere)
    assert tampered.exit_code == 5
    assert "it was changed" in tampered.stderr
    assert cells_estate.command("certificate", "show", "gdpr_req_2", "--out", str(file)).exit_code == 2
    revoked = cells_estate.command(
        "certificate", "revoke", "gdpr_req_2", "--because", "residue turned up", "--json"
    )
    assert revoked.exit_code == 0
    assert "REVOKED: residue turned up" in cells_estate.command("certificate", "show", "gdpr_req_2").stdout


def test_what_nobody_documented_withholds_the_certificate_until_it_is_gone(cells_estate: TestEstate) -> None:
    tenant = "leaves-notes"
    cells_estate.add_tenant(tenant)
    with cells_estate.service() as service:
        service.add_tenant(f"{tenant}-2", cell="blue", tier="gold", host=None, residency=None)
    with psycopg.connect(cells_estate.local.cells[CellName("blue")].dsn, autocommit=True) as connection:
        connection.execute(f"create table public.{NOTES} (id bigint primary key, who text, body text)")
        connection.execute(
            f"insert into public.{NOTES} values (1, %s, 'x'), (2, 'leaves-notes-2', 'x')", (tenant,)
        )
        try:
            asked = erased(cells_estate, tenant, "gdpr_req_3")
            assert asked.exit_code == 10, asked.stderr
            assert f"public.{NOTES}" in asked.stderr
            operation = asked.json["operation"]
            assert cells_estate.command("certificate", "show", "gdpr_req_3").exit_code == 2
            (one,) = cells_estate.command("erase", "status", "gdpr_req_3", "--json").json["requests"]
            assert NOTES in one["waits_for"]
            assert one["certificate"] is None
            sentence = cells_estate.command("tenant", "show", tenant, "--json").json["sentence"]
            assert "closed for good" in sentence
            # Nobody takes it back any more, and looking again finds it again.
            assert cells_estate.command("erase", "cancel", "gdpr_req_3").exit_code != 0
            assert cells_estate.command("op", "confirm", operation).exit_code == 10
            log = cells_estate.command("audit", "show", tenant, "--json").json["entries"]
            found = [e for e in log if e["action"] == "residue_found"]
            assert len(found) == 2
            assert [place["items"] for place in found[0]["data"]["places"]] == [1]
            assert found[0]["data"]["places"][0]["entry"], "what the catalogue could say is proposed"
            connection.execute(f"delete from public.{NOTES} where who = %s", (tenant,))
            confirmed = cells_estate.command("op", "confirm", operation, "--json")
            assert confirmed.exit_code == 0, confirmed.stderr
            assert connection.execute(f"select count(*) from public.{NOTES}").fetchone() == (1,)
        finally:
            connection.execute(f"drop table public.{NOTES}")
    stores = certificate_of(cells_estate, "gdpr_req_3")["stores"]
    assert isinstance(stores, list)
    assert sum(s["before"]["items"] for s in stores) > 0, "a repeated erasure must not certify what it found"


def test_a_place_that_is_named_afterwards_is_erased_too(cells_estate: TestEstate, tmp_path: Path) -> None:
    tenant = "names-notes"
    cells_estate.add_tenant(tenant)
    estate = yaml.safe_load(cells_estate.config.read_text())
    catalogue = cells_estate.config.parent / estate["catalogue"]
    knows = yaml.safe_load(catalogue.read_text())
    with psycopg.connect(cells_estate.local.cells[CellName("blue")].dsn, autocommit=True) as connection:
        for cell in cells_estate.local.cells.values():
            with psycopg.connect(cell.dsn, autocommit=True) as there:
                there.execute(
                    f"create table public.{NOTES} (tenant_id text, id bigint, body text, primary key (tenant_id, id))"
                )
        connection.execute(
            f"insert into public.{NOTES} values (%s, 1, 'x'), ('names-notes-2', 2, 'x')", (tenant,)
        )
        try:
            asked = erased(cells_estate, tenant, "gdpr_req_4")
            assert asked.exit_code == 10, asked.stderr
            log = cells_estate.command("audit", "show", tenant, "--json").json["entries"]
            (found,) = [e for e in log if e["action"] == "residue_found"]
            proposed = found["data"]["places"][0]["entry"]
            (its,) = proposed.values()
            knows["stores"]["postgres"].setdefault("tables", {}).update(its["tables"])
            named = catalogue.with_name("named.yaml")
            named.write_text(yaml.safe_dump(knows))
            config = cells_estate.config.with_name("named-estate.yaml")
            config.write_text(yaml.safe_dump({**estate, "catalogue": str(named)}))
            confirmed = cells_estate.command(
                "op", "confirm", asked.json["operation"], "--json", config=config
            )
            assert confirmed.exit_code == 0, confirmed.stderr
            assert connection.execute(f"select tenant_id from public.{NOTES}").fetchall() == [
                ("names-notes-2",)
            ]
        finally:
            for cell in cells_estate.local.cells.values():
                with psycopg.connect(cell.dsn, autocommit=True) as there:
                    there.execute(f"drop table public.{NOTES}")


def test_it_waits_out_its_cooling_off_period_and_can_be_cancelled(cells_estate: TestEstate) -> None:
    tenant = "thinks-again"
    cells_estate.add_tenant(tenant)
    before = cells_estate.digests(tenant)
    estate = yaml.safe_load(cells_estate.config.read_text())
    estate["tiers"]["gold"]["cooling_off_h"] = 100
    config = cells_estate.config.with_name("cooling.yaml")
    config.write_text(yaml.safe_dump(estate))
    waiting = erased(cells_estate, tenant, "gdpr_req_5", config=config)
    assert waiting.exit_code == 0, waiting.stderr
    assert waiting.json["state"] == "parked"
    assert "due" in waiting.json["sentence"]
    assert erased(cells_estate, tenant, "gdpr_req_5").exit_code == 2
    assert cells_estate.command("erase", "cancel", "gdpr_req_5", "--json").json["state"] == "aborted"
    assert cells_estate.digests(tenant) == before
    assert cells_estate.left_behind(tenant) == []
    route = cells_estate.command("tenant", "show", tenant, "--json").json
    assert "go to blue" in route["sentence"]
    # A request that was withdrawn may be made again, but not against a hold.
    held = cells_estate.command("erase", "hold", tenant, "--because", "a claim in court", "--json")
    assert held.json["because"] == "a claim in court"
    refused = erased(cells_estate, tenant, "gdpr_req_5")
    assert refused.exit_code == 4
    assert "a claim in court" in refused.stderr
    assert cells_estate.digests(tenant) == before
    assert cells_estate.command("erase", "release", tenant).exit_code == 0
    assert erased(cells_estate, tenant, "gdpr_req_5").exit_code == 0
    states = [
        r["state"] for r in cells_estate.command("erase", "status", "gdpr_req_5", "--json").json["requests"]
    ]
    assert sorted(states) == ["aborted", "succeeded"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--request", "ann@example.com"), "must not be an address"),
        (("--request", " x"), "no reference of a request"),
        (("--request", "r", "--received", "2999-01-01"), "which is to come"),
        (("--request", "r", "--received", "2026-01-31", "--due", "2026-08-01"), "not within 3 months"),
        (("--request", "r", "--apply", "0123456789abcdef"), "the plan has changed"),
    ],
)
def test_a_request_that_is_none_changes_nothing(
    cells_estate: TestEstate, given: tuple[str, ...], told: str
) -> None:
    tenant = "stays-here"
    with cells_estate.service() as service:
        known = tenant in {t.id for t, _ in service.tenants()}
    if not known:
        cells_estate.add_tenant(tenant)
    before = cells_estate.digests(tenant)
    refused = cells_estate.command("erase", "tenant", tenant, "--yes", tenant, *given)
    assert refused.exit_code in {2, 6}, refused.stderr
    assert told in refused.stderr
    assert cells_estate.digests(tenant) == before
    assert cells_estate.command("erase", "tenant", tenant, "--request", "r", "--yes", "other").exit_code == 3
    assert (
        cells_estate.command("erase", "tenant", "nobody", "--request", "r", "--yes", "nobody").exit_code == 2
    )


def test_a_hold_that_comes_while_it_waits_postpones_it_until_it_is_lifted(
    cells_estate: TestEstate, wait_until: Callable[..., None]
) -> None:
    tenant = "held-back"
    cells_estate.add_tenant(tenant)
    before = cells_estate.digests(tenant)
    estate = yaml.safe_load(cells_estate.config.read_text())
    estate["tiers"]["gold"]["cooling_off_h"] = 2 / 3600
    config = cells_estate.config.with_name("short.yaml")
    config.write_text(yaml.safe_dump(estate))
    waiting = erased(cells_estate, tenant, "gdpr_req_6", config=config)
    assert waiting.json["state"] == "parked", waiting.stderr
    assert cells_estate.command("erase", "hold", tenant, "--because", "a claim").exit_code == 0
    goes_on: list[CommandResult] = []
    resume = threading.Thread(
        target=lambda: goes_on.append(
            cells_estate.command("op", "resume", waiting.json["operation"], "--json", config=config)
        )
    )
    resume.start()

    def reason() -> bool:
        with cells_estate.service() as service:
            parked = service.events(waiting.json["operation"])
        return any("postponed by a legal hold" in str(event) for event in parked)

    wait_until(reason, "the hold to be seen")
    assert cells_estate.digests(tenant) == before
    assert cells_estate.command("erase", "release", tenant).exit_code == 0
    resume.join(60)
    assert goes_on[0].exit_code == 0, goes_on[0].stderr
    assert goes_on[0].json["state"] == "succeeded"
    assert cells_estate.items_in(tenant, "blue") == 0


def test_a_second_person_approves_exactly_the_plan_that_he_saw(cells_estate: TestEstate) -> None:
    tenant = "four-eyes"
    cells_estate.add_tenant(tenant)
    before = cells_estate.digests(tenant)
    estate = yaml.safe_load(cells_estate.config.read_text())
    estate["approval"] = {"kinds": ["erase"]}
    config = cells_estate.config.with_name("approving.yaml")
    config.write_text(yaml.safe_dump(estate))
    proposed = erased(cells_estate, tenant, "gdpr_req_7", config=config)
    assert proposed.exit_code == 10, proposed.stderr
    operation, digest = proposed.json["operation"], proposed.json["plan_digest"]
    assert cells_estate.command("op", "resume", operation, config=config).exit_code == 10
    assert cells_estate.digests(tenant) == before
    own = cells_estate.command("op", "approve", operation, "--digest", digest, config=config)
    assert own.exit_code == 4
    other = {"LOGNAME": "another"}
    wrong = cells_estate.command("op", "approve", operation, "--digest", "0" * 16, config=config, env=other)
    assert wrong.exit_code == 6
    given = cells_estate.command("op", "approve", operation, "--digest", digest, config=config, env=other)
    assert given.exit_code == 0, given.stderr
    assert "point of no return" in given.stdout
    done = cells_estate.command("op", "resume", operation, "--json", config=config)
    assert done.exit_code == 0, done.stderr
    assert certificate_of(cells_estate, "gdpr_req_7")["state"] == "final"


STORES = (
    "postgres",
    *(pytest.param(name, marks=pytest.mark.variant) for name in ("redis", "objects", "vault")),
)


@pytest.mark.parametrize("part", ["eraser", "search"])
@pytest.mark.parametrize("store", STORES)
def test_without_any_eraser_or_any_search_there_is_no_certificate(
    cells_estate: TestEstate, monkeypatch: pytest.MonkeyPatch, store: str, part: str
) -> None:
    """Each is taken out in turn; what it should have done is done by nobody else."""
    tenant = f"no-{part}-of-{store}"
    cells_estate.add_tenant(tenant)
    assert cells_estate.command("backup", "create", tenant).exit_code == 0
    monkeypatch.setattr("tenure.operations.erase.erase.SETTLE_S", 0.0)
    wish = Wish(request=tenant, tenant=tenant, role="processor", ground="end-of-contract")
    with cells_estate.service() as service:
        of = type(service._deps.factory.store(CellName("blue"), StoreName(store)))
        with monkeypatch.context() as broken:
            if part == "eraser":
                broken.setattr(of, "erase", lambda self, fence, *, progress=None: 0)
            else:
                nothing = FindPage(items=0, size_bytes=0, cursor=None)
                broken.setattr(of, "find", lambda self, search, *, cursor=None, pace=None: iter([nothing]))
            done = service.erasures.erase(wish, apply=None, observer=nobody)
            assert done.state is not OperationState.SUCCEEDED
            with pytest.raises(UnknownName):
                service.erasures.certificate(tenant)
        told = str(done.error or done.data.get("question"))
        assert store in told
        (status,) = service.erasures.board(tenant)
        if part == "search":  # what could not be shown to be gone was never touched
            assert not done.committed
            assert done.state is OperationState.ABORTED
            again: Operation | None = service.erasures.erase(wish, apply=None, observer=nobody)
        else:
            assert done.committed
            assert status.open
            assert store in status.waits_for
            again = service.confirm(done.id, nobody) if store != "vault" else None
    if again is not None:
        assert again.state is OperationState.SUCCEEDED, again.error
        assert certificate_of(cells_estate, tenant)["state"] == "final"


def test_residue_that_turns_up_later_revokes_the_certificate_and_a_corrected_one_follows(
    cells_estate: TestEstate,
) -> None:
    tenant = "turns-up"
    cells_estate.add_tenant(tenant)
    assert cells_estate.command("erase", "recheck", "gdpr_req_8").exit_code == 2
    assert erased(cells_estate, tenant, "gdpr_req_8").exit_code == 0
    first = certificate_of(cells_estate, "gdpr_req_8")
    clean = cells_estate.command("erase", "recheck", "gdpr_req_8", "--json")
    assert clean.exit_code == 0, clean.stderr
    assert clean.json["result"]["corrected"] is False
    assert certificate_of(cells_estate, "gdpr_req_8") == first
    with psycopg.connect(cells_estate.local.cells[CellName("green")].dsn, autocommit=True) as connection:
        connection.execute(f"create table public.{NOTES} (id bigint primary key, who text)")
        connection.execute(f"insert into public.{NOTES} values (1, %s)", (tenant,))
        try:
            found = cells_estate.command("erase", "recheck", "gdpr_req_8", "--json")
            assert found.exit_code == 5
            assert f"public.{NOTES}" in found.stderr
            shown = cells_estate.command("certificate", "show", "gdpr_req_8", "--json")
            assert NOTES in shown.json["revoked"]
            again = cells_estate.command("erase", "recheck", "gdpr_req_8")
            assert again.exit_code == 5, "it stays so"
        finally:
            connection.execute(f"drop table public.{NOTES}")
    corrected = cells_estate.command("erase", "recheck", "gdpr_req_8", "--json")
    assert corrected.exit_code == 0, corrected.stderr
    assert corrected.json["result"]["corrected"] is True
    second = certificate_of(cells_estate, "gdpr_req_8")
    assert second["supersedes"] == first["id"]
    assert second["id"] != first["id"]
    assert second["stores"][0]["before"] == first["stores"][0]["before"]  # type: ignore[index]
    assert (
        cells_estate.command("erase", "recheck", "gdpr_req_8", "--json").json["result"]["corrected"] is False
    )
