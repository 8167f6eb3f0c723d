-- The proof of freshness: everything about the snapshot of a read that the decision needs, in one row. See
-- docs/protocols/visibility.md. Reads on primaries and followers; writes nothing. What it reads the gateway may read, so it is a
-- statement of the gateway's and no function: with a function's rights and settings of its own it costs five times as much.

-- What a snapshot says of its node. The snapshot is older than what is called here: `position_after` is read when it has been
-- taken, so whatever the snapshot shows was committed at or before it. `replayed` is read then as well, and therefore proves
-- nothing of this snapshot; it does of every later one of the same server process.
create or replace view holdfast.evidence as
select l.shard, n.follows,
  case when n.follows then pg_last_wal_replay_lsn() else pg_current_wal_flush_lsn() end as replayed,
  case when n.follows then greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
    else pg_current_wal_flush_lsn() end as position_after,
  l.history_id, l.histories, l.left_out, c.closed_timestamp
from holdfast.lineage l, holdfast.closed c, (select pg_is_in_recovery() as follows) n;

-- Those of the transactions that this snapshot shows, at home or as a branch. One by one: a plan for a list is made anew for
-- each list.
create or replace function holdfast.shown_of(p_asked uuid[]) returns uuid[]
language plpgsql stable
as $$
declare
  v_shown uuid[] := '{}';
  v_id uuid;
begin
  foreach v_id in array p_asked loop
    if exists (select from holdfast.commit_log l where l.transaction_id = v_id)
      or exists (select from holdfast.branch b where b.transaction_id = v_id) then
      v_shown := v_shown || v_id;
    end if;
  end loop;
  return v_shown;
end
$$;

-- Nothing that this snapshot shows has a later timestamp. A decision is visible before its branch: an upper bound.
create or replace function holdfast.greatest_shown() returns bigint
language plpgsql stable
as $$
begin
  return greatest(
    (select max(l.commit_timestamp) from holdfast.commit_log l),
    (select max(d.commit_timestamp) from holdfast.decision d), 0);
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

revoke all on function holdfast.shown_of(uuid[]), holdfast.greatest_shown(), holdfast.freshness(uuid[]),
  holdfast.visible_global_transactions(bigint) from public;
grant select on holdfast.evidence to holdfast_gateway;
grant execute on function holdfast.shown_of(uuid[]), holdfast.greatest_shown(), holdfast.freshness(uuid[]),
  holdfast.visible_global_transactions(bigint) to holdfast_gateway;
