"""The catalogue: its file, its values, and the rules that keep tenants apart."""

from __future__ import annotations

import dataclasses
import pathlib
import textwrap
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenure.catalogue import (
    Catalogue,
    DataClass,
    Isolation,
    KeyPattern,
    PgvectorMap,
    PostgresMap,
    QualifiedName,
    RedisMap,
    S3Map,
    StoreKind,
    Template,
    load_catalogue,
)
from tenure.errors import ConfigurationError, UnknownName, UsageError
from tenure.model.names import TENANT_ID, StoreName, TenantId, tenant_id

KINDS = ", ".join(StoreKind)
GOOD = """\
version: 1
stores:
  postgres:
    kind: postgresql
    tenant_column: tenant_id
    tables:
      public.documents: {columns: {tenant_id: tenant, id: key, title: content}}
      '"My Schema"."T"': {tenant_column: customer, columns: {customer: tenant, iban: sensitive}}
    ignore: [public.schema_version]
  vectors:
    kind: pgvector
    rides_with: postgres
    tenant_column: tenant_id
    tables:
      public.embeddings: {columns: {tenant_id: tenant, chunk_id: key, embedding: content}}
  redis:
    kind: redis
    prefix: "t:{tenant}:"
    acl_user: "app-{tenant}"
    keys: {"session:*": personal, "counter:*": plain}
  objects:
    kind: s3
    prefix: "tenants/{tenant}/"
    journal: postgres
    principal: app
    keys: {"files/*": content}
"""
Load = Callable[[str], Catalogue]
Problems = Callable[[str], list[str]]

tenants = st.from_regex(TENANT_ID, fullmatch=True).map(TenantId)
identifiers = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=15
)


@pytest.fixture
def load(tmp_path: pathlib.Path) -> Load:
    def _load(text: str) -> Catalogue:
        path = tmp_path / "catalogue.yaml"
        path.write_text(textwrap.dedent(text))
        return load_catalogue(path)

    return _load


@pytest.fixture
def problems(load: Load) -> Problems:
    """What the loader says of a file, each as `line:column: message`."""

    def _problems(text: str) -> list[str]:
        with pytest.raises(ConfigurationError) as caught:
            load(text)
        return [problem.partition("catalogue.yaml:")[2] for problem in caught.value.problems]

    return _problems


def test_every_kind_of_store_is_read_into_its_map(load: Load) -> None:
    catalogue = load(GOOD)
    postgres = catalogue.store(StoreName("postgres"))
    assert isinstance(postgres, PostgresMap)
    assert postgres.kind is StoreKind.POSTGRESQL
    assert postgres.isolation is Isolation.SHARED
    documents = postgres.tables[QualifiedName(schema="public", name="documents")]
    assert documents.tenant_column == "tenant_id"
    assert dict(documents.columns) == {
        "tenant_id": DataClass.TENANT,
        "id": DataClass.KEY,
        "title": DataClass.CONTENT,
    }
    assert documents.columns_of(DataClass.KEY) == ("id",)
    quoted = postgres.tables[QualifiedName(schema="My Schema", name="T")]
    assert quoted.tenant_column == "customer"
    assert postgres.ignore == {QualifiedName(schema="public", name="schema_version")}

    vectors = catalogue.store(StoreName("vectors"))
    assert isinstance(vectors, PgvectorMap)
    assert vectors.rides_with == "postgres"
    assert catalogue.riders(StoreName("postgres")) == (vectors,)
    assert catalogue.riders(StoreName("redis")) == ()

    redis = catalogue.store(StoreName("redis"))
    assert isinstance(redis, RedisMap)
    assert redis.prefix.expand(tenant_id("acme")) == "t:acme:"
    assert redis.acl_user is not None
    assert redis.acl_user.expand(tenant_id("acme")) == "app-acme"
    assert redis.classify("session:1") is DataClass.PERSONAL
    assert redis.classify("unheard-of") is None

    objects = catalogue.store(StoreName("objects"))
    assert isinstance(objects, S3Map)
    assert (objects.journal, objects.principal) == ("postgres", "app")
    assert objects.prefix.expand(tenant_id("acme")) == "tenants/acme/"


