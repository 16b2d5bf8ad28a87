-- Types changed, and new constraints.

alter table public.documents alter column size type bigint;
alter table public.documents alter column created_at type date using (created_at at time zone 'UTC')::date;
alter table public.embeddings alter column embedding type halfvec(32);
alter table public.documents add constraint title_is_short check (char_length(title) between 1 and 200);
alter table public.documents add constraint title_is_unique unique (tenant_id, title);
alter table public.chunks add constraint position_counts check (position >= 0);

update public.schema_version set version = 4;
