import { present } from '../../src/base/assert.ts'
import { toHlc } from '../../src/hlc/hlc.ts'
import type { Decision } from '../../src/transaction/decision-store.ts'
import type { Parts } from './commit-parts.ts'
import type { Shown } from './commit-server.ts'
import { Server } from './commit-server.ts'

/**
 * Shards, and the actors of a global commit on them: coordinators and resolvers run the very step functions of the
 * product, against servers that lose, delay, crash and are promoted away. Whatever can happen next is one choice of a
 * scheduler (`commit-play.ts`); nothing happens by itself.
 */
export const home = 0
export type Answer =
  | { readonly kind: 'ok' | 'warned'; readonly value: number }
  | { readonly kind: 'record'; readonly decision: Decision }
  | { readonly kind: 'none'; readonly homeIsOpen: boolean; readonly couldBeCollected: boolean }
  /** The key was used by another. */
  | { readonly kind: 'used'; readonly by: number }
  | { readonly kind: 'refused' | 'person' | 'lost' }
type Reply = (answer: Answer) => void

interface Message {
  readonly server: Server
  readonly life: number
  readonly run: (server: Server, reply: Reply) => void
  readonly reply: Reply
}

interface Wait {
  readonly server: Server
  readonly life: number
  readonly position: number
  reply: Reply | undefined
  /** What ends with it on the server, whether or not somebody hears of it. */
  readonly onEnd: (() => void) | undefined
}

export interface Client {
  readonly id: number
  readonly participants: readonly number[]
  /** What it read where it only reads. */
  readonly readings: Reading[]
  /** Of its request; another transaction may be of the same. */
  readonly key: number | undefined
  /** `replayed`: what became of the first use of its key. */
  told: 'nothing' | 'committed' | 'aborted' | 'ambiguous' | { readonly replayed: number }
}

/** A local commit at a participant. */
export interface LocalWrite {
  readonly id: number
  readonly shard: number
  isAcknowledged: boolean
}

/** What was shown at a shard, and what had been acknowledged there when it was asked for. */
export interface Reading {
  readonly shard: number
  readonly shown: readonly Shown[]
  readonly acknowledged: readonly number[]
}

/** A server, and its connections of one life. */
export interface Opened {
  readonly server: Server
  readonly life: number
}

export class World {
  readonly parts: Parts
  readonly current: Server[]
  /** Per gateway, the primaries that it knows. */
  readonly known: Server[][]
  readonly alive: boolean[]
  readonly messages: Message[] = []
  readonly waits: Wait[] = []
  readonly clients: Client[] = []
  readonly writes: LocalWrite[] = []
  readonly stuck: string[] = []
  readonly #deaths: (() => void)[][]
  resolving = 0

  constructor(parts: Parts, shards: number, gateways: number) {
    this.parts = parts
    this.current = Array.from({ length: shards }, (_, shard) => new Server(shard, 1, [], 0))
    this.known = Array.from({ length: gateways }, () => [...this.current])
    this.alive = Array.from({ length: gateways }, () => true)
    this.#deaths = Array.from({ length: gateways }, () => [])
  }

  onDeath(gateway: number, run: () => void): void {
    this.#deaths[gateway]?.push(run)
  }