def test_nothing_in_a_catalogue_can_be_changed(load: Load) -> None:
    catalogue = load(GOOD)
    postgres = catalogue.store(StoreName("postgres"))
    assert isinstance(postgres, PostgresMap)
    with pytest.raises(dataclasses.FrozenInstanceError):
        catalogue.stores = {}  # type: ignore[misc]
    table = next(iter(postgres.tables.values()))
    for mapping in (catalogue.stores, postgres.tables, table.columns):
        with pytest.raises(TypeError):
            mapping["x"] = None  # type: ignore[index]


def test_an_unknown_store_is_said_to_be_unknown(load: Load) -> None:
    with pytest.raises(UnknownName, match="nosuch") as caught:
        load(GOOD).store(StoreName("nosuch"))
    assert "redis" in (caught.value.hint or "")


# --- tenants are kept apart


@given(tenants, tenants, st.sampled_from(["t:{tenant}:", "{tenant}/", "a/{tenant}:b/", "x-{tenant}/"]))
def test_no_prefix_begins_another_tenants_prefix(one: TenantId, other: TenantId, text: str) -> None:
    template = Template.prefix(text)
    if one != other:
        assert not template.expand(other).startswith(template.expand(one))


@given(tenants, tenants)
def test_different_tenants_have_different_names(one: TenantId, other: TenantId) -> None:
    template = Template.name("app-{tenant}")
    assert (template.expand(one) == template.expand(other)) == (one == other)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("t:", "exactly once"),
        ("", "exactly once"),
        ("{tenant}:{tenant}:", "exactly once"),
        ("t:{tenant}", "right after"),
        ("t:{tenant}-", "right after"),
        ("t:{tenant}.x:", "can never match the keys of 'acme2'"),
        ("t:{tenant}_:", "right after"),
        ("t:{{tenant}}:", "braces"),
        ("t:{tenant}:{user}", "braces"),
        ("t*:{tenant}:", "wildcards"),
        ("t[a]:{tenant}:", "wildcards"),
        ("t?:{tenant}:", "wildcards"),
        ("t\\:{tenant}:", "wildcards"),
        ("t :{tenant}:", "blanks"),
    ],
)
def test_a_prefix_that_could_match_another_tenant_is_refused(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        Template.prefix(text)


def test_the_prefix_error_of_a_file_says_why(problems: Problems) -> None:
    (problem,) = problems(GOOD.replace('"t:{tenant}:"', '"t:{tenant}"'))
    assert problem.startswith(
        "18:13: stores.redis.prefix: must have ':' or '/' right after {tenant}: tenant ids contain"
    )


# --- names and patterns


@given(identifiers, identifiers)
def test_a_qualified_name_reads_back_what_it_writes(schema: str, name: str) -> None:
    qualified = QualifiedName(schema=schema, name=name)
    assert QualifiedName.parse(str(qualified)) == qualified


@pytest.mark.parametrize(
    ("text", "schema", "name"),
    [
        ("public.documents", "public", "documents"),
        ('"My Schema"."T"', "My Schema", "T"),
        ('public."a.b"', "public", "a.b"),
        ('public."say ""hi"""', "public", 'say "hi"'),
        ('"public"."documents"', "public", "documents"),
    ],
)
def test_a_qualified_name_is_read_as_sql_reads_it(text: str, schema: str, name: str) -> None:
    assert QualifiedName.parse(text) == QualifiedName(schema=schema, name=name)


@pytest.mark.parametrize(
    "text",
    [
        "documents",
        "a.b.c",
        "",
        ".",
        "a.",
        '""."b"',
        "public.Documents",
        "public.my table",
        'a."b',
        "a.b;--",
        "a." + "x" * 64,
    ],
)
def test_what_is_no_table_name_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        QualifiedName.parse(text)


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        ("session:*", "session:1", True),
        ("session:*", "session:", True),
        ("session:*", "session", False),
        ("*", "", True),
        ("a", "a", True),
        ("a", "ab", False),
        ("a*b*c", "axbyc", True),
        ("a*b*c", "acb", False),
        ("ab*ba", "aba", False),
        ("a*a", "a", False),
        ("*x*", "axb", True),
        ("*x*", "ab", False),
        ("a.c", "abc", False),
        ("[ab]", "a", False),
    ],
)
def test_a_star_matches_any_characters_and_nothing_else_is_special(
    pattern: str, key: str, matches: bool
) -> None:
    assert KeyPattern(pattern=pattern, data_class=DataClass.PLAIN).matches(key) is matches


