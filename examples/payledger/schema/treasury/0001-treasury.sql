-- Cash and what is reserved of it, at the treasury, for every tenant.

create table treasury_accounts (
  tenant text not null,
  id text not null,
  balance_cents bigint not null,
  reserved_cents bigint not null default 0 check (reserved_cents >= 0),
  primary key (tenant, id),
  -- Nobody can reserve what is not there.
  constraint treasury_account_covers_its_holds check (reserved_cents <= balance_cents)
);

-- One hold a run: the primary key makes reserving a run twice unstorable.
create table treasury_holds (
  tenant text not null,
  run_id text not null,
  account_id text not null,
  amount_cents bigint not null check (amount_cents > 0),
  status text not null check (status in ('active', 'released')),
  reserved_in uuid not null,
  primary key (tenant, run_id),
  foreign key (tenant, account_id) references treasury_accounts
);
