import fc from 'fast-check'
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import type { FreshDatabase } from '../../test/support/database.ts'
import { freshDatabase } from '../../test/support/database.ts'
import { historyNumber, transaction } from '../../test/support/session-values.ts'
import { present } from '../base/assert.ts'
import type { HistoryId, TenantName, TransactionId } from '../directory/topology.ts'
import { Connection } from '../postgres/connection.ts'
import { lsnZero, toLsn } from '../postgres/lsn.ts'
import type { EvidenceQuestion } from './read-store.ts'
import { beginRead, commit, evidence, evidenceUnasked, readEvidence } from './read-store.ts'

/** What a proof is told against what it is made of. */

const tenants = ['globex-eu', 'initech-us'] as TenantName[]
let database: FreshDatabase
let admin: Connection
let gateway: Connection

beforeAll(async () => {
  database = await freshDatabase()
  admin = await Connection.connect(database.target(), 5_000)
  gateway = await Connection.connect(database.target('holdfast_gateway'), 5_000)
})

afterAll(async () => {
  admin?.release()
  gateway?.release()
  await database?.drop()
})

beforeEach(async () => {
  await admin.script(`
    delete from holdfast.placement; delete from holdfast.history; delete from holdfast.shard; delete from holdfast.closed;
    delete from holdfast.commit_log; delete from holdfast.branch; delete from holdfast.decision`)
})

const found = `
  insert into holdfast.shard (fleet, shard, durability, epoch, history_id, state, max_clock_offset_ms)
  values ('test', 'eu-west/payroll', 'local', 1, '${historyNumber(1)}', 'open', 500);
  insert into holdfast.closed values (true, 77)`

async function ask(question: Partial<EvidenceQuestion> = {}) {
  const asked = {
    tenant: tenants[0] ?? null,
    transactionIds: [],
    histories: [],
    through: lsnZero,
    role: 'none',
  } as const
  const outcomes = await gateway.flight([beginRead, { ...evidence({ ...asked, ...question }), joined: true }, commit])
  const [, row] = outcomes
  if (row === undefined) throw new Error('an answer')
  return present(readEvidence(row), 'a shard is founded')
}

const historySql = (number: number, leftOut: readonly TransactionId[] = []) =>
  number === 1
    ? `insert into holdfast.history (history_id, epoch, timeline, reason) values ('${historyNumber(1)}', 1, 1, 'founded')`
    : `insert into holdfast.history (history_id, epoch, parent, fork_lsn, timeline, reason, left_out)
       values ('${historyNumber(number)}', ${number}, '${historyNumber(number - 1)}', '0/${number}0', 1, 'cutover',
               '{${leftOut.join(',')}}')`

const change = fc.oneof(
  fc
    .record({
      tenant: fc.constantFrom(...tenants),
      domain: fc.constantFrom('payroll', 'treasury', 'tax'),
      shard: fc.constantFrom('eu-west/payroll', 'us-east/treasury'),
      service: fc.constantFrom('full', 'read-only', 'reject'),
      version: fc.integer({ min: 1, max: 9 }),
    })
    .map(
      ({ tenant, domain, shard, service, version }) => `
    insert into holdfast.placement (tenant, domain, shard, version, policy, policy_version, service)
    values ('${tenant}', '${domain}', '${shard}', ${version}, '{}', 1, '${service}')
    on conflict (tenant, domain) do update
    set shard = excluded.shard, version = excluded.version, service = excluded.service`,
    ),
  fc.constantFrom(...tenants).map((tenant) => `delete from holdfast.placement where tenant = '${tenant}'`),
  fc.constantFrom(...tenants).map(
    (tenant) => `delete from holdfast.placement where tenant = 'acme-de';
       update holdfast.placement set tenant = 'acme-de' where tenant = '${tenant}'`,
  ),
  fc.constant(`delete from holdfast.placement where tenant = 'acme-de'`),
  fc.nat(2).map((count) => ({ leftOut: [transaction(1), transaction(2)].slice(0, count) })),
  fc.constant(`update holdfast.history set left_out = '{${transaction(9)}}' where parent is not null`),
)

const computed = `
  select (select json_agg(json_build_object('historyId', h.history_id, 'epoch', h.epoch, 'leftOut', h.left_out) order by h.epoch)
          from holdfast.history h) as histories,
         (select json_object_agg(p.domain, json_build_object('shard', p.shard, 'version', p.version, 'service', p.service))
          from holdfast.placement p where p.tenant = $1) as placements`

