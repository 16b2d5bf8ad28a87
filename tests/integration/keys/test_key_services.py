"""Every key service keeps the same promises: keys in a folder under a master key, under AWS KMS (moto's), and under a
transit engine (OpenBao's)."""

from __future__ import annotations

import os
import pathlib
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import boto3
import hvac
import pytest

from tenure.backups.backups import Backups
from tenure.backups.keys import KeyService, current, prove
from tenure.backups.keys_aws import AwsKmsKeys, kms_client
from tenure.backups.keys_folder import FolderOfKeys
from tenure.backups.keys_local import LocalKeys
from tenure.backups.keys_transit import TransitKeys, transit_client
from tenure.backups.signing import Signer, Trust
from tenure.errors import ConfigurationError, KeyUnusable, StoreRefused, StoreUnavailable, UsageError
from tenure.model.names import TenantId
from tenure.model.secret import Secret
from tenure.stores.vault.contract import KEY_REFERENCE, KeyReference
from tests.aws_faults import Answer, FaultyAws, refused
from tests.openbao import openbao, token_with
from tests.sealed import master

ACME, ACME1, GLOBEX = TenantId("acme"), TenantId("acme.1"), TenantId("Globex_2")
LEAST_POLICY = """
path "transit/keys/tenure-*" { capabilities = ["create", "read", "update", "delete"] }
path "transit/encrypt/tenure-*" { capabilities = ["update"] }
path "transit/decrypt/tenure-*" { capabilities = ["update"] }
"""


@dataclass(frozen=True)
class Rig:
    """`make` gives the service as another process would; `other` one that has the folder and not the wrapping key."""

    folder: pathlib.Path
    make: Callable[[], KeyService]
    other: Callable[[], KeyService]

    def file(self, reference: KeyReference) -> pathlib.Path:
        (found,) = self.folder.rglob(reference.replace(":", "+") + ".key")
        return found


@pytest.fixture(scope="session")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[hvac.Client]:
    with openbao(tmp_path_factory.mktemp("openbao")) as client:
        yield client


def local_rig(folder: pathlib.Path) -> Rig:
    one, another = master(), master()
    kept = FolderOfKeys(folder)
    return Rig(folder, lambda: LocalKeys([one], kept), lambda: LocalKeys([another], kept))


def kms_rig(folder: pathlib.Path, endpoint: str) -> Rig:
    client = kms_client(
        region="eu-west-1", endpoint=endpoint, access_key=Secret("any"), secret_key=Secret("any")
    )
    one, another = (client.create_key()["KeyMetadata"]["KeyId"] for _ in range(2))
    kept = FolderOfKeys(folder)
    return Rig(folder, lambda: AwsKmsKeys(client, one, kept), lambda: AwsKmsKeys(client, another, kept))


def transit_rig(folder: pathlib.Path, bao: hvac.Client) -> Rig:
    token = token_with(bao, "tenure", LEAST_POLICY)
    client = transit_client(url=str(bao.url), token=Secret(token), namespace=None)
    kept = FolderOfKeys(folder)

    def make(prefix: str) -> Callable[[], KeyService]:
        return lambda: TransitKeys(client, mount="transit", prefix=prefix, kept=kept)

    return Rig(folder, make("tenure-"), make("tenure-other-"))


