import { describe, expect, test } from 'vitest'
import { newRandomUuid, newTimeOrderedUuid } from '../../src/base/random.ts'
import type { Epoch, HistoryId, NodeId, TransactionId } from '../../src/directory/topology.ts'
import { parseLsn } from '../../src/postgres/lsn.ts'
import type { ReadRequest } from '../../src/reading/reading.ts'
import { read } from '../../src/reading/reading.ts'
import { readUnchecked } from '../../src/reading/unchecked.ts'
import type { Frontier, HistoryFrontier } from '../../src/session/frontier.ts'
import type { Tx } from '../../src/transaction/transaction.ts'
import { eventually } from '../support/eventually.ts'
import { payrollShard } from '../support/payroll-plan.ts'
import { useReadingShards } from '../support/reading-fixture.ts'

/** What becomes of reads when nodes are lost, statements are refused, and histories change. In the order of the file. */

const primary = 'eu-west/payroll.1' as NodeId
const follower = 'eu-west/payroll.2' as NodeId
const tenant = 'globex-eu'
const patient = 30_000

const fixture = useReadingShards([{ name: payrollShard, followers: ['eu-west'] }], { limits: { openWithinMs: 2_000 } })

let runs = 0
const newId = () => `run-${(runs += 1)}`

const insertRun = (id: string, of = tenant) =>
  fixture.gateway.write(of, (tx: Tx) =>
    tx.query('payroll', 'insert into runs (tenant, id, status) values ($1, $2, $3)', [of, id, 'new']),
  )

const query = (text: string, request: Partial<ReadRequest> = {}, values: readonly unknown[] = []) =>
  read(fixture.gateway.reading, { tenant, ...request }, (reader) => reader.query('payroll', text, values))

describe('a node that is lost', () => {
  test('R4: in the middle of a read, the function runs again on one snapshot of another node', async () => {
    const id = newId()
    const { frontier } = await insertRun(id)
    const pids: unknown[] = []
    const answer = await read(
      fixture.gateway.reading,
      { tenant, frontier, prefer: follower, waitMs: patient },
      async (reader) => {
        const first = await reader.query<{ pid: number }>('payroll', 'select pg_backend_pid() as pid')
        pids.push(first.rows[0]?.pid)
        if (pids.length === 1) await fixture.on(follower, 'select pg_terminate_backend($1)', [pids[0]])
        const second = await reader.query<{ pid: number }>('payroll', 'select pg_backend_pid() as pid')
        expect(second.rows).toEqual(first.rows)
        return (await reader.query('payroll', 'select status from runs where id = $1', [id])).rows
      },
    )
    expect(answer.value).toEqual([{ status: 'new' }])
    expect(pids).toHaveLength(2)
    // What was lost is asked last for a while.
    expect(answer.served).toMatchObject([{ node: primary, role: 'primary' }])
  })

  test('R4: a function that swallows the loss does not answer from two snapshots', async () => {
    let runsOfBody = 0
    const answer = await read(fixture.gateway.reading, { tenant, prefer: follower }, async (reader) => {
      runsOfBody += 1
      const { rows } = await reader.query<{ pid: number }>('payroll', 'select pg_backend_pid() as pid')
      if (runsOfBody === 1) await fixture.on(follower, 'select pg_terminate_backend($1)', [rows[0]?.pid])
      await reader.query('payroll', 'select 1').catch(() => undefined)
      return runsOfBody
    })
    expect(answer.value).toBe(2)
  })

  test('one that stands still is left after its time, and the read is answered elsewhere', async () => {
    const impatient = await fixture.open({ limits: { openWithinMs: 200 } })
    await fixture.shards.server(follower).pause()
    try {
      const answer = await read(impatient.reading, { tenant, prefer: follower }, (reader) =>
        reader.query('payroll', 'select 1'),
      )
      expect(answer.served[0]).toMatchObject({ node: primary, rerouted: true })
    } finally {
      await fixture.shards.server(follower).resume()
    }
  })

  test('R2: with no node left it is told', async () => {
    const nowhere = await fixture.open({
      parts: { targetOf: (node) => ({ ...fixture.shards.targetOf(node), port: 1 }) },
    })
    const failed = read(nowhere.reading, { tenant }, (reader) => reader.query('payroll', 'select 1'))
    await expect(failed).rejects.toMatchObject({ code: 'node_unavailable', detail: { shard: payrollShard } })
  })
})

