-- The opening binds a tenant, an epoch and a transaction id to one PostgreSQL transaction, in a form that the
-- application role cannot forge: the setting holdfast.binding carries a keyed hash over what it says, the backend and
-- the start of the transaction. Outside that one transaction it does not verify. See docs/protocols/write-path.md.
--
-- Functions that roles may call are security definers with a search path of their own. The others are called by those
-- alone, inherit both, and cost half.

-- The keyed hash over a payload, this backend and this transaction. Plain SQL, so that it becomes a part of the query that
-- calls it: a statement of the application is checked two or three times, and a function call costs more than the hash.
create or replace function holdfast.binding_hash(p_key bytea, p_payload text) returns text
language sql stable
as $$
  select pg_catalog.encode(pg_catalog.sha256(p_key operator(pg_catalog.||) pg_catalog.sha256(p_key operator(pg_catalog.||)
    pg_catalog.convert_to(pg_catalog.concat(pg_catalog.pg_backend_pid(), ' ',
      pg_catalog.date_part('epoch', pg_catalog.transaction_timestamp()), ' ', p_payload), 'UTF8'))), 'hex')
$$;

-- What the binding of this transaction says; no row when there is none that verifies. What does not verify is not read: a
-- filter comes before what is selected. The payload is fields of fixed width, then the key and the tenant, which are not:
--   mode 1 (w or r), epoch 10, transaction 36, length of the key 4, key, tenant
-- Policies read the view as a part of the caller's own query, since a function call costs three times as much.
create or replace view holdfast.bound with (security_barrier) as
select substr(current_setting('holdfast.binding', true), 65, 1) as mode,
       substr(current_setting('holdfast.binding', true), 66, 10)::integer as epoch,
       substr(current_setting('holdfast.binding', true), 76, 36)::uuid as transaction_id,
       nullif(substr(current_setting('holdfast.binding', true), 116,
         substr(current_setting('holdfast.binding', true), 112, 4)::integer), '') as key,
       substr(current_setting('holdfast.binding', true),
         116 + substr(current_setting('holdfast.binding', true), 112, 4)::integer) as tenant
from holdfast.secret s
where left(current_setting('holdfast.binding', true), 64)
  = holdfast.binding_hash(s.key, substr(current_setting('holdfast.binding', true), 65));

create or replace function holdfast.binding_payload(
  p_mode text, p_epoch integer, p_transaction uuid, p_key text, p_tenant text) returns text
language sql stable
as $$
  select pg_catalog.concat(p_mode, pg_catalog.lpad(p_epoch::text, 10, '0'), p_transaction,
    pg_catalog.lpad(pg_catalog.length(coalesce(p_key, ''))::text, 4, '0'), p_key, p_tenant)
$$;

-- The tenant of this transaction; null matches no row.
create or replace function holdfast.bound_tenant() returns text
language sql stable security definer
set search_path = pg_catalog, pg_temp
as $$ select b.tenant from holdfast.bound b $$;

create or replace function holdfast.require_unbound() returns void
language plpgsql
as $$
begin
  if exists (select from holdfast.bound) then
    raise exception 'this transaction is already opened' using errcode = 'HF007';
  end if;
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

-- Binds a writing transaction, and tells a reading of the shard's clock.
create or replace function holdfast.bind_writing(p_payload text, p_epoch integer) returns bigint
language plpgsql
as $$
declare
  v_clock bigint;
  v_setting text;
begin
  if current_setting('holdfast.binding', true) <> '' then
    perform holdfast.require_unbound();
  end if;
  select c.last_value, set_config('holdfast.binding', holdfast.binding_hash(k.key, p_payload) || p_payload, true)
  into v_clock, v_setting
  from holdfast.shard s, holdfast.secret k, holdfast.hlc c
  where s.epoch = p_epoch and s.state = 'open';
  if not found then
    perform holdfast.shard_at_epoch(p_epoch);
    raise exception 'the shard changed while a transaction was opened' using errcode = 'HF006';
  end if;
  return v_clock;
end
$$;

-- Opens a writing transaction.
create or replace function holdfast.open_without_key(p_tenant text, p_transaction uuid, p_epoch integer) returns bigint
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  return holdfast.bind_writing(holdfast.binding_payload('w', p_epoch, p_transaction, null, p_tenant), p_epoch);
end
$$;

-- Opens a writing transaction at home, and claims its key. What comes back of a first transaction says that the key was
-- claimed before, and the caller then rolls back and answers with the first outcome, after a barrier.
create or replace function holdfast.open(
  p_tenant text, p_transaction uuid, p_epoch integer, p_key text, p_request_hash bytea,
  out clock bigint, out first_transaction uuid, out same_request boolean, out value jsonb)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  clock := holdfast.bind_writing(holdfast.binding_payload('w', p_epoch, p_transaction, p_key, p_tenant), p_epoch);
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
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_payload constant text := holdfast.binding_payload('r', 0, '00000000-0000-0000-0000-000000000000', null, p_tenant);
begin
  if current_setting('holdfast.binding', true) <> '' then
    perform holdfast.require_unbound();
  end if;
  perform set_config('holdfast.binding', holdfast.binding_hash(k.key, v_payload) || v_payload, true)
  from holdfast.secret k;
end
$$;

-- The domains that this transaction may write here: authority first.
create or replace view holdfast.writable with (security_barrier) as
select b.tenant, p.domain
from holdfast.bound b
cross join holdfast.shard s
join holdfast.placement p on p.tenant = b.tenant and p.shard = s.shard
where b.mode = 'w' and p.service = 'full';

