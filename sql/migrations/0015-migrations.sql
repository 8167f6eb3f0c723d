-- What was migrated, and where in the order of commits, is in the redo stream: a restore whose redo comes to it changes the
-- schema there as well, and goes on with the rows that the new one has.
alter table public.holdfast_migration replica identity full;
alter publication holdfast_redo add table public.holdfast_migration;
