import type { StepName } from '../../src/base/step.ts'
import type { Request, RequestKind } from './request.ts'
import { participant } from './stand.ts'
import type { RunningCell } from './table.ts'
import { factsOf } from './table.ts'

/** What comes before a cell's step. */
export function kindOf({ step }: RunningCell): RequestKind {
  const { what } = factsOf[step]
  return what === 'local' || what === 'reading' ? what : 'global'
}

/** Where the transaction is stopped first, when something must be in the way of what is sent at the step. */
export const stepBefore: Partial<Record<StepName, StepName>> = {
  'local commit sent': 'local stamp',
  'global prepare sent': 'global branch opened',
  'global reading sent': 'local user write',
  'global home commit sent': 'global record inserted',
  'global home waiting for follower': 'global record inserted',
  'global settle sent': 'global decision row',
}

/** The statement that looks is the second one. */
export const shardOfStep = (step: StepName, { reads }: Request) =>
  reads && step === 'local user write' ? participant.shard : null
