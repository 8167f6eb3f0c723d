create schema holdfast authorization holdfast_owner;
set role holdfast_owner;

-- What this shard is, and the switch that fences it.
create table holdfast.shard (
  only_row boolean primary key default true check (only_row),
  fleet text not null,
  shard text not null,
  durability text not null check (durability in ('quorum', 'local')),
  epoch integer not null check (epoch > 0),
  history_id uuid not null,
  state text not null check (state in ('open', 'fenced')),
  max_clock_offset_ms integer not null check (max_clock_offset_ms > 0),
  -- Records of transactions born before this (milliseconds of their UUIDv7) are collected.
  collected_through_ms bigint not null default 0
);

-- Every history this shard has had. A restore or a promotion opens the next one, linked to where it forked.
create table holdfast.history (
  history_id uuid primary key,
  epoch integer not null unique check (epoch > 0),
  parent uuid references holdfast.history,
  fork_lsn pg_lsn,
  timeline integer not null,
  reason text not null check (reason in ('founded', 'promotion', 'cutover')),
  left_out uuid[] not null default '{}',
  opened_at timestamptz not null default clock_timestamp(),
  check ((parent is null) = (reason = 'founded')),
  check ((fork_lsn is null) = (reason = 'founded')),
  check (reason = 'cutover' or left_out = '{}')
);

-- The clock of the shard, and the floor that no stamp may fall to. Permanent, one value a draw.
create sequence holdfast.hlc as bigint minvalue 0 start with 1 cache 1 no cycle;
create sequence holdfast.floor as bigint minvalue 0 start with 0 cache 1 no cycle;

create table holdfast.closed (
  only_row boolean primary key default true check (only_row),
  closed_timestamp bigint not null check (closed_timestamp >= 0)
) with (fillfactor = 10);

-- The directory: which shard is the authority for a tenant's domain. Each shard has it whole.
create table holdfast.placement (
  tenant text not null,
  domain text not null,
  shard text not null,
  version integer not null check (version > 0),
  policy jsonb not null,
  policy_version integer not null check (policy_version > 0),
  service text not null default 'full' check (service in ('full', 'read-only', 'reject')),
  primary key (tenant, domain)
);

-- One row for every transaction whose home is this shard.
create table holdfast.commit_log (
  transaction_id uuid primary key,
  commit_timestamp bigint not null,
  xid xid8 not null,
  tenant text not null,
  action text not null,
  subject text not null,
  actor text not null,
  placements jsonb not null,
  epoch integer not null,
  participants text[] not null
);
create index on holdfast.commit_log (commit_timestamp, transaction_id);

-- The decision of a global transaction, at its home. The primary key is the race between a coordinator and a resolver.
create table holdfast.transaction_record (
  transaction_id uuid primary key,
  outcome text not null check (outcome in ('COMMITTED', 'ABORTED')),
  commit_timestamp bigint,
  participants text[] not null,
  home_epoch integer not null,
  reason text not null default '',
  recorded_at timestamptz not null default clock_timestamp(),
  check ((outcome = 'COMMITTED') = (commit_timestamp is not null))
);

-- One row for every branch of which this shard is a participant; it commits with the branch.
create table holdfast.branch (
  transaction_id uuid primary key,
  gid text not null unique,
  home text not null,
  home_epoch integer not null,
  participants text[] not null,
  prepare_timestamp bigint not null,
  xid xid8 not null,
  tenant text not null,
  action text not null,
  subject text not null,
  actor text not null,
  placements jsonb not null,
  epoch integer not null
);

-- The decision as this participant learnt it, written before the branch is settled.
create table holdfast.decision (
  transaction_id uuid primary key,
  outcome text not null check (outcome in ('COMMITTED', 'ABORTED')),
  commit_timestamp bigint,
  home text not null,
  home_epoch integer not null,
  decided_at timestamptz not null default clock_timestamp(),
  check ((outcome = 'COMMITTED') = (commit_timestamp is not null))
);
create index on holdfast.decision (commit_timestamp);

-- The highest epoch of another shard that this one has taken a settlement from.
create table holdfast.peer (
  shard text primary key,
  epoch integer not null check (epoch > 0)
);

create table holdfast.idempotency (
  tenant text not null,
  key text not null,
  request_hash bytea not null,
  transaction_id uuid not null,
  -- What the first call returned; null until its transaction is stamped.
  value jsonb,
  created_at timestamptz not null default clock_timestamp(),
  primary key (tenant, key)
);

create table holdfast.outbox (
  event_id uuid primary key,
  transaction_id uuid not null,
  ordinal integer not null,
  tenant text not null,
  name text not null,
  payload jsonb not null
);
create index on holdfast.outbox (transaction_id, ordinal);

-- Refused and aborted attempts: who, what, why. Outside the history of committed actions.
create table holdfast.attempt (
  attempt_id uuid primary key default gen_random_uuid(),
  attempted_at timestamptz not null default clock_timestamp(),
  transaction_id uuid,
  tenant text not null,
  action text not null,
  subject text not null,
  actor text not null,
  code text not null,
  reason text not null
);
create index on holdfast.attempt (attempted_at);

-- The key that binds an opening to its transaction. Readable by the owner's functions alone.
create table holdfast.secret (
  only_row boolean primary key default true check (only_row),
  key bytea not null check (length(key) = 32)
);

-- Which application tables Holdfast governs.
create table holdfast.governed (
  relation text primary key,
  domain text not null,
  data_class text not null check (data_class in ('regulated', 'reference', 'derived'))
);

-- A transaction as this shard shows it: its own, and its branches of others once they are settled.
create view holdfast.history_of_transactions as
  select transaction_id, commit_timestamp, xid, tenant, action, subject, actor, placements, epoch, participants,
         true as is_home
  from holdfast.commit_log
  union all
  select b.transaction_id, d.commit_timestamp, b.xid, b.tenant, b.action, b.subject, b.actor, b.placements, b.epoch,
         b.participants, false
  from holdfast.branch b
  join holdfast.decision d using (transaction_id)
  where d.outcome = 'COMMITTED';

reset role;

grant usage on schema holdfast to holdfast_gateway, holdfast_app, holdfast_replication;
grant select on holdfast.shard, holdfast.history, holdfast.closed, holdfast.placement, holdfast.commit_log,
  holdfast.transaction_record, holdfast.branch, holdfast.decision, holdfast.peer, holdfast.idempotency, holdfast.outbox,
  holdfast.attempt, holdfast.governed, holdfast.history_of_transactions, holdfast.hlc, holdfast.floor
  to holdfast_gateway, holdfast_replication;
grant insert on holdfast.attempt to holdfast_gateway;

-- What leaves this shard as redo: its own tables that belong to history. Application tables join as they are governed.
create publication holdfast_redo for table
  holdfast.history, holdfast.placement, holdfast.commit_log, holdfast.transaction_record, holdfast.branch,
  holdfast.decision, holdfast.idempotency, holdfast.outbox;
