import { createServer, type Server } from 'node:net'
import { once } from 'node:events'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { approve, both, eager, gate, gatewayOf, newRun, request } from '../../test/support/approval.ts'
import { everything } from '../../test/support/collection.ts'
import { DatabaseShards, home, scratch, treasury } from '../../test/support/database-shards.ts'
import { eventually } from '../../test/support/eventually.ts'
import { systemClock } from '../base/clock.ts'
import type { MetricName, Metrics } from '../base/metrics.ts'
import { silentMetrics } from '../base/metrics.ts'
import { newTimeOrderedUuid } from '../base/random.ts'
import type { OnStep } from '../base/step.ts'
import type { ShardName, TransactionId } from '../directory/topology.ts'
import { Connection } from '../postgres/connection.ts'
import { formatGid } from './gid.ts'
import { explainInDoubt } from './in-doubt-explanation.ts'
import { Resolver, resolverLimitsDefault } from './resolver.ts'
import { transact } from './transaction.ts'

let shards: DatabaseShards
const servers: Server[] = []

beforeEach(async () => {
  shards = await DatabaseShards.open()
})

afterEach(async () => {
  await shards.close()
  for (const server of servers.splice(0)) server.close()
})

const never = Number.POSITIVE_INFINITY
const patient = { settleAfterMs: 0, abortAfterMs: never }

/** A branch at the treasury that a gateway prepared and of whose home nothing else is known. */
async function orphan(of: ShardName): Promise<string> {
  const transactionId = newTimeOrderedUuid() as TransactionId
  const gid = formatGid('test', { home: of, transactionId, participant: treasury })
  const connection = await Connection.connect(shards.target(treasury, 'holdfast_gateway'), 10_000)
  await connection.query('begin')
  await connection.query(`prepare transaction '${gid}'`)
  connection.release()
  return gid
}

/** Home is reached at a port where nobody speaks PostgreSQL; `hear` is told of each connection. */
async function silenceHome(answer: 'nothing' | 'hangs up', hear = () => {}): Promise<void> {
  const server = createServer((socket) => {
    hear()
    socket.on('error', () => {})
    if (answer === 'hangs up') socket.destroy()
  })
  servers.push(server)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  const { primary } = shards.shard(home)
  shards.replaceShard(home, { primary: { ...primary, host: '127.0.0.1', port } })
}

describe('a coordinator that is gone', () => {
  test('R4: its branch is presumed aborted although no time has passed; that of a living one is left', async () => {
    const stop = gate('global record inserted')
    const { environment, kill } = await shards.gateway({ onStep: stop.onStep })
    const run = newRun()
    transact(environment, request(run), approve(run)).catch(() => undefined)
    await stop.reached
    const other = await gatewayOf(shards)
    const timeless = new Resolver({ environment: other, limits: { ...eager, abortAfterMs: never } })
    expect(await timeless.resolveOnce(treasury)).toMatchObject([{ resolution: { kind: 'left', failed: null } }])
    expect(await explainInDoubt(other, patient)).toMatchObject([{ verdict: 'wait', record: null, homeIsOpen: true }])
    await kill()
    expect(await explainInDoubt(other, patient)).toMatchObject([
      { verdict: 'roll back', record: null, homeIsOpen: false },
    ])
    expect(await timeless.resolveOnce(treasury)).toMatchObject([
      { resolution: { kind: 'settled', outcome: 'ABORTED' } },
    ])
    expect(await shards.prepared(treasury)).toEqual([])
    expect(await both(shards, run)).toEqual([0, 0])
  })
})

test('who is not elected looks on over one connection, and works when the one who is ends', async () => {
  const elected = await gatewayOf(shards)
  const [first, second] = [new AbortController(), new AbortController()]
  const limits = { ...eager, scanEveryMs: 5, electionEveryMs: 5 }
  const running = [new Resolver({ environment: elected, limits }).run(first.signal)]
  const held = `select from pg_locks l join pg_database d on d.oid = l.database
    where d.datname = current_database() and l.locktype = 'advisory' and l.granted`
  await eventually(async () => (await shards.rows(treasury, held)).length > 0)
  const { environment } = await shards.gateway()
  let [connections, looks] = [0, 0]
  const targetOf: typeof environment.targetOf = (node) => {
    if (node.shard === treasury) connections += 1
    return environment.targetOf(node)
  }
  const sleep: typeof environment.clock.sleep = (ms, signal) => {
    looks += 1
    return environment.clock.sleep(ms, signal)
  }
  const challenger = { ...environment, targetOf, clock: { ...environment.clock, sleep } }
  running.push(new Resolver({ environment: challenger, limits }).run(second.signal))
  await eventually(() => looks > 60)
  expect(connections).toBe(1)
  first.abort()
  await orphan(scratch)
  await eventually(async () => (await shards.prepared(treasury)).length === 0)
  second.abort()
  await Promise.all(running)
})

