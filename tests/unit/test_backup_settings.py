"""`backups` in `tenure.yaml`: what is read, what is refused, and what is made of it."""

from __future__ import annotations

import base64
import secrets
from pathlib import Path

import pytest

from tenure.errors import ConfigurationError
from tenure.estate import examples
from tenure.estate.config import Estate, load_estate
from tenure.estate.settings_backups import AwsKmsSettings, LocalKeySettings, TransitSettings
from tenure.model.names import TenantId
from tenure.wiring.backups import open_backups

ACME = TenantId("acme")
AWS = """\
    kind: aws_kms
    folder: keys
    key: alias/tenure-backups
    region: eu-central-1
"""
LOCAL = "    {kind: local, folder: keys, master: {file: secrets/master}}\n"
TRANSIT = """\
    kind: vault_transit
    folder: keys
    url: https://vault.internal:8200
    token: {file: secrets/token}
"""


def write(folder: Path, *changes: tuple[str, str]) -> Path:
    text = examples.ESTATE
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    (folder / "tenure.yaml").write_text(text, encoding="utf-8")
    (folder / "catalogue.yaml").write_text(examples.CATALOGUE, encoding="utf-8")
    return folder / "tenure.yaml"


def loaded(folder: Path, *changes: tuple[str, str]) -> Estate:
    return load_estate(write(folder, *changes))


def problems(folder: Path, *changes: tuple[str, str]) -> str:
    with pytest.raises(ConfigurationError) as caught:
        loaded(folder, *changes)
    return "\n".join(caught.value.problems)


def key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


def secret(folder: Path, name: str, value: str) -> None:
    (folder / "secrets").mkdir(exist_ok=True)
    (folder / "secrets" / name).write_text(f"{value}\n", encoding="utf-8")


def test_each_kind_of_key_service_is_read(tmp_path: Path) -> None:
    aws = loaded(tmp_path).backups
    assert aws is not None
    assert isinstance(aws.keys, AwsKmsSettings)
    assert (aws.keys.key, aws.keys.folder) == ("alias/tenure-backups", tmp_path / "keys")
    assert [secret.name for secret in aws.secrets] == [str(tmp_path / "secrets/signing-key")]
    transit = loaded(tmp_path, (AWS, TRANSIT)).backups
    assert transit is not None
    assert isinstance(transit.keys, TransitSettings)
    assert (transit.keys.mount, transit.keys.prefix) == ("transit", "tenure-")
    assert len(transit.secrets) == 2
    local = loaded(tmp_path, (AWS, LOCAL)).backups
    assert local is not None
    assert isinstance(local.keys, LocalKeySettings)
    assert len(local.secrets) == 2


def test_an_estate_without_backups_says_so_when_asked_for_one(tmp_path: Path) -> None:
    text = examples.ESTATE
    begin, end = text.index("backups:\n"), text.index("prices:\n")
    (tmp_path / "tenure.yaml").write_text(text[:begin] + text[end:], encoding="utf-8")
    (tmp_path / "catalogue.yaml").write_text(examples.CATALOGUE, encoding="utf-8")
    estate = load_estate(tmp_path / "tenure.yaml")
    assert estate.backups is None
    with pytest.raises(ConfigurationError, match="says nothing of backups"):
        open_backups(estate)


def test_keys_that_lie_beside_what_unwraps_them_or_in_a_store_are_refused(tmp_path: Path) -> None:
    near = ("key: {file: secrets/signing-key}", "key: {file: keys/signing-key}")
    assert "backups.signing.key: lies in backups.keys.folder" in problems(tmp_path, near)
    master = (AWS, LOCAL.replace("secrets/master", "keys/master"))
    assert "backups.keys.master: lies in backups.keys.folder" in problems(tmp_path, master)
    for folder in ("data", "data/blue.duckdb"):
        inside = ("folder: keys", f"folder: {folder}")
        assert "backups.keys.folder: overlaps with a store's data/blue.duckdb" in problems(tmp_path, inside)


def test_half_a_login_a_bad_public_key_and_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    half = ("region: eu-central-1\n  signing", "region: eu-central-1\n    access_key: {env: A}\n  signing")
    assert "backups.keys.secret_key: missing: access_key is given" in problems(tmp_path, half)
    bad = ("O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik=", "c2hvcnQ=")
    assert "is not a public key" in problems(tmp_path, bad)
    assert "backups.keys" in problems(tmp_path, ("kind: aws_kms", "kind: gcp_kms"))


