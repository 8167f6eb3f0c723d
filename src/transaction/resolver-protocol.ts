import { unreachable } from '../base/assert.ts'
import type { Decision } from './decision-store.ts'

/**
 * How one branch that is in doubt is resolved, as a function of what is known and what is heard. No I/O, no time.
 *
 *   reading --record--------------------> passing --barrier--> settling --> done
 *      |----none, and old--> presuming ------^
 *      |----none, and young--> done (left)
 *
 *   R1  A branch is settled by a record of its home and by nothing else. Where there is none, ABORTED is written under
 *       the same key, and what stands afterwards is the record, whoever wrote it.
 *   R2  Nothing is settled before a barrier has passed at home after the record was read (HZ-X1): a record that is not
 *       on the followers can still be lost.
 *   R3  Every failure leaves the branch as it is. Only a record that could have been collected, and a decision that
 *       contradicts what is there, are for a person.
 */
export type ResolverState =
  | { readonly kind: 'reading'; readonly mayPresume: boolean }
  | { readonly kind: 'presuming' }
  | { readonly kind: 'passing'; readonly decision: Decision }
  | { readonly kind: 'settling'; readonly decision: Decision }
  | { readonly kind: 'done'; readonly resolution: Resolution }

export type Resolution =
  | { readonly kind: 'settled'; readonly outcome: Decision['outcome'] }
  /** Left as it is, for another time. */
  | { readonly kind: 'left'; readonly why: string }
  /** Left as it is, and time will not help. */
  | { readonly kind: 'needs person'; readonly why: string }

export type ResolverEvent =
  /** The record that stands: found, or what presuming gave. */
  | { readonly kind: 'record'; readonly decision: Decision }
  | { readonly kind: 'no record' }
  | { readonly kind: 'barrier passed' }
  | { readonly kind: 'settled' }
  | { readonly kind: 'failed'; readonly why: string; readonly needsPerson: boolean }

export type ResolverEffect =
  | { readonly kind: 'read record' }
  | { readonly kind: 'presume abort' }
  | { readonly kind: 'pass barrier' }
  | { readonly kind: 'settle'; readonly decision: Decision }

export interface ResolverTransition {
  readonly state: ResolverState
  /** At most one is under way. */
  readonly effect: ResolverEffect | undefined
}

/** `mayPresume`: the branch is older than its coordinator is given. */
export function beginResolving(mayPresume: boolean): ResolverTransition {
  return { state: { kind: 'reading', mayPresume }, effect: { kind: 'read record' } }
}

/** Total: an event that a state has no use for changes nothing. */
export function stepResolver(state: ResolverState, event: ResolverEvent): ResolverTransition {
  if (state.kind === 'done') return { state, effect: undefined }
  if (event.kind === 'failed') {
    return done({ kind: event.needsPerson ? 'needs person' : 'left', why: event.why })
  }
  switch (state.kind) {
    case 'reading':
      if (event.kind === 'record') return pass(event.decision)
      if (event.kind !== 'no record') return { state, effect: undefined }
      if (!state.mayPresume) return done({ kind: 'left', why: 'its coordinator may be on its way' })
      return { state: { kind: 'presuming' }, effect: { kind: 'presume abort' } }
    case 'presuming':
      return event.kind === 'record' ? pass(event.decision) : { state, effect: undefined }
    case 'passing':
      if (event.kind !== 'barrier passed') return { state, effect: undefined }
      return {
        state: { kind: 'settling', decision: state.decision },
        effect: { kind: 'settle', decision: state.decision },
      }
    case 'settling':
      if (event.kind !== 'settled') return { state, effect: undefined }
      return done({ kind: 'settled', outcome: state.decision.outcome })
    default:
      return unreachable(state)
  }
}

function pass(decision: Decision): ResolverTransition {
  return { state: { kind: 'passing', decision }, effect: { kind: 'pass barrier' } }
}

function done(resolution: Resolution): ResolverTransition {
  return { state: { kind: 'done', resolution }, effect: undefined }
}
