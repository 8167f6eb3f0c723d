-- The opening binds a tenant, an epoch and a transaction id to one PostgreSQL transaction, in a form that the
-- application role cannot forge: the setting holdfast.binding carries a keyed hash over what it says, the backend and
-- the start of the transaction. Outside that one transaction it does not verify. See docs/protocols/write-path.md.
--
-- Functions that roles may call are security definers with a search path of their own. The others are called by those
-- alone, inherit both, and cost half.

-- The keyed hash over a payload, this backend and this transaction. Plain SQL, so that it becomes a part of the query that
-- calls it: a statement of the application is checked two or three times, and a function call costs as much as the hash.
create or replace function holdfast.binding_hash(p_key bytea, p_payload text) returns text
language sql stable
as $$
  select pg_catalog.encode(pg_catalog.sha256(p_key operator(pg_catalog.||) pg_catalog.sha256(p_key operator(pg_catalog.||)
    pg_catalog.convert_to(pg_catalog.concat(pg_catalog.pg_backend_pid(), ' ',
      pg_catalog.date_part('epoch', pg_catalog.transaction_timestamp()), ' ', p_payload), 'UTF8'))), 'hex')
$$;

-- The binding of this transaction, or null when there is none that verifies. What does not is not even read: OFFSET keeps
-- the planner from parsing the payload before the filter has passed it.
create or replace function holdfast.binding() returns jsonb
language plpgsql stable
as $$
declare
  v_setting constant text := current_setting('holdfast.binding', true);
begin
  if v_setting is null or v_setting = '' then
    return null;
  end if;
  return (select b.payload::jsonb
          from (select substr(v_setting, 65) as payload from holdfast.secret s
                where left(v_setting, 64) = holdfast.binding_hash(s.key, substr(v_setting, 65)) offset 0) b);
end
$$;

-- The tenant of this transaction, for row-level security; null matches no row.
create or replace function holdfast.bound_tenant() returns text
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_setting constant text := current_setting('holdfast.binding', true);
begin
  return (select b.payload::jsonb ->> 'tenant'
          from (select substr(v_setting, 65) as payload from holdfast.secret s
                where left(v_setting, 64) = holdfast.binding_hash(s.key, substr(v_setting, 65)) offset 0) b);
end
$$;

create or replace function holdfast.bind(p_binding jsonb) returns void
language plpgsql
as $$
begin
  if current_setting('holdfast.binding', true) <> '' and holdfast.binding() is not null then
    raise exception 'this transaction is already opened' using errcode = 'HF007';
  end if;
  perform set_config('holdfast.binding', holdfast.binding_hash(s.key, p_binding::text) || p_binding::text, true)
  from holdfast.secret s;
end
$$;

-- This shard, which must be open and at the epoch that the gateway knows.
create or replace function holdfast.shard_at_epoch(p_epoch integer) returns holdfast.shard
language plpgsql stable
as $$
declare
  v_shard holdfast.shard;
begin
  select * into strict v_shard from holdfast.shard;
  if v_shard.epoch <> p_epoch then
    raise exception 'shard % is at epoch %, not %', v_shard.shard, v_shard.epoch, p_epoch using errcode = 'HF006';
  end if;
  if v_shard.state <> 'open' then
    raise exception 'shard % is fenced at epoch %', v_shard.shard, v_shard.epoch using errcode = 'HF006';
  end if;
  return v_shard;
end
$$;

-- Opens a writing transaction, and tells a reading of the shard's clock. With a key (at home only) it claims it: what
-- comes back of a first transaction says that the key was claimed before, and the caller then rolls back and answers with
-- the first outcome, after a barrier.
create or replace function holdfast.open(
  p_tenant text, p_transaction uuid, p_epoch integer, p_key text, p_request_hash bytea,
  out clock bigint, out first_transaction uuid, out same_request boolean, out value jsonb)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform holdfast.shard_at_epoch(p_epoch);
  perform holdfast.bind(jsonb_build_object(
    'tenant', p_tenant, 'transaction', p_transaction, 'epoch', p_epoch, 'key', p_key, 'mode', 'write'));
  select c.last_value into strict clock from holdfast.hlc c;
  if p_key is null then
    return;
  end if;
  -- A BEGIN that failed does not stop this call behind it, and in autocommit the claim would stand alone for ever. The
  -- gateway's BEGIN says DEFERRABLE, which changes nothing for a writing transaction and is missing here without it.
  if current_setting('transaction_deferrable') <> 'on' then
    raise exception 'a key is claimed only inside a transaction of the gateway' using errcode = 'HF005';
  end if;
  insert into holdfast.idempotency (tenant, key, request_hash, transaction_id)
  values (p_tenant, p_key, p_request_hash, p_transaction)
  on conflict do nothing;
  if found then
    return;
  end if;
  select i.transaction_id, i.request_hash = p_request_hash, i.value
  into first_transaction, same_request, value
  from holdfast.idempotency i where i.tenant = p_tenant and i.key = p_key;
  if not found then
    raise exception 'the first use of the key is not visible in this snapshot' using errcode = '40001';
  end if;
