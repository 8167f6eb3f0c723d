-- The position that a promotion cannot lose: what ends at or before it is flushed on as many synchronous followers as a
-- commit waits for. The redo stream takes nothing behind it (HZ-R2), and a barrier has passed when it is reached (B4). A shard
-- of local durability has no bound; one that should wait for its followers, and does not, has replicated nothing (HZ-S5).
create or replace function holdfast.replicated_through() returns pg_lsn
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_names constant text := current_setting('synchronous_standby_names');
  v_needed integer;
  v_lsn pg_lsn;
begin
  -- Commits of a local shard wait for nobody, whoever is named on its server.
  perform from holdfast.shard s where s.durability = 'local';
  if found then
    return 'FFFFFFFF/FFFFFFFF';
  end if;
  if holdfast.other_followers() is not null then
    return '0/0';
  end if;
  -- `ANY 2 (a, b, c)`, `FIRST 1 (a, b)`, `1 (a, b)`; a bare list waits for one.
  v_needed := coalesce((regexp_match(v_names, '^\s*(?:any\s+|first\s+)?(\d+)\s*\(', 'i'))[1]::integer, 1);
  -- The view would look at every session as well.
  select r.flush_lsn into v_lsn
  from pg_stat_get_wal_senders() r
  where r.sync_state in ('sync', 'quorum') and r.flush_lsn is not null
  order by r.flush_lsn desc
  offset v_needed - 1 limit 1;
  return coalesce(v_lsn, '0/0');
end
$$;

-- How many followers could acknowledge a commit of this primary now; null where none has to. At none, commits wait or are
-- refused.
create or replace function holdfast.acknowledging() returns integer
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
  select case when s.durability <> 'quorum' then null when holdfast.other_followers() is not null then 0 else
    (select count(*)::integer from pg_stat_replication r where r.sync_state in ('sync', 'quorum')) end
  from holdfast.shard s
$$;

revoke all on function holdfast.replicated_through(), holdfast.acknowledging() from public;
grant execute on function holdfast.acknowledging() to holdfast_gateway;
grant execute on function holdfast.replicated_through() to holdfast_replication, holdfast_gateway;