test.each(['settling', 'collecting'])(
  'a defect in %s ends the resolver on all shards, and no process',
  async (what) => {
    const defect = new Error('a defect')
    const fail = () => {
      throw defect
    }
    const gauge = (name: MetricName) => (what === 'collecting' && name === 'collection_backlog' ? fail() : undefined)
    const environment = await gatewayOf(shards, { metrics: { ...silentMetrics, gauge } })
    const { applicationName } = environment.targetOf(shards.shard(treasury).primary)
    await orphan(home)
    // What it is in doubt for is told of, and who is told fails.
    if (what === 'settling') await silenceHome('hangs up')
    const limits = { ...eager, scanEveryMs: 5, electionEveryMs: 5, alarm: { afterMs: 0, everyMs: 0 } }
    const collection = { ...everything, onUncollected: () => {} }
    const stop = new AbortController()
    try {
      await expect(new Resolver({ environment, limits, collection, onStuck: fail }).run(stop.signal)).rejects.toBe(
        defect,
      )
      const sessions = 'select from pg_stat_activity where application_name = $1'
      await eventually(async () => (await shards.rows(treasury, sessions, [applicationName])).length === 0)
    } finally {
      stop.abort()
    }
  },
)

describe('a home that is silent', () => {
  test('holds up no branch of another home', async () => {
    const silent = await Promise.all(Array.from({ length: 6 }, () => orphan(home)))
    await orphan(scratch)
    const environment = await gatewayOf(shards, { limits: { serviceWithinMs: 60_000 } })
    await silenceHome('nothing')
    const stop = new AbortController()
    const limits = { ...eager, scanEveryMs: 10, electionEveryMs: 10 }
    const running = new Resolver({ environment, limits }).run(stop.signal)
    await eventually(async () => (await shards.prepared(treasury)).length === silent.length)
    expect((await shards.prepared(treasury)).toSorted()).toEqual(silent.toSorted())
    stop.abort()
    // What waits for the silent home is broken off with the pools.
    await shards.closeGateways()
    await running
  })

  test('is left alone for its pause, however often the resolver looks', async () => {
    await Promise.all(Array.from({ length: 6 }, () => orphan(home)))
    let connections = 0
    await silenceHome('hangs up', () => (connections += 1))
    let scans = 0
    const onStep: OnStep = (step, { shard }) => {
      if (step === 'resolver scan' && shard === treasury) scans += 1
      return Promise.resolve()
    }
    const gauges = new Map<string, number>()
    const gauge: Metrics['gauge'] = (name, value, labels) => gauges.set(`${name} ${labels?.['shard']}`, value)
    const environment = await gatewayOf(shards, { onStep, metrics: { ...silentMetrics, gauge } })
    const stop = new AbortController()
    const backoff = { firstMs: 3_600_000, mostMs: 3_600_000 }
    const limits = { ...eager, scanEveryMs: 1, electionEveryMs: 3_600_000, backoff }
    const running = new Resolver({ environment, limits }).run(stop.signal)
    await eventually(() => gauges.get(`resolver_silent_homes ${treasury}`) === 1)
    const [heard, seen] = [connections, scans]
    await eventually(() => scans > seen + 20)
    expect(connections).toBe(heard)
    expect(gauges.get(`resolver_queue_depth ${treasury}`)).toBe(6)
    stop.abort()
    await running
  })
})

test('somebody is told of a branch that is in doubt for long: which, how old, whose, and why it is left', async () => {
  const gid = await orphan(home)
  await silenceHome('hangs up')
  const told: string[] = []
  const counted: unknown[] = []
  const count: Metrics['count'] = (name, labels) => counted.push([name, labels])
  const environment = await gatewayOf(shards, { metrics: { ...silentMetrics, count } })
  const stop = new AbortController()
  const resolver = new Resolver({
    environment,
    limits: { ...eager, scanEveryMs: 1, alarm: { afterMs: 0, everyMs: 3_600_000 } },
    onStuck: (branch, why) => told.push(`${branch.gid} ${why}`),
  })
  const running = resolver.run(stop.signal)
  await eventually(() => told.length > 0)
  expect(told[0]).toContain(gid)
  expect(told[0]).toMatch(new RegExp(`in doubt on ${treasury} for \\d+ ms, home ${home}: .+`))
  expect(counted).toContainEqual(['in_doubt_alarms_total', { shard: treasury, left: 'left' }])
  stop.abort()
  await running
  expect(told).toHaveLength(1)
})

