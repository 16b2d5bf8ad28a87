-- The control database: who is served where, what is being done about it, and the journal of both.
-- Every statement can run again: a migration that was cut off, or that is applied twice, leaves the same schema.
--
-- Lock order, everywhere: operation row, step row, placement row, the lock that numbers the events.
-- A transaction that writes events ends at once.

create schema if not exists registry;

-- One sequence for every claim of every step, so that of two holders of anything the later has the greater token.
create sequence if not exists registry.fencing_token as bigint minvalue 1;
create sequence if not exists registry.event_seq as bigint minvalue 1;

create table if not exists registry.tenants (
    id text collate "C" primary key,
    tier text not null,
    host text not null unique,
    residency text,
    state text not null default 'active' check (state in ('active', 'suspended')),
    legal_hold text,
    added_at timestamptz not null default clock_timestamp()
);

create table if not exists registry.operations (
    id text collate "C" primary key,
    kind text not null,
    tenant text collate "C",
    state text not null default 'planned' check (state in (
        'planned', 'running', 'parked', 'awaiting', 'aborting', 'soaking',
        'completed', 'rolled_back', 'succeeded', 'aborted', 'failed'
    )),
    active boolean not null generated always as (state in ('planned', 'running', 'parked', 'awaiting', 'aborting')) stored,
    phase text not null default 'planned',
    request jsonb not null default '{}',
    plan jsonb not null default '{}',
    plan_digest text not null default '',
    requested_by text not null,
    created_at timestamptz not null default clock_timestamp(),
    started_at timestamptz,
    finished_at timestamptz,
    committed_at timestamptz,
    cancel_requested boolean not null default false,
    stuck boolean not null default false,
    result jsonb not null default '{}',
    error jsonb,
    cost jsonb not null default '{}',
    data jsonb not null default '{}',
    constraint committed_goes_forward check (committed_at is null or state not in ('planned', 'aborting', 'aborted', 'failed'))
);

create unique index if not exists one_active_operation_per_tenant on registry.operations (tenant) where active;
create index if not exists operations_by_tenant on registry.operations (tenant, created_at);
create index if not exists operations_by_time on registry.operations (created_at);

create table if not exists registry.steps (
    operation text collate "C" not null references registry.operations (id),
    position integer not null,
    name text not null,
    state text not null default 'pending' check (state in ('pending', 'running', 'done', 'failed', 'abandoned')),
    attempt integer not null default 0,
    attempts_used integer not null default 0,
    token bigint not null default 0,
    lease_until timestamptz,
    holder text,
    due_at timestamptz,
    checkpoint jsonb not null default '{}',
    progress jsonb not null default '{}',
    result jsonb,
    error jsonb,
    started_at timestamptz,
    finished_at timestamptz,
    primary key (operation, position),
    unique (operation, name),
    constraint running_is_leased check (state <> 'running' or (lease_until is not null and holder is not null))
);

create index if not exists steps_under_way on registry.steps (due_at) where state in ('pending', 'running');

create table if not exists registry.placements (
    tenant text collate "C" primary key,
    cell text not null,
    epoch bigint not null check (epoch >= 1),
    since timestamptz not null default clock_timestamp(),
    operation text collate "C",
    token bigint
);

create table if not exists registry.placement_history (
    tenant text collate "C" not null,
    epoch bigint not null,
    cell text not null,
    since timestamptz not null,
    operation text collate "C",
    token bigint,
    primary key (tenant, epoch)
);

create table if not exists registry.events (
    seq bigint primary key,
    at timestamptz not null default clock_timestamp(),
    operation text collate "C",
    tenant text collate "C",
    actor text not null,
    action text not null,
    data jsonb not null default '{}'
);

create index if not exists events_by_operation on registry.events (operation, seq);
create index if not exists events_by_tenant on registry.events (tenant, seq);

create table if not exists registry.links (
    name text primary key,
    tenant text collate "C" not null,
    cell_a text not null,
    cell_b text not null,
    source text not null,
    state text not null default 'active' check (state in ('active', 'expired', 'ending', 'removed')),
    created_by text,
    created_at timestamptz not null default clock_timestamp(),
    soak_until timestamptz,
    expired_at timestamptz,
    expired_because text,
    constraint source_is_one_of_both check (source in (cell_a, cell_b)),
    constraint two_cells check (cell_a <> cell_b)
);

create unique index if not exists one_active_link_per_tenant on registry.links (tenant) where state <> 'removed';

create table if not exists registry.measurements (
    id bigint primary key generated always as identity,
    kind text not null,
    route text not null,
    store text not null,
    items bigint not null check (items >= 0),
    bytes bigint not null check (bytes >= 0),
    seconds double precision not null check (seconds >= 0),
    at timestamptz not null default clock_timestamp()
);

create index if not exists measurements_recent on registry.measurements (kind, route, store, at);

-- What has been written to the journal stays as it is.

create or replace function registry.refuse_change() returns trigger language plpgsql as $$
begin
    raise exception using errcode = 'TR005',
        message = format('%s is append-only: %s refused', tg_table_name, lower(tg_op));
