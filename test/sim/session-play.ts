import { present } from '../../src/base/assert.ts'
import type { ShardName, TransactionId } from '../../src/directory/topology.ts'
import { bearsOut, isExpected } from '../../src/reading/expectation.ts'
import { currentHistory } from '../../src/session/fork-point.ts'
import type { Frontier } from '../../src/session/frontier.ts'
import { emptyFrontier, joinFrontiers } from '../../src/session/frontier.ts'
import type { NodeEvidence, ReadLevel, Requirement, Verdict } from '../../src/session/proof.ts'
import { decide, evidenceQuestion } from '../../src/session/proof.ts'
import { advanceByBranch, advanceByCommit, advanceByRead, advanceByUnknownBranch } from '../../src/session/session.ts'
import { lsn, payroll, transaction, treasury } from '../support/session-values.ts'
import { readStale, takeSnapshot } from './session-levels.ts'
import type { Memory } from './session-oracle.ts'
import { nothingSeen, Oracle } from './session-oracle.ts'
import type { Plant } from './session-plants.ts'
import { asIfCurrent, mapHistories, newestOnly } from './session-plants.ts'
import type { Opened } from './session-processes.ts'
import { Processes, untold } from './session-processes.ts'
import type { Server, Shown } from './session-world.ts'
import { ShardWorld, shownBy } from './session-world.ts'

/**
 * Sessions over a world of lagging followers, hidden commits, late branches, promotions and cutovers. The oracle knows
 * what each session has written and been shown, which the tokens only bound. It holds the proof to its promises: an
 * answer that was proven misses nothing of what its level promises, a snapshot of several shards has all of a transaction
 * or none, and what is told as lost is lost.
 */

export interface Action {
  readonly do: string
  readonly a: number
  readonly b: number
  readonly c: number
}

interface Session extends Memory {
  frontier: Frontier
}

interface Asking {
  readonly session: Session
  readonly world: ShardWorld
  readonly server: Server
  readonly level: ReadLevel
}

const pick = <T>(list: readonly T[], index: number): T => present(list[index % list.length], 'the list has entries')

export class Play {
  readonly shards = [new ShardWorld(payroll, 2), new ShardWorld(treasury, 2)]
  readonly sessions: Session[] = [0, 1, 2].map(() => ({ frontier: emptyFrontier, ...nothingSeen() }))
  readonly #oracle = new Oracle()
  readonly #processes: Processes
  readonly #plant: Plant | undefined
  #ids = 0
  proven = 0
  told = 0
  /** Proven reads of sessions that came from a history before a fork. */
  honoured = 0
  whole = 0
  /** Proven by what a server process had told before. */
  lean = 0

  constructor(plant?: Plant) {
    this.#plant = plant
    this.#processes = new Processes(plant)
  }

