-- Roles of one server. Passwords are set apart, so that none stands in a file of the package.
--
--   holdfast_owner        owns the schema and every table; nobody logs in as it
--   holdfast_gateway      runs, prepares and settles transactions; owns nothing and does not bypass row security
--   holdfast_app          the role of the application's own statements; row security and the guards hold it
--   holdfast_replication  followers, WAL receivers and redo streams

do $$
begin
  if not exists (select from pg_roles where rolname = 'holdfast_owner') then
    create role holdfast_owner nologin;
  end if;
  if not exists (select from pg_roles where rolname = 'holdfast_app') then
    create role holdfast_app login noinherit connection limit 16;
  end if;
  if not exists (select from pg_roles where rolname = 'holdfast_gateway') then
    create role holdfast_gateway login noinherit;
  end if;
  if not exists (select from pg_roles where rolname = 'holdfast_replication') then
    create role holdfast_replication login replication;
  end if;
end
$$;

-- The gateway becomes the application for the caller's statements and comes back for the stamp.
grant holdfast_app to holdfast_gateway;
