-- What only an administrator runs.

-- Founds the shard: its name and its first history. Run once, on an empty schema.
create or replace procedure holdfast.found_shard(
  p_fleet text, p_shard text, p_durability text, p_history uuid, p_max_clock_offset_ms integer)
language plpgsql
as $$
begin
  insert into holdfast.history (history_id, epoch, timeline, reason)
  values (p_history, 1, (select timeline_id from pg_control_checkpoint()), 'founded');
  insert into holdfast.shard (fleet, shard, durability, epoch, history_id, state, max_clock_offset_ms)
  values (p_fleet, p_shard, p_durability, 1, p_history, 'open', p_max_clock_offset_ms);
  insert into holdfast.closed (closed_timestamp) values (0);
  -- Tables of one row are never large enough to be analysed by themselves. By its guess of their size the planner would
  -- think every call of the opening, the guard and the stamp worth a plan of its own.
  analyze holdfast.shard, holdfast.lineage, holdfast.closed;
end
$$;

create or replace procedure holdfast.set_role_password(p_role name, p_password text)
language plpgsql
as $$
begin
  execute format('alter role %I password %L', p_role, p_password);
end
$$;

-- Fences the shard: from here on every opening and every stamp at the old epoch is refused. The caller then waits for the
-- transactions of this moment (HZ-M1: first the open ones, then the prepared ones).
create or replace function holdfast.fence(p_epoch integer) returns integer
language plpgsql
as $$
declare
  v_epoch integer;
begin
  perform holdfast.wait_for_followers(s.shard, s.durability) from holdfast.shard s;
  update holdfast.shard set epoch = p_epoch, state = 'fenced' where epoch < p_epoch or (epoch = p_epoch and state = 'fenced')
  returning epoch into v_epoch;
  if v_epoch is null then
    raise exception 'the shard is past epoch %', p_epoch using errcode = 'HF008';
  end if;
  return v_epoch;
end
$$;

-- Opens the next history of the shard at its epoch. Written before the shard takes traffic, and before its epoch is told. Once
-- more changes nothing but the state. Where the epoch was taken, by a fence or by another history, it is refused: a promotion
-- would open what a cutover holds.
create or replace procedure holdfast.open_history(
  p_history uuid, p_epoch integer, p_fork_lsn pg_lsn, p_reason text, p_left_out uuid[])
language plpgsql
as $$
begin
  -- The row first: a fence that is under way is waited for.
  perform from holdfast.shard s
  where s.epoch < p_epoch or (s.epoch = p_epoch and s.history_id = p_history)
  for update;
  if not found then
    raise exception 'the shard is past epoch %', p_epoch using errcode = 'HF008';
  end if;
  insert into holdfast.history (history_id, epoch, parent, fork_lsn, timeline, reason, left_out)
  select p_history, p_epoch, s.history_id, p_fork_lsn, (select timeline_id from pg_control_checkpoint()), p_reason, p_left_out
  from holdfast.shard s
  on conflict (history_id) do nothing;
  update holdfast.shard set history_id = p_history, epoch = p_epoch, state = 'fenced';
end
$$;

create or replace procedure holdfast.open_shard(p_epoch integer)
language plpgsql
as $$
begin
  update holdfast.shard set state = 'open' where epoch = p_epoch;
  if not found then
    raise exception 'the shard is not at epoch %', p_epoch using errcode = 'HF006';
  end if;
end
$$;

-- HZ-C3: what must survive a crash must be permanent.
create or replace function holdfast.impermanent_relations() returns setof text
language sql stable
set search_path = pg_catalog, pg_temp
as $$
  select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname = 'holdfast' and c.relkind in ('r', 'S') and c.relpersistence <> 'p'
$$;

revoke all on procedure holdfast.found_shard(text, text, text, uuid, integer), holdfast.set_role_password(name, text),
  holdfast.open_history(uuid, integer, pg_lsn, text, uuid[]), holdfast.open_shard(integer) from public;
revoke all on function holdfast.fence(integer), holdfast.impermanent_relations() from public;
-- The keeper of the clock serves no shard whose clock a crash would reset.
grant execute on function holdfast.impermanent_relations() to holdfast_gateway;