end $$;

create or replace trigger events_append_only before update or delete or truncate on registry.events
    for each statement execute function registry.refuse_change();
create or replace trigger placement_history_append_only before update or delete or truncate on registry.placement_history
    for each statement execute function registry.refuse_change();
create or replace trigger placements_not_truncated before truncate on registry.placements
    for each statement execute function registry.refuse_change();

-- An epoch grows by one with every change and never goes back, not even when a tenant is removed and added again.

create or replace function registry.check_epoch() returns trigger language plpgsql as $$
declare
    last bigint;
begin
    select max(h.epoch) into last from registry.placement_history h where h.tenant = new.tenant;
    if tg_op = 'UPDATE' and new.tenant is distinct from old.tenant then
        raise exception using errcode = 'TR002', message = format('the placement of %s cannot become another tenant''s', old.tenant);
    end if;
    if new.epoch <> coalesce(last, 0) + 1 then
        raise exception using errcode = 'TR002',
            message = format('the next epoch of %s is %s, not %s', new.tenant, coalesce(last, 0) + 1, new.epoch);
    end if;
    return new;
end $$;

create or replace function registry.keep_placement() returns trigger language plpgsql as $$
begin
    insert into registry.placement_history (tenant, epoch, cell, since, operation, token)
    values (new.tenant, new.epoch, new.cell, new.since, new.operation, new.token);
    return null;
end $$;

create or replace trigger placements_epoch before insert or update on registry.placements
    for each row execute function registry.check_epoch();
create or replace trigger placements_history after insert or update on registry.placements
    for each row execute function registry.keep_placement();

-- Events become visible in the order of their numbers, so that a reader who continues after the last number it saw
-- misses none: the number is drawn under a lock that is kept until the commit.

create or replace function registry.number_event() returns trigger language plpgsql as $$
begin
    perform pg_advisory_xact_lock(hashtextextended('tenure.registry.events', 0));
    new.seq := nextval('registry.event_seq');
    return new;
end $$;

create or replace function registry.announce_events() returns trigger language plpgsql as $$
begin
    notify tenure_events;
    return null;
end $$;

create or replace trigger events_numbered before insert on registry.events
    for each row execute function registry.number_event();
create or replace trigger events_announced after insert on registry.events
    for each statement execute function registry.announce_events();

-- The point of no return, in one round trip: everything is checked under row locks, then the placement, its history,
-- the operation's commit time and the journal change together or not at all. It waits for a lock only so long, for the
-- tenant's users wait with it. Repeating a commit that happened gives
-- the same placement and changes nothing.

create or replace function registry.commit_placement(
    in_operation text, in_position integer, in_token bigint,
    in_tenant text, in_expected_epoch bigint, in_cell text, in_actor text, in_lock_timeout_ms integer
) returns registry.placements language plpgsql as $$
declare
    op registry.operations;
    step registry.steps;
    placement registry.placements;
begin
    perform set_config('lock_timeout', in_lock_timeout_ms || 'ms', true);
    select * into op from registry.operations o where o.id = in_operation for no key update;
    select * into step from registry.steps s where s.operation = in_operation and s.position = in_position for no key update;
    if step.token is distinct from in_token or step.state is distinct from 'running' then
        raise exception using errcode = 'TR001', message = format('token %s no longer holds the step', in_token);
    end if;
    if op.tenant is distinct from in_tenant then
        raise exception using errcode = 'TR002', message = format('%s is not an operation on %s', in_operation, in_tenant);
    end if;

    select * into placement from registry.placements p where p.tenant = in_tenant for no key update;
    if op.committed_at is not null and placement.operation = in_operation
        and placement.epoch = in_expected_epoch + 1 and placement.cell = in_cell then
        return placement;
    end if;
    if op.committed_at is not null or op.state <> 'running' then
        raise exception using errcode = 'TR002',
            message = format('%s is %s and cannot change a placement', in_operation,
                             case when op.committed_at is null then op.state else 'committed already' end);
    end if;
    if op.cancel_requested then
        raise exception using errcode = 'TR003', message = format('%s is to be cancelled', in_operation);
    end if;
    if placement.epoch is distinct from in_expected_epoch then
        raise exception using errcode = 'TR002', message = format(
            'the placement of %s has epoch %s, not %s', in_tenant, coalesce(placement.epoch::text, 'none'), in_expected_epoch);
    end if;

    update registry.placements p
        set cell = in_cell, epoch = in_expected_epoch + 1, since = clock_timestamp(), operation = in_operation, token = in_token
        where p.tenant = in_tenant
        returning * into placement;
    update registry.operations o set committed_at = placement.since where o.id = in_operation;
    insert into registry.events (operation, tenant, actor, action, data) values (
        in_operation, in_tenant, in_actor, 'placement_changed',
        jsonb_build_object('cell', in_cell, 'epoch', placement.epoch, 'token', in_token)
    );
    return placement;
end $$;
