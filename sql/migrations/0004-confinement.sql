-- What PostgreSQL gives to everyone and the application's role must not have. Its statements run in a session of the
-- gateway, so whatever changes a setting could change the role back. The commands that do are refused by their first word
-- before they are sent (src/transaction/statement-guard.ts); here go the ways that no one sees from outside: functions
-- that change a setting, and those that run a text as SQL. Superusers are not held by privileges.
do $$
declare
  v_function regprocedure;
begin
  for v_function in
    select p.oid::regprocedure from pg_catalog.pg_proc p
    where p.pronamespace = 'pg_catalog'::regnamespace
      and (p.proname in ('set_config', 'query_to_xml', 'query_to_xmlschema', 'query_to_xml_and_xmlschema', 'ts_stat',
                         'pg_notify', 'pg_export_snapshot', 'pg_logical_emit_message', 'pg_advisory_unlock_all')
           or (p.proname = 'ts_rewrite' and p.pronargs = 2))
  loop
    execute format('revoke execute on function %s from public', v_function);
    execute format('grant execute on function %s to holdfast_owner', v_function);
    -- Replication clients set their search path before anything else.
    execute format('grant execute on function %s to holdfast_replication', v_function);
  end loop;
  -- The view has a rule that turns an update into set_config.
  revoke update on pg_catalog.pg_settings from public;
  -- Anonymous blocks. Functions that exist are run without this privilege.
  revoke usage on language plpgsql from public;
  grant usage on language plpgsql to holdfast_owner;
  execute format('revoke temporary on database %I from public', current_database());
end
$$;