def test_backups_without_any_vault_are_refused(tmp_path: Path) -> None:
    text = examples.ESTATE
    first, second = text.index("      vault: {kind"), text.index("      vault:\n")
    text = text[:second] + text[text.index("      logs:", second) :]
    text = text[:first] + text[text.index("      logs:", first) :]
    catalogue = examples.CATALOGUE.replace('  vault:\n    kind: vault\n    prefix: "backups/{tenant}/"\n', "")
    (tmp_path / "tenure.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "catalogue.yaml").write_text(catalogue, encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        load_estate(tmp_path / "tenure.yaml")
    assert caught.value.problems == tuple(p for p in caught.value.problems if "nowhere to keep backups" in p)


def test_the_estate_makes_keys_and_signs_with_what_it_is_given(tmp_path: Path) -> None:
    estate = loaded(tmp_path, (AWS, LOCAL))
    secret(tmp_path, "master", key())
    secret(tmp_path, "signing-key", key())
    backups = open_backups(estate)
    reference = backups.rotate(ACME)
    assert open_backups(estate).keys_of(ACME) == (reference,)
    assert backups.trust.knows(backups.signer.name)
    assert len(backups.trust.names) == 2


def test_services_are_made_without_asking_them(tmp_path: Path) -> None:
    secret(tmp_path, "signing-key", key())
    secret(tmp_path, "token", "s.token")
    aws = open_backups(loaded(tmp_path)).describe_keys()
    assert (aws.kind, "alias/tenure-backups" in aws.where) == ("kms", True)
    transit = open_backups(loaded(tmp_path, (AWS, TRANSIT))).describe_keys()
    assert (transit.kind, "https://vault.internal:8200" in transit.where) == ("transit", True)
    assert "s.token" not in f"{transit}"


@pytest.mark.parametrize("name", ["master", "signing-key"])
@pytest.mark.parametrize(
    "value",
    ["short", key()[:-4], f"{key()}{key()}", "not base64 at all ********"],
    ids=["short", "too short", "too long", "not base64"],
)
def test_a_key_that_is_none_is_refused_and_not_shown(tmp_path: Path, name: str, value: str) -> None:
    estate = loaded(tmp_path, (AWS, LOCAL))
    secret(tmp_path, "master", key())
    secret(tmp_path, "signing-key", key())
    secret(tmp_path, name, value)
    with pytest.raises(ConfigurationError, match="32 bytes in base64") as caught:
        open_backups(estate)
    assert value not in f"{caught.value.message} {caught.value.hint}"


def test_every_secret_of_backups_is_checked_with_the_others(tmp_path: Path) -> None:
    estate = loaded(tmp_path, (AWS, LOCAL))
    with pytest.raises(ConfigurationError) as caught:
        estate.check_secrets()
    told = "\n".join(caught.value.problems)
    assert "secrets/master" in told
    assert "secrets/signing-key" in told


def test_a_tiers_second_region_has_a_vault(tmp_path: Path) -> None:
    said = problems(tmp_path, ("copy_to: eu-central-1", "copy_to: ap-south-1"))
    assert "tiers.platinum.backup.copy_to: no cell of 'ap-south-1' has a vault" in said
    assert "eu-central-1, us-east-1" in said


@pytest.mark.parametrize("every", ["hourly", "0 0 * *", "0 0 * * * *", '"0 0; * * *"'])
def test_a_schedule_is_a_word_or_five_fields(tmp_path: Path, every: str) -> None:
    said = problems(tmp_path, ("every: 30 1 * * *", f"every: {every}"))
    assert "must be daily, weekly, monthly, or a cron expression of five fields" in said


def test_what_the_tiers_say_is_read(tmp_path: Path) -> None:
    tiers = loaded(tmp_path).tiers
    platinum, gold, bronze = (tiers[name].backup for name in ("platinum", "gold", "bronze"))
    assert platinum is not None
    assert gold is not None
    assert bronze is not None
    assert (platinum.keep_days, platinum.copy_to, platinum.lock) == (365, "eu-central-1", "governance")
    assert (gold.every, gold.keep_days, gold.period_days) == ("weekly", 90, 7)
    assert (bronze.every, bronze.keep_days, bronze.keep_at_least) == ("monthly", 30, 2)
