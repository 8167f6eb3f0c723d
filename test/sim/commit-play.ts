import { present } from '../../src/base/assert.ts'
import { Collector } from './commit-collector.ts'
import { Coordinator } from './commit-coordinator.ts'
import { keys } from './commit-keys.ts'
import { resolve } from './commit-resolver.ts'
import { followers } from './commit-server.ts'
import { Reader, writeRow } from './commit-reader.ts'
import { verdict } from './commit-verdict.ts'
import type { Parts } from './commit-parts.ts'
import { World } from './commit-world.ts'

/**
 * A deterministic scheduler over the world of `commit-world.ts`. A schedule is a list of numbers: each picks one of what
 * can happen next. At its end all faults stop, resolvers run until nothing is prepared, and the world is held against
 * what clients were told.
 */
export interface Outcome {
  readonly violations: readonly string[]
  /** What happened, a word a choice; two schedules with one trace are one interleaving. */
  readonly trace: readonly string[]
}

const shards = 3
const gateways = 2
const transactionsMax = 3
const choicesMax = 90
const settleStepsMax = 4_000

interface Budget {
  crash: number
  promote: number
  cancel: number
  lose: number
  die: number
  collect: number
  forget: number
  write: number
}

export type Choice = readonly [name: string, run: () => void]

/** A small generator with a 32-bit seed (mulberry32): the same seed gives the same schedule everywhere. */
export function numbersFrom(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return (mixed ^ (mixed >>> 14)) >>> 0
  }
}

/**
 * Plays one schedule. `pick` is asked once a choice, and told what there is; undefined ends the schedule early. Choices whose
 * names match `skip` are none.
 */
export function play(parts: Parts, pick: (choices: readonly Choice[]) => number | undefined, skip?: RegExp): Outcome {
  const world = new World(parts, shards, gateways)
  const collector = new Collector(world)
  const budget: Budget = { crash: 2, promote: 2, cancel: 2, lose: 3, die: 1, collect: 3, forget: 3, write: 3 }
  const trace: string[] = []
  for (let taken = 0; taken < choicesMax; taken += 1) {
    const choices = choicesOf(world, collector, budget).filter(([name]) => skip?.test(name) !== true)
    const picked = pick(choices)
    if (picked === undefined || choices.length === 0) break
    const [name, run] = present(choices[picked % choices.length], 'one of the choices')
    trace.push(name)
    run()
  }
  const violations = settle(world, trace)
  return { violations: [...violations, ...verdict(world)], trace }
}

function choicesOf(world: World, collector: Collector, budget: Budget): Choice[] {
  const choices: Choice[] = []
  const may = (name: string, run: () => void) => choices.push([name, run])
  if (world.clients.length < transactionsMax) {
    may('begin 1+2', () => begin(world, world.alive[0] === true ? 0 : 1, [1, 2]))
    may('begin 1', () => begin(world, 1, [1]))
    may('begin 1, read 2', () => begin(world, 1, [1], [2]))
    may('begin 1, check 2', () => begin(world, 1, [1], [2], { isBatched: true }))
    may('begin 1 with the key', () => begin(world, world.alive[0] === true ? 0 : 1, [1], [], { key: keys[0] }))
  }
  for (const [index] of world.messages.entries()) may(`deliver ${index}`, () => deliver(world, index))
  for (const [index, wait] of world.waits.entries()) {
    if (wait.server.isReplicated(wait.position)) may(`acknowledge ${index}`, () => endWait(world, index, 'ok'))
  }
  replicate(world, may)
  learn(world, may)
  takeUp(world, may)
  faults(world, collector, budget, may)
  return choices
}

