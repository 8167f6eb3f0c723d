-- The proof of freshness: everything about the snapshot of a read that the decision needs, in one row. See
-- docs/protocols/visibility.md. Runs on primaries and followers; writes nothing.

-- The snapshot of the transaction is older than this call: `position_after` is read when it has been taken, so whatever the
-- snapshot shows was committed at or before it.
--   p_tenant      whose placements come back; null for none
--   p_asked       transaction ids: which of them are visible?
--   p_histories   the histories that the session knows. What a cutover left out is told only to those who know another
--                 history than the newest, because it can be long.
create or replace function holdfast.proof(p_tenant text, p_asked uuid[], p_histories uuid[])
returns table (
  shard text, follows boolean, position_after pg_lsn, histories jsonb, placements jsonb, visible uuid[],
  closed_timestamp bigint, greatest_timestamp bigint)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
-- Planning for the given values costs twice what running costs, and finds the same plan.
set plan_cache_mode = force_generic_plan
as $$
begin
  return query
    select s.shard, r.follows,
      case when r.follows then greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
        else pg_current_wal_flush_lsn() end,
      (select jsonb_agg(jsonb_build_object('id', h.history_id, 'epoch', h.epoch, 'parent', h.parent, 'fork', h.fork_lsn,
         'leftOut', case when p_histories <@ array[s.history_id] then '{}' else h.left_out end))
       from holdfast.history h),
      (select coalesce(jsonb_object_agg(p.domain, jsonb_build_object('shard', p.shard, 'version', p.version,
         'service', p.service)), '{}')
       from holdfast.placement p where p.tenant = p_tenant),
      (select coalesce(array_agg(a.id), '{}') from unnest(p_asked) a(id)
       where exists (select from holdfast.commit_log l where l.transaction_id = a.id)
          or exists (select from holdfast.branch b where b.transaction_id = a.id)),
      c.closed_timestamp,
      greatest(
        (select max(l.commit_timestamp) from holdfast.commit_log l),
        -- A decision is visible before its branch: an upper bound.
        (select max(d.commit_timestamp) from holdfast.decision d), 0)
    from holdfast.shard s, holdfast.closed c, (select pg_is_in_recovery() as follows) r;
end
$$;

-- How far a node is, for those who wait for it: a hint when to ask for a proof again.
create or replace function holdfast.freshness(p_asked uuid[])
returns table (replayed pg_lsn, closed_timestamp bigint, visible uuid[])
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
  select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_flush_lsn() end,
         c.closed_timestamp,
         (select coalesce(array_agg(a.id), '{}') from unnest(p_asked) a(id)
          where exists (select from holdfast.commit_log l where l.transaction_id = a.id)
             or exists (select from holdfast.branch b where b.transaction_id = a.id))
  from holdfast.closed c
$$;

-- The global transactions that this snapshot shows above a timestamp, with all shards that they wrote.
create or replace function holdfast.visible_global_transactions(p_above bigint)
returns table (transaction_id uuid, commit_timestamp bigint, shards text[])
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$
  select l.transaction_id, l.commit_timestamp, s.shard || l.participants
  from holdfast.commit_log l, holdfast.shard s
  where l.commit_timestamp > p_above and cardinality(l.participants) > 0
  union all
  select b.transaction_id, d.commit_timestamp, b.home || b.participants
  from holdfast.decision d join holdfast.branch b using (transaction_id)
  where d.commit_timestamp > p_above and d.outcome = 'COMMITTED'
$$;

revoke all on function holdfast.proof(text, uuid[], uuid[]), holdfast.freshness(uuid[]),
  holdfast.visible_global_transactions(bigint) from public;
grant execute on function holdfast.proof(text, uuid[], uuid[]), holdfast.freshness(uuid[]),
  holdfast.visible_global_transactions(bigint) to holdfast_gateway;
