"""Certificates: drawn only from evidence that is whole, and believed only as they were signed."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tenure.backups.signing import Signer, Trust
from tenure.certificates.certificate import draw
from tenure.certificates.envelope import PAYLOAD_TYPE, encoded, seal, unseal
from tenure.certificates.evidence import (
    BackupGone,
    Counted,
    Evidence,
    KeyGone,
    Looked,
    Mention,
    Part,
    PartName,
    Request,
    Unseen,
)
from tenure.certificates.pdf import rendered
from tenure.certificates.words import told
from tenure.errors import CertificateUntrusted, CertificateWithheld
from tenure.model.names import CellName, StoreName, TenantId

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BLUE = CellName("blue")
ROWS, VECTORS, METRICS, VAULT = (
    PartName(BLUE, StoreName(name)) for name in ("postgres", "vectors", "metrics", "vault")
)
SIGNER = Signer(bytes(range(32)))
TRUST = Trust([SIGNER.public])


def seen(own: int = 3) -> Looked:
    return Looked(scan="scan_1", done=True, items=100, size_bytes=1000, own=own)


def part(name: PartName, **its: Any) -> Part:
    given: dict[str, Any] = {
        "name": name,
        "region": "us-east-1",
        "kind": name.store,
        "before": Counted(items=7, size_bytes=70),
        "seen_before": seen(),
        "erased": True,
        "after": Counted(items=0, size_bytes=0),
        "seen_after": seen(0),
    }
    return Part(**{**given, **its})


def evidence() -> Evidence:
    """An erasure that has shown everything: rows, vectors in the same database, metrics that expire, a locked vault."""
    parts = {
        ROWS: part(ROWS, leaves="dead tuples"),
        VECTORS: part(VECTORS, seen_before=seen(0), carried_by=ROWS.store),
        METRICS: part(
            METRICS,
            after=Counted(items=2, size_bytes=0),
            undeletable="it expires",
            lapses_at=NOW + timedelta(days=455),
        ),
        VAULT: part(
            VAULT,
            after=Counted(items=4, size_bytes=9),
            sealed=True,
            locked=4,
            lapses_at=NOW + timedelta(days=30),
        ),
    }
    return Evidence(
        request=Request(
            id="req-1",
            tenant=TenantId("acme"),
            role="processor",
            ground="Article 28(3)(g)",
            received="2026-02-20",
            due="2026-03-20",
        ),
        operation="op_1",
        version="0.1.0",
        expected=frozenset(parts),
        parts=parts,
        keys=(KeyGone(reference="local:acme:1", proof="opening failed", leaves="a backup of the folder"),),
        backups=(BackupGone(id="b1", region="us-east-1", proof="opening failed", kept_until=NOW),),
        mentions=(Mention(part=ROWS, kind="column", name="public.notes.body", items=2, why="another's"),),
        unseen=(Unseen(part=VAULT, kind="object", name="x", reason="sealed", items=4, size_bytes=9),),
        in_ledger=True,
        inventory_digest="aa",
        journaled_inventory_digest="aa",
        catalogue_digest="sha256:cc",
        audit_head="7:" + "0" * 64,
        previous=None,
        closed_at=NOW,
    )


def drawn(given: Evidence) -> dict[str, Any]:
    return draw(given, id="cert_1", issued_at=NOW)


def test_a_whole_erasure_is_certified_as_what_was_shown() -> None:
    found = drawn(evidence())
    assert (found["state"], found["lapses_at"]) == ("interim", "2027-05-30T12:00:00Z")
    levels = {one["store"]: one["level"] for one in found["stores"]}
    assert levels == {
        "postgres": "logical",
        "vectors": "logical",
        "metrics": "expires",
        "vault": "cryptographic",
    }
    words = "\n".join(told(found))
    for word in (
        "acme",
        "dead tuples",
        "2027-05-30",
        "opening failed",
        "public.notes.body",
        "sealed",
        "cert_1",
    ):
        assert word in words


def test_it_is_final_when_nothing_is_left_to_lapse() -> None:
    whole = evidence()
    parts = {ROWS: whole.parts[ROWS]}
    found = drawn(replace(whole, parts=parts, expected=frozenset(parts), backups=(), keys=()))
    assert (found["state"], found["lapses_at"]) == ("final", None)


def changed(name: PartName, **its: Any) -> Callable[[Evidence], Evidence]:
    return lambda e: replace(e, parts={**e.parts, name: replace(e.parts[name], **its)})


def without(name: PartName) -> Callable[[Evidence], Evidence]:
    return lambda e: replace(e, parts={n: p for n, p in e.parts.items() if n != name})


EVERY = (ROWS, VECTORS, METRICS, VAULT)
WITHHELD: list[tuple[Callable[[Evidence], Evidence], str]] = [
    *((without(name), f"nothing is known of {name}") for name in EVERY),
    *((changed(name, erased=False), f"{name} was not erased") for name in EVERY),
    *((changed(name, before=None), f"{name} was not counted before") for name in EVERY),
    *((changed(name, after=None), f"{name} was not counted afterwards") for name in EVERY),
    *((changed(name, seen_after=None), f"{name} was not searched") for name in EVERY),
    *((changed(name, seen_after=replace(seen(), done=False)), f"{name} was not searched") for name in EVERY),
    *((changed(name, residue=1), f"1 places of {name}") for name in EVERY),
    *(
        (changed(name, after=Counted(items=9, size_bytes=1)), f"{name} still holds 9")
        for name in (ROWS, VAULT)
    ),
    *((changed(name, lapses_at=None), f"{name} still holds") for name in (METRICS, VAULT)),
    *((changed(name, seen_before=None), "the search cannot be trusted") for name in (ROWS, METRICS, VAULT)),
    *(
        (changed(name, seen_before=seen(0)), "the search cannot be trusted")
        for name in (ROWS, METRICS, VAULT)
    ),
    (changed(ROWS, seen_before=replace(seen(), done=False)), f"the search cannot be trusted in {VECTORS}"),
    (lambda e: replace(e, keys=(replace(e.keys[0], proof=None),)), "the key local:acme:1"),
    (lambda e: replace(e, backups=(replace(e.backups[0], proof=None),)), "backup b1 in us-east-1"),
    (lambda e: replace(e, in_ledger=False), "the erasure ledger"),
    (lambda e: replace(e, journaled_inventory_digest="ab"), "the inventory is not the one"),
    (lambda e: replace(e, journaled_inventory_digest=None), "the inventory is not the one"),
    (lambda e: replace(e, closed_at=None), "never closed"),
]


@pytest.mark.parametrize(("mutate", "reason"), WITHHELD)
def test_whatever_is_missing_withholds_it(mutate: Callable[[Evidence], Evidence], reason: str) -> None:
    with pytest.raises(CertificateWithheld) as withheld:
        drawn(mutate(evidence()))
    assert reason in withheld.value.message
    assert drawn(evidence())


# -- the envelope ------------------------------------------------------------------------------------------------


def test_what_is_signed_is_what_the_dsse_specification_says() -> None:
    """The example of the specification (secure-systems-lab/dsse, protocol.md)."""
    assert encoded("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )
    envelope = json.loads(seal({"format": "x", "é": 1}, SIGNER))
    payload = base64.b64decode(envelope["payload"])
    message = b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)
    Ed25519PublicKey.from_public_bytes(SIGNER.public).verify(
        base64.b64decode(envelope["signatures"][0]["sig"]), message
    )


def test_a_sealed_certificate_is_given_back_as_it_was() -> None:
    found = drawn(evidence())
    assert unseal(seal(found, SIGNER), TRUST) == found


def test_every_byte_that_is_changed_is_noticed() -> None:
    whole = evidence()
    parts = {ROWS: whole.parts[ROWS]}
    short = replace(
        whole, parts=parts, expected=frozenset(parts), backups=(), keys=(), mentions=(), unseen=()
    )
    text = seal(drawn(short), SIGNER)
    original = unseal(text, TRUST)
    for position, byte in enumerate(text.encode()):
        for other in {byte ^ 1, byte ^ 32, ord("A"), ord(" ")} - {byte}:
            raw = bytearray(text.encode())
            raw[position] = other
            try:
                read = raw.decode()
            except UnicodeDecodeError:
                continue
            with pytest.raises(CertificateUntrusted):
                unseal(read, TRUST)
    assert unseal(text, TRUST) == original


def _again(payload: bytes, kind: str = PAYLOAD_TYPE, signer: Signer = SIGNER) -> str:
    signature = base64.b64encode(signer.sign(encoded(kind, payload))).decode()
    return json.dumps(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": kind,
            "signatures": [{"keyid": signer.name, "sig": signature}],
        }
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no JSON"),
        ("[]", "no envelope"),
        ('{"payload":"","payloadType":"","signatures":[],"x":1}', "no envelope"),
        ('{"payload":"","payload":"","payloadType":"","signatures":[]}', "a key twice"),
        (f'{{"payload":"","payloadType":"{PAYLOAD_TYPE}","signatures":[]}}', "nobody has signed"),
        (f'{{"payload":"*","payloadType":"{PAYLOAD_TYPE}","signatures":[1]}}', "no base64"),
        (f'{{"payload":"","payloadType":"{PAYLOAD_TYPE}","signatures":[1]}}', "a signature is not"),
        (_again(b'{"format":"x"}', kind="text/plain"), "its type"),
        (_again(b'{"format":"x"}'), "not of the format"),
        (_again(b"x"), "no JSON"),
        (_again(b'{"format":"x"}', signer=Signer(bytes(32))), "no key that is trusted"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_what_is_no_certificate_is_called_that(text: str, why: str) -> None:
    with pytest.raises(CertificateUntrusted, match=why):
        unseal(text, TRUST)


def test_a_certificate_of_a_former_key_counts_as_long_as_that_is_trusted() -> None:
    former = Signer(bytes(32))
    text = seal(drawn(evidence()), former)
    assert unseal(text, Trust([SIGNER.public, former.public]))
    with pytest.raises(CertificateUntrusted):
        unseal(text, TRUST)


# -- for people --------------------------------------------------------------------------------------------------


def test_the_pdf_says_what_the_certificate_says() -> None:
    found = drawn(evidence())
    found["notes"] = ["Łódź (kept)"]
    pdf = rendered(found, sha256="ab" * 32, key="k1", revoked="residue turned up")
    assert pdf.startswith(b"%PDF-")
    assert rendered(found, sha256="ab" * 32, key="k1", revoked="residue turned up") == pdf
    text = pdf.decode("latin-1").replace("\\(", "(").replace("\\)", ")").replace("\\\\", "\\")
    for word in ("cert_1", "acme", "dead tuples", "2027-05-30", "ab" * 32, "REVOKED: residue turned up"):
        assert word in text, word
    assert "\\u0141\xf3d\\u017a" in text
    for one in found["stores"]:
        assert f"{one['store']} ({one['kind']})" in text
    lines = [line for line in told(found) if line and len(line) < 60]
    assert len(lines) > 3
    for line in lines:
        assert line.encode("latin-1", "backslashreplace").decode("latin-1") in text


def test_a_long_certificate_goes_over_many_pages() -> None:
    found = drawn(evidence())
    found["not_looked_at"] *= 400
    pdf = rendered(found, sha256="ab" * 32, key="k1")
    assert pdf.count(b"/Type /Page\n") > 5
