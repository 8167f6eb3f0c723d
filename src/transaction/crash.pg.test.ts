import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { DatabaseShards, home, tenant, treasury } from '../../test/support/database-shards.ts'
import { eventually } from '../../test/support/eventually.ts'
import { newRandomUuid } from '../base/random.ts'
import type { OnStep, StepName } from '../base/step.ts'
import type { TransactionEnvironment } from './environment.ts'
import { lookUpOutcome } from './outcome.ts'
import { Resolver, resolverLimitsDefault } from './resolver.ts'
import { settleBranch } from './settlement.ts'
import type { Committed, TransactRequest } from './transaction.ts'
import { transact } from './transaction.ts'

/**
 * A gateway that dies at every named step of its protocol: it stops there for good, and its connections are gone. What it
 * left behind settles by itself to the right outcome, and settling twice changes nothing.
 */
let shards: DatabaseShards

beforeAll(async () => {
  shards = await DatabaseShards.open()
})

afterEach(async () => {
  await shards.closeGateways()
})

afterAll(async () => {
  await shards.close()
})

const eager = { ...resolverLimitsDefault, settleAfterMs: 0, abortAfterMs: 0 }
const newRun = () => `run-${newRandomUuid().slice(0, 8)}`
const request = (subject: string): TransactRequest => ({ tenant, action: 'payroll.approve', subject, actor: 'm' })

function approve(environment: TransactionEnvironment, run: string): Promise<Committed<void>> {
  return transact(environment, request(run), async (tx) => {
    await tx.query('payroll', "insert into runs (tenant, id, status, cents) values ($1, $2, 'approved', 10)", [
      tenant,
      run,
    ])
    tx.batch('treasury', [['insert into holds (tenant, run, cents) values ($1, $2, 10)', [tenant, run]]])
  })
}

/** Stops for good at a step, and tells when it is reached. */
function deathAt(step: StepName) {
  let reach = () => {}
  const reached = new Promise<void>((resolve) => {
    reach = resolve
  })
  const onStep: OnStep = (name) => {
    if (name !== step) return Promise.resolve()
    reach()
    return new Promise(() => undefined)
  }
  return { onStep, reached }
}

async function outcomeOf(run: string) {
  const at = async (sql: string, shard: typeof home) => (await shards.rows(shard, sql, [run])).length
  return {
    run: await at('select from runs where id = $1', home),
    hold: await at('select from holds where run = $1', treasury),
    commit: await at('select from holdfast.commit_log where subject = $1', home),
  }
}

const committed = { run: 1, hold: 1, commit: 1 }
const aborted = { run: 0, hold: 0, commit: 0 }

describe('a gateway that dies', () => {
  const global: [StepName, typeof committed | 'either'][] = [
    ['local begin', aborted],
    ['local user write', aborted],
    ['global branch opened', aborted],
    ['global prepare sent', aborted],
    ['global prepare acknowledged', aborted],
    ['global record inserted', aborted],
    ['global home commit sent', 'either'],
    ['global home waiting for follower', 'either'],
    ['global reply', committed],
    ['global decision row', committed],
    ['global settle sent', committed],
    ['global settled', committed],
  ]
  for (const [step, expected] of global) {
    test(`at "${step}" leaves a global transaction that settles to ${expected === 'either' ? 'one outcome' : expected === committed ? 'committed' : 'aborted'}`, async () => {
      const death = deathAt(step)
      const gateway = await shards.gateway({ onStep: death.onStep })
      const run = newRun()
      approve(gateway.environment, run).catch(() => undefined)
      await death.reached
      await gateway.kill()

      const survivors = [(await shards.gateway()).environment, (await shards.gateway()).environment]
      const resolvers = survivors.map((environment) => new Resolver({ environment, limits: eager }))
      await eventually(async () => {
        await Promise.all(resolvers.map((resolver) => resolver.resolveOnce(treasury)))
        return (await shards.prepared(treasury)).length === 0
      })
      for (const resolver of resolvers) await resolver.resolveOnce(treasury)
      const outcome = await outcomeOf(run)
      if (expected === 'either') expect([committed, aborted]).toContainEqual(outcome)
      else expect(outcome).toEqual(expected)
      // The run can be approved now if and only if it was not approved then.
      const [survivor] = survivors
      if (survivor === undefined) throw new Error('two survivors')
      const again = await approve(survivor, run).then(
        () => 'approved',
        (error: unknown) => (error as { code?: string }).code,
      )
      expect(again).toBe(outcome.commit === 1 ? 'constraint_violated' : 'approved')
      await survivor.background.drain()
      expect(await shards.prepared(treasury)).toEqual([])
    })
  }

  const readings = (['global reading sent', 'global reading confirmed'] as const).flatMap((step) =>
    (['awaited', 'batched'] as const).map((how) => [step, how] as const),
  )
  for (const [step, how] of readings) {
    test(`at "${step}" leaves nothing of a transaction that only read at the treasury: ${how}`, async () => {
      const death = deathAt(step)
      const gateway = await shards.gateway({ onStep: death.onStep })
      const run = newRun()
      transact(gateway.environment, request(run), async (tx) => {
        await tx.query('payroll', "insert into runs (tenant, id, status, cents) values ($1, $2, 'draft', 10)", [
          tenant,
          run,
        ])
        if (how === 'batched') tx.batch('treasury', [['select from holds']])
        else await tx.query('treasury', 'select from holds')
      }).catch(() => undefined)
      await death.reached
      await gateway.kill()
      expect(await outcomeOf(run)).toEqual(aborted)
      expect(await shards.prepared(treasury)).toEqual([])
    })
  }

  const local: [StepName, number | 'either'][] = [
    ['local begin', 0],
    ['local user write', 0],
    ['local stamp', 0],
    ['local commit sent', 'either'],
    ['local commit in WAL', 1],
    ['local acknowledged', 1],
    ['local reply', 1],
  ]
  for (const [step, expected] of local) {
    test(`at "${step}" leaves a local transaction whose rows and commit row agree`, async () => {
      const death = deathAt(step)
      const gateway = await shards.gateway({ onStep: death.onStep })
      const run = newRun()
      transact(gateway.environment, request(run), (tx) =>
        tx.query('payroll', "insert into runs (tenant, id, status, cents) values ($1, $2, 'draft', 10)", [tenant, run]),
      ).catch(() => undefined)
      await death.reached
      await gateway.kill()
      const outcome = await outcomeOf(run)
      expect(outcome.run).toBe(outcome.commit)
      if (expected !== 'either') expect(outcome.commit).toBe(expected)
    })
  }
})

