import { afterAll, describe, expect, test } from 'vitest'
import { present } from '../../src/base/assert.ts'
import { deferred } from '../../src/base/deferred.ts'
import type { Metrics } from '../../src/base/metrics.ts'
import { silentMetrics } from '../../src/base/metrics.ts'
import { newRandomUuid } from '../../src/base/random.ts'
import type { Epoch, FleetNode, HistoryId, NodeId } from '../../src/directory/topology.ts'
import { nodeSettings } from '../../src/fleet/node-settings.ts'
import { formatLsn } from '../../src/postgres/lsn.ts'
import { ServerError } from '../../src/postgres/failure.ts'
import { withConnection } from '../../src/postgres/postgres.ts'
import { installSchema } from '../../src/postgres/schema.ts'
import { upstreamFile, writeSettings } from '../../src/postgres/server/data-directory.ts'
import { promote, waitSilent } from '../../src/postgres/server/follower.ts'
import { sqlState } from '../../src/postgres/sqlstate.ts'
import type { ReadParts } from '../../src/reading/environment.ts'
import type { Read, ReadRequest } from '../../src/reading/reading.ts'
import { read } from '../../src/reading/reading.ts'
import { settleDecided } from '../../src/transaction/settle-decided.ts'
import type { Running } from '../support/archive.ts'
import { acknowledgedBy, startAcknowledging } from '../support/acknowledging-follower.ts'
import { eventually } from '../support/eventually.ts'
import { frozenSupervisor } from '../support/frozen-supervisor.ts'
import { payrollShard } from '../support/payroll-plan.ts'
import { nameFollowers } from '../support/promotion.ts'
import { useReadingShards } from '../support/reading-fixture.ts'

/** Followers that are down, come back and are promoted, and a primary that is not one any more. In the order of the file. */

const primary = 'eu-west/payroll.1' as NodeId
const near = 'eu-west/payroll.2' as NodeId
const tenant = 'globex-eu'
const patient = 30_000

const fixture = useReadingShards([{ name: payrollShard, followers: ['eu-west'] }], {
  limits: { openWithinMs: 5_000, avoidForMs: 20 },
})
const { on } = fixture

const readNear = <T>(body: (reader: Read) => Promise<T>, request: Partial<ReadRequest> = {}) =>
  read(fixture.gateway.reading, { tenant, prefer: near, waitMs: patient, ...request }, body)
const one = (reader: Read) => reader.query('payroll', 'select 1')
const statuses = async (reader: Read) =>
  (await reader.query<{ status: string }>('payroll', 'select status from runs order by id')).rows.map(
    (row) => row.status,
  )
const pidOf = async (reader: Read) =>
  present((await reader.query<{ pid: number }>('payroll', 'select pg_backend_pid() as pid')).rows[0], 'a row').pid
/** A connection of its own: the server was started anew. */
const onNear = (sql: string, values: readonly unknown[] = []) =>
  withConnection(
    fixture.shards.target(fixture.shards.node(near)),
    async (admin) => (await admin.query(sql, values)).rows,
  )
const insertRun = (id: string, status: string) =>
  fixture.gateway.write(tenant, (tx) =>
    tx.query('payroll', 'insert into runs (tenant, id, status) values ($1, $2, $3)', [tenant, id, status]),
  )

