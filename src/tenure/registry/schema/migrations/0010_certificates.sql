-- Certificates of erasure as they were issued, and which of them were revoked. Each is kept as its signed envelope; neither
-- table forgets or changes anything.

create table if not exists registry.certificates (
    id text collate "C" primary key,
    number bigint not null unique generated always as identity,
    request text not null,
    operation text collate "C" not null unique references registry.operations (id),
    tenant text collate "C" not null,
    supersedes text collate "C" unique references registry.certificates (id),
    envelope text not null,
    sha256 text not null check (sha256 = encode(sha256(convert_to(envelope, 'UTF8')), 'hex')),
    final boolean not null,
    lapses_at timestamptz,
    issued_at timestamptz not null default clock_timestamp(),
    constraint interim_says_until_when check (final = (lapses_at is null))
);

create index if not exists certificates_by_request on registry.certificates (request);

create table if not exists registry.certificate_revocations (
    certificate text collate "C" primary key references registry.certificates (id),
    because text not null check (because <> ''),
    actor text not null,
    at timestamptz not null default clock_timestamp()
);

create or replace trigger certificates_append_only before update or delete or truncate on registry.certificates
    for each statement execute function registry.refuse_change();
create or replace trigger certificate_revocations_append_only
    before update or delete or truncate on registry.certificate_revocations
    for each statement execute function registry.refuse_change();
