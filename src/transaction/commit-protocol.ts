import { unreachable } from '../base/assert.ts'
import type { HoldfastError } from '../base/errors.ts'
import type { ShardName } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { hlcZero, maxHlc } from '../hlc/hlc.ts'

/**
 * The coordinator's side of one commit, as a function of what it knows and what it hears. No I/O, no time.
 *
 *   preparing --all yes--> observing --observed--> deciding --acknowledged--> committed
 *       |                      |                      |--refused-----------> aborted
 *       |--no, lost, given up--+--refused--> aborted  |--unanswered--> asking --> committed | aborted | ambiguous
 *
 * A transaction of one shard has nobody to prepare and begins in `deciding`.
 *
 *   G1  `decide` is issued at most once, and only after every participant has voted yes and home has observed the
 *       greatest prepare timestamp, and the clocks of those that only read.
 *   G2  Branches are committed only in `committed`, and rolled back only in `aborted`. Both are final.
 *   G3  `aborted` is entered only where `decide` was never issued, or was answered with a definite no, or a record
 *       that says ABORTED was read behind a barrier.
 *   G4  A vote that is lost may have left a branch: an abort rolls back there too. One that comes after the abort is
 *       rolled back when it comes.
 *   G5  An unanswered decision is asked for. If nobody can tell, the state is `ambiguous`, branches are left to the
 *       resolver, and the caller gets no guess.
 */
export type CommitState =
  | {
      readonly kind: 'preparing'
      /** Who has not voted yet. */
      readonly waiting: readonly ShardName[]
      readonly prepared: readonly ShardName[]
      /** Whether home still has statements of the caller on their way. */
      readonly homeBusy: boolean
      /** The greatest prepare timestamp so far. */
      readonly after: Hlc
    }
  | { readonly kind: 'observing'; readonly prepared: readonly ShardName[]; readonly after: Hlc }
  | { readonly kind: 'deciding'; readonly prepared: readonly ShardName[] }
  | { readonly kind: 'asking'; readonly prepared: readonly ShardName[] }
  | { readonly kind: 'committed'; readonly timestamp: Hlc }
  | { readonly kind: 'aborted'; readonly failure: HoldfastError }
  | { readonly kind: 'ambiguous'; readonly failure: HoldfastError }

export type CommitEvent =
  | { readonly kind: 'home ready' }
  | { readonly kind: 'vote yes'; readonly shard: ShardName; readonly timestamp: Hlc }
  /** It only read, from the authority: there is nothing to settle. Its clock lies above what was read. */
  | { readonly kind: 'vote read'; readonly shard: ShardName; readonly timestamp: Hlc }
  /** Nothing is left at the participant. */
  | { readonly kind: 'vote no'; readonly shard: ShardName; readonly failure: HoldfastError }
  /** No answer, an answer with a warning, or a branch whose result was not what the caller demanded. */
  | { readonly kind: 'vote lost'; readonly shard: ShardName; readonly failure: HoldfastError }
  /** Home's own statements failed. */
  | { readonly kind: 'given up'; readonly failure: HoldfastError }
  | { readonly kind: 'observed' }
  | { readonly kind: 'observe refused'; readonly failure: HoldfastError }
  /** Tag COMMIT and no warning. */
  | { readonly kind: 'acknowledged'; readonly timestamp: Hlc }
  /** Tag ROLLBACK, or an error that ended the transaction. */
  | { readonly kind: 'refused'; readonly failure: HoldfastError }
  /** A warning, or no answer. */
  | { readonly kind: 'unanswered' }
  | { readonly kind: 'told committed'; readonly timestamp: Hlc }
  | { readonly kind: 'told aborted'; readonly failure: HoldfastError }
  | { readonly kind: 'told nothing'; readonly failure: HoldfastError }

export type CommitEffect =
  | { readonly kind: 'observe'; readonly after: Hlc }
  | { readonly kind: 'decide'; readonly after: Hlc }
  | { readonly kind: 'ask' }
  | { readonly kind: 'roll back home' }
  | { readonly kind: 'commit branch'; readonly shard: ShardName; readonly timestamp: Hlc }
  | { readonly kind: 'roll back branch'; readonly shard: ShardName }

export interface Transition {
  readonly state: CommitState
  readonly effects: readonly CommitEffect[]
}

export function beginCommit(participants: readonly ShardName[], homeBusy: boolean): Transition {
  return proceed({ kind: 'preparing', waiting: participants, prepared: [], homeBusy, after: hlcZero })
}

