import type { Progress } from '../base/progress.ts'
import type { Evidence } from '../evidence/evidence.ts'
import type { TimelineEntry, TimelineRange } from '../evidence/timeline.ts'
import type { TransactionView } from '../evidence/transaction-view.ts'
import type { FleetConfigInput } from './config.ts'
import type {
  BackupReport,
  BackupRequest,
  CutoverReport,
  CutoverRequest,
  FailoverReport,
  FailoverRequest,
  FleetStatus,
  InvariantResult,
  InvariantsRequest,
  RestoreReport,
  RestoreRequest,
  TenantView,
} from './operations-api.ts'
import type {
  ReadAnswer,
  Reader,
  ReadRequest,
  SnapshotRequest,
  Transaction,
  TransactOutcome,
  TransactRequest,
} from './transact-api.ts'

/**
 * How a fleet is opened: by its configuration, as a file or in place, or by its data directory, which remembers the
 * configuration. When a supervisor holds the data directory this process attaches to it; else it becomes the
 * supervisor and starts the servers, and `close` stops them.
 */
export interface OpenFleetOptions {
  /** A path to `holdfast.yaml`, or the same keys as an object. */
  readonly config?: string | FleetConfigInput | undefined
  readonly dataDir?: string | undefined
  /** Where this gateway is: reads go to the nearest node. The first region of the configuration when left out. */
  readonly region?: string | undefined
  /** Puts the round trips of `links` between regions, or this many milliseconds between all. For an embedded fleet. */
  readonly wan?: boolean | number | undefined
  /** What starting the servers tells while it goes on; silent when this process attaches to a running fleet. */
  readonly onProgress?: Progress | undefined
}

/**
 * Every method may throw `HoldfastError`; `retry` of the error says whether the same call is safe again. Common to all:
 * `node_unavailable` (safe), `argument_invalid` (never).
 *
 * Session tokens are opaque strings. Timestamps are `bigint`; `formatHlc` gives their text form.
 */
export interface Fleet extends AsyncDisposable {
  /**
   * Runs one business action, on one shard or several, atomically. It resolves only when the decision is on the
   * followers that durability asks for. The function may run twice: after `placement_stale` and after serialisation
   * failures; it must do nothing but ask `tx`.
   *
   * | error | retry |
   * |---|---|
   * | whatever the function throws, as it is; `statement_failed`, `constraint_violated`, `idempotency_conflict` | never |
   * | `placement_stale`, `serialization_failure`, `lock_timeout`, `statement_outdated`, `shard_fenced`, `transaction_aborted`, `clock_offset_exceeded` | safe, nothing was written |
   * | `tenant_read_only`, `tenant_rejected` | safe, once a legal region is back |
   * | `outcome_ambiguous` | unknown: ask `transaction(error.detail.transactionId)`, or send it again with the same idempotency key |
   *
   * ```ts
   * const { value, session } = await fleet.transact(
   *   { tenant: 'globex-eu', action: 'payroll.approve', subject: 'apr-2026', actor: 'manager@globex.example' },
   *   async (tx) => {
   *     const { rows } = await tx.query('payroll', 'update payroll_runs set status = $1 returning total_cents', ['approved'])
   *     tx.batch('treasury', [['insert into treasury_holds values ($1, $2)', ['apr-2026', rows[0].total_cents]]])
   *     tx.emit('payroll.approved', { run: 'apr-2026' })
   *     return rows[0].total_cents
   *   })
   * ```
   *
   * At home that is `begin; select set_config('holdfast.tenant', ...), ...; update ...;`, at the treasury one
   * flight `begin; ... insert ...; select holdfast.prepare_branch(...); prepare transaction '...'`, and at home again
   * `reset role; select holdfast.stamp(...); commit`, which is the decision.
   */
  transact<T>(request: TransactRequest, run: (tx: Transaction) => Promise<T>): Promise<TransactOutcome<T>>

  /**
   * Reads where the token's frontier is proven, in the snapshot that answers, or says that it cannot.
   *
   * | error | retry |
   * |---|---|
   * | `frontier_not_reached`, `node_unavailable` | safe, after `error.detail.retryAfterMs`; `detail` has why |
   * | `statement_timeout` | safe, and as slow again |
   * | `write_lost`, `history_rewritten`, `history_changed` | never: go on without the token, knowing what is gone |
   * | `token_malformed`, `token_forged`, `token_foreign` | never |
   *
   * ```ts
   * const { value, served } = await fleet.read({ tenant: 'globex-eu', session, level: 'session', waitMs: 50 },
   *   (read) => read.query('payroll', 'select status from payroll_runs where id = $1', ['apr-2026']))
   * ```
   *
   * Per node, in one flight: `select pg_last_wal_replay_lsn(); begin isolation level repeatable read read only; select
   * select set_config('holdfast.tenant', ...), ...; <proof row>; select status ...; commit`.
   */
  read<T>(request: ReadRequest, run: (read: Reader) => Promise<T>): Promise<ReadAnswer<T>>

  /**
   * Reads several shards as of one moment: every global transaction is visible on all of them or on none.
   * `snapshot_contended` (safe) after three rounds.
   */
  snapshot<T>(request: SnapshotRequest, run: (read: Reader) => Promise<T>): Promise<ReadAnswer<T>>

  /** The committed history of all shards, by commit timestamp, ties by transaction id. What is prepared is not in it. */
  timeline(range?: TimelineRange): AsyncIterable<TimelineEntry>

  /** The evidence of one transaction. `unknown_transaction` (never) when no shard has a trace of it. */
  prove(transactionId: string): Promise<Evidence>

  /** Takes base backups into the shards' archives. Safe to repeat: each is one more. */
  backup(request?: BackupRequest): Promise<readonly BackupReport[]>

  /**
   * Builds an isolated environment as the fleet was at the target; changes nothing in the fleet. `restore_unreachable`
   * and `archive_gap` (never) say what the archives lack; `redo_conflict` (never) lists what a person must decide.
   */
  restore(request: RestoreRequest): Promise<RestoreReport>

  /** Runs the invariants, over one snapshot of the fleet or on a restored environment. Violations are results, not errors. */
  invariants(request?: InvariantsRequest): Promise<readonly InvariantResult[]>

  /**
   * Makes a restored environment the fleet: fences the old epochs, switches, rebuilds the followers, opens. `check_failed`
   * (never) before anything is fenced when a gate of the environment does not hold. Safe to repeat after a crash: it goes on.
   */
  cutover(request: CutoverRequest): Promise<CutoverReport>

  /** Promotes a legal follower. `residency_denied` (never) names the policies that forbid the target. */
  failover(request: FailoverRequest): Promise<FailoverReport>

  /** What became of a transaction. Answers behind a barrier: an outcome once told does not change. */
  transaction(transactionId: string): Promise<TransactionView>

  tenants(): Promise<readonly TenantView[]>

  status(): Promise<FleetStatus>

  /** Ends what this process runs. Open transactions are rolled back; servers stop when this process is their supervisor. */
  close(): Promise<void>
}

export type OpenFleet = (options: OpenFleetOptions) => Promise<Fleet>
