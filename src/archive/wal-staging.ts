import type { Lsn } from '../postgres/lsn.ts'

export interface StagedWal {
  readonly segments: number
  readonly bytes: number
  /** The end of the last whole record in the folder. */
  readonly through: Lsn
}
