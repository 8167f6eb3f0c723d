import { describe, expect, test } from 'vitest'
import { newRandomUuid, newTimeOrderedUuid } from '../../src/base/random.ts'
import type { HistoryId, NodeId, TransactionId } from '../../src/directory/topology.ts'
import type { ReadRequest } from '../../src/reading/reading.ts'
import { read } from '../../src/reading/reading.ts'
import type { Frontier, HistoryFrontier } from '../../src/session/frontier.ts'
import { eventually } from '../support/eventually.ts'
import { payrollShard } from '../support/payroll-plan.ts'
import type { ReadingGateway } from '../support/reading-gateway.ts'
import { useReadingShards } from '../support/reading-fixture.ts'

/** Reads over connections whose server process has told of its node before. In the order of the file. */

const primary = 'eu-west/payroll.1' as NodeId
const follower = 'eu-west/payroll.2' as NodeId
const tenant = 'globex-eu'

const fixture = useReadingShards([{ name: payrollShard, followers: ['eu-west'] }])

const query = (gateway: ReadingGateway, text: string, request: Partial<ReadRequest> = {}) =>
  read(gateway.reading, { tenant, prefer: follower, ...request }, (reader) => reader.query('payroll', text))

/** The connections of a gateway at the nodes that are at rest, and what their processes are doing. */
const resting = (node: NodeId) =>
  fixture.on<{ state: string; query: string }>(
    node,
    `select state, query from pg_stat_activity where usename = 'holdfast_gateway' and application_name not like '% service'`,
  )

/** Its one connection to the follower has answered before. */
async function warmed(limits?: Partial<ReadingGateway['reading']['limits']>): Promise<ReadingGateway> {
  const gateway = await fixture.open(limits === undefined ? {} : { limits })
  for (let n = 0; n < 3; n += 1) await query(gateway, 'select 1')
  return gateway
}

describe('a function that returns the answer to its only statement', () => {
  test('has the end of its transaction in the flight', async () => {
    const gateway = await warmed()
    // Nothing was sent behind the answer: what the process did last is what the flight ended with. One that the end of a read before
    // it still occupied was asked over another connection, in full.
    await eventually(async () => {
      const { value } = await query(gateway, 'select current_user::text as who')
      expect(value.rows).toEqual([{ who: 'holdfast_bound' }])
      return (await resting(follower)).some(({ state, query: last }) => state === 'idle' && last === 'commit')
    })
  })

  test('is over: what it asks later is refused', async () => {
    const gateway = await warmed()
    let late: Promise<unknown> | undefined
    const { value } = await read(gateway.reading, { tenant, prefer: follower }, (reader) => {
      const answer = reader.query('payroll', 'select 1 as one')
      late = answer.then(() => reader.query('payroll', 'select 2'))
      late.catch(() => undefined)
      return answer
    })
    expect(value.rows).toEqual([{ one: 1 }])
    await expect(late).rejects.toMatchObject({ code: 'argument_invalid' })
  })
})

describe('any other function', () => {
  const snapshot = 'select pg_backend_pid() as pid, pg_current_snapshot()::text as snapshot, current_user::text as who'

  test.each<[string, (ask: () => Promise<unknown>) => Promise<unknown[]>]>([
    ['one after the other', async (ask) => [await ask(), await ask(), await ask()]],
    ['at once', (ask) => Promise.all([ask(), ask(), ask()])],
  ])('R4: statements %s are answered from one snapshot', async (_, asks) => {
    const gateway = await warmed()
    const { value } = await read(gateway.reading, { tenant, prefer: follower }, (reader) =>
      asks(async () => (await reader.query('payroll', snapshot)).rows[0]),
    )
    const [one] = value
    expect(one).toMatchObject({ who: 'holdfast_bound' })
    expect(value).toEqual([one, one, one])
    await eventually(async () => (await resting(follower)).every(({ state }) => state === 'idle'))
  })

  test('R8: the next user of the connection is the gateway again', async () => {
    const gateway = await warmed()
    await read(gateway.reading, { tenant, prefer: follower }, async (reader) => {
      await reader.query('payroll', 'select 1')
      await reader.query('payroll', 'select 2')
    })
    const who = async () => {
      const connection = await gateway.reading.pools.reserve(fixture.shards.targetOf(fixture.shards.node(follower)))
      const { rows } = await connection.query<{ who: string }>('select current_user::text as who')
      connection.release()
      return rows[0]?.who
    }
    await eventually(async () => (await who()) === 'holdfast_gateway')
  })
})

