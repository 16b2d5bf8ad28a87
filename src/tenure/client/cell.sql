-- What Tenure keeps in a cell's PostgreSQL: the fence, the permit, and what changes during a move. Safe to run again.
-- In the steady state every table is empty (fence rows go with the link that made them) and no trigger is installed.

create schema if not exists tenure;

-- One row per tenant that takes part in a link. `until`: the fence lifts itself then (clock of this server).
create table if not exists tenure.fence (
    tenant_id  text primary key,
    writable   boolean not null,
    until      timestamptz,
    epoch      bigint not null,
    token      bigint not null,
    recording  boolean not null default false,
    generation bigint not null
);

-- Grows with every row that tenure.fence gets. Not transactional on purpose: it shows a transaction with an old
-- snapshot that a fence may exist which it cannot see.
create sequence if not exists tenure.generation;
create table if not exists tenure.generation_seen (one boolean primary key default true check (one), generation bigint not null);
insert into tenure.generation_seen values (true, 0) on conflict do nothing;

-- What changed since the comparison began, while a fence row says `recording`.
create table if not exists tenure.touched (
    tenant_id text not null,
    relation  text not null,
    key       jsonb not null,
    version   bigint not null,
    primary key (tenant_id, relation, key)
);
create sequence if not exists tenure.touched_version;

-- The feed's marks. The only table here that is published.
create table if not exists tenure.mark (
    tenant_id  text not null,
    link       text not null,
    n          bigint not null,
    primary key (tenant_id, link, n)
);

-- What the app touched in stores that have no change feed, while a fence row says `recording`.
create table if not exists tenure.journal (
    tenant_id text not null,
    id        bigint generated always as identity,
    store     text not null,
    key       text not null,
    primary key (tenant_id, id)
);

create or replace function tenure.lock_key(tenant text) returns bigint
language sql immutable parallel safe
return hashtextextended('tenure:' || tenant, 7);

-- The right to write for the tenant until this transaction ends. Waits while a fence goes down or up; raises TN001 if
-- the tenant is fenced here, 40001 if this transaction's snapshot is too old to know. Returns whether changes are
-- being recorded. Under READ COMMITTED the second query sees what was committed while the first one waited.
create or replace function tenure.permit(tenant text) returns boolean
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
declare
    f tenure.fence%rowtype;
    seen bigint;
begin
    perform pg_advisory_xact_lock_shared(tenure.lock_key(tenant));
    if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
        -- A locking read fails with 40001 if the row has changed since the snapshot.
        select * into f from tenure.fence where tenant_id = tenant for share;
        if not found then
            select generation into seen from tenure.generation_seen;
            if seen < (select last_value from tenure.generation where is_called) then
                raise exception 'the snapshot of this transaction is older than the last move that began here'
                    using errcode = '40001', hint = 'Run the transaction again.';
            end if;
            return false;
        end if;
    else
        select * into f from tenure.fence where tenant_id = tenant;
        if not found then
            return false;
        end if;
    end if;
    if not f.writable and (f.until is null or f.until > clock_timestamp()) then
        raise exception 'tenant % is fenced in this cell', tenant
            using errcode = 'TN001', hint = 'Look up where the tenant is served now and run the transaction there.';
    end if;
    return f.recording;
end $$;

-- Says that the app is about to change `key` of `store` (an object, say) in this transaction. Takes a permit.
create or replace function tenure.touch(tenant text, store text, key text) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
    if tenure.permit(tenant) then
        insert into tenure.journal (tenant_id, store, key) values (tenant, store, key);
    end if;
end $$;

revoke all on all tables in schema tenure from public;
revoke all on all sequences in schema tenure from public;
grant usage on schema tenure to public;
grant execute on function tenure.permit(text), tenure.touch(text, text, text) to public;
