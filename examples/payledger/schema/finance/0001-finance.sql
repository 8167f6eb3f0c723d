-- What finance sees of all tenants, built at the treasury from the columns that may leave a home and no others.

create table finance_timeline (
  tenant text not null,
  run_id text not null,
  status text not null check (status in ('draft', 'approved')),
  total_cents bigint not null check (total_cents > 0),
  commit_timestamp bigint not null,
  primary key (tenant, run_id)
);
