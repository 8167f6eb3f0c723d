-- The last word of a part of a transaction before its COMMIT or PREPARE TRANSACTION: the stamp at home, the branch at a
-- participant that wrote, the vote of one that only read. Each asks first whether it may (25-authority.sql), and draws or reads
-- the clock when nothing else is left to wait for. All of them raise when anything is wrong, so that what was sent behind them
-- cannot succeed. See docs/protocols/write-path.md, T3, and docs/protocols/global-commit.md.

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

-- Who was taken for a reader wrote, or holds a lock that others may rely on. Always raises.
create or replace function holdfast.refuse_reading(p_transaction uuid) returns bigint
language plpgsql
as $$
begin
  raise exception 'transaction % has left a trace here, and must be prepared', p_transaction using errcode = 'HF018';
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
    perform holdfast.refuse_reading(p_transaction);
  end if;
  return (select c.last_value from holdfast.hlc c);
end
$$;

revoke all on function
  holdfast.stamp(uuid, text, integer, text, text, text, text, jsonb, text[], bigint, jsonb, jsonb),
  holdfast.require_global(uuid),
  holdfast.prepare_branch(uuid, text, integer, text, text, integer, text[], text, text, text, jsonb, bigint, bigint),
  holdfast.refuse_reading(uuid), holdfast.conclude_reading(uuid, text, integer, jsonb) from public;
grant execute on function
  holdfast.stamp(uuid, text, integer, text, text, text, text, jsonb, text[], bigint, jsonb, jsonb),
  holdfast.prepare_branch(uuid, text, integer, text, text, integer, text[], text, text, text, jsonb, bigint, bigint),
  holdfast.refuse_reading(uuid), holdfast.conclude_reading(uuid, text, integer, jsonb) to holdfast_gateway;
