/**
 * One error type and one registry. A caller decides by `code`, groups by `category`, and repeats only what
 * `retry` calls safe. `docs/reference/errors.md` is held equal to this table by a test.
 */

export type ErrorCategory =
  | 'invalid'
  | 'denied'
  | 'not_found'
  | 'conflict'
  | 'unavailable'
  | 'ambiguous'
  | 'check_failed'
  | 'internal'

/** `safe`: nothing happened, send it again. `never`: the same request fails again. `unknown`: ask for the outcome first. */
export type Retry = 'never' | 'safe' | 'unknown'

interface ErrorEntry {
  readonly category: ErrorCategory
  readonly retry: Retry
  /** One sentence for the reference. */
  readonly meaning: string
}

const define = <const T extends Record<string, ErrorEntry>>(table: T): T => table

export const errorTable = define({
  argument_invalid: { category: 'invalid', retry: 'never', meaning: 'An argument is missing or has the wrong form.' },
  config_invalid: {
    category: 'invalid',
    retry: 'never',
    meaning: 'The configuration has an unknown key, a wrong value or an illegal placement; the message names the line.',
  },
  statement_refused: {
    category: 'invalid',
    retry: 'never',
    meaning: 'The statement controls the transaction, the role or a reserved setting, or cannot be prepared.',
  },
  statement_failed: {
    category: 'invalid',
    retry: 'never',
    meaning: 'PostgreSQL refused a statement of the caller; the SQLSTATE is in the message, nothing was written.',
  },
  token_malformed: {
    category: 'invalid',
    retry: 'never',
    meaning: 'The session token is not one: truncated, not base64url, or of an unknown version.',
  },
  token_forged: {
    category: 'denied',
    retry: 'never',
    meaning: 'The signature of the session token does not match, or its key is not known to this fleet.',
  },
  token_foreign: {
    category: 'denied',
    retry: 'never',
    meaning: 'The session token was issued by another fleet, or for another tenant or credential.',
  },
  token_expired: {
    category: 'invalid',
    retry: 'never',
    meaning: 'The session token is past its lifetime; continue without it, from now.',
  },
  token_shard_unknown: {
    category: 'invalid',
    retry: 'never',
    meaning: 'The session token names a shard that this fleet has not, or no longer; continue without it, from now.',
  },
  unknown_tenant: { category: 'not_found', retry: 'never', meaning: 'No tenant of that name is in the directory.' },
  unknown_domain: { category: 'not_found', retry: 'never', meaning: 'No domain of that name is configured.' },
  unknown_shard: { category: 'not_found', retry: 'never', meaning: 'No shard of that name is configured.' },
  unknown_node: { category: 'not_found', retry: 'never', meaning: 'No node of that name is in the topology.' },
  unknown_transaction: {
    category: 'not_found',
    retry: 'never',
    meaning: 'No shard of the fleet has a trace of that transaction id.',
  },
  unknown_environment: { category: 'not_found', retry: 'never', meaning: 'No restored environment has that id.' },
  unknown_invariant: { category: 'not_found', retry: 'never', meaning: 'No invariant file has that name.' },
  unknown_subject: {
    category: 'not_found',
    retry: 'never',
    meaning: 'The application has nothing of that name, as the session that comes with the answer shows it.',
  },
  unknown_route: { category: 'not_found', retry: 'never', meaning: 'No route has that method and path.' },
  residency_denied: {
    category: 'denied',
    retry: 'never',
    meaning: 'The residency policy of a tenant forbids the target; the message names the policy and its version.',
  },
  placement_denied: {
    category: 'denied',
    retry: 'never',
    meaning: 'The shard does not own the placement that the statement writes to.',
  },
  not_opened: {
    category: 'denied',
    retry: 'never',
    meaning: 'A regulated table was touched outside a transaction that a gateway opened.',
  },
  application_denied: {
    category: 'denied',
    retry: 'never',
    meaning: 'A route of the application answered that the caller may not do this.',
  },
  tenant_read_only: {
    category: 'denied',
    retry: 'safe',
    meaning: 'No legal region can hold the authority now and the policy says read-only.',
  },
  tenant_rejected: {
    category: 'denied',
    retry: 'safe',
    meaning: 'No legal region can hold the authority now and the policy says reject.',
  },
  placement_stale: {
    category: 'conflict',
    retry: 'safe',
    meaning: 'The placement moved while the transaction ran; nothing was written.',
  },
  shard_fenced: {
    category: 'unavailable',
    retry: 'safe',
    meaning: 'The shard is at another epoch than the gateway knew; nothing was written.',
  },
  idempotency_conflict: {
    category: 'conflict',
    retry: 'never',
    meaning: 'The idempotency key was used before for a different request.',
  },
  idempotency_expired: {
    category: 'conflict',
    retry: 'never',
    meaning:
      'The request is older than idempotency keys are kept: whether it ran before is not known any more. Nothing was written by this attempt.',
  },
  constraint_violated: {
    category: 'conflict',
    retry: 'never',
    meaning: 'A constraint of the schema refused the change; nothing was written.',
  },
  transaction_refused: {
    category: 'conflict',
    retry: 'never',
    meaning: 'The application refused the business action; nothing was written.',
  },
  serialization_failure: {
    category: 'conflict',
    retry: 'safe',
    meaning: 'Concurrent transactions could not be serialised within the retries; nothing was written.',
  },
  lock_timeout: {
    category: 'conflict',
    retry: 'safe',
    meaning:
      'A lock was waited for too long, within the retries; transactions on two shards may wait for each other. Nothing was written.',
  },
  statement_outdated: {
    category: 'conflict',
    retry: 'safe',
    meaning: 'Tables were altered, again and again, after a statement on them was prepared. Nothing was written.',
  },
  statement_timeout: {
    category: 'unavailable',
    retry: 'safe',
    meaning: 'A statement ran for too long or was cancelled before the decision; nothing was written.',
  },
  clock_offset_exceeded: {
    category: 'unavailable',
    retry: 'safe',
    meaning: 'A timestamp lies further ahead of the local wall clock than maxClockOffset; nothing was written.',
  },
  clock_acceptance_refused: {
    category: 'conflict',
    retry: 'never',
    meaning:
      'No clock is moved by hand: no decision is refused for its time, the wall clock of some server agrees with it, or its home has not committed it so.',
  },
  clock_regressed: {
    category: 'internal',
    retry: 'safe',
    meaning: 'A stamp at or below the closed floor was refused; nothing was written.',
  },
  durability_insufficient: {
    category: 'denied',
    retry: 'never',
    meaning: 'A shard with local durability was asked to take part in a global transaction.',
  },
  durability_suspended: {
    category: 'unavailable',
    retry: 'safe',
    meaning:
      'Commits of the shard would wait for none of its followers: somebody changed whom its settings name. Nothing was written.',
  },
  transaction_aborted: {
    category: 'conflict',
    retry: 'safe',
    meaning: 'The transaction was aborted before its decision; nothing was written.',
  },
  outcome_ambiguous: {
    category: 'ambiguous',
    retry: 'unknown',
    meaning: 'The reply to the commit was lost; ask for the outcome with the transaction id in the error.',
  },
  frontier_not_reached: {
    category: 'unavailable',
    retry: 'safe',
    meaning: 'No legal node could prove the frontier of the token within the budget.',
  },
  write_lost: {
    category: 'conflict',
    retry: 'never',
    meaning: 'A transaction that the token carries is not in the history that survived; its id is in the error.',
  },
  history_rewritten: {
    category: 'conflict',
    retry: 'never',
    meaning: 'A cutover left transactions out of the history since the token was issued; the ids are in the error.',
  },
  history_changed: {
    category: 'conflict',
    retry: 'never',
    meaning:
      'The token reaches past the fork point of a newer history, or knows of a write that was not found in it; continue without it, from now.',
  },
  snapshot_contended: {
    category: 'unavailable',
    retry: 'safe',
    meaning: 'No unfractured snapshot over the shards was found in three rounds.',
  },
  node_unavailable: {
    category: 'unavailable',
    retry: 'safe',
    meaning: 'A server did not answer, or gave its snapshot up, and nothing that was sent to it can have taken effect.',
  },
  environment_held: {
    category: 'conflict',
    retry: 'never',
    meaning: 'The fleet runs on the environment, or a cutover to it is under way; nothing was removed.',
  },
  drill_gave_way: {
    category: 'unavailable',
    retry: 'safe',
    meaning:
      'The drill ended before its report, since the fleet stops or others wanted its turn; nothing of it is left.',
  },
  application_unavailable: {
    category: 'unavailable',
    retry: 'safe',
    meaning: 'A route of the application answered that it did not take the request now.',
  },
  fleet_locked: {
    category: 'conflict',
    retry: 'never',
    meaning: 'Another supervisor holds the data directory; the message names its process.',
  },
  fleet_not_running: {
    category: 'unavailable',
    retry: 'safe',
    meaning: 'No supervisor answers for the data directory.',
  },
  release_newer: {
    category: 'conflict',
    retry: 'never',
    meaning:
      'A shard was brought to a later release of Holdfast than this one; the message names both. Nothing was changed.',
  },
  release_differs: {
    category: 'conflict',
    retry: 'never',
    meaning:
      'The fleet runs another release of Holdfast than the process that attaches, or than a shard that was down at the upgrade has; the message names both.',
  },
  upgrade_blocked: {
    category: 'conflict',
    retry: 'never',
    meaning: 'The release before has to finish something on a shard, or a shard is down; nothing was changed.',
  },
  upgrade_failed: {
    category: 'conflict',
    retry: 'never',
    meaning:
      'A shard refused a statement of the release; the message names both. The shard is as it was, and the fleet does not open.',
  },
  port_taken: { category: 'unavailable', retry: 'safe', meaning: 'The address to listen on is in use.' },
  disk_full: { category: 'unavailable', retry: 'safe', meaning: 'The file system of the data directory is full.' },
  directory_not_writable: {
    category: 'invalid',
    retry: 'never',
    meaning: 'A directory cannot be written by this user, or not be entered by the server’s user.',
  },
  postgres_missing: {
    category: 'unavailable',
    retry: 'never',
    meaning: 'No PostgreSQL server binary exists for this platform, neither from npm nor on PATH.',
  },
  server_failed: {
    category: 'unavailable',
    retry: 'unknown',
    meaning: 'A PostgreSQL server process did not start or stop; the end of its log is in the message.',
  },
  archive_gap: {
    category: 'check_failed',
    retry: 'never',
    meaning: 'The archive misses a segment, or one fails its checksum, within the range that was asked for.',
  },
  restore_unreachable: {
    category: 'invalid',
    retry: 'never',
    meaning: 'The recovery target lies outside what the archives hold.',
  },
  redo_conflict: {
    category: 'conflict',
    retry: 'never',
    meaning: 'Later transactions depend on the excluded ones; the message lists them for a person to decide.',
  },
  check_failed: { category: 'check_failed', retry: 'never', meaning: 'A check found violations; they are listed.' },
  internal: { category: 'internal', retry: 'unknown', meaning: 'A defect of Holdfast.' },
})

