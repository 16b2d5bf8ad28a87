-- Columns added, with values for what is there, and one dropped whose content another takes over.

alter table public.documents add column language text not null default 'en';
alter table public.documents add column size integer;
update public.documents set language = coalesce(meta ->> 'language', 'en'), size = length(body);
alter table public.documents alter column size set not null;
alter table public.documents drop column meta;

update public.schema_version set version = 2;
