import type { CommitEvent, CommitState, Transition } from '../../src/transaction/commit-protocol.ts'
import { step } from '../../src/transaction/commit-protocol.ts'
import { judgeCollection } from '../../src/transaction/collection.ts'
import { stepResolver } from '../../src/transaction/resolver-protocol.ts'
import { promote } from './commit-server.ts'

/** What the model plays: the functions of the product, and what its shells do, each of which a test may replace by a bug. */
export interface Parts {
  readonly step: (state: CommitState, event: CommitEvent) => Transition
  readonly stepResolver: typeof stepResolver
  readonly promote: typeof promote
  /** What a commit or prepare that was answered with a warning means to its coordinator. */
  readonly warned: 'unknown' | 'acknowledged'
  /** Whether what was read at one primary counts once a barrier has passed at another. */
  readonly barrierNamesEpoch: boolean
  /** Participants refuse settlements from a home epoch below one that they have seen. */
  readonly requireHomeEpoch: boolean
  readonly judgeCollection: typeof judgeCollection
  /** What shows that records may go is on the followers. */
  readonly collectsReplicated: boolean
  /** Participants are told before, and prepare nothing older any more. */
  readonly announcesCollection: boolean
  /** When decisions ABORTED of participants are collected (K7). */
  readonly decisionsGo: 'behind the watermark' | 'at once'
  /** Who was born before keys that were collected claims none (K8). */
  readonly refusesOldClaims: boolean
  /** And looks once more behind its claim, which may have waited for the collector. */
  readonly claimsLookAgain: boolean
  /** What was read of the first use of a key counts once a barrier has passed. */
  readonly replaysBehindBarrier: boolean
  /** When the barrier of who only reads is begun. */
  readonly readerBarrier: 'behind the read' | 'with the read' | 'never'
}

export const realParts: Parts = {
  step,
  stepResolver,
  promote,
  warned: 'unknown',
  barrierNamesEpoch: true,
  requireHomeEpoch: true,
  judgeCollection,
  collectsReplicated: true,
  announcesCollection: true,
  decisionsGo: 'behind the watermark',
  refusesOldClaims: true,
  claimsLookAgain: true,
  replaysBehindBarrier: true,
  readerBarrier: 'behind the read',
}
