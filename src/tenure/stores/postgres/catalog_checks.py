"""Whether each tenant table can be published by tenant, and whether the catalogue knows all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from psycopg import sql

from tenure.model.finding import Finding
from tenure.model.names import TenantId
from tenure.stores.postgres import names
from tenure.stores.postgres.connect import Pool
from tenure.stores.postgres.findings import refusal, warning
from tenure.stores.postgres.home import Home
from tenure.stores.postgres.home_checks import neighbours, unknown_table
from tenure.stores.postgres.tables import Relation, Table, collection_of

_CANDIDATES: Final = """
select n.nspname::text, c.relname::text, a.attname::text, a.atttypid in ('text'::regtype, 'varchar'::regtype)
from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_attribute a on a.attrelid = c.oid
where c.relkind in ('r', 'p') and not c.relispartition and a.attname = any(%(columns)s::name[]) and not a.attisdropped
    and n.nspname not in ('pg_catalog', 'information_schema', 'tenure') and n.nspname not like 'pg\\_%%'
    and n.nspname <> all(%(without)s::text[])
order by 1, 2
"""

_UNIQUE: Final = """
select i.relname::text from pg_index x join pg_class i on i.oid = x.indexrelid
where x.indrelid = %(oid)s and x.indisunique and not x.indisprimary
    and not exists (select from pg_attribute a where a.attrelid = x.indrelid and a.attname = %(column)s
                    and a.attnum = any(x.indkey::int2[]))
"""

_SEQUENCES: Final = """
select distinct n.nspname::text, s.relname::text, q.seqcache, q.seqincrement
from (
    select d.objid as oid from pg_depend d
        where d.refobjid = any(%(oids)s::oid[]) and d.classid = 'pg_class'::regclass and d.deptype in ('a', 'i')
    union select d.refobjid from pg_attrdef f join pg_depend d
        on d.classid = 'pg_attrdef'::regclass and d.objid = f.oid and d.refclassid = 'pg_class'::regclass
        where f.adrelid = any(%(oids)s::oid[])
) o
join pg_sequence q on q.seqrelid = o.oid join pg_class s on s.oid = o.oid join pg_namespace n on n.oid = s.relnamespace
where q.seqcache > 1 or q.seqincrement < 0
order by 1, 2
"""

_TRIGGERS: Final = """
select n.nspname::text, c.relname::text, t.tgname::text, t.tgenabled = 'A'
from (
    select unnest(%(oids)s::oid[]) as oid
    union select p.relid from unnest(%(oids)s::oid[]) o (oid), pg_partition_tree(o.oid) p
) r
join pg_trigger t on t.tgrelid = r.oid join pg_class c on c.oid = r.oid join pg_namespace n on n.oid = c.relnamespace
where not t.tgisinternal and t.tgenabled in ('A', 'R') and t.tgparentid = 0
    and not starts_with(t.tgname::text, %(ours)s)
order by 1, 2, 3
"""

_HIDDEN: Final = "select o.oid::int8 from unnest(%(oids)s::oid[]) o (oid) where row_security_active(o.oid)"


_NOT_OWNED: Final = """
select n.nspname::text, c.relname::text, c.relowner::regrole::text, o.rolsuper,
    format('grant %%s to %%I', c.relowner::regrole, current_user)
