-- The end of a transaction: stamp at home, prepare at a participant, decision and settlement.
-- See docs/protocols/write-path.md and docs/protocols/global-commit.md. All of them raise when anything is wrong, so that the
-- COMMIT or PREPARE TRANSACTION sent behind them cannot succeed.

-- What decides compares here that this shard is still the authority: at its epoch and open (whoever asks compares the epoch),
-- with the placements that the transaction was routed by, and those that its statements might write by.
create or replace view holdfast.authority as
select s.epoch, s.shard, s.durability, s.max_clock_offset_ms, h.tenant, h.placements, h.writable
from holdfast.shard s
join holdfast.placements_here h on h.shard = s.shard
where s.state = 'open';

-- Why a transaction has no authority here. Always raises.
create or replace function holdfast.refuse_authority(
  p_transaction uuid, p_tenant text, p_epoch integer, p_placements jsonb) returns void
language plpgsql
as $$
declare
  v_domain text;
  v_routed integer;
begin
  if current_setting('holdfast.transaction', true) is distinct from p_transaction::text
    or current_setting('holdfast.tenant', true) is distinct from p_tenant then
    raise exception 'transaction % is not opened here', p_transaction using errcode = 'HF005';
  end if;
  perform holdfast.shard_at_epoch(p_epoch);
  select r.key, r.value into v_domain, v_routed
  from (select * from jsonb_each(p_placements) union all select * from jsonb_each(current_setting('holdfast.placements')::jsonb)) r
  left join holdfast.authority a on a.tenant = p_tenant
  where a.placements -> r.key is distinct from r.value or a.writable -> r.key is distinct from r.value
  order by a.placements -> r.key is not distinct from r.value
  limit 1;
  if exists (select from holdfast.authority a where a.tenant = p_tenant and a.placements -> v_domain <> to_jsonb(v_routed)) then
    raise exception 'the placement of domain % of tenant % is not here at version %', v_domain, p_tenant, v_routed
      using errcode = 'HF003';
  end if;
  perform holdfast.refuse_placement(p_tenant, v_domain);
end
$$;

-- This transaction waits for followers as its shard promises, whatever anybody has set (HZ-S5). Where it would wait for
-- nobody, it is refused. Names that are emptied later than this release who waits, with success: the gateway therefore
-- compares when the settings were loaded before and after its COMMIT.
create or replace function holdfast.wait_for_followers(p_shard text, p_durability text) returns text
language plpgsql
as $$
begin
  if p_durability = 'quorum' and current_setting('synchronous_standby_names') = '' then
    raise exception 'a commit on shard % would wait for no follower', p_shard
      using errcode = 'HF016', hint = 'Name its followers in synchronous_standby_names.';
  end if;
  return set_config('synchronous_commit', case p_durability when 'quorum' then 'on' else 'local' end, true);
end
$$;

create or replace function holdfast.transaction_born_ms(p_transaction uuid) returns bigint
language sql immutable
as $$ select ('x' || left(replace(p_transaction::text, '-', ''), 12))::bit(48)::bigint $$;

-- A record may not be made for a transaction whose record could have been collected already.
create or replace function holdfast.require_uncollected(p_transaction uuid) returns void
language plpgsql stable
as $$
begin
  perform from holdfast.shard s where holdfast.transaction_born_ms(p_transaction) < s.collected_through_ms;
  if found then
    raise exception 'transaction % was born below the collection watermark', p_transaction using errcode = 'HF009';
  end if;
end
$$;

-- Collection goes by births, which gateways tell. A record of one whose wall is far ahead would outlast its window by as much.
create or replace function holdfast.require_born(p_transaction uuid, p_offset_ms integer) returns void
language plpgsql
as $$
declare
  v_ahead_ms bigint;
begin
  select holdfast.transaction_born_ms(p_transaction) - (greatest(c.last_value, holdfast.wall_hlc()) >> 16) into v_ahead_ms
  from holdfast.hlc c;
  if v_ahead_ms > p_offset_ms then
    raise exception 'transaction % was born % ms ahead of the clock of this shard', p_transaction, v_ahead_ms
      using errcode = 'HF001', hint = 'Set the wall clock of its gateway.';
  end if;
end
$$;

