-- The clock of a shard is the sequence holdfast.hlc: 48 bits of milliseconds above 16 bits of counter.
-- See docs/protocols/clock.md; invariants C1 to C6, and C8.

create or replace function holdfast.wall_hlc() returns bigint
language sql volatile
set search_path = pg_catalog, pg_temp
as $$ select trunc(extract(epoch from clock_timestamp()) * 1000)::bigint << 16 $$;

-- The wall time that the clock of this shard goes by. Two agree on it: this server, and the gateway that asks (p_witness).
-- A server whose wall is further ahead of its witness than max_clock_offset_ms is not believed, since what it stamps would
-- stay ahead for good; its witness is. One whose wall is behind is: the clock then stands still until the wall has come up.
create or replace function holdfast.agreed_wall(p_witness bigint) returns bigint
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
  select case when w.here > p_witness + (s.max_clock_offset_ms::bigint << 16) then p_witness else w.here end
  from (select holdfast.wall_hlc() as here) w, holdfast.shard s
$$;

-- Moves the clock to at least p_target. Only forward moves under the lock set it; near targets that p_wall, the agreed wall,
-- has not passed are drawn, so that a stream of observations cannot run the clock ahead of both. Committed asynchronously: a
-- move that a crash loses is made again by whoever needs it next. What it does is said by src/hlc/shard-clock.ts as well.
create or replace function holdfast.move_clock(p_target bigint, p_wall bigint) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  margin constant bigint := 4096;
  v_logged pg_lsn;
  v_seen bigint;
  v_to bigint;
begin
  perform set_config('synchronous_commit', 'off', true);
  -- Released at the end of this one-statement transaction, which does not wait for followers.
  perform pg_advisory_xact_lock(hashtextextended('holdfast.hlc', 0));
  for attempt in 1 .. 1000 loop
    v_logged := pg_current_wal_insert_lsn();
    select s.last_value into v_seen from holdfast.hlc s;
    if v_seen >= p_target then
      return v_seen;
    end if;
    v_to := greatest(p_target, v_seen + margin);
    if v_to - v_seen > margin or v_to <= p_wall then
      -- A mover that was paused since it read may not set: others have drawn meanwhile. How much, the log says, which no
      -- wall clock can set back: 32 draws write a record of more than 64 bytes, so that less than 4 kB of log is little more
      -- than half of the margin that lies at least between what was read and what is set.
      perform setval('holdfast.hlc', v_to) where pg_current_wal_insert_lsn() - v_logged < 4096;
    else
      perform nextval('holdfast.hlc') from generate_series(1, p_target - v_seen);
    end if;
  end loop;
  raise exception 'the clock could not be moved to % in 1000 attempts', p_target using errcode = 'HF002';
end
$$;

-- Moves the clock past a timestamp from elsewhere, and gives it; refuses one too far ahead of the wall clock that this
-- server and the gateway agree on.
create or replace function holdfast.observe(p_timestamp bigint, p_witness bigint) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_seen bigint;
  v_wall bigint;
  v_offset_ms integer;
begin
  select s.last_value into v_seen from holdfast.hlc s;
  if v_seen >= p_timestamp then
    return v_seen;
  end if;
  v_wall := holdfast.agreed_wall(p_witness);
  select s.max_clock_offset_ms into strict v_offset_ms from holdfast.shard s;
  if p_timestamp > v_wall + (v_offset_ms::bigint << 16) then
    raise exception 'timestamp % lies more than % ms ahead of the wall clock', p_timestamp, v_offset_ms
      using errcode = 'HF001';
  end if;
  return holdfast.move_clock(p_timestamp, v_wall);
end
$$;

-- The vote checked a decided timestamp, so it is adopted however far one wall lies behind it (HZ-P3). But no home decides
-- further ahead of true time than twice the offset (C6), and a wall that is right lies within the offset of that. What is
-- more than three ahead of both walls was not checked by a vote. The clock stays, and the branch is for a person, unless one
-- has accepted that time (C8).
create or replace function holdfast.refuses_decided(p_timestamp bigint, p_clock bigint, p_wall bigint, p_witness bigint)
returns boolean
language sql stable
as $$
  select p_timestamp > p_clock
    and p_timestamp > greatest(p_wall, p_witness) + ((3 * s.max_clock_offset_ms::bigint) << 16)
    and not exists (select from holdfast.clock_acceptance a where a.commit_timestamp >= p_timestamp)
  from holdfast.shard s
$$;

create or replace function holdfast.observe_decided(p_timestamp bigint, p_witness bigint) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_seen bigint;
begin
  select s.last_value into v_seen from holdfast.hlc s;
  if v_seen >= p_timestamp then
    return v_seen;
  end if;
  if holdfast.refuses_decided(p_timestamp, v_seen, holdfast.wall_hlc(), p_witness) then
    raise exception 'decided timestamp % lies more than % ms ahead of every wall clock', p_timestamp,
      (select 3 * s.max_clock_offset_ms from holdfast.shard s)
      using errcode = 'HF001', hint = 'No home that kept to the offset has decided so. holdfast resolve --dry-run has the ways out.';
  end if;
  return holdfast.move_clock(p_timestamp, holdfast.agreed_wall(p_witness));
end
$$;

-- Brings the clock to wall time, and reads it. A clock that is ahead stays.
create or replace function holdfast.tick(p_witness bigint) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_seen bigint;
  v_wall constant bigint := holdfast.agreed_wall(p_witness);
begin
  select s.last_value into v_seen from holdfast.hlc s;
  if v_wall - v_seen <= 65536 then
    return v_seen;
  end if;
  return holdfast.move_clock(v_wall, v_wall);
end
$$;

-- Draws a timestamp for the transaction that calls it: C1, the xid first; C3, above the floor. The floor is read between the
-- two. A transaction that the closer does not wait for got its xid after the floor was raised, so it reads the raised one;
-- and a floor that is raised while we draw refuses nobody who is waited for.
create or replace function holdfast.draw() returns bigint
language plpgsql
as $$
declare
  v_xid xid8;
  v_floor bigint;
  v_drawn bigint;
begin
  -- An assignment is evaluated in place; PERFORM would be a query.
  v_xid := pg_current_xact_id();
  -- Null until a closer has raised it.
  v_floor := coalesce(pg_sequence_last_value('holdfast.floor'), 0);
  v_drawn := nextval('holdfast.hlc');
  if v_drawn <= v_floor then
    raise exception 'stamp % is at or below the closed floor', v_drawn using errcode = 'HF002';
  end if;
  return v_drawn;
end
$$;

revoke all on function holdfast.wall_hlc(), holdfast.agreed_wall(bigint), holdfast.move_clock(bigint, bigint),
  holdfast.observe(bigint, bigint), holdfast.refuses_decided(bigint, bigint, bigint, bigint),
  holdfast.observe_decided(bigint, bigint), holdfast.tick(bigint), holdfast.draw() from public;
grant execute on function holdfast.wall_hlc(), holdfast.observe(bigint, bigint), holdfast.observe_decided(bigint, bigint)
  to holdfast_gateway;
