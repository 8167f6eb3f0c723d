-- What a read proves by and what changes rarely, in the form in which it is sent: one row for the shard, and one a tenant. Made
-- by triggers in the transaction that changes what they are made of, also where rows arrive by replay.

--   history_id  of the newest history
--   histories   [{id, epoch, parent, fork}] of every history, the first one first
--   left_out    {history id: [transaction id]} of the cutovers that left something out
create table holdfast.lineage (
  only_row boolean primary key default true check (only_row),
  shard text not null,
  history_id uuid not null,
  histories text not null,
  left_out text not null
);
alter table holdfast.lineage owner to holdfast_owner;

--   placements  {domain: {shard, version, service}} of every domain, wherever it is placed
create table holdfast.placements_shown (
  tenant text primary key,
  placements text not null
);
alter table holdfast.placements_shown owner to holdfast_owner;

grant select on holdfast.lineage, holdfast.placements_shown to holdfast_gateway, holdfast_replication;

-- A founding writes its history before it names the shard; there is no lineage until then.
create function holdfast.gather_lineage() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  delete from holdfast.lineage;
  insert into holdfast.lineage (shard, history_id, histories, left_out)
  select s.shard, (select h.history_id from holdfast.history h order by h.epoch desc limit 1),
         (select jsonb_agg(jsonb_build_object('id', h.history_id, 'epoch', h.epoch, 'parent', h.parent, 'fork', h.fork_lsn)
                   order by h.epoch)
          from holdfast.history h),
         coalesce((select jsonb_object_agg(h.history_id, h.left_out) from holdfast.history h where h.left_out <> '{}'), '{}')
  from holdfast.shard s where exists (select from holdfast.history);
  return null;
end
$$;
alter function holdfast.gather_lineage() owner to holdfast_owner;
revoke all on function holdfast.gather_lineage() from public;

create trigger gather_lineage after insert or update or delete on holdfast.history
  for each statement execute function holdfast.gather_lineage();
alter table holdfast.history enable always trigger gather_lineage;
create trigger gather_lineage after insert or delete or update of shard on holdfast.shard
  for each statement execute function holdfast.gather_lineage();
alter table holdfast.shard enable always trigger gather_lineage;

create or replace function holdfast.gather_placements_of(p_tenant text) returns void
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
  delete from holdfast.placements_shown s where s.tenant = p_tenant;
  insert into holdfast.placements_shown (tenant, placements)
  select p.tenant, jsonb_object_agg(p.domain, jsonb_build_object('shard', p.shard, 'version', p.version, 'service', p.service))
  from holdfast.placement p where p.tenant = p_tenant group by p.tenant;
end
$$;

insert into holdfast.lineage (shard, history_id, histories, left_out)
select s.shard, (select h.history_id from holdfast.history h order by h.epoch desc limit 1),
       (select jsonb_agg(jsonb_build_object('id', h.history_id, 'epoch', h.epoch, 'parent', h.parent, 'fork', h.fork_lsn)
                 order by h.epoch)
        from holdfast.history h),
       coalesce((select jsonb_object_agg(h.history_id, h.left_out) from holdfast.history h where h.left_out <> '{}'), '{}')
from holdfast.shard s where exists (select from holdfast.history);
insert into holdfast.placements_shown (tenant, placements)
select p.tenant, jsonb_object_agg(p.domain, jsonb_build_object('shard', p.shard, 'version', p.version, 'service', p.service))
from holdfast.placement p group by p.tenant;

-- As the founding does it by now; without effect on a server that is about to be founded.
analyze holdfast.lineage;

-- What took another form; what replaces it is in sql/functions.
drop function if exists holdfast.proof(text, uuid[], uuid[]);
