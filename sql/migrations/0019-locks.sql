-- Advisory locks of a transaction that have one key are Holdfast's: by them the clock is moved, its keeper is woken, the placements
-- of a tenant are gathered, and home's part of a transaction shows that it is open. A statement of the application that took the clock's
-- would stop the shard for all tenants. Locks of two keys lie in a space of their own, which is the application's.
do $$
declare
  v_function regprocedure;
begin
  for v_function in
    select p.oid::regprocedure from pg_catalog.pg_proc p
    where p.pronamespace = 'pg_catalog'::regnamespace and p.pronargs = 1
      and p.proname in ('pg_advisory_xact_lock', 'pg_advisory_xact_lock_shared',
                        'pg_try_advisory_xact_lock', 'pg_try_advisory_xact_lock_shared')
  loop
    execute format('revoke execute on function %s from public', v_function);
    execute format('grant execute on function %s to holdfast_owner, holdfast_gateway', v_function);
  end loop;
end
$$;
