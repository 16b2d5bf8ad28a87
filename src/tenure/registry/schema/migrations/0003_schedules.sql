-- What the scheduler keeps: who leads, and which fire times have been dealt with.

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