  get #stage() {
    return { shards: this.shards, oracle: this.#oracle, plant: this.#plant }
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
    if (what === 'primary') this.read(session, world, server, 'primary', a)
    if (what === 'strong') this.#readStrong(session, world, server, a)
    if (what === 'stale' && readStale(this.#stage, world, server, c)) this.proven += 1
    if (what === 'snapshot' && takeSnapshot(this.#stage, (turn) => this.#disturb(session, c + turn))) this.whole += 1
    if (what === 'key') this.#useKeyAgain(session, c, false)
    if (what === 'key in an outage') this.#useKeyAgain(session, c, true)
    if (what === 'join') this.#join(session, pick(this.sessions, a))
    if (what === 'copy') Object.assign(session, copyOf(pick(this.sessions, a)))
    if (what === 'promote') this.#promote(world, server)
    if (what === 'cutover') this.#cutOver(world, b, c)
  }

  read(session: Session, world: ShardWorld, server: Server, level: ReadLevel, noise: number): Verdict {
    const asking = { session, world, server, level }
    const { frontier } = session
    const of = (shown: Shown) => this.#asked(frontier, world, shown)
    const demand = { shard: world.name, level, frontier, routed: undefined, closedAtLeast: undefined }
    const told = this.#processes.toldBy(world, server)
    if (told !== undefined && isExpected(demand, told)) {
      const lean = (shown: Shown) => untold(of(shown).histories)
      const opened = this.#processes.open(world, server, noise, { lean: true, of: lean })
      const verdict = this.#decide(asking, opened)
      if (verdict.kind === 'proven' && bearsOut(demand, opened)) {
        this.lean += 1
        return this.#take(asking, opened, verdict)
      }
    }
    const opened = this.#processes.open(world, server, noise, { lean: false, of })
    return this.#take(asking, opened, this.#decide(asking, opened))
  }

  #take({ session, world, server, level }: Asking, opened: Opened, verdict: Verdict): Verdict {
    if (verdict.kind === 'proven') {
      const { shown } = opened
      const by = `${level} by a ${server.isPrimary ? 'primary' : 'follower'}`
      this.#oracle.mustShowSeen(session, world, shown, by)
      if (level === 'causal') this.#oracle.mustShowPast(session, world, shown, by)
      const histories = session.frontier.shards.get(world.name)?.histories ?? []
      const current = currentHistory(shown.histories).historyId
      if (histories.some(({ historyId }) => historyId !== current)) this.honoured += 1
      this.#advance({ session, world, server, level }, opened)
      this.proven += 1
    } else if (verdict.kind === 'write_lost' || verdict.kind === 'history_rewritten') {
      const gone = verdict.kind === 'write_lost' ? verdict.transactionIds : verdict.leftOut
      this.#oracle.mustBeGone(verdict.kind, world, gone)
      this.#startAnew(session)
    } else if (verdict.kind === 'history_changed') {
      this.#startAnew(session)
    }
    return verdict
  }

  #decide({ session, world, level }: Asking, { proof, positionBefore }: Opened): Verdict {
    const isTrusted = this.#plant === 'HZ-S4: a primary is trusted with what followers showed'
    const { histories, visible, closedTimestamp, follows } = proof
    const evidence: NodeEvidence = {
      histories,
      visible,
      closedTimestamp,
      isPrimary: !follows && !isTrusted,
      placementVersion: undefined,
      replayedBefore: positionBefore,
    }
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

  #asked(frontier: Frontier, world: ShardWorld, shown: Shown) {
    const asked = evidenceQuestion(frontier, world.name)
    const unhistorical = this.#plant === 'HZ-T3: no history of our own'
    const blind = this.#plant === 'S11: a left-out transaction is honoured past the fork'
    return {
      visible: new Set(asked.filter((id) => shown.visible.has(id))),
      histories: (unhistorical ? shown.histories.slice(0, 1) : shown.histories).map((row) =>
        blind && row.fork !== undefined ? { ...row, fork: { ...row.fork, leftOut: [] } } : row,
      ),
    }
  }

  /** R7: branches are settled before the snapshot, and a barrier passes behind it, on the primary alone. */
  #readStrong(session: Session, world: ShardWorld, server: Server, noise: number): void {
    if (this.#plant !== 'R7: strong does not settle what was decided') world.settleAll()
    // A gateway that has not heard of a promotion asks the primary of the past.
    const known = world.servers.filter(({ isPrimary }) => isPrimary)
    const asked = server.isPrimary ? server : pick(known, noise)
    const shown = shownBy(asked)
    if (this.read(session, world, asked, 'primary', 0).kind !== 'proven') return
    const isBarred = asked.log !== world.log && this.#plant !== 'R7: strong without a barrier'
    if (!isBarred) this.#oracle.mustShowAcknowledged('strong shows what was acknowledged', world, shown)
  }

  #disturb(session: Session, noise: number): void {
    const [first, second] = [pick(this.shards, noise), pick(this.shards, noise + 1)]
    if (noise % 4 === 0) this.#writeGlobally(session, first, second)
    if (noise % 4 === 1) this.#settle(first, noise)
    if (noise % 4 === 2) first.close()
    if (noise % 3 === 0) this.#release(second, noise)
  }

  #advance({ session, world, server }: Asking, opened: Opened): void {
    session.frontier = advanceByRead(session.frontier, this.#processes.stepOf(world, server, opened))
    if (this.#plant === 'S7: the last id stands for what was read after it') {
      session.frontier = mapHistories(session.frontier, (one) => ({
        ...one,
        idsSuffice: one.lastTransactionIds.length > 0,
      }))
    }
    this.#oracle.wasShown(session, world, opened.shown)
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
    this.#oracle.wrote(session, transactionId, commitTimestamp, [world])
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
    this.#oracle.wrote(session, id, timestamp, [home, participant])
  }

  /**
   * T7: its first use is told, and joined. What that left on the participant is looked for on the primary of now; what is gone, or not
   * told because the participant is away, is told by the next read there.
   */
  #useKeyAgain(session: Session, index: number, isAway: boolean): void {
    const uses = [...this.#oracle.globals.values()]
    const first = uses[index % Math.max(1, uses.length)]
    if (first === undefined) return
    const { transactionId, commitTimestamp } = first
    const [home, participant] = first.shards.map((name) => present(this.#shardNamed(name), 'a shard of the model'))
    if (home === undefined || participant === undefined) return
    if (!shownBy(home.primary).visible.has(transactionId)) return
    const isThere = participant.log.some((record) => 'id' in record && record.id === transactionId)
    const isNamed =
      (isThere && !isAway) || this.#plant === 'HZ-T3: a key that is used again names a branch that is gone'
    const atHome = { ...this.#met(home), transactionId, commitTimestamp, flushedAfterCommit: lsn(home.log.length) }
    const prepared = { ...this.#met(participant), transactionId, commitTimestamp, flushedAfterPrepare: lsn(0) }
    const told = advanceByCommit(emptyFrontier, atHome)
    const isDropped = this.#plant === 'S11: a key that is used again drops a branch in silence'
    const unknown = isDropped ? told : advanceByUnknownBranch(told, prepared)
    session.frontier = joinFrontiers(session.frontier, isNamed ? advanceByBranch(told, prepared) : unknown)
    for (const world of [home, participant]) session.seen.add(`${world.name} ${transactionId}`)
  }

  #shardNamed(name: ShardName): ShardWorld | undefined {
    return this.shards.find((world) => world.name === name)
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
    if (this.#plant !== 'S2: a join keeps one side') {
      session.frontier = joinFrontiers(session.frontier, other.frontier)
    }
    if (this.#plant === 'S11: an older history falls out in silence') session.frontier = newestOnly(session.frontier)
    session.seen = new Set([...session.seen, ...other.seen])
    session.past = new Set([...session.past, ...other.past])
  }

  #promote(world: ShardWorld, server: Server): void {
    if (server.isPrimary || server.log !== world.log) return
    const promote = () => this.#oracle.noteCutOff(world, () => world.promote(server))
    this.#processes.endBy(world, promote, false)
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
    const cutOver = () => this.#oracle.noteCutOff(world, () => world.cutOver(first.at, ids, rowLast))
    this.#processes.endBy(world, cutOver, true)
  }

  #startAnew(session: Session): void {
    this.told += 1
    Object.assign(session, { frontier: emptyFrontier, ...nothingSeen() })
  }

  #newId(): TransactionId {
    this.#ids += 1
    return transaction(this.#ids)
  }
}

function copyOf({ frontier, seen, past }: Session): Session {
  return { frontier, seen: new Set(seen), past: new Set(past) }
}
