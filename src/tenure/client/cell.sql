-- What Tenure keeps in a cell's PostgreSQL: the fence, the permit, and what changes during a move. Safe to run again.
-- In the steady state no trigger is installed and every table is empty, but for the fence rows of tenants that have left
-- this cell and a number for each tenant that was ever moved.

create schema if not exists tenure;

-- One row per tenant that takes part in a link. `until`: the fence lifts itself then (clock of this server).
-- `compared`: the stores that were compared since recording began.
create table if not exists tenure.fence (
    tenant_id  text primary key,
    writable   boolean not null,
    until      timestamptz,
    epoch      bigint not null,
    token      bigint not null,
    recording  boolean not null default false,
    compared   text[] not null default '{}'
);

-- The greatest token that ever worked on the tenant here. It outlives the fence row, so that who was stopped for a while
-- and wakes up after the next one has finished finds out.
create table if not exists tenure.newest_token (
    tenant_id  text primary key,
    token      bigint not null
);
insert into tenure.newest_token select tenant_id, token from tenure.fence on conflict do nothing;

-- The transaction id of the newest insert into tenure.fence. A sequence because it must be seen by snapshots that are
-- older than it: a transaction that does not see this id as over cannot know of every fence.
create sequence if not exists tenure.newest_fence;

-- What changed since the comparison began, while a fence row says `recording`. `key` is the text of a jsonb array of
-- texts, compared byte by byte: jsonb's own order takes most of the time of recording.
create table if not exists tenure.touched (
    tenant_id text collate "C" not null,
    relation  text collate "C" not null,
    key       text collate "C" not null,
    version   bigint not null,
    primary key (tenant_id, relation, key)
);
create sequence if not exists tenure.touched_version;

-- Relations that a transaction changed more rows of than are worth naming one by one. One row per such transaction, so
-- that none waits for another; the newest stands for the ones before it, which go.
create table if not exists tenure.touched_in_bulk (
    tenant_id text collate "C" not null,
    relation  text collate "C" not null,
    version   bigint not null,
    primary key (tenant_id, relation, version)
);

-- The first changes since the last comparison, one row per change and without an index: a quarter of what `touched` costs
-- the app's transaction. `xact` is the transaction that made the change. At most `tenure.gate` says how many.
create table if not exists tenure.touched_log (
    tenant_id text collate "C" not null,
    relation  text collate "C" not null,
    key       text[] not null,
    xact      xid8 not null
);

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

