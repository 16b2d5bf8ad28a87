"""A vault as a cell sees it: the bucket of its region in which backups are kept."""

from __future__ import annotations

from typing import ClassVar, Literal

from tenure.document import Settings, setting
from tenure.estate.secret_ref import SecretSetting
from tenure.estate.values import BucketName, Region, Url


class VaultSettings(Settings):
    """The bucket with the backups of the tenants of a region. Cells of one region name the same one."""

    title: ClassVar[str] = "cells.NAME.stores.NAME (kind: vault)"
    kind: Literal["vault"] = setting("Amazon S3, or a store with its protocol.")
    endpoint: Url | None = setting("Where a store other than Amazon S3 is reached.", default=None)
    bucket: BucketName = setting(
        "The bucket: with versions, and with object lock where backups are to be locked; of no other store, and with "
        "nothing else in it."
    )
    region: Region = setting("The bucket's region, for signing requests; in Amazon S3 that of the cell.")
    access_key: SecretSetting | None = setting(
        "The access key. Without it and `secret_key`, the AWS SDK's own chain (profile, role) gives the "
        "credentials. Not the app's: the app has no business in a vault.",
        default=None,
    )
    secret_key: SecretSetting | None = setting(
        "The secret key; with `access_key` or not at all.", default=None
    )
