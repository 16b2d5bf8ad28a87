"""Describes the schema of a control database as text that does not depend on the server's version."""

from __future__ import annotations

import sys
from pathlib import Path

from tenure.model.secret import Secret
from tenure.registry import migrations
from tenure.registry.database import Database

_PARTS = {
    "columns": """
        select format('%s.%s %s%s%s', table_name, column_name, data_type,
                      case when is_nullable = 'NO' then ' not null' else '' end,
                      coalesce(' default ' || column_default, '')
                      || coalesce(' generated ' || generation_expression, ''))
        from information_schema.columns where table_schema = 'registry' order by table_name, ordinal_position
    """,
    "constraints": """
        select format('%s.%s %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
        from pg_constraint where connamespace = 'registry'::regnamespace and contype <> 'n' and conrelid <> 0
        order by 1
    """,
    "indexes": "select indexdef from pg_indexes where schemaname = 'registry' order by 1",
    "triggers": """
        select pg_get_triggerdef(t.oid) from pg_trigger t join pg_class c on c.oid = t.tgrelid
        where c.relnamespace = 'registry'::regnamespace and not t.tgisinternal order by 1
    """,
    "functions": """
        select format('%s(%s) %s', proname, pg_get_function_identity_arguments(oid), md5(prosrc))
        from pg_proc where pronamespace = 'registry'::regnamespace order by 1
    """,
    "sequences": """
        select format('%s %s', sequencename, data_type) from pg_sequences where schemaname = 'registry' order by 1
    """,
}


def describe(database: Database) -> str:
    """Give one line for everything the schema has."""
    lines: list[str] = []
    with database.connection() as connection:
        for part, query in _PARTS.items():
            lines += [f"# {part}", *(str(row[0]) for row in connection.execute(query.encode()))]
    return "\n".join(lines) + "\n"


def main() -> None:
    database = Database(Secret(sys.argv[1]))
    migrations.migrate(database)
    Path(__file__).with_name("expected_schema.txt").write_text(describe(database), "utf-8")


if __name__ == "__main__":
    main()