  die(gateway: number): void {
    this.alive[gateway] = false
    for (const run of this.#deaths[gateway] ?? []) run()
  }

  crashServer(shard: number): void {
    const server = present(this.current[shard], 'a shard')
    server.crash()
    // Whoever waited there is gone, and the entry is shown.
    for (let at = this.waits.length - 1; at >= 0; at -= 1) {
      const wait = this.waits[at]
      if (wait?.server !== server) continue
      this.waits.splice(at, 1)
      wait.reply?.({ kind: 'lost' })
    }
  }

  promoteShard(shard: number, answers: readonly boolean[]): boolean {
    const old = present(this.current[shard], 'a shard')
    const server = this.parts.promote(old, answers)
    if (server === undefined) return false
    server.clock = server.log.reduce(
      (most, entry) => ('timestamp' in entry ? Math.max(most, entry.timestamp) : most),
      0,
    )
    this.current[shard] = server
    return true
  }

  /** A commit on a server; `answer` is what its acknowledgement says. */
  commit(server: Server, position: number, reply: Reply, onEnd?: () => void): void {
    this.waits.push({ server, life: server.life, position, reply, onEnd })
  }

  send(gateway: number, shard: number, run: Message['run'], reply: Reply): void {
    const server = present(this.known[gateway]?.[shard], 'a known primary')
    this.sendTo(gateway, server, run, reply)
  }

  sendTo(gateway: number, server: Server, run: Message['run'], reply: Reply): void {
    this.messages.push({
      server,
      life: server.life,
      run,
      reply: (answer) => {
        if (this.alive[gateway] === true) reply(answer)
      },
    })
  }

  /** A client whose statements are done, with its transaction's id. */
  join(participants: readonly number[], key?: number): Client {
    const client: Client = { id: this.clients.length, participants, readings: [], key, told: 'nothing' }
    this.clients.push(client)
    return client
  }

  /** What stands at the home that a gateway knows. */
  readRecord(gateway: number, id: number, reply: Reply): void {
    this.send(gateway, home, (server, heard) => heard(readRecord(server, id)), reply)
  }

  presumeAbort(gateway: number, id: number, reply: Reply): void {
    this.send(gateway, home, (server, heard) => this.presume(server, id, heard), reply)
  }

  barrier(gateway: number, readAt: Server, tell: (passed: boolean) => void): void {
    const { shard } = readAt
    const known = present(this.known[gateway]?.[shard], 'a known primary')
    if (this.parts.barrierNamesEpoch && known !== readAt) return tell(false)
    this.sendTo(
      gateway,
      known,
      (server, reply) => this.commit(server, server.append({ kind: 'barrier' }, true), reply),
      (answer) =>
        tell(answer.kind === 'ok' && (!this.parts.barrierNamesEpoch || this.known[gateway]?.[shard] === readAt)),
    )
  }

  /** What stands at home once ABORTED was written unless there was a record. */
  presume(server: Server, id: number, reply: Reply): void {
    const found = server.record(id)
    if (found === 'held') return reply({ kind: 'lost' })
    if (found !== undefined) return reply(readRecord(server, id))
    if (id <= server.collectedThrough) return reply({ kind: 'person' })
    const position = server.append({ kind: 'record', id, committed: false, timestamp: 0 }, true)
    this.commit(server, position, (answer) => {
      reply(
        answer.kind === 'ok' || answer.kind === 'warned'
          ? { kind: 'record', decision: { outcome: 'ABORTED' } }
          : answer,
      )
    })
  }

  /** The decision, then the settlement. They travel together; whatever else may happen between them, as where a server dies. */
  settle(gateway: number, participant: number, id: number, decision: Decision, epoch: number, reply: Reply): void {
    const committed = decision.outcome === 'COMMITTED'
    const timestamp = decision.outcome === 'COMMITTED' ? Number(decision.commitTimestamp) : 0
    this.send(
      gateway,
      participant,
      (server, heard) => {
        if (this.parts.requireHomeEpoch && epoch < server.homeEpochSeen) return heard({ kind: 'refused' })
        const known = server.decision(id)
        if (known !== undefined && known.committed !== committed) return heard({ kind: 'person' })
        if (known === undefined || epoch > server.homeEpochSeen) {
          server.append({ kind: 'decision', id, committed, timestamp, epoch }, false)
        }
        server.clock = Math.max(server.clock, timestamp)
        heard({ kind: 'ok', value: 0 })
      },
      (answer) => {
        if (answer.kind !== 'ok') return reply(answer)
        this.send(
          gateway,
          participant,
          (server, heard) => {
            const found = server.branch(id)
            if (found === 'prepared') server.append({ kind: 'settle', id, committed, timestamp }, false)
            const isThere = server.branch(id) === 'committed'
            heard(isThere === committed ? { kind: 'ok', value: 0 } : { kind: 'person' })
          },
          reply,
        )
      },
    )
  }

  prepare(gateway: number, participant: number, id: number, reply: Reply): void {
    this.send(
      gateway,
      participant,
      (server, heard) => {
        if (this.parts.announcesCollection && id <= server.announcedThrough) return heard({ kind: 'refused' })
        server.clock += 1
        const timestamp = server.clock
        const position = server.append({ kind: 'prepare', id, timestamp }, false)
        this.commit(server, position, (answer) =>
          heard(answer.kind === 'ok' || answer.kind === 'warned' ? { ...answer, value: timestamp } : answer),
        )
      },
      reply,
    )
  }

  observe(gateway: number, after: number, reply: Reply): void {
    this.send(
      gateway,
      home,
      (server, heard) => {
        server.clock = Math.max(server.clock, after)
        heard({ kind: 'ok', value: 0 })
      },
      reply,
    )
  }

  /** Home's own commit, on the connection that was opened: to that primary, in that life. */
  decide(gateway: number, opened: Opened, id: number, after: number, reply: Reply): void {
    const { server } = opened
    if (server.life !== opened.life) return reply({ kind: 'lost' })
    this.sendTo(
      gateway,
      server,
      (at, heard) => {
        const found = at.record(id)
        if (found === 'held' || !at.open.has(id)) return heard({ kind: 'lost' })
        at.clock += 1
        if (found !== undefined || id <= at.collectedThrough || at.clock <= after) {
          at.open.delete(id)
          return heard({ kind: 'refused' })
        }
        const timestamp = at.clock
        const key = this.clients[id]?.key
        const position = at.append({ kind: 'record', id, committed: true, timestamp, key }, true)
        const tell = (answer: Answer) =>
          heard(answer.kind === 'ok' || answer.kind === 'warned' ? { ...answer, value: timestamp } : answer)
        this.commit(at, position, tell, () => at.open.delete(id))
      },
      reply,
    )
  }

  /** Home's part is rolled back, or its connection ends: the server hears of it by and by, but not while it commits. */
  endHome(opened: Opened, id: number): void {
    const { server, life } = opened
    this.messages.push({
      server,
      life,
      run: (at) => {
        if (at.record(id) !== 'held') at.open.delete(id)
      },
      reply: () => {
        if (server.life === life) this.endHome(opened, id)
      },
    })
  }

  /** The question after an unanswered decision: what stands at home, behind a barrier there. */
  ask(gateway: number, id: number, tell: (answer: Answer) => void): void {
    const primary = present(this.known[gateway]?.[home], 'a known home')
    this.sendTo(
      gateway,
      primary,
      (server, reply) => this.presume(server, id, reply),
      (answer) => {
        if (answer.kind !== 'record') return tell({ kind: 'lost' })
        this.barrier(gateway, primary, (passed) => tell(passed ? answer : { kind: 'lost' }))
      },
    )
  }
}

function readRecord(server: Server, id: number): Answer {
  const found = server.record(id)
  if (found === 'held' || found === undefined) {
    return { kind: 'none', homeIsOpen: server.open.has(id), couldBeCollected: id <= server.collectedThrough }
  }
  if (!found.committed) return { kind: 'record', decision: { outcome: 'ABORTED' } }
  return { kind: 'record', decision: { outcome: 'COMMITTED', commitTimestamp: toHlc(BigInt(found.timestamp)) } }
}
