import type { ShardArchive } from '../archive/archive.ts'
import type { Directory } from '../directory/directory.ts'
import { decidePlacement, describeRefusal } from '../directory/policy.ts'
import type { FleetNode, RegionName, ShardName, TenantName, Topology, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { toHlc } from '../hlc/hlc.ts'
import { accepted } from '../postgres/statement.ts'
import type { TransactionEnvironment } from '../transaction/environment.ts'
import type { DeliveryRecord } from '../transaction/outbox/delivery-record.ts'
import { archiveFacts } from './archive-facts.ts'
import type {
  BranchFacts,
  DrillFacts,
  EffectFacts,
  Known,
  NodeFacts,
  PlacementFacts,
  ProofFacts,
} from './proof-facts.ts'
import { known, unknown } from './proof-facts.ts'
import type { Trace } from './trace.ts'
import { homeOf, shardsOf, silentShards } from './trace.ts'
import type { Placements, ShardTrace } from './trace-store.ts'

/** Where facts come from. What a process cannot reach it leaves out, and the links that need it are pending. */
export interface EvidenceSources {
  readonly environment: TransactionEnvironment
  /** The archive of a shard and its region; undefined when it has none that this process can read. */
  readonly archiveOf: (
    shard: ShardName,
  ) => Promise<{ readonly archive: ShardArchive; readonly region: RegionName } | undefined>
  /** What a shard's journal of deliveries has on the events of a transaction, in order. */
  readonly deliveriesOf: (shard: ShardName, transactionId: TransactionId) => Promise<readonly DeliveryRecord[]>
  /** Whether a receiver of effects is configured. */
  readonly receiver: boolean
  /** The newest rehearsal that went through a timestamp; null when there was none. */
  readonly drillOf: (transactionId: string, commitTimestamp: Hlc) => Promise<DrillFacts | null>
}

const nodeAnswerWithinMs = 2_000

export async function gatherFacts(sources: EvidenceSources, trace: Trace): Promise<ProofFacts> {
  const { environment } = sources
  const topology = environment.topology.current()
  const directory = await environment.directory.refresh()
  const home = homeOf(trace)
  const shards = shardsOf(trace)
  const [nodes, archives, effects, drill] = await Promise.all([
    Promise.all(nodesOf(topology, shards).map((node) => nodeFacts(environment, node, trace.transactionId))),
    Promise.all(shards.map((shard) => archiveOn(sources, shard, trace.transactionId))),
    effectFacts(sources, trace),
    home === undefined
      ? known(null)
      : attempt(
          () => sources.drillOf(trace.transactionId, home.commit.commitTimestamp),
          'the reports of drills cannot be read',
        ),
  ])
  return {
    transactionId: trace.transactionId,
    commit: commitOf(trace),
    record: recordOf(trace),
    branches: shards
      .filter((shard) => shard !== home?.shard)
      .map((shard) => ({ shard, branch: branchOn(trace, shard) })),
    shards: shards.map((shard) => ({ shard, state: onShard(trace, shard, ({ state }) => state) })),
    placements: placementsOf(trace, directory, topology),
    nodes,
    archives,
    effects,
    drill,
  }
}

function onShard<T>(trace: Trace, shard: ShardName, pick: (of: ShardTrace) => T): Known<T> {
  const of = trace.shards.get(shard)
  if (of === undefined) return unknown(`${shard} is not a shard of this fleet`)
  return of.known ? known(pick(of.value)) : of
}

function commitOf(trace: Trace): ProofFacts['commit'] {
  const home = homeOf(trace)
  if (home !== undefined) {
    const { commitTimestamp, epoch, participants } = home.commit
    return known({ home: home.shard, commitTimestamp, epoch, participants })
  }
  const silent = silentShards(trace)
  return silent.length > 0 ? unknown(`${silent.join(', ')} may have it and does not answer`) : known(null)
}

function recordOf(trace: Trace): ProofFacts['record'] {
  for (const of of trace.shards.values()) if (of.known && of.value.record !== null) return known(of.value.record)
  const home = homeOf(trace)
  const silent = silentShards(trace)
  return home !== undefined || silent.length === 0 ? known(null) : unknown(`${silent.join(', ')} may hold its record`)
}

function branchOn(trace: Trace, shard: ShardName): Known<BranchFacts> {
  return onShard(trace, shard, ({ branch, prepared }) => branch?.facts ?? { state: prepared ? 'prepared' : 'absent' })
}

function placementsOf(trace: Trace, directory: Directory, topology: Topology): PlacementFacts[] {
  return [...trace.shards].flatMap(([shard, of]) => {
    if (!of.known) return []
    const written = [of.value.commit, of.value.branch].flatMap((part) => (part === null ? [] : [part]))
    return written.flatMap(({ tenant, placements }) =>
      placements.map((placement) => placementFacts(shard, tenant as TenantName, placement, directory, topology)),
    )
  })
}

function placementFacts(
  shard: ShardName,
  tenant: TenantName,
  { domain, version }: Placements[number],
  directory: Directory,
  { shards, regions }: Topology,
): PlacementFacts {
  const placement = directory.placements().find((each) => each.tenant === tenant && each.domain === domain)
  const region = placement === undefined ? undefined : shards.get(placement.shard)?.primary.region
  if (placement === undefined || region === undefined) return { shard, domain, version, directory: null }
  const question = { holding: 'authority', region } as const
  const decision = decidePlacement(question, [placement], regions)
  const refusals = decision.allowed ? [] : decision.refusals.map((refusal) => describeRefusal(question, refusal))
  return {
    shard,
    domain,
    version,
    directory: {
      shard: placement.shard,
      version: placement.version,
      policyVersion: placement.policyVersion,
      region,
      refusal: decision.allowed ? null : refusals.join('; '),
    },
  }
}

function nodesOf(topology: Topology, shards: readonly ShardName[]): FleetNode[] {
  return shards.flatMap((name) => {
    const shard = topology.shards.get(name)
    return shard === undefined ? [] : [shard.primary, ...shard.followers]
  })
}

async function nodeFacts(environment: TransactionEnvironment, node: FleetNode, id: string): Promise<NodeFacts> {
  const about = { node: node.id, shard: node.shard, role: node.role }
  const statement = {
    text: `select c.closed_timestamp,
             exists (select from holdfast.history_of_transactions t where t.transaction_id = $1) as visible
           from holdfast.closed c`,
    values: [id],
  }
  const seen = await attempt(async () => {
    const outcomes = await environment.pools.flight(environment.targetOf(node), [statement], nodeAnswerWithinMs)
    const [row] = outcomes.flatMap((outcome) => accepted(outcome).rows)
    return { visible: row?.['visible'] === true, closedTimestamp: toHlc(BigInt(String(row?.['closed_timestamp']))) }
  }, `${node.id} does not answer`)
  return { ...about, seen }
}

async function archiveOn(
  sources: EvidenceSources,
  shard: ShardName,
  id: string,
): Promise<ProofFacts['archives'][number]> {
  const facts = await attempt(async () => {
    const found = await sources.archiveOf(shard)
    return found === undefined ? undefined : archiveFacts(found.archive, found.region, id)
  }, `the archive of ${shard} cannot be read`)
  if (!facts.known) return { shard, archive: facts }
  return { shard, archive: facts.value === undefined ? unknown(`${shard} has no archive`) : known(facts.value) }
}

async function effectFacts(sources: EvidenceSources, trace: Trace): Promise<Known<EffectFacts>> {
  const home = homeOf(trace)?.shard
  const shards = home === undefined ? [...trace.shards.keys()] : [home]
  const emitted = shards.flatMap((shard) => {
    const of = trace.shards.get(shard)
    return of?.known === true ? of.value.events : []
  })
  return attempt(async () => {
    const journals = await Promise.all(shards.map((shard) => sources.deliveriesOf(shard, trace.transactionId)))
    const records = journals.flat()
    const ids = [...new Set(records.map(({ eventId }) => eventId))]
    const deliveries = ids.map((eventId) => {
      const ofEvent = records.filter((record) => record.eventId === eventId)
      const timesDelivered = ofEvent.filter(({ state }) => state === 'delivered').length
      const state = timesDelivered > 0 ? ('delivered' as const) : (ofEvent.at(-1)?.state ?? ('sending' as const))
      return { eventId, state, timesDelivered }
    })
    return { emitted, deliveries, receiver: sources.receiver }
  }, 'the journal of deliveries cannot be read')
}

/** A source that cannot be read makes its fact unknown, not the proof impossible. */
async function attempt<T>(read: () => Promise<T>, why: string): Promise<Known<T>> {
  try {
    return known(await read())
  } catch {
    return unknown(why)
  }
}
