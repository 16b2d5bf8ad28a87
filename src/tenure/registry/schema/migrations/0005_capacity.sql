-- Who may begin: operations that take something of which there is only so much wait here until they are admitted.
--
-- Admissions are decided one at a time, under the lock 'tenure.registry.admission'. It is taken before any other lock.

create table if not exists registry.admissions (
    operation text collate "C" primary key references registry.operations (id),
    at_once boolean not null default false,
    served_before timestamptz,
    wanted_at timestamptz not null default clock_timestamp(),
    admitted_at timestamptz,
    hopeless boolean not null default false,
    waits_for text,
    constraint at_once_is_admitted check (not at_once or admitted_at is not null)
);

create index if not exists admissions_waiting on registry.admissions (operation) where admitted_at is null;

-- `units` while the operation is active, `kept` for as long as the link that it made stays.
create table if not exists registry.capacity_needs (
    operation text collate "C" not null references registry.admissions (operation),
    resource text collate "C" not null,
    units bigint not null check (units >= 0),
    kept bigint not null default 0 check (kept between 0 and units),
    primary key (operation, resource)
);

-- Whoever executes operations, by whatever code: none begins that has to be admitted and is not. Its abort may.

create or replace function registry.refuse_unadmitted() returns trigger language plpgsql as $$
begin
    if exists (select from registry.admissions a where a.operation = new.operation and a.admitted_at is null) then
        raise exception using errcode = 'TR006',
            message = format('%s waits for capacity and has not been admitted', new.operation);
    end if;
    return new;
end $$;

create or replace trigger steps_admitted before update on registry.steps for each row
    when (old.state <> 'running' and new.state = 'running' and new.position < 1000)
    execute function registry.refuse_unadmitted();

-- What is due, once more: `admitted` says whether it waits for capacity no longer.

create or replace view registry.due as
    select o.id as operation,
           greatest(o.created_at, done.last, s.due_at, a.admitted_at,
                    case when s.state = 'running' then s.lease_until end) as since,
           a.operation is null or a.admitted_at is not null or o.state = 'aborting' or o.cancel_requested as admitted
    from registry.operations o
    left join lateral (
        select * from registry.steps s
        where s.operation = o.id and s.state <> 'done' and (o.state <> 'aborting' or s.position = 1000)
        order by s.position limit 1
    ) s on true
    left join lateral (
        select max(s.finished_at) as last from registry.steps s where s.operation = o.id
    ) done on true
    left join registry.admissions a on a.operation = o.id
    where (o.active and not o.stuck and o.state <> 'awaiting'
           or o.state = 'proposed' and registry.standing_approval(o.id) is not null
              and not exists (select from registry.operations other where other.tenant = o.tenant and other.active))
      and (s.state is null
           or s.state = 'pending' and coalesce(s.due_at, '-infinity') <= clock_timestamp()
           or s.state = 'running' and s.lease_until <= clock_timestamp());