@pytest.fixture(params=["local", "kms", "transit"])
def rig(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Rig:
    folder = tmp_path / "keys"
    if request.param == "local":
        return local_rig(folder)
    if request.param == "kms":
        return kms_rig(folder, request.getfixturevalue("moto"))
    return transit_rig(folder, request.getfixturevalue("bao"))


# -- what every service promises ---------------------------------------------------------------------------------------


def test_a_key_that_was_made_is_opened_the_same_by_every_process(rig: Rig) -> None:
    reference = rig.make().create(ACME)
    assert KEY_REFERENCE.fullmatch(reference)
    one, other = rig.make().open(reference), rig.make().open(reference)
    assert one == other
    assert (one.tenant, one.reference, len(one.material)) == (ACME, reference, 32)


def test_each_tenant_has_its_own_keys_and_names_that_begin_alike_are_kept_apart(rig: Rig) -> None:
    service = rig.make()
    made = {tenant: [service.create(tenant) for _ in range(2)] for tenant in (ACME, ACME1, GLOBEX)}
    for tenant, references in made.items():
        assert list(rig.make().references(tenant)) == sorted(references)
        assert current(service, tenant) == sorted(references)[-1]
    materials = {service.open(r).material for references in made.values() for r in references}
    assert len(materials) == 6
    assert service.references(TenantId("nobody")) == ()


def test_the_first_backup_of_a_tenant_gets_a_key_and_later_ones_the_newest(rig: Rig) -> None:
    service = rig.make()
    first = current(service, ACME)
    assert current(service, ACME) == first
    rotated = Backups(service, signer := Signer(b"s" * 32), Trust([signer.public])).rotate(ACME)
    assert current(service, ACME) == rotated != first
    assert service.open(first).material != service.open(rotated).material


def test_what_is_kept_is_of_no_use_without_the_service(rig: Rig) -> None:
    service = rig.make()
    reference = service.create(ACME)
    material, kept = service.open(reference).material, rig.file(reference).read_bytes()
    assert material not in kept
    assert material.hex().encode() not in kept
    with pytest.raises((KeyUnusable, StoreRefused)) as caught:
        rig.other().open(reference)
    told = f"{caught.value.message} {caught.value.hint}"
    assert reference in told
    assert material.hex() not in told
    assert str(material) not in told


def test_a_key_is_not_opened_under_the_name_of_another_tenant_or_key(rig: Rig) -> None:
    service = rig.make()
    mine, second, theirs = service.create(ACME), service.create(ACME), service.create(GLOBEX)
    for target in (second, theirs):
        rig.file(target).write_bytes(rig.file(mine).read_bytes())
        with pytest.raises(KeyUnusable):
            service.open(target)


def test_a_damaged_key_is_named_and_nothing_is_opened(rig: Rig) -> None:
    service = rig.make()
    reference = service.create(ACME)
    whole = rig.file(reference).read_bytes()
    for damaged in (whole[:-1], whole[:10], b"", whole[:-5] + b"XXXXX"):
        rig.file(reference).write_bytes(damaged)
        with pytest.raises((KeyUnusable, StoreRefused)) as caught:
            service.open(reference)
        assert "acme" in caught.value.message or "KMS" in caught.value.message


def test_a_destroyed_key_is_gone_and_the_attempt_to_open_it_is_the_proof(rig: Rig) -> None:
    service = rig.make()
    gone, stays, theirs = service.create(ACME), service.create(ACME), service.create(GLOBEX)
    destruction = service.destroy(gone)
    assert "tried and failed" in destruction.proof
    assert gone in destruction.proof
    assert (destruction.reference, destruction.already) == (gone, False)
    assert destruction.leaves == service.describe().leaves
    with pytest.raises(KeyUnusable, match="destroyed"):
        rig.make().open(gone)
    assert service.references(ACME) == (stays,)
    assert {service.open(r).tenant for r in (stays, theirs)} == {ACME, GLOBEX}
    assert service.destroy(gone).already
    assert not list(rig.folder.rglob(f"*{gone.split(':')[2]}*"))


def test_a_key_that_can_be_opened_after_its_destruction_is_reported_and_not_certified(rig: Rig) -> None:
    service = rig.make()
    reference = service.create(ACME)

    class Stubborn:
        """Keys that somebody puts back."""

        def __getattr__(self, name: str) -> object:
            return getattr(service, name)

    with pytest.raises(KeyUnusable, match="can be opened all the same"):
        prove(Stubborn(), reference, already=False)  # type: ignore[arg-type]


def test_references_that_are_none_or_of_another_service_are_refused(rig: Rig) -> None:
    service = rig.make()
    for wrong in ("", "acme", "local:../../etc:000000000000000000000000", "x" * 500, "local:acme:zz"):
        for act in (service.open, service.destroy):
            with pytest.raises(UsageError):
                act(KeyReference(wrong))
    with pytest.raises(KeyUnusable, match="another key service"):
        service.open(KeyReference(f"gcp:acme:{'0' * 24}"))


def test_a_service_says_where_its_keys_are_and_what_destroying_them_leaves(rig: Rig) -> None:
    described = rig.make().describe()
    assert str(rig.folder) in described.where
    assert str(rig.folder) in described.leaves
    assert described.destroys
    if described.kind == "kms":
        assert "7 to 30 days" in described.destroys


# -- the folder --------------------------------------------------------------------------------------------------------


def test_files_are_the_owners_alone_and_none_is_ever_written_over(tmp_path: pathlib.Path) -> None:
    before = os.umask(0)
    try:
        folder = FolderOfKeys(tmp_path / "keys")
        reference = KeyReference(f"local:acme:{'0' * 24}")
        folder.put(reference, b"wrapped")
    finally:
        os.umask(before)
    modes = {p.relative_to(tmp_path): stat.S_IMODE(p.stat().st_mode) for p in tmp_path.rglob("*")}
    assert set(modes.values()) == {0o700, 0o600}
    with pytest.raises(StoreRefused, match="already"):
        folder.put(reference, b"another")
    assert folder.get(reference) == b"wrapped"
    assert [p.name for p in (tmp_path / "keys" / "acme").iterdir()] == ["local+acme+" + "0" * 24 + ".key"]


def test_a_folder_that_others_may_write_to_is_refused(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o700)
    folder.chmod(0o770)
    rig = local_rig(folder)
    for act in (lambda: rig.make().create(ACME), lambda: rig.make().references(ACME)):
        with pytest.raises(StoreRefused, match="others than its owner"):
            act()


def test_a_file_is_overwritten_before_it_is_removed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes that it had are not on the disk any more when its name goes, as far as the disk writes in place."""
    rig = local_rig(tmp_path / "keys")
    service = rig.make()
    reference = service.create(ACME)
    file, seen = rig.file(reference), []
    whole, real = file.read_bytes(), pathlib.Path.unlink

    def watched(path: pathlib.Path, missing_ok: bool = False) -> None:
        seen.append(path.read_bytes())
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(pathlib.Path, "unlink", watched)
    service.destroy(reference)
    (last,) = seen
    assert len(last) == len(whole)
    assert last != whole
    assert whole[10:40] not in last


def test_a_crash_between_overwriting_and_removing_leaves_a_key_that_can_be_destroyed_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = local_rig(tmp_path / "keys")
    reference = rig.make().create(ACME)

    def killed(path: pathlib.Path, missing_ok: bool = False) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pathlib.Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            rig.make().destroy(reference)
    assert rig.make().references(ACME) == (reference,)
    with pytest.raises(KeyUnusable):
        rig.make().open(reference)
    assert not rig.make().destroy(reference).already
    assert rig.make().references(ACME) == ()


def test_a_file_of_a_write_that_was_cut_off_is_no_key(tmp_path: pathlib.Path) -> None:
    rig = local_rig(tmp_path / "keys")
    reference = rig.make().create(ACME)
    (rig.folder / "acme" / ".0123456789abcdef").write_bytes(b"half")
    assert rig.make().references(ACME) == (reference,)


def test_several_processes_may_make_keys_at_once(tmp_path: pathlib.Path) -> None:
    rig = local_rig(tmp_path / "keys")
    made: list[KeyReference] = []
    threads = [threading.Thread(target=lambda: made.append(rig.make().create(ACME))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(rig.make().references(ACME)) == sorted(made)
    assert len(set(made)) == 8


def test_a_folder_that_cannot_be_used_is_unavailable(tmp_path: pathlib.Path) -> None:
    (tmp_path / "keys").write_text("a file")
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        local_rig(tmp_path / "keys").make().create(ACME)


# -- local -------------------------------------------------------------------------------------------------------------


def test_a_master_key_can_be_replaced_and_the_former_one_still_opens(tmp_path: pathlib.Path) -> None:
    kept, one, two = FolderOfKeys(tmp_path / "keys"), master(), master()
    old = LocalKeys([one], kept).create(ACME)
    both = LocalKeys([two, one], kept)
    new = both.create(ACME)
    assert both.open(old).material == LocalKeys([one], kept).open(old).material
    assert LocalKeys([two], kept).open(new).material == both.open(new).material
    with pytest.raises(KeyUnusable, match="another master key"):
        LocalKeys([two], kept).open(old)


@pytest.mark.parametrize("text", ["", "short", "A" * 100, "not base64 ***"])
def test_a_master_key_that_is_none_is_refused_and_not_shown(tmp_path: pathlib.Path, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        LocalKeys([Secret(text)], FolderOfKeys(tmp_path))
    assert not text or text not in caught.value.message


# -- AWS KMS -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def faulty_kms(moto: str) -> Iterator[FaultyAws]:
    proxy = FaultyAws(moto)
    try:
        yield proxy
    finally:
        proxy.close()


def test_kms_never_sends_a_data_key_when_one_is_made(tmp_path: pathlib.Path, faulty_kms: FaultyAws) -> None:
    service = kms_rig(tmp_path, faulty_kms.endpoint).make()
    faulty_kms.asked.clear()
    reference = service.create(ACME)
    assert faulty_kms.asked == ["GenerateDataKeyWithoutPlaintext"]
    service.open(reference)
    service.destroy(reference)
    assert faulty_kms.asked == ["GenerateDataKeyWithoutPlaintext", "Decrypt"]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("ThrottlingException", StoreUnavailable),
        ("KMSInternalException", StoreUnavailable),
        ("AccessDeniedException", StoreRefused),
        ("DisabledException", KeyUnusable),
        ("KMSInvalidStateException", KeyUnusable),
        ("InvalidCiphertextException", KeyUnusable),
    ],
)
def test_what_kms_refuses_has_its_own_error(
    tmp_path: pathlib.Path, faulty_kms: FaultyAws, code: str, error: type[Exception]
) -> None:
    service = kms_rig(tmp_path, faulty_kms.endpoint).make()
    reference = service.create(ACME)
    faulty_kms.answer(refused(code), operation="Decrypt")
    with pytest.raises(error, match=code):
        service.open(reference)


def test_a_key_of_kms_whose_answer_is_lost_leaves_nothing_half_made(
    tmp_path: pathlib.Path, faulty_kms: FaultyAws
) -> None:
    service = kms_rig(tmp_path, faulty_kms.endpoint).make()
    faulty_kms.answer(Answer(status=None, after=True), operation="GenerateDataKeyWithoutPlaintext")
    with pytest.raises(StoreUnavailable):
        service.create(ACME)
    assert service.references(ACME) == ()


def test_a_key_of_kms_that_is_to_be_deleted_opens_nothing_and_can_be_taken_back(
    tmp_path: pathlib.Path, moto: str
) -> None:
    """Which is why destroying a data key does not rely on it: until the window ends it is a key that comes back."""
    admin = boto3.client(
        "kms",
        region_name="eu-west-1",
        endpoint_url=moto,
        aws_access_key_id="any",
        aws_secret_access_key="any",
    )
    key = admin.create_key()["KeyMetadata"]["KeyId"]
    service = AwsKmsKeys(admin, key, FolderOfKeys(tmp_path / "keys"))
    reference = service.create(ACME)
    admin.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
    admin.cancel_key_deletion(KeyId=key)
    admin.enable_key(KeyId=key)
    assert service.open(reference).tenant == ACME
    service.destroy(reference)
    with pytest.raises(KeyUnusable):
        service.open(reference)
    admin.close()


# -- transit -----------------------------------------------------------------------------------------------------------


def test_a_wrapped_key_that_somebody_has_kept_opens_nothing_once_its_transit_key_is_gone(
    tmp_path: pathlib.Path, bao: hvac.Client
) -> None:
    rig = transit_rig(tmp_path / "keys", bao)
    reference = rig.make().create(ACME)
    file, kept = rig.file(reference), rig.file(reference).read_bytes()
    rig.make().destroy(reference)
    file.write_bytes(kept)
    with pytest.raises(KeyUnusable, match="encryption key not found"):
        rig.make().open(reference)
    assert not rig.make().destroy(reference).already
    assert not file.exists()


def test_a_destruction_that_broke_off_after_the_transit_key_is_finished_later(
    tmp_path: pathlib.Path, bao: hvac.Client
) -> None:
    rig = transit_rig(tmp_path / "keys", bao)
    reference = rig.make().create(ACME)
    name = f"tenure-{reference.replace(':', '.')}"
    bao.secrets.transit.update_key_configuration(name, deletion_allowed=True)
    bao.secrets.transit.delete_key(name)
    assert rig.make().references(ACME) == (reference,)
    assert "tried and failed" in rig.make().destroy(reference).proof
    assert rig.make().references(ACME) == ()


def test_a_token_without_rights_is_refused_and_a_server_that_is_away_is_unavailable(
    tmp_path: pathlib.Path, bao: hvac.Client
) -> None:
    reference = transit_rig(tmp_path / "keys", bao).make().create(ACME)
    token = token_with(bao, "nothing", 'path "other/*" { capabilities = ["read"] }')
    kept = FolderOfKeys(tmp_path / "keys")
    for url, error in ((str(bao.url), StoreRefused), ("http://127.0.0.1:9", StoreUnavailable)):
        client = transit_client(url=url, token=Secret(token), namespace=None)
        service = TransitKeys(client, mount="transit", prefix="tenure-", kept=kept)
        acts: tuple[Callable[[], object], ...] = (
            partial(service.create, ACME),
            partial(service.open, reference),
        )
        for act in acts:
            with pytest.raises(error) as caught:
                act()
            assert token not in f"{caught.value} {caught.value.hint}"
    with pytest.raises(StoreRefused):
        TransitKeys(
            transit_client(url=str(bao.url), token=Secret(token), namespace=None),
            mount="transit",
            prefix="tenure-",
            kept=kept,
        ).destroy(reference)
    assert transit_rig(tmp_path / "keys", bao).make().open(reference).tenant == ACME


def test_a_sealed_server_is_unavailable_and_opens_again_afterwards(
    tmp_path: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with openbao(tmp_path_factory.mktemp("sealed")) as client:
        rig = transit_rig(tmp_path / "keys", client)
        reference = rig.make().create(ACME)
        client.sys.seal()
        with pytest.raises(StoreUnavailable, match="sealed"):
            rig.make().open(reference)
