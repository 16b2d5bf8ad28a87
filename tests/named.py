"""A real name server for tests: BIND's `named` on a free port, in a folder of its own, as an unprivileged user."""

from __future__ import annotations

import base64
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import dns.message
import dns.query
import dns.rdatatype
import dns.tsig
import dns.update
import pytest

ZONE = "rag.localhost"
KEY = "tenure-update"
STRANGER = "not-allowed"
_CONFIG = """
options {{
    directory "{folder}"; listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};
    pid-file none; session-keyfile none; recursion no; dnssec-validation no; notify no; empty-zones-enable no;
}};
controls {{ }};
key "{key}" {{ algorithm hmac-sha256; secret "{secret}"; }};
key "{stranger}" {{ algorithm hmac-sha256; secret "{secret}"; }};
zone "{zone}" {{ type primary; file "zone"; allow-update {{ key "{key}"; }}; }};
"""
_RECORDS = """
$TTL 5
@ SOA ns.{zone}. root.{zone}. 1 60 60 60 5
@ NS ns
ns A 127.0.0.1
lb.sites A 127.0.0.1
blue.sites A 127.0.0.1
green.sites A 127.0.0.1
eu.sites A 127.0.0.1
* CNAME lb.sites
plain A 192.0.2.7
"""


class Named:
    """The primary of the zone `rag.localhost`: `*` leads to `lb.sites`; every site is this machine."""

    def __init__(self) -> None:
        program = shutil.which("named", path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            pytest.skip("needs Debian's package bind9")
        self._program = program
        self.secret = base64.b64encode(secrets.token_bytes(32)).decode()
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port: int = one.getsockname()[1]
        self.folder = Path(tempfile.mkdtemp(prefix="tenure-named-"))
        self._user = "nobody" if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        config = _CONFIG.format(
            folder=self.folder, port=self.port, key=KEY, stranger=STRANGER, secret=self.secret, zone=ZONE
        )
        (self.folder / "named.conf").write_text(config)
        (self.folder / "zone").write_text(_RECORDS.format(zone=ZONE))
        if self._user:
            account = pwd.getpwnam(self._user)
            for path in (self.folder, *self.folder.iterdir()):
                os.chown(path, account.pw_uid, account.pw_gid)

    def start(self) -> None:
        log = (self.folder / "log").open("ab")
        self._process = subprocess.Popen(
            [self._program, "-g", "-n", "1", "-c", str(self.folder / "named.conf")],
            stdout=log,
            stderr=log,
            user=self._user,
        )
        log.close()
        deadline = time.monotonic() + 30
        while not self._answers():
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, "named does not answer"
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def holds(self, host: str, kind: str = "CNAME") -> tuple[str, ...]:
        """What a resolver would be told."""
        answer = dns.query.tcp(dns.message.make_query(host, kind), "127.0.0.1", timeout=5, port=self.port)
        wanted = dns.rdatatype.from_text(kind)
        return tuple(
            r.to_text().rstrip(".") for rrset in answer.answer if rrset.rdtype == wanted for r in rrset
        )

    def change(self, host: str, kind: str, value: str | None) -> None:
        """Somebody else changes the zone. None removes the record."""
        update = dns.update.UpdateMessage(ZONE)
        update.use_tsig(dns.tsig.Key(KEY, self.secret))
        name = f"{host}."
        if value is None:
            update.delete(name, kind)
        else:
            update.replace(name, 5, kind, value)
        answer = dns.query.tcp(update, "127.0.0.1", timeout=5, port=self.port)
        assert answer.rcode() == 0, answer

    def _answers(self) -> bool:
        try:
            return bool(self.holds(f"lb.sites.{ZONE}", "A"))
        except OSError:
            return False
