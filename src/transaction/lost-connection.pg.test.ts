import { setImmediate as turnOfTheLoop } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { DatabaseShards, home, tenant, treasury } from '../../test/support/database-shards.ts'
import { eventually } from '../../test/support/eventually.ts'
import { newRandomUuid, newTimeOrderedUuid } from '../base/random.ts'
import type { OnStep, StepName } from '../base/step.ts'
import type { TransactionId } from '../directory/topology.ts'
import { lookUpOutcome } from './outcome.ts'
import type { TransactRequest } from './transaction.ts'
import { transact } from './transaction.ts'

/**
 * The backend at home ends while a transaction is under way. Before the commit is sent that is a definite no, which is
 * tried once more (T8) where the caller did not choose the id; afterwards it is asked for.
 */
let shards: DatabaseShards

beforeAll(async () => {
  shards = await DatabaseShards.open()
})

afterEach(() => shards.closeGateways())

afterAll(() => shards.close())

/** Ends the backend that has a transaction open at home, the first time that a step is reached. */
function endBackendAt(step: StepName): OnStep {
  let isDone = false
  return async (name) => {
    if (name !== step || isDone) return
    isDone = true
    const open = `select pid from pg_stat_activity where datname = current_database() and state = 'idle in transaction'`
    await shards.rows(home, `select pg_terminate_backend(pid) from (${open}) a`)
    await eventually(async () => (await shards.rows(home, open)).length === 0)
    // Its last word lies at our socket: once the loop has come round it is read, and nothing more is sent there.
    await turnOfTheLoop()
  }
}

const isGlobal = (step: StepName) => step.startsWith('global')

async function approve(step: StepName, run: string, chosen: Pick<TransactRequest, 'transactionId'> = {}) {
  const { environment } = await shards.gateway({ onStep: endBackendAt(step) })
  const request = { tenant, action: 'payroll.approve', subject: run, actor: 'm', ...chosen }
  const outcome = transact(environment, request, async (tx) => {
    const insertRun = "insert into runs (tenant, id, status, cents) values ($1, $2, 'approved', 10)"
    await tx.query('payroll', insertRun, [tenant, run])
    if (isGlobal(step)) {
      tx.batch('treasury', [['insert into holds (tenant, run, cents) values ($1, $2, 10)', [tenant, run]]])
    }
  })
  return { environment, outcome }
}

async function rowsOf(run: string) {
  return {
    runs: (await shards.rows(home, 'select from runs where id = $1', [run])).length,
    holds: (await shards.rows(treasury, 'select from holds where run = $1', [run])).length,
    prepared: await shards.prepared(treasury),
  }
}

const newRun = () => `run-${newRandomUuid().slice(0, 8)}`

describe('the backend ends before the commit is sent', () => {
  const repeated: StepName[] = ['local user write', 'local stamp']
  const once: StepName[] = ['global branch opened', 'global prepare acknowledged', 'global record inserted']

  for (const step of [...repeated, ...once]) {
    test(`at "${step}": a caller that chose the id is told that nothing was written`, async () => {
      const run = newRun()
      const transactionId = newTimeOrderedUuid() as TransactionId
      const { environment, outcome } = await approve(step, run, { transactionId })
      await expect(outcome).rejects.toMatchObject({ code: 'node_unavailable', retry: 'safe' })
      await environment.background.drain()
      expect(await rowsOf(run)).toEqual({ runs: 0, holds: 0, prepared: [] })
      expect(await lookUpOutcome(environment, transactionId)).toMatchObject({ outcome: 'aborted' })
    })

    test(`at "${step}": it is run once more, and commits once`, async () => {
      const run = newRun()
      const { environment, outcome } = await approve(step, run)
      await outcome
      await environment.background.drain()
      expect(await rowsOf(run)).toEqual({ runs: 1, holds: isGlobal(step) ? 1 : 0, prepared: [] })
    })
  }
})

describe('the backend ends after the commit was sent', () => {
  test('and what was lost with it is run once more: it commits once, whichever came first', async () => {
    const run = newRun()
    const { environment, outcome } = await approve('local commit sent', run)
    await outcome
    await environment.background.drain()
    expect(await rowsOf(run)).toEqual({ runs: 1, holds: 0, prepared: [] })
  })

  test('and a caller that chose the id is told what then stands, whichever came first', async () => {
    const run = newRun()
    const transactionId = newTimeOrderedUuid() as TransactionId
    const { environment, outcome } = await approve('local commit sent', run, { transactionId })
    const told = await outcome.then(
      () => 'committed',
      (error: unknown) => (error as { code?: string }).code,
    )
    await environment.background.drain()
    expect(['committed', 'transaction_aborted']).toContain(told)
    expect(await rowsOf(run)).toEqual({ runs: told === 'committed' ? 1 : 0, holds: 0, prepared: [] })
  })
})
