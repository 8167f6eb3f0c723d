-- The role of a caller's statements behind an opening: it has what the application has, and policies hold for it alone.
-- Nobody logs in as it, and nobody but the gateway becomes it; so who runs as it was opened by a gateway.
do $$
begin
  if not exists (select from pg_roles where rolname = 'holdfast_bound') then
    create role holdfast_bound nologin inherit;
  end if;
end
$$;
grant holdfast_app to holdfast_bound with inherit true, set false;
grant holdfast_bound to holdfast_gateway with inherit false, set true;
revoke holdfast_app from holdfast_gateway;

-- What each tenant has on each shard, in one row: what a stamp compares. Made of holdfast.placement by a trigger, also where rows
-- arrive by replay.
--   placements  {domain: version} of every domain
--   writable    the same, of those in full service
create table holdfast.placements_here (
  tenant text not null,
  shard text not null,
  placements jsonb not null,
  writable jsonb not null,
  primary key (tenant, shard)
);
alter table holdfast.placements_here owner to holdfast_owner;
grant select on holdfast.placements_here to holdfast_gateway, holdfast_replication;

create function holdfast.gather_placements() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if tg_op <> 'INSERT' then
    perform holdfast.gather_placements_of(old.tenant);
  end if;
  if tg_op <> 'DELETE' then
    perform holdfast.gather_placements_of(new.tenant);
  end if;
  return null;
end
$$;

create function holdfast.gather_placements_of(p_tenant text) returns void
language plpgsql
as $$
begin
  -- Two that change domains of one tenant at once: the second gathers what the first has committed.
  perform pg_advisory_xact_lock(hashtextextended('holdfast.placements ' || p_tenant, 0));
  delete from holdfast.placements_here h where h.tenant = p_tenant;
  insert into holdfast.placements_here (tenant, shard, placements, writable)
  select p.tenant, p.shard, jsonb_object_agg(p.domain, p.version),
         coalesce(jsonb_object_agg(p.domain, p.version) filter (where p.service = 'full'), '{}')
  from holdfast.placement p where p.tenant = p_tenant group by p.tenant, p.shard;
end
$$;
alter function holdfast.gather_placements() owner to holdfast_owner;
alter function holdfast.gather_placements_of(text) owner to holdfast_owner;
revoke all on function holdfast.gather_placements(), holdfast.gather_placements_of(text) from public;

create trigger gather_placements after insert or update or delete on holdfast.placement
  for each row execute function holdfast.gather_placements();
alter table holdfast.placement enable always trigger gather_placements;

insert into holdfast.placements_here (tenant, shard, placements, writable)
select p.tenant, p.shard, jsonb_object_agg(p.domain, p.version),
       coalesce(jsonb_object_agg(p.domain, p.version) filter (where p.service = 'full'), '{}')
from holdfast.placement p group by p.tenant, p.shard;

-- What took another form; what replaces it is in sql/functions. Policies that read the views are made anew.
drop view if exists holdfast.authority, holdfast.writable, holdfast.bound cascade;
drop function if exists holdfast.bind_writing(text, integer);
drop function if exists holdfast.binding_payload(text, integer, uuid, text, text);
drop function if exists holdfast.binding_hash(bytea, text);
drop function if exists holdfast.bound_tenant();
drop function if exists holdfast.require_unbound();
drop function if exists holdfast.open_without_key(text, uuid, integer);
drop function if exists holdfast.open(text, uuid, integer, text, bytea);
drop function if exists holdfast.open_read(text);
drop function if exists holdfast.refuse_authority(uuid, jsonb);
drop function if exists holdfast.stamp(uuid, text, text, text, jsonb, text[], bigint, jsonb, jsonb);
drop function if exists holdfast.prepare_branch(uuid, text, text, integer, text[], text, text, text, jsonb, bigint, bigint);
drop function if exists holdfast.conclude_reading(uuid, jsonb);
drop function if exists holdfast.wait_for_followers(text, text);
drop procedure if exists holdfast.found_shard(text, text, text, uuid, integer, bytea);
drop table if exists holdfast.secret;
