import { assert, present } from '../../src/base/assert.ts'
import { Collector } from './commit-collector.ts'
import { Coordinator } from './commit-coordinator.ts'
import { keys } from './commit-keys.ts'
import { Reader, writeRow } from './commit-reader.ts'
import { resolve } from './commit-resolver.ts'
import { followers } from './commit-server.ts'
import type { World } from './commit-world.ts'

const transactionsMax = 3
const resolversMax = 2
const participants = [1, 2] as const

/** Faults, and what else may happen so many times and no more. */
export type Budget = Record<'crash' | 'promote' | 'cancel' | 'lose' | 'die' | 'collect' | 'forget' | 'write', number>

interface Scene {
  readonly world: World
  readonly collector: Collector
  readonly budget: Budget
}

/** Something that can happen, to what two numbers say. */
interface Deed {
  readonly name: (one: number, other: number) => string
  readonly run: (scene: Scene, one: number, other: number) => void
}

/** A deed that has a budget. */
function once(kind: keyof Budget, name: Deed['name'], run: Deed['run']): Deed {
  return {
    name,
    run: (scene, one, other) => {
      scene.budget[kind] -= 1
      run(scene, one, other)
    },
  }
}

/** The gateway of callers, which may die; then the other one. */
const callersGateway = (world: World) => (world.alive[0] === true ? 0 : 1)

const deeds = {
  beginBoth: {
    name: () => 'begin 1+2',
    run: ({ world }) => begin(world, callersGateway(world), [1, 2]),
  },
  beginOne: { name: () => 'begin 1', run: ({ world }) => begin(world, 1, [1]) },
  beginAndRead: { name: () => 'begin 1, read 2', run: ({ world }) => begin(world, 1, [1], [2]) },
  beginAndCheck: {
    name: () => 'begin 1, check 2',
    run: ({ world }) => begin(world, 1, [1], [2], { isBatched: true }),
  },
  beginWithKey: {
    name: () => 'begin 1 with the key',
    run: ({ world }) => begin(world, callersGateway(world), [1], [], { key: keys[0] }),
  },
  deliver: { name: (message) => `deliver ${message}`, run: ({ world }, message) => deliver(world, message) },
  acknowledge: { name: (wait) => `acknowledge ${wait}`, run: ({ world }, wait) => endWait(world, wait, 'ok') },
  replicate: {
    name: (shard, follower) => `replicate ${shard}.${follower}`,
    run: ({ world }, shard, follower) => {
      const { received } = present(world.current[shard], 'a shard')
      received[follower] = present(received[follower], 'a follower') + 1
    },
  },
  learn: {
    name: (gateway, shard) => `gateway ${gateway} learns of ${shard}`,
    run: ({ world }, gateway, shard) => {
      present(world.known[gateway], 'a gateway')[shard] = present(world.current[shard], 'a shard')
    },
  },
  resolve: {
    name: (id, participant) => `resolve ${id} at ${participant}`,
    run: ({ world }, id, participant) => resolve(world, 1, participant, id, true),
  },
  push: {
    name: (id, participant) => `push ${id} at ${participant}`,
    run: ({ world }, id, participant) => resolve(world, 1, participant, id, false),
  },
  crash: once(
    'crash',
    (shard) => `crash ${shard}`,
    ({ world }, shard) => world.crashServer(shard),
  ),
  promote: once(
    'promote',
    (shard) => `promote ${shard}`,
    ({ world }, shard) => void world.promoteShard(shard, [true, true]),
  ),
  promoteWithOne: once(
    'promote',
    (shard) => `promote ${shard} with one`,
    ({ world }, shard) => void world.promoteShard(shard, [true, false]),
  ),
  cancel: once(
    'cancel',
    (wait) => `cancel ${wait}`,
    ({ world }, wait) => endWait(world, wait, 'warned'),
  ),
  cut: once(
    'lose',
    (wait) => `cut ${wait}`,
    ({ world }, wait) => endWait(world, wait, 'cut'),
  ),
  lose: once(
    'lose',
    (message) => `lose ${message}`,
    ({ world }, message) => world.messages.splice(message, 1)[0]?.reply({ kind: 'lost' }),
  ),
  write: once(
    'write',
    (shard) => `write ${shard}`,
    ({ world }, shard) => writeRow(world, callersGateway(world), shard),
  ),
  die: once(
    'die',
    (gateway) => `gateway ${gateway} dies`,
    ({ world }, gateway) => world.die(gateway),
  ),
  collect: once(
    'collect',
    (id) => `collect ${id}`,
    ({ collector }, id) => collector.collect(id),
  ),
  forget: once(
    'forget',
    (shard) => `forget decisions at ${shard}`,
    ({ world, collector }, shard) => collector.forget(present(world.current[shard], 'a shard')),
  ),
  collectKeys: once(
    'forget',
    () => 'collect keys',
    ({ collector }) => collector.collectKeys(),
  ),
  remove: { name: () => 'remove records', run: ({ collector }) => collector.remove() },
} satisfies Record<string, Deed>

const deedsByNumber: readonly Deed[] = Object.values(deeds)
const number = Object.fromEntries(Object.keys(deeds).map((name, index) => [name, index])) as Record<
  keyof typeof deeds,
  number
>

/**
 * What can happen next, in an order that a schedule's numbers rest on. All of it is looked for before each choice and one
 * is taken, so a choice is a number: of its deed, and two of 8 bits of what it is done to, which a schedule's length keeps
 * small. Only who wants to read it needs its name.
 */
export class Choices {
  readonly #scene: Scene
  readonly #skip: RegExp | undefined
  readonly #choices: number[] = []
  #length = 0