describe('a follower that is rebuilt', () => {
  test('R12: it refuses, it starts, it is back: its readers go to the primary and return by themselves', async () => {
    const server = fixture.shards.server(near)
    const servedBy = async () => (await readNear(one)).served[0]?.node
    expect(await servedBy()).toBe(near)
    await server.stop()
    const { served } = await readNear(one)
    expect(served[0]).toMatchObject({ node: primary, rerouted: true })
    // A server that has started and shows nothing yet answers with 57P03.
    const [version] = await on<{ major: number }>(
      primary,
      `select current_setting('server_version_num')::int / 10000 as major`,
    )
    const settings = { ...nodeSettings(present(version, 'a row').major), fsync: false }
    await server.configure({ ...settings, hot_standby: false })
    const starting = server.start()
    const ended = expect(starting).rejects.toThrow()
    await eventually(() =>
      onNear('select').then(
        () => false,
        (error: unknown) => error instanceof ServerError && error.sqlState === sqlState.cannotConnectNow,
      ),
    )
    expect(await servedBy()).toBe(primary)
    await server.stop('immediate')
    await ended
    expect(await servedBy()).toBe(primary)
    await server.configure(settings)
    await server.start()
    await eventually(async () => (await servedBy()) === near)
  })

  test.each([
    ['has no history', undefined, 'no shard is founded there'],
    ['is of another shard', 'us-east/treasury', 'it is of us-east/treasury'],
  ])('one that %s is not read, and it is told', async (_, shard, why) => {
    const database = `blank_${shard === undefined ? 'none' : 'other'}`
    await on(primary, `create database ${database}`)
    const node = fixture.shards.node(primary)
    await withConnection({ ...fixture.shards.target(node), database }, async (admin) => {
      await installSchema(admin)
      if (shard === undefined) return
      await admin.query('call holdfast.found_shard($1, $2, $3, $4, $5)', ['test', shard, 'local', newRandomUuid(), 500])
    })
    const inBlank = (only: NodeId[]) => ({
      parts: {
        targetOf: (of: FleetNode) => ({
          ...fixture.shards.targetOf(of),
          ...(only.includes(of.id) ? { database } : {}),
        }),
      },
    })
    const position = (await on<{ lsn: string }>(primary, 'select pg_current_wal_flush_lsn()::text as lsn'))[0]?.lsn
    const isThere = 'select where pg_last_wal_replay_lsn() >= $1::pg_lsn'
    await eventually(async () => (await onNear(isThere, [position])).length > 0)
    const beside = await fixture.open(inBlank([near]))
    const { served } = await read(beside.reading, { tenant, prefer: near }, one)
    expect(served[0]).toMatchObject({ node: primary, rerouted: true })
    const nowhere = await fixture.open(inBlank([near, primary]))
    await expect(read(nowhere.reading, { tenant, prefer: near }, one)).rejects.toMatchObject({
      code: 'node_unavailable',
      message: expect.stringContaining(`is not ready: ${why}`),
      detail: { why: 'unready', asked: [near, primary].map((id) => ({ node: id, why: 'unready' })) },
    })
  })
})

