import { present } from '../base/assert.ts'
import type {
  Durability,
  Epoch,
  FleetNode,
  HistoryId,
  Jurisdiction,
  NodeId,
  RegionName,
  ShardName,
  ShardState,
  ShardTopology,
  Topology,
} from '../directory/topology.ts'
import { readJsonFile, writeFileDurably } from './home.ts'

/**
 * The topology of an embedded fleet as its supervisor keeps it: one document, replaced as a whole at every change.
 * The data has the last word: every opening and every stamp checks the shard's epoch in the shard itself, so that a
 * process with an old document is refused and not believed.
 */
export interface TopologyDocument {
  readonly version: number
  readonly fleet: string
  readonly regions: Readonly<Record<RegionName, Jurisdiction>>
  readonly shards: Readonly<Record<ShardName, ShardDocument>>
}

export interface ShardDocument {
  readonly durability: Durability
  /** None in a document of an earlier form. */
  readonly survive?: 'node' | 'region' | undefined
  readonly epoch: Epoch
  readonly historyId: HistoryId
  readonly state: ShardState
  readonly primary: NodeId
  readonly nodes: readonly NodeDocument[]
  /** The number of the next node; numbers are never used again. */
  readonly nextNode: number
  /** Under way and only to be finished: `primary`, `epoch` and `historyId` are already those that it leads to. */
  readonly promotion?: PromotionDocument | undefined
  /** What did not come along in a promotion, and followers that are lost: while the shard is open, each is built anew in its region. */
  readonly retired?: readonly RetiredNode[] | undefined
}

export interface PromotionDocument {
  /** Where the new history leaves the old one. */
  readonly forkLsn: string
}

export interface RetiredNode {
  readonly node: NodeDocument
  /** The number of the node that takes its place. */
  readonly successor: number
}

export interface NodeDocument {
  readonly id: NodeId
  readonly region: RegionName
  /** Below the servers' folder. */
  readonly folder: string
  /** Its own socket directory, for processes of the same region. */
  readonly host: string
  readonly port: number
  /** Through the link, from each other region. */
  readonly links: Readonly<Record<RegionName, string>>
}

export class TopologyStore {
  readonly #path: string
  #document: TopologyDocument
  #changed: Promise<void>
  #writing: Promise<void> = Promise.resolve()
  #announce: () => void = () => {}

  private constructor(path: string, document: TopologyDocument) {
    this.#path = path
    this.#document = document
    this.#changed = this.#nextChange()
  }

  static async load(path: string): Promise<TopologyStore | undefined> {
    const document = await readJsonFile(path)
    return document === undefined ? undefined : new TopologyStore(path, document as TopologyDocument)
  }

  static async create(path: string, document: TopologyDocument): Promise<TopologyStore> {
    const store = new TopologyStore(path, document)
    await writeFileDurably(path, JSON.stringify(document, null, 2))
    return store
  }

  get document(): TopologyDocument {
    return this.#document
  }

  shard(name: ShardName): ShardDocument {
    return present(this.#document.shards[name], `shard ${name} is in the topology`)
  }

  /** Replaces one shard; durable before it is told to anyone. One after the other, or the second would undo the first. */
  replaceShard(name: ShardName, shard: ShardDocument): Promise<void> {
    return this.#inTurn(() => ({ ...this.#document, shards: { ...this.#document.shards, [name]: shard } }))
  }

  /** The same for all of them at once, while nobody else changes one. */
  replace(document: TopologyDocument): Promise<void> {
    return this.#inTurn(() => document)
  }

  #inTurn(change: () => TopologyDocument): Promise<void> {
    const written = this.#writing.then(() => this.#write(change()))
    this.#writing = written.catch(() => undefined)
    return written
  }

  async #write(changed: TopologyDocument): Promise<void> {
    const document = { ...changed, version: this.#document.version + 1 }
    await writeFileDurably(this.#path, JSON.stringify(document, null, 2))
    this.#document = document
    const announce = this.#announce
    this.#changed = this.#nextChange()
    announce()
  }

  /** Resolves at the next change. */
  changed(): Promise<void> {
    return this.#changed
  }

  #nextChange(): Promise<void> {
    return new Promise((resolve) => {
      this.#announce = resolve
    })
  }
}

/** The topology as a process of one region sees it: nodes of other regions are reached through their links. */
export function viewFrom(document: TopologyDocument, region: RegionName | undefined): Topology {
  const shards = Object.entries(document.shards).map(([name, shard]) => {
    const nodes = shard.nodes.map((node) => toNode(name as ShardName, shard, node, region))
    const view: ShardTopology = {
      name: name as ShardName,
      durability: shard.durability,
      epoch: shard.epoch,
      historyId: shard.historyId,
      state: shard.state,
      primary: present(
        nodes.find(({ role }) => role === 'primary'),
        `shard ${name} has a primary`,
      ),
      followers: nodes.filter(({ role }) => role === 'follower'),
    }
    return [view.name, view] as const
  })
  return {
    version: document.version,
    fleet: document.fleet,
    regions: new Map(Object.entries(document.regions) as [RegionName, Jurisdiction][]),
    shards: new Map(shards),
  }
}

function toNode(shard: ShardName, of: ShardDocument, node: NodeDocument, from: RegionName | undefined): FleetNode {
  const linked = from === undefined || from === node.region ? undefined : node.links[from]
  return {
    id: node.id,
    shard,
    region: node.region,
    role: node.id === of.primary ? 'primary' : 'follower',
    host: linked ?? node.host,
    port: node.port,
  }
}
