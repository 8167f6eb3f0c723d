import { present } from '../base/assert.ts'
import type { Clock } from '../base/clock.ts'
import type { Metrics } from '../base/metrics.ts'
import type { OnStep } from '../base/step.ts'
import { Archiver, redoSlot, walSlot } from '../archive/archiver.ts'
import { DirectoryStore } from '../directory/directory-store.ts'
import type { FleetNode, RegionName, ShardName, ShardTopology } from '../directory/topology.ts'
import type { ConnectionTarget } from '../postgres/statement.ts'
import { ConnectionPools } from '../postgres/pools.ts'
import type { LogPlace } from '../transaction/collection-store.ts'
import { readArchived, selectArchived } from '../transaction/collection-store.ts'
import type { CollectionOptions } from '../transaction/collector.ts'
import type { OnUncollected } from '../transaction/collector-term.ts'
import { ClockKeeper, type ClockKeeperOptions } from '../transaction/clock-keeper.ts'
import type { TransactionEnvironment } from '../transaction/environment.ts'
import { primaryOf, primaryTarget, transactionEnvironment } from '../transaction/environment.ts'
import { DeliveryJournal } from '../transaction/outbox/delivery-journal.ts'
import { createDispatcher } from '../transaction/outbox/outbox.ts'
import { Resolver } from '../transaction/resolver.ts'
import { type InDoubtBranch, pushBranch } from '../transaction/in-doubt.ts'
import { settleDecided } from '../transaction/settle-decided.ts'
import { type ReadEnvironment, readEnvironment } from '../reading/environment.ts'
import { type FleetConfig, roundTripMs } from './config.ts'
import type { Call } from './control.ts'
import { ControlledTopology } from './controlled-topology.ts'
import type { FleetHome } from './home.ts'
import { journalPath } from './journal-path.ts'
import type { FleetKeys, RoleName } from './keys.ts'
import { databaseName } from './servers.ts'
import type { Services } from './services.ts'

/** What a gateway is made of, composed here and nowhere else. */
export interface GatewayParts {
  readonly config: FleetConfig
  readonly home: FleetHome
  readonly keys: FleetKeys
  readonly region: RegionName
  readonly call: Call
  readonly topology: ControlledTopology
  readonly directory: DirectoryStore
  readonly pools: ConnectionPools
  readonly environment: TransactionEnvironment
  readonly reading: ReadEnvironment
  readonly clock: Clock
  readonly metrics: Metrics
  readonly onStep: OnStep
  /** A branch that only a person can settle. */
  readonly onStuck: (branch: InDoubtBranch, why: string) => void
  /** A service met a failure that it goes on from by itself. */
  readonly onServiceTrouble: (service: string, error: unknown) => void
  /** What a service found that others have to do with: a sentence, and no failure of its own. */
  readonly onServiceFinding: (service: string, what: string) => void
}

export interface GatewayOptions {
  readonly config: FleetConfig
  readonly home: FleetHome
  readonly keys: FleetKeys
  readonly region: RegionName
  readonly call: Call
  readonly clock: Clock
  readonly metrics: Metrics
  readonly onStep: OnStep
  readonly onStuck: (branch: InDoubtBranch, why: string) => void
  /** A service met a failure that it goes on from by itself. */
  readonly onServiceTrouble: (service: string, error: unknown) => void
  /** What a service found that others have to do with: a sentence, and no failure of its own. */
  readonly onServiceFinding: (service: string, what: string) => void
}

