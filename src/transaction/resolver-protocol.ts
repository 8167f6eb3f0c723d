import { unreachable } from '../base/assert.ts'
import type { Decision } from './decision-store.ts'

/**
 * How one branch that is in doubt is resolved, as a function of what is known and what is heard. No I/O, no time.
 *
 *   reading --record--------------------------------> passing --barrier--> settling --> done
 *      |----none; home's part has ended, or old--> presuming ---^
 *      |----none; home's part is open, and young--> done (left)
 *      |----none; collected--> done (needs person)
 *
 *   R1  A branch is settled by a record of its home and by nothing else. Where there is none, ABORTED is written under
 *       the same key, and what stands afterwards is the record, whoever wrote it.
 *   R2  Nothing is settled before a barrier has passed at home after the record was read (HZ-X1): a record that is not
 *       on the followers can still be lost.
 *   R3  Every failure leaves the branch as it is. Only a record that could have been collected, a decision that
 *       contradicts what is there, and one that no home can have taken, are for a person.
 *   R4  Whether home's part of the transaction is open decides only when an abort is presumed, never what is settled. It
 *       was asked before the record was read, so a part that has ended without a record will not bring one.
 */
export type ResolverState =
  | { readonly kind: 'reading'; readonly isOld: boolean }
  | { readonly kind: 'presuming' }
  | { readonly kind: 'passing'; readonly decision: Decision }
  | { readonly kind: 'settling'; readonly decision: Decision }
  | { readonly kind: 'done'; readonly resolution: Resolution }

export type Resolution =
  | { readonly kind: 'settled'; readonly outcome: Decision['outcome'] }
  /** Left as it is, for another time. `failed` says who did not do its part; null when everybody did. */
  | { readonly kind: 'left'; readonly why: string; readonly failed: 'home' | 'participant' | null }
  /** Left as it is, and time will not help. */
  | { readonly kind: 'needs person'; readonly why: string }

export type ResolverEvent =
  /** The record that stands: found, or what presuming gave. */
  | { readonly kind: 'record'; readonly decision: Decision }
  /** `couldBeCollected`: the transaction was born below home's watermark. */
  | { readonly kind: 'no record'; readonly homeIsOpen: boolean; readonly couldBeCollected: boolean }
  | { readonly kind: 'barrier passed' }
  | { readonly kind: 'settled' }
  | { readonly kind: 'failed'; readonly why: string; readonly needsPerson: boolean }

export type ResolverEffect =
  /** First whether home's part of the transaction is open, then the record. */
  | { readonly kind: 'read record' }
  | { readonly kind: 'presume abort' }
  | { readonly kind: 'pass barrier' }
  | { readonly kind: 'settle'; readonly decision: Decision }

export interface ResolverTransition {
  readonly state: ResolverState
  /** At most one is under way. */
  readonly effect: ResolverEffect | undefined
}

/** `isOld`: the branch is older than a coordinator that is still there is given. */
export function beginResolving(isOld: boolean): ResolverTransition {
  return { state: { kind: 'reading', isOld }, effect: { kind: 'read record' } }
}

/** Total: an event that a state has no use for changes nothing. */
export function stepResolver(state: ResolverState, event: ResolverEvent): ResolverTransition {
  if (state.kind === 'done') return { state, effect: undefined }
  if (event.kind === 'failed') {
    if (event.needsPerson) return done({ kind: 'needs person', why: event.why })
    return done({ kind: 'left', why: event.why, failed: state.kind === 'settling' ? 'participant' : 'home' })
  }
  switch (state.kind) {
    case 'reading':
      if (event.kind === 'record') return pass(event.decision)
      return event.kind === 'no record' ? withoutRecord(state.isOld, event) : { state, effect: undefined }
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

function withoutRecord(
  isOld: boolean,
  { homeIsOpen, couldBeCollected }: Extract<ResolverEvent, { kind: 'no record' }>,
): ResolverTransition {
  if (couldBeCollected) {
    return done({
      kind: 'needs person',
      why: 'no record, and one could have been collected: it is older than the watermark',
    })
  }
  if (homeIsOpen && !isOld) {
    return done({ kind: 'left', why: 'no record, and its coordinator is on its way', failed: null })
  }
  return { state: { kind: 'presuming' }, effect: { kind: 'presume abort' } }
}

function pass(decision: Decision): ResolverTransition {
  return { state: { kind: 'passing', decision }, effect: { kind: 'pass barrier' } }
}

function done(resolution: Resolution): ResolverTransition {
  return { state: { kind: 'done', resolution }, effect: undefined }
}
