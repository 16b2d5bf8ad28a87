-- The journal as a chain: each event has the SHA-256 of itself and of the event before it, so that nobody can change,
-- remove, add or reorder one without every later hash showing it.
--
-- What is hashed: the hash before (nothing for the first), then each field as its length in bytes, a colon and the field,
-- or `-` where there is none; `at` as microseconds since 1970 in UTC, `data` as PostgreSQL writes jsonb.

alter table registry.events add column if not exists hash bytea;

create or replace function registry.chained(field text) returns text language sql immutable as $$
    select case when field is null then '-' else octet_length(convert_to(field, 'UTF8')) || ':' || field end
$$;

create or replace function registry.event_hash(before bytea, event registry.events) returns bytea language sql stable as $$
    select sha256(coalesce(before, '') || convert_to(
        registry.chained(event.seq::text)
        || registry.chained((extract(epoch from event.at) * 1000000)::bigint::text)
        || registry.chained(event.operation) || registry.chained(event.tenant)
        || registry.chained(event.actor) || registry.chained(event.action) || registry.chained(event.data::text),
        'UTF8'))
$$;

create or replace function registry.number_event() returns trigger language plpgsql as $$
begin
    perform pg_advisory_xact_lock(hashtextextended('tenure.registry.events', 0));
    new.seq := nextval('registry.event_seq');
    new.hash := registry.event_hash((select e.hash from registry.events e order by e.seq desc limit 1), new);
    return new;
end $$;

do $$
declare
    one registry.events;
    last bytea;
begin
    perform pg_advisory_xact_lock(hashtextextended('tenure.registry.events', 0));
    if exists (select from registry.events e where e.hash is null) then
        alter table registry.events disable trigger events_append_only;
        for one in select * from registry.events e order by e.seq loop
            last := registry.event_hash(last, one);
            update registry.events e set hash = last where e.seq = one.seq;
        end loop;
        alter table registry.events enable trigger events_append_only;
    end if;
end $$;

alter table registry.events alter column hash set not null;
