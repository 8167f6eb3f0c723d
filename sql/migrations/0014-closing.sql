-- A function that took another form: what replaces it is in sql/functions.
drop function if exists holdfast.advance_closed(bigint[], xid8[]);
