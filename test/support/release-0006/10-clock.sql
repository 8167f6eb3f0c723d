-- The clock of a shard is the sequence holdfast.hlc: 48 bits of milliseconds above 16 bits of counter.
-- See docs/protocols/clock.md; invariants C1 to C6.

create or replace function holdfast.wall_hlc() returns bigint
language sql volatile
set search_path = pg_catalog, pg_temp
as $$ select trunc(extract(epoch from clock_timestamp()) * 1000)::bigint << 16 $$;

-- Moves the clock to at least p_target. Only forward moves under the lock set it; near targets are drawn, so that a
-- stream of observations cannot run the clock ahead of the wall. Committed asynchronously: a move that a crash loses
-- is made again by the next transaction that carries the timestamp.
create or replace function holdfast.move_clock(p_target bigint) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  tick constant bigint := 65536;
  v_started timestamptz;
  v_seen bigint;
  v_to bigint;
begin
  perform set_config('synchronous_commit', 'off', true);
  -- Released at the end of this one-statement transaction, which does not wait for followers.
  perform pg_advisory_xact_lock(hashtextextended('holdfast.hlc', 0));
  for attempt in 1 .. 1000 loop
    v_started := clock_timestamp();
    select s.last_value into v_seen from holdfast.hlc s;
    if v_seen >= p_target then
      return v_seen;
    end if;
    v_to := greatest(p_target, v_seen + tick);
    if v_to - v_seen > tick or v_to <= holdfast.wall_hlc() then
      -- A mover that was paused since it read may not set: others have drawn meanwhile. One tick of margin covers
      -- what can be drawn within the five milliseconds that are let pass.
      perform setval('holdfast.hlc', v_to) where clock_timestamp() - v_started < interval '5 milliseconds';
    else
      perform nextval('holdfast.hlc') from generate_series(1, p_target - v_seen);
    end if;
  end loop;
  raise exception 'the clock could not be moved to % in 1000 attempts', p_target using errcode = 'HF002';
end
$$;

-- Moves the clock past a timestamp from elsewhere; refuses one too far ahead of this server's wall clock.
create or replace function holdfast.observe(p_timestamp bigint) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_seen bigint;
  v_offset_ms integer;
begin
  select s.last_value into v_seen from holdfast.hlc s;
  if v_seen >= p_timestamp then
    return v_seen;
  end if;
  select s.max_clock_offset_ms into strict v_offset_ms from holdfast.shard s;
  if p_timestamp > holdfast.wall_hlc() + (v_offset_ms::bigint << 16) then
    raise exception 'timestamp % lies more than % ms ahead of the wall clock', p_timestamp, v_offset_ms
      using errcode = 'HF001';
  end if;
  return holdfast.move_clock(p_timestamp);
end
$$;

-- A decided timestamp is never refused: the vote checked it.
create or replace function holdfast.observe_decided(p_timestamp bigint) returns bigint
language sql security definer
set search_path = pg_catalog, pg_temp
as $$ select holdfast.move_clock(p_timestamp) $$;

-- Brings the clock to wall time, and reads it. A clock that is ahead stays.
create or replace function holdfast.tick() returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_seen bigint;
  v_wall bigint := holdfast.wall_hlc();
begin
  select s.last_value into v_seen from holdfast.hlc s;
  if v_wall - v_seen <= 65536 then
    return v_seen;
  end if;
  return holdfast.move_clock(v_wall);
end
$$;

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

-- Draws a timestamp for the transaction that calls it: C1, the xid first; C3, above the floor. The floor is read between the
-- two. A transaction that the closer does not wait for got its xid after the floor was raised, so it reads the raised one;
-- and a floor that is raised while we draw refuses nobody who is waited for.
create or replace function holdfast.draw() returns bigint
language plpgsql
as $$
declare
  v_floor bigint;
  v_drawn bigint;
begin
  perform pg_current_xact_id();
  select f.last_value into v_floor from holdfast.floor f;
  v_drawn := nextval('holdfast.hlc');
  if v_drawn <= v_floor then
    raise exception 'stamp % is at or below the closed floor', v_drawn using errcode = 'HF002';
  end if;
  return v_drawn;
end
$$;

revoke all on function holdfast.wall_hlc(), holdfast.move_clock(bigint), holdfast.observe(bigint),
  holdfast.observe_decided(bigint), holdfast.tick(), holdfast.raise_floor(bigint), holdfast.publish_closed(bigint),
  holdfast.draw() from public;
grant execute on function holdfast.wall_hlc(), holdfast.observe(bigint), holdfast.observe_decided(bigint),
  holdfast.tick(), holdfast.raise_floor(bigint), holdfast.publish_closed(bigint) to holdfast_gateway;
