"""A small multi-tenant RAG service, deployed once per cell: the sample that `tenure demo` moves tenants
of."""
