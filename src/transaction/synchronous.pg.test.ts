import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { acknowledgedBy, startAcknowledging, untilInForce } from '../../test/support/acknowledging-follower.ts'
import { eager, insertHold, insertRun, newRun, request } from '../../test/support/approval.ts'
import type { Running } from '../../test/support/archive.ts'
import type { FreshDatabase } from '../../test/support/database.ts'
import type { GatewayOptions } from '../../test/support/database-shards.ts'
import { DatabaseShards, home, tenant, treasury } from '../../test/support/database-shards.ts'
import { eventually } from '../../test/support/eventually.ts'
import { ServerYard } from '../../test/support/servers.ts'
import { present } from '../base/assert.ts'
import { systemClock } from '../base/clock.ts'
import { silentMetrics } from '../base/metrics.ts'
import { newRandomUuid, newTimeOrderedUuid } from '../base/random.ts'
import type { NodeId, ShardName, TransactionId } from '../directory/topology.ts'
import { Connection } from '../postgres/connection.ts'
import { installSchema } from '../postgres/schema.ts'
import type { LocalServer } from '../postgres/server/local-server.ts'
import type { TransactionEnvironment } from './environment.ts'
import { primaryOf } from './environment.ts'
import { parseGid } from './gid.ts'
import { lookUpOutcome } from './outcome.ts'
import { Resolver } from './resolver.ts'
import type { TransactRequest } from './transaction.ts'
import { transact } from './transaction.ts'

/**
 * Commits that wait for followers: a server of its own, whose commits can be made to wait for a follower that never comes,
 * or for nobody. What is cancelled, terminated, released or late there is unknown, and nobody is told otherwise.
 */
let yard: ServerYard
let server: LocalServer
let shards: DatabaseShards
let follower: Running

const missing = 'ANY 1 (missing)'
const nobody = ''
const settings = { wal_level: 'logical', max_connections: 200, max_prepared_transactions: 16, fsync: false } as const
/** For gateways that are to run into their deadlines; what has to succeed is asked of another. */
const quick = { commitWithinMs: 400, outcomeWithinMs: 400, serviceWithinMs: 300 } as const

beforeAll(async () => {
  yard = await ServerYard.open()
  server = await yard.primary('alone', settings)
  follower = startAcknowledging(yard.target(server))
  await followers(acknowledgedBy)
  shards = await DatabaseShards.open(makeDatabase)
})

afterAll(async () => {
  await shards.close()
  await follower.stop()
  await yard[Symbol.asyncDispose]()
})

beforeEach(async () => {
  await followers(acknowledgedBy)
})
afterEach(() => shards.closeGateways())

async function makeDatabase(): Promise<FreshDatabase> {
  const name = `t_${newRandomUuid().replaceAll('-', '')}`
  const root = await yard.connect(server)
  await root.query(`create database ${name}`)
  root.release()
  const target = (role = 'holdfast_admin') => ({ ...yard.target(server), database: name, user: role })
  const admin = await Connection.connect(target(), 10_000)
  await installSchema(admin)
  for (const role of ['holdfast_gateway', 'holdfast_app']) {
    await admin.query('call holdfast.set_role_password($1, $2)', [role, yard.password])
  }
  admin.release()
  return { name, target, drop: () => Promise.resolve() }
}

/** From here on commits wait for these followers; for none when the names are empty. */
async function followers(names: string): Promise<void> {
  await server.configure({ ...settings, synchronous_standby_names: names })
  await untilInForce(yard.target(server), names)
}

const waitsForFollowers = async () =>
  (await shards.rows(home, `select from pg_stat_activity where wait_event = 'SyncRep'`)).length

/** Signals the one backend of a shard that waits for followers, once there is one. */
async function signalWaiter(shard: ShardName, signal: 'pg_cancel_backend' | 'pg_terminate_backend'): Promise<void> {
  await eventually(async () => {
    const rows = await shards.rows(
      shard,
      `select ${signal}(pid) from pg_stat_activity where wait_event = 'SyncRep' and datname = current_database()`,
    )
    return rows.length > 0
  })
}

async function gateway(options: GatewayOptions = {}): Promise<TransactionEnvironment> {
  return (await shards.gateway(options)).environment
}

/** A caller that chose the id is tried once, and hears of the abort. */
const tried = (subject: string): TransactRequest => ({
  ...request(subject),
  transactionId: newTimeOrderedUuid() as TransactionId,
})
const record = (environment: TransactionEnvironment, run: string) =>
  transact(environment, request(run), (tx) => tx.query('payroll', insertRun, [tenant, run]))

