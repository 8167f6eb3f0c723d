-- Functions that took another form: what replaces them is in sql/functions.
drop function if exists holdfast.move_clock(bigint);
drop function if exists holdfast.observe_decided(bigint);
drop function if exists holdfast.prepare_branch(uuid, text, text, integer, text[], text, text, text, jsonb, bigint);
