create table entries (
  tenant text not null,
  id bigint generated always as identity,
  account text not null,
  amount_cents bigint not null,
  primary key (tenant, id)
);

create table balances (
  tenant text not null,
  account text not null,
  amount_cents bigint not null,
  primary key (tenant, account)
);
