-- Up to when a home may have collected its records, as this shard was told: what was born below is not prepared here any more.
alter table holdfast.peer add column collected_through_ms bigint not null default 0 check (collected_through_ms >= 0);
