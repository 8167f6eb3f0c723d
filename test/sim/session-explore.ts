import { present } from '../../src/base/assert.ts'
import { numbersFrom } from './commit-play.ts'
import { Broken } from './session-oracle.ts'
import type { Plant } from './session-plants.ts'
import type { Action } from './session-play.ts'
import { Play } from './session-play.ts'

/** A deterministic scheduler over the model of sessions: a seed is a list of actions. */

/** As often as they stand here; what seldom happens in a fleet is as seldom here. */
const often = ['write', 'write', 'global', 'global', 'background', 'background', 'settle', 'release', 'close', 'close']
const moving = ['receive', 'receive', 'receive', 'replay', 'replay', 'replay']
const reading = ['read', 'read', 'read', 'causal', 'causal', 'primary', 'stale']
const seldom = ['join', 'join', 'copy', 'promote', 'cutover', 'strong', 'snapshot', 'key', 'key in an outage']
export const kindsOfAction = [...often, ...moving, ...moving, ...reading, ...reading, ...seldom] as const
/** Up to and without these: shards, sessions and servers, as actions have them. */
export const actionLimits = { a: 8, b: 6, c: 12 } as const
export const actionsMin = 10
export const actionsMax = 90

export interface Explored {
  readonly schedules: number
  readonly proven: number
  readonly failed: { readonly seed: number; readonly broken: string; readonly actions: readonly Action[] } | undefined
}

/** Plays schedules of consecutive seeds until a promise is broken. */
export function exploreSessions(
  { seed: first, schedules }: { readonly seed: number; readonly schedules: number },
  plant?: Plant,
): Explored {
  let proven = 0
  for (let played = 0; played < schedules; played += 1) {
    const seed = first + played
    const actions = actionsOf(seed)
    const outcome = playAll(actions, plant)
    if (outcome.broken !== undefined) {
      return { schedules: played + 1, proven, failed: { seed, ...shrink(actions, outcome.broken, plant) } }
    }
    proven += outcome.proven
  }
  return { schedules, proven, failed: undefined }
}

function actionsOf(seed: number): Action[] {
  const next = numbersFrom(seed)
  const length = actionsMin + (next() % (actionsMax - actionsMin))
  return Array.from({ length }, () => ({
    do: present(kindsOfAction[next() % kindsOfAction.length], 'a kind'),
    a: next() % actionLimits.a,
    b: next() % actionLimits.b,
    c: next() % actionLimits.c,
  }))
}

function playAll(actions: readonly Action[], plant: Plant | undefined) {
  const play = new Play(plant)
  try {
    for (const action of actions) play.act(action)
    return { proven: play.proven, broken: undefined }
  } catch (error) {
    if (!(error instanceof Broken)) throw error
    return { proven: play.proven, broken: error.message }
  }
}

/** Drops actions for as long as a promise is still broken. */
function shrink(actions: readonly Action[], broken: string, plant: Plant | undefined) {
  let best = { actions, broken }
  for (let size = 32; size >= 1; size = Math.floor(size / 2)) {
    for (let at = best.actions.length - size; at >= 0; at -= size) {
      const fewer = best.actions.toSpliced(at, size)
      const outcome = playAll(fewer, plant)
      if (outcome.broken !== undefined) best = { actions: fewer, broken: outcome.broken }
    }
  }
  return best
}