async function setWallBack(): Promise<void> {
  await shards.admin(treasury).script(`
    create schema set_back;
    grant usage on schema set_back to holdfast_gateway;
    create function set_back.clock_timestamp() returns timestamptz language sql volatile
      as $$ select pg_catalog.clock_timestamp() - interval '1 hour' $$;
    do $$ begin
      execute format('alter role holdfast_gateway in database %I set search_path = set_back, pg_catalog', current_database());
    end $$`)
}

test('a wall of the server that was set back leaves no branch to a coordinator that is gone', async () => {
  await setWallBack()
  await orphan(scratch)
  const environment = await gatewayOf(shards)
  expect(await explainInDoubt(environment, resolverLimitsDefault)).toMatchObject([
    {
      ageMs: expect.closeTo(-3_600_000, -5) as unknown,
      verdict: 'wait',
      why: expect.stringMatching(/That wall was set back/) as string,
    },
  ])
  const stop = new AbortController()
  const running = new Resolver({ environment, limits: { ...eager, settleAfterMs: 1 } }).run(stop.signal)
  await eventually(async () => (await shards.prepared(treasury)).length === 0)
  stop.abort()
  await running
})

test('what is in doubt is told of by who looks at it, and by nobody who does so no longer', async () => {
  await orphan(scratch)
  const told = new Map<MetricName, number>()
  const metrics: Metrics = {
    ...silentMetrics,
    gauge: (name, value) => void told.set(name, value),
    forget: (name) => void told.delete(name),
  }
  const environment = await gatewayOf(shards, { metrics })
  const stop = new AbortController()
  const running = new Resolver({ environment, limits: { ...eager, settleAfterMs: never } }).run(stop.signal)
  await eventually(() => (told.get('in_doubt_oldest_age_ms') ?? 0) > 0)
  stop.abort()
  await running
  expect([...told.keys()]).toEqual([])
})

test('settled branches are counted by outcome', async () => {
  await orphan(scratch)
  const counted: unknown[] = []
  const count: Metrics['count'] = (name, labels) => counted.push([name, labels])
  const environment = await gatewayOf(shards, { metrics: { ...silentMetrics, count } })
  await new Resolver({ environment, limits: eager }).resolveOnce(treasury)
  expect(counted).toContainEqual(['resolver_settled_total', { shard: treasury, outcome: 'ABORTED' }])
})

test('an operator settles, by a second look, what the wall of its server leaves to a coordinator that is gone', async () => {
  await setWallBack()
  const gid = await orphan(scratch)
  const resolver = new Resolver({
    environment: await gatewayOf(shards),
    limits: { ...resolverLimitsDefault, settleAfterMs: 5, abortAfterMs: 20 },
  })
  expect(await resolver.resolveAll(treasury)).toMatchObject([
    { branch: { gid }, resolution: { kind: 'settled', outcome: 'ABORTED' } },
  ])
  expect(await shards.prepared(treasury)).toEqual([])
})

test('an operator is told of each branch once, also where another one needs a second look', async () => {
  const lost = await orphan(scratch)
  await shards.rows(scratch, 'select holdfast.raise_collection((2 ^ 47)::bigint, 1)')
  await systemClock.sleep(3_100)
  let young: string | undefined
  // What is waited for is over at once.
  let laterMs = 0
  const clock = {
    ...systemClock,
    monotonicMs: () => systemClock.monotonicMs() + laterMs,
    sleep: async (ms: number) => void (laterMs += ms),
  }
  const onStep: OnStep = async (step) => {
    if (step === 'resolver scan') young ??= await orphan(home)
  }
  const resolver = new Resolver({
    environment: await gatewayOf(shards, { onStep, clock }),
    limits: { ...resolverLimitsDefault, settleAfterMs: 3_000, abortAfterMs: 3_000 },
  })
  const told = (await resolver.resolveAll(treasury)).map(({ branch, resolution }) => [branch.gid, resolution.kind])
  expect(told).toHaveLength(2)
  expect(new Map(told as [string, string][])).toEqual(
    new Map([
      [lost, 'needs person'],
      [young, 'settled'],
    ]),
  )
})