patterns = st.text("ab*", max_size=6).map(lambda text: KeyPattern(pattern=text, data_class=DataClass.PLAIN))


@given(patterns, patterns, st.text("ab", max_size=8))
def test_a_pattern_that_covers_another_matches_all_it_matches(
    one: KeyPattern, other: KeyPattern, key: str
) -> None:
    if one.covers(other) and other.matches(key):
        assert one.matches(key)


def test_many_stars_take_no_exponential_time() -> None:
    pattern = KeyPattern(pattern="*a" * 2000 + "*b", data_class=DataClass.PLAIN)
    assert not pattern.matches("a" * 20_000)


def test_the_first_pattern_that_matches_decides(load: Load) -> None:
    text = GOOD.replace('{"session:*": personal, "counter:*": plain}', '{"a:secret:*": secret, "a:*": plain}')
    redis = load(text).store(StoreName("redis"))
    assert isinstance(redis, RedisMap)
    assert redis.classify("a:secret:1") is DataClass.SECRET
    assert redis.classify("a:b") is DataClass.PLAIN


def test_a_pattern_hidden_by_one_above_is_refused(problems: Problems) -> None:
    text = GOOD.replace('{"session:*": personal, "counter:*": plain}', '{"s*": plain, "session:*": personal}')
    assert problems(text) == [
        "20:25: stores.redis.keys.'session:*': is never reached: 's*' above it matches all of it"
    ]


# --- the digest


def test_the_digest_is_the_same_on_every_machine_and_in_every_release(load: Load) -> None:
    assert load(GOOD).digest == "sha256:ddc054b9010a82886ad2074ed480bb05359accdf4f9d08a8d0d150405681ae98"


def test_the_digest_ignores_layout_comments_and_order(load: Load) -> None:
    reordered = """\
    # the same, written otherwise
    stores:
      objects: {keys: {'files/*': content}, principal: app, journal: postgres, kind: s3,
                prefix: "tenants/{tenant}/"}
      redis:
        keys:
          session:*: personal
          counter:*: plain
        acl_user: 'app-{tenant}'
        prefix: 't:{tenant}:'
        kind: redis
      vectors:
        tables: {public.embeddings: {columns: {embedding: content, chunk_id: key, tenant_id: tenant}}}
        tenant_column: tenant_id
        rides_with: postgres
        kind: pgvector
      postgres:
        ignore: ['"public"."schema_version"']
        isolation: shared
        kind: postgresql
        tables:
          '"My Schema"."T"': {columns: {iban: sensitive, customer: tenant}, tenant_column: customer}
          public.documents: {tenant_column: tenant_id, columns: {title: content, id: key, tenant_id: tenant}}
    version: 1
    """
    assert load(reordered).digest == load(GOOD).digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("title: content", "title: personal"),
        ("title: content", "titel: content"),
        ("public.documents", "public.document"),
        ("ignore: [public.schema_version]", "ignore: []"),
        ('"t:{tenant}:"', '"u:{tenant}:"'),
        ("principal: app", "principal: other"),
        ("    journal: postgres\n", ""),
        ('    acl_user: "app-{tenant}"\n', ""),
        ('{"session:*": personal, "counter:*": plain}', '{"counter:*": plain, "session:*": personal}'),
        ("  vectors:", "  vectors2:"),
        ("customer", "client"),
        ("embedding: content}}", "embedding: content}, cells: [green]}"),
    ],
)
def test_the_digest_changes_with_the_content(load: Load, old: str, new: str) -> None:
    assert old in GOOD
    assert load(GOOD.replace(old, new)).digest != load(GOOD).digest


