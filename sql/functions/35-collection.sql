-- Collection of transaction records: see docs/protocols/global-commit.md, K1 to K6. Times are of birth, in milliseconds of the
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

revoke all on function holdfast.announce_collection(text, integer, bigint), holdfast.require_uncollected_at(text, uuid),
  holdfast.open_transactions(), holdfast.raise_collection(bigint, integer), holdfast.collect_records(uuid[], integer)
  from public;
grant execute on function holdfast.announce_collection(text, integer, bigint), holdfast.open_transactions(),
  holdfast.raise_collection(bigint, integer), holdfast.collect_records(uuid[], integer) to holdfast_gateway;
