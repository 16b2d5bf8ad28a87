-- Who carries operations on: one row per living worker or scheduler, renewed by its heartbeat; and which operations have
-- been announced to a queue and not been looked at since.

create table if not exists registry.workers (
    id text collate "C" primary key,
    kind text not null,
    host text not null,
    pid integer not null,
    queues text[] not null default '{}',
    regions text[] not null default '{}',
    slots integer not null default 1 check (slots >= 1),
    since timestamptz not null default clock_timestamp(),
    seen_at timestamptz not null default clock_timestamp()
);

create index if not exists workers_by_queue on registry.workers using gin (queues);

create table if not exists registry.wakes (
    operation text collate "C" primary key references registry.operations (id),
    at timestamptz not null default clock_timestamp()
);