end
$$;

-- Opens a reading transaction, on a primary or a follower. Writes nothing.
create or replace function holdfast.open_read(p_tenant text) returns void
language sql security definer
set search_path = pg_catalog, pg_temp
as $$ select holdfast.bind(jsonb_build_object('tenant', p_tenant, 'mode', 'read')) $$;

-- The guard trigger of a regulated table, once a statement: authority first. A superuser's write is break-glass; it has
-- no row in the commit log and shows as unattributed.
create or replace function holdfast.guard() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_domain constant text := tg_argv[0];
  v_setting constant text := current_setting('holdfast.binding', true);
  v_tenant text;
  v_here text;
  v_placed text;
  v_service text;
begin
  select b.tenant, s.shard, p.shard, p.service into v_tenant, v_here, v_placed, v_service
  from (select c.binding ->> 'tenant' as tenant
        from (select a.payload::jsonb as binding
              from (select substr(v_setting, 65) as payload from holdfast.secret s
                    where left(v_setting, 64) = holdfast.binding_hash(s.key, substr(v_setting, 65)) offset 0) a) c
        where c.binding ->> 'mode' = 'write') b
  cross join holdfast.shard s
  left join holdfast.placement p on p.tenant = b.tenant and p.domain = v_domain;
  if not found then
    if (select r.rolsuper from pg_roles r where r.rolname = session_user) then
      return null;
    end if;
    raise exception 'no opened transaction may write %.%', tg_table_schema, tg_table_name
      using errcode = 'HF005', detail = case when v_setting > ''
        then 'The binding of this transaction does not verify.' else 'The transaction was not opened by a gateway.' end;
  end if;
  if v_placed is distinct from v_here then
    raise exception 'domain % of tenant % is placed on %, not here on %', v_domain, v_tenant,
      coalesce(v_placed, 'no shard'), v_here using errcode = 'HF004';
  elsif v_service = 'read-only' then
    raise exception 'domain % of tenant % is read-only', v_domain, v_tenant using errcode = 'HF012';
  elsif v_service = 'reject' then
    raise exception 'domain % of tenant % is out of service', v_domain, v_tenant using errcode = 'HF013';
  end if;
  return null;
end
$$;

-- Puts an application table under Holdfast's rules. Run by an administrator, again at will.
create or replace procedure holdfast.govern(p_relation regclass, p_domain text, p_data_class text)
language plpgsql
as $$
begin
  execute format('alter table %s owner to holdfast_owner', p_relation);
  execute format('alter table %s replica identity full', p_relation);
  execute format('revoke all on %s from public, holdfast_app', p_relation);
  execute format('alter table %s enable row level security', p_relation);
  execute format('drop policy if exists holdfast_tenant on %s', p_relation);
  execute format('drop trigger if exists holdfast_guard on %s', p_relation);
  if p_data_class = 'regulated' then
    execute format('grant select, insert, update, delete on %s to holdfast_app', p_relation);
    execute format('create policy holdfast_tenant on %s to holdfast_app using (tenant = (select holdfast.bound_tenant()))',
      p_relation);
    execute format('create trigger holdfast_guard before insert or update or delete or truncate on %s
      for each statement execute function holdfast.guard(%L)', p_relation, p_domain);
  else
    execute format('grant select on %s to holdfast_app', p_relation);
    execute format('create policy holdfast_tenant on %s for select to holdfast_app using (true)', p_relation);
  end if;
  if not exists (select from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
                 where p.pubname = 'holdfast_redo' and r.prrelid = p_relation) then
    execute format('alter publication holdfast_redo add table %s', p_relation);
  end if;
  insert into holdfast.governed (relation, domain, data_class) values (p_relation::text, p_domain, p_data_class)
  on conflict (relation) do update set domain = excluded.domain, data_class = excluded.data_class;
end
$$;

revoke all on function holdfast.binding_hash(bytea, text), holdfast.binding(), holdfast.bound_tenant(), holdfast.bind(jsonb),
  holdfast.shard_at_epoch(integer), holdfast.open(text, uuid, integer, text, bytea), holdfast.open_read(text),
  holdfast.guard() from public;
revoke all on procedure holdfast.govern(regclass, text, text) from public;
grant execute on function holdfast.bound_tenant() to holdfast_app, holdfast_gateway;
grant execute on function holdfast.open(text, uuid, integer, text, bytea), holdfast.open_read(text) to holdfast_gateway;
