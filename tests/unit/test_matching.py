"""The matcher finds an identifier wherever it stands by itself, in whatever form, and no lookalike of it."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Collection
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tenure.model.matching import FEW, Encoding, Matcher, needles, unescaped
from tenure.model.names import TENANT_ID, TenantId
from tenure.model.search import Identifier, tenant_identifier
from tenure.stores import bodies

ids = st.from_regex(re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,11}"), fullmatch=True)
small_ids = st.from_regex(re.compile(r"[ab1][ab1_.-]{0,3}"), fullmatch=True)
long_ids = st.from_regex(re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{4,20}"), fullmatch=True)
delimiters = st.text(alphabet=" \t\n:/|,;<>()[]{}'\"=@#!?&", min_size=1, max_size=3)
word_characters = st.sampled_from("abzAZ019éß中")
BASE64S = (base64.b64encode, base64.urlsafe_b64encode)


def tenant(name: str) -> Identifier:
    return tenant_identifier(TenantId(name))


def matcher(*names: str, known: Collection[str] = ()) -> Matcher:
    return Matcher([tenant(n) for n in names], known)


def values(made: Matcher, text: str) -> set[str]:
    return {m.identifier.value for m in made.in_text(text)}


def plainly(text: str, wanted: Collection[str], known: Collection[str]) -> set[str]:
    """The rule once more, as slow and simple as it can be said."""
    spans = []
    for value in {*wanted, *known}:
        for start in range(len(text)):
            end = start + len(value)
            beside = text[max(0, start - 1) : start] + text[end : end + 1]
            if text[start:end] == value and not re.search(r"[^\W_]", beside):
                spans.append((start, end))
    return {
        text[start:end]
        for start, end in spans
        if text[start:end] in wanted
        and not any(s <= start and end <= e and (s, e) != (start, end) for s, e in spans)
    }


@given(
    st.lists(st.one_of(small_ids, st.sampled_from([" ", "/", "-", "_", ".", "a", "1", "é"])), max_size=12),
    st.sets(small_ids, min_size=1, max_size=4),
    st.sets(small_ids, max_size=4),
)
@example(["a-b", "-", "b"], {"a-b", "b-b"}, set())
@example(["a-b", "1"], {"a-b"}, set())
@example(["1", "-a"], {"1-a"}, set())
@example(["a-b"], {"a", "b"}, {"a-b"})
@settings(max_examples=500)
def test_it_finds_exactly_what_the_rule_says(parts: list[str], wanted: set[str], known: set[str]) -> None:
    text = "".join(parts)
    assert not {"%", "\\"} & set(text)
    found = {m.identifier.value for m in matcher(*wanted, known=known).in_text(text) if m.encoding == "plain"}
    assert found == plainly(text, wanted, known)


@given(ids, delimiters, delimiters)
def test_an_id_between_delimiters_is_found(name: str, before: str, after: str) -> None:
    assert values(matcher(name), name) == {name}
    assert values(matcher(name), f"{before}{name}{after}") == {name}
    assert values(matcher(name), f"x-{name}_y") == {name}


@given(ids, word_characters, delimiters)
def test_an_id_beside_a_letter_or_digit_is_not(name: str, letter: str, delimiter: str) -> None:
    for text in (f"{letter}{name}", f"{name}{letter}", f"{letter}{name}{letter}"):
        for whole in (text, f"{delimiter}{text}{delimiter}"):
            assert values(matcher(name), whole) & {name} == plainly(whole, {name}, ())


@given(ids, st.sampled_from("-_."), ids)
def test_an_id_is_not_found_in_a_longer_one_that_is_known(name: str, joint: str, more: str) -> None:
    for longer in (f"{name}{joint}{more}", f"{more}{joint}{name}"):
        assume(not plainly(more, {name}, ()))
        assert values(matcher(name, known={longer, name}), f"for {longer}, that is") == set()
        assert values(matcher(name, known={longer, name}), f"for {longer} and {name}") == {name}
        assert values(matcher(name, known={name}), f"for {longer}, that is") == {name}


@pytest.mark.parametrize(
    "text", ["acme2", "xacme", "ACME", "Acme", "acme-corp", "my-acme-corp-file", "éacme", "acmé"]
)
def test_lookalikes_of_a_name_are_not_found_in_any_form(text: str) -> None:
    made = matcher("acme", known={"acme", "acme2", "xacme", "ACME", "acme-corp"})
    forms: list[str] = [
        text,
        json.dumps({text: [f"\n{text}\t"]}),
        quote(f"/{text}/"),
        quote(f" {text} ", safe=""),
    ]
    forms += [encode(f"{pad}:{text}:".encode()).decode() for encode in BASE64S for pad in ("", "a", "ab")]
    for form in forms:
        assert values(made, form) == set(), form
        assert not made.in_bytes(form.encode())
        assert not made.in_bytes(form.encode("utf-16"))
        assert values(made, form + " acme") == {"acme"}


@given(ids, st.text(max_size=20), st.text(max_size=20))
def test_an_id_in_json_is_found_whatever_stands_beside_it(name: str, before: str, after: str) -> None:
    value = f"{before}\n{name}\t{after}"
    assume("\ud800" not in value.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    for text in (json.dumps({"a": value}), json.dumps([value], ensure_ascii=False)):
        assert name in values(matcher(name), text)


@given(ids, st.text(alphabet=st.characters(codec="utf-8"), max_size=20), st.sampled_from("/: ?&=@"))
def test_an_id_in_a_percent_encoded_text_is_found(name: str, beside: str, delimiter: str) -> None:
    assert name in values(matcher(name), quote(f"{beside}{delimiter}{name}{delimiter}{beside}", safe=""))


@given(long_ids, st.text(alphabet=st.characters(codec="utf-8"), max_size=20), st.sampled_from(BASE64S))
def test_an_id_in_base64_is_found_at_any_place(
    name: str, beside: str, encode: Callable[[bytes], bytes]
) -> None:
    text = encode(f"{beside}:{name}:{beside}".encode()).decode()
    for whole in (text, f"Basic {text}", f"{{'t': '{text}'}}", text.rstrip("=")):
        assert name in values(matcher(name), whole)


@given(
    st.one_of(
        ids, st.emails(), st.text(alphabet="abc é+ü@.", min_size=1).filter(lambda t: re.search(r"[^\W_]", t))
    ),
    st.text(alphabet=st.characters(codec="utf-8"), max_size=12),
    st.sampled_from(["plain", "json", "percent", "base64"]),
)
@settings(max_examples=300)
def test_where_the_matcher_finds_something_the_server_has_a_needle_for_it(
    value: str, beside: str, form: str
) -> None:
    identifier = Identifier(tenant=TenantId("acme"), kind="email", value=value)
    text = f"{beside} {value} {beside}"
    text = {
        "plain": lambda: text,
        "json": lambda: json.dumps(text),
        "percent": lambda: quote(text, safe=""),
        "base64": lambda: base64.b64encode(text.encode()).decode(),
    }[form]()
    if Matcher([identifier]).in_text(text) and needles(identifier):
        assert any(needle in text for needle in needles(identifier))
    assert needles(identifier) or not re.search("[A-Za-z0-9]", value)


@given(st.sets(small_ids, min_size=1, max_size=5), st.text(alphabet="ab1-_. /", max_size=40))
def test_many_identifiers_are_found_as_few_are(wanted: set[str], text: str) -> None:
    others = {f"Z{n}" for n in range(FEW + 1)}
    assert values(matcher(*wanted, *others), text) == values(matcher(*wanted), text)


@given(st.text(), st.sampled_from([True, False]))
def test_escapes_mean_what_json_says(text: str, ascii_only: bool) -> None:
    assume(not re.search("[\ud800-\udfff]", text))
    assert unescaped(json.dumps(text, ensure_ascii=ascii_only)[1:-1]) == text


@given(st.text(max_size=200))
def test_any_text_can_be_looked_at(text: str) -> None:
    matcher("acme", "%41", "a").in_text(text)
    matcher("acme").in_bytes(text.encode("utf-16", "surrogatepass"))


@given(st.binary(max_size=200))
def test_any_bytes_can_be_looked_at(content: bytes) -> None:
    made = matcher("acme")
    made.in_bytes(content)
    for magic in bodies.MAGICS:
        bodies.read(made, magic + content, size=len(content) + 10, limit=100)


def test_the_forms_are_told_apart() -> None:
    made = matcher("acme")

    def forms(content: bytes) -> set[Encoding]:
        return {m.encoding for m in made.in_bytes(content)}

    assert forms(b"an acme") == {Encoding.PLAIN}
    assert forms(rb"an\nacme") == {Encoding.ESCAPED}
    assert forms(b"an%2Facme") == {Encoding.PERCENT}
    assert forms(base64.b64encode(b"an acme")) == {Encoding.BASE64}
    assert forms("an acme".encode("utf-16")) == {Encoding.UTF16}
    assert forms("an acme".encode("utf-16-be")) == {Encoding.UTF16}
    assert forms(b"\x83\xa4name\xa4acme\xc0") == {Encoding.BINARY}


def test_a_short_id_is_not_looked_for_in_bytes_that_are_no_text() -> None:
    assert not matcher("ab").in_bytes(b"\x00\xff ab \x00\xfe")
    assert matcher("ab").in_bytes(b"just ab here")


def test_an_identifier_of_a_person_is_not_shown() -> None:
    ann = Identifier(tenant=TenantId("acme"), kind="email", value="ann.lee@example.com")
    assert "ann" not in repr(ann)
    assert "ann" not in repr(Matcher([ann]).in_text("mail ann.lee@example.com"))
    assert "ann" not in ann.label
    assert ann.label == Identifier(tenant=TenantId("acme"), kind="email", value="ann.lee@example.com").label
    assert TENANT_ID.fullmatch("acme")


# -- bodies ------------------------------------------------------------------------------------------------------


def zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", content)
    return buffer.getvalue()


CONTAINERS: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda content: content,
    "gzip": gzip.compress,
    "zlib": zlib.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zip": zipped,
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_containers_are_opened(container: str) -> None:
    made = matcher("acme", known={"acme2"})
    body = CONTAINERS[container](b"a report for acme, not acme2" * 30)
    reading = bodies.read(made, body, size=len(body), limit=10_000)
    assert {m.identifier.value for m in reading.matches} == {"acme"}
    assert reading.unseen == ()
    other = CONTAINERS[container](b"a report for acme2 and ACME" * 30)
    assert not bodies.read(made, other, size=len(other), limit=10_000).matches


@pytest.mark.parametrize("container", CONTAINERS)
def test_what_lies_beyond_the_limit_is_said_to_be_unseen(container: str) -> None:
    body = CONTAINERS[container](b"x" * 5000 + b" acme")
    reading = bodies.read(matcher("acme"), body[:1000], size=len(body), limit=1000)
    assert not reading.matches
    assert bodies.TOO_LONG in reading.unseen


@pytest.mark.parametrize("magic", [b"PAR1", b"%PDF-1.7", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf\x27\x1c"])
def test_containers_that_cannot_be_opened_are_said_to_be_unseen(magic: bytes) -> None:
    reading = bodies.read(matcher("acme"), magic + b" title acme ", size=30, limit=1000)
    assert reading.matches
    assert len(reading.unseen) == 1


def test_a_damaged_container_is_said_to_be_unseen_and_looked_at_as_far_as_it_goes() -> None:
    body = gzip.compress(b"acme " + bytes(range(256)) * 300)[:-40]
    reading = bodies.read(matcher("acme"), body, size=len(body), limit=1_000_000)
    assert reading.unseen == (bodies.UNREADABLE,)
    assert reading.matches


@given(
    st.lists(st.sampled_from(["acme", "acme2", "acme-corp", " ", "x", "."]), max_size=20), st.integers(1, 60)
)
def test_the_beginning_of_a_body_shows_nothing_that_the_whole_does_not(parts: list[str], limit: int) -> None:
    made = matcher("acme", known={"acme", "acme2", "acme-corp"})
    body = "".join(parts).encode()
    beginning = bodies.read(made, body[:limit], size=len(body), limit=limit)
    assert beginning.matches <= bodies.read(made, body, size=len(body), limit=1000).matches