-- The guard trigger of a regulated table, once a statement. Statements of the application's role are held by the policies
-- of the table, which ask the same as a part of the statement; row security does not hold an owner, nor what cascades.
create or replace function holdfast.guard() returns trigger
language plpgsql
as $$
begin
  if current_user operator(pg_catalog.<>) 'holdfast_app' then
    perform holdfast.require_writable(tg_argv[0], pg_catalog.format('%I.%I', tg_table_schema, tg_table_name));
  end if;
  return null;
end
$$;

create or replace function holdfast.require_writable(p_domain text, p_relation text) returns void
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if not exists (select from holdfast.writable w where w.domain = p_domain) then
    perform holdfast.refuse_write(p_domain, p_relation);
  end if;
end
$$;

-- Why a write does not pass. A superuser's write is break-glass; it has no row in the commit log and shows as unattributed.
-- Stable, for it changes nothing: a policy that ends in it can still use an index.
create or replace function holdfast.refuse_write(p_domain text, p_relation text) returns text
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  v_tenant text;
  v_here text;
  v_placed text;
  v_service text;
begin
  select b.tenant, s.shard, p.shard, p.service into v_tenant, v_here, v_placed, v_service
  from holdfast.bound b
  cross join holdfast.shard s
  left join holdfast.placement p on p.tenant = b.tenant and p.domain = p_domain
  where b.mode = 'w';
  if not found then
    if (select r.rolsuper from pg_roles r where r.rolname = session_user) then
      return null;
    end if;
    raise exception 'no opened transaction may write %', p_relation
      using errcode = 'HF005', detail = case when current_setting('holdfast.binding', true) > ''
        then 'The binding of this transaction does not verify.' else 'The transaction was not opened by a gateway.' end;
  end if;
  if v_placed is distinct from v_here then
    raise exception 'domain % of tenant % is placed on %, not here on %', p_domain, v_tenant,
      coalesce(v_placed, 'no shard'), v_here using errcode = 'HF004';
  elsif v_service = 'read-only' then
    raise exception 'domain % of tenant % is read-only', p_domain, v_tenant using errcode = 'HF012';
  elsif v_service = 'reject' then
    raise exception 'domain % of tenant % is out of service', p_domain, v_tenant using errcode = 'HF013';
  end if;
  raise exception 'the placement of domain % of tenant % changed under a write', p_domain, v_tenant using errcode = 'HF003';
end
$$;

-- Puts an application table under Holdfast's rules. Run by an administrator, again at will.
create or replace procedure holdfast.govern(p_relation regclass, p_domain text, p_data_class text)
language plpgsql
as $$
declare
  v_tenant constant text := '(select b.tenant from holdfast.bound b)';
  -- Null would hide what is wrong behind a row that is not there. A query of its own, which the planner leaves alone: the
  -- condition of a delete it evaluates to estimate rows, and the refusal with it.
  v_writable constant text := format(
    '(select coalesce((select w.tenant from holdfast.writable w where w.domain = %L), holdfast.refuse_write(%L, %L)))',
    p_domain, p_domain, (select format('%I.%I', n.nspname, c.relname)
      from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = p_relation));
  v_policy text;
begin
  execute format('alter table %s owner to holdfast_owner', p_relation);
  execute format('alter table %s replica identity full', p_relation);
  execute format('revoke all on %s from public, holdfast_app', p_relation);
  execute format('alter table %s enable row level security', p_relation);
  for v_policy in
    select p.polname from pg_policy p where p.polrelid = p_relation and p.polname like 'holdfast\_%'
  loop
    execute format('drop policy %I on %s', v_policy, p_relation);
  end loop;
  execute format('drop trigger if exists holdfast_guard on %s', p_relation);
  if p_data_class = 'regulated' then
    execute format('grant select, insert, update, delete on %s to holdfast_app', p_relation);
    execute format('create policy holdfast_read on %s for select to holdfast_app using (tenant = %s)', p_relation, v_tenant);
    execute format('create policy holdfast_insert on %s for insert to holdfast_app with check (tenant = %s)',
      p_relation, v_writable);
    execute format('create policy holdfast_update on %s for update to holdfast_app using (tenant = %s) with check (tenant = %s)',
      p_relation, v_tenant, v_writable);
    execute format('create policy holdfast_delete on %s for delete to holdfast_app using (tenant = %s)',
      p_relation, v_writable);
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

revoke all on function holdfast.binding_hash(bytea, text), holdfast.binding_payload(text, integer, uuid, text, text),
  holdfast.bound_tenant(), holdfast.require_unbound(), holdfast.bind_writing(text, integer),
  holdfast.shard_at_epoch(integer), holdfast.open_without_key(text, uuid, integer), holdfast.open(text, uuid, integer, text, bytea),
  holdfast.open_read(text), holdfast.guard(), holdfast.require_writable(text, text), holdfast.refuse_write(text, text)
  from public;
revoke all on procedure holdfast.govern(regclass, text, text) from public;
-- Functions of a view run with the rights of who reads it. This one tells nothing: its key is an argument.
grant execute on function holdfast.binding_hash(bytea, text) to holdfast_app, holdfast_gateway;
grant select on holdfast.bound, holdfast.writable to holdfast_app, holdfast_gateway;
-- Whoever writes runs the guard. What it calls says no more than whether the caller may.
grant execute on function holdfast.require_writable(text, text) to public;
grant execute on function holdfast.refuse_write(text, text) to holdfast_app, holdfast_gateway;
grant execute on function holdfast.bound_tenant() to holdfast_app, holdfast_gateway;
grant execute on function holdfast.open_without_key(text, uuid, integer), holdfast.open(text, uuid, integer, text, bytea),
  holdfast.open_read(text) to holdfast_gateway;
