-- Backups as the control database knows them: which there are, in which regions' vaults, and when each was last found
-- whole. What is kept and what may go is decided from this and from the vaults' own clocks, never from what a manifest
-- claims. And the ledger of erasures, which every restore consults.

create table if not exists registry.backups (
    id text collate "C" primary key,
    tenant text collate "C" not null,
    operation text collate "C" not null references registry.operations (id),
    tier text not null,
    cell text not null,
    epoch bigint not null,
    period timestamptz,
    state text not null default 'taking' check (state in ('taking', 'complete', 'abandoned')),
    begun_at timestamptz not null default clock_timestamp(),
    point_at timestamptz,
    contents text,
    key text,
    items bigint check (items >= 0),
    size_bytes bigint check (size_bytes >= 0),
    details jsonb not null default '{}',
    constraint complete_says_what_it_is check (
        state <> 'complete' or (point_at is not null and contents is not null and key is not null)
    )
);

create index if not exists backups_by_tenant on registry.backups (tenant, begun_at);

-- One row per region whose vault has the backup, or had it. `stored_at` is the vault's clock, `contents` the digest of the
-- list of its chunks there.
create table if not exists registry.backup_copies (
    backup text collate "C" not null references registry.backups (id),
    region text collate "C" not null,
    state text not null default 'stored' check (state in ('stored', 'deleting', 'deleted')),
    stored_at timestamptz not null,
    contents text not null,
    locked_until timestamptz,
    verified_at timestamptz,
    depth text check (depth in ('sample', 'full')),
    whole boolean,
    problems jsonb not null default '[]',
    deleted_at timestamptz,
    deleted_because text,
    primary key (backup, region),
    constraint verified_says_how check ((verified_at is null) = (depth is null) and (verified_at is null) = (whole is null)),
    constraint deleted_says_when check ((state = 'deleted') = (deleted_at is not null))
);

-- What a complete backup is stays as it was written down: who could change it could have it deleted early.

create or replace function registry.keep_backup() returns trigger language plpgsql as $$
begin
    if old.state <> 'taking' and (
        new.tenant, new.operation, new.cell, new.epoch, new.state, new.begun_at, new.point_at, new.contents, new.key
    ) is distinct from (
        old.tenant, old.operation, old.cell, old.epoch, old.state, old.begun_at, old.point_at, old.contents, old.key
    ) then
        raise exception using errcode = 'TR005',
            message = format('what backup %s is cannot be changed: %s refused', old.id, lower(tg_op));
    end if;
    return new;
end $$;

create or replace function registry.keep_backup_copy() returns trigger language plpgsql as $$
begin
    if (new.stored_at, new.contents) is distinct from (old.stored_at, old.contents) or old.state = 'deleted' then
        raise exception using errcode = 'TR005',
            message = format('what %s in %s is, and that it was deleted, cannot be changed', old.backup, old.region);
    end if;
    return new;
end $$;

create or replace trigger backups_kept before update on registry.backups
    for each row execute function registry.keep_backup();
create or replace trigger backups_not_deleted before delete or truncate on registry.backups
    for each statement execute function registry.refuse_change();
create or replace trigger backup_copies_kept before update on registry.backup_copies
    for each row execute function registry.keep_backup_copy();
create or replace trigger backup_copies_not_deleted before delete or truncate on registry.backup_copies
    for each statement execute function registry.refuse_change();

-- Backups that were restored into a scratch place and compared: how long that took, and how old the backup was.
create table if not exists registry.drills (
    operation text collate "C" primary key references registry.operations (id),
    backup text collate "C" not null references registry.backups (id),
    tenant text collate "C" not null,
    tier text not null,
    region text not null,
    at timestamptz not null default clock_timestamp(),
    equal boolean not null,
    recovery_s double precision not null check (recovery_s >= 0),
    recovery_point_s double precision not null,
    details jsonb not null default '{}'
);

create index if not exists drills_by_tier on registry.drills (tier, at);

-- Who was erased. Neither tenants nor persons are named: only digests under a key that is kept elsewhere, so that whoever
-- has a name and the key can ask, and nobody can read. `key_id` says which key, so that nobody asks with another one in
-- vain. A person's row has the tenant's digest as well.

create table if not exists registry.erasures (
    id bigint primary key generated always as identity,
    request text not null,
    operation text collate "C",
    scope text not null check (scope in ('tenant', 'person')),
    key_id text not null,
    tenant bytea not null check (octet_length(tenant) = 32),
    person bytea check (octet_length(person) = 32),
    erased_at timestamptz not null default clock_timestamp(),
    constraint person_is_digested check ((scope = 'person') = (person is not null))
);

create unique index if not exists erasures_once on registry.erasures (request, scope, key_id, tenant, person) nulls not distinct;
create index if not exists erasures_by_tenant on registry.erasures (tenant, erased_at);

create or replace trigger erasures_append_only before update or delete or truncate on registry.erasures
    for each statement execute function registry.refuse_change();
