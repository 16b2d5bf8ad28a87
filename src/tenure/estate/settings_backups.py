"""The settings of backups: who keeps the tenants' data keys, and what manifests are signed with."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, Discriminator, Field

from tenure.document import Described, Settings, refuse, setting
from tenure.estate.secret_ref import SecretRef, SecretSetting
from tenure.estate.values import Region, RelativePath, Text, Url

_KEY_BYTES: Final = 32


def _public_key(text: str) -> str:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != _KEY_BYTES:
        raise refuse("is not a public key: 32 bytes in base64")
    return text


PublicKey = Annotated[str, AfterValidator(_public_key), Described(words="public key, base64")]
_FOLDER: Final = (
    "The folder with the wrapped keys. Its owner alone may use it; all processes of Tenure that make, read or erase "
    "backups have to see the same one. Keep it out of everything that is backed up with the tenants' data, and keep a "
    "copy of it elsewhere: without it no backup can be read. A copy keeps keys that are destroyed later."
)


class LocalKeySettings(Settings):
    """Data keys wrapped by a master key, for one machine or several that share a folder."""

    title: ClassVar[str] = "backups.keys (kind: local)"
    kind: Literal["local"] = setting("A master key that is given here.")
    folder: RelativePath = setting(_FOLDER)
    master: SecretSetting = setting(
        "The master key: 32 bytes in base64, as `openssl rand -base64 32` makes them. Not in the folder."
    )
    former: tuple[SecretSetting, ...] = setting(
        "Master keys of before, which still open what they wrapped.", default=()
    )


class AwsKmsSettings(Settings):
    """Data keys wrapped by a key of AWS KMS."""

    title: ClassVar[str] = "backups.keys (kind: aws_kms)"
    kind: Literal["aws_kms"] = setting(
        "AWS KMS. The login needs `kms:GenerateDataKeyWithoutPlaintext` and `kms:Decrypt` on the key; whoever only "
        "makes, copies or verifies backups without opening them needs none."
    )
    folder: RelativePath = setting(_FOLDER)
    key: Text = setting("The KMS key: its id, its ARN, or an alias such as `alias/tenure`.")
    region: Region = setting("The key's region.")
    endpoint: Url | None = setting("Where a service other than AWS is reached.", default=None)
    access_key: SecretSetting | None = setting(
        "The access key. Without it and `secret_key`, the AWS SDK's own chain (profile, role) gives the credentials.",
        default=None,
    )
    secret_key: SecretSetting | None = setting(
        "The secret key; with `access_key` or not at all.", default=None
    )


class TransitSettings(Settings):
    """Data keys wrapped by a transit engine, each with a transit key of its own. Needs Tenure's extra `transit`."""

    title: ClassVar[str] = "backups.keys (kind: vault_transit)"
    kind: Literal["vault_transit"] = setting("HashiCorp Vault or OpenBao, with a transit engine.")
    folder: RelativePath = setting(_FOLDER)
    url: Url = setting("Where the server is reached.")
    token: SecretSetting = setting(
        "A token that may create, read, update and delete `keys/PREFIX*`, and update `encrypt/PREFIX*` and "
        "`decrypt/PREFIX*`, below the engine."
    )
    mount: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*$", max_length=200)] = setting(
        "Where the engine is mounted.", default="transit"
    )
    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]*$", max_length=40)] = setting(
        "How the names of the transit keys begin.", default="tenure-"
    )
    namespace: Text | None = setting("The namespace, where the server has several.", default=None)


KeySettings = Annotated[LocalKeySettings | AwsKmsSettings | TransitSettings, Discriminator("kind")]


class SigningSettings(Settings):
    """The signature under manifests: a backup without one that is trusted here is never read."""

    title: ClassVar[str] = "backups.signing"
    key: SecretSetting = setting(
        "The private key (Ed25519): 32 bytes in base64, as `openssl rand -base64 32` makes them. Its own signatures "
        "are trusted. Kept apart from the credentials of the vaults: with both, somebody can forge backups."
    )
    former: tuple[PublicKey, ...] = setting(
        "Public keys of before, whose backups are to stay readable.", default=()
    )


class BackupsSettings(Settings):
    """How backups are sealed and signed. Where they are kept: in the cells' stores of kind `vault`; how often, and how
    long: `tiers.NAME.backup`."""

    title: ClassVar[str] = "backups"
    keys: KeySettings = setting("The key service: it keeps the data key of each tenant, wrapped.")
    signing: SigningSettings = setting("What manifests are signed with.")
    ledger_key: SecretSetting | None = setting(
        "The key under which the control database's ledger of erasures knows tenants and persons, without naming them: "
        "any secret of 16 characters or more that stays the same. Restores ask the ledger with it, and refuse without "
        "it as soon as anything is in the ledger.",
        default=None,
    )

    @property
    def secrets(self) -> tuple[SecretRef, ...]:
        """Every secret of these settings."""
        keys: tuple[SecretRef | None, ...]
        match self.keys:
            case LocalKeySettings():
                keys = (self.keys.master, *self.keys.former)
            case AwsKmsSettings():
                keys = (self.keys.access_key, self.keys.secret_key)
            case TransitSettings():
                keys = (self.keys.token,)
        return (self.signing.key, *(key for key in (*keys, self.ledger_key) if key is not None))
