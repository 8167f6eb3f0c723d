import { present } from '../../src/base/assert.ts'
import type { TransactionId } from '../../src/directory/topology.ts'
import type { RecordFacts, ShardFacts } from '../../src/transaction/collection.ts'
import { keys } from './commit-keys.ts'
import { nameOf } from './commit-names.ts'
import type { Server } from './commit-server.ts'
import type { World } from './commit-world.ts'
import { home } from './commit-world.ts'

/**
 * The collector of home's records, and of what goes behind them, as far as messages go: it tells the participants, looks,
 * raises, and removes. Each is one choice of the scheduler, and any may be the last. An id is also the time of its birth.
 */
export class Collector {
  readonly #world: World
  #raised: { readonly server: Server; readonly position: number; readonly ids: readonly number[] } | undefined

  constructor(world: World) {
    this.#world = world
  }

  /** The next step towards it: to tell those who were not told, else to look and raise. */
  collect(id: number): void {
    const untold = this.#participants().filter((server) => server.announcedThrough < id)
    for (const server of untold) server.append({ kind: 'announced', through: id }, false)
    if (untold.length === 0) this.#raise(id)
  }

  /** Sees every shard behind a barrier, and raises the watermark as far as the product would. */
  #raise(id: number): void {
    const server = this.#home
    if (!server.isReplicated(server.log.length)) return
    const records = this.#records(server, id)
    if (records.length === 0) return
    const shards = new Map(this.#participants().map((at) => [nameOf(at.shard), this.#factsOf(at, id)] as const))
    const { throughMs, collect } = this.#world.parts.judgeCollection(id + 1, records, shards)
    if (throughMs === undefined) return
    const position = server.append({ kind: 'watermark', through: throughMs - 1 }, false)
    this.#raised = { server, position, ids: collect.map(Number) }
  }

  get mayRemove(): boolean {
    return this.#raised?.server.isCurrent === true && this.#raised.server.isReplicated(this.#raised.position)
  }

  remove(): void {
    const { server, ids } = present(this.#raised, 'something was raised')
    for (const id of ids) server.append({ kind: 'uncollected', id }, false)
    this.#raised = undefined
  }

  /** K7: participants with decisions that go, by what home's watermark is behind a barrier. */
  forgettable(): Server[] {
    return this.#participants().filter((server) => this.#decisionsOf(server).length > 0)
  }

  forget(server: Server): void {
    for (const id of this.#decisionsOf(server)) server.append({ kind: 'forgotten', id }, false)
  }

  #decisionsOf(server: Server): number[] {
    const isAtOnce = this.#world.parts.decisionsGo === 'at once'
    const through = Math.min(this.#home.collectedThrough, server.announcedThrough)
    if (!isAtOnce && (through < 0 || !this.#home.isReplicated(this.#home.log.length))) return []
    return this.#world.clients.flatMap(({ id }) =>
      (isAtOnce || id <= through) && server.decision(id)?.committed === false ? [id] : [],
    )
  }

  /** K8: whether home has a key to collect. Whoever was born by now is old by then. */
  get hasKeys(): boolean {
    return keys.some((key) => typeof this.#home.userOf(key) === 'number')
  }

  collectKeys(): void {
    const refuses = this.#world.parts.refusesOldClaims
    this.#home.append({ kind: 'keys', through: this.#world.clients.length - 1, refuses }, false)
  }

  get #home(): Server {
    return present(this.#world.current[home], 'a home')
  }

  #participants(): Server[] {
    return this.#world.current.filter(({ shard }) => shard !== home)
  }

  #records(server: Server, through: number): RecordFacts[] {
    return this.#world.clients.flatMap(({ id, participants }) => {
      const found = server.record(id)
      if (id > through || found === undefined || found === 'held') return []
      const outcome = found.committed ? 'COMMITTED' : 'ABORTED'
      return [{ transactionId: idOf(id), bornMs: id, outcome, participants: participants.map(nameOf) } as const]
    })
  }

  #factsOf(server: Server, id: number): ShardFacts {
    const { parts, clients } = this.#world
    if (parts.announcesCollection && server.announcedThrough < id) return { kind: 'not seen', why: 'it was not told' }
    if (parts.collectsReplicated && !server.isReplicated(server.log.length)) {
      return { kind: 'not seen', why: 'no barrier passes' }
    }
    const visible = clients.filter((client) => server.branch(client.id) === 'committed')
    return {
      kind: 'seen',
      prepared: [...server.prepared].map((one) => ({ transactionId: idOf(one), bornMs: one })),
      visible: new Set(visible.map((client) => idOf(client.id))),
    }
  }
}

const idOf = (id: number) => String(id) as TransactionId
