import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { freshDatabase, type FreshDatabase } from '../../test/support/database.ts'
import type { ShardName } from '../directory/topology.ts'
import { Connection } from '../postgres/connection.ts'
import { loadConfig } from './config.ts'
import { writeExampleConfig } from './config-template.ts'
import { installDomains, writeClockOffset } from './founding.ts'

const shard = 'eu-west/main' as ShardName

let folder: string
let database: FreshDatabase
let admin: Connection

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'holdfast-'))
  database = await freshDatabase()
  admin = await Connection.connect(database.target(), 5_000)
})

afterEach(async () => {
  admin.release()
  await database.drop()
  await rm(folder, { recursive: true })
})

const governed = async () =>
  (await admin.query('select relation, domain from holdfast.governed order by relation')).rows

async function example() {
  const file = join(folder, 'holdfast.yaml')
  await writeExampleConfig(file)
  return loadConfig(file)
}

test('what `holdfast init` writes can be founded, and again', async () => {
  const config = await example()
  for (const _ of ['first', 'again']) await installDomains(admin, config, shard)
  expect(await governed()).toEqual([
    { relation: 'accounts', domain: 'accounts' },
    { relation: 'payments', domain: 'accounts' },
  ])
})

test('a migration that was added since is applied, the others are not run again', async () => {
  const config = await example()
  await installDomains(admin, config, shard)
  await writeFile(join(folder, 'schema/accounts/0002-note.sql'), 'alter table accounts add column note text')
  await installDomains(admin, config, shard)
  expect((await admin.query('select note from accounts')).rows).toEqual([])
})

test('a migration takes as long as there is data, whatever the deadline of its connection', async () => {
  const config = await example()
  await writeFile(join(folder, 'schema/accounts/0002-long.sql'), 'do $$ begin perform pg_sleep(4); end $$')
  const impatient = await Connection.connect(database.target(), 5_000, 2_500)
  try {
    await installDomains(impatient, config, shard)
  } finally {
    impatient.release()
  }
  expect(
    (await admin.query('select name from public.holdfast_migration where owner = $1', ['domain accounts'])).rows,
  ).toContainEqual({
    name: '0002-long.sql',
  })
})

test('tables under rules are left alone, whoever holds them; one that is held and has to change says so', async () => {
  const config = await example()
  await installDomains(admin, config, shard)
  const branch = await Connection.connect(database.target(), 5_000)
  await branch.script(`begin; insert into accounts values ('t', 'a', 'o')`)
  try {
    await installDomains(admin, config, shard)
    await writeFile(join(folder, 'schema/accounts/0002-note.sql'), 'alter table accounts add column note text')
    await expect(installDomains(admin, config, shard)).rejects.toMatchObject({ code: 'node_unavailable' })
  } finally {
    branch.release()
  }
})

describe("what is wrong with an application's tables is what is wrong with its configuration", () => {
  const refused = async (files: Readonly<Record<string, string>>, schema: string | null = './tables') => {
    await mkdir(join(folder, 'tables'))
    for (const [name, text] of Object.entries(files)) await writeFile(join(folder, 'tables', name), text)
    const policy = { authority: ['eu-west'], replicas: ['EU'], otherwise: 'reject' } as const
    const config = await loadConfig(
      {
        fleet: 'wrong',
        regions: { 'eu-west': { jurisdiction: 'EU' } },
        shards: { [shard]: { followers: ['eu-west', 'eu-west'] } },
        domains: { accounts: { class: 'regulated', placement: 'tenant-home', schema, tables: ['accounts'] } },
        tenants: { 'globex-eu': { home: shard, policy } },
      },
      folder,
    )
    const failure: unknown = await installDomains(admin, config, shard).catch((error: unknown) => error)
    expect(failure).toMatchObject({ code: 'config_invalid', hint: expect.any(String) })
    return failure instanceof Error ? failure.message : ''
  }

  test('a table that no migration makes', async () => {
    expect(await refused({})).toBe('domain accounts: relation "accounts" does not exist (SQLSTATE 42P01)')
  })

  test('a table without a tenant', async () => {
    const message = await refused({ '1.sql': 'create table accounts (id text primary key)' })
    expect(message).toBe('domain accounts: column "tenant" does not exist (SQLSTATE 42703)')
  })

  test('a migration that PostgreSQL refuses', async () => {
    const message = await refused({ '1.sql': 'creat table accounts ()' })
    expect(message).toBe('domain accounts: syntax error at or near "creat" (SQLSTATE 42601)')
  })

  const tables = 'create table accounts (tenant text, id text, primary key (tenant, id));'

  test.each([
    ['a view', 'create view open as select * from accounts; grant insert on open to holdfast_app', 'open'],
    [
      'a view of a view',
      `create view inner_one with (security_invoker) as select id from accounts;
       create view outer_one as select id from inner_one; grant select (id) on outer_one to holdfast_app`,
      'outer_one',
    ],
    ['a copy', 'create materialized view open as select * from accounts; grant select on open to holdfast_app', 'open'],
    [
      'a rule',
      `create table forms (id text); grant insert on forms to holdfast_app;
       create rule file as on insert to forms do also insert into accounts values ('t', new.id)`,
      'forms',
    ],
  ])('%s that reaches a regulated table by the rights of its owner', async (_, sql, relation) => {
    const message = await refused({ '1.sql': tables, '2.sql': sql })
    expect(message).toBe(`${relation} shows or changes regulated rows, whatever their tenant`)
  })

  test('a folder that is not there', async () => {
    expect(await refused({}, './nowhere')).toBe(`domain accounts: there is no folder ${join(folder, 'nowhere')}`)
  })

  test('a folder that cannot be read', async () => {
    await mkdir(join(folder, 'unread', '0001.sql'), { recursive: true })
    expect(await refused({}, './unread')).toContain(`domain accounts: ${join(folder, 'unread')} cannot be read: EISDIR`)
  })

  test('no folder at all', async () => {
    expect(await refused({}, null)).toContain('relation "accounts" does not exist')
  })
})

test('a view by the rights of who asks, and one that the application may not use, are left alone', async () => {
  const config = await example()
  await writeFile(
    join(folder, 'schema/accounts/0002-views.sql'),
    `create view own with (security_invoker = on) as select * from accounts; grant select, insert on own to holdfast_app;
     create view audit as select * from accounts`,
  )
  await installDomains(admin, config, shard)
  expect(await governed()).toHaveLength(2)
})

test('every start writes the bound on clocks that the configuration has by then', async () => {
  await admin.query(`call holdfast.found_shard('test', $1, 'local', gen_random_uuid(), 500)`, [shard])
  await writeClockOffset(admin, { maxClockOffsetMs: 250 })
  const { rows } = await admin.query('select max_clock_offset_ms from holdfast.shard')
  expect(rows).toEqual([{ max_clock_offset_ms: 250 }])
})
