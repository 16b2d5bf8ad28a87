-- What tenants used, until the cell's shipper has brought it to analytics. An event is written with the change that it is
-- about, so it is acknowledged with it, and moves with the tenant as long as it lies here.
create table if not exists public.usage_outbox (
    tenant_id text not null,
    id        uuid not null default gen_random_uuid(),
    happened  timestamptz not null default clock_timestamp(),
    kind      text not null,
    subject   text not null,
    units     integer not null default 1,
    primary key (tenant_id, id)
);

grant select, insert, update, delete on public.usage_outbox to rag_app;
