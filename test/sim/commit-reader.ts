import { present } from '../../src/base/assert.ts'
import type { CommitEvent } from '../../src/transaction/commit-protocol.ts'
import { toHlc } from '../../src/hlc/hlc.ts'
import { nameOf, scheduledFailure } from './commit-names.ts'
import type { Server } from './commit-server.ts'
import type { Answer, Client, Opened, Reading, World } from './commit-world.ts'

/** One that was begun before there was anything to confirm. */
interface EarlyBarrier {
  passed: boolean | undefined
  hear: ((passed: boolean) => void) | undefined
}

/**
 * A participant that only reads, as far as messages go: a statement, and behind it the vote, which is the end of it there
 * together with a barrier on the connection that read. A batch travels with its vote. That under `serializable` it ends in a
 * commit is for PostgreSQL to make something of (`serializable-reader.pg.test.ts`).
 */
export class Reader {
  readonly shard: number
  readonly #world: World
  readonly #gateway: number
  readonly #client: Client
  readonly #isBatched: boolean
  #opened: Opened | undefined
  #early: EarlyBarrier | undefined

  constructor(world: World, gateway: number, client: Client, shard: number, isBatched: boolean) {
    this.#world = world
    this.#gateway = gateway
    this.#client = client
    this.shard = shard
    this.#isBatched = isBatched
  }

  /** What is awaited. */
  read(tell: (answered: boolean) => void): void {
    if (this.#isBatched) return tell(true)
    this.#beginEarly()
    let read: Read | undefined
    const look = readAt(this.#world, this.shard)
    this.#world.send(
      this.#gateway,
      this.shard,
      (server, heard) => {
        read = look(server)
        heard({ kind: 'ok', value: 0 })
      },
      (answer) => {
        if (answer.kind !== 'ok' || read === undefined) return tell(false)
        this.#opened = read.opened
        this.#client.readings.push(read.reading)
        tell(true)
      },
    )
  }

  vote(hear: (event: CommitEvent) => void): void {
    if (this.#isBatched) this.#beginEarly()
    const shard = nameOf(this.shard)
    let clock = 0
    let read: Read | undefined
    const look = readAt(this.#world, this.shard)
    const conclude = (server: Server, heard: (answer: Answer) => void) => {
      if (this.#isBatched) read = look(server)
      clock = server.clock
      if (this.#world.parts.readerBarrier !== 'behind the read') return heard({ kind: 'ok', value: 0 })
      this.#world.commit(server, server.append({ kind: 'barrier' }, true), heard)
    }
    const end = (passed: boolean) => {
      if (!passed) return hear({ kind: 'vote no', shard, failure: scheduledFailure })
      if (read !== undefined) this.#client.readings.push(read.reading)
      hear({ kind: 'vote read', shard, timestamp: toHlc(BigInt(clock)) })
    }
    const reply = (answer: Answer) => {
      if (answer.kind !== 'ok') return end(false)
      const early = this.#early
      if (early === undefined || early.passed !== undefined) return end(early?.passed ?? true)
      early.hear = end
    }
    if (this.#isBatched) return this.#world.send(this.#gateway, this.shard, conclude, reply)
    const { server, life } = present(this.#opened, 'it has read')
    if (server.life !== life) return reply({ kind: 'lost' })
    this.#world.sendTo(this.#gateway, server, conclude, reply)
  }

  /** As in a gateway that does not wait for the read. */
  #beginEarly(): void {
    if (this.#world.parts.readerBarrier !== 'with the read') return
    const early: EarlyBarrier = { passed: undefined, hear: undefined }
    this.#early = early
    const server = present(this.#world.known[this.#gateway]?.[this.shard], 'a known primary')
    this.#world.barrier(this.#gateway, server, (passed) => {
      early.passed = passed
      early.hear?.(passed)
    })
  }
}

/** Somebody commits a row there; once that is acknowledged, whoever reads afterwards must be shown it. */
export function writeRow(world: World, gateway: number, shard: number): void {
  const write = { id: world.writes.length, shard, isAcknowledged: false }
  world.writes.push(write)
  world.send(
    gateway,
    shard,
    (server, heard) => {
      server.clock += 1
      const position = server.append({ kind: 'row', id: write.id, timestamp: server.clock }, true)
      world.commit(server, position, heard)
    },
    (answer) => (write.isAcknowledged = answer.kind === 'ok'),
  )
}

interface Read {
  readonly reading: Reading
  readonly opened: Opened
}

/** A statement that reads, sent now: what it is shown where it arrives. */
function readAt(world: World, shard: number): (server: Server) => Read {
  const acknowledged = world.writes.filter((one) => one.shard === shard && one.isAcknowledged).map(({ id }) => id)
  return (server) => ({
    reading: { shard, shown: server.shown(), acknowledged },
    opened: { server, life: server.life },
  })
}