/** Home is open at the primary that the gateway knows; the commit begins. */
function begin(
  world: World,
  gateway: number,
  participants: readonly number[],
  read: readonly number[] = [],
  { isBatched = false, key }: { readonly isBatched?: boolean; readonly key?: number | undefined } = {},
): void {
  const client = world.join(participants, key)
  const readers = read.map((shard) => new Reader(world, gateway, client, shard, isBatched))
  const coordinator = new Coordinator(world, gateway, client, readers)
  world.onDeath(gateway, () => coordinator.die())
  coordinator.begin()
}

type May = (name: string, run: () => void) => void

function deliver(world: World, index: number): void {
  const [message] = world.messages.splice(index, 1)
  const { server, life, run, reply } = present(message, 'a message')
  if (server.life === life) run(server, reply)
  else reply({ kind: 'lost' })
}

function endWait(world: World, index: number, how: 'ok' | 'warned' | 'cut'): void {
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

function replicate(world: World, may: May): void {
  for (const server of world.current) {
    for (let follower = 0; follower < followers; follower += 1) {
      const received = present(server.received[follower], 'a follower')
      if (received < server.log.length) {
        may(`replicate ${server.shard}.${follower}`, () => void (server.received[follower] = received + 1))
      }
    }
  }
}

function learn(world: World, may: May): void {
  for (const [gateway, known] of world.known.entries()) {
    for (const server of world.current) {
      if (known[server.shard] !== server) {
        may(`gateway ${gateway} learns of ${server.shard}`, () => void (known[server.shard] = server))
      }
    }
  }
}

function takeUp(world: World, may: May): void {
  if (world.resolving > 2) return
  for (const participant of [1, 2]) {
    for (const id of present(world.known[1]?.[participant], 'a known participant').prepared()) {
      may(`resolve ${id} at ${participant}`, () => resolve(world, 1, participant, id, true))
      may(`push ${id} at ${participant}`, () => resolve(world, 1, participant, id, false))
    }
  }
}

function faults(world: World, collector: Collector, budget: Budget, may: May): void {
  const once = (kind: keyof Budget, name: string, run: () => void) => {
    if (budget[kind] === 0) return
    may(name, () => {
      budget[kind] -= 1
      run()
    })
  }
  for (const { shard } of world.current) {
    once('crash', `crash ${shard}`, () => world.crashServer(shard))
    once('promote', `promote ${shard}`, () => void world.promoteShard(shard, [true, true]))
    once('promote', `promote ${shard} with one`, () => void world.promoteShard(shard, [true, false]))
  }
  for (const [index, wait] of world.waits.entries()) {
    once('cancel', `cancel ${index}`, () => endWait(world, index, 'warned'))
    if (wait.reply !== undefined) once('lose', `cut ${index}`, () => endWait(world, index, 'cut'))
  }
  for (const [index] of world.messages.entries()) {
    once('lose', `lose ${index}`, () => world.messages.splice(index, 1)[0]?.reply({ kind: 'lost' }))
  }
  once('write', 'write 2', () => writeRow(world, world.alive[0] === true ? 0 : 1, 2))
  if (world.alive[0] === true) once('die', 'gateway 0 dies', () => world.die(0))
  for (const id of budget.collect === 0 ? [] : collector.candidates()) {
    once('collect', `collect ${id}`, () => collector.collect(id))
  }
  if (collector.mayRemove) may('remove records', () => collector.remove())
  for (const server of budget.forget === 0 ? [] : collector.forgettable()) {
    once('forget', `forget decisions at ${server.shard}`, () => collector.forget(server))
  }
  if (budget.forget > 0 && collector.hasKeys) once('forget', 'collect keys', () => collector.collectKeys())
}

/** Faults are over: everything is delivered and replicated, and gateway 1 resolves what is left. */
function settle(world: World, trace: string[]): string[] {
  for (let steps = 0; steps < settleStepsMax; steps += 1) {
    for (const known of world.known) for (const server of world.current) known[server.shard] = server
    for (const server of world.current) server.received.fill(server.log.length)
    // A primary of the past is gone by now, and with it whoever waits there.
    const wait = world.waits.findIndex(
      ({ server, position }) => !world.current.includes(server) || server.isReplicated(position),
    )
    if (wait >= 0) {
      const isGone = !world.current.includes(present(world.waits[wait], 'a wait').server)
      if (isGone) present(world.waits[wait], 'a wait').server.crash()
      const [ended] = isGone ? world.waits.splice(wait, 1) : []
      if (isGone) ended?.reply?.({ kind: 'lost' })
      else endWait(world, wait, 'ok')
    } else if (world.messages.length > 0) {
      deliver(world, 0)
    } else if (!resolveOne(world)) {
      trace.push('settled')
      return []
    }
  }
  return ['it does not settle']
}

function resolveOne(world: World): boolean {
  if (world.stuck.length > 0) return false
  for (const participant of [1, 2]) {
    const [id] = present(world.current[participant], 'a participant').prepared()
    if (id === undefined) continue
    // Nobody waits for a branch to grow old: no coordinator is left that holds its home open.
    resolve(world, 1, participant, id, false)
    return true
  }
  return false
}

/** Plays choices by their names, in order; a name that is no choice when its turn comes is passed over. */
export function playScript(parts: Parts, script: readonly string[]): Outcome {
  let turn = 0
  return play(parts, (choices) => {
    for (; turn < script.length; turn += 1) {
      const found = choices.findIndex(([name]) => name === script[turn])
      if (found < 0) continue
      turn += 1
      return found
    }
    return undefined
  })
}

export interface Exploration {
  readonly schedules: number
  readonly distinct: number
  readonly failed:
    | { readonly seed: number; readonly violations: readonly string[]; readonly trace: readonly string[] }
    | undefined
}

export interface ExplorationOptions {
  readonly seed: number
  readonly schedules: number
  /** Choices to do without, so that what takes many of the others comes up more often. */
  readonly skip?: RegExp | undefined
}

/** Plays schedules of consecutive seeds until one fails. */
export function explore(parts: Parts, options: ExplorationOptions): Exploration {
  const { skip } = options
  const traces = new Set<number>()
  for (let played = 0; played < options.schedules; played += 1) {
    const seed = options.seed + played
    const next = numbersFrom(seed)
    const { violations, trace } = play(parts, () => next(), skip)
    traces.add(hashOf(trace))
    if (violations.length > 0) {
      return { schedules: played + 1, distinct: traces.size, failed: { seed, ...shrink(parts, seed, skip) } }
    }
  }
  return { schedules: options.schedules, distinct: traces.size, failed: undefined }
}

/** Drops choices for as long as it still fails. */
function shrink(parts: Parts, seed: number, skip?: RegExp): Outcome {
  const next = numbersFrom(seed)
  let picks = Array.from({ length: choicesMax }, () => next())
  let best = playPicks(parts, picks, skip)
  for (let size = 32; size >= 1; size = Math.floor(size / 2)) {
    for (let at = picks.length - size; at >= 0; at -= size) {
      const fewer = [...picks.slice(0, at), ...picks.slice(at + size)]
      const outcome = playPicks(parts, fewer, skip)
      if (outcome.violations.length === 0) continue
      picks = fewer
      best = outcome
    }
  }
  return best
}

function playPicks(parts: Parts, picks: readonly number[], skip?: RegExp): Outcome {
  const left = picks.values()
  return play(parts, () => left.next().value, skip)
}

function hashOf(trace: readonly string[]): number {
  let [low, high] = [0x811c9dc5, 0x1000193]
  for (const word of trace) {
    for (let at = 0; at < word.length; at += 1) {
      low = Math.imul(low ^ word.charCodeAt(at), 0x01000193)
      high = Math.imul(high ^ word.charCodeAt(at), 0x85ebca6b)
    }
    low = Math.imul(low ^ 0x20, 0x01000193)
  }
  return (high >>> 11) * 2 ** 32 + (low >>> 0)
}
