-- Decided timestamps that no vote can have checked, and that a person let this shard's clock pass all the same: who, when, why,
-- from where to where, and what the walls said. Outside history, like attempts; rows are added and never changed.
create table holdfast.clock_acceptance (
  transaction_id uuid primary key,
  home text not null,
  home_epoch integer not null check (home_epoch > 0),
  epoch integer not null check (epoch > 0),
  clock_before bigint not null,
  commit_timestamp bigint not null check (commit_timestamp > clock_before),
  wall bigint not null,
  witness bigint not null,
  walls jsonb not null,
  max_clock_offset_ms integer not null,
  actor text not null check (length(btrim(actor)) between 1 and 200),
  reason text not null check (length(btrim(reason)) between 1 and 1000),
  accepted_at timestamptz not null default clock_timestamp(),
  -- What needs no acceptance has none.
  check (commit_timestamp > greatest(wall, witness) + ((3 * max_clock_offset_ms::bigint) << 16))
);
create index on holdfast.clock_acceptance (commit_timestamp);
alter table holdfast.clock_acceptance owner to holdfast_owner;
grant select on holdfast.clock_acceptance to holdfast_gateway, holdfast_replication;
