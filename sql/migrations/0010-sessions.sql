-- More of what PostgreSQL gives to everyone and the application's role must not have.
--
--   large objects         rows of no tenant and no placement, in no redo stream: regulated data could leave home in them
--   prepared statements   the texts that others sent over the same connection, whatever their tenant
--   advisory locks of a session    outlive the transaction; keepers, resolvers and archivers are elected by them
do $$
declare
  v_function regprocedure;
begin
  for v_function in
    select p.oid::regprocedure from pg_catalog.pg_proc p
    where p.pronamespace = 'pg_catalog'::regnamespace
      and (p.proname like 'lo\_%' or p.proname in ('loread', 'lowrite', 'pg_prepared_statement'))
  loop
    execute format('revoke execute on function %s from public', v_function);
  end loop;
  for v_function in
    select p.oid::regprocedure from pg_catalog.pg_proc p
    where p.pronamespace = 'pg_catalog'::regnamespace
      and p.proname in ('pg_advisory_lock', 'pg_advisory_lock_shared', 'pg_try_advisory_lock', 'pg_try_advisory_lock_shared',
                        'pg_advisory_unlock', 'pg_advisory_unlock_shared')
  loop
    execute format('revoke execute on function %s from public', v_function);
    execute format('grant execute on function %s to holdfast_owner, holdfast_gateway, holdfast_replication', v_function);
  end loop;
end
$$;
