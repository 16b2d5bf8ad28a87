-- A second person: operations that need an approval are proposed first, and begin only with one. Also the record of how
-- operations ended, which plans and `tenure op stats` read.
--
-- What is enforced here holds for every role that does not own these tables. The functions fix their search path, so
-- that nobody's own operators stand in for PostgreSQL's.

alter table registry.operations
    add column if not exists requested_as text not null default '',
    add column if not exists approval_identity text check (approval_identity in ('os', 'database')),
    add column if not exists approval_ttl_s double precision check (approval_ttl_s > 0),
    add column if not exists approval bigint,
    add column if not exists route_kind text generated always as (plan ->> 'route_kind') stored;

-- `proposed` is not active: it keeps nobody else away from the tenant.
alter table registry.operations drop constraint if exists operations_state_check;
alter table registry.operations add constraint operations_state_check check (state in (
    'proposed', 'planned', 'running', 'parked', 'awaiting', 'aborting', 'soaking',
    'completed', 'rolled_back', 'succeeded', 'aborted', 'failed'
));
alter table registry.operations drop constraint if exists proposed_has_not_begun;
alter table registry.operations add constraint proposed_has_not_begun check (
    state <> 'proposed' or started_at is null and committed_at is null and approval_identity is not null
);
alter table registry.operations drop constraint if exists approval_is_of_a_plan;
alter table registry.operations add constraint approval_is_of_a_plan check (
    approval_identity is null or plan_digest <> '' and approval_ttl_s is not null
);
alter table registry.operations drop constraint if exists rollback_waits_for_nobody;
alter table registry.operations add constraint rollback_waits_for_nobody check (
    kind <> 'rollback' or approval_identity is null
);

create unique index if not exists one_proposal_per_tenant on registry.operations (tenant) where state = 'proposed';

-- What `tenure estate init` has published of `approval` and `tiers` in tenure.yaml; the tier '' is every tier.

create table if not exists registry.approval_rules (
    tier text not null,
    kind text not null check (kind <> 'rollback'),
    identity text not null check (identity in ('os', 'database')),
    ttl_s double precision not null check (ttl_s > 0),
    primary key (tier, kind)
);

create table if not exists registry.approvals (
    id bigint primary key generated always as identity,
    operation text collate "C" not null references registry.operations (id),
    plan_digest text not null,
    approver text not null,
    approved_as text not null,
    at timestamptz not null,
    expires_at timestamptz not null
);

create index if not exists approvals_by_operation on registry.approvals (operation, expires_at);

create or replace trigger approvals_append_only before update or delete or truncate on registry.approvals
    for each statement execute function registry.refuse_change();

-- Whether two people are two, as far as the operation's kind of identity can tell. An operating system's user is the
-- same one on every host.

create or replace function registry.is_another(
    in_identity text, in_requested_by text, in_requested_as text, in_approver text, in_approved_as text
) returns boolean language sql immutable set search_path = pg_catalog, pg_temp as $$
    select case in_identity
        when 'database' then in_approved_as <> in_requested_as
        else split_part(in_approver, '@', 1) <> split_part(in_requested_by, '@', 1)
    end
$$;

-- The approval on which an operation may begin now: of exactly its plan, by somebody else, not expired.

create or replace function registry.standing_approval(in_operation text) returns bigint
language sql volatile set search_path = pg_catalog, pg_temp as $$
    select a.id
    from registry.approvals a join registry.operations o on o.id = a.operation
    where o.id = in_operation and a.plan_digest = o.plan_digest and a.expires_at > clock_timestamp()
      and registry.is_another(o.approval_identity, o.requested_by, o.requested_as, a.approver, a.approved_as)
    order by a.expires_at desc limit 1
$$;

create or replace function registry.require_approval(in_operation text) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    found bigint := registry.standing_approval(in_operation);
    last timestamptz;
