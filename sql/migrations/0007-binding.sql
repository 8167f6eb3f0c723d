-- Functions that took another form: what replaces them is in sql/functions.
drop function if exists holdfast.binding();
drop function if exists holdfast.bind(jsonb);
drop function if exists holdfast.require_authority(jsonb, uuid, jsonb);
drop function if exists holdfast.wait_for_followers(holdfast.shard);
