"""The signed envelope of a certificate: DSSE (Dead Simple Signing Envelope, protocol v1) with Ed25519.

What is signed is the envelope's own bytes of the payload, so that nothing has to be normalised to check it; the type is
signed with them, so that a signature under something else is none under a certificate.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, Final

from tenure.backups.signing import Signer, Trust
from tenure.certificates.certificate import FORMAT
from tenure.errors import CertificateUntrusted

PAYLOAD_TYPE: Final = "application/vnd.tenure.erasure-certificate+json"
MOST_BYTES: Final = 64 * 1024 * 1024
_KEYS: Final = frozenset({"payload", "payloadType", "signatures"})


def seal(certificate: Mapping[str, Any], signer: Signer) -> str:
    """The envelope, as one line of JSON."""
    payload = json.dumps(certificate, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    signature = signer.sign(encoded(PAYLOAD_TYPE, payload))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"keyid": signer.name, "sig": base64.b64encode(signature).decode()}],
    }
    return json.dumps(envelope, sort_keys=True, separators=(",", ":"))


def unseal(text: str, trust: Trust) -> dict[str, Any]:
    """The certificate, if a key that is trusted signed exactly these bytes. Raises `CertificateUntrusted`, which says
    what is wrong. Needs no network and no database."""
    envelope = _envelope(text)
    payload = _decoded(envelope["payload"], "payload")
    if envelope["payloadType"] != PAYLOAD_TYPE:
        raise _untrusted(f"its type is {str(envelope['payloadType'])[:80]!r}, not {PAYLOAD_TYPE}")
    names = []
    for signature in envelope["signatures"]:
        if not isinstance(signature, dict) or signature.keys() != {"keyid", "sig"}:
            raise _untrusted("a signature is not what it has to be (`keyid` and `sig`)")
        name = str(signature["keyid"])
        names.append(name)
        raw = _decoded(signature["sig"], "signature")
        if trust.knows(name) and not trust.verifies(name, raw, encoded(PAYLOAD_TYPE, payload)):
            raise _untrusted(
                f"the signature of the key {name[:40]} is not one of these contents: it was changed"
            )
    if not any(trust.knows(name) for name in names):
        raise _untrusted(
            f"no key that is trusted has signed it: {', '.join(n[:40] for n in names) or 'nobody'} has; "
            f"trusted are {', '.join(trust.names)}"
        )
    try:
        certificate = json.loads(payload)
    except ValueError as error:
        raise _untrusted("its payload is no JSON") from error
    if not isinstance(certificate, dict) or certificate.get("format") != FORMAT:
        raise _untrusted(f"it is not of the format {FORMAT}")
    return certificate


def encoded(kind: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed."""
    return b"DSSEv1 %d %s %d %s" % (len(kind.encode()), kind.encode(), len(payload), payload)


def _envelope(text: str) -> dict[str, Any]:
    if len(text) > MOST_BYTES:
        raise _untrusted("it is too long for a certificate")
    try:
        found = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise _untrusted("it is no JSON, or has a key twice") from error
    if not isinstance(found, dict) or found.keys() != _KEYS or not isinstance(found["signatures"], list):
        raise _untrusted(f"it is no envelope: it has to have {', '.join(sorted(_KEYS))} and nothing else")
    if not found["signatures"]:
        raise _untrusted("nobody has signed it")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)


def _decoded(value: object, what: str) -> bytes:
    """Strict: bits that base64 ignores would be bytes of the file that nobody checks."""
    try:
        raw = base64.b64decode(str(value), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _untrusted(f"its {what} is no base64") from error
    if base64.b64encode(raw).decode() != value:
        raise _untrusted(f"its {what} is not written as base64 has to be")
    return raw


def _untrusted(why: str) -> CertificateUntrusted:
    return CertificateUntrusted(
        f"this is no certificate that can be believed: {why}",
        hint="ask whoever issued it for the file and the public key once more",
    )
