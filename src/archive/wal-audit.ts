import type { Lsn } from '../postgres/lsn.ts'

export interface WalAudit {
  readonly from: Lsn
  /** The end of the last whole record that is reached from `from` without a gap; `from` when there is none. */
  readonly contiguousThrough: Lsn
  /** Where that record starts: the inclusive stop of a restore to the very end. Null when no record was found. */
  readonly lastRecord: Lsn | null
  /** Ranges of whole segments that are not there, although later ones are, or `to` lies behind them. */
  readonly gaps: readonly WalGap[]
  readonly checksumFailures: readonly ChecksumFailure[]
}

export interface WalGap {
  readonly timeline: number
  readonly from: Lsn
  readonly to: Lsn
}

export interface ChecksumFailure {
  readonly segment: string
  readonly reason: string
}