test('R1, S5: what is told is what the rows say, however they change, also by replay', async () => {
  await admin.script(`${historySql(1)}; ${found}`)
  let histories = 1
  await fc.assert(
    fc.asyncProperty(fc.array(fc.tuple(change, fc.boolean()), { maxLength: 5 }), async (changes) => {
      for (const [what, isReplay] of changes) {
        const sql = typeof what === 'string' ? what : historySql((histories += 1), what.leftOut)
        await admin.script(
          `begin; set local session_replication_role = ${isReplay ? 'replica' : 'origin'}; ${sql}; commit`,
        )
      }
      for (const tenant of tenants) {
        const told = await ask({ tenant, histories: [historyNumber(0)] })
        const { rows } = await admin.query(computed, [tenant])
        expect({
          histories: told.histories.map(({ historyId, epoch, fork }) => ({
            historyId,
            epoch,
            leftOut: fork?.leftOut ?? [],
          })),
          placements: told.placements.size === 0 ? null : Object.fromEntries(told.placements),
        }).toEqual(rows[0])
      }
    }),
    { numRuns: 40 },
  )
  expect(histories).toBeGreaterThan(5)
})

test('a founding that names the shard after its history has its lineage', async () => {
  await admin.script(historySql(1))
  expect((await admin.query('select from holdfast.lineage')).rows).toEqual([])
  await admin.script(found)
  expect(await ask()).toMatchObject({
    shard: 'eu-west/payroll',
    follows: false,
    closedTimestamp: 77n,
    histories: [{ historyId: historyNumber(1), epoch: 1, fork: undefined }],
  })
})

test('S4: what was left out is told to those who know another history than the newest', async () => {
  await admin.script(`${historySql(1)}; ${found}; ${historySql(2, [transaction(1)])}`)
  const leftOutFor = async (...histories: HistoryId[]) => (await ask({ histories })).histories[1]?.fork?.leftOut
  expect(await leftOutFor()).toEqual([])
  expect(await leftOutFor(historyNumber(2))).toEqual([])
  expect(await leftOutFor(historyNumber(1))).toEqual([transaction(1)])
  expect(await leftOutFor(historyNumber(2), historyNumber(3))).toEqual([transaction(1)])
})

test('S8: of the transactions that are asked for, those at home and as branches are told', async () => {
  await admin.script(`${historySql(1)}; ${found};
    insert into holdfast.commit_log values ('${transaction(1)}', 5, '9', 't', 'a', 's', 'x', '{}', 1, '{}');
    insert into holdfast.branch values ('${transaction(2)}', 'g', 'h', 1, '{}', 6, '9', 't', 'a', 's', 'x', '{}', 1)`)
  expect([...(await ask({ transactionIds: [1, 2, 3].map(transaction) })).visible].toSorted()).toEqual(
    [1, 2].map(transaction),
  )
  expect((await ask()).visible.size).toBe(0)
})

test('R6: the greatest timestamp is of commits and decisions, and told by a primary wherever it is', async () => {
  await admin.script(`${historySql(1)}; ${found}`)
  expect((await ask()).greatestTimestamp).toBe(0n)
  await admin.script(`
    insert into holdfast.commit_log values ('${transaction(1)}', 5, '9', 't', 'a', 's', 'x', '{}', 1, '{}');
    insert into holdfast.decision values ('${transaction(2)}', 'COMMITTED', 8, 'h', 1), ('${transaction(3)}', 'ABORTED', null, 'h', 1)`)
  expect((await ask({ through: toLsn(0xffff_ffff_ffffn) })).greatestTimestamp).toBe(8n)
})

test('R8: what comes behind it runs in the role that it gives, until the transaction ends', async () => {
  await admin.script(`${historySql(1)}; ${found}`)
  const who = {
    text: `select current_user::text as who, current_setting('holdfast.tenant') as tenant`,
    joined: true,
  } as const
  const bound = evidenceUnasked(tenants[0] as TenantName, lsnZero)
  const outcomes = await gateway.flight([beginRead, bound, who, { ...commit, joined: true }, who])
  const rows = outcomes.map((outcome) => (outcome.ok ? outcome.rows[0] : outcome.error))
  expect(rows[2]).toEqual({ who: 'holdfast_bound', tenant: 'globex-eu' })
  expect(rows[4]).toEqual({ who: 'holdfast_gateway', tenant: '' })
  expect(await ask({ tenant: null })).toMatchObject({ shard: 'eu-west/payroll' })
})

test('least privilege: the application may read nothing of it', async () => {
  for (const role of ['holdfast_app', 'holdfast_bound']) {
    const { rows } = await admin.query(
      `select bool_or(has_table_privilege($1, 'holdfast.' || name, 'select')) as reads,
         has_function_privilege($1, 'holdfast.shown_of(uuid[])', 'execute') as asks
       from unnest('{evidence,lineage,placements_shown}'::text[]) name`,
      [role],
    )
    expect(rows).toEqual([{ reads: false, asks: false }])
  }
})
