-- Who holds the closed timestamp of this shard back: the holder of the oldest transaction id of the whole server, in
-- whatever database it works (HZ-C7). No row comes back when nothing is held.
create or replace function holdfast.closing_blocker()
returns table (pid integer, gid text, database text, application text, state text, waits_for text, age_ms bigint)
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
  select h.pid, h.gid, h.database, h.application, h.state, h.waits_for,
         (extract(epoch from clock_timestamp() - h.since) * 1000)::bigint
  from (
    select a.pid, null::text as gid, a.datname::text as database, a.application_name as application, a.state,
           a.wait_event as waits_for, a.xact_start as since, a.backend_xid as held
    from pg_stat_activity a
    where a.backend_xid is not null
    union all
    select null, p.gid, p.database::text, null, 'prepared', null, p.prepared, p.transaction
    from pg_prepared_xacts p
  ) h
  order by age(h.held) desc
  limit 1
$$;

revoke all on function holdfast.closing_blocker() from public;
grant execute on function holdfast.closing_blocker() to holdfast_gateway;
