"""Whether a backup's streams fit into the tables of a place, and what stands in the way of a restore there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Final

from tenure.backups.contract import Source, Stream
from tenure.errors import StoreRefused
from tenure.model.finding import Finding, Severity
from tenure.model.names import TenantId
from tenure.stores.postgres import fence as fences
from tenure.stores.postgres import home_checks, streams
from tenure.stores.postgres.connect import Connection, Pool
from tenure.stores.postgres.findings import refusal, warning
from tenure.stores.postgres.home import Home
from tenure.stores.postgres.staging import Staged
from tenure.stores.postgres.tables import Table, TenantTable, describe

NAMED: Final = 5

_LACKING: Final = """
select why, replace(command, '$ROLE', quote_ident(current_user)) from (
    select 'what it loads must not fire the app''s triggers' as why,
        'grant set on parameter session_replication_role to $ROLE' as command
        where not has_parameter_privilege('session_replication_role', 'set')
    union all select 'what it loads must bear an origin, by which the fence knows it',
        format('grant execute on function %%s to $ROLE', p.oid::regprocedure)
        from pg_proc p where p.pronamespace = 'pg_catalog'::regnamespace
            and p.proname in ('pg_replication_origin_create', 'pg_replication_origin_drop',
                'pg_replication_origin_session_setup', 'pg_replication_origin_session_is_setup')
            and not has_function_privilege(p.oid, 'execute')
) lacking
"""

_ALWAYS: Final = """
select n.nspname::text, c.relname::text, t.tgname::text from pg_trigger t join pg_class c on c.oid = t.tgrelid
join pg_namespace n on n.oid = c.relnamespace
where t.tgrelid = any(%(oids)s::oid[]) and not t.tgisinternal and t.tgenabled in ('A', 'R')
    and not starts_with(t.tgname, 'tenure_')
"""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One stream and the table that it is for: `whole`, and `live` without the columns that the stream has not.
    `columns` are those of the stream; `problems` say why it does not fit."""

    stream: Stream
    whole: Table
    live: Table
    columns: tuple[str, ...]
    problems: tuple[str, ...]

    def staged(self, connection: Connection, n: int) -> Staged:
        """Its place beside the live rows, in that session."""
        return Staged(connection=connection, live=self.live, columns=self.columns, name=f"tenure_backup_{n}")


def parts(
    pool: Pool,
    home: Home,
    found: Sequence[Stream],
    specs: Mapping[str, TenantTable],
    origin: TenantId,
) -> list[Part]:
    """Streams with their tables. Raises `StoreRefused` for streams that nothing here can read, or has a table for."""
    tables = {t.spec: t for t in describe(pool, home.all_tables)}
    made = []
    for stream in found:
        about = f"{pool.where}: the backup's stream of {stream.collection}"
        if stream.header.get("format") != streams.FORMAT:
            raise StoreRefused(
                f"{about} is {stream.header.get('format')}, and this Tenure reads {streams.FORMAT}",
                hint="restore with the release that the backup names",
            )
        if stream.header.get("tenant") != origin:
            raise StoreRefused(f"{about} is of another tenant than {origin}")
        spec = specs.get(stream.collection)
        if spec is None or spec not in tables:
            raise StoreRefused(
                f"{about} has no table here",
                hint="create the table, or add it to catalogue.yaml, or choose what to restore",
            )
        made.append(_part(stream, tables[spec]))
    return made


def _part(stream: Stream, table: Table) -> Part:
    described: list[dict[str, Any]] = stream.header["columns"]
    columns = tuple(str(c["name"]) for c in described)
    inside = {*columns}
    return Part(
        stream=stream,
        whole=table,
        live=replace(
            table,
            columns=tuple(c for c in table.columns if c.name in inside or c.generated),
            unshared=tuple(c for c in table.columns if c.name not in inside and not c.generated),
        )
        if inside != {c.name for c in table.stored}
        else table,
        columns=columns,
        problems=tuple(_problems(stream.header, described, table)),
    )


def _problems(
    header: Mapping[str, Any], described: Sequence[Mapping[str, Any]], table: Table
) -> Iterator[str]:
    here = {c.name: c for c in table.columns}
    for column in described:
        name, type_name = column["name"], column["type"]
        if name not in here:
            yield f"column {name} is gone"
        elif here[name].generated:
            yield f"column {name} is generated now"
        elif here[name].type_name != type_name:
            yield f"column {name} was {type_name} and is {here[name].type_name}"
    known = {str(c["name"]) for c in described}
    for name, there in here.items():
        if name not in known and not there.fills_itself:
            yield f"column {name} is new, and rows of the backup would have no value for it"
    if tuple(header["key"]) != table.key:
        yield f"the key was {', '.join(header['key'])} and is {', '.join(table.key)}"
    if header["tenant_column"] != table.spec.tenant_column:
        yield f"the tenant column was {header['tenant_column']} and is {table.spec.tenant_column}"


