import { present } from '../../src/base/assert.ts'
import { planPromotion } from '../../src/failover/failover.ts'
import type { NodeId, RegionName } from '../../src/directory/topology.ts'
import { toLsn } from '../../src/postgres/lsn.ts'

/**
 * A shard as the commit protocol can tell it from PostgreSQL: a primary's log, two followers that each have a prefix of
 * it and of which one must acknowledge, and primaries of the past that go on without followers. A log position is a count
 * of entries. Ids of transactions are small numbers, in the order in which they were born.
 */
export type Entry =
  /** `key`: of its request, used up with it. */
  | {
      readonly kind: 'record'
      readonly id: number
      readonly committed: boolean
      readonly timestamp: number
      readonly key?: number | undefined
    }
  | { readonly kind: 'watermark'; readonly through: number }
  | { readonly kind: 'uncollected'; readonly id: number }
  /** Keys of transactions born up to there are gone; `refuses`: and can be claimed by nobody who was born up to there. */
  | { readonly kind: 'keys'; readonly through: number; readonly refuses: boolean }
  | { readonly kind: 'announced'; readonly through: number }
  | { readonly kind: 'prepare'; readonly id: number; readonly timestamp: number }
  /** `timestamp`: of its commit; 0 when it is rolled back. */
  | { readonly kind: 'settle'; readonly id: number; readonly committed: boolean; readonly timestamp: number }
  /** A local commit of somebody else. */
  | { readonly kind: 'row'; readonly id: number; readonly timestamp: number }
  /** What home decided, as a participant wrote it down, and the epoch of home that it was told at. */
  | {
      readonly kind: 'decision'
      readonly id: number
      readonly committed: boolean
      readonly timestamp: number
      readonly epoch: number
    }
  | { readonly kind: 'forgotten'; readonly id: number }
  | { readonly kind: 'barrier' }

export type Shown = Extract<Entry, { kind: 'row' | 'settle' }>

export const followers = 2
export const acknowledgements = 1
const here = 'eu-west' as RegionName
const followerIds = ['shard.2', 'shard.3'] as NodeId[]

export class Server {
  readonly shard: number
  readonly epoch: number
  readonly log: Entry[]
  /** Entries that a waiting commit still hides, by position (HZ-S4). */
  readonly hidden = new Set<number>()
  readonly received: number[]
  /** Transactions of which a branch is prepared and not settled, in the order of their prepares. */
  readonly prepared = new Set<number>()
  /** Transactions whose part at home is open here: a lock that no crash and no promotion leaves behind. */
  readonly open = new Set<number>()
  /** Who claimed a key last. It holds the key for as long as it is open. */
  readonly claims = new Map<number, number>()
  /** Grows at every crash: connections from before are gone. */
  life = 0
  clock: number
  isCurrent = true

  constructor(shard: number, epoch: number, log: Entry[], clock: number) {
    this.shard = shard
    this.epoch = epoch
    this.log = log
    this.clock = clock
    this.received = Array.from({ length: followers }, () => log.length)
    for (const entry of log) this.#note(entry)
  }

  append(entry: Entry, waits: boolean): number {
    this.log.push(entry)
    this.#note(entry)
    if (waits) this.hidden.add(this.log.length - 1)
    return this.log.length
  }