async function ambiguousId(promise: Promise<unknown>): Promise<TransactionId> {
  const error: unknown = await promise.then(
    () => 'it was acknowledged',
    (reason: unknown) => reason,
  )
  expect(error).toMatchObject({ code: 'outcome_ambiguous', retry: 'unknown' })
  return (error as { detail: { transactionId: TransactionId } }).detail.transactionId
}

describe('a commit that waits for followers', () => {
  for (const signal of ['pg_cancel_backend', 'pg_terminate_backend'] as const) {
    test(`HZ-S1: and is answered after ${signal} is unknown, until a barrier passes`, async () => {
      const environment = await gateway({ limits: quick })
      const run = newRun()
      await followers(missing)
      const outcome = record(environment, run)
      outcome.catch(() => undefined)
      await signalWaiter(home, signal)
      const id = await ambiguousId(outcome)
      // It is visible here, and on no follower: what is read does not count.
      expect(await shards.rows(home, 'select from runs where id = $1', [run])).toHaveLength(1)
      await expect(lookUpOutcome(environment, id)).rejects.toMatchObject({ code: 'node_unavailable' })
      await followers(acknowledgedBy)
      expect(await lookUpOutcome(await gateway(), id)).toMatchObject({ outcome: 'committed', subject: run })
    })
  }

  test('HZ-S1: and is told as committed when the followers come while it is asked for', async () => {
    const environment = await gateway({ limits: { ...quick, outcomeWithinMs: 20_000 } })
    const run = newRun()
    await followers(missing)
    const outcome = record(environment, run)
    await signalWaiter(home, 'pg_cancel_backend')
    await followers(acknowledgedBy)
    expect(await outcome).toMatchObject({ replayed: false, shards: [{ shard: home }] })
  })

  test('HZ-S3: past its deadline is unknown, is not cancelled, and goes through later', async () => {
    const environment = await gateway({ limits: quick })
    const run = newRun()
    await followers(missing)
    const id = await ambiguousId(record(environment, run))
    expect(await waitsForFollowers()).toBeGreaterThan(0)
    expect(await shards.rows(home, 'select from runs where id = $1', [run])).toHaveLength(0)
    await followers(acknowledgedBy)
    await eventually(async () => (await shards.rows(home, 'select from runs where id = $1', [run])).length === 1)
    expect(await lookUpOutcome(await gateway(), id)).toMatchObject({ outcome: 'committed' })
  })

  /** Its commit has arrived and waits for another's row, past its deadline; `end` ends its backend. */
  async function askedFor(toRequest: (run: string) => TransactRequest) {
    let asked = 0
    const environment = await gateway({
      limits: { ...quick, outcomeWithinMs: 20_000 },
      metrics: { ...silentMetrics, count: (name) => (asked += name === 'outcome_asked_total' ? 1 : 0) },
    })
    const run = newRun()
    const other = await Connection.connect(shards.target(home), 10_000)
    await other.flight([{ text: 'begin' }, { text: insertRun, values: [tenant, run] }])
    let runs = 0
    const outcome = transact(environment, toRequest(run), async (tx) => {
      runs += 1
      tx.batch('payroll', [[insertRun, [tenant, run]]])
    })
    outcome.catch(() => undefined)
    await eventually(() => asked === 1)
    const [row] = await shards.rows<{ pid: number }>(
      home,
      `select pid from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`,
    )
    const end = () => shards.rows(home, 'select pg_terminate_backend($1)', [row?.pid])
    return { run, other, outcome, end, runs: () => runs }
  }

  test('O3: past its deadline is aborted only once its backend is gone and nothing is there', async () => {
    const { run, other, outcome, end } = await askedFor(tried)
    // Nobody may call it aborted yet.
    expect(await Promise.race([outcome.catch(() => 'told'), systemClock.sleep(300).then(() => 'asking')])).toBe(
      'asking',
    )
    await end()
    await expect(outcome).rejects.toMatchObject({ code: 'transaction_aborted' })
    await other.query('rollback')
    other.release()
    expect(await shards.rows(home, 'select from runs where id = $1', [run])).toHaveLength(0)
  })

  test('T8: past its deadline is run once more when the abort is proven, and commits once', async () => {
    const { run, other, outcome, end, runs } = await askedFor(request)
    await end()
    await other.query('rollback')
    other.release()
    expect(await outcome).toMatchObject({ replayed: false })
    expect(runs()).toBe(2)
    expect(await shards.rows(home, 'select from runs where id = $1', [run])).toHaveLength(1)
    expect(await shards.rows(home, 'select from holdfast.commit_log where subject = $1', [run])).toHaveLength(1)
  })

  test('HZ-S5: and is released by names that are emptied is unknown, until they are back and a barrier passes', async () => {
    const environment = await gateway({ limits: quick })
    const run = newRun()
    await followers(missing)
    const outcome = record(environment, run)
    outcome.catch(() => undefined)
    await eventually(async () => (await waitsForFollowers()) === 1)
    await followers(nobody)
    const id = await ambiguousId(outcome)
    expect(await shards.rows(home, 'select from runs where id = $1', [run])).toHaveLength(1)
    await expect(lookUpOutcome(environment, id)).rejects.toMatchObject({ code: 'node_unavailable' })
    await followers(acknowledgedBy)
    expect(await lookUpOutcome(await gateway(), id)).toMatchObject({ outcome: 'committed', subject: run })
  })

  test('HZ-S5: is refused where it would wait for nobody, and nothing is written', async () => {
    const environment = await gateway()
    const run = newRun()
    await followers(nobody)
    await expect(record(environment, run)).rejects.toMatchObject({ code: 'durability_suspended' })
    await followers(acknowledgedBy)
    expect(await shards.rows(home, 'select from runs where id = $1', [run])).toEqual([])
    await record(environment, run)
  })

  test('HZ-S5: waits whatever synchronous_commit the role or the database has', async () => {
    const environment = await gateway({ limits: quick })
    await shards.rows(home, 'alter role holdfast_gateway set synchronous_commit = off')
    await shards.rows(home, 'alter role holdfast_app set synchronous_commit = off')
    try {
      const other = await gateway({ limits: quick })
      const run = newRun()
      await followers(missing)
      await ambiguousId(record(other, run))
      const attempt = transact(environment, request(run), (tx) =>
        tx.query('payroll', 'set local synchronous_commit = off'),
      )
      await expect(attempt).rejects.toMatchObject({ code: 'statement_refused' })
    } finally {
      await followers(acknowledgedBy)
      await shards.rows(home, 'alter role holdfast_gateway reset synchronous_commit')
      await shards.rows(home, 'alter role holdfast_app reset synchronous_commit')
    }
  })
})

