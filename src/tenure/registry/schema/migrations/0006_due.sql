-- What is due, as one view, for everyone who looks for work.

-- Unfinished operations that could be moved on now: a step of theirs is due, or its holder's lease has run out; and
-- proposals that have been approved and whose tenant is in no other operation. `since` is the last time at which anything
-- happened to one, or became due; `admitted` says whether it waits for capacity no longer.

create or replace view registry.due as
    select o.id as operation,
           greatest(o.created_at, done.last, s.due_at, a.admitted_at,
                    case when s.state = 'running' then s.lease_until end) as since,
           a.operation is null or a.admitted_at is not null or o.state = 'aborting' or o.cancel_requested as admitted
    from (
        select * from registry.operations where active and not stuck and state <> 'awaiting'
        union all
        select p.* from registry.operations p
        where p.state = 'proposed' and registry.standing_approval(p.id) is not null
          and not exists (select from registry.operations other where other.tenant = p.tenant and other.active)
    ) o
    left join lateral (
        select * from registry.steps s
        where s.operation = o.id and s.state <> 'done' and (o.state <> 'aborting' or s.position = 1000)
        order by s.position limit 1
    ) s on true
    left join lateral (
        select max(s.finished_at) as last from registry.steps s where s.operation = o.id
    ) done on true
    left join registry.admissions a on a.operation = o.id
    where s.state is null
       or s.state = 'pending' and coalesce(s.due_at, '-infinity') <= clock_timestamp()
       or s.state = 'running' and s.lease_until <= clock_timestamp();

-- Indexes for what is asked most often, so that the answer does not take longer with ten thousand tenants than with a
-- hundred: what is due (the oldest first, looked at until there is enough of it), and what a route's holds have taken.

create index if not exists operations_unfinished on registry.operations (created_at, id) where active;
create index if not exists measurements_of_a_route on registry.measurements (kind, route, at, id);