describe('R8: what a read may do', () => {
  test.each([
    ['insert into runs (tenant, id, status) values (current_user, current_user, current_user)', 'statement_refused'],
    ['commit', 'statement_refused'],
    ['reset role', 'statement_refused'],
    ['set transaction read write', 'statement_refused'],
    ['select 1; select 2', 'statement_refused'],
    ['select * from holdfast.shard', 'statement_failed'],
    ['select holdfast.publish_closed(1)', 'statement_failed'],
    ['select nothing from runs', 'statement_failed'],
  ])('%j is answered with %s', async (text, code) => {
    await expect(query(text)).rejects.toMatchObject({ code })
  })

  test('a value that cannot be sent is told', async () => {
    const loop: Record<string, unknown> = {}
    loop['self'] = loop
    await expect(query('select $1::jsonb', {}, [loop])).rejects.toMatchObject({ code: 'argument_invalid' })
    const misspelt = { level: 'Strong' as 'strong' }
    await expect(query('select 1', misspelt)).rejects.toMatchObject({ code: 'argument_invalid' })
    const endless = { waitMs: Number.MAX_SAFE_INTEGER }
    await expect(query('select 1', endless)).rejects.toMatchObject({ code: 'argument_invalid' })
  })

  test('names that nobody knows are told', async () => {
    await expect(query('select 1', { tenant: 'nobody' })).rejects.toMatchObject({ code: 'unknown_tenant' })
    const domain = read(fixture.gateway.reading, { tenant }, (reader) => reader.query('nothing', 'select 1'))
    await expect(domain).rejects.toMatchObject({ code: 'unknown_domain' })
  })

  test('another tenant’s rows are not shown, with or without a frontier, checked or unchecked', async () => {
    const mine = newId()
    const { frontier } = await insertRun(mine)
    const text = 'select tenant from runs where id = $1'
    expect((await query(text, { frontier }, [mine])).value.rows).toEqual([{ tenant }])
    expect((await query(text, { tenant: 'acme-de', frontier }, [mine])).value.rows).toEqual([])
    const unchecked = { tenant: 'acme-de', node: primary, text, values: [mine] }
    expect((await readUnchecked(fixture.gateway.reading, unchecked)).rows).toEqual([])
  })

  test('the next user of a connection is not the application', async () => {
    const single = await fixture.open({})
    for (let n = 0; n < 3; n += 1) {
      await read(single.reading, { tenant, prefer: primary }, (reader) => reader.query('payroll', 'select 1'))
    }
    await eventually(async () => {
      const connection = await single.reading.pools.reserve(fixture.shards.targetOf(fixture.shards.node(primary)))
      const { rows } = await connection.query<{ who: string }>('select current_user::text as who')
      connection.release()
      return rows[0]?.who === 'holdfast_gateway'
    })
  })

  test.each([
    ['read-only', undefined],
    ['reject', 'tenant_rejected'],
  ])('a placement whose service is %s', async (service, code) => {
    const change = (to: string) =>
      fixture.on(primary, `update holdfast.placement set service = $1 where tenant = 'acme-de'`, [to])
    await change(service)
    const reading = query('select 1 as one', { tenant: 'acme-de', level: 'primary' })
    if (code === undefined) expect((await reading).value.rows).toEqual([{ one: 1 }])
    else await expect(reading).rejects.toMatchObject({ code })
    await change('full')
  })
})

describe('histories', () => {
  const secondHistory = newRandomUuid() as HistoryId
  let kept: { id: string; frontier: Frontier }
  let fork = ''

  const demand = (change: Partial<HistoryFrontier>): Frontier => {
    const known = kept.frontier.shards.get(payrollShard)
    const [history] = known?.histories ?? []
    if (known === undefined || history === undefined) throw new Error('the frontier has the shard')
    return { ...kept.frontier, shards: new Map([[payrollShard, { ...known, histories: [{ ...history, ...change }] }]]) }
  }

  test('a promotion opens a second history', async () => {
    const id = newId()
    kept = { id, frontier: (await insertRun(id)).frontier }
    const [row] = await fixture.on<{ fork: string }>(primary, 'select pg_current_wal_flush_lsn()::text as fork')
    fork = row?.fork ?? ''
    await fixture.on(primary, `call holdfast.open_history($1, 2, $2::pg_lsn, 'promotion', '{}')`, [secondHistory, fork])
    await fixture.on(primary, 'call holdfast.open_shard(2)')
    const shard = fixture.shards.shard(payrollShard)
    fixture.shards.replaceShard({ ...shard, epoch: 2 as Epoch, historyId: secondHistory })
    fixture.gateway.keepClock(payrollShard)
    await eventually(async () => {
      const rows = await fixture.on(follower, 'select from holdfast.closed where closed_timestamp > $1', [
        kept.frontier.timestamp,
      ])
      return rows.length > 0
    })
  })

  test('a write from before the fork is honoured, and the session goes on in the new history', async () => {
    const answer = await query('select status from runs where id = $1', { frontier: kept.frontier }, [kept.id])
    expect(answer.value.rows).toEqual([{ status: 'new' }])
    expect(answer.frontier.shards.get(payrollShard)?.histories.map(({ historyId }) => historyId)).toEqual([
      secondHistory,
    ])
  })

  test('HZ-T3: a lost write is told, though its timestamp is closed', async () => {
    const lost = newTimeOrderedUuid() as TransactionId
    const frontier = demand({
      position: (parseLsn(fork) + 1_000n) as HistoryFrontier['position'],
      lastTransactionIds: [lost],
    })
    await expect(query('select 1', { frontier })).rejects.toMatchObject({
      code: 'write_lost',
      detail: { transactionIds: [lost] },
    })
  })

  test('a session that has read past the fork is told that the history changed', async () => {
    const position = (parseLsn(fork) + 1_000n) as HistoryFrontier['position']
    const frontier = demand({ position, lastTransactionIds: [], idsSuffice: false })
    await expect(query('select 1', { frontier })).rejects.toMatchObject({ code: 'history_changed' })
  })

  test('S4: a node that is not in the fleet’s history is not read, even without a token', async () => {
    await fixture.holdBack(follower)
    const third = newRandomUuid() as HistoryId
    await fixture.on(primary, `call holdfast.open_history($1, 3, $2::pg_lsn, 'promotion', '{}')`, [third, fork])
    await fixture.on(primary, 'call holdfast.open_shard(3)')
    const shard = fixture.shards.shard(payrollShard)
    fixture.shards.replaceShard({ ...shard, epoch: 3 as Epoch, historyId: third })
    const answer = await query('select 1', { prefer: follower, waitMs: 0 })
    expect(answer.served[0]).toMatchObject({ node: primary, rerouted: true })
  })

  test('a frontier of a history that no node knows is refused', async () => {
    const frontier = demand({ historyId: newRandomUuid() as HistoryId, epoch: 9 as Epoch })
    await expect(query('select 1', { frontier })).rejects.toMatchObject({ code: 'frontier_not_reached' })
  })
})
