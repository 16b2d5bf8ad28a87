"""The tenants' names in DNS: read from the authoritative server, changed by signed dynamic updates (RFC 2136, 8945).

An update carries what was read just before as its prerequisite (RFC 2136, 2.4): what somebody else changed meanwhile is
not overwritten. Nothing is believed that the server did not answer with authority.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.tsig
import dns.update

from tenure.errors import ConfigurationError, StoreRefused, StoreUnavailable, TenureError
from tenure.model.secret import Secret

_NOT_AS_READ: Final = frozenset(
    {dns.rcode.NXRRSET, dns.rcode.YXRRSET, dns.rcode.NXDOMAIN, dns.rcode.YXDOMAIN}
)
_SERVER_TROUBLE: Final = frozenset({dns.rcode.SERVFAIL, dns.rcode.NOTIMP})


class NameServer:
    """Implements `Names`. Keeps no connection; thread-safe."""

    def __init__(
        self,
        *,
        server: tuple[str, int],
        zone: str,
        key: str,
        secret: Secret,
        algorithm: str,
        record: str,
        ttl_s: int,
        timeout_s: float,
    ) -> None:
        """`server` is the zone's primary, as address and port. Raises `ConfigurationError` if the secret is no key."""
        self._host, self._port = server
        self._zone = dns.name.from_text(zone)
        self._record = dns.rdatatype.from_text(record)
        self._ttl_s = ttl_s
        self._timeout_s = timeout_s
        try:
            self._key = dns.tsig.Key(key, base64.b64decode(secret.reveal(), validate=True), algorithm)
        except binascii.Error as error:
            raise ConfigurationError(
                f"the secret of the DNS key {key!r} is not base64", hint="write it as the name server has it"
            ) from error

    def manages(self, host: str) -> bool:
        """Whether the host lies in the zone."""
        return dns.name.from_text(host).is_subdomain(self._zone)

    def lookup(self, host: str) -> tuple[str, ...]:
        """What the host's records hold, sorted, names without the last dot; empty if there are none."""
        return self._values(host, self._record, own=True)

    def addresses(self, target: str) -> tuple[str, ...]:
        """The addresses of a name in the zone; empty for one that the zone does not have."""
        if not self.manages(target):
            return ()
        kinds = (dns.rdatatype.A, dns.rdatatype.AAAA)
        return tuple(found for kind in kinds for found in self._values(target, kind))

    def point(self, host: str, target: str) -> tuple[str, ...]:
        """Have the host's record hold the target and nothing else; return what it held before. Idempotent.

        Raises `StoreRefused` if the server does not accept the key or the update, or if somebody else has changed the
        record since it was read, and `StoreUnavailable` if it does not answer; then nothing was changed, unless only
        the answer was lost.
        """
        if not self.manages(host):
            raise StoreRefused(
                f"the host {host!r} is not in the zone {self._named(self._zone)!r}",
                hint="update its name where it is kept",
            )
        before = self.lookup(host)
        if before == (_plain(target),):
            return before
        # A wildcard answers for names that have no record of their own: those must still have none.
        outcome = self._update(host, target, expected=before)
        if outcome in _NOT_AS_READ and before and self.lookup(host) == before:
            outcome = self._update(host, target, expected=())
        if outcome in _NOT_AS_READ:
            raise StoreRefused(
                f"the record of {host!r} has been changed by somebody else meanwhile: "
                f"it held {_listed(before)} and holds {_listed(self.lookup(host))}",
                hint="find out who did, then try again",
            )
        if outcome != dns.rcode.NOERROR:
            raise self._refusal(outcome, f"to update {host!r}")
        after = self.lookup(host)
        if after != (_plain(target),):
            raise StoreRefused(
                f"the name server at {self._address} took the update, but {host!r} holds {_listed(after)}",
                hint="is there a record of another type at that name?",
            )
        return before

    def _update(self, host: str, target: str, *, expected: tuple[str, ...]) -> dns.rcode.Rcode:
        name = dns.name.from_text(host)
        update = dns.update.UpdateMessage(self._zone)
        update.use_tsig(self._key)
        if expected:
            for value in expected:
                update.present(name, self._record, self._written(value))
        else:
            update.absent(name, self._record)
        update.replace(name, self._ttl_s, self._record, self._written(target))
        return self._ask(update).rcode()

    def _values(self, host: str, kind: dns.rdatatype.RdataType, *, own: bool = False) -> tuple[str, ...]:
        """What the answer holds of that type; with `own` at the name itself only, not where a CNAME leads."""
        name = dns.name.from_text(host)
        query = dns.message.make_query(name, kind)
        query.flags &= ~dns.flags.RD
        answer = self._ask(query)
        if answer.rcode() not in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
            raise self._refusal(answer.rcode(), f"to answer for {host!r}")
        if not answer.flags & dns.flags.AA:
            raise StoreRefused(
                f"the name server at {self._address} has no authority over {host!r}",
                hint="dns.server in tenure.yaml must be the zone's primary",
            )
        found = [r for r in answer.answer if r.rdtype == kind and (r.name == name or not own)]
        return tuple(sorted(_plain(rdata.to_text()) for rrset in found for rdata in rrset))

    def _ask(self, message: dns.message.Message) -> dns.message.Message:
        try:
            return dns.query.tcp(message, self._host, timeout=self._timeout_s, port=self._port)
        except (dns.tsig.PeerError, dns.tsig.BadSignature, dns.message.UnknownTSIGKey) as error:
            raise StoreRefused(
                f"the name server at {self._address} does not accept the key {self._named(self._key.name)!r}: {error}",
                hint="name, secret and algorithm must be those of the server, and both clocks right",
            ) from error
        except (OSError, EOFError, dns.exception.DNSException) as error:
            raise StoreUnavailable(
                f"the name server at {self._address} does not answer: {error or type(error).__name__}",
                hint="is it running, and reachable from here by TCP?",
            ) from error

    def _refusal(self, outcome: dns.rcode.Rcode, what: str) -> TenureError:
        message = f"the name server at {self._address} refuses {what}: {dns.rcode.to_text(outcome)}"
        if outcome in _SERVER_TROUBLE:
            return StoreUnavailable(message, hint="look at the name server's log")
        return StoreRefused(
            message,
            hint=f"let the key {self._named(self._key.name)!r} update the zone {self._named(self._zone)!r}",
        )

    def _written(self, value: str) -> str:
        return f"{value.rstrip('.')}." if self._record == dns.rdatatype.CNAME else value

    @property
    def _address(self) -> str:
        return f"{self._host} port {self._port}"

    @staticmethod
    def _named(name: dns.name.Name) -> str:
        return name.to_text(omit_final_dot=True)


def _plain(value: str) -> str:
    return value.rstrip(".").lower()


def _listed(values: tuple[str, ...]) -> str:
    return ", ".join(values) or "nothing"
