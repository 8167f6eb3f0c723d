import { expect } from 'vitest'
import { present } from '../../src/base/assert.ts'
import type { TransactionId } from '../../src/directory/topology.ts'
import type { Frontier } from '../../src/session/frontier.ts'
import { emptyFrontier, joinFrontiers } from '../../src/session/frontier.ts'
import { currentHistory } from '../../src/session/fork-point.ts'
import type { NodeEvidence, ReadLevel, Requirement, Verdict } from '../../src/session/proof.ts'
import { decide, evidenceQuestion } from '../../src/session/proof.ts'
import {
  advanceByBranch,
  advanceByCommit,
  advanceByRead,
  lsnAfterSnapshot,
  lsnBeforeSnapshot,
} from '../../src/session/session.ts'
import { lsn, payroll, transaction, treasury } from '../support/session-values.ts'
import type { Server, Shown } from './session-world.ts'
import { ShardWorld, shownBy } from './session-world.ts'

/**
 * Sessions over a world of lagging followers, hidden commits, late branches, promotions and cutovers. The oracle knows
 * what each session has written and been shown, which the tokens only bound. It holds the proof to two promises: an
 * answer that was proven misses nothing of it, and what is told as lost is lost.
 */

/** Faults to plant; the model must find each of them, else it proves nothing. */
export const plants = [
  'HZ-T1: replay position read inside the snapshot',
  'HZ-T1: replay position taken as what a read has shown',
  'HZ-X4: branches not listed, a position from the prepare instead',
  'HZ-T3: no history of our own',
  'HZ-T3: the history is checked last',
  'HZ-T5: only the last branch is kept',
  'HZ-C1: closed too early',
  'HZ-S4: a primary is trusted with what followers showed',
  'HZ-T4: causal by positions',
  'S7: the last id stands for what was read after it',
  'S11: a left-out transaction is honoured past the fork',
  'S11: an older history falls out in silence',
  'S4: the history row of a cutover is written after the redo',
] as const
export type Plant = (typeof plants)[number]

export interface Action {
  readonly do: string
  readonly a: number
  readonly b: number
  readonly c: number
}

interface Session {
  frontier: Frontier
  /** `shard id`: what it wrote or was shown. */
  seen: Set<string>
  /** Everything that happened before, on any shard. */
  past: Set<string>
}

const keyOf = (world: ShardWorld, id: TransactionId) => `${world.name} ${id}`
const pick = <T>(list: readonly T[], index: number): T => present(list[index % list.length], 'the list has entries')

export class Play {
  readonly shards = [new ShardWorld(payroll, 2), new ShardWorld(treasury, 2)]
  readonly sessions: Session[] = [0, 1, 2].map(() => ({ frontier: emptyFrontier, seen: new Set(), past: new Set() }))
  readonly #pastOf = new Map<TransactionId, ReadonlySet<string>>()
  readonly #plant: Plant | undefined
  /** Commits that a fork cut off; a causal past that leads over them is broken for everyone. */
  readonly #cutOff = new Set<string>()
  #ids = 0
  proven = 0
  told = 0

  constructor(plant?: Plant) {
    this.#plant = plant
  }

  act({ do: what, a, b, c }: Action): void {
    const world = pick(this.shards, a)
    const session = pick(this.sessions, b)
    const server = pick(world.servers, c)
    if (what === 'write') this.#write(session, world)
    if (what === 'global') this.#writeGlobally(session, world, pick(this.shards, a + 1))
    if (what === 'background') world.commit(this.#newId(), world.tick(), true)
    if (what === 'release') this.#release(world, c)
    if (what === 'settle') this.#settle(world, c)
    if (what === 'close') world.close(this.#plant === 'HZ-C1: closed too early')
    if (what === 'receive') world.receive(server, 1 + (b % 4))
    if (what === 'replay') world.replay(server, 1 + (b % 4))
    if (what === 'read') this.read(session, world, server, 'session', a)
    if (what === 'causal') this.read(session, world, server, 'causal', a)
    if (what === 'join') this.#join(session, pick(this.sessions, a))
    if (what === 'copy') Object.assign(session, structuredCopy(pick(this.sessions, a)))
    if (what === 'promote') this.#promote(world, server)
    if (what === 'cutover') this.#cutOver(world, b, c)
  }

  read(session: Session, world: ShardWorld, server: Server, level: ReadLevel, noise: number): Verdict {
    const before = server.isPrimary ? server.log.length : server.replayed
    world.replay(server, noise % 3)
    const shown = shownBy(server)
    world.receive(server, noise % 2)
    world.replay(server, noise % 4)
    const after = server.isPrimary ? server.log.length : server.replayed
    const inside = this.#plant === 'HZ-T1: replay position read inside the snapshot'
    const verdict = this.#decide(session, world, level, {
      ...this.#evidence(session.frontier, world, shown),
      isPrimary: server.isPrimary && this.#plant !== 'HZ-S4: a primary is trusted with what followers showed',
      placementVersion: undefined,
      replayedBefore: lsnBeforeSnapshot({ lsn: lsn(inside ? after : before), readAt: 0, snapshotAt: 1 }),
    })
    if (verdict.kind === 'proven') {
      this.#mustShow(session, world, server, shown, level)
      this.#advance(session, world, server, shown, before)
      this.proven += 1
    } else if (verdict.kind === 'write_lost' || verdict.kind === 'history_rewritten') {
      const gone = verdict.kind === 'write_lost' ? verdict.transactionIds : verdict.leftOut
      const missing = gone.filter((id) => world.log.some((record) => record.kind === 'commit' && record.id === id))
      expect({ missing, told: verdict.kind }).toMatchObject({ missing: [] })
      this.#startAnew(session)
    } else if (verdict.kind === 'history_changed') {
      this.#startAnew(session)
    }
    return verdict
  }