describe('a prepare that waits for followers', () => {
  test('HZ-S1: and is cancelled is a no, although the branch is there', async () => {
    const environment = await gateway({ limits: { ...quick, commitWithinMs: 20_000 } })
    const run = newRun()
    await followers(missing)
    const outcome = transact(environment, tried(run), async (tx) => {
      await tx.query('payroll', insertRun, [tenant, run])
      tx.batch('treasury', [[insertHold, [tenant, run]]])
    })
    outcome.catch(() => undefined)
    await signalWaiter(treasury, 'pg_cancel_backend')
    await expect(outcome).rejects.toMatchObject({ code: 'transaction_aborted' })
    await followers(acknowledgedBy)
    await environment.background.drain()
    const resolver = new Resolver({
      environment,
      limits: eager,
    })
    await eventually(async () => {
      await resolver.resolveOnce(treasury)
      return (await shards.prepared(treasury)).length === 0
    })
    expect(await shards.rows(home, 'select from runs where id = $1', [run])).toEqual([])
    expect(await shards.rows(treasury, 'select from holds where run = $1', [run])).toEqual([])
  })
})

describe('a prepare whose server loads other settings meanwhile', () => {
  test('T8: is a no, is run once more, and commits once', async () => {
    const environment = await gateway()
    const run = newRun()
    await followers(missing)
    let runs = 0
    const outcome = transact(environment, request(run), async (tx) => {
      runs += 1
      await tx.query('payroll', insertRun, [tenant, run])
      tx.batch('treasury', [[insertHold, [tenant, run]]])
    })
    outcome.catch(() => undefined)
    await eventually(async () => (await waitsForFollowers()) === 1)
    // It is acknowledged by a follower, and by its answer nobody can tell that from a release without one.
    await followers(acknowledgedBy)
    await outcome
    expect(runs).toBe(2)
    await environment.background.drain()
    expect(await shards.prepared(treasury)).toEqual([])
    expect(await shards.rows(home, 'select from runs where id = $1', [run])).toHaveLength(1)
    expect(await shards.rows(treasury, 'select from holds where run = $1', [run])).toHaveLength(1)
  })
})

