-- The opening binds a tenant, a transaction id and placements to one PostgreSQL transaction, in a form that the application role
-- cannot forge. What is bound stands in settings of the transaction; what makes them count is the role:
--
--   holdfast_bound   the role of the caller's statements. Policies hold for it alone. Nobody logs in as it, and nobody but the
--                    gateway becomes it, which does so in the statement that writes the settings
--
-- Another role of the application may write the same settings, and is shown nothing and refused. As holdfast_bound nobody can:
-- whatever changes a setting would change the role back as well, and is kept from a caller's statement (0004-confinement.sql,
-- src/transaction/statement-guard.ts). So a statement pays for reading a setting and no more. The settings, and the role with
-- them, end with the transaction. See docs/protocols/write-path.md.
--
--   holdfast.tenant       whose rows are there
--   holdfast.transaction  the id; the nil id in a transaction that reads
--   holdfast.placements   {domain: version}, by which the gateway routes: the tenant's domains in full service on this shard.
--                         Statements may write those; the stamp or the branch compares them with what the shard knows then
--
-- Functions that roles may call are security definers with a search path of their own. The others are called by those
-- alone, inherit both, and cost half.

-- Part of the opening, where the shard is not open at the epoch that the gateway knows. Always raises.
create or replace function holdfast.refuse_epoch(p_epoch integer) returns bigint
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  perform holdfast.shard_at_epoch(p_epoch);
  raise exception 'the shard changed while a transaction was opened' using errcode = 'HF006';
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

-- Part of the opening at home: claims an idempotency key. No value comes back of a key that was free. What comes back of a
-- first transaction says that the key was claimed before, and the caller then rolls back and answers with the first outcome,
-- after a barrier.
create or replace function holdfast.claim(
  p_tenant text, p_transaction uuid, p_key text, p_request_hash bytea,
  out first_transaction uuid, out same_request boolean, out value jsonb)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  -- A BEGIN that failed does not stop this call behind it, and in autocommit the claim would stand alone for ever. The
  -- gateway's BEGIN says DEFERRABLE, which changes nothing for a writing transaction and is missing here without it.
  if current_setting('transaction_deferrable') <> 'on' then
    raise exception 'a key is claimed only inside a transaction of the gateway' using errcode = 'HF005';
  end if;
  insert into holdfast.idempotency (tenant, key, request_hash, transaction_id)
  values (p_tenant, p_key, p_request_hash, p_transaction)
  on conflict do nothing;
  if found then
    -- Keys are kept for an hour at least: whoever was born within half of one lies above every watermark, and pays nothing.
    if holdfast.transaction_born_ms(p_transaction)
       < greatest(extract(epoch from clock_timestamp()) * 1000, pg_sequence_last_value('holdfast.hlc') >> 16) - 1800000 then
      perform holdfast.require_claimable(p_transaction);
    end if;
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

-- The guard trigger of a regulated table, once a statement, for everybody but holdfast_bound, whom the policies of the table
-- ask the same as a part of the statement. Row security does not hold an owner, nor what cascades.
create or replace function holdfast.guard() returns trigger
language plpgsql
as $$
begin
  perform holdfast.require_writable(tg_argv[0], pg_catalog.format('%I.%I', tg_table_schema, tg_table_name));
  return null;
end
$$;

-- Inside a function that runs as its owner the setting `role` still tells who called it.
create or replace function holdfast.require_writable(p_domain text, p_relation text) returns void
language plpgsql stable security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if current_setting('role') <> 'holdfast_bound' or not current_setting('holdfast.placements')::jsonb ? p_domain then
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
  v_is_bound constant boolean := current_setting('role') = 'holdfast_bound'
    and current_setting('holdfast.transaction', true) <> '00000000-0000-0000-0000-000000000000';
begin
  if v_is_bound is not true then
    if (select r.rolsuper from pg_roles r where r.rolname = session_user) then
      return null;
    end if;
    raise exception 'no opened transaction may write %', p_relation
      using errcode = 'HF005', detail = 'The transaction was not opened by a gateway, or was opened to read.';
  end if;
  perform holdfast.refuse_placement(current_setting('holdfast.tenant'), p_domain);
  return null;
end
$$;

-- Why a domain of a tenant may not be written here. Always raises.
create or replace function holdfast.refuse_placement(p_tenant text, p_domain text) returns void
language plpgsql stable
as $$
declare
  v_here text;
  v_placed text;
  v_service text;
begin
  select s.shard, p.shard, p.service into v_here, v_placed, v_service
  from holdfast.shard s
  left join holdfast.placement p on p.tenant = p_tenant and p.domain = p_domain;
  if v_placed is distinct from v_here then
    raise exception 'domain % of tenant % is placed on %, not here on %', p_domain, p_tenant,
      coalesce(v_placed, 'no shard'), v_here using errcode = 'HF004';
  elsif v_service = 'read-only' then
    raise exception 'domain % of tenant % is read-only', p_domain, p_tenant using errcode = 'HF012';
  elsif v_service = 'reject' then
    raise exception 'domain % of tenant % is out of service', p_domain, p_tenant using errcode = 'HF013';
  end if;
  raise exception 'the placement of domain % of tenant % changed under a write', p_domain, p_tenant using errcode = 'HF003';
end
$$;

-- Puts an application table under Holdfast's rules. Run by an administrator, again at will.
create or replace procedure holdfast.govern(p_relation regclass, p_domain text, p_data_class text)
language plpgsql
as $$
declare
  v_tenant constant text := 'current_setting(''holdfast.tenant'', true)';
  -- Null would hide what is wrong behind a row that is not there. The text of a JSON object has its names in this form alone.
  v_writable constant text := format(
    $policy$case when strpos(current_setting('holdfast.placements', true), %L) > 0 then current_setting('holdfast.tenant', true)
      else holdfast.refuse_write(%L, %L) end$policy$,
    format('"%s":', p_domain), p_domain, (select format('%I.%I', n.nspname, c.relname)
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
    execute format('create policy holdfast_read on %s for select to holdfast_bound using (tenant = %s)', p_relation, v_tenant);
    execute format('create policy holdfast_insert on %s for insert to holdfast_bound with check (tenant = %s)',
      p_relation, v_writable);
    execute format('create policy holdfast_update on %s for update to holdfast_bound using (tenant = %s) with check (tenant = %s)',
      p_relation, v_tenant, v_writable);
    -- A query of its own, which the planner leaves alone: a condition it evaluates to estimate rows, and the refusal with it.
    execute format('create policy holdfast_delete on %s for delete to holdfast_bound using (tenant = (select %s))',
      p_relation, v_writable);
    execute format('create trigger holdfast_guard before insert or update or delete or truncate on %s
      for each statement when (current_user <> %L) execute function holdfast.guard(%L)',
      p_relation, 'holdfast_bound', p_domain);
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

revoke all on function holdfast.refuse_epoch(integer), holdfast.shard_at_epoch(integer),
  holdfast.claim(text, uuid, text, bytea), holdfast.guard(), holdfast.require_writable(text, text),
  holdfast.refuse_write(text, text), holdfast.refuse_placement(text, text) from public;
revoke all on procedure holdfast.govern(regclass, text, text) from public;
-- Whoever writes runs the guard. What it calls says no more than whether the caller may.
grant execute on function holdfast.require_writable(text, text) to public;
grant execute on function holdfast.refuse_write(text, text) to holdfast_app, holdfast_gateway;
grant execute on function holdfast.refuse_epoch(integer), holdfast.claim(text, uuid, text, bytea) to holdfast_gateway;
