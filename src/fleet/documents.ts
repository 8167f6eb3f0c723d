import type { Evidence } from '../evidence/evidence.ts'
import type { TimelineEntry } from '../evidence/timeline.ts'
import type { BranchView, TransactionView } from '../evidence/transaction-view.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { formatHlc } from '../hlc/hlc.ts'
import type { FleetStatus, ShardStatus } from './operations-api.ts'

/** Answers as they leave the process, over HTTP and from commands alike: timestamps in text form. */

type InText<T, Key extends keyof T> = Omit<T, Key> & { readonly [K in Key]: Hlc extends T[K] ? TextOf<T[K]> : never }
type TextOf<T> = null extends T ? string | null : string

export type TimelineDocument = InText<TimelineEntry, 'commitTimestamp'>
export type EvidenceDocument = InText<Evidence, 'commitTimestamp'>
export type TransactionDocument = InText<Omit<TransactionView, 'branches'>, 'commitTimestamp'> & {
  readonly branches: readonly InText<BranchView, 'prepareTimestamp'>[]
}
export type StatusDocument = Omit<FleetStatus, 'shards'> & {
  readonly shards: readonly InText<ShardStatus, 'closedTimestamp'>[]
}

export function timelineDocument(entry: TimelineEntry): TimelineDocument {
  return { ...entry, commitTimestamp: formatHlc(entry.commitTimestamp) }
}

export function evidenceDocument(evidence: Evidence): EvidenceDocument {
  return { ...evidence, commitTimestamp: textOf(evidence.commitTimestamp) }
}

export function transactionDocument(view: TransactionView): TransactionDocument {
  const branches = view.branches.map((branch) => ({ ...branch, prepareTimestamp: textOf(branch.prepareTimestamp) }))
  return { ...view, commitTimestamp: textOf(view.commitTimestamp), branches }
}

export function statusDocument(status: FleetStatus): StatusDocument {
  const shards = status.shards.map((shard) => ({ ...shard, closedTimestamp: textOf(shard.closedTimestamp) }))
  return { ...status, shards }
}

function textOf(timestamp: Hlc | null): string | null {
  return timestamp === null ? null : formatHlc(timestamp)
}