test('Q1, HZ-S1: who only read what no follower has gets no commit to rest on it, until a barrier passes', async () => {
  const environment = await gateway({ limits: quick })
  const [run, seen] = [newRun(), newRun()]
  await followers(missing)
  const writer = await Connection.connect(shards.target(treasury), 10_000)
  const written = writer.query(insertHold, [tenant, seen])
  await signalWaiter(treasury, 'pg_cancel_backend')
  expect((await written).warnings).toHaveLength(1)
  writer.release()
  const reading = (where: TransactionEnvironment) =>
    transact(where, tried(run), async (tx) => {
      const { rowCount } = await tx.query('treasury', 'select from holds where run = $1', [seen])
      await tx.query('payroll', insertRun, [tenant, run])
      return rowCount
    })
  const checking = transact(environment, request(run), async (tx) => {
    tx.batch('treasury', [['select from holds where run = $1', [seen], { rows: 1 }]])
    await tx.query('payroll', insertRun, [tenant, run])
  })
  await expect(checking).rejects.toMatchObject({ code: 'node_unavailable', detail: { shard: treasury } })
  await expect(reading(environment)).rejects.toMatchObject({ code: 'node_unavailable', detail: { shard: treasury } })
  expect(await shards.rows(home, 'select from runs where id = $1', [run])).toEqual([])
  await followers(acknowledgedBy)
  expect(await reading(await gateway())).toMatchObject({ value: 1 })
})

describe('a prepare while nobody is named', () => {
  const approve = (environment: TransactionEnvironment, run: string) =>
    transact(environment, tried(run), async (tx) => {
      await tx.query('payroll', insertRun, [tenant, run])
      tx.batch('treasury', [[insertHold, [tenant, run]]])
    })

  test('HZ-S5: is refused, and no branch is left', async () => {
    const environment = await gateway()
    const run = newRun()
    await followers(nobody)
    await expect(approve(environment, run)).rejects.toMatchObject({ code: 'durability_suspended' })
    expect(await shards.prepared(treasury)).toEqual([])
  })

  test('HZ-S5: that was released by names that are emptied is a no, although the branch is there', async () => {
    const environment = await gateway({ limits: { ...quick, commitWithinMs: 20_000 } })
    const run = newRun()
    await followers(missing)
    const outcome = approve(environment, run)
    outcome.catch(() => undefined)
    await eventually(async () => (await waitsForFollowers()) === 1)
    await followers(nobody)
    await expect(outcome).rejects.toMatchObject({ code: 'transaction_aborted' })
    await followers(acknowledgedBy)
    await environment.background.drain()
    const resolver = new Resolver({ environment: await gateway(), limits: eager })
    await eventually(async () => {
      await resolver.resolveOnce(treasury)
      return (await shards.prepared(treasury)).length === 0
    })
    expect(await shards.rows(home, 'select from runs where id = $1', [run])).toEqual([])
    expect(await shards.rows(treasury, 'select from holds where run = $1', [run])).toEqual([])
  })
})

describe('a decision that waits for followers', () => {
  test('HZ-X1: settles no branch until a barrier has passed at home', async () => {
    const environment = await gateway({ limits: quick })
    const run = newRun()
    let reach = () => {}
    const reached = new Promise<void>((resolve) => {
      reach = resolve
    })
    const own = await gateway({
      limits: { ...quick, commitWithinMs: 20_000 },
      onStep: async (step) => {
        if (step !== 'global record inserted') return
        await followers(missing)
        reach()
      },
    })
    const outcome = transact(own, request(run), async (tx) => {
      await tx.query('payroll', insertRun, [tenant, run])
      tx.batch('treasury', [[insertHold, [tenant, run]]])
    })
    outcome.catch(() => undefined)
    await reached
    // R4: home's part is seen open until its commit is seen.
    await eventually(async () => (await waitsForFollowers()) === 1)
    const [gid = ''] = await shards.prepared(treasury)
    const seenAtHome = `select holdfast.home_is_open($1) as open,
      exists(select from holdfast.transaction_record where transaction_id = $1) as decided`
    const idOfBranch = parseGid(gid, 'test', treasury)?.transactionId
    expect(await shards.rows(home, seenAtHome, [idOfBranch])).toEqual([{ open: true, decided: false }])
    await signalWaiter(home, 'pg_cancel_backend')
    const id = await ambiguousId(outcome)
    expect(id).toBe(idOfBranch)
    await eventually(async () => (await shards.rows<{ open: boolean }>(home, seenAtHome, [id]))[0]?.open === false)
    // The record is visible at home. A resolver reads it, and does not act on it.
    expect(
      await shards.rows(home, 'select outcome from holdfast.transaction_record where transaction_id = $1', [id]),
    ).toEqual([{ outcome: 'COMMITTED' }])
    const resolver = new Resolver({
      environment,
      limits: eager,
    })
    expect(await resolver.resolveOnce(treasury)).toMatchObject([{ resolution: { kind: 'left' } }])
    expect(await shards.prepared(treasury)).toHaveLength(1)
    await followers(acknowledgedBy)
    const patient = new Resolver({ environment: await gateway(), limits: eager })
    expect(await patient.resolveOnce(treasury)).toMatchObject([
      { resolution: { kind: 'settled', outcome: 'COMMITTED' } },
    ])
    expect(await shards.rows(treasury, 'select from holds where run = $1', [run])).toHaveLength(1)
  })
})