  #note(entry: Entry): void {
    if (entry.kind === 'prepare') this.prepared.add(entry.id)
    if (entry.kind === 'settle') this.prepared.delete(entry.id)
  }

  /** Followers that were promoted away from hear no more of it: what they have is what they had. */
  isReplicated(position: number): boolean {
    let holders = 0
    for (const received of this.received) if (received >= position) holders += 1
    return holders >= acknowledgements
  }

  reveal(position: number): void {
    this.hidden.delete(position - 1)
  }

  /** HZ-S2: what nobody has is shown after a restart, and connections are gone. */
  crash(): void {
    this.life += 1
    this.hidden.clear()
    this.open.clear()
  }

  /** The record of a transaction: 'held' while another's insert of it waits for followers. */
  record(id: number): Extract<Entry, { kind: 'record' }> | 'held' | undefined {
    for (let at = this.log.length - 1; at >= 0; at -= 1) {
      const entry = this.log[at]
      if (entry?.kind === 'uncollected' && entry.id === id) return undefined
      if (entry?.kind === 'record' && entry.id === id) return this.hidden.has(at) ? 'held' : entry
    }
    return undefined
  }

  /** Records up to here may be collected, and none may be made any more. */
  get collectedThrough(): number {
    return this.#greatest('watermark')
  }

  /** Up to here it was told that home collects. */
  get announcedThrough(): number {
    return this.#greatest('announced')
  }

  /** Nobody who was born up to here may claim a key any more. */
  get keysRefusedThrough(): number {
    return this.#greatest('keys')
  }

  #greatest(kind: 'watermark' | 'announced' | 'keys'): number {
    let through = -1
    for (const entry of this.log) {
      if (entry.kind !== kind || entry.through <= through) continue
      if (entry.kind !== 'keys' || entry.refuses) through = entry.through
    }
    return through
  }

  /** Whose a key is: 'held' while its commit waits for followers, or has not come yet. */
  userOf(key: number): number | 'held' | undefined {
    const claimed = this.claims.get(key)
    if (claimed !== undefined && this.open.has(claimed)) return 'held'
    let user: number | 'held' | undefined
    for (const [at, entry] of this.log.entries()) {
      if (entry.kind === 'record' && entry.key === key) user = this.hidden.has(at) ? 'held' : entry.id
      if (entry.kind === 'keys' && typeof user === 'number' && user <= entry.through) user = undefined
    }
    return user
  }

  /** What a participant wrote down of a decision. */
  decision(id: number): Extract<Entry, { kind: 'decision' }> | undefined {
    let found: Extract<Entry, { kind: 'decision' }> | undefined
    for (const entry of this.log) {
      if (entry.kind === 'decision' && entry.id === id) found = entry
      if (entry.kind === 'forgotten' && entry.id === id) found = undefined
    }
    return found
  }

  branch(id: number): 'none' | 'prepared' | 'committed' | 'rolled back' {
    let found: ReturnType<Server['branch']> = 'none'
    for (const entry of this.log) {
      if (entry.kind === 'prepare' && entry.id === id) found = 'prepared'
      if (entry.kind === 'settle' && entry.id === id && found === 'prepared') {
        found = entry.committed ? 'committed' : 'rolled back'
      }
    }
    return found
  }

  /** What a statement is shown: rows of local commits, and of branches that were committed. */
  shown(): Shown[] {
    return this.log.flatMap((entry, at): Shown[] => {
      if (entry.kind === 'row') return this.hidden.has(at) ? [] : [entry]
      return entry.kind === 'settle' && entry.committed ? [entry] : []
    })
  }

  get homeEpochSeen(): number {
    let seen = 0
    for (const entry of this.log) if (entry.kind === 'decision' && entry.epoch > seen) seen = entry.epoch
    return seen
  }
}

/** Promotes by the rule of the product, with only some of the followers answering; undefined when it refuses. */
export function promote(old: Server, answers: readonly boolean[]): Server | undefined {
  const plan = planPromotion(
    old.received.map((received, index) => ({
      id: present(followerIds[index], 'an id for each follower'),
      region: here,
      counted: true,
      received: answers[index] === true ? toLsn(BigInt(received)) : null,
    })),
    acknowledgements,
    [here],
  )
  if (plan.kind !== 'promote') return undefined
  const received = present(old.received[followerIds.indexOf(plan.source)], 'the source is one of them')
  old.isCurrent = false
  return new Server(old.shard, old.epoch + 1, old.log.slice(0, received), old.clock)
}
