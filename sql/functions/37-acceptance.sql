-- A decided timestamp that the clock of this shard refuses, and that a person accepts: see docs/protocols/clock.md, C8.

-- Only an administrator runs it, and only for a branch that is prepared here and refused at this moment. The row is on the
-- followers before the clock moves: whoever settles the branch moves it (observe_decided), now or after a crash. Told twice, it
-- gives the row that stands.
--   p_witness  the wall clock of who runs it
--   p_walls    {shard: the wall of its server}, of those that were asked
create or replace function holdfast.accept_clock(
  p_transaction uuid, p_gid text, p_home text, p_home_epoch integer, p_epoch integer, p_commit_timestamp bigint,
  p_witness bigint, p_walls jsonb, p_actor text, p_reason text) returns holdfast.clock_acceptance
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
  v_shard holdfast.shard;
  v_known holdfast.clock_acceptance;
  v_clock bigint;
  v_wall constant bigint := holdfast.wall_hlc();
  v_agreeing text;
begin
  perform holdfast.wait_for_followers(s.shard, s.durability) from holdfast.shard s;
  v_shard := holdfast.shard_at_epoch(p_epoch);
  perform holdfast.require_home_epoch(p_home, p_home_epoch);
  select * into v_known from holdfast.clock_acceptance a where a.transaction_id = p_transaction;
  if found then
    if v_known.commit_timestamp <> p_commit_timestamp then
      raise exception 'transaction % was accepted at %, not at %', p_transaction, v_known.commit_timestamp, p_commit_timestamp
        using errcode = 'HF010';
    end if;
    return v_known;
  end if;
  perform from pg_prepared_xacts x where x.gid = p_gid and x.database = current_database();
  if not found then
    raise exception 'no branch of transaction % is prepared here', p_transaction using errcode = 'HF019';
  end if;
  select c.last_value into v_clock from holdfast.hlc c;
  if not holdfast.refuses_decided(p_commit_timestamp, v_clock, v_wall, p_witness) then
    raise exception 'decided timestamp % of transaction % is not refused here', p_commit_timestamp, p_transaction
      using errcode = 'HF019';
  end if;
  -- Somebody's wall is wrong, and it may be the one here.
  select w.key into v_agreeing from jsonb_each_text(p_walls) w
  where w.value::bigint + ((3 * v_shard.max_clock_offset_ms::bigint) << 16) >= p_commit_timestamp
  limit 1;
  if found then
    raise exception 'the wall clock of % agrees with decided timestamp %', v_agreeing, p_commit_timestamp using errcode = 'HF019';
  end if;
  insert into holdfast.clock_acceptance (transaction_id, home, home_epoch, epoch, clock_before, commit_timestamp, wall,
    witness, walls, max_clock_offset_ms, actor, reason)
  values (p_transaction, p_home, p_home_epoch, p_epoch, v_clock, p_commit_timestamp, v_wall, p_witness, p_walls,
    v_shard.max_clock_offset_ms, p_actor, p_reason)
  returning * into v_known;
  return v_known;
end
$$;

-- Rows prove what was done by hand. Those that arrive by replication are not asked.
create or replace function holdfast.refuse_change() returns trigger
language plpgsql
as $$
begin
  raise exception 'rows of % are added and never changed', tg_relid::regclass using errcode = 'insufficient_privilege';
end
$$;

create or replace trigger refuse_change before update or delete or truncate on holdfast.clock_acceptance
  for each statement execute function holdfast.refuse_change();

revoke all on function
  holdfast.accept_clock(uuid, text, text, integer, integer, bigint, bigint, jsonb, text, text),
  holdfast.refuse_change() from public;