const passBarrier = (environment: TransactionEnvironment, shard: ShardName) =>
  environment.barriers.pass(shard, primaryOf(environment, shard).id)

describe('a barrier', () => {
  test('B3: says nothing of what was read on a primary of before', async () => {
    const environment = await gateway({ limits: quick })
    await followers(acknowledgedBy)
    await expect(environment.barriers.pass(home, `${home}.of-before` as NodeId)).rejects.toMatchObject({
      code: 'node_unavailable',
      detail: { readOn: `${home}.of-before` },
    })
    await expect(passBarrier(environment, home)).resolves.toBeGreaterThan(0n)
  })

  test('B2: rejects when it is not acknowledged', async () => {
    const environment = await gateway({ limits: quick })
    await followers(missing)
    await expect(passBarrier(environment, home)).rejects.toMatchObject({ code: 'node_unavailable' })
    const cancelled = passBarrier(environment, treasury)
    cancelled.catch(() => undefined)
    await signalWaiter(treasury, 'pg_cancel_backend')
    await expect(cancelled).rejects.toMatchObject({ code: 'node_unavailable' })
  })

  test('B4, HZ-S5: rejects where it waits for nobody, also when that begins while it waits', async () => {
    const environment = await gateway({ limits: { ...quick, serviceWithinMs: 20_000 } })
    await followers(missing)
    const released = passBarrier(environment, home)
    released.catch(() => undefined)
    await eventually(async () => (await waitsForFollowers()) === 1)
    await followers(nobody)
    await expect(released).rejects.toMatchObject({ code: 'node_unavailable' })
    await expect(passBarrier(environment, home)).rejects.toMatchObject({ code: 'node_unavailable' })
    const bound = await shards.rows(home, 'select holdfast.replicated_through()::text as through')
    expect(bound).toEqual([{ through: '0/0' }])
  })

  test('B4: rejects what waited for nobody because the checkpointer has not taken the names up yet', async () => {
    const environment = await gateway()
    await followers(nobody)
    await follower.stop()
    const [checkpointer] = await shards.rows<{ pid: number }>(
      home,
      `select pid from pg_stat_activity where backend_type = 'checkpointer'`,
    )
    const { pid } = present(checkpointer, 'a checkpointer')
    process.kill(pid, 'SIGSTOP')
    try {
      await server.configure({ ...settings, synchronous_standby_names: acknowledgedBy })
      await eventually(async () => {
        const [row] = await shards.rows<{ named: string }>(
          home,
          `select current_setting('synchronous_standby_names') as named`,
        )
        return row?.named === acknowledgedBy
      })
      await expect(passBarrier(environment, home)).rejects.toMatchObject({
        cause: { message: expect.stringContaining('enough followers have') as unknown },
      })
    } finally {
      process.kill(pid, 'SIGCONT')
      follower = startAcknowledging(yard.target(server))
    }
    await followers(acknowledgedBy)
    await expect(passBarrier(environment, home)).resolves.toBeGreaterThan(0n)
  })

  test('B1: is shared by all who come while another is under way, and covers only what came before it', async () => {
    const environment = await gateway({ limits: { ...quick, serviceWithinMs: 20_000 } })
    const messages = async () =>
      Number((await shards.rows<{ n: string }>(home, `select pg_current_wal_insert_lsn() - '0/0'::pg_lsn as n`))[0]?.n)
    await followers(missing)
    const first = passBarrier(environment, home)
    await eventually(async () => (await waitsForFollowers()) === 1)
    const later = Array.from({ length: 20 }, () => passBarrier(environment, home))
    const before = await messages()
    // Those who came later have sent nothing yet: one wait, and no more log.
    expect(await waitsForFollowers()).toBe(1)
    expect(await messages()).toBe(before)
    await followers(acknowledgedBy)
    const positions = await Promise.all([first, ...later])
    expect(new Set(positions.slice(1)).size).toBe(1)
    expect(positions[1]).toBeGreaterThan(positions[0] ?? 0n)
  })
})