-- The last act of a transaction at its home. Everything that can wait comes before the draw.
--   p_key       the idempotency key that the opening claimed
--   p_after     every prepare timestamp of the participants lies at or below it; the stamp must lie above
--   p_value     what the caller's function returned, kept with the idempotency key
--   p_events    [{"id": uuid, "name": text, "payload": json}, ...] for the outbox
create or replace function holdfast.stamp(
  p_transaction uuid, p_tenant text, p_epoch integer, p_key text, p_action text, p_subject text, p_actor text,
  p_placements jsonb, p_participants text[], p_after bigint, p_value jsonb, p_events jsonb)
returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_stamp bigint;
begin
  if p_key is not null then
    update holdfast.idempotency i set value = coalesce(p_value, 'null'::jsonb)
    where i.tenant = p_tenant and i.key = p_key and i.transaction_id = p_transaction;
    if not found then
      raise exception 'transaction % does not hold its idempotency key', p_transaction using errcode = 'HF005';
    end if;
  end if;
  if p_events <> '[]' then
    insert into holdfast.outbox (event_id, transaction_id, ordinal, tenant, name, payload)
    select (e.value ->> 'id')::uuid, p_transaction, e.ordinality, p_tenant, e.value ->> 'name', e.value -> 'payload'
    from jsonb_array_elements(p_events) with ordinality e;
  end if;
  if cardinality(p_participants) > 0 then
    perform holdfast.require_global(p_transaction);
  end if;

  -- In one statement, since each costs more than its parts: who has no authority draws nothing.
  insert into holdfast.commit_log (transaction_id, commit_timestamp, xid, tenant, action, subject, actor, placements,
    epoch, participants)
  select p_transaction, holdfast.draw(), pg_current_xact_id(), p_tenant, p_action, p_subject, p_actor, p_placements, p_epoch,
    p_participants
  from holdfast.authority a
  where a.tenant = p_tenant and a.epoch = p_epoch and a.placements @> p_placements
    and a.writable @> current_setting('holdfast.placements', true)::jsonb
    and current_setting('holdfast.transaction', true) = p_transaction::text
    and current_setting('holdfast.tenant', true) = p_tenant
    and holdfast.wait_for_followers(a.shard, a.durability) is not null
  returning commit_timestamp into v_stamp;
  if not found then
    perform holdfast.refuse_authority(p_transaction, p_tenant, p_epoch, p_placements);
  end if;
  if v_stamp <= p_after then
    raise exception 'stamp % is not above prepare timestamp %', v_stamp, p_after using errcode = 'HF014';
  end if;
  if cardinality(p_participants) > 0 then
    insert into holdfast.transaction_record (transaction_id, outcome, commit_timestamp, participants, home_epoch)
    values (p_transaction, 'COMMITTED', v_stamp, p_participants, p_epoch)
    on conflict do nothing;
    if not found then
      raise exception 'transaction % was presumed aborted before its decision', p_transaction using errcode = 'HF015';
    end if;
  end if;
  return v_stamp;
end
$$;

-- What a transaction over several shards needs of its home besides.
create or replace function holdfast.require_global(p_transaction uuid) returns void
language plpgsql
as $$
begin
  perform from holdfast.shard s where s.durability = 'local';
  if found then
    raise exception 'a shard with local durability takes no part in a global transaction' using errcode = 'HF011';
  end if;
  perform holdfast.require_uncollected(p_transaction);
  perform holdfast.require_born(p_transaction, s.max_clock_offset_ms) from holdfast.shard s;
end
$$;

-- The last act of a branch before PREPARE TRANSACTION. The offset is checked before the vote, never after: here for a
-- home that is ahead, and by home's observe() of the prepare timestamp for a participant that is ahead.
--   p_home_clock  a reading of home's clock from the start of the flight
--   p_witness     the wall clock of the gateway
create or replace function holdfast.prepare_branch(
  p_transaction uuid, p_tenant text, p_epoch integer, p_gid text, p_home text, p_home_epoch integer, p_participants text[],
  p_action text, p_subject text, p_actor text, p_placements jsonb, p_home_clock bigint, p_witness bigint)
returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_here record;
  v_prepare bigint;
