-- The redo stream carries whole rows, before and after: of the platform's own tables as of the application's (HZ-R1).
alter table holdfast.history replica identity full;
alter table holdfast.placement replica identity full;
alter table holdfast.commit_log replica identity full;
alter table holdfast.transaction_record replica identity full;
alter table holdfast.branch replica identity full;
alter table holdfast.decision replica identity full;
alter table holdfast.idempotency replica identity full;
alter table holdfast.outbox replica identity full;

-- A follower takes over the slot of the redo stream once the primary has logged which transactions run; the archive asks
-- for that soon after the slot is made, where followers take slots over (version 17 on).
do $$
begin
  if current_setting('server_version_num')::integer >= 170000 then
    grant execute on function pg_log_standby_snapshot() to holdfast_replication;
  end if;
end
$$;
