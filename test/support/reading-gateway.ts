import { systemClock } from '../../src/base/clock.ts'
import type { Metrics } from '../../src/base/metrics.ts'
import { silentMetrics } from '../../src/base/metrics.ts'
import type { OnStep } from '../../src/base/step.ts'
import { noStep } from '../../src/base/step.ts'
import { DirectoryStore } from '../../src/directory/directory-store.ts'
import type { RegionName, ShardName, TransactionId } from '../../src/directory/topology.ts'
import { afterCommit } from '../../src/fleet/sessions.ts'
import { ConnectionPools } from '../../src/postgres/pools.ts'
import type { ReadEnvironment, ReadLimits, ReadParts } from '../../src/reading/environment.ts'
import { readEnvironment, readLimitsDefault } from '../../src/reading/environment.ts'
import { read } from '../../src/reading/reading.ts'
import type { Frontier } from '../../src/session/frontier.ts'
import { emptyFrontier } from '../../src/session/frontier.ts'
import { ClockKeeper, clockCadenceDefault } from '../../src/transaction/clock-keeper.ts'
import type { TransactionEnvironment } from '../../src/transaction/environment.ts'
import { transactionEnvironment } from '../../src/transaction/environment.ts'
import { pushBranch } from '../../src/transaction/in-doubt.ts'
import { settleDecided } from '../../src/transaction/settle-decided.ts'
import type { Committed, Tx } from '../../src/transaction/transaction.ts'
import { transact } from '../../src/transaction/transaction.ts'
import { onBackgroundFailure } from './background-failure.ts'
import type { TestShards } from './shards.ts'

/** One gateway on real shards, as far as transactions and reads go. */
export interface ReadingGateway {
  readonly writing: TransactionEnvironment
  readonly reading: ReadEnvironment
  /** Commits for a tenant, and gives the frontier of a session that did nothing else. */
  write(tenant: string, body: (tx: Tx) => Promise<unknown>, before?: Frontier): Promise<Written>
  /** Closes timestamps until the gateway closes. */
  keepClock(shard: ShardName): void
  /** Leaves branches prepared after their decision, as when the coordinator ends there. */
  holdSettlement(held: boolean): void
  close(): Promise<void>
}

export interface Written {
  readonly transactionId: TransactionId
  readonly committed: Committed<unknown>
  readonly frontier: Frontier
}

export interface ReadingGatewayOptions {
  readonly region?: string
  readonly limits?: Partial<ReadLimits>
  readonly metrics?: Metrics
  readonly parts?: Partial<ReadParts>
}

export async function openReadingGateway(
  shards: TestShards,
  options: ReadingGatewayOptions = {},
): Promise<ReadingGateway> {
  const pools = new ConnectionPools()
  const { topology, targetOf } = shards
  const region = (options.region ?? 'eu-west') as RegionName
  const metrics = options.metrics ?? silentMetrics
  const directory = await DirectoryStore.open({ domains: shards.plan.domains, topology, pools, targetOf })
  let isHeld = false
  const onStep: OnStep = (step) =>
    isHeld && step === 'global decision row' ? Promise.reject(new Error('held by the test')) : Promise.resolve()
  const common = { region, topology, directory, pools, targetOf, clock: systemClock, metrics }
  const writer = { ...common, fleet: 'test', onBackgroundFailure }
  const writing = transactionEnvironment({ ...writer, onStep })
  const resolving = transactionEnvironment({ ...writer, onStep: noStep })
  const reading = readEnvironment(
    {
      ...common,
      distanceMs: () => 0,
      ...settlingBy(resolving),
      ...options.parts,
    },
    { ...readLimitsDefault, ...options.limits },
  )
  const stop = new AbortController()
  const keepers: Promise<void>[] = []
  return {
    writing,
    reading,
    async write(tenant, body, before = emptyFrontier) {
      const request = { tenant, action: 'test.write', subject: 's', actor: 'a', observe: before.timestamp }
      const committed = await transact(writing, request, body)
      await writing.background.drain()
      return { transactionId: committed.transactionId, committed, frontier: afterCommit(before, committed) }
    },
    keepClock(shard) {
      const cadence = { ...clockCadenceDefault, activeMs: 1, trailMs: 1, quietMs: 2, heartbeatMs: 50 }
      const keeper = new ClockKeeper({ ...common, shard, onStep: noStep, maxClockOffsetMs: 500, cadence })
      keepers.push(keeper.run(stop.signal))
    },
    holdSettlement(held) {
      isHeld = held
    },
    async close() {
      stop.abort()
      await Promise.all(keepers)
      await Promise.all([writing.background.drain(), resolving.background.drain()])
      await pools.close()
    },
  }
}

/** The reads of a gateway whose transactions run in that environment. */
export function readingIn(environment: TransactionEnvironment): ReadEnvironment {
  return readEnvironment({ ...environment, distanceMs: () => 0, ...settlingBy(environment) })
}

/** The rows that a session is shown which knows of one commit alone. */
export async function readAfter(
  environment: TransactionEnvironment,
  committed: Committed<unknown>,
  { tenant, domain }: { readonly tenant: string; readonly domain: string },
  ...statement: readonly [text: string, values: readonly unknown[]]
): Promise<Record<string, unknown>[]> {
  const frontier = afterCommit(emptyFrontier, committed)
  const { value } = await read(readingIn(environment), { tenant, frontier }, (reader) =>
    reader.query(domain, ...statement),
  )
  return value.rows
}

function settlingBy(environment: TransactionEnvironment): Pick<ReadParts, 'settle' | 'settleAll' | 'barrier'> {
  return {
    settle: async (shard, transactionId) => void (await pushBranch(environment, shard, transactionId)),
    settleAll: (shard, withinMs) => settleDecided(environment, shard, withinMs),
    barrier: async ({ shard, id }) => void (await environment.barriers.pass(shard, id)),
  }
}