from (
    select unnest(%(oids)s::oid[]) as oid
    union select p.relid from unnest(%(oids)s::oid[]) t (oid), pg_partition_tree(t.oid) p
) r
join pg_class c on c.oid = r.oid join pg_namespace n on n.oid = c.relnamespace join pg_roles o on o.oid = c.relowner
where not (pg_has_role(c.relowner, 'usage') and pg_has_role(c.relowner, 'set'))
order by 1, 2
"""


def findings(home: Home, tables: Sequence[Table]) -> Iterator[Finding]:
    """What the catalogues of this server say about these tables."""
    pool, oids = home.pool, [t.oid for t in tables]
    for table in tables:
        yield from _table(pool, table)
    for schema, name, cache, increment in pool.rows(_SEQUENCES, {"oids": oids}):
        yield from _sequence(pool.where, schema, name, cache, increment)
    for schema, name, trigger, always in pool.rows(_TRIGGERS, {"oids": oids, "ours": f"{names.PREFIX}_"}):
        yield warning(
            "trigger_fires_on_apply",
            f"{pool.where}, {collection_of(schema, name)}",
            f"the trigger {trigger} is ENABLE {'ALWAYS' if always else 'REPLICA'}: it fires on the target again for"
            " every row that arrives there",
            "let it fire for the app's own writes only, unless it is made for both",
            sql.SQL("alter table {} enable trigger {}")
            .format(sql.Identifier(schema, name), sql.Identifier(trigger))
            .as_string(),
        )
    for schema, name, owner, privileged, command in pool.rows(_NOT_OWNED, {"oids": oids}):
        yield refusal(
            "not_owner",
            f"{pool.where}, {collection_of(schema, name)}",
            f"Tenure's role is no member of the table's owner {owner}: it can neither publish the table nor put"
            " triggers on it, and a subscription cannot write to it",
            "give the table to a role that is no superuser, and make Tenure's role a member of that"
            if privileged
            else "make it one, with the owner's rights (INHERIT) and with SET",
            "" if privileged else command,
        )
    hidden = {oid for (oid,) in pool.rows(_HIDDEN, {"oids": oids})}
    for table in tables:
        if table.oid in hidden:
            role = sql.Identifier(pool.value("select current_user::text")).as_string()
            yield refusal(
                "row_level_security",
                f"{pool.where}, {table.collection}",
                "row-level security applies to Tenure's role: it would not see every row",
                "let Tenure's role pass by the policies",
                f"alter role {role} bypassrls",
            )


def _sequence(where: str, schema: str, name: str, cache: int, increment: int) -> Iterator[Finding]:
    place, quoted = f"{where}, {collection_of(schema, name)}", sql.Identifier(schema, name).as_string()
    if increment < 0:
        yield refusal(
            "sequence_descends",
            place,
            "the sequence descends: Tenure only raises sequences, so the target would draw numbers again",
            "have it ascend, above what has been drawn",
        )
    elif cache > 1:
        yield warning(
            "sequence_cache",
            place,
            f"sessions draw {cache} numbers at a time: numbers drawn before the switch may be taken after it",
            "have each session draw one at a time",
            f"alter sequence {quoted} cache 1",
        )


def _table(pool: Pool, table: Table) -> Iterator[Finding]:
    where = f"{pool.where}, {table.collection}"
    tenant_column = table.spec.tenant_column
    if not table.pickable:
        yield refusal(
            "tenant_column_missing",
            where,
            f"there is no column {tenant_column}",
            "correct tenant_column in catalogue.yaml",
        )
        return
    quoted = table.spec.sql.as_string()
    if tenant_column is not None and not table.column(tenant_column).builtin:
        yield refusal(
            "tenant_column_type",
            where,
            f"{tenant_column} is a {table.column(tenant_column).type_name}: row filters take built-in types only",
            f"alter table {quoted} alter column {_quoted(tenant_column)} type text",
        )
    yield from _identity(where, table)
    if table.persistence != "p":
        yield refusal(
            "unlogged",
            where,
            "the table is unlogged: its changes are not replicated",
            "make it a logged one (this rewrites it)",
            f"alter table {quoted} set logged",
        )
    if table.inherited_by:
        yield refusal(
            "inheritance",
            where,
            "tables inherit from it: their rows would be neither copied nor fenced",
            "list the inheriting tables in catalogue.yaml instead, or use partitions",
        )
    for its in table.columns:
        if "::text)::regclass" in (its.expression or ""):
            yield warning(
                "sequence_unknown",
                f"{where}, {its.name}",
                f"its default looks a sequence up by name ({its.expression}), so Tenure cannot know that sequence",
                "name the sequence itself: set default nextval('...'::regclass)",
            )
    if tenant_column is None:
        return
    for (index,) in pool.rows(_UNIQUE, {"oid": table.oid, "column": tenant_column}):
        yield warning(
            "unique_across_tenants",
            f"{where}, {index}",
            f"the unique index lacks {tenant_column}: a neighbour on the target may have the same value, which stops"
            " the copy",
            f"add {tenant_column} to the index, or make sure that its values are unique everywhere",
        )


def _identity(where: str, table: Table) -> Iterator[Finding]:
    tenant_column = table.spec.tenant_column
    generated = [c.name for c in table.columns if c.generated and c.name in {*table.key, tenant_column}]
    if not table.key:
        yield refusal(
            "no_primary_key",
            where,
            "the table has no primary key: its rows cannot be told apart",
            f"give it one: alter table {table.spec.sql.as_string()} add primary key"
            f" ({f'{_quoted(tenant_column)}, ' if tenant_column is not None else ''}...)",
        )
        return
    if generated:
        yield refusal(
            "generated_key",
            where,
            f"{', '.join(generated)} is generated: replication carries no generated columns, so rows could not be told"
            " apart or not be picked by tenant",
            "have the app write this column",
        )
    lacking = [r for r in table.relations if not r.logs(tenant_column)]
    if lacking:
        relations = ", ".join(collection_of(*r.name) for r in lacking)
        named = f" of {relations}" if table.partitioned else ""
        everywhere = ", of the table and of each partition, new ones too" if table.partitioned else ""
        if tenant_column is None:
            message = (
                f"there is no replica identity{named}: updates and deletes would fail once they are published"
            )
            fix = f"have the key be the replica identity{everywhere}"
        else:
            message = (
                f"{tenant_column} is not part of the replica identity{named}: updates and deletes cannot be filtered by"
                " tenant, and would fail"
            )
            fix = (
                "make a unique index over the key with the tenant column, and have it be the replica identity"
                f"{everywhere}"
            )
        yield refusal(
            "replica_identity",
            where,
            message,
            fix,
            "\n".join(_make_identity(table, r) for r in lacking),
        )


def _make_identity(table: Table, relation: Relation) -> str:
    """Statements that give one relation a replica identity, with the tenant column if there is one. They wait for its
    writers.

    A partitioned table comes last: its index takes those of its partitions for its own.
    """
    tenant_column = table.spec.tenant_column
    if tenant_column is None and table.relations[-1].replica_identity != "i":  # so the key is the primary key
        return (
            sql.SQL("alter table {} replica identity default;")
            .format(sql.Identifier(*relation.name))
            .as_string()
        )
    mine = () if tenant_column is None else (tenant_column,)
    columns = (*mine, *(k for k in table.key if k != tenant_column))
    index = sql.Identifier(f"{relation.name[1][:40]}_{names.short(*relation.name)}")
    nullable = [c for c in columns if not table.column(c).not_null]
    return (
        sql.SQL("")
        .join(
            sql.SQL("alter table {} alter column {} set not null; ").format(
                sql.Identifier(*relation.name), sql.Identifier(c)
            )
            for c in nullable
        )
        .as_string()
        + sql.SQL(
            "create unique index {index} on {table} ({columns});"
            " alter table {table} replica identity using index {index};"
        )
        .format(
            index=index,
            table=sql.Identifier(*relation.name),
            columns=sql.SQL(", ").join(sql.Identifier(c) for c in columns),
        )
        .as_string()
    )


def large_objects(pool: Pool, tables: Sequence[Table], tenant: TenantId) -> Iterator[Finding]:
    """Columns that may name large objects, and how many of them the tenant's rows do name."""
    for table in tables:
        if not table.pickable:
            continue
        for column in table.columns:
            if column.type_name.rpartition(".")[2] not in {"oid", "lo"} or column.type_name.endswith("[]"):
                continue
            where = f"{pool.where}, {table.collection}, {column.name}"
            fix = "store the contents in a bytea column or in the object store"
            count = pool.value(
                sql.SQL(
                    "select count(*) from {} t join pg_largeobject_metadata m on m.oid = t.{}::oid where {}"
                ).format(table.spec.sql, sql.Identifier(column.name), table.of_tenant(tenant, "t"))
            )
            if count:
                yield refusal(
                    "large_object",
                    where,
                    f"{count} rows of {tenant} refer to large objects: no replication carries these",
                    fix,
                )
            else:
                yield warning(
                    "large_object",
                    where,
                    "if this is to refer to large objects: they are not replicated",
                    fix,
                )


def unknown_tables(home: Home, tenant: TenantId, *, elsewhere: frozenset[str] | None) -> Iterator[Finding]:
    """Tables with a tenant column that the catalogue does not name, outside of schemas of the tenants' own.

    `elsewhere`: see `home_checks.unknown_table`.
    """
    columns = sorted({t.tenant_column for t in home.all_tables if t.tenant_column is not None})
    wanted = {"columns": columns, "without": [*neighbours(home), *sorted(home.schemas)]}
    known = home.known
    for schema, name, column, textual in home.pool.rows(_CANDIDATES, wanted):
        if collection_of(schema, name) in known:
            continue
        mine = sql.SQL("{}{} = {}").format(
            sql.Identifier(column), sql.SQL("" if textual else "::text"), sql.Literal(str(tenant))
        )
        about = "the table has a tenant column but the catalogue does not know it"
        yield unknown_table(home, (schema, name), mine, tenant, about=about, elsewhere=elsewhere)


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string()
