-- Who may decide here: what every function asks that stamps, votes, records or aborts, in the transaction that it decides.
-- A routing that was right when the transaction opened may be wrong when it ends, and a coordinator may have been fenced
-- since; so the question is asked at the data, last, and of the shard alone. See docs/protocols/write-path.md, T1, and
-- docs/protocols/global-commit.md.
--
--   the shard       it is open, at the epoch and with the placements that the transaction was routed by
--   its followers   they are waited for as the shard promises (22-followers.sql)
--   the birth       it lies above the collection watermark, and not ahead of the clock
--   the home        it was not seen at a later epoch
--
-- None answers no: each raises, so that the COMMIT or PREPARE TRANSACTION sent behind it cannot succeed. No gateway
-- asks by itself.

-- What decides compares here that this shard is still the authority: at its epoch and open (whoever asks compares the epoch),
-- with the placements that the transaction was routed by, and those that its statements might write by.
create or replace view holdfast.authority as
select s.epoch, s.shard, s.durability, s.max_clock_offset_ms, h.tenant, h.placements, h.writable
from holdfast.shard s
join holdfast.placements_here h on h.shard = s.shard
where s.state = 'open';

-- Why a transaction has no authority here. Always raises.
create or replace function holdfast.refuse_authority(
  p_transaction uuid, p_tenant text, p_epoch integer, p_placements jsonb) returns void
language plpgsql
as $$
declare
  v_domain text;
  v_routed integer;
begin
  if current_setting('holdfast.transaction', true) is distinct from p_transaction::text
    or current_setting('holdfast.tenant', true) is distinct from p_tenant then
    raise exception 'transaction % is not opened here', p_transaction using errcode = 'HF005';
  end if;
  perform holdfast.shard_at_epoch(p_epoch);
  select r.key, r.value into v_domain, v_routed
  from (select * from jsonb_each(p_placements) union all select * from jsonb_each(current_setting('holdfast.placements')::jsonb)) r
  left join holdfast.authority a on a.tenant = p_tenant
  where a.placements -> r.key is distinct from r.value or a.writable -> r.key is distinct from r.value
  order by a.placements -> r.key is not distinct from r.value
  limit 1;
  if exists (select from holdfast.authority a where a.tenant = p_tenant and a.placements -> v_domain <> to_jsonb(v_routed)) then
    raise exception 'the placement of domain % of tenant % is not here at version %', v_domain, p_tenant, v_routed
      using errcode = 'HF003';
  end if;
  perform holdfast.refuse_placement(p_tenant, v_domain);
end
$$;

create or replace function holdfast.transaction_born_ms(p_transaction uuid) returns bigint
language sql immutable
as $$ select ('x' || left(replace(p_transaction::text, '-', ''), 12))::bit(48)::bigint $$;

-- A record may not be made for a transaction whose record could have been collected already.
create or replace function holdfast.require_uncollected(p_transaction uuid) returns void
language plpgsql stable
as $$
begin
  perform from holdfast.shard s where holdfast.transaction_born_ms(p_transaction) < s.collected_through_ms;
  if found then
    raise exception 'transaction % was born below the collection watermark', p_transaction using errcode = 'HF009';
  end if;
end
$$;

-- Collection goes by births, which gateways tell. A record of one whose wall is far ahead would outlast its window by as much.
create or replace function holdfast.require_born(p_transaction uuid, p_offset_ms integer) returns void
language plpgsql
as $$
declare
  v_ahead_ms bigint;
begin
  select holdfast.transaction_born_ms(p_transaction) - (greatest(c.last_value, holdfast.wall_hlc()) >> 16) into v_ahead_ms
  from holdfast.hlc c;
  if v_ahead_ms > p_offset_ms then
    raise exception 'transaction % was born % ms ahead of the clock of this shard', p_transaction, v_ahead_ms
      using errcode = 'HF001', hint = 'Set the wall clock of its gateway.';
  end if;
end
$$;

-- Writes that carry an older epoch of a home than this shard has seen come from a coordinator that was fenced.
create or replace function holdfast.require_home_epoch(p_home text, p_home_epoch integer) returns void
language plpgsql stable
as $$
declare
  v_seen integer;
begin
  select p.epoch into v_seen from holdfast.peer p where p.shard = p_home;
  if p_home_epoch < v_seen then
    raise exception 'home % was seen at epoch %, this comes from epoch %', p_home, v_seen, p_home_epoch
      using errcode = 'HF008';
  end if;
end
$$;

revoke all on function holdfast.refuse_authority(uuid, text, integer, jsonb), holdfast.transaction_born_ms(uuid),
  holdfast.require_uncollected(uuid), holdfast.require_born(uuid, integer), holdfast.require_home_epoch(text, integer) from public;
grant execute on function holdfast.transaction_born_ms(uuid) to holdfast_gateway;
