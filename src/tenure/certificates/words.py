"""A certificate in plain language."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def told(certificate: Mapping[str, Any]) -> Iterator[str]:
    """The lines that people read: everything that the JSON says."""
    request, by = certificate["request"], certificate["performed_by"]
    yield f"CERTIFICATE OF ERASURE {certificate['id']} ({certificate['state']})"
    yield ""
    yield f"Issued {certificate['issued_at']} for request {request['id']} ({request['ground']}, as {request['role']}),"
    yield f"received {request['received']}, due {request['due']}: the tenant {request['tenant']}."
    yield f"Performed by {by['tool']} {by['version']} in {by['operation']}."
    yield f"Closed to reads and writes since {certificate['closed_at']}."
    if certificate["state"] == "interim":
        yield f"The last copy that nobody can delete sooner goes by {certificate['lapses_at']}."
    yield ""
    for one in certificate["stores"]:
        yield (
            f"{one['store']} ({one['kind']}) of {one['cell']}, {one['region']}: {one['method']} [{one['level']}]; "
            f"{one['before']['items']:,} items before, {one['after']['items']:,} after; "
            f"{one['searched']['items']:,} items searched ({one['searched']['scan']}), 0 found"
            + (f"; goes by {one['lapses_at']}" if one["lapses_at"] else "")
        )
        if one["leaves"]:
            yield f"    until it is written over, bytes may lie in: {one['leaves']}"
    yield ""
    for key in certificate["keys_destroyed"]:
        yield f"Key {key['key']} destroyed; {key['proof']}. What could open it all the same: {key['leaves']}"
    for backup in certificate["backups"]:
        yield f"Backup {backup['backup']} in {backup['region']}: {backup['proof']}; bytes {backup['bytes']}."
    if certificate["remaining"]:
        yield "The tenant's id remains in:"
    for one in certificate["remaining"]:
        yield f"  {one['store']} of {one['cell']}, {one['kind']} {one['place']}: {one['items']:,}; {one['why']}"
    if certificate["not_looked_at"]:
        yield "Not looked at, so nothing is said of:"
    for one in certificate["not_looked_at"]:
        where = f"{one['store']} of {one['cell']}, {one['kind']} {one['place']}"
        yield f"  {where}: {one['reason']} ({one['items']:,} items)"
    yield from certificate["notes"]
    yield ""
    yield f"Inventory {certificate['inventory_sha256']}; catalogue {certificate['catalogue']};"
    yield f"audit log {certificate['audit_head']}; certificate before this one {certificate['previous_sha256']}"
