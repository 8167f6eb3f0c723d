import type { ErrorCode, HoldfastErrorOptions } from '../base/errors.ts'
import { HoldfastError } from '../base/errors.ts'
import type { ShardName } from '../directory/topology.ts'
import { ConnectionLost, FollowersAwaited, ServerError } from '../postgres/failure.ts'
import { sqlState } from '../postgres/sqlstate.ts'

/**
 * What PostgreSQL's refusals mean for a transaction: the one table from SQLSTATE to `HoldfastError`.
 *
 * It speaks only of what happened before the decision. Whether a commit took place is never concluded from an error
 * here, but by `commit-protocol.ts`.
 */
export interface FailurePlace {
  readonly shard: string
  readonly transactionId: string
}

const codes: Readonly<Record<string, ErrorCode>> = {
  [sqlState.serializationFailure]: 'serialization_failure',
  [sqlState.deadlockDetected]: 'serialization_failure',
  [sqlState.lockNotAvailable]: 'lock_timeout',
  [sqlState.queryCanceled]: 'statement_timeout',
  [sqlState.inFailedTransaction]: 'transaction_aborted',
  [sqlState.diskFull]: 'disk_full',
  [sqlState.adminShutdown]: 'node_unavailable',
  [sqlState.crashShutdown]: 'node_unavailable',
  [sqlState.cannotConnectNow]: 'node_unavailable',
  // A primary that lets no gateway in: it has started, and no barrier has passed yet (F2).
  [sqlState.invalidAuthorization]: 'node_unavailable',

  [sqlState.clockOffsetExceeded]: 'clock_offset_exceeded',
  [sqlState.clockRegressed]: 'clock_regressed',
  [sqlState.placementStale]: 'placement_stale',
  [sqlState.placementDenied]: 'placement_denied',
  [sqlState.notOpened]: 'not_opened',
  [sqlState.shardFenced]: 'shard_fenced',
  [sqlState.epochOlder]: 'shard_fenced',
  [sqlState.belowCollection]: 'transaction_aborted',
  [sqlState.decisionContradicted]: 'internal',
  [sqlState.durabilityInsufficient]: 'durability_insufficient',
  [sqlState.tenantReadOnly]: 'tenant_read_only',
  [sqlState.tenantRejected]: 'tenant_rejected',
  [sqlState.stampNotAfter]: 'transaction_aborted',
  [sqlState.presumedAborted]: 'transaction_aborted',
  [sqlState.waitsForNobody]: 'durability_suspended',
  [sqlState.keysCollected]: 'idempotency_expired',
  [sqlState.mustBePrepared]: 'transaction_aborted',
  [sqlState.clockNotRefused]: 'clock_acceptance_refused',
}

/** Whole classes, for what has no entry of its own: too many connections, a server that goes away, a constraint. */
const codesOfClasses: Readonly<Record<string, ErrorCode>> = {
  '08': 'node_unavailable',
  '23': 'constraint_violated',
  '53': 'node_unavailable',
  '58': 'node_unavailable',
}

export function codeOfSqlState(state: string): ErrorCode {
  return codes[state] ?? codesOfClasses[state.slice(0, 2)] ?? 'statement_failed'
}

export function codeOfRefusal({ sqlState: state, isOutdated }: ServerError): ErrorCode {
  return isOutdated ? 'statement_outdated' : codeOfSqlState(state)
}

/** What a failure of a shard says to the caller. An error that is ours already stays as it is. */
export function toHoldfastError(error: unknown, place: FailurePlace): HoldfastError {
  if (error instanceof HoldfastError) return error
  if (error instanceof FollowersAwaited) {
    return new HoldfastError('node_unavailable', `${place.shard} takes no commit: ${error.message}`, {
      hint: 'its followers are away; try again when they are back',
      detail: { ...place },
      cause: error,
    })
  }
  if (error instanceof ConnectionLost) {
    return new HoldfastError('node_unavailable', `${place.shard} does not answer: ${error.message}`, {
      detail: { ...place },
      cause: error,
    })
  }
  if (error instanceof ServerError) return refusal(error, place)
  return new HoldfastError('internal', `transaction ${place.transactionId} failed on ${place.shard}`, {
    detail: { ...place },
    cause: error,
  })
}

/**
 * Of a shard that was asked what it has, or to carry out what is decided, and did not answer: `node_unavailable` (safe). What it
 * refused otherwise is a defect and stays as it is.
 */
export function toSilence(error: unknown, shard: ShardName, what: string): unknown {
  const isSilent =
    error instanceof ConnectionLost || (error instanceof ServerError && codeOfRefusal(error) === 'node_unavailable')
  if (!isSilent) return error
  return new HoldfastError('node_unavailable', `${shard} does not tell ${what}: ${error.message}`, {
    hint: 'ask again when its primary answers',
    detail: { shard },
    cause: error,
  })
}

function refusal(error: ServerError, place: FailurePlace): HoldfastError {
  const code = codeOfRefusal(error)
  const options: HoldfastErrorOptions = {
    ...(error.hint === undefined ? {} : { hint: error.hint }),
    detail: {
      ...place,
      sqlState: error.sqlState,
      ...(error.constraint === undefined ? {} : { constraint: error.constraint }),
      ...(error.table === undefined ? {} : { table: error.table }),
    },
    cause: error,
  }
  const isOurs = error.sqlState.startsWith('HF')
  return new HoldfastError(code, isOurs ? error.message : `${error.message} (SQLSTATE ${error.sqlState})`, options)
}

/** Whether a shard refused to conclude a batch that was taken for a reading (Q6): nothing of its attempt was written. */
export function leftTrace(failure: HoldfastError | undefined): boolean {
  return failure?.detail['sqlState'] === sqlState.mustBePrepared
}

/**
 * Why an attempt was refused, for the journal. PostgreSQL's messages and the application's own errors may quote values
 * of rows; what is kept names codes, constraints and the reason of a `HoldfastError` that carries no such message.
 */
export function journalReason(error: unknown): { readonly code: string; readonly reason: string } {
  if (!(error instanceof HoldfastError)) {
    return { code: 'application_error', reason: error instanceof Error ? error.name : 'the function threw' }
  }
  const { sqlState: state, constraint } = error.detail
  if (typeof state !== 'string' || state.startsWith('HF')) return { code: error.code, reason: error.message }
  return {
    code: error.code,
    reason: typeof constraint === 'string' ? `SQLSTATE ${state}, ${constraint}` : `SQLSTATE ${state}`,
  }
}
