create table left_lists (
  tenant text not null,
  name text not null,
  items integer[] not null,
  primary key (tenant, name)
);
create table left_accounts (
  tenant text not null,
  name text not null,
  amount_cents bigint not null check (amount_cents >= 0),
  primary key (tenant, name)
);
