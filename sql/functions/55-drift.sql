-- Drifts of reads: see docs/protocols/visibility.md, R9 to R11.

-- Adds what one gateway has noted, by route and region. A thousand rows are enough for whoever looks; a route that finds no
-- room is counted under `other`. Locks its rows in the order of the key, as every gateway does.
create or replace function holdfast.note_drifts(
  p_from text, p_routes text[], p_to text[], p_reads bigint[], p_first_ms bigint[], p_last_ms bigint[]
) returns void
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_room bigint;
begin
  delete from holdfast.read_drift d where d.last_at < clock_timestamp() - interval '90 days';
  select 1000 - count(*) into v_room from holdfast.read_drift;
  insert into holdfast.read_drift as d (route, from_region, to_region, reads, first_at, last_at)
  select n.route, p_from, n.to_region, sum(n.reads), to_timestamp(min(n.first_ms) / 1000.0),
    to_timestamp(max(n.last_ms) / 1000.0)
  from (
    select a.to_region, a.reads, a.first_ms, a.last_ms,
      case when a.place <= v_room
             or exists (select from holdfast.read_drift k
                        where k.route = a.route and k.from_region = p_from and k.to_region = a.to_region)
           then a.route else 'other' end as route
    from unnest(p_routes, p_to, p_reads, p_first_ms, p_last_ms) with ordinality
      a(route, to_region, reads, first_ms, last_ms, place)
  ) n
  group by n.route, n.to_region
  order by n.route, n.to_region
  on conflict (route, from_region, to_region) do update
    set reads = d.reads + excluded.reads,
        first_at = least(d.first_at, excluded.first_at),
        last_at = greatest(d.last_at, excluded.last_at);
end
$$;

revoke all on function holdfast.note_drifts(text, text[], text[], bigint[], bigint[], bigint[]) from public;
grant execute on function holdfast.note_drifts(text, text[], text[], bigint[], bigint[], bigint[]) to holdfast_gateway;
