-- Searches for tenants' identifiers: how far each store of each cell is, so that a scan can be carried on, and what was
-- found. No identifier of a person is kept: only labels, which are digests.

create table if not exists registry.scans (
    id text collate "C" primary key,
    actor text not null,
    request jsonb not null,
    started_at timestamptz not null default clock_timestamp(),
    finished_at timestamptz
);

-- `cursor` is where a store goes on, and means something to that store alone. It changes together with what was found up
-- to there, so that nothing is counted twice and nothing is left out.
create table if not exists registry.scan_parts (
    scan text collate "C" not null references registry.scans (id) on delete cascade,
    cell text collate "C" not null,
    store text collate "C" not null,
    state text not null default 'pending' check (state in ('pending', 'running', 'done', 'failed')),
    cursor text,
    items bigint not null default 0,
    size_bytes bigint not null default 0,
    items_total bigint,
    bytes_total bigint,
    found jsonb not null default '[]',
    skipped jsonb not null default '[]',
    problem text,
    updated_at timestamptz not null default clock_timestamp(),
    primary key (scan, cell, store)
);