export type ErrorCode = keyof typeof errorTable

export interface HoldfastErrorOptions {
  /** What the caller can do about it, in one sentence. */
  readonly hint?: string
  /** Machine-readable particulars: ids, positions, lists. Never regulated fields. */
  readonly detail?: Readonly<Record<string, unknown>>
  readonly cause?: unknown
}

/** An operating failure. Bugs are plain errors from `assert`; expected outcomes are returned values. */
export class HoldfastError extends Error {
  readonly code: ErrorCode
  readonly hint: string | undefined
  readonly detail: Readonly<Record<string, unknown>>

  constructor(code: ErrorCode, message: string, options: HoldfastErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'HoldfastError'
    this.code = code
    this.hint = options.hint
    this.detail = options.detail ?? {}
  }

  get category(): ErrorCategory {
    return errorTable[this.code].category
  }

  get retry(): Retry {
    return errorTable[this.code].retry
  }
}

/** The `HoldfastError` that an error is, or that a program between wrapped as its cause. */
export function failureIn(error: unknown): HoldfastError | undefined {
  const causes = new Set<unknown>()
  for (let at = error; at instanceof Error && !causes.has(at); at = at.cause) {
    if (at instanceof HoldfastError) return at
    causes.add(at)
  }
  return undefined
}

/** True for a `HoldfastError`, optionally of one code. */
export function isHoldfastError(error: unknown, code?: ErrorCode): error is HoldfastError {
  return error instanceof HoldfastError && (code === undefined || error.code === code)
}
