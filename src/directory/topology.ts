import type { Brand } from '../base/brand.ts'

/** The map of a fleet at one moment: which nodes exist, which of them is the primary of each shard, at which epoch. */

export type RegionName = Brand<string, 'RegionName'>
export type Jurisdiction = Brand<string, 'Jurisdiction'>
/** `eu-west/payroll`: the region of birth and a name; it stays when the primary moves to another region. */
export type ShardName = Brand<string, 'ShardName'>
/** `eu-west/payroll.2`; a number is never used again. */
export type NodeId = Brand<string, 'NodeId'>
export type TenantName = Brand<string, 'TenantName'>
export type DomainName = Brand<string, 'DomainName'>
/** A shard's fencing number; it only grows. */
export type Epoch = Brand<number, 'Epoch'>
/** A UUID of ours for one history of one shard; PostgreSQL's timeline number alone does not identify one. */
export type HistoryId = Brand<string, 'HistoryId'>
export type TransactionId = Brand<string, 'TransactionId'>

export type NodeRole = 'primary' | 'follower'

/** `quorum`: a commit waits for followers; `local`: it does not, and takes no part in global transactions. */
export type Durability = 'quorum' | 'local'

export interface FleetNode {
  readonly id: NodeId
  readonly shard: ShardName
  readonly region: RegionName
  readonly role: NodeRole
  /** Where this process reaches the node: a socket directory (through the link, when regions differ) or a host. */
  readonly host: string
  readonly port: number
}

/**
 * `fenced`: takes no traffic, because it is being promoted, restored or moved. `lost`: its primary is gone and the law
 * leaves nowhere to promote; each tenant then gets what its policy says.
 */
export type ShardState = 'open' | 'fenced' | 'lost'

export interface ShardTopology {
  readonly name: ShardName
  readonly durability: Durability
  readonly epoch: Epoch
  readonly historyId: HistoryId
  readonly state: ShardState
  readonly primary: FleetNode
  readonly followers: readonly FleetNode[]
}

export interface Topology {
  /** Grows with every change; a watcher asks for what is newer than it has. */
  readonly version: number
  readonly fleet: string
  readonly regions: ReadonlyMap<RegionName, Jurisdiction>
  readonly shards: ReadonlyMap<ShardName, ShardTopology>
}

/** Where the topology comes from: the supervisor of an embedded fleet, or the servers themselves. */
export interface TopologySource {
  current(): Topology
  /** Asks again now, e.g. after a refusal that says the shard moved on. Rejects, soon, where nobody tells. */
  refresh(): Promise<Topology>
}
