-- Up to when idempotency keys may have been collected: nothing that was born below claims one any more.
alter table holdfast.shard add column keys_collected_through_ms bigint not null default 0
  check (keys_collected_through_ms >= 0);
create index on holdfast.idempotency (transaction_id);
create index on holdfast.decision (home, transaction_id) where outcome = 'ABORTED';