describe('a resolver that dies', () => {
  const steps: [StepName, typeof committed][] = [
    ['resolver scan', aborted],
    ['resolver abort inserted', aborted],
    ['resolver barrier', aborted],
    ['global decision row', aborted],
    ['global settle sent', aborted],
    ['resolver settle', aborted],
    ['resolver barrier', committed],
    ['global decision row', committed],
    ['global settle sent', committed],
    ['resolver settle', committed],
  ]
  for (const [step, expected] of steps) {
    test(`at "${step}" leaves a ${expected === committed ? 'committed' : 'dead'} branch to the next one`, async () => {
      const coordinatorDeath = deathAt(expected === committed ? 'global decision row' : 'global record inserted')
      const coordinator = await shards.gateway({ onStep: coordinatorDeath.onStep })
      const run = newRun()
      approve(coordinator.environment, run).catch(() => undefined)
      await coordinatorDeath.reached
      await coordinator.kill()

      const death = deathAt(step)
      const first = await shards.gateway({ onStep: death.onStep })
      void new Resolver({ environment: first.environment, limits: eager }).resolveOnce(treasury)
      await death.reached
      await first.kill()

      const { environment } = await shards.gateway()
      const next = new Resolver({ environment, limits: eager })
      await next.resolveOnce(treasury)
      await next.resolveOnce(treasury)
      expect(await shards.prepared(treasury)).toEqual([])
      expect(await outcomeOf(run)).toEqual(expected)
    })
  }
})

describe('settling', () => {
  test('by ten at once, and again afterwards, gives one outcome', async () => {
    const death = deathAt('global decision row')
    const gateway = await shards.gateway({ onStep: death.onStep })
    const run = newRun()
    const { transactionId, commitTimestamp } = await approve(gateway.environment, run)
    await death.reached
    await gateway.kill()
    const { environment } = await shards.gateway()
    const settle = () =>
      settleBranch(environment, {
        branch: { home, transactionId, participant: treasury },
        homeEpoch: shards.shard(home).epoch,
        decision: { outcome: 'COMMITTED', commitTimestamp },
      })
    const settlements = await Promise.all(Array.from({ length: 10 }, settle))
    expect(settlements.every(({ kind }) => kind === 'settled' || kind === 'busy')).toBe(true)
    expect(await settle()).toEqual({ kind: 'settled' })
    expect(await outcomeOf(run)).toEqual(committed)
    expect(await lookUpOutcome(environment, transactionId)).toMatchObject({ outcome: 'committed', commitTimestamp })
  })

  test('goes on by itself: a running resolver finds what was left, on whatever shard', async () => {
    const death = deathAt('global record inserted')
    const gateway = await shards.gateway({ onStep: death.onStep })
    const run = newRun()
    approve(gateway.environment, run).catch(() => undefined)
    await death.reached
    await gateway.kill()
    const stop = new AbortController()
    const limits = {
      ...resolverLimitsDefault,
      scanEveryMs: 10,
      settleAfterMs: 0,
      abortAfterMs: 50,
      electionEveryMs: 10,
    }
    const resolvers = [await shards.gateway(), await shards.gateway()].map(
      ({ environment }) => new Resolver({ environment, limits }),
    )
    const running = resolvers.map((resolver) => resolver.run(stop.signal))
    await eventually(async () => (await shards.prepared(treasury)).length === 0)
    stop.abort()
    await Promise.all(running)
    expect(await outcomeOf(run)).toEqual(aborted)
  })

  test('is taken over from an elected resolver that was stopped: its session idles, and the server ends it', async () => {
    const stop = new AbortController()
    const limits = { ...eager, scanEveryMs: 10, electionEveryMs: 10, silentForMsMax: 200 }
    const stopped = (await shards.gateway()).environment
    const clock = { ...stopped.clock, sleep: () => new Promise<void>(() => undefined) }
    void new Resolver({ environment: { ...stopped, clock }, limits }).run(stop.signal)
    const elected = `select from pg_locks l join pg_database d on d.oid = l.database
      where d.datname = current_database() and l.locktype = 'advisory' and l.granted`
    await eventually(async () => (await shards.rows(treasury, elected)).length > 0)

    const death = deathAt('global record inserted')
    const gateway = await shards.gateway({ onStep: death.onStep })
    const run = newRun()
    approve(gateway.environment, run).catch(() => undefined)
    await death.reached
    await gateway.kill()
    const running = new Resolver({ environment: (await shards.gateway()).environment, limits }).run(stop.signal)
    await eventually(async () => (await shards.prepared(treasury)).length === 0)
    stop.abort()
    await running
    expect(await outcomeOf(run)).toEqual(aborted)
  })
})
