-- Collection of transaction records: see docs/protocols/global-commit.md, K1 to K8. Times are of birth, in milliseconds of the
-- transaction id.

-- K2, at a participant: from here on nothing of this home is prepared that was born below.
create or replace function holdfast.announce_collection(p_home text, p_home_epoch integer, p_through_ms bigint) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform holdfast.wait_for_followers(s.shard, s.durability) from holdfast.shard s;
  perform holdfast.require_home_epoch(p_home, p_home_epoch);
  insert into holdfast.peer as p (shard, epoch, collected_through_ms) values (p_home, p_home_epoch, p_through_ms)
  on conflict (shard) do update
    set epoch = greatest(p.epoch, excluded.epoch),
        collected_through_ms = greatest(p.collected_through_ms, excluded.collected_through_ms)
    where p.epoch < excluded.epoch or p.collected_through_ms < excluded.collected_through_ms;
end
$$;

-- Asked by a branch before it votes, in its snapshot: one that is older than the announcement is waited for.
create or replace function holdfast.require_uncollected_at(p_home text, p_transaction uuid) returns void
language plpgsql stable
as $$
begin
  perform from holdfast.peer p
  where p.shard = p_home and holdfast.transaction_born_ms(p_transaction) < p.collected_through_ms;
  if found then
    raise exception 'transaction % was born below the collection watermark of its home %', p_transaction, p_home
      using errcode = 'HF009';
  end if;
end
$$;

-- The transactions of this database that are open, by virtual transaction.
create or replace function holdfast.open_transactions() returns text[]
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
  select coalesce(array_agg(l.virtualtransaction), '{}')
  from pg_locks l join pg_stat_activity a using (pid)
  where l.locktype = 'virtualxid' and l.granted and a.backend_type = 'client backend'
    and a.datname = current_database() and l.pid <> pg_backend_pid()
$$;

-- K1, at home: only upwards. Counts once a barrier has passed.
create or replace function holdfast.raise_collection(p_through_ms bigint, p_epoch integer) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform holdfast.wait_for_followers(s.shard, s.durability) from holdfast.shard s;
  perform holdfast.shard_at_epoch(p_epoch);
  update holdfast.shard s set collected_through_ms = p_through_ms where s.collected_through_ms < p_through_ms;
end
$$;

-- Removes those of the records that lie below the watermark, and counts them.
create or replace function holdfast.collect_records(p_transactions uuid[], p_epoch integer) returns integer
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_count integer;
begin
  perform holdfast.shard_at_epoch(p_epoch);
  delete from holdfast.transaction_record r using holdfast.shard s
  where r.transaction_id = any(p_transactions)
    and holdfast.transaction_born_ms(r.transaction_id) < s.collected_through_ms;
  get diagnostics v_count = row_count;
  return v_count;
end
$$;

-- The first id of a millisecond.
create or replace function holdfast.first_born_at(p_ms bigint) returns uuid
language sql immutable
as $$ select (lpad(to_hex(greatest(0, p_ms)), 12, '0') || repeat('0', 20))::uuid $$;

-- K7, at a participant: decisions ABORTED of a home whose records are collected up to there, oldest first. Counts them.
create or replace function holdfast.collect_decisions(
  p_home text, p_home_epoch integer, p_through_ms bigint, p_limit integer) returns integer
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_count integer;
begin
  perform holdfast.wait_for_followers(s.shard, s.durability) from holdfast.shard s;
  perform holdfast.require_home_epoch(p_home, p_home_epoch);
  delete from holdfast.decision d
  where d.transaction_id in (
    select o.transaction_id from holdfast.decision o
    where o.home = p_home and o.outcome = 'ABORTED'
      and o.transaction_id < (select holdfast.first_born_at(least(p_through_ms, p.collected_through_ms))
                              from holdfast.peer p where p.shard = p_home)
    order by o.transaction_id limit p_limit);
  get diagnostics v_count = row_count;
  return v_count;
end
$$;