export async function composeGateway(options: GatewayOptions): Promise<GatewayParts> {
  const { config, call, region, clock, metrics, onStep } = options
  const topology = await ControlledTopology.open(call, region, clock)
  const pools = new ConnectionPools()
  const targetOf = (node: FleetNode) => roleTarget(options.keys, node, 'holdfast_gateway', `gateway-${region}`)
  try {
    const directory = await DirectoryStore.open({ domains: config.domains.values(), topology, pools, targetOf })
    const environment = transactionEnvironment({
      fleet: config.fleet,
      region,
      topology,
      directory,
      pools,
      targetOf,
      clock,
      metrics,
      onStep,
      onBackgroundFailure: (error) => options.onServiceTrouble('background', error),
    })
    const reading = readEnvironment({
      region,
      topology,
      directory,
      pools,
      targetOf,
      clock,
      metrics,
      distanceMs: (from, to) => roundTripMs(config.links, from, to),
      settle: async (participant, transactionId) => void (await pushBranch(environment, participant, transactionId)),
      settleAll: (participant, withinMs) => settleDecided(environment, participant, withinMs),
      barrier: async ({ shard, id }) => void (await environment.barriers.pass(shard, id)),
    })
    return { ...options, topology, directory, pools, environment, reading }
  } catch (error) {
    await pools.close()
    throw error
  }
}

export function roleTarget(
  keys: FleetKeys,
  node: FleetNode,
  role: RoleName,
  applicationName: string,
): ConnectionTarget {
  return {
    host: node.host,
    port: node.port,
    user: role,
    password: keys.passwords[role],
    database: databaseName,
    applicationName,
  }
}

/**
 * Begins what a gateway does in the background. Each of them elects one of all gateways, by a lock on the data. Rows of a
 * shard pass through its archiver, so that one runs only where the archive is; `archives: 'all'` is for the one process
 * that is the whole fleet.
 */
export function startServices(parts: GatewayParts, services: Services, archives: 'all' | 'own region'): void {
  services.start({ name: 'topology', run: (signal) => parts.topology.run(signal) })
  services.start({
    name: 'resolver',
    run: (signal) => resolver(parts).run(signal),
  })
  for (const shard of parts.config.shards.keys()) {
    services.start({ name: `clock of ${shard}`, run: (signal) => clockKeeper(parts, shard).run(signal) })
    const archive = parts.config.shards.get(shard)?.archive
    if (archive != null && (archives === 'all' || archive.region === parts.region)) {
      services.start({ name: `archive of ${shard}`, run: (signal) => archiver(parts, shard, archive.path).run(signal) })
    }
    const webhook = parts.config.outbox?.webhook
    if (webhook === undefined) continue
    const isHere = (of: RegionName) => archives === 'all' || isSameLaw(parts, of)
    services.start({
      name: `outbox of ${shard}`,
      run: (signal) => dispatchOutbox(parts, shard, { webhookUrl: webhook, isHere }, signal),
    })
  }
}

/** Whether a region has the jurisdiction of this gateway's: payloads of events pass through who dispatches them. */
function isSameLaw({ config, region }: GatewayParts, other: RegionName): boolean {
  return config.regions.get(other)?.jurisdiction === config.regions.get(region)?.jurisdiction
}

/** For what belongs to no request: its connections say so where round trips are counted. */
function serviceEnvironment({ environment, keys, region }: GatewayParts): TransactionEnvironment {
  const targetOf = (node: FleetNode) => roleTarget(keys, node, 'holdfast_gateway', `gateway-${region} service`)
  return { ...environment, targetOf }
}

function resolver(parts: GatewayParts): Resolver {
  const { onStuck, onServiceFinding } = parts
  const onUncollected: OnUncollected = (home, { why }) => onServiceFinding(`collection of ${home}`, why)
  const collection = { ...collectionOptions(parts), onUncollected }
  return new Resolver({ environment: serviceEnvironment(parts), onStuck, collection })
}

/** How this fleet collects the records of its transactions. */
export function collectionOptions(parts: GatewayParts): CollectionOptions {
  const environment = serviceEnvironment(parts)
  return {
    windowMs: parts.config.restoreWindowMs,
    archivedThrough: (shard) => archivedThrough(parts.config, environment, shard),
  }
}

