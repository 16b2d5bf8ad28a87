"""A vault in the catalogue and in `tenure.yaml`: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tenure.catalogue import VaultMap, load_catalogue
from tenure.errors import ConfigurationError
from tenure.estate import examples
from tenure.estate.config import VaultSettings, load_estate
from tenure.model.names import CellName, StoreName, TenantId

VAULT = StoreName("vault")


def problems(folder: Path, *changes: tuple[str, str], catalogue: str = examples.CATALOGUE) -> str:
    """What is wrong with the example estate once these texts have been replaced."""
    estate = examples.ESTATE
    for before, after in changes:
        assert before in estate
        estate = estate.replace(before, after)
    write(folder, estate, catalogue)
    with pytest.raises(ConfigurationError) as caught:
        load_estate(folder / "tenure.yaml")
    return "\n".join(caught.value.problems)


def write(folder: Path, estate: str, catalogue: str) -> None:
    (folder / "tenure.yaml").write_text(estate, encoding="utf-8")
    (folder / "catalogue.yaml").write_text(catalogue, encoding="utf-8")


def test_a_vault_is_a_store_of_every_cell_and_tenants_have_a_part_each(tmp_path: Path) -> None:
    write(tmp_path, examples.ESTATE, examples.CATALOGUE)
    estate = load_estate(tmp_path / "tenure.yaml")
    where = estate.catalogue.store(VAULT)
    assert isinstance(where, VaultMap)
    assert where.prefix.expand(TenantId("acme")) == "backups/acme/"
    settings = estate.cells[CellName("blue")].stores[VAULT]
    assert isinstance(settings, VaultSettings)
    assert (settings.bucket, settings.endpoint, settings.access_key) == ("example-vault-us", None, None)


def test_the_prefix_is_part_of_the_catalogues_digest_and_has_a_default(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.yaml"
    digests = set()
    for prefix in ('    prefix: "backups/{tenant}/"\n', '    prefix: "kept/{tenant}/"\n', ""):
        path.write_text(
            examples.CATALOGUE.replace('    prefix: "backups/{tenant}/"\n', prefix), encoding="utf-8"
        )
        digests.add(load_catalogue(path).digest)
    assert len(digests) == 2


def test_a_prefix_that_could_be_two_tenants_is_refused(tmp_path: Path) -> None:
    wrong = examples.CATALOGUE.replace('"backups/{tenant}/"', '"backups-{tenant}"')
    assert "stores.vault.prefix: must have ':' or '/'" in problems(tmp_path, catalogue=wrong)


def test_a_vault_is_in_no_other_stores_bucket(tmp_path: Path) -> None:
    said = problems(tmp_path, ("bucket: example-vault-us", "bucket: example-blue"))
    assert "cells.blue.stores.vault.bucket: is the same as cells.blue.stores.objects.bucket" in said


def test_cells_of_two_regions_share_no_vault(tmp_path: Path) -> None:
    said = problems(
        tmp_path,
        (
            "    endpoint: https://objects.frankfurt.internal\n        bucket: example-vault-eu",
            "    bucket: x",
        ),
        ("bucket: example-vault-us", "bucket: xxx"),
        ("bucket: x\n", "bucket: xxx\n"),
    )
    assert "cells.frankfurt.stores.vault.bucket: is the same as cells.blue.stores.vault.bucket" in said
    assert "another region" in said


def test_cells_of_one_region_share_a_vault(tmp_path: Path) -> None:
    estate = examples.ESTATE.replace(
        "        endpoint: https://objects.frankfurt.internal\n        bucket: example-vault-eu\n"
        "        region: eu-central-1",
        "        bucket: example-vault-us\n        region: us-east-1",
    ).replace("    region: eu-central-1\n", "    region: us-east-1\n")
    estate = estate.replace("regions: [eu-central-1]", "regions: [us-east-1]")
    estate = estate.replace("copy_to: eu-central-1", "copy_to: us-east-1")
    write(tmp_path, estate, examples.CATALOGUE)
    stores = [cell.stores[VAULT] for cell in load_estate(tmp_path / "tenure.yaml").cells.values()]
    assert {s.bucket for s in stores if isinstance(s, VaultSettings)} == {"example-vault-us"}


def test_backups_do_not_leave_the_region_of_their_cell(tmp_path: Path) -> None:
    said = problems(
        tmp_path,
        ("bucket: example-vault-us, region: us-east-1", "bucket: example-vault-us, region: eu-west-1"),
    )
    assert "cells.blue.stores.vault.region: is not that of the cell, us-east-1" in said


def test_one_key_alone_is_refused(tmp_path: Path) -> None:
    said = problems(tmp_path, ("        secret_key: {file: secrets/frankfurt-vault-secret-key}\n", ""))
    assert "cells.frankfurt.stores.vault.secret_key: missing: access_key is given" in said
