"""What must agree between the settings of backups and the rest of an estate."""

from __future__ import annotations

import pathlib

from tenure.document import Block, Document
from tenure.document.problems import dotted
from tenure.document.reading import Value, block_at, text_at

_FOLDER = ("backups", "keys", "folder")


def check_backups(document: Document, backups: dict[str, Value], cells: dict[str, Value]) -> None:
    """Backups have somewhere to be kept, keys lie apart from what they protect, and logins are whole."""
    if not backups:
        return
    stores = [block_at(block_at(cell).get("stores")) for cell in cells.values()]
    kinds = {text_at(block_at(store).get("kind")) for each in stores for store in each.values()}
    if stores and all(stores) and "vault" not in kinds:
        document.report(("backups",), "no cell has a store of kind vault: there is nowhere to keep backups")
    keys = block_at(backups.get("keys"))
    for given, other in (("access_key", "secret_key"), ("secret_key", "access_key")):
        if keys.get(given) is not None and keys.get(other) is None:
            document.report(("backups", "keys", other), f"missing: {given} is given")
    folder = text_at(keys.get("folder"))
    if folder and "\0" not in folder:
        _check_folder(document, folder, backups, keys, stores)


def check_copies(document: Document, tiers: dict[str, Value], cells: dict[str, Value]) -> None:
    """A tier's second region has a vault."""
    regions = {
        region
        for cell in map(block_at, cells.values())
        if any(text_at(block_at(s).get("kind")) == "vault" for s in block_at(cell.get("stores")).values())
        and (region := text_at(cell.get("region"))) is not None
    }
    for name, tier in tiers.items():
        wanted = text_at(block_at(block_at(tier).get("backup")).get("copy_to"))
        if wanted is not None and regions and wanted not in regions:
            known = ", ".join(sorted(regions))
            document.report(
                ("tiers", name, "backup", "copy_to"),
                f"no cell of {wanted!r:.60} has a vault; the regions with one are {known}",
            )


def _check_folder(
    document: Document,
    folder: str,
    backups: dict[str, Value],
    keys: dict[str, Value],
    stores: list[dict[str, Value]],
) -> None:
    """Who has the folder must not have what unwraps its keys; and no store's file lies in it, or it in a store."""
    base = document.file.parent
    place = (base / folder).absolute()
    signing = block_at(backups.get("signing"))
    secrets = [
        (("backups", "keys", "master"), keys.get("master")),
        (("backups", "keys", "token"), keys.get("token")),
        (("backups", "keys", "secret_key"), keys.get("secret_key")),
        (("backups", "signing", "key"), signing.get("key")),
    ]
    for path, value in secrets:
        named = text_at(block_at(value).get("file")) if isinstance(value, Block) else None
        if named and "\0" not in named and (base / named).absolute().is_relative_to(place):
            document.report(path, f"lies in {dotted(_FOLDER)}, beside what it protects")
    for each in stores:
        for store in each.values():
            named = text_at(block_at(store).get("path"))
            if named and "\0" not in named and _overlap(place, (base / named).absolute()):
                document.report(_FOLDER, f"overlaps with a store's {named}: keys lie outside of every store")


def _overlap(one: pathlib.Path, other: pathlib.Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)
