import { silentProgress } from '../base/progress.ts'
import type { Progress } from '../base/progress.ts'
import type { ShardName } from '../directory/topology.ts'
import { type Answer, read } from '../reading/reading.ts'
import { snapshot } from '../reading/snapshot.ts'
import type { DrillReport } from '../recovery/drill-report.ts'
import { explainInDoubt } from '../transaction/in-doubt-explanation.ts'
import { resolverLimitsDefault } from '../transaction/resolver.ts'
import { transact } from '../transaction/transaction.ts'
import { type Evidence, prove } from '../evidence/evidence.ts'
import type { TimelineEntry, TimelineRange } from '../evidence/timeline.ts'
import { type TransactionView, viewTransaction } from '../evidence/transaction-view.ts'
import { acceptanceViews, acceptClockOf } from './clock-acceptances.ts'
import { driftViews } from './drift-views.ts'
import { evidenceSources, timelineOf } from './evidence-sources.ts'
import { parseTransactionId } from './transaction-id.ts'
import type { Fleet } from './fleet-api.ts'
import type { FleetRuntime } from './fleet.ts'
import { fleetStatus } from './fleet-status.ts'
import type { GatewayParts } from './gateway-parts.ts'
import { startServices } from './gateway-parts.ts'
import type {
  AcceptClockReport,
  AcceptClockRequest,
  ArchiveReport,
  ArchiveVerdict,
  BackupReport,
  BackupRequest,
  ClockAcceptanceView,
  CutoverReport,
  CutoverRequest,
  DriftView,
  DropReport,
  FailoverReport,
  FailoverRequest,
  FleetStatus,
  InDoubtView,
  InvariantResult,
  InvariantsRequest,
  RestoreReport,
  DrillRequest,
  RestoreRequest,
  TenantView,
  TokenKeyView,
} from './operations-api.ts'
import { resolveAccepted, resolveShards } from './resolutions.ts'
import { Services } from './services.ts'
import { afterCommit, Sessions } from './sessions.ts'
import { tenantViews } from './tenant-views.ts'
import type { TokenRing } from './token-ring.ts'
import type {
  ReadAnswer,
  Reader,
  ReadRequest,
  SnapshotRequest,
  Transaction,
  TransactOutcome,
  TransactRequest,
} from './transact-api.ts'

/** One process's handle on a fleet: the public `Fleet` over the parts that were composed for it. */
export class Gateway implements Fleet {
  readonly parts: GatewayParts
  readonly #sessions: Sessions
  readonly #services: Services
  readonly #closers: (() => Promise<void>)[] = []
  #closing: Promise<void> | undefined

