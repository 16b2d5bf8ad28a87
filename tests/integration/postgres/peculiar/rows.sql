-- Rows of the tenant :tenant, who is number :n.
insert into app.types (tenant_id, mood, moods, email, emails, price, home, homes, spans, days, times, odd, odds, raw, n, f4, f8,
    grid, bits, net, mac, money_, j, jb, path, search, query, iv, ti, ch, nm, lsn, box_, poly)
values
    (':tenant', 'it''s "odd"', '{glad,NULL,sad}', 'a@b', '{x@y,NULL}', 1.5000, row('a "b", (c)', -1, '2026-01-01 00:00+05', '-0'),
     array[row(null, 0, 'infinity', 'NaN')::app.address, null], '[1,5)', 'empty', '{[2026-01-01 00:00+00,),(,2020-01-01 00:00+00]}',
     '[-0,1e300)', '{[1,2),(3,4]}', '\x00ff27', 'NaN', '-0', '-0', '{{1,NULL},{3,4}}', B'0101', '::1/64',
     '08:00:2b:01:02:03:04:05', 12.34, '{"b": 1,  "a": 1.0}', '{"b": 1, "a": 1.00}', '$.a ? (@ > 1)',
     'a:1A b:2', 'a & !b', '1 mon -1 day 24:00:00.000001', '12:00:00.5-03:30', 'é', 'n', '16/B374D848', '(1,2),(-0,0.1)',
     '((0,0),(1,1),(1,0))'),
    (':tenant', 'sad', '{}', 'é@ü', '{}', 0.0001, row(null, null, null, null), '{}', 'empty', '(,)', '{}', 'empty', '{}', '',
     '-Infinity', '-Infinity', '4.9e-324', '{}', B'', '10.0.0.1', null, -0.01, 'null', 'null', 'strict $', '', '', '0',
     '24:00:00+00', '', '', '0/0', null, null);
insert into app.types (tenant_id, n, f4, f8) values (':tenant', 'Infinity', 'NaN', 'Infinity'), (':tenant', 1.50, 1e-45, 1e308);
insert into app.types (tenant_id, price) values (':tenant', 12345678901234.5678), (':tenant', null);
insert into app.generated (tenant_id, net) select ':tenant', i / 3.0 from generate_series(1, 20) i;
insert into app.toasted select ':tenant', i, 0, repeat(md5(i::text), 400), decode(repeat(md5(i::text), 400), 'hex') from generate_series(1, 20) i;
insert into app.parted select ':tenant', '2025-12-01'::date + :n + 2 * i, i % 3, 'day ' || i from generate_series(1, 40) i;
insert into app.by_id select :n + 2 * i, ':tenant', 'row ' || i from generate_series(1, 20) i;
insert into app.no_primary select ':tenant', 'code ' || i, null from generate_series(1, 20) i;
insert into app.full_rows select ':tenant', i, null from generate_series(1, 20) i;
insert into app.accounts select ':tenant', i, case i % 2 when 0 then 'gold' else 'free' end, 21 - i from generate_series(1, 20) i;
insert into app.orders select ':tenant', i, 1 + i % 20 from generate_series(1, 40) i;
insert into app.drawn (tenant_id) select ':tenant' from generate_series(1, 20);
insert into app.audited select ':tenant', i, 'row' from generate_series(1, 20) i;
insert into app.secured select ':tenant', i, 'row' from generate_series(1, 20) i;
insert into "Odd ""schema"".x"."Table of, ""quotes"". and spaces" select ':tenant', i, 'x' from generate_series(1, 20) i;
insert into "a.b".c (tenant_id, body) select ':tenant', 'in a.b' from generate_series(1, 20);
insert into a."b.c" (tenant_id, text_) select ':tenant', 'in a' from generate_series(1, 30);
