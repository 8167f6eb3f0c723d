import { isHoldfastError } from '../../src/base/errors.ts'

/** A refusal is definite; an ambiguous outcome, and whatever is not ours, is unknown. */
export function outcomeOf(error: unknown): 'failed' | 'unknown' {
  if (isHoldfastError(error, 'outcome_ambiguous') || !isHoldfastError(error)) return 'unknown'
  return 'failed'
}