-- K8, at home: keys whose transaction was born and stamped longer ago than the retention, by the clock of the caller and by that
-- of this server, oldest first. With them goes the watermark. It lies above whatever their first senders, who may sleep, can have
-- been born at. Counts them.
create or replace function holdfast.collect_keys(
  p_wall_ms bigint, p_retention_ms bigint, p_limit integer, p_epoch integer) returns integer
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_before_ms constant bigint :=
    least(p_wall_ms, trunc(extract(epoch from clock_timestamp()) * 1000)::bigint) - p_retention_ms;
  v_count integer;
begin
  perform holdfast.wait_for_followers(s.shard, s.durability) from holdfast.shard s;
  perform holdfast.shard_at_epoch(p_epoch);
  with old as (
    select i.tenant, i.key
    from holdfast.idempotency i
    where i.transaction_id < holdfast.first_born_at(v_before_ms)
      and i.created_at <= clock_timestamp() - p_retention_ms * interval '1 millisecond'
    order by i.transaction_id limit p_limit)
  delete from holdfast.idempotency i using old where i.tenant = old.tenant and i.key = old.key;
  get diagnostics v_count = row_count;
  if v_count > 0 then
    update holdfast.shard s set keys_collected_through_ms = v_before_ms + s.max_clock_offset_ms
    where s.keys_collected_through_ms < v_before_ms + s.max_clock_offset_ms;
  end if;
  return v_count;
end
$$;

-- Whoever slept for longer than keys are kept cannot know any more whether the key was used. Always raises.
create or replace function holdfast.refuse_claim(p_transaction uuid) returns void
language plpgsql
as $$
begin
  raise exception 'transaction % was born before keys that may have been collected', p_transaction using errcode = 'HF017';
end
$$;

-- Rows that arrive by replay pass.
create or replace function holdfast.refuse_old_claim() returns trigger
language plpgsql
as $$
begin
  perform holdfast.refuse_claim(new.transaction_id) from holdfast.shard s
  where holdfast.transaction_born_ms(new.transaction_id) < s.keys_collected_through_ms;
  return new;
end
$$;

-- Behind a claim: its insert may have waited for a collector that removed the key, whose watermark was committed with that, after
-- the trigger had looked. A statement of its own sees it. Where the snapshot is that of the transaction, a lock tells only that
-- the row of the shard has changed since; that is taken for the watermark, for what is run again gets a younger id.
create or replace function holdfast.require_claimable(p_transaction uuid) returns void
language plpgsql
as $$
begin
  perform holdfast.refuse_claim(p_transaction) from holdfast.shard s
  where holdfast.transaction_born_ms(p_transaction) < s.keys_collected_through_ms;
  if current_setting('transaction_isolation') <> 'read committed' then
    perform from holdfast.shard for share;
  end if;
exception when serialization_failure then
  perform holdfast.refuse_claim(p_transaction);
end
$$;

create or replace trigger refuse_old_claim before insert on holdfast.idempotency
  for each row execute function holdfast.refuse_old_claim();

-- A key is as old as the stamp of its transaction, which may come long after the claim.
create or replace function holdfast.age_key() returns trigger
language plpgsql
as $$
begin
  new.created_at := clock_timestamp();
  return new;
end
$$;

create or replace trigger age_key before update of value on holdfast.idempotency
  for each row execute function holdfast.age_key();

revoke all on function holdfast.announce_collection(text, integer, bigint), holdfast.require_uncollected_at(text, uuid),
  holdfast.open_transactions(), holdfast.raise_collection(bigint, integer), holdfast.collect_records(uuid[], integer),
  holdfast.first_born_at(bigint), holdfast.collect_decisions(text, integer, bigint, integer),
  holdfast.collect_keys(bigint, bigint, integer, integer), holdfast.refuse_claim(uuid), holdfast.refuse_old_claim(),
  holdfast.require_claimable(uuid), holdfast.age_key()
  from public;
grant execute on function holdfast.announce_collection(text, integer, bigint), holdfast.open_transactions(),
  holdfast.raise_collection(bigint, integer), holdfast.collect_records(uuid[], integer),
  holdfast.collect_decisions(text, integer, bigint, integer), holdfast.collect_keys(bigint, bigint, integer, integer)
  to holdfast_gateway;
