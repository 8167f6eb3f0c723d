-- The end of a transaction: stamp at home, prepare at a participant, decision and settlement.
-- See docs/protocols/write-path.md and docs/protocols/global-commit.md. All of them raise when anything is wrong, so that the
-- COMMIT or PREPARE TRANSACTION sent behind them cannot succeed.

-- What stamp and prepare have in common: this transaction is opened, this shard is at the epoch and open, every
-- placement that was routed by is still this shard's at that version. Gives the shard.
create or replace function holdfast.require_authority(p_binding jsonb, p_transaction uuid, p_placements jsonb)
returns holdfast.shard
language plpgsql
as $$
declare
  v_here holdfast.shard;
  v_stale text;
begin
  if p_binding is null or p_binding ->> 'mode' <> 'write' or (p_binding ->> 'transaction')::uuid <> p_transaction then
    raise exception 'transaction % is not opened here', p_transaction using errcode = 'HF005';
  end if;
  v_here := holdfast.shard_at_epoch((p_binding ->> 'epoch')::integer);
  select r.key into v_stale
  from jsonb_each_text(p_placements) r
  left join holdfast.placement p
    on p.tenant = p_binding ->> 'tenant' and p.domain = r.key and p.shard = v_here.shard and p.version = r.value::integer
  where p.tenant is null
  limit 1;
  if v_stale is not null then
    raise exception 'the placement of domain % of tenant % is not here at version %', v_stale, p_binding ->> 'tenant',
      p_placements ->> v_stale using errcode = 'HF003';
  end if;
  perform set_config('synchronous_commit', case v_here.durability when 'quorum' then 'on' else 'local' end, true);
  return v_here;
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

-- The last act of a transaction at its home. Everything that can wait comes before the draw.
--   p_after     every prepare timestamp of the participants lies at or below it; the stamp must lie above
--   p_value     what the caller's function returned, kept with the idempotency key
--   p_events    [{"id": uuid, "name": text, "payload": json}, ...] for the outbox
create or replace function holdfast.stamp(
  p_transaction uuid, p_action text, p_subject text, p_actor text, p_placements jsonb, p_participants text[],
  p_after bigint, p_value jsonb, p_events jsonb)
returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_binding constant jsonb := holdfast.binding();
  v_here constant holdfast.shard := holdfast.require_authority(v_binding, p_transaction, p_placements);
  v_tenant constant text := v_binding ->> 'tenant';
  v_epoch constant integer := (v_binding ->> 'epoch')::integer;
  v_stamp bigint;
begin
  if v_binding ->> 'key' is not null then
    update holdfast.idempotency i set value = coalesce(p_value, 'null'::jsonb)
    where i.tenant = v_tenant and i.key = v_binding ->> 'key' and i.transaction_id = p_transaction;
    if not found then
      raise exception 'transaction % does not hold its idempotency key', p_transaction using errcode = 'HF005';
    end if;
  end if;
  if p_events <> '[]' then
    insert into holdfast.outbox (event_id, transaction_id, ordinal, tenant, name, payload)
    select (e.value ->> 'id')::uuid, p_transaction, e.ordinality, v_tenant, e.value ->> 'name', e.value -> 'payload'
    from jsonb_array_elements(p_events) with ordinality e;
  end if;
  if cardinality(p_participants) > 0 then
    if v_here.durability = 'local' then
      raise exception 'a shard with local durability takes no part in a global transaction' using errcode = 'HF011';
    end if;
    perform holdfast.require_uncollected(p_transaction);
  end if;

  v_stamp := holdfast.draw();
  if v_stamp <= p_after then
    raise exception 'stamp % is not above prepare timestamp %', v_stamp, p_after using errcode = 'HF014';
  end if;
  insert into holdfast.commit_log (transaction_id, commit_timestamp, xid, tenant, action, subject, actor, placements,
    epoch, participants)
  values (p_transaction, v_stamp, pg_current_xact_id(), v_tenant, p_action, p_subject, p_actor, p_placements, v_epoch,
    p_participants);
  if cardinality(p_participants) > 0 then
    insert into holdfast.transaction_record (transaction_id, outcome, commit_timestamp, participants, home_epoch)
    values (p_transaction, 'COMMITTED', v_stamp, p_participants, v_epoch)
    on conflict do nothing;
    if not found then
      raise exception 'transaction % was presumed aborted before its decision', p_transaction using errcode = 'HF015';
    end if;
  end if;
  return v_stamp;