async function archivedThrough(
  { shards }: FleetConfig,
  { pools, targetOf, limits }: TransactionEnvironment,
  { name, primary }: ShardTopology,
): Promise<LogPlace | 'no archive' | undefined> {
  if (shards.get(name)?.archive == null) return 'no archive'
  const statement = selectArchived(walSlot, redoSlot)
  const [outcome] = await pools.flight(targetOf(primary), [statement], limits.serviceWithinMs)
  return readArchived(present(outcome, 'the outcome of the slots'))
}

function clockKeeper(parts: GatewayParts, shard: ShardName): ClockKeeper {
  const { region, topology, clock, metrics, onStep } = parts
  const { targetOf, clocks } = serviceEnvironment(parts)
  const onClock: NonNullable<ClockKeeperOptions['onClock']> = (of, read) => clocks.note(of, read)
  const onBlocked: NonNullable<ClockKeeperOptions['onBlocked']> = ({ pid, gid, ageMs, state }, { blockedMs }) => {
    const who = gid === null ? `process ${pid} (${state})` : `prepared transaction ${gid}`
    parts.onServiceFinding(
      `clock of ${shard}`,
      `${who}, ${Math.round(ageMs)} ms old, keeps timestamps open for ${Math.round(blockedMs)} ms`,
    )
  }
  const onUnblocked: NonNullable<ClockKeeperOptions['onUnblocked']> = ({ blockedMs }) => {
    parts.onServiceFinding(`clock of ${shard}`, `timestamps close again, after ${Math.round(blockedMs)} ms`)
  }
  const onDisagreement: NonNullable<ClockKeeperOptions['onDisagreement']> = (offsetMs) => {
    parts.onServiceFinding(
      `clock of ${shard}`,
      `the wall clock of its primary is ${Math.round(offsetMs)} ms ahead of this gateway's`,
    )
  }
  const { maxClockOffsetMs } = parts.config
  const hears = { onClock, onBlocked, onUnblocked, onDisagreement }
  return new ClockKeeper({ shard, region, topology, targetOf, clock, metrics, onStep, maxClockOffsetMs, ...hears })
}

function archiver(parts: GatewayParts, shard: ShardName, root: string): Archiver {
  return new Archiver({
    root,
    shard,
    memoryDir: parts.home.journalDir,
    primary: () => {
      const known = parts.topology.current().shards.get(shard)
      // A fenced shard is archived on: a cutover waits for the last of its history.
      if (known === undefined || known.state === 'lost') return undefined
      return roleTarget(parts.keys, known.primary, 'holdfast_replication', `archive-${shard}`)
    },
    clock: parts.clock,
    onEvent: (event) => {
      const what = `archive of ${shard}`
      if ('error' in event) parts.onServiceTrouble(what, event.error)
      // Silence would read as if the archive were whole.
      else if (event.kind === 'log_lost' || event.kind === 'redo_lost') {
        parts.onServiceFinding(what, `${event.kind}: ${JSON.stringify(event, bigintAsText)}`)
      }
    },
  })
}

/** Positions are bigints, which JSON does not know. */
function bigintAsText(_: string, value: unknown): unknown {
  return typeof value === 'bigint' ? value.toString() : value
}

async function dispatchOutbox(
  parts: GatewayParts,
  shard: ShardName,
  { webhookUrl, isHere }: { readonly webhookUrl: string; readonly isHere: (primary: RegionName) => boolean },
  signal: AbortSignal,
): Promise<void> {
  const { clock, metrics, onStep } = parts
  const environment = serviceEnvironment(parts)
  const journal = await DeliveryJournal.open(journalPath(parts.home, shard))
  try {
    await createDispatcher({
      shard,
      target: () => {
        const known = parts.topology.current().shards.get(shard)
        return known?.state === 'open' && isHere(known.primary.region) ? primaryTarget(environment, shard) : undefined
      },
      journal,
      webhookUrl,
      barrier: () => environment.barriers.pass(shard, primaryOf(environment, shard).id),
      clock,
      metrics,
      onStep,
    }).run(signal)
  } finally {
    await journal[Symbol.asyncDispose]()
  }
}
