-- Functions that took another form: what replaces them is in sql/functions.
drop function if exists holdfast.require_epoch(integer);
drop function if exists holdfast.require_authority(uuid, jsonb);
drop function if exists holdfast.binding_hash(text);
drop function if exists holdfast.open(text, uuid, integer, text, bytea);

-- The opening ends with the role of the application, in one statement. The application's role still may not.
grant execute on function pg_catalog.set_config(text, text, boolean) to holdfast_gateway;

-- As the founding does it by now; without effect on a server that is about to be founded.
analyze holdfast.shard, holdfast.secret, holdfast.closed;