describe('what goes wrong', () => {
  test('R13: a statement that was prepared before its table was altered is asked again, of the same node', async () => {
    const text = 'select * from altered'
    await fixture.on(primary, 'create table altered (id integer)')
    await fixture.on(primary, 'grant select on altered to public')
    const isThere = (column: string) => async () =>
      (
        await fixture.on(
          follower,
          `select from pg_attribute where attrelid = to_regclass('altered') and attname = $1`,
          [column],
        )
      ).length > 0
    await eventually(isThere('id'))
    const gateway = await warmed()
    await query(gateway, text)
    await fixture.on(primary, 'alter table altered add column body text')
    await eventually(isThere('body'))
    const { value, served } = await query(gateway, text)
    expect(value.fields.map(({ name }) => name)).toEqual(['id', 'body'])
    expect(served).toMatchObject([{ node: follower, rerouted: false }])
  })

  test.each([
    ['insert into runs (tenant, id, status) values (current_user, current_user, current_user)', 'statement_refused'],
    ['select * from holdfast.evidence', 'statement_failed'],
    ['select nothing from runs', 'statement_failed'],
  ])('R8: %j is answered with %s, and the next statement is answered', async (text, code) => {
    const gateway = await warmed()
    await expect(query(gateway, text)).rejects.toMatchObject({ code })
    const answer = await query(gateway, 'select current_user::text as who')
    expect(answer.value.rows).toEqual([{ who: 'holdfast_bound' }])
    expect(answer.served[0]).toMatchObject({ node: follower, rerouted: false })
  })

  test('a value that cannot be sent is told', async () => {
    const gateway = await warmed()
    const loop: Record<string, unknown> = {}
    loop['self'] = loop
    const unsendable = read(gateway.reading, { tenant, prefer: follower }, (reader) =>
      reader.query('payroll', 'select $1::jsonb', [loop]),
    )
    await expect(unsendable).rejects.toMatchObject({ code: 'argument_invalid' })
  })

  test('R2: a node that stands still is left, and one whose statement takes long is waited for', async () => {
    const impatient = await warmed({ openWithinMs: 300 })
    const slow = await query(impatient, 'select pg_sleep(1)::text as slept')
    expect(slow.served[0]).toMatchObject({ node: follower, rerouted: false })
    await fixture.shards.server(follower).pause()
    try {
      expect((await query(impatient, 'select 1')).served[0]).toMatchObject({ node: primary, rerouted: true })
    } finally {
      await fixture.shards.server(follower).resume()
    }
  })

  test('S6: a position that one process has told proves nothing of another', async () => {
    const gateway = await warmed()
    const written = await gateway.write(tenant, (tx) =>
      tx.query('payroll', `insert into runs (tenant, id, status) values ($1, 'told', 'new')`, [tenant]),
    )
    await query(gateway, 'select 1', { frontier: written.frontier, waitMs: 30_000 })
    const ends = `select pg_terminate_backend(pid, 1000) from pg_stat_activity where usename = 'holdfast_gateway'`
    await fixture.on(follower, ends)
    const { told, pools, targetOf } = gateway.reading
    const connection = await pools.reserve(targetOf(fixture.shards.node(follower)))
    expect(told.has(connection.session)).toBe(false)
    connection.release()
  })
})

describe('histories', () => {
  test('S4: a history that the process has not told is judged with all evidence', async () => {
    const gateway = await warmed()
    const left = newTimeOrderedUuid() as TransactionId
    const { frontier } = await gateway.write(tenant, (tx) =>
      tx.query('payroll', `insert into runs (tenant, id, status) values ($1, 'kept', 'new')`, [tenant]),
    )
    const { value } = await query(gateway, `select status from runs where id = 'kept'`, { frontier, waitMs: 30_000 })
    expect(value.rows).toEqual([{ status: 'new' }])
    // The session is past the fork, and no name stands for what it has seen: only the list of what was left out tells.
    const second = newRandomUuid() as HistoryId
    await fixture.on(primary, `call holdfast.open_history($1, 2, '0/1', 'cutover', array[$2::uuid])`, [second, left])
    await fixture.on(primary, 'call holdfast.open_shard(2)')
    await eventually(
      async () => (await fixture.on(follower, 'select from holdfast.history where epoch = 2')).length > 0,
    )
    await expect(query(gateway, 'select 1', { frontier: withoutNames(frontier) })).rejects.toMatchObject({
      code: 'history_rewritten',
      detail: { transactionIds: [left] },
    })
  })
})

function withoutNames(frontier: Frontier): Frontier {
  const shard = frontier.shards.get(payrollShard)
  if (shard === undefined) throw new Error('the frontier has the shard')
  const histories = shard.histories.map(
    (history): HistoryFrontier => ({ ...history, lastTransactionIds: [], idsSuffice: true }),
  )
  return { ...frontier, shards: new Map([[payrollShard, { ...shard, histories }]]) }
}
