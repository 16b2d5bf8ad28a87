-- What the scheduler keeps: who leads, and which fire times have been dealt with.
-- And what is due, as one view, for everyone who looks for work.

create table if not exists registry.leaders (
    role text primary key,
    holder text not null,
    term bigint not null check (term >= 1),
    since timestamptz not null
);

create table if not exists registry.fires (
    schedule text collate "C" not null,
    fire_at timestamptz not null,
    missed boolean not null,
    term bigint not null,
    at timestamptz not null default clock_timestamp(),
    operations text[] not null default '{}',
    primary key (schedule, fire_at),
    constraint missed_inserts_nothing check (not missed or operations = '{}')
);

-- The unfinished operations that could be moved on now: a step of theirs is due, or its holder's lease has run out.
-- `since` is the last time at which anything happened to one, or became due.

create or replace view registry.due as
    select o.id as operation,
           greatest(o.created_at, done.last, s.due_at, case when s.state = 'running' then s.lease_until end) as since
    from registry.operations o
    left join lateral (
        select * from registry.steps s
        where s.operation = o.id and s.state <> 'done' and (o.state <> 'aborting' or s.position = 1000)
        order by s.position limit 1
    ) s on true
    left join lateral (
        select max(s.finished_at) as last from registry.steps s where s.operation = o.id
    ) done on true
    where o.active and not o.stuck and o.state <> 'awaiting'
      and (s.state is null
           or s.state = 'pending' and coalesce(s.due_at, '-infinity') <= clock_timestamp()
           or s.state = 'running' and s.lease_until <= clock_timestamp());
