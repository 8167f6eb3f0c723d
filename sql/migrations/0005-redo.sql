-- The redo stream carries whole rows, before and after: of the platform's own tables as of the application's (HZ-R1).
alter table holdfast.history replica identity full;
alter table holdfast.placement replica identity full;
alter table holdfast.commit_log replica identity full;
alter table holdfast.transaction_record replica identity full;
alter table holdfast.branch replica identity full;
alter table holdfast.decision replica identity full;
alter table holdfast.idempotency replica identity full;
alter table holdfast.outbox replica identity full;
