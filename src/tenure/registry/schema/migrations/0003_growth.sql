-- Indexes for what is asked most often, so that the answer does not take longer with ten thousand tenants than with a
-- hundred: what is due (the oldest first, looked at until there is enough of it), and what a route's holds have taken.

create index if not exists operations_unfinished on registry.operations (created_at, id) where active;
create index if not exists measurements_of_a_route on registry.measurements (kind, route, at, id);