  #decide(session: Session, world: ShardWorld, level: ReadLevel, evidence: NodeEvidence): Verdict {
    const byPositions = level === 'causal' && this.#plant === 'HZ-T4: causal by positions'
    const requirement: Requirement = {
      level: byPositions ? 'session' : level,
      frontier: session.frontier,
      shard: world.name,
      routedPlacementVersion: undefined,
    }
    if (this.#plant === 'HZ-T3: the history is checked last') {
      const fresh = decide(asIfCurrent(requirement, evidence), evidence)
      if (fresh.kind === 'proven') return fresh
    }
    return decide(requirement, evidence)
  }

  #evidence(frontier: Frontier, world: ShardWorld, shown: Shown) {
    const asked = evidenceQuestion(frontier, world.name)
    const unhistorical = this.#plant === 'HZ-T3: no history of our own'
    const blind = this.#plant === 'S11: a left-out transaction is honoured past the fork'
    return {
      visible: new Set(asked.filter((id) => shown.visible.has(id))),
      closedTimestamp: shown.closedTimestamp,
      histories: (unhistorical ? shown.histories.slice(0, 1) : shown.histories).map((row) =>
        blind && row.fork !== undefined ? { ...row, fork: { ...row.fork, leftOut: [] } } : row,
      ),
    }
  }

  #mustShow(session: Session, world: ShardWorld, server: Server, shown: Shown, level: ReadLevel): void {
    const visible = new Set([...shown.visible].map((id) => keyOf(world, id)))
    const onShard = (keys: Iterable<string>) => [...keys].filter((key) => key.startsWith(`${world.name} `))
    const missing = onShard(session.seen).filter((key) => !visible.has(key))
    if (level === 'causal') {
      missing.push(...onShard(session.past).filter((key) => !visible.has(key) && !this.#cutOff.has(key)))
    }
    expect({ missing, from: server.isPrimary ? 'primary' : 'follower', level }).toMatchObject({ missing: [] })
  }

  #advance(session: Session, world: ShardWorld, server: Server, shown: Shown, before: number): void {
    const received = this.#plant === 'HZ-T1: replay position taken as what a read has shown' ? before : server.received
    const history = present(shown.histories.at(-1), 'every snapshot shows a history')
    const { historyId, epoch } = this.#plant === 'HZ-T3: no history of our own' ? pick(shown.histories, 0) : history
    session.frontier = advanceByRead(session.frontier, {
      shard: world.name,
      historyId,
      epoch,
      placementVersion: 1,
      isPrimary: server.isPrimary,
      position: lsnAfterSnapshot({
        lsn: lsn(server.isPrimary ? server.log.length : received),
        readAt: 2,
        snapshotAt: 1,
      }),
      closedTimestamp: shown.closedTimestamp,
      greatestTimestamp: shown.greatestTimestamp,
    })
    if (this.#plant === 'S7: the last id stands for what was read after it') {
      session.frontier = mapHistories(session.frontier, (one) => ({
        ...one,
        idsSuffice: one.lastTransactionIds.length > 0,
      }))
    }
    for (const id of shown.visible) {
      session.seen.add(keyOf(world, id))
      for (const key of this.#pastOf.get(id) ?? []) session.past.add(key)
    }
  }

  #write(session: Session, world: ShardWorld): void {
    const transactionId = this.#newId()
    const commitTimestamp = world.tick(session.frontier.timestamp)
    world.commit(transactionId, commitTimestamp, false)
    session.frontier = advanceByCommit(session.frontier, {
      ...this.#met(world),
      transactionId,
      commitTimestamp,
      flushedAfterCommit: lsn(world.log.length),
    })
    if (this.#plant === 'S11: an older history falls out in silence') session.frontier = newestOnly(session.frontier)
    this.#wrote(session, transactionId, [world])
  }

  #writeGlobally(session: Session, home: ShardWorld, participant: ShardWorld): void {
    const id = this.#newId()
    const preparedAt = participant.tick(session.frontier.timestamp)
    const timestamp = home.tick(preparedAt > session.frontier.timestamp ? preparedAt : session.frontier.timestamp)
    participant.log.push({ kind: 'prepare', id, timestamp, preparedAt })
    home.commit(id, timestamp, false)
    const flushed = lsn(participant.log.length)
    const step = { ...this.#met(participant), transactionId: id, commitTimestamp: timestamp }
    const unlisted = this.#plant === 'HZ-X4: branches not listed, a position from the prepare instead'
    session.frontier = unlisted
      ? advanceByCommit(session.frontier, { ...step, flushedAfterCommit: flushed })
      : advanceByBranch(session.frontier, { ...step, flushedAfterPrepare: flushed })
    if (this.#plant === 'HZ-T5: only the last branch is kept') {
      session.frontier = mapHistories(session.frontier, (one) => ({ ...one, pending: one.pending.slice(0, 1) }))
    }
    const atHome = { ...this.#met(home), transactionId: id, commitTimestamp: timestamp }
    session.frontier = advanceByCommit(session.frontier, { ...atHome, flushedAfterCommit: lsn(home.log.length) })
    this.#wrote(session, id, [home, participant])
  }

  #wrote(session: Session, id: TransactionId, worlds: readonly ShardWorld[]): void {
    for (const world of worlds) {
      session.seen.add(keyOf(world, id))
      session.past.add(keyOf(world, id))
    }
    this.#pastOf.set(id, new Set(session.past))
  }

  #met(world: ShardWorld) {
    const unhistorical = this.#plant === 'HZ-T3: no history of our own'
    const { historyId, epoch } = unhistorical ? pick(shownBy(world.primary).histories, 0) : world.history
    return { shard: world.name, historyId, epoch, placementVersion: 1 }
  }

  #settle(world: ShardWorld, index: number): void {
    const prepared = world.prepared()
    const record = prepared[index % Math.max(1, prepared.length)]
    if (record !== undefined) world.commit(record.id, record.timestamp, true)
  }

  #release(world: ShardWorld, index: number): void {
    const hidden = [...world.primary.hidden]
    const id = hidden[index % Math.max(1, hidden.length)]
    if (id !== undefined) world.primary.hidden.delete(id)
  }

  #join(session: Session, other: Session): void {
    session.frontier = joinFrontiers(session.frontier, other.frontier)
    if (this.#plant === 'S11: an older history falls out in silence') session.frontier = newestOnly(session.frontier)
    session.seen = new Set([...session.seen, ...other.seen])
    session.past = new Set([...session.past, ...other.past])
  }

  #promote(world: ShardWorld, server: Server): void {
    if (server.isPrimary || server.log !== world.log) return
    this.#noteCutOff(world, () => world.promote(server))
  }

  /** Restores to just before a transaction and leaves it out, perhaps with another one after it, or keeps them all. */
  #cutOver(world: ShardWorld, b: number, c: number): void {
    const commits = world.log.flatMap((record, at) => (record.kind === 'commit' ? [{ id: record.id, at }] : []))
    const first = commits[c]
    if (first === undefined) return
    const later = commits.filter(({ at }) => at > first.at).slice(0, 1)
    const leftOut = [[], [first], [first, ...later]][b % 3] ?? []
    const rowLast = this.#plant === 'S4: the history row of a cutover is written after the redo'
    const ids = leftOut.map(({ id }) => id)
    this.#noteCutOff(world, () => world.cutOver(first.at, ids, rowLast))
  }

  #noteCutOff(world: ShardWorld, fork: () => void): void {
    const before = world.log
    fork()
    const kept = new Set(world.log.map((record) => ('id' in record ? record.id : undefined)))
    for (const record of before) {
      if ('id' in record && !kept.has(record.id)) this.#cutOff.add(keyOf(world, record.id))
    }
  }

  #startAnew(session: Session): void {
    this.told += 1
    Object.assign(session, { frontier: emptyFrontier, seen: new Set(), past: new Set() })
  }

  #newId(): TransactionId {
    this.#ids += 1
    return transaction(this.#ids)
  }
}

