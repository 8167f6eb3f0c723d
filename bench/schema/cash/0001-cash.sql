create table holds (
  tenant text not null,
  id bigint generated always as identity,
  amount_cents bigint not null,
  primary key (tenant, id)
);
