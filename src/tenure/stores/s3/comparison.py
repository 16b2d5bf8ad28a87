"""Compares one tenant's objects in two buckets: keys, sizes, headers, metadata, tags, and contents by ETag where both
are comparable and trusted, by reading them where not."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from tenure.model.comparison import DifferenceKind
from tenure.model.names import TenantId
from tenure.stores.journaled import Tally
from tenure.stores.s3.errors import translated
from tenure.stores.s3.objects import Attributes
from tenure.stores.s3.store import S3Store

BATCH: Final = 500


class Comparer:
    """Compares objects of `source` and `target`, both at the same time, several objects in parallel."""

    def __init__(self, source: S3Store, target: S3Store, tenant: TenantId) -> None:
        self._source = source
        self._target = target
        self._tenant = tenant
        self._trusted = source.trust_etags and target.trust_etags

    def everything(self, progress: Callable[[int], None]) -> Tally:
        """Compare every object that either side has."""
        tally = Tally()
        listing = self._target.pool.submit(self._target.listed, self._tenant)
        ours, theirs = self._source.listed(self._tenant), listing.result()
        both: list[str] = []
        for key in sorted(ours.keys() | theirs.keys()):
            if key not in theirs:
                tally.differing[key] = DifferenceKind.MISSING
            elif key not in ours:
                tally.differing[key] = DifferenceKind.EXTRA
            elif ours[key].size != theirs[key].size:
                tally.differing[key] = DifferenceKind.MISMATCHED
            else:
                both.append(key)
                continue
            tally.processed.add(key)
        for start in range(0, len(both), BATCH):
            self._compare(both[start : start + BATCH], tally)
            progress(len(tally.processed))
        return tally

    def these(self, keys: Collection[str], *, thorough: bool = True) -> Tally:
        """Compare these objects. `thorough` as for `Objects.attributes`."""
        tally = Tally()
        ordered = sorted(keys)
        for start in range(0, len(ordered), BATCH):
            self._compare(ordered[start : start + BATCH], tally, thorough=thorough)
        return tally

    def _compare(self, keys: list[str], tally: Tally, *, thorough: bool = True) -> None:
        ours = [self._source.pool.submit(self._attributes, self._source, key, thorough) for key in keys]
        theirs = [self._target.pool.submit(self._attributes, self._target, key, thorough) for key in keys]
        unclear: list[str] = []
        for key, one, other in zip(keys, ours, theirs, strict=True):
            source, target = one.result(), other.result()
            if source is None and target is None:
                continue
            tally.processed.add(key)
            if source is None:
                tally.differing[key] = DifferenceKind.EXTRA
            elif target is None:
                tally.differing[key] = DifferenceKind.MISSING
            elif not source.same_but_contents(target):
                tally.differing[key] = DifferenceKind.MISMATCHED
            elif self._trusted and source.etag == target.etag:
                continue
            elif self._trusted and source.plain and target.plain:
                tally.differing[key] = DifferenceKind.MISMATCHED
            else:
                unclear.append(key)
                tally.bytes_read += source.size + target.size
        for key in unclear:
            if not self._same_contents(key):
                tally.differing[key] = DifferenceKind.MISMATCHED

    @staticmethod
    def _attributes(store: S3Store, key: str, thorough: bool) -> Attributes | None:
        with translated(f"{store.where}, {key!r}"):
            return store.objects.attributes(key, thorough=thorough)

    def _same_contents(self, key: str) -> bool:
        def digest(store: S3Store) -> str:
            with translated(f"{store.where}, {key!r}"):
                return store.objects.digest(key)

        theirs = self._target.pool.submit(digest, self._target)
        return digest(self._source) == theirs.result()
