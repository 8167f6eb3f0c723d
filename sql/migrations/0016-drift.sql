-- Reads that were declared local and left their region, on the shard that they read: of a route one row, however often it
-- reads. Outside history, like attempts.
create table holdfast.read_drift (
  route text not null check (length(route) <= 100),
  from_region text not null,
  to_region text not null check (to_region <> from_region),
  reads bigint not null check (reads > 0),
  first_at timestamptz not null,
  last_at timestamptz not null check (last_at >= first_at),
  primary key (route, from_region, to_region)
);
alter table holdfast.read_drift owner to holdfast_owner;
grant select on holdfast.read_drift to holdfast_gateway, holdfast_replication;
