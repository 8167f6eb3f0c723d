-- Closing timestamps: what the keeper of a shard's clock does, and how it is woken. See docs/protocols/clock.md.

-- The guard behind the closed timestamp: raised before the closer draws its own xid.
create or replace function holdfast.raise_floor(p_timestamp bigint) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform set_config('synchronous_commit', 'off', true);
  perform setval('holdfast.floor', p_timestamp) from holdfast.floor f where f.last_value < p_timestamp;
end
$$;

-- Committed locally: a follower receives only what the primary has flushed, and asynchronous commits are flushed by and by.
create or replace function holdfast.publish_closed(p_timestamp bigint) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_closed bigint;
begin
  perform set_config('synchronous_commit', 'local', true);
  update holdfast.closed c set closed_timestamp = greatest(c.closed_timestamp, p_timestamp)
  returning c.closed_timestamp into strict v_closed;
  return v_closed;
end
$$;

-- Begins a closing: brings the clock to wall time, raises the floor to what it reads, `closing`, and tells what the clock
-- read before (`seen`) and this server's wall. The xid of the closing is drawn in a later transaction: one that setting a
-- sequence assigns is older than what it sets, and somebody may have drawn in between with a younger one.
create or replace function holdfast.begin_closing(p_witness bigint, out seen bigint, out closing bigint, out wall bigint)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  select s.last_value into seen from holdfast.hlc s;
  closing := holdfast.tick(p_witness);
  perform holdfast.raise_floor(closing);
  wall := holdfast.wall_hlc();
end
$$;

-- Publishes the greatest of the closings that have been waited for: those whose xid is older than every transaction in
-- progress, and whose floor, logged at or before its position, a promotion cannot lose (C7). Then draws an xid of its own, which
-- belongs with `position` to the closing that was begun just before. What is published, those two, and the clock come back.
create or replace function holdfast.advance_closed(
  p_closings bigint[], p_xids xid8[], p_positions pg_lsn[],
  out closed bigint, out own xid8, out "position" pg_lsn, out clock bigint)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  -- Read before this transaction has an xid: it would wait for itself (HZ-C2).
  v_oldest constant xid8 := pg_snapshot_xmin(pg_current_snapshot());
  v_replicated constant pg_lsn := holdfast.replicated_through();
  v_reached bigint;
begin
  "position" := pg_current_wal_insert_lsn();
  select max(p.closing) into v_reached
  from unnest(p_closings, p_xids, p_positions) p(closing, xid, logged)
  where p.xid < v_oldest and p.logged <= v_replicated;
  select c.closed_timestamp into strict closed from holdfast.closed c;
  if v_reached > closed then
    closed := holdfast.publish_closed(v_reached);
  elsif v_replicated < "position" and pg_current_wal_flush_lsn() < "position" then
    -- Followers receive what is flushed, and what is published flushes. Nothing is: so the lock of the row does.
    perform set_config('synchronous_commit', 'local', true);
    perform from holdfast.closed for update;
  end if;
  own := pg_current_xact_id();
  select s.last_value into clock from holdfast.hlc s;
end
$$;

-- A keeper holds this lock while it listens, and looks at the clock once more before it goes to sleep. Whoever moved the clock
-- before that look is seen by it; whoever does later notifies. So no wakeup is lost.
create or replace function holdfast.wake_keeper() returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if not pg_try_advisory_xact_lock_shared(hashtextextended('holdfast.clock-listens', 0)) then
    perform set_config('synchronous_commit', 'off', true);
    perform pg_notify('holdfast_clock', '');
  end if;
end
$$;

-- For who finds the clock standing still: nobody has used this shard for a while.
create or replace function holdfast.wake(p_witness bigint) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_clock constant bigint := holdfast.tick(p_witness);
begin
  perform holdfast.wake_keeper();
  return v_clock;
end
$$;

-- For a reader that waits until a timestamp is closed: has the clock past it, and the keeper awake. In autocommit.
create or replace function holdfast.request_closing(p_timestamp bigint, p_witness bigint) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_clock constant bigint := holdfast.observe(p_timestamp, p_witness);
begin
  perform holdfast.wake_keeper() from holdfast.closed c where c.closed_timestamp < p_timestamp;
  return v_clock;
end
$$;

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

revoke all on function holdfast.raise_floor(bigint), holdfast.publish_closed(bigint),
  holdfast.begin_closing(bigint), holdfast.advance_closed(bigint[], xid8[], pg_lsn[]), holdfast.wake_keeper(), holdfast.wake(bigint),
  holdfast.request_closing(bigint, bigint), holdfast.closing_blocker() from public;
grant execute on function holdfast.begin_closing(bigint), holdfast.advance_closed(bigint[], xid8[], pg_lsn[]), holdfast.wake(bigint),
  holdfast.request_closing(bigint, bigint), holdfast.closing_blocker() to holdfast_gateway;
