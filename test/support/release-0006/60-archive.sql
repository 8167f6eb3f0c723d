-- The position that a promotion cannot lose: what ends at or before it is flushed on as many synchronous followers as a
-- commit waits for. The redo stream takes nothing behind it (HZ-R2). Where nobody is waited for, there is no bound.
create or replace function holdfast.replicated_through() returns pg_lsn
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_names constant text := current_setting('synchronous_standby_names');
  v_needed integer;
  v_lsn pg_lsn;
begin
  if trim(v_names) = '' then
    return 'FFFFFFFF/FFFFFFFF';
  end if;
  -- `ANY 2 (a, b, c)`, `FIRST 1 (a, b)`, `1 (a, b)`; a bare list waits for one.
  v_needed := coalesce((regexp_match(v_names, '^\s*(?:any\s+|first\s+)?(\d+)\s*\(', 'i'))[1]::integer, 1);
  select r.flush_lsn into v_lsn
  from pg_stat_replication r
  where r.sync_state in ('sync', 'quorum') and r.flush_lsn is not null
  order by r.flush_lsn desc
  offset v_needed - 1 limit 1;
  return coalesce(v_lsn, '0/0');
end
$$;

revoke all on function holdfast.replicated_through() from public;
grant execute on function holdfast.replicated_through() to holdfast_replication, holdfast_gateway;