function structuredCopy(session: Session): Session {
  return { frontier: session.frontier, seen: new Set(session.seen), past: new Set(session.past) }
}

function mapHistories(
  frontier: Frontier,
  change: <T extends { lastTransactionIds: readonly unknown[]; pending: readonly unknown[] }>(history: T) => T,
): Frontier {
  const shards = [...frontier.shards].map(
    ([name, shard]) => [name, { ...shard, histories: shard.histories.map(change) }] as const,
  )
  return { ...frontier, shards: new Map(shards) }
}

function newestOnly(frontier: Frontier): Frontier {
  const shards = [...frontier.shards].map(
    ([name, shard]) => [name, { ...shard, histories: shard.histories.slice(0, 1), historiesForgotten: false }] as const,
  )
  return { ...frontier, shards: new Map(shards) }
}

/** Position, ids and timestamps of every history held against the one that the node has: whatever they say is enough. */
function asIfCurrent(requirement: Requirement, { histories }: NodeEvidence): Requirement {
  const { frontier, shard } = requirement
  const known = frontier.shards.get(shard)
  if (known === undefined) return requirement
  const { historyId, epoch } = currentHistory(histories)
  const renamed = known.histories.map((history) => ({ ...history, historyId, epoch }))
  const shards = new Map(frontier.shards).set(shard, { ...known, histories: renamed, historiesForgotten: false })
  return { ...requirement, frontier: { ...frontier, shards } }
}
