"""Makes what seals and signs backups, as `tenure.yaml` says."""

from __future__ import annotations

from tenure.backups.backups import Backups
from tenure.backups.keys import KeyService
from tenure.backups.keys_folder import FolderOfKeys
from tenure.backups.keys_local import LocalKeys, secret_bytes
from tenure.backups.signing import Signer, Trust, public_key
from tenure.errors import ConfigurationError
from tenure.estate.config import BackupsSettings, Estate
from tenure.estate.settings_backups import AwsKmsSettings, KeySettings, LocalKeySettings, TransitSettings
from tenure.model.erasure import Names
from tenure.model.secret import Secret


def open_backups(estate: Estate) -> Backups:
    """Backups with the estate's keys and signature. Asks no key service yet.

    Raises `ConfigurationError` if `tenure.yaml` says nothing of backups, or a secret is not what it has to be.
    """
    settings = backups_settings(estate)
    signer = Signer(secret_bytes(settings.signing.key.resolve(), "backups.signing.key"))
    former = [public_key(text, "backups.signing.former") for text in settings.signing.former]
    return Backups(open_keys(settings.keys), signer, Trust([signer.public, *former]))


def backups_settings(estate: Estate) -> BackupsSettings:
    """Raises `ConfigurationError` if there are none."""
    if estate.backups is None:
        raise ConfigurationError(
            f"{estate.path} says nothing of backups", hint="add `backups:` with `keys` and `signing` to it"
        )
    return estate.backups


def open_ledger(estate: Estate) -> Names | None:
    """The key to the erasure ledger; None where the estate has none."""
    if estate.backups is None or estate.backups.ledger_key is None:
        return None
    return Names(estate.backups.ledger_key.resolve())


def open_keys(settings: KeySettings) -> KeyService:
    """Libraries of services that the estate does not use are not loaded: one of them is an extra."""
    kept = FolderOfKeys(settings.folder)
    match settings:
        case LocalKeySettings():
            return LocalKeys([ref.resolve() for ref in (settings.master, *settings.former)], kept)
        case AwsKmsSettings():
            from tenure.backups.keys_aws import AwsKmsKeys, kms_client

            client = kms_client(
                region=settings.region,
                endpoint=settings.endpoint,
                access_key=settings.access_key.resolve() if settings.access_key is not None else Secret(""),
                secret_key=settings.secret_key.resolve() if settings.secret_key is not None else Secret(""),
            )
            return AwsKmsKeys(client, settings.key, kept)
        case TransitSettings():
            try:
                from tenure.backups.keys_transit import TransitKeys, transit_client
            except ImportError as error:
                raise ConfigurationError(
                    "backups.keys (kind: vault_transit) needs the library hvac",
                    hint="install Tenure with its extra `transit`",
                ) from error
            vault = transit_client(
                url=settings.url, token=settings.token.resolve(), namespace=settings.namespace
            )
            return TransitKeys(vault, mount=settings.mount, prefix=settings.prefix, kept=kept)
