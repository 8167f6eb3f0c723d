import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { FreshDatabase } from '../../test/support/database.ts'
import { freshDatabase } from '../../test/support/database.ts'
import type { DomainEntry } from '../directory/directory.ts'
import { Directory, initialPlacements } from '../directory/directory.ts'
import type { DomainName, Jurisdiction, RegionName, ShardName, TenantName } from '../directory/topology.ts'
import { Connection } from '../postgres/connection.ts'
import type { Invariant } from './invariant.ts'
import { checkInvariants } from './invariant-check.ts'
import type { PlaceQuestion } from './invariant-place.ts'
import { openQuiescentView } from './quiescent-view.ts'

const region = 'eu-west' as RegionName
const payroll = 'eu-west/payroll' as ShardName
const treasury = 'eu-west/treasury' as ShardName
const policy = { authority: [region], replicas: ['EU' as Jurisdiction], otherwise: 'reject' } as const
const domains: DomainEntry[] = [
  { name: 'payroll' as DomainName, class: 'regulated', placement: 'tenant-home', policy: null, tables: ['runs'] },
  { name: 'treasury' as DomainName, class: 'regulated', placement: treasury, policy, tables: ['holds'] },
]
const tenants = [{ name: 'globex-eu' as TenantName, home: payroll, policy }]
const question: PlaceQuestion = {
  directory: Directory.of(domains, initialPlacements(domains, tenants)),
  regions: new Map([[region, 'EU' as Jurisdiction]]),
  primaries: new Map([
    [payroll, region],
    [treasury, region],
  ]),
  allowLists: [],
}
const needs: Invariant['needs'] = [
  { domain: 'payroll' as DomainName, table: 'runs', columns: ['tenant', 'id', 'cents', 'tags', 'mood', 'at'] },
  { domain: 'treasury' as DomainName, table: 'holds', columns: ['tenant', 'run', 'cents'] },
]
const unheld =
  'select r.id, r.cents, r.tags, r.mood, r.at from runs r left join holds h on h.run = r.id where h.run is null'

describe('invariants over shards', () => {
  const databases = new Map<ShardName, FreshDatabase>()

  beforeAll(async () => {
    for (const shard of [payroll, treasury]) databases.set(shard, await freshDatabase())
    await script(
      payroll,
      `create type mood as enum ('calm', 'wild');
       create table runs (tenant text, id text, cents bigint, tags text[], mood mood, at timestamptz, secret text);
       insert into runs values ('globex-eu', 'apr', 9007199254740993, '{a,"b c"}', 'wild', '2026-04-02T10:00:00Z', 's'),
         ('globex-eu', 'may', 5, null, null, null, 's'), ('other', 'jun', 5, null, null, null, 's')`,
    )
    await script(
      treasury,
      `create table holds (tenant text, run text, cents bigint); insert into holds values ('globex-eu', 'may', 5)`,
    )
  })

  afterAll(async () => {
    for (const database of databases.values()) await database.drop()
  })

  async function script(shard: ShardName, sql: string): Promise<void> {
    const connection = await Connection.connect(databases.get(shard)?.target() ?? fail(), 5_000)
    await connection.script(sql)
    connection.release()
  }

  async function check(query: string, its = needs) {
    const targets = new Map([...databases].map(([shard, database]) => [shard, database.target()]))
    await using view = await openQuiescentView(targets)
    const invariant: Invariant = { name: 'rule', severity: 'critical', needs: its, query }
    return await checkInvariants([invariant], question, view, [
      {
        event_id: '00000000-0000-4000-8000-000000000001',
        transaction_id: '00000000-0000-7000-8000-000000000001',
        tenant: 'globex-eu',
        name: 'approved',
        state: 'delivered',
      },
      {
        event_id: '00000000-0000-4000-8000-000000000001',
        transaction_id: '00000000-0000-7000-8000-000000000001',
        tenant: 'globex-eu',
        name: 'approved',
        state: 'delivered',
      },
    ])
  }

  test('rows of two shards meet in one query, whole and of their types, and other tenants stay at home', async () => {
    expect(await check(unheld)).toEqual([
      {
        name: 'rule',
        severity: 'critical',
        violations: 1,
        rows: [
          {
            id: 'apr',
            cents: '9007199254740993',
            tags: ['a', 'b c'],
            mood: 'wild',
            at: new Date('2026-04-02T10:00:00Z'),
          },
        ],
      },
    ])
  })

  test('no row is no violation', async () => {
    expect(await check('select from runs where cents < 0')).toMatchObject([{ violations: 0, rows: [] }])
  })

  test('all violations are counted, the first are shown', async () => {
    const [result] = await check('select g from runs, generate_series(1, 500) g')
    expect(result?.violations).toBe(1_000)
    expect(result?.rows).toHaveLength(20)
  })

  test('a delivery that was made twice is seen', async () => {
    const needed = [{ domain: 'holdfast' as const, table: 'delivery', columns: ['event_id', 'state'] }]
    const query = 'select event_id from delivery group by event_id having count(*) > 1'
    expect(await check(query, needed)).toMatchObject([{ violations: 1 }])
  })

  test.each([
    ['a table that the header does not name', 'select * from holds2', needs],
    ['a column that the header does not name', 'select secret from runs', needs],
    ['a table behind its schema', 'select * from public.runs', needs],
    ['the platform behind its schema', 'select * from holdfast.shard', needs],
    ['a statement that writes', 'delete from runs returning *', needs],
    ['a table that is not there', 'select 1', [{ domain: 'payroll' as DomainName, table: 'nothing', columns: ['id'] }]],
    [
      'a column that is not there',
      'select 1',
      [{ domain: 'payroll' as DomainName, table: 'runs', columns: ['nothing'] }],
    ],
  ])('%s is refused', async (_, query, its) => {
    await expect(check(query, its)).rejects.toMatchObject({ code: 'config_invalid' })
  })
})

function fail(): never {
  throw new Error('the shard has a database')
}