/** Total: an event that a state has no use for changes nothing. */
export function step(state: CommitState, event: CommitEvent): Transition {
  switch (state.kind) {
    case 'preparing':
      return whilePreparing(state, event)
    case 'observing':
      if (event.kind === 'observed') return decide(state.prepared, state.after)
      if (event.kind === 'observe refused') return abort(event.failure, state.prepared, true)
      return stay(state)
    case 'deciding':
      if (event.kind === 'acknowledged') return commit(event.timestamp, state.prepared)
      if (event.kind === 'refused') return abort(event.failure, state.prepared, false)
      if (event.kind === 'unanswered') {
        return { state: { kind: 'asking', prepared: state.prepared }, effects: [{ kind: 'ask' }] }
      }
      return stay(state)
    case 'asking':
      if (event.kind === 'told committed') return commit(event.timestamp, state.prepared)
      if (event.kind === 'told aborted') return abort(event.failure, state.prepared, false)
      if (event.kind === 'told nothing') return { state: { kind: 'ambiguous', failure: event.failure }, effects: [] }
      return stay(state)
    case 'aborted':
      // G4: a vote that was under way when another said no.
      return event.kind === 'vote yes' || event.kind === 'vote lost'
        ? { state, effects: [{ kind: 'roll back branch', shard: event.shard }] }
        : stay(state)
    case 'committed':
    case 'ambiguous':
      return stay(state)
    default:
      return unreachable(state)
  }
}

/** What a defect of ours means in a state: no decision that was not issued yet, and no guess about one that was. */
export function eventOfDefect(state: CommitState, failure: HoldfastError): CommitEvent {
  switch (state.kind) {
    case 'preparing':
      return { kind: 'given up', failure }
    case 'observing':
      return { kind: 'observe refused', failure }
    case 'deciding':
      return { kind: 'unanswered' }
    case 'asking':
    case 'committed':
    case 'aborted':
    case 'ambiguous':
      return { kind: 'told nothing', failure }
    default:
      return unreachable(state)
  }
}

type Preparing = Extract<CommitState, { kind: 'preparing' }>

function whilePreparing(state: Preparing, event: CommitEvent): Transition {
  switch (event.kind) {
    case 'home ready':
      return proceed({ ...state, homeBusy: false })
    case 'vote yes':
      if (!state.waiting.includes(event.shard)) return stay(state)
      return proceed({
        ...state,
        waiting: state.waiting.filter((shard) => shard !== event.shard),
        prepared: [...state.prepared, event.shard],
        after: maxHlc(state.after, event.timestamp),
      })
    case 'vote read':
      if (!state.waiting.includes(event.shard)) return stay(state)
      return proceed({
        ...state,
        waiting: state.waiting.filter((shard) => shard !== event.shard),
        after: maxHlc(state.after, event.timestamp),
      })
    case 'vote no':
      return abort(event.failure, state.prepared, true)
    case 'vote lost':
      return abort(event.failure, [...state.prepared.filter((shard) => shard !== event.shard), event.shard], true)
    case 'given up':
      return abort(event.failure, state.prepared, true)
    case 'observed':
    case 'observe refused':
    case 'acknowledged':
    case 'refused':
    case 'unanswered':
    case 'told committed':
    case 'told aborted':
    case 'told nothing':
      return stay(state)
    default:
      return unreachable(event)
  }
}

function proceed(state: Preparing): Transition {
  if (state.homeBusy || state.waiting.length > 0) return stay(state)
  const { prepared, after } = state
  if (after === hlcZero) return decide(prepared, after)
  return { state: { kind: 'observing', prepared, after }, effects: [{ kind: 'observe', after }] }
}

function decide(prepared: readonly ShardName[], after: Hlc): Transition {
  return { state: { kind: 'deciding', prepared }, effects: [{ kind: 'decide', after }] }
}

function commit(timestamp: Hlc, prepared: readonly ShardName[]): Transition {
  return {
    state: { kind: 'committed', timestamp },
    effects: prepared.map((shard) => ({ kind: 'commit branch', shard, timestamp })),
  }
}

function abort(failure: HoldfastError, branches: readonly ShardName[], homeIsOpen: boolean): Transition {
  return {
    state: { kind: 'aborted', failure },
    effects: [
      ...(homeIsOpen ? [{ kind: 'roll back home' } as const] : []),
      ...branches.map((shard) => ({ kind: 'roll back branch', shard }) as const),
    ],
  }
}

function stay(state: CommitState): Transition {
  return { state, effects: [] }
}