end
$$;

-- The last act of a branch before PREPARE TRANSACTION. The offset is checked before the vote, never after: here for a
-- home that is ahead, and by home's observe() of the prepare timestamp for a participant that is ahead.
--   p_home_clock  a reading of home's clock from the start of the flight
create or replace function holdfast.prepare_branch(
  p_transaction uuid, p_gid text, p_home text, p_home_epoch integer, p_participants text[], p_action text,
  p_subject text, p_actor text, p_placements jsonb, p_home_clock bigint)
returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_binding constant jsonb := holdfast.binding();
  v_shard constant holdfast.shard := holdfast.require_authority(v_binding, p_transaction, p_placements);
  v_prepare bigint;
begin
  if v_shard.durability = 'local' then
    raise exception 'a shard with local durability takes no part in a global transaction' using errcode = 'HF011';
  end if;
  perform holdfast.require_home_epoch(p_home, p_home_epoch);
  if p_home_clock > holdfast.wall_hlc() + (v_shard.max_clock_offset_ms::bigint << 16) then
    raise exception 'the clock of % is more than % ms ahead of %', p_home, v_shard.max_clock_offset_ms, v_shard.shard
      using errcode = 'HF001';
  end if;
  v_prepare := holdfast.draw();
  insert into holdfast.branch (transaction_id, gid, home, home_epoch, participants, prepare_timestamp, xid, tenant,
    action, subject, actor, placements, epoch)
  values (p_transaction, p_gid, p_home, p_home_epoch, p_participants, v_prepare, pg_current_xact_id(),
    v_binding ->> 'tenant', p_action, p_subject, p_actor, p_placements, (v_binding ->> 'epoch')::integer);
  return v_prepare;
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

-- The decision, as this participant learns it; in its own transaction, before the branch is settled.
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
  perform set_config('synchronous_commit', 'on', true);
  perform holdfast.shard_at_epoch(p_epoch);
  perform holdfast.require_uncollected(p_transaction);
  insert into holdfast.transaction_record (transaction_id, outcome, participants, home_epoch, reason)
  values (p_transaction, 'ABORTED', p_participants, p_epoch, p_reason)
  on conflict do nothing;
  return query
    select r.outcome, r.commit_timestamp, r.home_epoch
    from holdfast.transaction_record r where r.transaction_id = p_transaction;
end
$$;

-- A small write that waits for the followers: acknowledged without a warning, everything before it is on them.
create or replace function holdfast.barrier() returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform set_config('synchronous_commit', 'on', true);
  perform pg_logical_emit_message(true, 'holdfast.barrier', '');
end
$$;

revoke all on function holdfast.require_authority(jsonb, uuid, jsonb), holdfast.transaction_born_ms(uuid),
  holdfast.require_uncollected(uuid), holdfast.require_home_epoch(text, integer),
  holdfast.stamp(uuid, text, text, text, jsonb, text[], bigint, jsonb, jsonb),
  holdfast.prepare_branch(uuid, text, text, integer, text[], text, text, text, jsonb, bigint),
  holdfast.record_decision(uuid, text, bigint, text, integer),
  holdfast.abort_unless_recorded(uuid, text[], integer, text), holdfast.barrier() from public;
grant execute on function holdfast.stamp(uuid, text, text, text, jsonb, text[], bigint, jsonb, jsonb),
  holdfast.prepare_branch(uuid, text, text, integer, text[], text, text, text, jsonb, bigint),
  holdfast.record_decision(uuid, text, bigint, text, integer),
  holdfast.abort_unless_recorded(uuid, text[], integer, text), holdfast.barrier() to holdfast_gateway;