describe('a promotion under the reader’s feet', () => {
  const historyId = newRandomUuid() as HistoryId
  const running: Running[] = []
  let next: FleetNode

  afterAll(async () => {
    await Promise.all(running.map((follower) => follower.stop()))
  })

  /** A read of two statements, with whatever happens until `behind` between them. */
  function span(request: Partial<ReadRequest>, behind: Promise<unknown>) {
    const begun = deferred<void>()
    let runs = 0
    const reading = readNear(async (reader) => {
      runs += 1
      const pid = await pidOf(reader)
      const before = await statuses(reader)
      begun.resolve()
      await behind
      expect(await pidOf(reader)).toBe(pid)
      return { runs, before, after: await statuses(reader) }
    }, request)
    return begun.promise.then(() => ({ reading }))
  }

  async function promoteNear(): Promise<string> {
    const { shards } = fixture
    await writeSettings(shards.server(near).dataDir, {}, shards.user, upstreamFile)
    shards.server(near).reload()
    const fork = formatLsn(await waitSilent(shards.target(next), { stallMs: 20_000, withinMs: 60_000 }))
    await withConnection(shards.target(next), async (admin) => {
      await promote(admin, { dataDir: shards.server(near).dataDir, user: shards.user }, 60)
    })
    return fork
  }

  async function openNear(fork: string): Promise<void> {
    const { shards } = fixture
    await withConnection(shards.target(next), async (admin) => {
      await admin.query('set synchronous_commit = local')
      await admin.query(`call holdfast.open_history($1, 2, $2, 'promotion', '{}')`, [historyId, fork])
    })
    running.push(startAcknowledging(shards.target(next)))
    await nameFollowers(shards, next, acknowledgedBy)
    await onNear('call holdfast.open_shard(2)')
    const before = shards.shard(payrollShard)
    shards.replaceShard({
      ...before,
      epoch: 2 as Epoch,
      historyId,
      primary: { ...next, role: 'primary' },
      followers: [],
    })
  }

  test('R4, R15, S4: reads that it meets answer from their snapshots, and none begins before it is over', async () => {
    next = fixture.shards.node(near)
    const before = fixture.shards.topology.current()
    await readNear(one, { frontier: (await insertRun('a', 'early')).frontier })
    const over = deferred<void>()
    const onFollower = await span({ prefer: near }, over.promise)
    const onPrimary = await span({ level: 'primary' }, over.promise)
    const strong = await span({ level: 'strong' }, over.promise)

    const fork = await promoteNear()
    const cutOff = await fixture.open({
      parts: {
        targetOf: (node) => ({ ...fixture.shards.targetOf(node), ...(node.id === primary ? { port: 1 } : {}) }),
      },
    })
    await expect(read(cutOff.reading, { tenant, prefer: near }, one)).rejects.toMatchObject({
      code: 'node_unavailable',
      detail: { asked: expect.arrayContaining([{ node: near, why: 'promoted' }]) },
    })
    expect(cutOff.reading.watch.sightingOf(near).lostAtMs).toBeUndefined()
    await openNear(fork)
    await insertRun('b', 'later')
    over.resolve()

    // Its snapshot is of the history that ended; all that it showed lies before the fork, and the session goes on.
    const byFollower = await onFollower.reading
    expect(byFollower.value).toEqual({ runs: 1, before: ['early'], after: ['early'] })
    expect(byFollower.served[0]).toMatchObject({ node: near, role: 'follower' })
    expect((await readNear(statuses, { frontier: byFollower.frontier })).value).toEqual(['early', 'later'])

    // What the old primary showed was acknowledged; whether its position lies past the fork, the next read finds out.
    const byPrimary = await onPrimary.reading
    expect(byPrimary.value).toEqual({ runs: 1, before: ['early'], after: ['early'] })
    const goesOn = await readNear(statuses, { frontier: byPrimary.frontier }).then(
      ({ value }) => value.join(),
      (error: unknown) => (error as { code: string }).code,
    )
    expect(['early,later', 'history_changed']).toContain(goesOn)

    // It promised what was acknowledged before it began, and no barrier passes on the old primary: it is run again.
    const { value, served } = await strong.reading
    expect(value).toEqual({ runs: 2, before: ['early', 'later'], after: ['early', 'later'] })
    expect(served[0]).toMatchObject({ node: near, role: 'primary' })

    // One that has not heard of it, and whose old primary is away, asks the fleet before it says that nobody answers.
    const { shards } = fixture
    let known = before
    const topology = { current: () => known, refresh: () => Promise.resolve((known = shards.topology.current())) }
    const targetOf = (node: FleetNode) => ({ ...shards.targetOf(node), ...(node.id === primary ? { port: 1 } : {}) })
    const settling = { ...fixture.gateway.writing, topology, targetOf }
    const settleAll: ReadParts['settleAll'] = (shard, withinMs) => settleDecided(settling, shard, withinMs)
    const unheard = await fixture.open({ parts: { topology, targetOf, settleAll } })
    expect((await read(unheard.reading, { tenant, level: 'strong' }, statuses)).served[0]).toMatchObject({ node: near })
  })

  test('R4: a read goes on from its snapshot while its shard is fenced, and none begins', async () => {
    const fenced = deferred<void>()
    const { reading } = await span({}, fenced.promise)
    const shard = fixture.shards.shard(payrollShard)
    fixture.shards.replaceShard({ ...shard, state: 'fenced' })
    await expect(readNear(one)).rejects.toMatchObject({ code: 'shard_fenced', retry: 'safe' })
    fenced.resolve()
    expect((await reading).value).toMatchObject({ runs: 1, after: ['early', 'later'] })
    fixture.shards.replaceShard(shard)
  })

  test('R2: a primary that ends in the middle of a read, with nobody to take its place, is told', async () => {
    const failed: string[] = []
    const metrics: Metrics = {
      ...silentMetrics,
      count: (name, labels) => void failed.push(`${name} ${labels?.['level']}`),
    }
    const counting = await fixture.open({ metrics })
    const ended = deferred<void>()
    const { reading } = await span({}, ended.promise)
    const told = expect(reading).rejects.toMatchObject({
      code: 'node_unavailable',
      retry: 'safe',
      detail: { node: near, why: 'lost', retryAfterMs: expect.any(Number) },
    })
    await fixture.shards.server(near).stop('immediate')
    ended.resolve()
    await told
    // So is one that must settle what is decided there before it has a snapshot.
    await expect(read(counting.reading, { tenant, level: 'strong' }, one)).rejects.toMatchObject({
      code: 'node_unavailable',
      retry: 'safe',
      detail: { node: near, why: 'lost', retryAfterMs: expect.any(Number), asked: [{ node: near, why: 'lost' }] },
    })
    expect(failed).toContain('session_read_failed_total strong')
    // Nobody tells of another primary: what the read has met is told all the same.
    const alone = { ...counting.reading, topology: await frozenSupervisor(fixture.shards.topology.current()) }
    for (const level of ['primary', 'strong'] as const) {
      await expect(read(alone, { tenant, level }, one)).rejects.toMatchObject({
        code: 'node_unavailable',
        detail: { node: near, why: 'lost' },
      })
    }
  })
})