begin
    if found is null then
        select max(a.expires_at) into last from registry.approvals a where a.operation = in_operation;
        raise exception using errcode = 'TR040', message = format('%s needs the approval of a second person%s', in_operation,
            case when last is null then '' else format(': the last one expired at %s UTC', to_char(last at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS')) end);
    end if;
    return found;
end $$;

-- An operation says who asked for it, and waits if it or a rule asks for an approval: whichever is stricter.

create or replace function registry.propose() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    by_database boolean;
    shortest_s double precision;
begin
    select bool_or(r.identity = 'database'), min(r.ttl_s) into by_database, shortest_s
    from registry.approval_rules r
    where r.kind = new.kind
      and (r.tier = '' or r.tier = (select t.tier from registry.tenants t where t.id = new.tenant));
    if shortest_s is not null then
        new.approval_identity := case when by_database or new.approval_identity = 'database' then 'database' else 'os' end;
        new.approval_ttl_s := least(new.approval_ttl_s, shortest_s);
    end if;
    new.requested_as := session_user;
    new.approval := null;
    if new.approval_identity is not null then
        new.state := 'proposed';
        new.phase := 'awaiting_approval';
    end if;
    return new;
end $$;

create or replace trigger operations_proposed before insert on registry.operations
    for each row execute function registry.propose();

-- It leaves `proposed` only with an approval, which is noted, or withdrawn; an approval is needed to begin, and what has
-- begun is carried to its end.

create or replace function registry.begin_approved() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    new.approval := old.approval;
    if new.approval is not null or new.state in ('proposed', 'aborted') then
        return new;
    end if;
    new.approval := registry.require_approval(new.id);
    return new;
end $$;

create or replace trigger operations_begin_approved before update of state on registry.operations
    for each row when (old.approval_identity is not null) execute function registry.begin_approved();

create or replace function registry.refuse_rewriting() returns trigger language plpgsql as $$
begin
    raise exception using errcode = 'TR005', message = 'what an operation was asked for stays as it is: update refused';
end $$;

create or replace trigger operations_as_asked_for
    before update of id, kind, tenant, request, plan, plan_digest, requested_by, requested_as, created_at,
        approval_identity, approval_ttl_s, approval
    on registry.operations for each statement execute function registry.refuse_rewriting();

create or replace function registry.claim_approved() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    op registry.operations;
begin
    select * into op from registry.operations o where o.id = new.operation;
    if op.approval_identity is not null and op.approval is null then
        perform registry.require_approval(new.operation);
    end if;
    return new;
end $$;

create or replace trigger steps_claim_approved before insert or update of state, operation on registry.steps
    for each row when (new.state in ('running', 'done')) execute function registry.claim_approved();

-- An approval: who gives it and until when is not for the client to say.

create or replace function registry.check_approval() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    op registry.operations;
begin
    select * into op from registry.operations o where o.id = new.operation for no key update;
    if op.state is distinct from 'proposed' then
        raise exception using errcode = 'TR041', message = format('%s waits for no approval: it is %s', new.operation, coalesce(op.state, 'unknown'));
    end if;
    if new.plan_digest is distinct from op.plan_digest then
        raise exception using errcode = 'TR002', message = format('the plan of %s is %s, not %s', new.operation, op.plan_digest, new.plan_digest);
    end if;
    new.approved_as := session_user;
    new.at := clock_timestamp();
    new.expires_at := new.at + make_interval(secs => op.approval_ttl_s);
    if not registry.is_another(op.approval_identity, op.requested_by, op.requested_as, new.approver, new.approved_as) then
        raise exception using errcode = 'TR041', message = format('%s was asked for by %s: somebody else has to approve it', new.operation,
            case op.approval_identity when 'database' then 'the database role ' || op.requested_as else op.requested_by end);
    end if;
    return new;
end $$;

create or replace trigger approvals_checked before insert on registry.approvals
    for each row execute function registry.check_approval();

create or replace function registry.journal_approval() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    insert into registry.events (operation, tenant, actor, action, data)
    select o.id, o.tenant, new.approver, 'operation_approved', jsonb_build_object(
        'plan_digest', new.plan_digest, 'approved_as', new.approved_as, 'expires_at', new.expires_at)
    from registry.operations o where o.id = new.operation;
    return null;
end $$;

create or replace trigger approvals_journaled after insert on registry.approvals
    for each row execute function registry.journal_approval();

-- A tenant is not taken out of a tier in order to need no approval, except by who owns the registry.

create or replace function registry.keep_tier() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    if pg_has_role(session_user, (select c.relowner from pg_class c where c.oid = tg_relid), 'member') then
        return case tg_op when 'DELETE' then old else new end;
    end if;
    if exists (
        select from registry.approval_rules r
        where r.tier = old.tier and (tg_op = 'DELETE' or not exists (
            select from registry.approval_rules also where also.tier = new.tier and also.kind = r.kind))
    ) then
        raise exception using errcode = 'TR041',
            message = format('%s is of the tier %s, which needs approvals: only the owner of the registry takes it out', old.id, old.tier);
    end if;
    return case tg_op when 'DELETE' then old else new end;
end $$;

create or replace trigger tenants_tier_kept before update of tier or delete on registry.tenants
    for each row execute function registry.keep_tier();

-- How operations ended. A soaking move counts as a success until it is rolled back. `attempts` are those of all steps.

create index if not exists operations_ended on registry.operations (kind, route_kind, finished_at, id)
    where finished_at is not null and started_at is not null;
create index if not exists operations_stuck on registry.operations (kind, route_kind) where stuck;

create or replace view registry.records as
select o.id, o.kind, o.route_kind, o.tenant, o.finished_at,
       case when o.state in ('soaking', 'completed', 'succeeded') then 'succeeded'
            when o.state in ('rolled_back', 'aborted', 'failed') then o.state
            when o.stuck then 'stuck' end as outcome,
       extract(epoch from o.finished_at - o.started_at)::float8 as duration_s,
       extract(epoch from o.committed_at - o.created_at)::float8 as switched_after_s,
       (o.result ->> 'hold_ms')::float8 as hold_ms,
       (o.cost ->> 'total')::float8 as cost,
       o.cost ->> 'currency' as currency,
       (o.plan #>> '{predicted,estimated_s}')::float8 as estimated_s,
       (select sum(s.attempt)::int from registry.steps s where s.operation = o.id) as attempts
from registry.operations o
where o.started_at is not null;
