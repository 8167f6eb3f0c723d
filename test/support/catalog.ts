import type { Connection } from '../../src/postgres/connection.ts'

/**
 * What a release leaves in a database, as sorted lines: two databases with the same lines behave the same. Without ids, which
 * differ between any two.
 */
export async function catalogOf(admin: Connection): Promise<string[]> {
  const { rows } = await admin.query<{ line: string }>(
    `with relations as (
       select c.oid, c.oid::regclass::text as name, c.relkind, c.relacl, c.relowner, c.relreplident, c.relrowsecurity
       from pg_class c join pg_namespace n on n.oid = c.relnamespace
       where (n.nspname = 'holdfast' or n.nspname = 'public' and c.relname not like 'holdfast\\_%')
         and c.relkind in ('r', 'v', 'S')
     )
     select concat_ws(' ', 'relation', r.name, r.relkind, r.relowner::regrole, r.relreplident, r.relrowsecurity,
              (select string_agg(a.item, ' ' order by a.item)
               from (select concat(x.grantee::regrole, '=', x.privilege_type)
                     from aclexplode(r.relacl) x where x.grantee <> 0) a (item))) as line
     from relations r
     union all
     select concat_ws(' ', 'column', r.name, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
              pg_get_expr(d.adbin, d.adrelid))
     from relations r join pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
     left join pg_attrdef d on d.adrelid = r.oid and d.adnum = a.attnum
     union all
     select concat_ws(' ', 'view', r.name, pg_get_viewdef(r.oid)) from relations r where r.relkind = 'v'
     union all
     select concat_ws(' ', 'constraint', r.name, pg_get_constraintdef(c.oid))
     from relations r join pg_constraint c on c.conrelid = r.oid
     union all
     select concat_ws(' ', 'index', pg_get_indexdef(i.indexrelid)) from relations r join pg_index i on i.indrelid = r.oid
     union all
     select concat_ws(' ', 'trigger', r.name, pg_get_triggerdef(t.oid))
     from relations r join pg_trigger t on t.tgrelid = r.oid and not t.tgisinternal
     union all
     select concat_ws(' ', 'policy', r.name, p.polname, p.polcmd, p.polroles::regrole[], pg_get_expr(p.polqual, p.polrelid),
              pg_get_expr(p.polwithcheck, p.polrelid))
     from relations r join pg_policy p on p.polrelid = r.oid
     union all
     select concat_ws(' ', 'published', r.name) from relations r join pg_publication_rel p on p.prrelid = r.oid
     union all
     select concat_ws(' ', 'function', p.oid::regprocedure, p.proowner::regrole, pg_get_functiondef(p.oid),
              (select string_agg(a.item, ' ' order by a.item)
               from (select concat(case x.grantee when 0 then 'public' else x.grantee::regrole::text end, '=', x.privilege_type)
                     from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) x) a (item)))
     from pg_proc p where p.pronamespace = 'holdfast'::regnamespace
     union all
     select concat_ws(' ', 'confined', p.oid::regprocedure, p.proacl::text)
     from pg_proc p where p.pronamespace = 'pg_catalog'::regnamespace and p.proacl is not null
     order by 1`,
  )
  return rows.map(({ line }) => line)
}