def findings(
    server: Pool,
    home: Home,
    found: Sequence[Stream],
    specs: Mapping[str, TenantTable],
    tenant: TenantId,
    origin: TenantId,
    source: Source,
) -> list[Finding]:
    """All of them, the gravest first. Reads only."""
    if home_checks.database_missing(server, home):
        return [
            refusal(
                "database_missing",
                home.pool.where,
                "the tenant's database is not there",
                "create it, and run the app's migrations there",
            )
        ]
    try:
        made = parts(home.pool, home, found, specs, origin)
    except StoreRefused as error:
        return [refusal("stream_unreadable", home.pool.where, error.message, error.hint or "")]
    said = [*_rights(home.pool), *_fitting(home.pool, made), *_triggers(home.pool, made)]
    left = sorted({s.collection for s in specs.values()} - {p.live.collection for p in made})
    said += [
        warning(
            "not_in_backup",
            f"{home.pool.where}, {name}",
            "the backup has nothing of this table: what is in it stays as it is",
            "see whether its rows go with those of the backup",
        )
        for name in left
    ]
    links = fences.linked(home.pool, tenant)
    if links:
        said.append(
            refusal(
                "linked",
                home.pool.where,
                f"a link of {tenant} is there ({', '.join(links)}): it would carry, or lose, what is restored",
                "complete or roll back the move first",
            )
        )
    if origin != tenant and not any(p.problems for p in made):
        said += _taken(home.pool, made, tenant, origin, source)
    order = {Severity.REFUSAL: 0, Severity.WARNING: 1, Severity.INFO: 2}
    return sorted(dict.fromkeys(said), key=lambda f: (order[f.severity], f.where, f.code))


def _rights(pool: Pool) -> Iterator[Finding]:
    lacking = pool.rows(_LACKING)
    if lacking:
        yield refusal(
            "rights",
            pool.where,
            "Tenure's role may not restore here: " + "; ".join(why for why, _ in lacking),
            "grant it what it lacks, as a superuser",
            ";\n".join(command for _, command in lacking),
        )


def _fitting(pool: Pool, made: Sequence[Part]) -> Iterator[Finding]:
    for part in made:
        where = f"{pool.where}, {part.live.collection}"
        for problem in part.problems:
            yield refusal(
                "schema_differs",
                where,
                f"the table is not that of the backup: {problem}",
                "migrate the backup's schema in a scratch database first",
            )
        for column in part.live.unshared:
            if column.fills_itself:
                yield warning(
                    "newer_column",
                    f"{where}, {column.name}",
                    "the backup knows no such column: rows that come back get its default, others keep what they have",
                    "see whether the default will do",
                )


def _triggers(pool: Pool, made: Sequence[Part]) -> Iterator[Finding]:
    for schema, table, name in pool.rows(_ALWAYS, {"oids": [p.live.oid for p in made]}):
        yield warning(
            "trigger_fires",
            f"{pool.where}, {schema}.{table}",
            f"the trigger {name} fires for whoever writes, so for what is restored as well",
            "disable it during the restore, if it must not",
        )


def _taken(
    pool: Pool, made: Sequence[Part], tenant: TenantId, origin: TenantId, source: Source
) -> Iterator[Finding]:
    """Keys that others have, in tables that tenants share and whose key does not name the tenant."""
    for part in made:
        column = part.live.spec.tenant_column
        if column is None or column in part.live.key:
            continue
        with closing(pool.connect()) as connection:
            streams.prepare(connection)
            staged = part.staged(connection, 0)
            staged.create(streams.of_tenant(part.live, source.read(part.stream), origin, tenant))
            count, some = staged.others_keys(tenant, NAMED)
        if count:
            named = ", ".join("(" + ", ".join(key) + ")" for key in some)
            yield refusal(
                "keys_taken",
                f"{pool.where}, {part.live.collection}",
                f"{count} rows of the backup have keys that other tenants' rows have: {named}",
                "restore into a cell that does not have them, or under the backup's own name",
            )
