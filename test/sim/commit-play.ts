import { present } from '../../src/base/assert.ts'
import { Choices, deliver, endWait, nameOfChoice } from './commit-choices.ts'
import type { Parts } from './commit-parts.ts'
import { resolve } from './commit-resolver.ts'
import { verdict } from './commit-verdict.ts'
import { World } from './commit-world.ts'

/**
 * A deterministic scheduler over the world of `commit-world.ts`. A schedule is a list of numbers: each picks one of what
 * can happen next. At its end all faults stop, resolvers run until nothing is prepared, and the world is held against
 * what clients were told.
 */
export interface Outcome {
  readonly violations: readonly string[]
  /** What was chosen; two schedules that chose the same are one interleaving. */
  readonly chosen: readonly number[]
  /** The same, a word a choice. */
  readonly trace: readonly string[]
}

const shards = 3
const gateways = 2
const choicesMax = 90
const settleStepsMax = 4_000

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
export function play(parts: Parts, pick: (choices: Choices) => number | undefined, skip?: RegExp): Outcome {
  const world = new World(parts, shards, gateways)
  const budget = { crash: 2, promote: 2, cancel: 2, lose: 3, die: 1, collect: 3, forget: 3, write: 3 }
  const choices = new Choices(world, budget, skip)
  const chosen: number[] = []
  for (let taken = 0; taken < choicesMax; taken += 1) {
    choices.look()
    const picked = pick(choices)
    if (picked === undefined || choices.length === 0) break
    chosen.push(choices.take(picked % choices.length))
  }
  const isSettled = settle(world)
  return {
    violations: [...(isSettled ? [] : ['it does not settle']), ...verdict(world)],
    chosen,
    get trace() {
      return [...chosen.map(nameOfChoice), ...(isSettled ? ['settled'] : [])]
    },
  }
}

/** Faults are over: everything is delivered and replicated, and gateway 1 resolves what is left. */
function settle(world: World): boolean {
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
      return true
    }
  }
  return false
}

function resolveOne(world: World): boolean {
  if (world.stuck.length > 0) return false
  for (const participant of [1, 2]) {
    const [id] = present(world.current[participant], 'a participant').prepared
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
      const found = choices.find(present(script[turn], 'a name'))
      if (found === undefined) continue
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
  const interleavings = new Set<number>()
  for (let played = 0; played < options.schedules; played += 1) {
    const seed = options.seed + played
    const next = numbersFrom(seed)
    const { violations, chosen } = play(parts, () => next(), skip)
    interleavings.add(hashOf(chosen))
    if (violations.length > 0) {
      return { schedules: played + 1, distinct: interleavings.size, failed: { seed, ...shrink(parts, seed, skip) } }
    }
  }
  return { schedules: options.schedules, distinct: interleavings.size, failed: undefined }
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

function hashOf(chosen: readonly number[]): number {
  let [low, high] = [0x811c9dc5, 0x1000193]
  for (const choice of chosen) {
    low = Math.imul(low ^ choice, 0x01000193)
    high = Math.imul(high ^ choice, 0x85ebca6b)
  }
  return (high >>> 11) * 2 ** 32 + (low >>> 0)
}
