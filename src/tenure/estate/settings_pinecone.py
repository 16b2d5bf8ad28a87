"""The settings of a cell's Pinecone: where the index is, and how much Tenure may ask of it."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Final, Literal

from pydantic import AfterValidator, Field

from tenure.document import Described, Settings, refuse, setting
from tenure.estate.secret_ref import SecretSetting
from tenure.estate.values import Url

_INDEX: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,43}[a-z0-9])?")


def _index(text: str) -> str:
    if not _INDEX.fullmatch(text):
        raise refuse("is not an index's name: 1 to 45 lower-case letters, digits and '-'")
    return text


IndexName = Annotated[str, AfterValidator(_index), Described(words="index name")]
PerSecond = Annotated[float, Field(gt=0, le=1_000_000)]
Share = Annotated[float, Field(gt=0, le=1)]


class PineconeRates(Settings):
    """What the vendor allows for an index, all users of it together. The defaults are its documented limits."""

    title: ClassVar[str] = "cells.NAME.stores.NAME.rates"
    fetch_per_s: PerSecond = setting("Fetches, by index.", default=100, unit="per second")
    list_per_s: PerSecond = setting("Pages of ids, by index.", default=200, unit="per second")
    query_per_s: PerSecond = setting("Queries, by namespace.", default=100, unit="per second")
    upsert_per_s: PerSecond = setting("Upserts, by namespace.", default=100, unit="per second")
    upsert_mb_s: PerSecond = setting("Bytes of upserts, by namespace.", default=50, unit="MB/s")
    update_per_s: PerSecond = setting("Updates, by namespace.", default=100, unit="per second")
    delete_per_s: PerSecond = setting("Deletions, by namespace.", default=100, unit="per second")
    delete_records_per_s: PerSecond = setting(
        "Records deleted by id, by namespace.", default=5000, unit="per second"
    )
    delete_by_metadata_per_s: PerSecond = setting(
        "Deletions by a metadata filter, by namespace.", default=5, unit="per second"
    )

    def scaled(self, share: float) -> dict[str, float]:
        """That share of each, by the operation's name; bytes in bytes."""
        whole = {
            "fetch": self.fetch_per_s,
            "list": self.list_per_s,
            "query": self.query_per_s,
            "upsert": self.upsert_per_s,
            "upsert_bytes": self.upsert_mb_s * 1_000_000,
            "update": self.update_per_s,
            "delete": self.delete_per_s,
            "delete_records": self.delete_records_per_s,
            "delete_by_metadata": self.delete_by_metadata_per_s,
        }
        return {operation: rate * share for operation, rate in whole.items()}


class PineconeSettings(Settings):
    """An index of Pinecone."""

    title: ClassVar[str] = "cells.NAME.stores.NAME (kind: pinecone)"
    kind: Literal["pinecone"] = setting("A serverless index of Pinecone.")
    host: Url | None = setting(
        "Where the index is reached, as Pinecone's console shows it. This or `index` is needed; no two cells may share "
        "an index.",
        default=None,
    )
    index: IndexName | None = setting(
        "The index's name: without `host`, Pinecone is asked for its host. Also for finding identifiers in the "
        "project's other indexes.",
        default=None,
    )
    control: Url | None = setting(
        "Where a control plane other than https://api.pinecone.io is reached.", default=None
    )
    api_key: SecretSetting = setting("The API key of the index's project, with the right to read and write.")
    limiter: SecretSetting | None = setting(
        "A Redis (redis:// or rediss://, not a cluster) through which Tenure's processes share the rates, such as "
        "`fleet.locks`. Without it each process keeps to `alone_share` of them by itself.",
        default=None,
    )
    handover_s: Annotated[float, Field(ge=0, le=600)] = setting(
        "How long a request that writes may be on its way, with the SDK's own repetitions: a process that takes a copy "
        "over from another one waits so long before it begins.",
        default=35,
        unit="s",
    )
    rates: PineconeRates = setting("What the vendor allows.", default={}, validate_default=True)
    rate_share: Share = setting(
        "The share of the rates that all of Tenure may take; the rest is the app's.",
        default=0.5,
        unit="share",
    )
    alone_share: Share = setting(
        "The share of Tenure's rates that a process takes that cannot reach the `limiter`.",
        default=0.25,
        unit="share",
    )
