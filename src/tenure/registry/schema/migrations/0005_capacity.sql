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
