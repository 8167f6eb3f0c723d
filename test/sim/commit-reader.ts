import { present } from '../../src/base/assert.ts'
import type { CommitEvent } from '../../src/transaction/commit-protocol.ts'
import { toHlc } from '../../src/hlc/hlc.ts'
import { nameOf, scheduledFailure } from './commit-names.ts'
import type { Answer, Client, Opened, Reading, World } from './commit-world.ts'

/** One that was begun before there was anything to confirm. */
interface EarlyBarrier {
  passed: boolean | undefined
  hear: ((passed: boolean) => void) | undefined
}

/**
 * A participant that only reads, as far as messages go: a statement, and behind it the vote, which is the end of it there
 * together with a barrier on the server that was read. That under `serializable` it ends in a commit is for PostgreSQL to
 * make something of (`reader.pg.test.ts`).
 */
export class Reader {
  readonly shard: number
  readonly #world: World
  readonly #gateway: number
  readonly #client: Client
  #opened: Opened | undefined
  #early: EarlyBarrier | undefined

  constructor(world: World, gateway: number, client: Client, shard: number) {
    this.#world = world
    this.#gateway = gateway
    this.#client = client
    this.shard = shard
  }

  read(tell: (answered: boolean) => void): void {
    if (this.#world.parts.readerBarrier === 'with the read') this.#beginEarly()
    readAt(this.#world, this.#gateway, this.shard, (read) => {
      if (read === undefined) return tell(false)
      this.#opened = read.opened
      this.#client.readings.push(read.reading)
      tell(true)
    })
  }

  vote(hear: (event: CommitEvent) => void): void {
    const shard = nameOf(this.shard)
    const opened = present(this.#opened, 'it has read')
    let clock: number | undefined
    let hasPassed = false
    let isOver = false
    const refuse = () => {
      if (!isOver) hear({ kind: 'vote no', shard, failure: scheduledFailure })
      isOver = true
    }
    const conclude = () => {
      if (isOver || clock === undefined || !hasPassed) return
      isOver = true
      hear({ kind: 'vote read', shard, timestamp: toHlc(BigInt(clock)) })
    }
    concludeAt(this.#world, this.#gateway, opened, (answer) => {
      if (answer.kind !== 'ok') return refuse()
      clock = answer.value
      conclude()
    })
    this.#barrier(opened, (passed) => {
      if (!passed) return refuse()
      hasPassed = true
      conclude()
    })
  }

  #barrier({ server }: Opened, tell: (passed: boolean) => void): void {
    switch (this.#world.parts.readerBarrier) {
      case 'behind the read':
        return this.#world.barrier(this.#gateway, server, tell)
      case 'with the read': {
        const early = present(this.#early, 'it was begun')
        if (early.passed !== undefined) return tell(early.passed)
        early.hear = tell
        return
      }
      case 'never':
        return tell(true)
    }
  }

  #beginEarly(): void {
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

/** A statement that reads, at the primary that a gateway knows. Tells nothing where its answer is lost. */
function readAt(world: World, gateway: number, shard: number, tell: (read: Read | undefined) => void): void {
  const acknowledged = world.writes.filter((one) => one.shard === shard && one.isAcknowledged).map(({ id }) => id)
  let read: Read | undefined
  world.send(
    gateway,
    shard,
    (server, heard) => {
      read = { reading: { shard, shown: server.shown(), acknowledged }, opened: { server, life: server.life } }
      heard({ kind: 'ok', value: 0 })
    },
    (answer) => tell(answer.kind === 'ok' ? read : undefined),
  )
}

/** The end of who only read, on the connection that it read on: the clock there, above whatever was read. */
function concludeAt(world: World, gateway: number, { server, life }: Opened, reply: (answer: Answer) => void): void {
  if (server.life !== life) return reply({ kind: 'lost' })
  world.sendTo(gateway, server, (at, heard) => heard({ kind: 'ok', value: at.clock }), reply)
}