-- Who reads the journal of a store besides the links (a backup that is being taken). Each change is a row for each of
-- them (`journal.reader`; '' is the links'), so that nobody takes away what another one has not read.
create table if not exists tenure.journal_reader (
    tenant_id text not null,
    store     text not null,
    reader    text not null,
    primary key (tenant_id, store, reader)
);
alter table tenure.journal add column if not exists reader text not null default '';

-- Which link holds a store beside this database that cannot refuse the tenant's writes itself, and which process copies
-- into it ('' if none does). The tenant's fence here is that store's too. `passed`: how far the first pass has come.
create table if not exists tenure.copier (
    tenant_id text not null,
    store     text not null,
    link      text not null,
    process   text not null default '',
    passed    text not null default '',
    primary key (tenant_id, store)
);

-- lock_key, permit, note and touch run in each transaction of a moving tenant. A `set search_path` takes longer than all
-- that they do, so they name the schema of everything instead, operators and types included.

create or replace function tenure.lock_key(tenant text) returns bigint
language sql immutable parallel safe
return hashtextextended('tenure:' || tenant, 7);

-- The gate of a tenant whose tables have triggers: a sequence, because a write sees at once what was last set there,
-- whatever its snapshot is. Who draws 1 to 10,000 from it and holds the tenant's lock may write without looking at the
-- fence row, and notes its change in `touched_log`. Invariant: while it can be drawn from, the row says writable and
-- recording. So it is shut under the exclusive lock before the row changes, and opened under the shared lock by a writer
-- that has looked at the row. Shutting is always safe: who finds it shut asks `note`. Null where there is none.
create or replace function tenure.gate(tenant text) returns regclass
language sql stable set search_path = pg_catalog, pg_temp as $$
    select to_regclass(format('tenure.%I', 'gate_' || to_hex(tenure.lock_key(tenant))))
$$;

create or replace function tenure.make_gate(tenant text) returns text
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    if tenure.gate(tenant) is null then
        execute format('create sequence tenure.%I start with 4611686018427387904', 'gate_' || to_hex(tenure.lock_key(tenant)));
    end if;
    return format('tenure.%I', 'gate_' || to_hex(tenure.lock_key(tenant)));
end $$;

create or replace function tenure.shut_gate(tenant text) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    g regclass := tenure.gate(tenant);
begin
    if g is not null then
        perform setval(g, 4611686018427387904);
    end if;
end $$;

-- For a writer that has found it shut and holds a permit.
create or replace function tenure.open_gate(tenant text, gate regclass) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    if exists (select from tenure.fence where tenant_id = tenant and writable and recording) then
        perform setval(gate, 1);
    end if;
end $$;

-- The right to write for the tenant until this transaction ends. Waits while a fence goes down or up; raises TN001 if
-- the tenant is fenced here, 40001 if this transaction's snapshot is too old to know. Returns whether changes are
-- being recorded. Under READ COMMITTED the second query sees what was committed while the first one waited.
create or replace function tenure.permit(tenant text) returns boolean
language plpgsql volatile security definer as $$
declare
    f tenure.fence%rowtype;
begin
    if pg_catalog.pg_advisory_xact_lock_shared(tenure.lock_key(tenant)) is null then
        null;  -- never: an expression is a third of what `perform` takes
    end if;
    if pg_catalog.current_setting('transaction_isolation')
        operator(pg_catalog.=) any (array['repeatable read', 'serializable'])
    then
        -- A locking read fails with 40001 if the row has changed since the snapshot.
        select * into f from tenure.fence where tenant_id operator(pg_catalog.=) tenant for share;
        if not found then
            if exists (select from tenure.newest_fence where is_called and not pg_catalog.pg_visible_in_snapshot(
                           last_value::pg_catalog.text::pg_catalog.xid8, pg_catalog.pg_current_snapshot())) then
                raise exception 'the snapshot of this transaction is older than the last move that began here'
                    using errcode = '40001', hint = 'Run the transaction again.';
            end if;
            return false;
        end if;
    else
        select * into f from tenure.fence where tenant_id operator(pg_catalog.=) tenant;
        if not found then
            return false;
        end if;
    end if;
    if not f.writable and (f.until is null or f.until operator(pg_catalog.>) pg_catalog.clock_timestamp()) then
        raise exception 'tenant % is fenced in this cell', tenant
            using errcode = 'TN001', hint = 'Look up where the tenant is served now and run the transaction there.';
    end if;
    return f.recording;
end $$;

-- What the triggers of a moving tenant's tables ask about a row that changes, in their WHEN condition, where it may not
-- pass the gate. Takes the permit with the transaction's first such row of the relation, records the first rows by
-- their keys (`key`, and `former` if that is another one), then the relation as a whole. `memory` is the name of a
-- setting that is local to the transaction and rolled back with a savepoint, as the permit is: '<transaction id> <rows
-- recorded>', or the id alone when nothing is left to do (who calls looks at that); another transaction's id says
-- nothing. One that finds the gate shut opens it for the next. What replication applies passes. False always: no trigger needs to fire.
drop function if exists tenure.note(text, text, text, jsonb, jsonb);
create or replace function tenure.note(
    tenant text, relation text, memory text, key jsonb, former jsonb, gate regclass default null) returns boolean
language plpgsql volatile security definer as $$
declare
    done pg_catalog.text := pg_catalog.pg_current_xact_id()::pg_catalog.text;
    seen pg_catalog.text := pg_catalog.current_setting(memory, true);
    rows integer := 0;
begin
    if pg_catalog.pg_replication_origin_session_is_setup() then
        seen := pg_catalog.set_config(memory, done, true);
        return false;
    elsif pg_catalog.split_part(seen, ' ', 1) operator(pg_catalog.=) done then
        rows := pg_catalog.split_part(seen, ' ', 2)::integer;
    elsif not tenure.permit(tenant) then
        seen := pg_catalog.set_config(memory, done, true);
        return false;
    elsif pg_catalog.pg_sequence_last_value(gate) operator(pg_catalog.>=) 4611686018427387904 then
        perform tenure.open_gate(tenant, gate);
    end if;
    insert into tenure.touched
        values (tenant, relation, key::pg_catalog.text, pg_catalog.nextval('tenure.touched_version'))
        on conflict on constraint touched_pkey do update set version = excluded.version;
    if former operator(pg_catalog.<>) key then
        insert into tenure.touched
            values (tenant, relation, former::pg_catalog.text, pg_catalog.nextval('tenure.touched_version'))
            on conflict on constraint touched_pkey do update set version = excluded.version;
    end if;
    return tenure.note_rows(tenant, relation, memory, rows operator(pg_catalog.+) 1);
end $$;

-- Remembers how many rows of the relation this transaction has recorded; from 250 on, the relation as a whole.
create or replace function tenure.note_rows(tenant text, relation text, memory text, rows integer) returns boolean
language plpgsql volatile security definer as $$
declare
    done pg_catalog.text := pg_catalog.pg_current_xact_id()::pg_catalog.text;
begin
    if rows operator(pg_catalog.>=) 250 then
        perform tenure.note_bulk(tenant, relation);
        return pg_catalog.set_config(memory, done, true) is null;
    end if;
    return pg_catalog.set_config(memory, pg_catalog.concat(done, ' ', rows), true) is null;
end $$;

-- Counts 64 rows at once for writers that draw from the gate: one draw in 64 asks this. False always.
create or replace function tenure.note_many(tenant text, relation text, memory text) returns boolean
language plpgsql volatile security definer as $$
declare
    seen pg_catalog.text := pg_catalog.current_setting(memory, true);
    rows integer := 64;
begin
    if pg_catalog.split_part(seen, ' ', 1) operator(pg_catalog.=) pg_catalog.pg_current_xact_id()::pg_catalog.text then
        rows := rows operator(pg_catalog.+) pg_catalog.split_part(seen, ' ', 2)::integer;
    end if;
    return tenure.note_rows(tenant, relation, memory, rows);
end $$;

-- Records that too many rows of the relation changed in this transaction to name them. What earlier transactions have
-- recorded so goes, but for what others hold just now: nobody waits, and nobody is sent back for a snapshot (40001).
create or replace function tenure.note_bulk(tenant text, of_relation text) returns void
language plpgsql volatile security definer set search_path = pg_catalog, pg_temp as $$
begin
    if current_setting('transaction_isolation') not in ('repeatable read', 'serializable') then
        delete from tenure.touched_in_bulk where ctid = any(array(
            select ctid from tenure.touched_in_bulk where tenant_id = tenant and relation = of_relation
            for update skip locked));
    end if;
    insert into tenure.touched_in_bulk values (tenant, of_relation, nextval('tenure.touched_version'));
end $$;

-- The text of a key's column that is the same whatever the session's settings are.
create or replace function tenure.plain(value anyelement) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp set datestyle = 'ISO,YMD' set timezone = 'UTC'
    set intervalstyle = 'postgres' set extra_float_digits = 1 set bytea_output = 'hex' as $$
begin
    return value::text;
end $$;

-- What the row triggers of a moving tenant would call, if `tenure.note` ever said yes.
create or replace function tenure.noted() returns trigger
language plpgsql as 'begin return null; end';

create or replace function tenure.refuse_truncate() returns trigger
language plpgsql as $$
begin
    raise exception 'a tenant of % is being moved: TRUNCATE would not be replicated', tg_relid::pg_catalog.regclass
        using errcode = '55006', hint = 'Delete the rows, or wait until the move is over.';
end $$;

-- Says that the app is about to change `key` of `store` (an object, say) in this transaction. Takes a permit.
create or replace function tenure.touch(tenant text, store text, key text) returns void
language plpgsql volatile security definer as $$
begin
    if tenure.permit(tenant) then
        insert into tenure.journal (tenant_id, store, key) values (tenant, store, key);
    end if;
    insert into tenure.journal (tenant_id, store, key, reader)
        select r.tenant_id, r.store, touch.key, r.reader from tenure.journal_reader r
        where r.tenant_id operator(pg_catalog.=) touch.tenant and r.store operator(pg_catalog.=) touch.store;
end $$;

-- The rest is called by Tenure alone.

-- Refuses whoever has a smaller token from now on, and raises TN002 if that is the caller. Holders take turns: the row
-- stays locked until this transaction ends, and every function here locks it before anything else.
create or replace function tenure.claim(tenant text, of_token bigint) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    insert into tenure.newest_token as n (tenant_id, token) values (tenant, of_token)
        on conflict (tenant_id) do update set token = excluded.token where n.token < excluded.token;
    if exists (select from tenure.newest_token where tenant_id = tenant and token > of_token) then
        raise exception 'a newer holder than token % has worked on %', of_token, tenant using errcode = 'TN002';
    end if;
end $$;

-- Whether the tenant is fenced here; raises TN002 if a greater token has been at work. Both stay true until this
-- transaction ends. Callers do not wait for one another.
create or replace function tenure.holds_fence(tenant text, of_token bigint) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    newest bigint;
begin
    select token into newest from tenure.newest_token where tenant_id = tenant for share;
    if newest > of_token then
        raise exception 'a newer holder than token % has worked on %', of_token, tenant using errcode = 'TN002';
    end if;
    perform from tenure.fence where tenant_id = tenant and not writable and (until is null or until > clock_timestamp())
        for share;
    return found;
end $$;

-- Makes the tenant's fence row, if there is none. The setval is last so that transactions with older snapshots are
-- sent back (40001) for the shortest time; the lock keeps two inserts from hiding one another.
create or replace function tenure.enrol(tenant text, is_writable boolean, of_epoch bigint, of_token bigint) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    perform tenure.claim(tenant, of_token);
    perform pg_advisory_xact_lock(hashtextextended('tenure newest fence', 7));
    insert into tenure.fence (tenant_id, writable, epoch, token) values (tenant, is_writable, of_epoch, of_token)
        on conflict do nothing;
    if found then
        perform setval('tenure.newest_fence', pg_current_xact_id()::text::bigint);
    end if;
end $$;

-- Relations (partitions too) that lack one of these triggers, or where it does not fire for every writer. The first one
-- belongs on each of them, the others on those that hold rows: on a partitioned table they would fire twice.
create or replace function tenure.unguarded(schemas text[], tables text[], triggers name[])
returns table (schema_name text, relation_name text)
language plpgsql stable set search_path = pg_catalog, pg_temp as $$
begin
    return query
        with roots as materialized (
            select to_regclass(format('%I.%I', w_schema, w_table)) as root from unnest(schemas, tables) w (w_schema, w_table)
        ), relations as materialized (
            select root::oid as relation from roots where root is not null
            union select t.relid::oid from roots, lateral pg_partition_tree(root) t where root is not null
        ), lacking as materialized (
            select relation from relations join pg_class r on r.oid = relation
            cross join lateral (select case r.relkind when 'p' then triggers[1:1] else triggers end) w (wanted)
            where (
                select count(*) from pg_trigger g
                where g.tgrelid = relation and g.tgname = any(wanted) and g.tgenabled = 'A') < cardinality(wanted)
        )
        select n.nspname::text, c.relname::text
        from lacking join pg_class c on c.oid = relation join pg_namespace n on n.oid = c.relnamespace;
end $$;

-- Lowers the fence once the tenant's open transactions are over (lock_timeout, 55P03, after `drain_ms`). 'ok';
-- 'unguarded' if a trigger is missing on one of the tables; 'lapsed' if it was to be made permanent (expires_s null) and
-- has lifted itself, or if `expires_s`, counted from the call, was over before it was down.
create or replace function tenure.lower_fence(
    tenant text, of_epoch bigint, of_token bigint, expires_s double precision, drain_ms integer,
    schemas text[], tables text[], triggers name[]) returns text
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    f tenure.fence%rowtype;
    lifts_at timestamptz := clock_timestamp() + make_interval(secs => expires_s);
begin
    perform set_config('lock_timeout', greatest(drain_ms, 1)::text, true);
    perform tenure.claim(tenant, of_token);
    if exists (select from tenure.unguarded(schemas, tables, triggers)) then
        return 'unguarded';
    end if;
    perform pg_advisory_xact_lock(tenure.lock_key(tenant));
    if lifts_at <= clock_timestamp() then
        return 'lapsed';
    end if;
    perform tenure.shut_gate(tenant);
    select * into f from tenure.fence where tenant_id = tenant for update;
    if not found then
        perform tenure.enrol(tenant, false, of_epoch, of_token);
    elsif expires_s is null and not f.writable and f.until <= clock_timestamp() then
        return 'lapsed';
    end if;
    update tenure.fence set writable = false, epoch = of_epoch, token = of_token, until = lifts_at
        where tenant_id = tenant;
    return 'ok';
end $$;

-- Lifts the fence: 'ok', or 'none' where there is no row.
create or replace function tenure.lift_fence(tenant text, of_epoch bigint, of_token bigint) returns text
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    f tenure.fence%rowtype;
begin
    perform tenure.claim(tenant, of_token);
    select * into f from tenure.fence where tenant_id = tenant for update;
    if not found then
        return 'none';
    end if;
    if not f.writable or f.until is not null or f.token < of_token or f.epoch <> of_epoch then
        update tenure.fence set writable = true, until = null, epoch = of_epoch, token = of_token
            where tenant_id = tenant;
    end if;
    return 'ok';
end $$;

-- Switches recording on once no transaction of the tenant is open that would not record. False: no fence row.
create or replace function tenure.record_changes(tenant text, wait_ms integer) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    perform set_config('lock_timeout', greatest(wait_ms, 1)::text, true);
    perform pg_advisory_xact_lock(tenure.lock_key(tenant));
    update tenure.fence set recording = true, compared = '{}' where tenant_id = tenant;
    return found;
end $$;

-- Has the reader's rows written from now on, once no transaction of the tenant is open that would not write them. The
-- update sends back (40001) transactions whose snapshots are too old to know of the reader. False: no fence row.
create or replace function tenure.add_reader(
    tenant text, of_store text, of_reader text, of_token bigint, wait_ms integer) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    perform set_config('lock_timeout', greatest(wait_ms, 1)::text, true);
    perform tenure.claim(tenant, of_token);
    perform pg_advisory_xact_lock(tenure.lock_key(tenant));
    update tenure.fence set epoch = epoch where tenant_id = tenant;
    if not found then
        return false;
    end if;
    insert into tenure.journal_reader values (tenant, of_store, of_reader) on conflict do nothing;
    return true;
end $$;

-- The reader's rows, and that there is one. Waits for nobody: what an open transaction still writes for it, goes with
-- the next reader of the name, or with the fence row.
create or replace function tenure.remove_reader(tenant text, of_store text, of_reader text, of_token bigint) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    perform tenure.claim(tenant, of_token);
    delete from tenure.journal_reader where tenant_id = tenant and store = of_store and reader = of_reader;
    delete from tenure.journal where tenant_id = tenant and store = of_store and reader = of_reader;
end $$;

-- Removes what is kept for the tenant, the fence row included. Waits for its open transactions: one that was told to
-- record would otherwise leave its rows behind.
drop function if exists tenure.forget(text, integer);
create or replace function tenure.forget(tenant text, of_token bigint, wait_ms integer) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    perform set_config('lock_timeout', greatest(wait_ms, 1)::text, true);
    perform tenure.claim(tenant, of_token);
    perform pg_advisory_xact_lock(tenure.lock_key(tenant));
    perform pg_advisory_xact_lock(hashtextextended('tenure newest fence', 7));
    perform tenure.shut_gate(tenant);
    delete from tenure.touched where tenant_id = tenant;
    delete from tenure.touched_log where tenant_id = tenant;
    delete from tenure.touched_in_bulk where tenant_id = tenant;
    delete from tenure.journal where tenant_id = tenant;
    delete from tenure.copier where tenant_id = tenant;
    delete from tenure.journal_reader where tenant_id = tenant;
    delete from tenure.mark where tenant_id = tenant;
    delete from tenure.fence where tenant_id = tenant;
    if not exists (select from tenure.fence) then
        perform setval('tenure.newest_fence', 1, false);
    end if;
end $$;

-- Removes what is kept for the tenant but for a fence that is down for good. Waits for its open transactions.
create or replace function tenure.retire(tenant text, of_epoch bigint, of_token bigint, wait_ms integer) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    perform set_config('lock_timeout', greatest(wait_ms, 1)::text, true);
    perform tenure.claim(tenant, of_token);
    perform pg_advisory_xact_lock(tenure.lock_key(tenant));
    perform tenure.shut_gate(tenant);
    delete from tenure.touched where tenant_id = tenant;
    delete from tenure.touched_log where tenant_id = tenant;
    delete from tenure.touched_in_bulk where tenant_id = tenant;
    delete from tenure.journal where tenant_id = tenant;
    delete from tenure.copier where tenant_id = tenant;
    delete from tenure.journal_reader where tenant_id = tenant;
    delete from tenure.mark where tenant_id = tenant;
    perform tenure.enrol(tenant, false, of_epoch, of_token);
    update tenure.fence set writable = false, until = null, epoch = of_epoch, token = of_token,
        recording = false, compared = '{}' where tenant_id = tenant;
end $$;

-- Writes the next mark of a link and forgets the ones before the last. Numbers come from the clock, so that they never
-- repeat, not even after everything of an earlier link of the same name is gone.
create or replace function tenure.write_mark(tenant text, of_link text) returns bigint
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    last_n bigint;
    next_n bigint;
begin
    select max(n) into last_n from tenure.mark where tenant_id = tenant and link = of_link;
    delete from tenure.mark where tenant_id = tenant and link = of_link and n < last_n;
    next_n := greatest(last_n + 1, (extract(epoch from clock_timestamp()) * 1000000)::bigint);
    insert into tenure.mark (tenant_id, link, n) values (tenant, of_link, next_n);
    return next_n;
end $$;

-- Waits until a mark has arrived; false after `wait_ms`.
create or replace function tenure.await_mark(tenant text, of_link text, of_n bigint, wait_ms integer) returns boolean
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    deadline timestamptz := clock_timestamp() + make_interval(secs => wait_ms / 1000.0);
begin
    loop
        if exists (select from tenure.mark where tenant_id = tenant and link = of_link and n >= of_n) then
            return true;
        elsif clock_timestamp() > deadline then
            return false;
        end if;
        perform pg_sleep(0.0005);
    end loop;
end $$;

-- The ascending sequences behind the tables' columns, with the last value drawn (null: none yet).
create or replace function tenure.sequences(schemas text[], tables text[])
returns table (column_name text, sequence oid, last_drawn bigint)
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    return query
        select distinct on (1) format('%I.%I.%I', w.w_schema, w.w_table, a.attname), q.seqrelid, pg_sequence_last_value(q.seqrelid)
        from unnest(schemas, tables) w (w_schema, w_table)
        join pg_namespace s on s.nspname = w.w_schema
        join pg_class r on r.relnamespace = s.oid and r.relname = w.w_table
        join pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
        cross join lateral (
            select d.objid as oid from pg_depend d
                where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
                and d.refobjid = r.oid and d.refobjsubid = a.attnum and d.deptype in ('a', 'i')
            union
            select d.refobjid from pg_attrdef f join pg_depend d
                on d.classid = 'pg_attrdef'::regclass and d.objid = f.oid and d.refclassid = 'pg_class'::regclass
                where f.adrelid = r.oid and f.adnum = a.attnum
        ) o
        join pg_sequence q on q.seqrelid = o.oid and q.seqincrement > 0
        order by 1, 2;
end $$;

-- Raises sequences that are behind `wanted` ({column: last value}). Neighbours draw from them meanwhile, so what is
-- behind by at most `margin` numbers is drawn here as well: that never goes back. Only what is further behind is set, to
-- `margin` beyond `wanted`: neighbours would have to draw more than twice `margin` numbers between the look and the set,
-- which follow each other at once, for one of those numbers to be drawn again.
create or replace function tenure.raise_sequences(schemas text[], tables text[], wanted jsonb, margin bigint) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
declare
    s record;
    missing numeric;
begin
    for s in
        select q.*, n.sequence::regclass as name, w.value::bigint as wanted_value
        from tenure.sequences(schemas, tables) n join pg_sequence q on q.seqrelid = n.sequence
        join jsonb_each_text(wanted) w on w.key = n.column_name
        where w.value::bigint > coalesce(n.last_drawn, q.seqmin - 1)
    loop
        missing := ceil((s.wanted_value - coalesce(pg_sequence_last_value(s.name), nextval(s.name)))::numeric / s.seqincrement);
        if missing <= 0 then
            continue;
        elsif missing <= margin and s.wanted_value <= s.seqmax - s.seqincrement * s.seqcache then
            -- The first few may be older numbers that this session has in its cache.
            for i in 1 .. missing + s.seqcache loop
                exit when nextval(s.name) >= s.wanted_value;
            end loop;
        else
            perform setval(s.name, least(s.wanted_value::numeric + margin * s.seqincrement, s.seqmax)::bigint);
        end if;
    end loop;
end $$;

-- Forgets recorded changes ([[relation, key, version, xact]], key null: of the whole relation; one of the last two is
-- null) that were compared; only in the version that was read, and none that the app holds just now: waiting for it could
-- deadlock with the app. Losing this in a crash only means comparing
-- them again, so the commit need not wait for the disk.
create or replace function tenure.settle(tenant text, compared jsonb) returns void
language plpgsql volatile set search_path = pg_catalog, pg_temp as $$
begin
    perform set_config('synchronous_commit', 'off', true);
    delete from tenure.touched where ctid in (
        select t.ctid from tenure.touched t join jsonb_array_elements(compared) s
            on t.relation = s ->> 0 and t.key = (s -> 1)::text and t.version = (s ->> 2)::bigint
        where t.tenant_id = tenant
        for update of t skip locked
    );
    delete from tenure.touched_log t using jsonb_array_elements(compared) s
        where t.tenant_id = tenant and t.relation = s ->> 0 and to_jsonb(t.key) = s -> 1 and t.xact = (s ->> 3)::xid8;
    delete from tenure.touched_in_bulk where ctid in (
        select t.ctid from tenure.touched_in_bulk t join jsonb_array_elements(compared) s
            on t.relation = s ->> 0 and t.version = (s ->> 2)::bigint
        where t.tenant_id = tenant
        for update of t skip locked
    );
    perform tenure.shut_gate(tenant);
end $$;

revoke all on all tables in schema tenure from public;
revoke all on all sequences in schema tenure from public;
do $$
declare
    f regprocedure;
begin
    -- What the triggers of a moving tenant call (tenure_...) stays as it is: every writer calls it.
    for f in select p.oid from pg_proc p
        where p.pronamespace = 'tenure'::regnamespace and not starts_with(p.proname::text, 'tenure_')
    loop
        execute format('revoke all on function %s from public', f);
    end loop;
end $$;
grant usage on schema tenure to public;
grant execute on function tenure.permit(text), tenure.touch(text, text, text), tenure.lock_key(text) to public;
