-- What comes of a decision behind it: the participant that learns of it before it settles its branch, the abort that is presumed
-- where there is none, whether one may still come, and the barrier behind which any of it counts. Whoever finds a branch in
-- doubt runs them, several at once and again: the first row under a key stands, and what contradicts it raises. See
-- docs/protocols/global-commit.md, S1 to S3 and R1 to R4.

-- The decision, as this participant learns it; in its own transaction, before the branch is settled, and behind the move of
-- its clock past the commit timestamp (S1).
create or replace function holdfast.record_decision(
  p_transaction uuid, p_outcome text, p_commit_timestamp bigint, p_home text, p_home_epoch integer)
returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_known holdfast.decision;
begin
  perform set_config('synchronous_commit', 'off', true);
  -- S1: what was refused, or lost by a crash, is not settled.
  perform from holdfast.hlc c where c.last_value < p_commit_timestamp;
  if found then
    raise exception 'the clock of this shard has not passed %, at which % is decided', p_commit_timestamp, p_transaction
      using errcode = 'HF002';
  end if;
  perform holdfast.require_home_epoch(p_home, p_home_epoch);
  insert into holdfast.peer as p (shard, epoch) values (p_home, p_home_epoch)
  on conflict (shard) do update set epoch = excluded.epoch where p.epoch < excluded.epoch;
  insert into holdfast.decision (transaction_id, outcome, commit_timestamp, home, home_epoch)
  values (p_transaction, p_outcome, p_commit_timestamp, p_home, p_home_epoch)
  on conflict do nothing;
  select * into strict v_known from holdfast.decision d where d.transaction_id = p_transaction;
  if v_known.outcome <> p_outcome or v_known.commit_timestamp is distinct from p_commit_timestamp then
    raise exception 'decision % of transaction % contradicts the recorded %', p_outcome, p_transaction, v_known.outcome
      using errcode = 'HF010';
  end if;
end
$$;

-- Presumed abort, at home. The primary key decides against a coordinator that is still on its way. What comes back is
-- the record that stands; it counts only behind a barrier.
create or replace function holdfast.abort_unless_recorded(
  p_transaction uuid, p_participants text[], p_epoch integer, p_reason text)
returns table (outcome text, commit_timestamp bigint, home_epoch integer)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  -- A coordinator whose decision waits for followers holds the key. Whoever asks comes again later.
  perform set_config('lock_timeout', '2s', true);
  perform holdfast.shard_at_epoch(p_epoch);
  perform holdfast.wait_for_followers(s.shard, s.durability) from holdfast.shard s;
  perform from holdfast.transaction_record r where r.transaction_id = p_transaction;
  if not found then
    perform holdfast.require_uncollected(p_transaction);
    insert into holdfast.transaction_record (transaction_id, outcome, participants, home_epoch, reason)
    values (p_transaction, 'ABORTED', p_participants, p_epoch, p_reason)
    on conflict do nothing;
  end if;
  return query
    select r.outcome, r.commit_timestamp, r.home_epoch
    from holdfast.transaction_record r where r.transaction_id = p_transaction;
end
$$;

-- Whether home's part of a transaction is open: a lock that is taken with the opening and goes with the transaction, which is
-- after its commit can be seen. Whoever sees it free, and reads the record afterwards, knows what there will be to read on this
-- server. Held by others it only lets a resolver wait, so nothing is guarded by it. Bare functions, to become a part of the
-- query that calls them.
create or replace function holdfast.hold_home(p_transaction uuid) returns boolean
language sql volatile
as $$ select pg_catalog.pg_try_advisory_xact_lock(pg_catalog.uuid_hash_extended(p_transaction, 0)) $$;

create or replace function holdfast.home_is_open(p_transaction uuid) returns boolean
language sql volatile
as $$ select not pg_catalog.pg_try_advisory_xact_lock_shared(pg_catalog.uuid_hash_extended(p_transaction, 0)) $$;

-- A small write that waits for the followers. Who sends it also sees for himself, in holdfast.replicated_through(), that
-- they have what came before it.
create or replace function holdfast.barrier() returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform holdfast.wait_for_followers(s.shard, s.durability) from holdfast.shard s;
  perform pg_logical_emit_message(true, 'holdfast.barrier', '');
end
$$;

revoke all on function holdfast.record_decision(uuid, text, bigint, text, integer),
  holdfast.abort_unless_recorded(uuid, text[], integer, text), holdfast.hold_home(uuid), holdfast.home_is_open(uuid),
  holdfast.barrier() from public;
grant execute on function holdfast.record_decision(uuid, text, bigint, text, integer),
  holdfast.abort_unless_recorded(uuid, text[], integer, text), holdfast.hold_home(uuid), holdfast.home_is_open(uuid),
  holdfast.barrier() to holdfast_gateway;
