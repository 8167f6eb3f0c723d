import { afterAll, beforeAll, expect, test } from 'vitest'
import { gatewayOf, insertRun, newRun, request } from '../../test/support/approval.ts'
import { DatabaseShards, home, tenant, treasury } from '../../test/support/database-shards.ts'
import { eventually } from '../../test/support/eventually.ts'
import { frozenSupervisor } from '../../test/support/frozen-supervisor.ts'
import type { Clock } from '../base/clock.ts'
import { systemClock } from '../base/clock.ts'
import { newTimeOrderedUuid } from '../base/random.ts'
import type { Epoch, NodeId, TransactionId } from '../directory/topology.ts'
import { Connection } from '../postgres/connection.ts'
import type { TargetOf } from './environment.ts'
import { askOutcome, lookUpOutcome } from './outcome.ts'
import { transact } from './transaction.ts'

let shards: DatabaseShards

beforeAll(async () => {
  shards = await DatabaseShards.open()
})

afterAll(async () => {
  await shards.close()
})

test('O1: who asks while the decision commits is told one thing', async () => {
  const environment = await gatewayOf(shards)
  const id = newTimeOrderedUuid() as TransactionId
  const decision = await Connection.connect(shards.target(home), 5_000)
  try {
    await decision.script(`begin;
      lock holdfast.transaction_record in access exclusive mode;
      insert into holdfast.commit_log values
        ('${id}', 7, pg_current_xact_id(), '${tenant}', 'a', 's', 'm', '{}', 1, '{${treasury}}');
      insert into holdfast.transaction_record (transaction_id, outcome, commit_timestamp, participants, home_epoch)
        values ('${id}', 'COMMITTED', 7, '{${treasury}}', 1)`)
    const told = lookUpOutcome(environment, id)
    await eventually(async () => {
      const waiting = `select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`
      return (await shards.rows(home, waiting)).length > 0
    })
    await decision.script('commit')
    expect(await told).toMatchObject({ outcome: 'committed', home, commitTimestamp: 7n })
  } finally {
    decision.release()
  }
})

/** A fence that gave up waiting: the same server opens at the next epoch, and everybody is told. */
async function fenceInVain(): Promise<void> {
  const epoch = (shards.shard(home).epoch + 1) as Epoch
  await shards.rows(home, 'select holdfast.fence($1)', [epoch])
  await shards.rows(home, 'call holdfast.open_shard($1)', [epoch])
  shards.replaceShard(home, { epoch })
}

test('O3: a later epoch of the same server is no abort while the backend lives, and the commit goes through', async () => {
  let looks = 0
  const sleep: Clock['sleep'] = (ms, signal) => {
    looks += 1
    return systemClock.sleep(ms, signal)
  }
  const environment = await gatewayOf(shards, {
    limits: { commitWithinMs: 100, lockWithinMs: 60_000, outcomeWithinMs: 60_000 },
    clock: { ...systemClock, sleep },
  })
  const run = newRun()
  const other = await Connection.connect(shards.target(home), 5_000)
  let runs = 0
  try {
    await other.flight([{ text: 'begin' }, { text: insertRun, values: [tenant, run] }])
    const outcome = transact(environment, request(run, { isolation: 'repeatable read' }), async (tx) => {
      runs += 1
      // Its snapshot is from before the fence. The commit waits behind the row of another.
      await tx.query('payroll', 'select from runs')
      tx.batch('payroll', [[insertRun, [tenant, run]]])
    })
    let isTold = false
    outcome.catch(() => undefined).finally(() => (isTold = true))
    await eventually(() => looks > 0)
    await fenceInVain()
    const before = looks
    // One may have been under way.
    await eventually(() => isTold || looks >= before + 2)
    await other.query('rollback')
    expect(await outcome).toMatchObject({ replayed: false })
  } finally {
    other.release()
  }
  expect(runs).toBe(1)
  expect(await shards.rows(home, 'select epoch from holdfast.commit_log where subject = $1', [run])).toHaveLength(1)
})

test('O3: another server tells an abort once it is open at a later epoch', async () => {
  const environment = await gatewayOf(shards, { limits: { outcomeWithinMs: 100 } })
  const { primary, epoch } = shards.shard(home)
  const alive = await Connection.connect(shards.target(home, 'holdfast_gateway'), 5_000)
  const ask = async () => {
    const transactionId = newTimeOrderedUuid() as TransactionId
    const { serverProcessId } = alive
    const question = { transactionId, home, node: primary.id, epoch, participants: [], serverProcessId }
    return (await askOutcome(environment, question)).kind
  }
  try {
    expect(await ask()).toBe('nothing')
    shards.replaceShard(home, { primary: { ...primary, id: `${home}.2` as NodeId } })
    expect(await ask()).toBe('nothing')
    shards.replaceShard(home, { epoch: (epoch + 1) as Epoch, state: 'fenced' })
    expect(await ask()).toBe('nothing')
    shards.replaceShard(home, { state: 'open' })
    expect(await ask()).toBe('aborted')
  } finally {
    alive.release()
  }
})

test('O4: who asks for an outcome asks no longer than was said, where neither home nor the supervisor answers', async () => {
  const topology = await frozenSupervisor(shards.topology.current())
  const environment = await gatewayOf(shards, { topology, limits: { outcomeWithinMs: 100 } })
  const { primary, epoch } = shards.shard(home)
  const transactionId = newTimeOrderedUuid() as TransactionId
  const question = { transactionId, home, node: primary.id, epoch, participants: [], serverProcessId: 1 }
  const targetOf: TargetOf = (node) => ({ ...environment.targetOf(node), port: 1 })
  expect(await askOutcome({ ...environment, targetOf }, question)).toMatchObject({ kind: 'nothing' })
})
