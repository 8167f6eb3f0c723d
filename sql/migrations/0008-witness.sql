-- Functions that took another form: what replaces them is in sql/functions.
drop function if exists holdfast.observe(bigint);
drop function if exists holdfast.tick();
