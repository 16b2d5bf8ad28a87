-- A table split in two, and columns renamed.

create table public.document_bodies (
    tenant_id   text not null,
    document_id bigint not null,
    body        text not null,
    primary key (tenant_id, document_id),
    foreign key (tenant_id, document_id) references public.documents (tenant_id, id) on delete cascade
);
insert into public.document_bodies (tenant_id, document_id, body) select tenant_id, id, body from public.documents;
alter table public.documents drop column body;
alter table public.chunks rename column seq to position;
alter table public.chunks rename column text to content;
grant select, insert, update, delete on public.document_bodies to rag_app;

update public.schema_version set version = 3;
