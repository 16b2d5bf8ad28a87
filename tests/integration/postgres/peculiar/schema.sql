-- One table for everything that PostgreSQL allows and a copy of rows could get wrong.
create schema app;
create schema "a.b";
create schema a;
create schema "Odd ""schema"".x";
create type app.mood as enum ('glad', 'sad', 'it''s "odd"');
create domain app.email as text check (value like '%@%');
create domain app.positive as numeric(20, 4) check (value > 0);
create type app.address as (street text, number int, at timestamptz, weight float8);
create type app.floats as range (subtype = float8, multirange_type_name = app.multifloats);
create table app.types (
    tenant_id text not null, id uuid not null default gen_random_uuid(), mood app.mood, moods app.mood[],
    email app.email, emails app.email[], price app.positive, home app.address, homes app.address[],
    spans int4range, days daterange, times tstzmultirange, odd app.floats, odds app.multifloats,
    raw bytea, n numeric, f4 float4, f8 float8, grid int[][], bits bit varying(12), net inet, mac macaddr8,
    money_ money, j json, jb jsonb, path jsonpath, search tsvector, query tsquery, iv interval, ti timetz,
    ch char(5), nm name, lsn pg_lsn, box_ box, poly polygon, primary key (tenant_id, id));
create table app.generated (
    id bigint generated always as identity, tenant_id varchar(40) not null, net numeric not null,
    gross numeric generated always as (net * 1.2) stored, n serial, primary key (tenant_id, id));
create table app.toasted (
    tenant_id text not null, id int not null, n int not null default 0, body text, raw bytea, primary key (tenant_id, id));
alter table app.toasted alter body set storage external;
create table app.parted (tenant_id text not null, day date not null, kind int not null, body text)
    partition by range (day);
create table app.parted_25 partition of app.parted for values from ('2025-01-01') to ('2026-01-01');
create table app.parted_26 partition of app.parted for values from ('2026-01-01') to ('2027-01-01') partition by list (kind);
create table app.parted_26_1 partition of app.parted_26 for values in (1);
create table app.parted_26_rest partition of app.parted_26 default;
alter table app.parted add primary key (day, kind);
create table app.by_id (id int primary key, tenant_id text not null, body text);
create unique index by_id_tenant on app.by_id (tenant_id, id);
alter table app.by_id replica identity using index by_id_tenant;
create table app.no_primary (tenant_id text not null, code text not null, body text);
create unique index no_primary_key on app.no_primary (tenant_id, code);
alter table app.no_primary replica identity using index no_primary_key;
create table app.full_rows (tenant_id text not null, id int not null, body text, primary key (tenant_id, id));
alter table app.full_rows replica identity full;
create table app.plans (name text primary key, price numeric);
create table app.accounts (tenant_id text not null, id int not null, plan text references app.plans, up int,
    primary key (tenant_id, id), foreign key (tenant_id, up) references app.accounts
    on update cascade deferrable initially deferred);
create table app.orders (tenant_id text not null, id int not null, account int not null, primary key (tenant_id, id),
    foreign key (tenant_id, account) references app.accounts on delete cascade on update cascade);
create sequence app.shared_numbers;
create table app.drawn (tenant_id text not null, n bigint not null default nextval('app.shared_numbers'),
    m bigint not null default nextval('app.shared_numbers'), primary key (tenant_id, n));
create table app.audited (tenant_id text not null, id int not null, body text, changed int not null default 0,
    primary key (tenant_id, id));
create function app.count_change() returns trigger language plpgsql as
    'begin new.changed := new.changed + 1; return new; end';
create trigger audit before insert or update on app.audited for each row execute function app.count_change();
create table app.secured (tenant_id text not null, id int not null, body text, primary key (tenant_id, id));
alter table app.secured enable row level security;
alter table app.secured force row level security;
create policy nobody on app.secured using (false);
create table "Odd ""schema"".x"."Table of, ""quotes"". and spaces" (
    "Tenant ""Id""" text not null, "a.b" int not null, "select" text, primary key ("Tenant ""Id""", "a.b"));
create table "a.b".c (tenant_id text not null, id serial, body text, primary key (tenant_id, id));
create table a."b.c" (tenant_id text not null, other serial, text_ text, primary key (tenant_id, other));