  constructor(
    parts: GatewayParts,
    ring: TokenRing,
    runtime: Pick<FleetRuntime, 'services' | 'archives' | 'onServiceFailure'>,
  ) {
    this.parts = parts
    const { config, topology, clock } = parts
    const { maxClockOffsetMs } = config
    this.#sessions = new Sessions({ fleet: config.fleet, ring, topology, clock, maxClockOffsetMs })
    this.#services = new Services(clock, runtime.onServiceFailure)
    if (runtime.services) startServices(parts, this.#services, runtime.archives)
  }

  /** What is undone after this handle has closed, the last one first. */
  onClose(closer: () => Promise<void>): void {
    this.#closers.unshift(closer)
  }

  async transact<T>(request: TransactRequest, run: (tx: Transaction) => Promise<T>): Promise<TransactOutcome<T>> {
    const { session, credential, ...action } = request
    const before = await this.#sessions.open(session, request.tenant, credential)
    const pending = [...before.shards].flatMap(([shard, { histories }]) =>
      histories.flatMap((history) => history.pending.map(({ transactionId }) => ({ shard, transactionId }))),
    )
    const pendingForgotten = [...before.shards].flatMap(([shard, { histories }]) =>
      histories.some((history) => history.pendingForgotten) ? [shard] : [],
    )
    const known = { observe: before.timestamp, pending, pendingForgotten }
    const committed = await transact(this.parts.environment, { ...action, ...known }, run)
    return {
      value: committed.value,
      transactionId: committed.transactionId,
      commitTimestamp: committed.commitTimestamp,
      session: await this.#sessions.seal(afterCommit(before, committed), request.tenant, credential),
      shards: committed.shards.filter(({ role }) => role !== 'reader').map(({ shard }) => shard),
      replayed: committed.replayed,
    }
  }

  async read<T>(request: ReadRequest, run: (read: Reader) => Promise<T>): Promise<ReadAnswer<T>> {
    const frontier = await this.#sessions.open(request.session, request.tenant, request.credential)
    return this.#answer(request, await read(this.parts.reading, { ...request, frontier }, run))
  }

  async snapshot<T>(request: SnapshotRequest, run: (read: Reader) => Promise<T>): Promise<ReadAnswer<T>> {
    const frontier = await this.#sessions.open(request.session, request.tenant, request.credential)
    return this.#answer(request, await snapshot(this.parts.reading, { ...request, frontier }, run))
  }

  timeline(range: TimelineRange = {}): AsyncIterable<TimelineEntry> {
    return timelineOf(this.parts, range)
  }

  prove(transactionId: string): Promise<Evidence> {
    return prove(evidenceSources(this.parts), parseTransactionId(transactionId))
  }

  transaction(transactionId: string): Promise<TransactionView> {
    return viewTransaction(this.parts.environment, parseTransactionId(transactionId))
  }

  /**
   * Settles what is in doubt on every shard, or only explains what would become of it. Throws `node_unavailable` (safe) when a shard
   * is silent, with what became of the branches of the others.
   */
  async resolve(dryRun: boolean): Promise<readonly InDoubtView[]> {
    const { environment } = this.parts
    return dryRun ? explainInDoubt(environment, resolverLimitsDefault) : resolveShards(environment)
  }

  /**
   * Lets a shard's clock pass the decisions that it refuses for their time, and settles them. Throws `clock_acceptance_refused`
   * (never) where that is not the way out, and `node_unavailable` (safe) where a shard is silent. Safe to repeat: the same actor with the same reason is told what stands.
   */
  async acceptClock(request: AcceptClockRequest): Promise<AcceptClockReport> {
    const { environment } = this.parts
    const shard = request.shard as ShardName
    const accepted = await acceptClockOf(environment, request, (params) => this.#ask('clock.accept', params))
    return { accepted, resolved: await resolveAccepted(environment, shard) }
  }

  /** Every clock that was accepted by hand, the last one first. Throws `node_unavailable` when a shard is silent. */
  acceptances(): Promise<readonly ClockAcceptanceView[]> {
    return acceptanceViews(this.parts.environment)
  }

  /** What every archive holds, and how far it can be restored from without a gap. */
  archives(): Promise<readonly ArchiveReport[]> {
    return this.#ask('archive.status', {})
  }

  /** Reads every archive again and holds it against its checksums. */
  verifyArchives(): Promise<readonly ArchiveVerdict[]> {
    return this.#ask('archive.verify', {})
  }

  /** The reports of restores and drills, oldest first. */
  drills(): Promise<readonly DrillReport[]> {
    return this.#ask('drills', {})
  }

  /** A restore for the sake of its report, which is all that it leaves. Throws what a restore throws, and `drill_gave_way`; safe to repeat. */
  drill(request: DrillRequest = {}): Promise<DrillReport> {
    return this.#ask('drill.run', request, request.onProgress)
  }

  backup(request: BackupRequest = {}): Promise<readonly BackupReport[]> {
    return this.#ask('backup', request, request.onProgress)
  }

  restore(request: RestoreRequest): Promise<RestoreReport> {
    return this.#ask('restore', request, request.onProgress)
  }

  /**
   * Stops the servers of an environment and removes what it holds; its report stays. Throws `environment_held` where the fleet
   * runs on it or a cutover to it is under way. Safe to repeat.
   */
  dropRestore(environment: string): Promise<DropReport> {
    return this.#ask('restore.drop', { environment })
  }

  invariants(request: InvariantsRequest = {}): Promise<readonly InvariantResult[]> {
    return this.#ask('invariants', request)
  }

  cutover(request: CutoverRequest): Promise<CutoverReport> {
    return this.#ask('cutover', request, request.onProgress)
  }

  /** Gives up a cutover that was broken off before it switched anything. Throws `check_failed` when it has begun to. */
  abandonCutover(environment: string): Promise<{ readonly environment: string }> {
    return this.#ask('cutover.abandon', { environment })
  }

  /** Which routes left their region although they were declared local, the last one first. Throws `node_unavailable`. */
  drifts(): Promise<readonly DriftView[]> {
    return driftViews(this.parts)
  }

  /** Has session tokens signed with a new key, and ends no session. Takes some seconds; safe to repeat after any failure. */
  rotateKeys(onProgress?: Progress): Promise<readonly TokenKeyView[]> {
    return this.#ask('keys.rotate', {}, onProgress)
  }

  /**
   * Refuses from now on what a key signed that somebody else may have; when it returns, at every gateway. Those sessions go on
   * without their tokens. Throws `argument_invalid` for a key that is not there. Takes some seconds; safe to repeat after any
   * failure.
   */
  revokeKey(key: number, onProgress?: Progress): Promise<readonly TokenKeyView[]> {
    return this.#ask('keys.revoke', { key }, onProgress)
  }

  /** The keys of session tokens, without their secrets. */
  keys(): Promise<readonly TokenKeyView[]> {
    return this.#ask('keys.list', {})
  }

  async failover(request: FailoverRequest): Promise<FailoverReport> {
    return this.#ask('failover', request, request.onProgress)
  }

  async tenants(): Promise<readonly TenantView[]> {
    return tenantViews(await this.parts.directory.refresh())
  }

  status(): Promise<FleetStatus> {
    return fleetStatus(this.parts)
  }

  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #answer<T>({ tenant, credential }: ReadRequest | SnapshotRequest, answer: Answer<T>): Promise<ReadAnswer<T>> {
    const { value, frontier, served } = answer
    return { value, session: await this.#sessions.seal(frontier, tenant, credential), served }
  }

  /** An operation of the supervisor; what it changed is known here afterwards, unless nobody tells any more: it is done all the same. */
  async #ask<T>(method: string, params: object, onProgress: Progress = silentProgress): Promise<T> {
    const answer = await this.parts.call(method, params, onProgress)
    await this.parts.topology.refresh().catch(() => undefined)
    return answer as T
  }

  async #close(): Promise<void> {
    await this.#services.stop()
    await this.parts.environment.background.drain()
    await this.parts.reading.drifts.close()
    await this.parts.pools.close()
    for (const closer of this.#closers) await closer()
  }
}
