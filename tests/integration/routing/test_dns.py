"""Names in DNS, on a real name server: signed updates that overwrite nobody, and errors that say what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tenure.errors import ConfigurationError, StoreRefused, StoreUnavailable
from tenure.model.secret import Secret
from tenure.routing.dns import NameServer
from tests.named import KEY, STRANGER, ZONE, Named


@pytest.fixture(scope="module")
def named() -> Iterator[Named]:
    server = Named()
    try:
        server.start()
        yield server
    finally:
        server.close()


def names(named: Named, record: str = "A", **other: Any) -> NameServer:
    given: dict[str, Any] = {
        "server": ("127.0.0.1", named.port),
        "zone": ZONE,
        "key": KEY,
        "secret": Secret(named.secret),
        "algorithm": "hmac-sha256",
        "record": record,
        "ttl_s": 7,
        "timeout_s": 3.0,
    }
    return NameServer(**{**given, **other})


def test_a_name_is_pointed_elsewhere_and_back_and_its_neighbours_are_untouched(named: Named) -> None:
    server = names(named)
    assert server.point("one.rag.localhost", "192.0.2.1") == ()
    assert server.point("one.rag.localhost", "192.0.2.1") == ("192.0.2.1",)
    assert server.point("one.rag.localhost", "192.0.2.2") == ("192.0.2.1",)
    assert named.holds("one.rag.localhost", "A") == ("192.0.2.2",)
    assert named.holds("plain.rag.localhost", "A") == ("192.0.2.7",)
    assert named.holds("two.rag.localhost") == ("lb.sites.rag.localhost",)


def test_a_name_that_only_a_wildcard_answers_for_gets_a_record_of_its_own(named: Named) -> None:
    server = names(named, "CNAME")
    assert server.lookup("wild.rag.localhost") == ("lb.sites.rag.localhost",)
    assert server.point("wild.rag.localhost", "blue.sites.rag.localhost") == ("lb.sites.rag.localhost",)
    assert named.holds("wild.rag.localhost") == ("blue.sites.rag.localhost",)
    assert server.addresses("blue.sites.rag.localhost") == ("127.0.0.1",)
    assert server.addresses("example.org") == ()


def test_what_somebody_else_changes_meanwhile_is_not_overwritten(named: Named) -> None:
    """The change comes between the reading and the update, where only the prerequisite can see it."""

    class Late(NameServer):
        changed = False

        def _update(self, host: str, target: str, *, expected: tuple[str, ...]) -> Any:
            if not self.changed:
                self.changed = True
                named.change(host, "A", "192.0.2.99")
            return super()._update(host, target, expected=expected)

    for host, before in (("new.rag.localhost", None), ("old.rag.localhost", "192.0.2.3")):
        named.change(host, "A", before)
        late = names(named)
        late.__class__ = Late
        with pytest.raises(StoreRefused, match="changed by somebody else meanwhile") as refused:
            late.point(host, "192.0.2.4")
        assert "192.0.2.99" in refused.value.message
        assert named.holds(host, "A") == ("192.0.2.99",)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"secret": Secret("d3Jvbmc=")}, "does not accept the key 'tenure-update'"),
        ({"key": "unheard-of"}, "does not accept the key 'unheard-of'"),
        ({"key": STRANGER}, "refuses to update 'three.rag.localhost': REFUSED"),
        ({"zone": "example.org"}, "'three.rag.localhost' is not in the zone 'example.org'"),
    ],
)
def test_an_update_that_the_server_does_not_accept_names_the_key_and_changes_nothing(
    named: Named, other: dict[str, Any], message: str
) -> None:
    with pytest.raises(StoreRefused, match=message):
        names(named, **other).point("three.rag.localhost", "192.0.2.5")
    assert named.holds("three.rag.localhost") == ("lb.sites.rag.localhost",)


def test_a_record_that_another_type_keeps_out_is_not_called_changed(named: Named) -> None:
    with pytest.raises(StoreRefused, match=r"took the update, but 'plain\.rag\.localhost' holds nothing"):
        names(named, "CNAME").point("plain.rag.localhost", "blue.sites.rag.localhost")


def test_a_name_server_that_is_away_or_has_no_authority_or_a_key_that_is_none_says_so(named: Named) -> None:
    with pytest.raises(StoreUnavailable, match="does not answer"):
        names(named, server=("127.0.0.1", 1)).lookup("one.rag.localhost")
    with pytest.raises(StoreRefused, match=r"refuses to answer for 'www\.example\.org': REFUSED"):
        names(named, zone="example.org").lookup("www.example.org")
    with pytest.raises(ConfigurationError, match="is not base64"):
        names(named, secret=Secret("no base64!"))