  /** Choices whose names match `skip` are none. */
  constructor(world: World, budget: Budget, skip: RegExp | undefined) {
    this.#scene = { world, collector: new Collector(world), budget }
    this.#skip = skip
  }

  get length(): number {
    return this.#length
  }

  /** Where the one of that name is; undefined when it is not among them. */
  find(name: string): number | undefined {
    const found = this.#choices.slice(0, this.#length).findIndex((choice) => nameOfChoice(choice) === name)
    return found < 0 ? undefined : found
  }

  /** Does it, and says which it was. */
  take(index: number): number {
    assert(index < this.#length, 'one of the choices')
    const choice = present(this.#choices[index], 'one of the choices')
    deedOf(choice).run(this.#scene, oneOf(choice), otherOf(choice))
    return choice
  }

  look(): void {
    this.#length = 0
    this.#clients()
    this.#network()
    this.#resolvers()
    this.#faults()
    this.#collection()
  }

  #may(deed: number, one = 0, other = 0): void {
    const choice = (deed << 16) | (one << 8) | other
    if (this.#skip?.test(nameOfChoice(choice)) === true) return
    this.#choices[this.#length] = choice
    this.#length += 1
  }

  #clients(): void {
    if (this.#scene.world.clients.length >= transactionsMax) return
    this.#may(number.beginBoth)
    this.#may(number.beginOne)
    this.#may(number.beginAndRead)
    this.#may(number.beginAndCheck)
    this.#may(number.beginWithKey)
  }

  #network(): void {
    const { messages, waits, current, known } = this.#scene.world
    for (let message = 0; message < messages.length; message += 1) this.#may(number.deliver, message)
    for (let wait = 0; wait < waits.length; wait += 1) {
      const { server, position } = present(waits[wait], 'a wait')
      if (server.isReplicated(position)) this.#may(number.acknowledge, wait)
    }
    for (const { shard, received, log } of current) {
      for (let follower = 0; follower < followers; follower += 1) {
        if (present(received[follower], 'a follower') < log.length) this.#may(number.replicate, shard, follower)
      }
    }
    for (let gateway = 0; gateway < known.length; gateway += 1) {
      for (const server of current) {
        if (known[gateway]?.[server.shard] !== server) this.#may(number.learn, gateway, server.shard)
      }
    }
  }

  #resolvers(): void {
    const { world } = this.#scene
    if (world.resolving > resolversMax) return
    for (const participant of participants) {
      for (const id of present(world.known[1]?.[participant], 'a known participant').prepared) {
        this.#may(number.resolve, id, participant)
        this.#may(number.push, id, participant)
      }
    }
  }

  #faults(): void {
    const { world, budget } = this.#scene
    for (const { shard } of world.current) {
      if (budget.crash > 0) this.#may(number.crash, shard)
      if (budget.promote > 0) this.#may(number.promote, shard)
      if (budget.promote > 0) this.#may(number.promoteWithOne, shard)
    }
    for (let wait = 0; wait < world.waits.length; wait += 1) {
      if (budget.cancel > 0) this.#may(number.cancel, wait)
      if (budget.lose > 0 && world.waits[wait]?.reply !== undefined) this.#may(number.cut, wait)
    }
    if (budget.lose > 0) {
      for (let message = 0; message < world.messages.length; message += 1) this.#may(number.lose, message)
    }
    if (budget.write > 0) this.#may(number.write, 2)
    if (budget.die > 0 && world.alive[0] === true) this.#may(number.die, 0)
  }

  #collection(): void {
    const { world, collector, budget } = this.#scene
    if (budget.collect > 0) {
      // Somebody was told about it.
      for (const { id, told } of world.clients) if (told !== 'nothing') this.#may(number.collect, id)
    }
    if (collector.mayRemove) this.#may(number.remove)
    if (budget.forget === 0) return
    for (const { shard } of collector.forgettable()) this.#may(number.forget, shard)
    if (collector.hasKeys) this.#may(number.collectKeys)
  }
}

const deedOf = (choice: number) => present(deedsByNumber[choice >>> 16], 'a deed')
const oneOf = (choice: number) => (choice >>> 8) & 0xff
const otherOf = (choice: number) => choice & 0xff

export function nameOfChoice(choice: number): string {
  return deedOf(choice).name(oneOf(choice), otherOf(choice))
}

/** Home is open at the primary that the gateway knows; the commit begins. */
function begin(
  world: World,
  gateway: number,
  writes: readonly number[],
  reads: readonly number[] = [],
  { isBatched = false, key }: { readonly isBatched?: boolean; readonly key?: number | undefined } = {},
): void {
  const client = world.join(writes, key)
  const readers = reads.map((shard) => new Reader(world, gateway, client, shard, isBatched))
  const coordinator = new Coordinator(world, gateway, client, readers)
  world.onDeath(gateway, () => coordinator.die())
  coordinator.begin()
}

export function deliver(world: World, index: number): void {
  const [message] = world.messages.splice(index, 1)
  const { server, life, run, reply } = present(message, 'a message')
  if (server.life === life) run(server, reply)
  else reply({ kind: 'lost' })
}

export function endWait(world: World, index: number, how: 'ok' | 'warned' | 'cut'): void {
  const wait = present(world.waits[index], 'a wait')
  const { reply } = wait
  if (how === 'cut') {
    // The backend goes on waiting; nobody hears of it.
    wait.reply = undefined
  } else {
    world.waits.splice(index, 1)
    wait.server.reveal(wait.position)
    wait.onEnd?.()
  }
  reply?.(how === 'cut' ? { kind: 'lost' } : { kind: how, value: 0 })
}
