/** The public library: what is described in `docs/reference/` and nothing else. */
export type { Progress, ProgressEvent } from './base/progress.ts'
export type { ErrorCategory, ErrorCode, HoldfastErrorOptions, Retry } from './base/errors.ts'
export { HoldfastError, isHoldfastError } from './base/errors.ts'
export type { Evidence } from './evidence/evidence.ts'
export type { ProofLink, ProofLinkName, ProofStatus } from './evidence/proof-link.ts'
export type { TimelineEntry, TimelinePosition, TimelineRange } from './evidence/timeline.ts'
export { formatTimelinePosition, parseTimelinePosition } from './evidence/timeline-position.ts'
export type { BranchView, TransactionView } from './evidence/transaction-view.ts'
export type { FleetConfigInput } from './fleet/config.ts'
export type { Fleet, OpenFleet, OpenFleetOptions } from './fleet/fleet-api.ts'
export type {
  BackupReport,
  BackupRequest,
  CutoverReport,
  CutoverRequest,
  FailoverReport,
  FailoverRequest,
  FleetStatus,
  Gate,
  InvariantResult,
  InvariantsRequest,
  NodeStatus,
  RestoreReport,
  RestoreRequest,
  ShardStatus,
  TenantView,
} from './fleet/operations-api.ts'
export { openFleet } from './fleet/fleet.ts'
export type { ReadLevel } from './reading/reading.ts'
export type { Declared, Reach } from './reading/routes.ts'
export type { Served } from './reading/served.ts'
export type {
  ReadAnswer,
  Reader,
  ReadRequest,
  SnapshotRequest,
  Transaction,
  TransactOutcome,
  TransactRequest,
} from './fleet/transact-api.ts'
export type { Hlc } from './hlc/hlc.ts'
export { formatHlc, parseHlc } from './hlc/hlc.ts'
export type { AppRequest, AppResponse, AppRoute } from './http/app-route.ts'
export type { BatchStatement, DomainClient, DomainQuery, Isolation, QueryResult } from './transaction/transaction.ts'