# --- what is wrong is said


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "title: content",
            "title: contents",
            "7:71: stores.postgres.tables.'public.documents'.columns.title: must be one of tenant, key, "
            "plain, personal, sensitive, content, secret, config, not 'contents'; did you mean 'content'?",
        ),
        (
            "kind: redis",
            "kind: redsi",
            f"17:11: stores.redis.kind: must be one of {KINDS}, not 'redsi'; did you mean 'redis'?",
        ),
        (
            "    kind: redis\n",
            "",
            f"17:5: stores.redis.kind: missing (one of {KINDS})",
        ),
        (
            "kind: redis",
            "kind: [redis]",
            f"17:11: stores.redis.kind: must be one of {KINDS}, not a list",
        ),
        (
            "version: 1",
            "version: 2",
            "1:10: version: must be 1, the version of the format that is described here",
        ),
        (
            "version: 1",
            "version: true",
            "1:10: version: must be 1, the version of the format that is described here",
        ),
        (
            "version: 1",
            "version: '1'",
            "1:10: version: must be 1, the version of the format that is described here",
        ),
        (
            "rides_with: postgres",
            "rides_with: postgers",
            "12:17: stores.vectors.rides_with: there is no store 'postgers' here; did you mean 'postgres'?",
        ),
        (
            "rides_with: postgres",
            "rides_with: redis",
            "12:17: stores.vectors.rides_with: must name a store of kind postgresql; redis is 'redis'",
        ),
        (
            "journal: postgres",
            "journal: vectors",
            "24:14: stores.objects.journal: must name a store of kind postgresql; vectors is 'pgvector'",
        ),
        (
            "public.schema_version",
            "public.documents",
            "9:14: stores.postgres.ignore[0]: is listed already under stores.postgres.tables",
        ),
        (
            "public.embeddings",
            "'\"public\".documents'",
            "15:7: stores.vectors.tables.'\"public\".documents': is listed already under "
            "stores.postgres.tables",
        ),
        (
            "public.embeddings",
            "tenure.fence",
            "15:7: stores.vectors.tables.'tenure.fence': the schema tenure holds no tenants' data",
        ),
        (
            "tenant_id: tenant, id: key",
            "id: key",
            "7:35: stores.postgres.tables.'public.documents'.columns: the tenant column 'tenant_id' is not "
            "among them",
        ),
        (
            "tenant_id: tenant, id: key",
            "tenant_id: plain, id: key",
            "7:47: stores.postgres.tables.'public.documents'.columns.tenant_id: is the tenant column, so "
            "its class must be tenant",
        ),
        (
            "tenant_id: tenant, id: key",
            "tenant_id: tenant, id: tenant",
            "7:59: stores.postgres.tables.'public.documents'.columns.id: only the tenant column "
            "('tenant_id') has the class tenant",
        ),
        (
            "    tenant_column: tenant_id\n    tables:\n      public.documents",
            "    tables:\n      public.documents",
            "6:25: stores.postgres.tables.'public.documents': tenant_column: missing, here and for the "
            "whole store",
        ),
        (
            "{tenant_id: tenant, id: key, title: content}",
            "{}",
            "7:35: stores.postgres.tables.'public.documents'.columns: must not be empty",
        ),
        (
            "[public.schema_version]",
            "public.schema_version",
            "9:13: stores.postgres.ignore: must be a list, not text",
        ),
        (
            "principal: app",
            "principle: app",
            "25:5: stores.objects.principle: unknown setting; did you mean 'principal'?",
        ),
        ('keys: {"files/*": content}', "keys: {}", "26:11: stores.objects.keys: must not be empty"),
        (
            "  redis:",
            "  Redis:",
            "16:3: stores.Redis: is not a store name: 1 to 31 lower-case letters, digits, '_' or '-', "
            "starting with a letter",
        ),
    ],
)
def test_what_is_wrong_is_said_at_its_place(problems: Problems, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    assert expected in problems(GOOD.replace(old, new, 1))


OWN = """\
version: 1
stores:
  app:
    kind: postgresql
    isolation: schema
    tenant_column: tenant_id
    tables:
      public.plans: {columns: {tenant_id: tenant, name: plain}}
      t_{tenant}.orders: {columns: {id: key, tenant_id: tenant}}
      '"My {tenant}"."T"': {columns: {id: key}}
    ignore: ['t_{tenant}.migrations']
  vectors:
    kind: pgvector
    rides_with: app
    tables:
      't_{tenant}.embeddings': {columns: {id: key, embedding: content}}
"""
DATABASE = """\
version: 1
stores:
  app:
    kind: postgresql
    isolation: database
    tables:
      public.orders: {columns: {id: key, tenant_id: tenant}}
  vectors:
    kind: pgvector
    rides_with: app
    tables:
      public.embeddings: {columns: {id: key, embedding: content}}
"""


def test_tables_in_a_schema_of_the_tenants_own_have_no_tenant_column(load: Load) -> None:
    catalogue = load(OWN.replace('"My {tenant}"', '"My_{tenant}"'))
    app, vectors = catalogue.store(StoreName("app")), catalogue.store(StoreName("vectors"))
    assert isinstance(app, PostgresMap)
    assert isinstance(vectors, PgvectorMap)
    assert app.isolation is Isolation.SCHEMA
    assert {str(name): table.tenant_column for name, table in app.tables.items()} == {
        "public.plans": "tenant_id",
        "t_{tenant}.orders": None,
        '"My_{tenant}"."T"': None,
    }
    assert [name.own_schema for name in vectors.tables] == [True]
    assert {str(name) for name in app.ignore} == {"t_{tenant}.migrations"}


def test_tables_in_a_database_of_the_tenants_own_have_no_tenant_column(load: Load) -> None:
    catalogue = load(DATABASE)
    for name in ("app", "vectors"):
        its = catalogue.store(StoreName(name))
        assert isinstance(its, PostgresMap | PgvectorMap)
        assert [table.tenant_column for table in its.tables.values()] == [None]
    shared = DATABASE.replace("database", "shared").replace(
        "    tables", "    tenant_column: tenant_id\n    tables"
    )
    shared = shared.replace("{id: key, embedding", "{tenant_id: tenant, id: key, embedding")
    assert catalogue.digest != load(shared).digest


@pytest.mark.parametrize(
    ("good", "old", "new", "expected"),
    [
        (
            OWN,
            "schema",
            "shared",
            "9:7: stores.app.tables.'t_{tenant}.orders': {tenant} needs isolation: schema",
        ),
        (
            DATABASE,
            "public.orders",
            "t_{tenant}.orders",
            "7:7: stores.app.tables.'t_{tenant}.orders': {tenant} needs isolation: schema; here it is database",
        ),
        (
            DATABASE,
            "    tables:",
            "    ignore: ['t_{tenant}.x']\n    tables:",
            "6:14: stores.app.ignore[0]: {tenant} needs isolation: schema; here it is database",
        ),
        (
            DATABASE,
            "    tables:",
            "    tenant_column: tenant_id\n    tables:",
            "6:20: stores.app.tenant_column: is not needed: every row is the tenant's own there",
        ),
        (
            OWN,
            "orders: {columns",
            "orders: {tenant_column: id, columns",
            "stores.app.tables.'t_{tenant}.orders'.tenant_column: is not needed",
        ),
        (
            GOOD,
            "    tenant_column",
            "    isolation: schema\n    tenant_column",
            "5:16: stores.postgres.isolation: schema: but no table has {tenant} in its schema's name",
        ),
        (OWN, "t_{tenant}.orders", "public.orders_{tenant}", "must have {tenant} in the schema only"),
        (OWN, "t_{tenant}.orders", "t_{tenant}_{tenant}.orders", "must contain {tenant} exactly once"),
        (
            OWN,
            "t_{tenant}.embeddings",
            "t_{tenant}_v.embeddings",
            "the schema 't_{tenant}_v' of one tenant can be 't_{tenant}' of another",
        ),
    ],
)
def test_tables_that_do_not_fit_how_tenants_are_kept_apart_are_refused(
    problems: Problems, good: str, old: str, new: str, expected: str
) -> None:
    good = good.replace('"My {tenant}"', '"My_{tenant}"')
    assert old in good
    said = problems(good.replace(old, new, 1))
    assert [problem for problem in said if expected in problem], said


@given(st.text("ab_.-:", max_size=3), st.text("ab_.-:", max_size=3), st.data())
def test_two_templates_meet_whenever_they_can_name_the_same_for_two_tenants(
    before: str, after: str, data: st.DataObject
) -> None:
    more, less = data.draw(st.text("a_.-", max_size=2)), data.draw(st.text("a_.-", max_size=2))
    tenant = TenantId("t" + data.draw(st.text("ab_.-", max_size=3)))
    longer, shorter = (
        Template.name(f"{before}{{tenant}}{less}{after}"),
        Template.name(f"{before}{{tenant}}{after}"),
    )
    if less:
        assert longer.expand(tenant) == shorter.expand(TenantId(f"{tenant}{less}"))
        assert longer.meets(shorter)
        assert shorter.meets(longer)
    crossed = Template.name(f"{before}{more}{{tenant}}{after}")
    assert crossed.meets(longer) == (crossed.text != longer.text)
    assert not Template.name("x" + before + "{tenant}").meets(Template.name("y" + before + "{tenant}"))
    assert not Template.name("{tenant}:" + after).meets(Template.name("{tenant}" + after))


@pytest.mark.parametrize("isolation", ["{}", "[schema]", "~", "1"])
def test_an_isolation_that_is_no_text_is_refused(problems: Problems, isolation: str) -> None:
    text = GOOD.replace(
        "    tenant_column: tenant_id\n", f"    isolation: {isolation}\n    tenant_column: tenant_id\n", 1
    )
    assert problems(text)[0].startswith(
        "5:16: stores.postgres.isolation: must be one of shared, schema, database, "
    )


def test_a_catalogue_that_is_not_there_is_said_to_be_missing(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ConfigurationError, match=r"nosuch\.yaml: cannot be read: No such file"):
        load_catalogue(tmp_path / "nosuch.yaml")


def test_keys_that_hold_no_tenants_data_are_named_by_patterns(load: Load, problems: Problems) -> None:
    without = load(GOOD)
    text = GOOD.replace(
        '    keys: {"session:*"', '    ignore: ["flags:*", "version"]\n    keys: {"session:*"'
    )
    catalogue = load(text)
    redis = catalogue.store(StoreName("redis"))
    assert isinstance(redis, RedisMap)
    assert [p.pattern for p in redis.ignore] == ["flags:*", "version"]
    assert redis.ignore[0].matches("flags:beta")
    assert not redis.ignore[1].matches("version:2")
    assert catalogue.digest != without.digest
    said = problems(text.replace('"version"]', '"x:{tenant}"]'))
    assert len(said) == 1
    assert "no tenant's" in said[0]
