-- Whom a commit of this server waits for, and whether that is who the shard promises (HZ-S5). See docs/protocols/write-path.md.
--
-- `synchronous_standby_names` is anybody's who administers the server. The supervisor writes it twice in one file, the second
-- time as `holdfast.followers`: a session loads both at once, so what changes the one alone is seen by every session that
-- has loaded it. Where the second is not set, as on servers that others administer, only empty names are refused.

-- The members of such a list, as PostgreSQL reads it: `ANY 2 (a, "b c")`, `FIRST 1 (a)`, `1 (a)`, or a bare list. In lower case.
create or replace function holdfast.follower_names(p_names text) returns text[]
language sql immutable
as $$
  select coalesce(array_agg(lower(coalesce(replace(m.parts[1], '""', '"'), m.parts[2]))), '{}')
  from regexp_matches(regexp_replace(p_names, '^\s*((any|first)\s+)?\d+\s*\(', '', 'i'), '"((?:[^"]|"")*)"|([^\s,()"]+)', 'g')
    m(parts)
$$;

-- When this session loaded its settings. A number: the form of a time depends on the time zone of the session.
create or replace function holdfast.settings_loaded() returns text
language sql stable
as $$ select pg_catalog.date_part('epoch', pg_catalog.pg_conf_load_time())::text $$;

-- Whom a commit would wait for instead of the followers of the shard; null where it waits for them.
--
-- A WAL sender goes by the names that it has loaded itself, which may be later than a session does. One that still takes its
-- follower for one that counts shows so in shared memory, and would acknowledge for it. Who loads names later than a session
-- loads what the file has by then, of which the session is told. So a session looks once for each time that it loads its
-- settings, and `holdfast.looked` says for which.
create or replace function holdfast.other_followers() returns text
language plpgsql volatile
as $$
declare
  v_names constant text := current_setting('synchronous_standby_names');
  v_members text[];
  v_other text;
begin
  if holdfast.settings_loaded() = current_setting('holdfast.looked', true) then
    return null;
  end if;
  if v_names = '' then
    return 'no follower';
  end if;
  if v_names <> current_setting('holdfast.followers', true) then
    return v_names || ', which are not its followers';
  end if;
  v_members := holdfast.follower_names(v_names);
  -- The view leaves out a sender that came after this transaction first looked at sessions.
  select coalesce(a.application_name, 'one that came just now') into v_other
  from pg_stat_get_wal_senders() s left join pg_stat_get_activity(null) a using (pid)
  where s.sync_priority > 0 and not (v_members && array[lower(coalesce(a.application_name, '')), '*'])
  limit 1;
  if found then
    return v_other || ', whose sender has not loaded whom commits wait for';
  end if;
  perform set_config('holdfast.looked', holdfast.settings_loaded(), false);
  return null;
end
$$;

-- This transaction waits for followers as its shard promises, whatever anybody has set. Where it would wait for nobody, or
-- for others, it is refused. Names that are changed later than this may release who waits: the gateway therefore compares
-- when the settings were loaded before and after its COMMIT.
create or replace function holdfast.wait_for_followers(p_shard text, p_durability text) returns text
language plpgsql
as $$
declare
  v_others text;
begin
  -- Every transaction comes here, and a call costs more than the comparison.
  if p_durability = 'quorum' and holdfast.settings_loaded() is distinct from current_setting('holdfast.looked', true) then
    v_others := holdfast.other_followers();
    if v_others is not null then
      raise exception 'a commit on shard % would wait for %', p_shard, v_others
        using errcode = 'HF016', hint = 'Name its followers in synchronous_standby_names.';
    end if;
  end if;
  return set_config('synchronous_commit', case p_durability when 'quorum' then 'on' else 'local' end, true);
end
$$;

revoke all on function holdfast.follower_names(text), holdfast.settings_loaded(), holdfast.other_followers(),
  holdfast.wait_for_followers(text, text) from public;