begin
  select a.shard, a.durability, a.max_clock_offset_ms into v_here
  from holdfast.authority a
  where a.tenant = p_tenant and a.epoch = p_epoch and a.placements @> p_placements
    and a.writable @> current_setting('holdfast.placements', true)::jsonb
    and current_setting('holdfast.transaction', true) = p_transaction::text
    and current_setting('holdfast.tenant', true) = p_tenant;
  if not found then
    perform holdfast.refuse_authority(p_transaction, p_tenant, p_epoch, p_placements);
  end if;
  perform holdfast.wait_for_followers(v_here.shard, v_here.durability);
  if v_here.durability = 'local' then
    raise exception 'a shard with local durability takes no part in a global transaction' using errcode = 'HF011';
  end if;
  perform holdfast.require_home_epoch(p_home, p_home_epoch);
  perform holdfast.require_uncollected_at(p_home, p_transaction);
  perform holdfast.require_born(p_transaction, v_here.max_clock_offset_ms);
  if p_home_clock > holdfast.agreed_wall(p_witness) + (v_here.max_clock_offset_ms::bigint << 16) then
    raise exception 'the clock of % is more than % ms ahead of %', p_home, v_here.max_clock_offset_ms, v_here.shard
      using errcode = 'HF001';
  end if;
  v_prepare := holdfast.draw();
  insert into holdfast.branch (transaction_id, gid, home, home_epoch, participants, prepare_timestamp, xid, tenant,
    action, subject, actor, placements, epoch)
  values (p_transaction, p_gid, p_home, p_home_epoch, p_participants, v_prepare, pg_current_xact_id(),
    p_tenant, p_action, p_subject, p_actor, p_placements, p_epoch);
  return v_prepare;
end
$$;

-- What a participant that only read says in place of a prepare: that its authority stands, and its clock, which lies above
-- whatever was read. Raises where something was written: the COMMIT behind it would decide alone.
create or replace function holdfast.conclude_reading(
  p_transaction uuid, p_tenant text, p_epoch integer, p_placements jsonb) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform from holdfast.authority a
  where a.tenant = p_tenant and a.epoch = p_epoch and a.placements @> p_placements
    and current_setting('holdfast.transaction', true) = p_transaction::text
    and current_setting('holdfast.tenant', true) = p_tenant;
  if not found then
    perform holdfast.refuse_authority(p_transaction, p_tenant, p_epoch, p_placements);
  end if;
  if pg_current_xact_id_if_assigned() is not null then
    raise exception 'transaction % has written here, and must be prepared', p_transaction using errcode = 'XX000';
  end if;
  return (select c.last_value from holdfast.hlc c);
end
$$;

-- Writes that carry an older epoch of a home than this shard has seen come from a coordinator that was fenced.
create or replace function holdfast.require_home_epoch(p_home text, p_home_epoch integer) returns void
language plpgsql stable
as $$
declare
  v_seen integer;
begin
  select p.epoch into v_seen from holdfast.peer p where p.shard = p_home;
  if p_home_epoch < v_seen then
    raise exception 'home % was seen at epoch %, this comes from epoch %', p_home, v_seen, p_home_epoch
      using errcode = 'HF008';
  end if;
end
$$;

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

revoke all on function holdfast.refuse_authority(uuid, text, integer, jsonb), holdfast.wait_for_followers(text, text),
  holdfast.transaction_born_ms(uuid),
  holdfast.require_uncollected(uuid), holdfast.require_born(uuid, integer), holdfast.require_global(uuid), holdfast.require_home_epoch(text, integer),
  holdfast.stamp(uuid, text, integer, text, text, text, text, jsonb, text[], bigint, jsonb, jsonb),
  holdfast.prepare_branch(uuid, text, integer, text, text, integer, text[], text, text, text, jsonb, bigint, bigint),
  holdfast.conclude_reading(uuid, text, integer, jsonb),
  holdfast.record_decision(uuid, text, bigint, text, integer),
  holdfast.abort_unless_recorded(uuid, text[], integer, text), holdfast.hold_home(uuid), holdfast.home_is_open(uuid),
  holdfast.barrier() from public;
grant execute on function holdfast.stamp(uuid, text, integer, text, text, text, text, jsonb, text[], bigint, jsonb, jsonb),
  holdfast.prepare_branch(uuid, text, integer, text, text, integer, text[], text, text, text, jsonb, bigint, bigint),
  holdfast.conclude_reading(uuid, text, integer, jsonb),
  holdfast.record_decision(uuid, text, bigint, text, integer),
  holdfast.abort_unless_recorded(uuid, text[], integer, text), holdfast.hold_home(uuid), holdfast.home_is_open(uuid),
  holdfast.transaction_born_ms(uuid), holdfast.barrier() to holdfast_gateway;
