import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Epoch, ShardName } from '../directory/topology.ts'
import { fleetHome } from '../fleet/home.ts'
import { type CutoverJournal, storeJournal } from '../recovery/cutover-journal.ts'
import { EnvironmentRegistry } from '../recovery/environment.ts'
import type { ClosedShard } from './closed-shards.ts'
import { closedShards, describeClosed } from './closed-shards.ts'

const payroll = 'eu-west/payroll' as ShardName
const environment = 'back-then'
const standings = [{ shard: payroll, epoch: 1 as Epoch, isAlive: true }]
const decision = { standings, shards: [], leftOut: [], leftOutIds: [] }

let dataDir: string
let registry: EnvironmentRegistry

beforeAll(async () => {
  dataDir = await mkdtemp(join(tmpdir(), 'hf-closed-'))
  registry = new EnvironmentRegistry(fleetHome(dataDir).environmentsDir)
  await registry.store({
    id: environment,
    createdAt: '2026-04-01T06:00:00Z',
    state: 'restored',
    target: { kind: 'end' },
    without: [],
    shards: [],
    report: null,
    isDrill: false,
  })
})

afterAll(() => rm(dataDir, { recursive: true, force: true }))

const failover = `what can be done says: holdfast failover ${payroll} --what-if`
const again = `by the cutover to ${environment}; run it again: holdfast cutover ${environment}`

test.each<[string, CutoverJournal, ClosedShard['state'], string]>([
  [
    'at its fence',
    { state: 'fencing', standings },
    'fenced',
    `${again}, or give it up: holdfast cutover ${environment} --abandon`,
  ],
  ['in its switch', { state: 'switching', ...decision }, 'fenced', again],
  ['behind its end', { state: 'done', ...decision, compensations: [] }, 'fenced', failover],
  ['of other shards', { state: 'fencing', standings: [] }, 'fenced', failover],
  ['where the primary is lost', { state: 'fencing', standings }, 'lost', failover],
])('a closed shard beside the journal of a cutover %s', async (_, journal, state, way) => {
  await storeJournal(registry.folderOf(environment), journal)
  const open = { shard: 'us-east/treasury', state: 'open' } as const
  const closed = await closedShards(dataDir, [open, { shard: payroll, state }])
  const told = way === failover ? `it is ${state}; ${failover}` : `it is ${state} ${way}`
  expect(closed.map(describeClosed)).toEqual([`${payroll} takes no traffic, ${told}`])
})
